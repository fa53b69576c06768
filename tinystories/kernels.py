"""What makes the model fast: parts of it with a backward pass of their own."""

import math

import torch
from torch import Tensor

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
