"""What activations.py sees in models whose insides are known."""

import pytest
import torch
from torch.nn import functional as F

from configurator import UserError
from model import GPT, GPTConfig
from tinystories.activations import (
    attention,
    block_calls,
    inputs,
    last_matrix,
    logits_of,
    probabilities,
    replaced,
    residuals,
    run_from,
)

SHAPES = {
    "gpt2": {},
    "bias": {"bias": True},
    "qwen3": {"arch": "qwen3", "head_dim": 8},
    "window": {"arch": "qwen3", "attention_window": 5},
    "story mask": {"arch": "gpt2", "story_mask": True, "attention_window": 7},
}


def make_model(n_layer=2, n_head=2, n_embd=32, vocab_size=20, block_size=16, **shape) -> GPT:
    """A model with random weights, large enough that attention is not flat."""
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size, block_size, n_layer, n_head, n_embd, **shape)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 2:
                weight.normal_(std=0.4)
    return model


@pytest.fixture(params=SHAPES.values(), ids=SHAPES)
def model(request) -> GPT:
    return make_model(**request.param)


X = torch.tensor(
    [[19, 3, 5, 3, 5, 19, 7, 1, 3, 5, 19, 3, 2], [19, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 0, 0]]
)


def values_of(model: GPT, layer: int) -> torch.Tensor:
    """The values of a layer's attention, (B, H, T, D), from its own matrix."""
    block, stream = model.h[layer], residuals(model, X)[layer]
    qkv = block.attn.c_attn(block.ln_1(stream))
    return qkv.view(*X.shape, 3, model.config.n_head, -1)[:, :, 2].transpose(1, 2)


def test_the_patterns_are_what_attention_multiplies_its_values_with(model):
    outputs = inputs(model, X, "attention")
    for layer, pattern in enumerate(attention(model, X)):
        assert torch.allclose(pattern.sum(-1), torch.ones(()), atol=1e-5)
        z = (pattern @ values_of(model, layer)).transpose(1, 2).flatten(2)
        assert torch.allclose(z, outputs[layer], atol=1e-4)


def test_what_may_be_seen_is_what_the_window_and_the_story_leave():
    model = make_model(story_mask=True, attention_window=3)
    visible = attention(model, X, lambda layer, pattern, visible: visible.expand(2, 1, 13, 13))
    full, near = (each[0, 0].nonzero().tolist() for each in visible)
    story = [0] * 5 + [5] * 5 + [10] * 3  # where the story of each token begins
    assert full == [[q, k] for q in range(13) for k in range(story[q], q + 1)]
    assert near == [[q, k] for q, k in full if q - k < 3]


@pytest.mark.parametrize("mask", ["causal", "booleans", "numbers"])
def test_grouped_queries_and_every_kind_of_mask_are_understood(mask):
    q, k, v = (torch.randn(2, heads, 6, 4) for heads in (4, 2, 2))
    causal = torch.ones(6, 6, dtype=torch.bool).tril()
    allowed = causal if mask == "causal" else causal & ~causal.tril(-3)
    numbers = torch.zeros(6, 6).masked_fill(~allowed, torch.finfo(torch.float32).min)
    options = {
        "causal": {"is_causal": True},
        "booleans": {"attn_mask": allowed, "scale": 0.3},
        "numbers": {"attn_mask": numbers},
    }[mask]
    pattern, visible = probabilities(q, k, v, **options, enable_gqa=True)
    own = F.scaled_dot_product_attention(q, k, v, **options, enable_gqa=True)
    assert torch.allclose(pattern @ v.repeat_interleave(2, 1), own, atol=1e-6)
    assert visible.expand(1, 1, 6, 6)[0, 0].equal(allowed)


def test_attention_that_is_computed_in_another_way_is_an_error(monkeypatch):
    model = make_model()
    monkeypatch.setattr(model.h[1].attn, "forward", lambda x, view: x)
    with pytest.raises(UserError, match="the attention of 1 of 2 layers can be seen"):
        attention(model, X)


def test_the_stream_is_the_sum_of_what_heads_and_neurons_write(model):
    streams = residuals(model, X)
    total = streams[0]
    width = model.config.head_width
    parts = zip(inputs(model, X, "attention"), inputs(model, X, "mlp"), strict=True)
    for layer, (z, hidden) in enumerate(parts):
        matrix = last_matrix(model, layer, "attention")
        for head in range(model.config.n_head):
            columns = slice(head * width, (head + 1) * width)
            total = total + z[..., columns] @ matrix.weight[:, columns].T
        total = total + last_matrix(model, layer, "mlp")(hidden)
        total = total + (matrix.bias if matrix.bias is not None else 0)
        assert torch.allclose(total, streams[layer + 1], atol=1e-4)


def test_the_lens_after_the_last_layer_is_the_model(model):
    assert torch.equal(logits_of(model, residuals(model, X)[-1]), model(X))


def test_all_heads_replaced_are_the_attention_replaced(model):
    mean = inputs(model, X, "attention")[1].flatten(0, 1).mean(0)
    with replaced(model, 1, "attention", mean):
        whole = model(X)
    width = model.config.head_width
    with replaced(model, 1, "attention", mean[:width], 0):
        one = model(X)
        with replaced(model, 1, "attention", mean[width:], 1):
            both = model(X)
    assert torch.allclose(both, whole, atol=1e-5)
    assert not torch.allclose(one, whole, atol=1e-2)


def test_the_model_can_be_computed_from_a_layer_on(model):
    mean = torch.zeros(4 * 32 if model.config.arch == "gpt2" else model.config.mlp_width)
    calls = block_calls(model, X)
    with replaced(model, 1, "mlp", mean):
        expected, stream = model(X), run_from(model, calls, 1)[-1]
    assert torch.allclose(logits_of(model, stream), expected, atol=1e-5)
    assert not torch.allclose(expected, model(X), atol=1e-2)


def test_nothing_is_left_behind_not_even_by_an_exception(model):
    before, was_training = model(X), model.train().training

    def fail(*call):
        raise ZeroDivisionError

    for look in (attention, lambda *args: inputs(*args[:2], "mlp", args[2])):
        with pytest.raises(ZeroDivisionError):
            look(model, X, fail)
    with pytest.raises(ZeroDivisionError), replaced(model, 0, "mlp", torch.ones(1)):
        fail()
    assert model.training is was_training
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert torch.equal(model.eval()(X), before)
