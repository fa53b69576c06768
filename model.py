"""The GPT: the network, its loss, and the generation of ids.

GPT-2's shape (Radford et al. 2019), with nanoGPT's switches for biases and dropout, so that
published parameter counts come out exactly. Shapes: B stories in a batch, T tokens in a window,
C = n_embd channels, H heads of D = C / H channels, V ids in the vocabulary.
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

from configurator import UserError

HEAD_ROWS = 512  # rows of logits that the loss holds at a time


@dataclass(frozen=True)
class GPTConfig:
    """The shape of a GPT.

    Raises:
        UserError: a shape that no network can have.
    """

    vocab_size: int = 50257  # ids that exist; the tables are padded to a multiple of 64
    block_size: int = 256  # longest window of tokens
    n_layer: int = 6
    n_head: int = 6
    n_embd: int = 384
    dropout: float = 0.0
    bias: bool = False  # biases in the linear layers and LayerNorms, as GPT-2 has them

    def __post_init__(self):
        for name in ("vocab_size", "block_size", "n_layer", "n_head", "n_embd"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.n_embd % self.n_head:
            raise UserError(
                f"n_embd={self.n_embd} is not divisible by n_head={self.n_head}; "
                "every head needs the same number of channels"
            )
        if not 0 <= self.dropout < 1:
            raise UserError(f"dropout is {self.dropout}; it must lie in 0 to 1, without 1")

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the token table: matrix products run best over a multiple of 64."""
        return -(-self.vocab_size // 64) * 64


class KVCache:
    """Keys and values of the tokens that a network has already read, for generation.

    Those of a layer lie in one tensor of shape (2, B, H, block_size, D).
    """

    def __init__(self, config: GPTConfig):
        self.config = config
        self.layers = [None] * config.n_layer
        self.length = 0  # tokens read

    def extend(self, layer: int, kv: Tensor) -> Tensor:
        """Add the keys and values of T new tokens, (2, B, H, T, D); returns those of all so far."""
        _, B, H, T, D = kv.shape
        if self.layers[layer] is None:
            self.layers[layer] = kv.new_empty(2, B, H, self.config.block_size, D)
        self.layers[layer].narrow(3, self.length, T).copy_(kv)
        return self.layers[layer].narrow(3, 0, self.length + T)


class SelfAttention(nn.Module):
    """Causal self-attention over H heads."""

    def __init__(self, config: GPTConfig, layer: int):
        super().__init__()
        self.layer, self.n_head, self.dropout = layer, config.n_head, config.dropout
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd, bias=config.bias)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd, bias=config.bias)
        self.resid_dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, cache: KVCache | None = None) -> Tensor:
        B, T, C = x.shape
        qkv = self.c_attn(x).view(B, T, 3, self.n_head, C // self.n_head)
        q, k, v = (part.transpose(1, 2) for part in qkv.unbind(2))  # (B, H, T, D) each
        if cache is not None:
            k, v = cache.extend(self.layer, qkv[:, :, 1:].permute(2, 0, 3, 1, 4)).unbind()
        attend = partial(
            F.scaled_dot_product_attention,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=T > 1,  # a single new token looks at all the tokens before it
        )
        if self.training and self.dropout and x.device.type == "cpu":
            # There a dropout keeps several (B, H, T, T) for backward; made anew, those of one
            # layer at a time suffice.
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

    def forward(self, x: Tensor, cache: KVCache | None = None) -> Tensor:
        x = x + self.attn(self.ln_1(x), cache)
        return x + self.mlp(self.ln_2(x))


class HeadLoss(torch.autograd.Function):
    """Mean cross-entropy of the output head, without ever holding all its logits.

    The logits of 64 x 256 tokens over 50,304 ids would fill 3.3 GB in float32. So the head runs
    over HEAD_ROWS tokens at a time and takes each piece's gradient at once, when its logits are
    still there: the gradient of cross-entropy is softmax(logits) - onehot(target).
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, targets: Tensor, vocab_size: int) -> Tensor:
        """x (N, C), weight (padded V, C), targets (N,) with -1 where there is none -> ()."""
        device_type = x.device.type
        if torch.is_autocast_enabled(device_type):
            x = x.to(torch.get_autocast_dtype(device_type))
        w = weight.to(x.dtype)
        learning = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        real = (targets >= 0)[:, None]
        count = real.sum().clamp(min=1)
        total = torch.zeros((), device=x.device)
        # The same memory for every piece: new pages would have to be zeroed by the system first.
        products = x.new_empty(min(len(x), HEAD_ROWS), len(w))
        chances = torch.empty_like(products, dtype=torch.float32)
        if learning:
            grad_x, grad_weight = torch.empty_like(x), torch.zeros_like(weight)
            addend = torch.empty_like(w)
        for start in range(0, len(x), HEAD_ROWS):
            piece = slice(start, start + HEAD_ROWS)
            rows, target = x[piece], targets[piece, None].clamp(min=0)
            products, chances = products[: len(rows)], chances[: len(rows)]
            chances.copy_(torch.mm(rows, w.T, out=products))
            chances[:, vocab_size:] = -math.inf  # padding is no id
            torch.softmax(chances, 1, out=chances)
            # Floored at e^-87: a loss beyond 87 nats would be infinite otherwise.
            at_target = chances.gather(1, target).clamp(min=torch.finfo(torch.float32).tiny)
            total -= (at_target.log() * real[piece]).sum()
            if learning:
                chances.scatter_add_(1, target, -torch.ones_like(at_target))
                slope = products.copy_(chances)
                grad_x[piece] = (slope @ w) * real[piece]
                grad_weight += torch.mm(slope.T, rows * real[piece], out=addend)
        if learning:
            ctx.save_for_backward(grad_x, grad_weight, count)
        return total / count

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple:
        grad_x, grad_weight, count = ctx.saved_tensors
        grad = grad / count  # only here, where the loss is scaled: float16 would lose small slopes
        return (grad_x.float() * grad).to(grad_x.dtype), grad_weight * grad, None, None


class GPT(nn.Module):
    """A decoder-only transformer whose token table is also its output head."""

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
                # GPT-2 (section 2.3) scales what is added to the residual stream by 1/sqrt(2L).
                residual = name.endswith("c_proj.weight")
                std = 0.02 / math.sqrt(2 * config.n_layer) if residual else 0.02
                nn.init.normal_(parameter, std=std)

    def forward(
        self, idx: Tensor, targets: Tensor | None = None, cache: KVCache | None = None
    ) -> Tensor:
        """Read tokens.

        Args:
            idx: ids, shape (B, T), T at most block_size.
            targets: the ids that should follow, shape (B, T); -1 where none is asked for.
            cache: tokens read before, which idx follows: either empty, or T is 1.

        Returns:
            with targets the mean loss in nats per token, a scalar; without, the logits of the
            ids that follow, shape (B, T, V).

        Raises:
            ValueError: more tokens than the window holds.
        """
        T, past = idx.shape[1], cache.length if cache else 0
        if past + T > self.config.block_size or (past and T > 1):
            raise ValueError(f"{past} + {T} tokens do not fit block_size={self.config.block_size}")
        positions = torch.arange(past, past + T, device=idx.device)
        x = self.drop(self.wte(idx) + self.wpe(positions))
        for block in self.h:
            x = block(x, cache)
        x = self.ln_f(x)
        if cache is not None:
            cache.length += T
        if targets is None:
            return F.linear(x, self.wte.weight)[..., : self.config.vocab_size]
        # HeadLoss sees whether its inputs want gradients, but not that no_grad wants none.
        weight = self.wte.weight if torch.is_grad_enabled() else self.wte.weight.detach()
        return HeadLoss.apply(x.flatten(0, 1), weight, targets.flatten(), self.config.vocab_size)

    @torch.inference_mode()
    def generate(
        self,
        idx: Tensor,
        max_new_tokens: int,
        end_of_text: int | None = None,
        generator: torch.Generator | None = None,
        repetition_penalty: float = 1.0,
        **sampling,
    ) -> Iterator[Tensor]:
        """Continue B beginnings of equal length, token by token.

        The beginning is read once, then every new token alone, through a KV cache. When the
        window is full it begins anew from its last block_size // 2 tokens.

        Args:
            idx: ids of the beginnings, shape (B, T), T at least 1.
            end_of_text: a row that has reached this id repeats it; all rows there end the
                generation. None never stops.
            generator: source of chance, on the device of idx.
            repetition_penalty: divides (or, below zero, multiplies) the logits of ids that stand
                in the text already (Keskar et al. 2019, section 4.1).
            sampling: as `sample_ids` takes it.

        Yields:
            the next id of every row, shape (B,).
        """
        window = self.config.block_size
        cache, unread = KVCache(self.config), idx
        seen = torch.zeros(len(idx), self.config.vocab_size, dtype=torch.bool, device=idx.device)
        seen.scatter_(1, idx, True)
        if end_of_text is not None:
            seen[:, end_of_text] = False  # it begins every story, and must be free to end it
        ended = torch.zeros(len(idx), dtype=torch.bool, device=idx.device)
        for _ in range(max_new_tokens):
            if cache.length + unread.shape[1] > window:
                cache, unread = KVCache(self.config), idx[:, -max(1, window // 2) :]
            logits = self(unread, cache=cache)[:, -1].float()
            if repetition_penalty != 1:
                scaled = torch.where(
                    logits > 0, logits / repetition_penalty, logits * repetition_penalty
                )
                logits = torch.where(seen, scaled, logits)
            new = sample_ids(logits, generator=generator, **sampling)
            if end_of_text is not None:
                new = torch.where(ended, end_of_text, new)
                ended = ended | (new == end_of_text)
            yield new
            if end_of_text is not None and ended.all():
                return
            unread = new[:, None]
            seen.scatter_(1, unread, True)
            idx = torch.cat([idx[:, -window:], unread], dim=1)

    def optimizer_groups(self, weight_decay: float) -> list[dict]:
        """Parameters for AdamW: matrices are decayed, vectors (biases, LayerNorms) are not."""
        parameters = list(self.parameters())
        matrices = [p for p in parameters if p.dim() >= 2]
        vectors = [p for p in parameters if p.dim() < 2]
        return [
            {"params": matrices, "weight_decay": weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]

    def count_parameters(self) -> int:
        """Parameters without the position table, as nanoGPT counts them."""
        return sum(p.numel() for p in self.parameters()) - self.wpe.weight.numel()

    def flops_per_token(self) -> int:
        """Floating-point operations to train on one token: 6N + 12·L·H·D·T.

        From PaLM (Chowdhery et al. 2022), appendix B: forward and backward take 6 per parameter,
        and attention over T tokens 12·T per layer and channel.
        """
        c = self.config
        return 6 * self.count_parameters() + 12 * c.n_layer * c.n_embd * c.block_size


def sample_ids(
    logits: Tensor,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw one id from each row of logits (B, V); returns (B,).

    Args:
        temperature: below 1 bolder towards the likely, above 1 wilder; 0 takes the likeliest.
        top_k: only the k likeliest ids.
        top_p: only the likeliest ids that together reach this probability (Holtzman et al. 2020).
        min_p: only ids at least this many times as likely as the likeliest (Nguyen et al. 2024).
    """
    if temperature == 0:
        return logits.argmax(1)
    logits = logits / temperature
    if top_k is not None and top_k < logits.shape[1]:
        kth = logits.topk(top_k).values[:, -1:]
        logits = logits.masked_fill(logits < kth, -math.inf)
    if top_p is not None and top_p < 1:
        ordered, order = logits.sort(descending=True)
        chances = ordered.softmax(1)
        beyond = chances.cumsum(1) - chances >= top_p  # likelier ids reach top_p without it
        logits = logits.masked_fill(beyond.scatter(1, order, beyond), -math.inf)
    if min_p is not None:
        chances = logits.softmax(1)
        logits = logits.masked_fill(chances < min_p * chances.amax(1, keepdim=True), -math.inf)
    # The id at which the summed chances pass a random share of them all: on a CPU ten times faster
    # than torch.multinomial, which draws a random number for every id.
    reached = logits.softmax(1).cumsum(1)
    total = reached[:, -1:]
    share = torch.rand(total.shape, generator=generator, device=logits.device) * total
    # Rounding could make it all of them, which none passes.
    share = torch.minimum(share, total.nextafter(torch.zeros_like(total)))
    return torch.searchsorted(reached, share, right=True)[:, 0]
