"""The GPT: first the network, then what makes it fast: its loss in chunks, the KV cache, sampling.

GPT-2's architecture (Radford et al. 2019), with nanoGPT's switches for biases and dropout, so that
published parameter counts come out exactly. Shapes: B sequences in a batch, T tokens in each,
C = n_embd the embedding dimension, H heads of D = C / H, V ids in the vocabulary.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn as nn
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from configurator import RangedSettings, UserError
from tinystories.ranges import Count, FractionBelow1

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

    def __post_init__(self):
        super().__post_init__()
        if self.n_embd % self.n_head:
            raise UserError(f"n_embd={self.n_embd} is not divisible by n_head={self.n_head}")

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the token embedding: GPUs multiply fastest in multiples of 64 (as in nanoGPT)."""
        return -(-self.vocab_size // 64) * 64


class SelfAttention(nn.Module):
    """Causal self-attention over H heads."""

    def __init__(self, config: GPTConfig, layer: int):
        super().__init__()
        self.layer, self.n_head, self.dropout = layer, config.n_head, config.dropout
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd, bias=config.bias)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd, bias=config.bias)
        self.resid_dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, cache: "KVCache | None" = None) -> Tensor:
        B, T, C = x.shape
        qkv = self.c_attn(x).view(B, T, 3, self.n_head, C // self.n_head)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind()  # (B, H, T, D) each
        if cache is not None:
            k, v = cache.extend(self.layer, k, v)
        attend = partial(
            F.scaled_dot_product_attention,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=T > 1,  # a single new token sees all tokens before it
        )
        if self.training and self.dropout and x.device.type == "cpu":
            # On a CPU, dropout inside attention saves several (B, H, T, T) tensors for backward.
            # Recomputing them (activation checkpointing) keeps only one layer's at a time.
            y = checkpoint(attend, q, k, v, use_reentrant=False)
        else:
            y = attend(q, k, v)
        y = y.transpose(1, 2).reshape(B, T, C)
        return self.resid_dropout(self.c_proj(y))


class MLP(nn.Module):
    """Two linear layers with a GELU between them, four times as wide inside."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd, bias=config.bias)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd, bias=config.bias)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.c_proj(F.gelu(self.c_fc(x))))


class Block(nn.Module):
    """One layer: attention, then MLP, each added to the residual stream."""

    def __init__(self, config: GPTConfig, layer: int):
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.attn = SelfAttention(config, layer)
        self.ln_2 = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, cache: "KVCache | None" = None) -> Tensor:
        x = x + self.attn(self.ln_1(x), cache)
        return x + self.mlp(self.ln_2(x))


class GPT(nn.Module):
    """A decoder-only transformer whose token embedding is also its output head."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.padded_vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.block_size, config.n_embd)
        self.drop = nn.Dropout(config.dropout)
        self.h = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, bias=config.bias)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.dim() == 2:
                # GPT-2's standard deviation; what is added to the residual stream is scaled by
                # 1/sqrt(2L) (section 2.3).
                residual = name.endswith("c_proj.weight")
                std = 0.02 / math.sqrt(2 * config.n_layer) if residual else 0.02
                nn.init.normal_(parameter, std=std)

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
        positions = torch.arange(past, past + T, device=idx.device)
        x = self.drop(self.wte(idx) + self.wpe(positions))
        for block in self.h:
            x = block(x, cache)
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

    def param_groups(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """Matrices, which weight decay applies to, and vectors (biases, LayerNorms)."""
        parameters = list(self.parameters())
        return [p for p in parameters if p.dim() >= 2], [p for p in parameters if p.dim() < 2]

    def matmul_weights(self) -> list[Tensor]:
        """The matrices that activations are multiplied with: linear layers and output head."""
        layers = (*(m for m in self.modules() if isinstance(m, nn.Linear)), self.wte)
        return [layer.weight for layer in layers]

    def count_parameters(self) -> int:
        """Parameters without the position embedding, as nanoGPT counts them."""
        return sum(p.numel() for p in self.parameters()) - self.wpe.weight.numel()

    def flops_per_token(self) -> int:
        """Floating-point operations to train on one token: 6N + 12·L·C·T.

        From PaLM (Chowdhery et al. 2022), appendix B: forward and backward take 6 per parameter,
        and attention over T tokens 12·T per layer and channel.
        """
        c = self.config
        return 6 * self.count_parameters() + 12 * c.n_layer * c.n_embd * c.block_size

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
        cache, next_input = KVCache(self.config), idx
        seen = torch.zeros(len(idx), self.config.vocab_size, dtype=torch.bool, device=idx.device)
        seen.scatter_(1, idx, True)
        if eot_id is not None:
            seen[:, eot_id] = False  # it precedes every story, and must not be penalized at its end
        finished = torch.zeros(len(idx), dtype=torch.bool, device=idx.device)
        for _ in range(max_new_tokens):
            if cache.length + next_input.shape[1] > window:
                cache, next_input = KVCache(self.config), idx[:, -max(1, window // 2) :]
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


# What makes it fast -------------------------------------------------------------------------

LOSS_CHUNK_TOKENS = 512  # tokens whose logits are in memory at a time; docs/speed.md says why 512


class ChunkedCrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of the output head, without ever holding all its logits.

    The logits of 64 x 256 tokens over 50,304 ids would fill 3.3 GB in float32. So the head takes
    LOSS_CHUNK_TOKENS tokens at a time and computes their gradient at once, while their logits are
    still there: the gradient of cross-entropy is softmax(logits) - onehot(target).
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, targets: Tensor, vocab_size: int) -> Tensor:
        """x (N, C), weight (padded V, C), targets (N,) with -1 where there is none -> ()."""
        device_type = x.device.type
        if torch.is_autocast_enabled(device_type):
            x = x.to(torch.get_autocast_dtype(device_type))
        w = weight.to(x.dtype)
        needs_grad = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        mask = (targets >= 0)[:, None]
        count = mask.sum().clamp(min=1)
        total = torch.zeros((), device=x.device)
        # Reuse the same buffers for every chunk: the OS would have to zero newly allocated pages.
        logits = x.new_empty(min(len(x), LOSS_CHUNK_TOKENS), len(w))
        probs = torch.empty_like(logits, dtype=torch.float32)
        if needs_grad:
            grad_x, grad_weight = torch.empty_like(x), torch.zeros_like(weight)
            grad_weight_chunk = torch.empty_like(w)
        for start in range(0, len(x), LOSS_CHUNK_TOKENS):
            chunk = slice(start, start + LOSS_CHUNK_TOKENS)
            rows, target = x[chunk], targets[chunk, None].clamp(min=0)
            logits, probs = logits[: len(rows)], probs[: len(rows)]
            probs.copy_(torch.mm(rows, w.T, out=logits))
            probs[:, vocab_size:] = -math.inf  # padding is not an id
            torch.softmax(probs, 1, out=probs)
            # Clamped to e^-87: a loss above 87 nats would be infinite otherwise.
            target_probs = probs.gather(1, target).clamp(min=torch.finfo(torch.float32).tiny)
            total -= (target_probs.log() * mask[chunk]).sum()
            if needs_grad:
                probs.scatter_add_(1, target, -torch.ones_like(target_probs))
                grad_logits = logits.copy_(probs)
                grad_x[chunk] = (grad_logits @ w) * mask[chunk]
                grad_weight += torch.mm(grad_logits.T, rows * mask[chunk], out=grad_weight_chunk)
        if needs_grad:
            ctx.save_for_backward(grad_x, grad_weight, count)
        return total / count

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple:
        grad_x, grad_weight, count = ctx.saved_tensors
        # Divide by count only here: `grad` already has GradScaler's factor, so that small numbers
        # do not underflow in float16.
        grad = grad / count
        return (grad_x.float() * grad).to(grad_x.dtype), grad_weight * grad, None, None


class KVCache:
    """Keys and values of the tokens that the model has read, so that each is read only once.

    One tensor of shape (2, B, H, block_size, D) per layer. Keys are stored as attention uses them.
    """

    def __init__(self, config: GPTConfig):
        self.config = config
        self.layers: dict[int, Tensor] = {}
        self.length = 0  # tokens read

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
    if temperature == 0:
        return logits.argmax(1)
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
