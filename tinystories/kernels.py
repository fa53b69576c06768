"""What makes the model fast: attention, and the loss, with a backward pass of their own."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

LOSS_CHUNK_TOKENS = 512  # tokens whose logits are in memory at a time; docs/speed.md says why 512
ATTENTION_HEADS = 16  # heads, over all sequences, that PiecewiseAttention takes at a time


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


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    """Scaled dot-product attention, computed in the way that suits the device and the precision.

    Args:
        q: queries, (B, H, T, D).
        k, v: keys and values, (B, H, S, D); the queries belong to the last T of these tokens.
        mask: what each query sees, booleans that broadcast to (B, H, T, S). None, where T is S
            or 1: all tokens up to its own.
        dropout: the probability that an attention weight is dropped.

    Returns:
        (B, H, T, D).
    """
    is_causal = mask is None and q.shape[2] > 1  # a single new token sees all tokens before it

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal)

    if q.device.type != "cpu" or not q.requires_grad or torch.compiler.is_compiling():
        return attend(q, k, v)
    if dropout:
        # On a CPU, dropout inside attention saves several (B, H, T, T) tensors for backward.
        # Recomputing them (activation checkpointing) keeps only one layer's at a time.
        return checkpoint(attend, q, k, v, use_reentrant=False)
    if q.dtype == torch.bfloat16:  # there torch's backward pass is slow; in float32 it is not
        return PiecewiseAttention.apply(q, k, v, mask)
    return attend(q, k, v)


class PiecewiseAttention(torch.autograd.Function):
    """Attention as three batched matrix products and a softmax, a few heads at a time.

    The probabilities of a few heads stay in the CPU's cache. The backward pass computes them again
    instead of keeping those of all heads, B·H·T² numbers per layer.
    """

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """q, k and v (B, H, T, D) and mask as in `attention` -> (B, H, T, D)."""
        T = q.shape[2]
        if mask is None:
            mask = torch.ones(T, T, dtype=torch.bool).tril()
        mask = mask.reshape(-1, 1, T, T)  # of each sequence, or of all of them
        bias = torch.zeros_like(mask, dtype=q.dtype).masked_fill_(~mask, -math.inf)
        ctx.save_for_backward(q, k, v, bias)
        y = torch.empty_like(q)
        for piece, (_, _, values), probs in PiecewiseAttention.pieces(q, k, v, bias):
            y[piece] = (probs @ values).view_as(y[piece])
        return y

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple:
        q, k, v, bias = ctx.saved_tensors
        grads = [torch.empty_like(x) for x in (q, k, v)]
        for piece, (queries, keys, values), probs in PiecewiseAttention.pieces(q, k, v, bias):
            grad_y = grad[piece].flatten(0, 1)
            grad_probs = grad_y @ values.mT
            grad_scores = torch._softmax_backward_data(grad_probs, probs, -1, probs.dtype)
            grad_scores *= q.shape[-1] ** -0.5
            parts = (grad_scores @ keys, grad_scores.mT @ queries, probs.mT @ grad_y)
            for whole, part in zip(grads, parts, strict=True):
                whole[piece] = part.view_as(whole[piece])
        return *grads, None

    @staticmethod
    def pieces(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Iterator:
        """Yield slices of the batch, with q, k and v (heads, T, D) and the probabilities there."""
        B, H, T, D = q.shape
        size = max(1, ATTENTION_HEADS // H)
        for start in range(0, B, size):
            piece = slice(start, start + size)
            queries, keys, values = (x[piece].flatten(0, 1) for x in (q, k, v))
            part = bias[piece] if len(bias) > 1 else bias
            part = part.expand(len(queries) // H, H, T, T).flatten(0, 1)
            scores = torch.baddbmm(part, queries, keys.mT, alpha=D**-0.5)
            yield piece, (queries, keys, values), scores.softmax(-1)
