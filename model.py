"""The GPT: first the network, then how it generates: the KV cache, and sampling.

Two architectures. arch="gpt2" is GPT-2's (Radford et al. 2019), with nanoGPT's switches for biases
and dropout, so that published parameter counts come out exactly. arch="qwen3" is a block of today,
the one that transformers calls Qwen3ForCausalLM, so that a trained model can be exported:

              normalization  positions       MLP     attention
    gpt2      LayerNorm      learned table   GELU
    qwen3     RMSNorm        rotary (RoPE)   SwiGLU  queries and keys normalized per head

Shapes: B sequences in a batch, T tokens in each, C = n_embd the embedding dimension, H heads of
width D (C / H unless head_dim says otherwise), V ids in the vocabulary.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
import torch.nn as nn
from torch import Tensor
from torch.nn import functional as F

from configurator import RangedSettings, UserError
from tinystories.kernels import ChunkedCrossEntropy, attention
from tinystories.ranges import Count, FractionBelow1, Positive

# The network --------------------------------------------------------------------------------


@dataclass(frozen=True)
class GPTConfig(RangedSettings):
    """The shape of a GPT; raises UserError for a shape that no network can have."""

    vocab_size: Count = 50257  # ids that exist
    block_size: Count = 256  # tokens in the context window
    n_layer: Count = 6
    n_head: Count = 6
    n_embd: Count = 384
    dropout: FractionBelow1 = 0.0
    bias: bool = False  # in the linear layers and LayerNorms, as GPT-2 has them
    arch: Literal["gpt2", "qwen3"] = "gpt2"
    head_dim: Count | None = None  # None: n_embd / n_head
    rope_theta: Positive = 10_000.0
    attention_window: Count | None = None  # every second layer sees only so many last tokens
    story_mask: bool = False  # a token sees its own story only
    gelu: Literal["erf", "tanh"] = "erf"  # of gpt2: exact, or approximated as in OpenAI's weights

    def __post_init__(self):
        super().__post_init__()
        if self.head_dim is None and self.n_embd % self.n_head:
            raise UserError(f"n_embd={self.n_embd} is not divisible by n_head={self.n_head}")
        if self.arch == "gpt2" and self.head_width * self.n_head != self.n_embd:
            raise UserError(f"head_dim={self.head_dim} is not n_embd / n_head; use --arch=qwen3")
        if self.arch == "qwen3" and self.head_width % 2:
            raise UserError(f"heads of {self.head_width} cannot be rotated (RoPE); use an even one")
        if self.arch == "qwen3" and self.bias:
            raise UserError("arch=qwen3 has no biases; leave out --bias")
        if self.arch == "qwen3" and self.gelu != "erf":
            raise UserError("arch=qwen3 has no GELU; leave out --gelu")
        if self.attention_window and self.attention_window > self.block_size:
            raise UserError(
                f"attention_window={self.attention_window} is longer than "
                f"block_size={self.block_size}"
            )

    @property
    def head_width(self) -> int:
        """D, the dimension of a head."""
        return self.head_dim or self.n_embd // self.n_head

    @property
    def mlp_width(self) -> int:
        """Hidden units of the MLP: 4C; for SwiGLU's three matrices 8C / 3, rounded up to 32s."""
        return 4 * self.n_embd if self.arch == "gpt2" else 32 * -(-self.n_embd // 12)

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the token embedding: GPUs multiply fastest in multiples of 64 (as in nanoGPT)."""
        return -(-self.vocab_size // 64) * 64


class View(NamedTuple):
    """What attention knows of the tokens beside their vectors."""

    masks: tuple[Tensor | None, Tensor | None]  # of full and of windowed layers; None: causal
    rotation: tuple[Tensor, Tensor] | None  # RoPE's cos and sin, (1 or B, 1, T, D / 2)
    cache: "KVCache | None"


def norm(config: GPTConfig, width: int | None = None) -> nn.Module:
    """The normalization over the last dimension, n_embd or `width`."""
    if config.arch == "gpt2":
        return nn.LayerNorm(width or config.n_embd, bias=config.bias)
    return nn.RMSNorm(width or config.n_embd, eps=1e-6)


class SelfAttention(nn.Module):
    """Causal self-attention over H heads."""

    def __init__(self, config: GPTConfig, layer: int):
        super().__init__()
        self.layer, self.n_head, self.dropout = layer, config.n_head, config.dropout
        self.window = config.attention_window if layer % 2 else None
        width = config.n_head * config.head_width
        self.c_attn = nn.Linear(config.n_embd, 3 * width, bias=config.bias)
        self.c_proj = nn.Linear(width, config.n_embd, bias=config.bias)
        self.resid_dropout = nn.Dropout(config.dropout)
        if config.arch == "qwen3":
            self.q_norm, self.k_norm = (norm(config, config.head_width) for _ in range(2))

    def forward(self, x: Tensor, view: View) -> Tensor:
        B, T, _ = x.shape
        qkv = self.c_attn(x).view(B, T, 3, self.n_head, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind()  # (B, H, T, D) each
        if view.rotation:
            q = rotate(self.q_norm(q.float()), *view.rotation).to(v.dtype)
            k = rotate(self.k_norm(k.float()), *view.rotation).to(v.dtype)
        if view.cache is not None:
            k, v = view.cache.extend(self.layer, k, v)
        mask = view.masks[self.window is not None]
        y = attention(q, k, v, mask, self.dropout if self.training else 0.0)
        y = y.transpose(1, 2).reshape(B, T, -1)
        return self.resid_dropout(self.c_proj(y))


def rotary_angles(positions: Tensor, config: GPTConfig) -> tuple[Tensor, Tensor]:
    """cos and sin of position x frequency in float32, (1 or B, 1, T, D / 2).

    The frequencies fall from 1 to almost 1 / rope_theta.
    """
    exponents = torch.arange(0, config.head_width, 2, device=positions.device) / config.head_width
    angles = positions[..., None] * config.rope_theta**-exponents
    angles = angles.view(-1, 1, *angles.shape[-2:])
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding (Su et al. 2021) of queries or keys (B, H, T, D).

    Dimensions i and i + D / 2 are a point in the plane, which is turned by its angle.
    """
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


class MLP(nn.Module):
    """Two linear layers with a GELU between them, or SwiGLU (Shazeer 2020): silu(gate) * up."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.gated = config.arch == "qwen3"
        self.approximate = "tanh" if config.gelu == "tanh" else "none"
        inputs = (1 + self.gated) * config.mlp_width
        self.c_fc = nn.Linear(config.n_embd, inputs, bias=config.bias)
        self.c_proj = nn.Linear(config.mlp_width, config.n_embd, bias=config.bias)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = self.c_fc(x)
        if self.gated:
            gate, up = x.chunk(2, dim=-1)
            x = F.silu(gate) * up
        else:
            x = F.gelu(x, approximate=self.approximate)
        return self.dropout(self.c_proj(x))


class Block(nn.Module):
    """One layer: attention, then MLP, each added to the residual stream."""

    def __init__(self, config: GPTConfig, layer: int):
        super().__init__()
        self.ln_1 = norm(config)
        self.attn = SelfAttention(config, layer)
        self.ln_2 = norm(config)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, view: View) -> Tensor:
        x = x + self.attn(self.ln_1(x), view)
        return x + self.mlp(self.ln_2(x))


class LanguageModel(nn.Module):
    """What generates: forward(idx, cache=) gives logits; config has block_size and vocab_size."""

    config: Any
    new_cache: Callable[[], Any]  # an empty cache for forward; its `length` counts its tokens
    matmul_weights: Callable[[], list[Tensor]]
    count_parameters: Callable[[], int]

    @torch.inference_mode()
    def generate(
        self,
        idx: Tensor,
        max_new_tokens: int,
        eot_id: int | None = None,
        generator: torch.Generator | None = None,
        repetition_penalty: float = 1.0,
        **sampling,
    ) -> Iterator[Tensor]:
        """Continue B prompts of equal length, token by token.

        The prompt is read once, then each new token alone, through a KV cache. When the context
        window is full, generation restarts from its last block_size // 2 tokens with a new cache:
        the cached keys and values belong to absolute positions, which cannot be shifted. Of a
        prompt longer than block_size, too, only the last block_size // 2 ids are read.

        Args:
            idx: ids of the prompts, shape (B, T), T at least 1.
            eot_id: the id that ends a sequence. Finished rows are padded with it, and generation
                stops when all rows are finished. None: never stop early.
            generator: random number generator, on the device of idx.
            repetition_penalty: divides (or, below zero, multiplies) the logits of ids that are in
                the text already (Keskar et al. 2019, section 4.1).
            sampling: as `sample_next_token` takes it.

        Yields:
            the next id of every row, shape (B,).
        """
        window = self.config.block_size
        cache, next_input = self.new_cache(), idx
        seen = torch.zeros(len(idx), self.config.vocab_size, dtype=torch.bool, device=idx.device)
        seen.scatter_(1, idx, True)
        if eot_id is not None:
            seen[:, eot_id] = False  # it precedes every story, and must not be penalized at its end
        finished = torch.zeros(len(idx), dtype=torch.bool, device=idx.device)
        for _ in range(max_new_tokens):
            if cache.length + next_input.shape[1] > window:
                cache, next_input = self.new_cache(), idx[:, -max(1, window // 2) :]
            logits = self(next_input, cache=cache)[:, -1].float()
            if repetition_penalty != 1:
                scaled = torch.where(
                    logits > 0, logits / repetition_penalty, logits * repetition_penalty
                )
                logits = torch.where(seen, scaled, logits)
            new = sample_next_token(logits, generator=generator, **sampling)
            if eot_id is not None:
                new = torch.where(finished, eot_id, new)
                finished = finished | (new == eot_id)
            yield new
            if eot_id is not None and finished.all():
                return
            next_input = new[:, None]
            seen.scatter_(1, next_input, True)
            idx = torch.cat([idx[:, -window:], next_input], dim=1)


class GPT(LanguageModel):
    """A decoder-only transformer whose token embedding is also its output head."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.padded_vocab_size, config.n_embd)
        if config.arch == "gpt2":
            self.wpe = nn.Embedding(config.block_size, config.n_embd)
        self.drop = nn.Dropout(config.dropout)
        self.h = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.ln_f = norm(config)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.dim() == 2:
                # GPT-2's standard deviation; what is added to the residual stream is scaled by
                # 1/sqrt(2L) (section 2.3), or begins at zero: then every block starts as identity.
                residual = name.endswith("c_proj.weight")
                scale = 1 / math.sqrt(2 * config.n_layer) if config.arch == "gpt2" else 0.0
                nn.init.normal_(parameter, std=0.02 * scale if residual else 0.02)

    def forward(
        self, idx: Tensor, targets: Tensor | None = None, cache: "KVCache | None" = None
    ) -> Tensor:
        """Read tokens.

        Args:
            idx: ids, shape (B, T), T at most block_size.
            targets: the ids that should follow, shape (B, T); -1 where there is none.
            cache: keys and values of the preceding tokens; empty (prefill), or T is 1 (decode).

        Returns:
            with targets the mean loss in nats per token, a scalar; without, the logits of the
            ids that follow, shape (B, T, V).

        Raises:
            ValueError: more tokens than block_size, or T > 1 with a cache that is not empty.
        """
        T, past = idx.shape[1], cache.length if cache else 0
        if past + T > self.config.block_size or (past and T > 1):
            size = self.config.block_size
            raise ValueError(f"{T} tokens after {past} in the cache, with block_size={size}")
        positions, masks = self.positions_and_masks(idx, cache)
        x, rotation = self.wte(idx).float(), None  # the residual stream is in float32
        if self.config.arch == "gpt2":
            x = x + self.wpe(positions)
        else:
            rotation = rotary_angles(positions, self.config)
        x = self.drop(x)
        for block in self.h:
            x = block(x, View(masks, rotation, cache))
        x = self.ln_f(x)
        if cache is not None:
            cache.length += T
        if targets is None:
            return F.linear(x, self.wte.weight)[..., : self.config.vocab_size]
        # A parameter seems to need its gradient even under no_grad: detach it, to compute none.
        weight = self.wte.weight if torch.is_grad_enabled() else self.wte.weight.detach()
        return ChunkedCrossEntropy.apply(
            x.flatten(0, 1), weight, targets.flatten(), self.config.vocab_size
        )

    def positions_and_masks(
        self, idx: Tensor, cache: "KVCache | None"
    ) -> tuple[Tensor, tuple[Tensor | None, Tensor | None]]:
        """Where each token is, and what it sees.

        Returns:
            positions, (T,) or with story_mask (B, T), counted from the first token of the story;
            the masks of `View`: booleans that broadcast to (B, H, T, past + T).
        """
        T, past, window = idx.shape[1], cache.length if cache else 0, self.config.attention_window
        keys = torch.arange(past + T, device=idx.device)
        positions = queries = keys[past:]
        full = None
        if self.config.story_mask:
            # End of text, the last id, comes before each story, and is its first token.
            begins = torch.where(idx == self.config.vocab_size - 1, queries, 0)
            if cache is not None and cache.story_start is not None:
                begins[:, 0] = begins[:, 0].maximum(cache.story_start)
            starts = begins.cummax(dim=1).values
            if cache is not None:
                cache.story_start = starts[:, -1]
            positions = queries - starts
            full = (keys >= starts[..., None]) & (keys <= queries[:, None])
            full = full[:, None]
        if window is None or past + T <= window:
            return positions, (full, full)
        near = (keys > queries[:, None] - window) & (keys <= queries[:, None])
        return positions, (full, near if full is None else near & full)

    def new_cache(self) -> "KVCache":
        return KVCache(self.config)

    def param_groups(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """Matrices, which weight decay applies to, and vectors (biases, LayerNorms)."""
        parameters = list(self.parameters())
        return [p for p in parameters if p.dim() >= 2], [p for p in parameters if p.dim() < 2]

    def matmul_weights(self) -> list[Tensor]:
        """The matrices that activations are multiplied with: linear layers and output head."""
        layers = (*(m for m in self.modules() if isinstance(m, nn.Linear)), self.wte)
        return [layer.weight for layer in layers]

    def block_matrices(self) -> list[tuple[nn.Parameter, int]]:
        """The matrices inside blocks, each with how many lie in it for Muon, one below the other.

        Queries, keys and values of each head count as matrices of their own, and so do 64 rows of
        the MLP's first one: that learns faster (measured with SwiGLU) and costs less.
        """
        rows = {"attn.c_attn.weight": self.config.head_width, "mlp.c_fc.weight": 64}
        named = [(n.partition(".")[2], p) for n, p in self.h.named_parameters() if p.dim() == 2]
        return [(p, len(p) // math.gcd(len(p), rows.get(name, len(p)))) for name, p in named]

    def count_parameters(self) -> int:
        """Parameters without the position embedding, as nanoGPT counts them."""
        wpe = self.wpe.weight.numel() if self.config.arch == "gpt2" else 0
        return sum(p.numel() for p in self.parameters()) - wpe

    def flops_per_token(self) -> int:
        """Floating-point operations to train on one token: 6N + 12·H·D·(tokens seen, all layers).

        From PaLM (Chowdhery et al. 2022), appendix B: forward and backward take 6 per parameter,
        and attention 12 per channel and token of the block, or of the attention window.
        """
        c = self.config
        windowed = c.n_layer // 2 if c.attention_window else 0
        seen = (c.n_layer - windowed) * c.block_size + windowed * (c.attention_window or 0)
        return 6 * self.count_parameters() + 12 * c.n_head * c.head_width * seen


# Generation ---------------------------------------------------------------------------------


class KVCache:
    """Keys and values of the tokens that the model has read, so that each is read only once.

    One tensor of shape (2, B, H, block_size, D) per layer. Keys are stored as attention uses them.
    """

    def __init__(self, config: GPTConfig):
        self.config = config
        self.layers: dict[int, Tensor] = {}
        self.length = 0  # tokens read
        self.story_start: Tensor | None = None  # with story_mask: of each row's last story, (B,)

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store keys and values of T new tokens, (B, H, T, D) each, after the first `length` ones.

        Returns those of all tokens; GPT.forward advances `length` when all layers have stored.
        """
        B, H, T, D = k.shape
        if layer not in self.layers:
            self.layers[layer] = k.new_empty(2, B, H, self.config.block_size, D)
        new = self.layers[layer].narrow(3, self.length, T)
        new[0].copy_(k)
        new[1].copy_(v)
        both = self.layers[layer].narrow(3, 0, self.length + T)
        return both[0], both[1]


def sample_next_token(
    logits: Tensor,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Sample one id from each row of logits (B, V); returns (B,).

    Args:
        temperature: below 1 sharpens the distribution, above 1 flattens it; 0 is greedy.
        top_k: only the k most probable ids.
        top_p: nucleus sampling: only the smallest set of most probable ids that together have this
            probability (Holtzman et al. 2020).
        min_p: only ids at least this many times as probable as the most probable one (Nguyen et
            al. 2024).
    """
    if temperature < 1e-6:  # dividing by it could overflow
        return logits.argmax(1).masked_fill(logits.isnan().any(1), logits.shape[1])  # as below
    logits = logits / temperature
    if top_k is not None and top_k < logits.shape[1]:
        kth = logits.topk(top_k).values[:, -1:]
        logits = logits.masked_fill(logits < kth, -math.inf)
    if top_p is not None and top_p < 1:
        sorted_logits, indices = logits.sort(descending=True)
        probs = sorted_logits.softmax(1)
        outside = probs.cumsum(1) - probs >= top_p  # more probable ids reach top_p without it
        logits = logits.masked_fill(outside.scatter(1, indices, outside), -math.inf)
    if min_p is not None:
        probs = logits.softmax(1)
        logits = logits.masked_fill(probs < min_p * probs.amax(1, keepdim=True), -math.inf)
    # Inverse-CDF sampling: draw u in [0, total), take the first id whose cumulative probability
    # exceeds u. On a CPU 8 to 27 times as fast as torch.multinomial (docs/speed.md).
    cdf = logits.softmax(1).cumsum(1)
    total = cdf[:, -1:]
    u = torch.rand(total.shape, generator=generator, device=logits.device) * total
    u = torch.minimum(u, total.nextafter(torch.zeros_like(total)))  # rounding could make it total
    return torch.searchsorted(cdf, u, right=True)[:, 0]
