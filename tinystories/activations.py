"""What happens inside a model: attention, residual stream, heads, neurons; a model without a head.

    patterns = attention(model, x)                    # of each layer, (B, H, T, T)
    streams = residuals(model, x)                     # before the first block, and after each
    heads = inputs(model, x, "attention")             # of each layer, (B, T, H * D)
    with replaced(model, 3, "attention", mean, head=0):
        logits = model(x)                             # without head 3.0

model.py knows nothing of this: attention is seen where a model asks torch for it, so behind rotary
positions, norms of keys and masks; the rest by hooks, which are gone when a function returns.
Models are in evaluation mode and not compiled; x are ids, (B, T). Layers and heads count from 0.
"""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from configurator import UserError


class SeenAttention(TorchFunctionMode):
    """While it is active, its see(pattern, visible) is called whenever torch computes attention."""

    see: Callable[[Tensor, Tensor], Any]

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is F.scaled_dot_product_attention:
            self.see(*probabilities(*args, **(kwargs or {})))
        return func(*args, **(kwargs or {}))


def probabilities(q, key, _, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, **more):
    """The probabilities (B, H, T, S) of one call in float32, and which keys a query may see."""
    key = key.repeat_interleave(q.shape[1] // key.shape[1], 1)  # grouped queries share keys
    scores = q.float() @ key.float().mT * (scale or 1 / math.sqrt(q.shape[-1]))
    visible = torch.ones_like(scores[:1, :1], dtype=torch.bool)
    if is_causal:
        visible = visible.tril()
    elif attn_mask is not None and attn_mask.dtype == torch.bool:
        visible = attn_mask
    elif attn_mask is not None:  # numbers to add, the lowest that there is where nothing is seen
        scores, visible = scores + attn_mask, attn_mask > torch.finfo(attn_mask.dtype).min / 2
    return scores.masked_fill(~visible, -math.inf).softmax(-1), visible


@torch.no_grad()
def attention(model: Any, x: Tensor, visit: Callable | None = None) -> list:
    """The attention probabilities of each layer, (B, H, T, T) in float32; rows are queries.

    With `visit`, the results of visit(layer, pattern, visible), one layer in memory at a time;
    `visible`, which keys a query may see, broadcasts. Raises UserError where one cannot be seen.
    """
    seen: list = []
    with SeenAttention() as mode:
        mode.see = lambda *call: seen.append(visit(len(seen), *call) if visit else call[0])
        model(x)
    if len(seen) != len(model.h):
        raise UserError(
            f"the attention of {len(seen)} of {len(model.h)} layers can be seen: the others do "
            "not use torch's scaled_dot_product_attention; every part but heads works without"
        )
    return seen


@torch.no_grad()
def block_calls(model: Any, x: Tensor) -> list[tuple[tuple, dict]]:
    """What each block was called with, (args, kwargs), the residual stream first."""
    calls: list = []
    with hooks((block, lambda _, *call: calls.append(call)) for block in model.h):
        model(x)
    return calls


@torch.no_grad()
def run_from(model: Any, calls: list, layer: int) -> list[Tensor]:
    """The residual stream before block `layer`, and after it and all later ones, of these calls."""
    streams = [calls[layer][0][0]]
    for block, (args, kwargs) in zip(model.h[layer:], calls[layer:], strict=True):
        out = block(streams[-1], *args[1:], **kwargs)
        streams.append(out[0] if isinstance(out, tuple) else out)
    return streams


def residuals(model: Any, x: Tensor) -> list[Tensor]:
    """The residual stream (B, T, C): before the first block, and after each."""
    calls = block_calls(model, x)
    return [args[0] for args, _ in calls] + run_from(model, calls, len(calls) - 1)[1:]


@torch.no_grad()
def inputs(model: Any, x: Tensor, part: str, visit: Callable | None = None) -> list:
    """What enters the last matrix of each block's "attention", its heads side by side, or "mlp",
    its neurons. With `visit`, the results of visit(layer, it).
    """
    kept: list = []
    keep = visit or (lambda layer, z: z)
    matrices = [last_matrix(model, layer, part) for layer in range(len(model.h))]
    with hooks((m, lambda _, args, kwargs: kept.append(keep(len(kept), *args))) for m in matrices):
        model(x)
    return kept


@contextlib.contextmanager
def replaced(model: Any, layer: int, part: str, value: Tensor, head: int | None = None) -> Iterator:
    """While it is active, `value`, a vector, enters the last matrix of a part, at every position;
    or the share of one head in it.
    """

    def swap(_, args, kwargs):
        z = args[0].clone()
        (z if head is None else z.view(*z.shape[:-1], -1, len(value))[..., head, :])[:] = value
        return (z,), kwargs

    with hooks([(last_matrix(model, layer, part), swap)]):
        yield


def logits_of(model: Any, x: Tensor) -> Tensor:
    """The logits of a residual stream (B, T, C), as if no block followed: the logit lens."""
    if hasattr(model, "unembed"):
        return model.unembed(x)
    return F.linear(model.ln_f(x), model.wte.weight)[..., : model.config.vocab_size]


def last_matrix(model: Any, layer: int, part: str) -> nn.Module:
    """The linear layer at the end of a block's "attention" or "mlp"."""
    names = {"attention": "attn.c_proj", "mlp": "mlp.c_proj"} | getattr(model, "last_matrices", {})
    return model.h[layer].get_submodule(names[part])


@contextlib.contextmanager
def hooks(functions: Iterable[tuple[nn.Module, Callable]]) -> Iterator[None]:
    """Forward pre-hooks, called as hook(module, args, kwargs), which are removed in the end."""
    with contextlib.ExitStack() as stack:
        for module, hook in functions:
            stack.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)
        yield
