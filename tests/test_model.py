"""The network against another implementation and against itself."""

import math

import pytest
import torch
from torch.nn import functional as F

import model
from configurator import UserError
from model import GPT, ChunkedCrossEntropy, GPTConfig, KVCache


def small(**changes) -> GPT:
    shape = {"vocab_size": 300, "block_size": 16, "n_layer": 3, "n_head": 4, "n_embd": 32}
    torch.manual_seed(1)
    gpt = GPT(GPTConfig(**shape | changes)).eval()
    with torch.no_grad():  # fresh weights hardly disagree about anything
        for parameter in gpt.parameters():
            parameter.mul_(4.0) if parameter.dim() == 2 else parameter.add_(
                0.1 * torch.randn_like(parameter)
            )
    return gpt


def as_huggingface(gpt: GPT):
    """The same weights in transformers' GPT-2."""
    transformers = pytest.importorskip("transformers")
    c = gpt.config
    theirs = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=c.vocab_size,
            n_positions=c.block_size,
            n_embd=c.n_embd,
            n_layer=c.n_layer,
            n_head=c.n_head,
            activation_function="gelu",
        )
    ).eval()
    weights = {f"transformer.{name}": p.detach() for name, p in gpt.named_parameters()}
    weights["transformer.wte.weight"] = weights["transformer.wte.weight"][: c.vocab_size]
    weights["lm_head.weight"] = weights["transformer.wte.weight"]
    for name in weights:  # their linear layers are transposed
        if name.endswith((".c_attn.weight", ".c_proj.weight", ".c_fc.weight")):
            weights[name] = weights[name].T
    missing, unexpected = theirs.load_state_dict(weights, strict=False)
    assert not unexpected and all(name.endswith((".bias", ".masked_bias")) for name in missing)
    assert not any(".ln_" in name or "ln_f" in name for name in missing)
    return theirs


def test_logits_and_loss_equal_those_of_transformers_gpt2():
    gpt = small(bias=True)
    theirs = as_huggingface(gpt)
    idx = torch.randint(300, (5, 16))
    with torch.no_grad():
        logits = theirs(idx).logits
        torch.testing.assert_close(gpt(idx), logits, atol=1e-4, rtol=1e-4)
        # They shift the labels themselves: the loss is over 15 predictions of each row.
        targets = torch.cat([idx[:, 1:], torch.full((5, 1), -1)], dim=1)
        loss = theirs(idx, labels=idx).loss
        torch.testing.assert_close(gpt(idx, targets), loss, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("prefill", [1, 2, 7, 15, 16])
@pytest.mark.parametrize("batch", [1, 3])
def test_cached_logits_equal_one_full_forward_over_the_same_window(prefill, batch):
    gpt = small()
    idx = torch.randint(300, (batch, 16))
    cache = KVCache(gpt.config)
    with torch.no_grad():
        full = gpt(idx)
        parts = [gpt(idx[:, :prefill], cache=cache)]
        parts += [gpt(idx[:, i : i + 1], cache=cache) for i in range(prefill, 16)]
    torch.testing.assert_close(torch.cat(parts, dim=1), full, atol=1e-4, rtol=0)


@pytest.mark.parametrize("prefill", [1, 5, 16, 30])
def test_generation_past_the_window_restarts_from_its_last_half(prefill):
    gpt = small()
    ids = torch.randint(300, (2, prefill))
    generated = torch.stack(list(gpt.generate(ids, 60, temperature=0)), dim=1)
    window = ids if prefill <= 16 else ids[:, -8:]
    expected = []
    with torch.no_grad():
        for _ in range(60):
            if window.shape[1] > 16:
                window = window[:, -8:]
            expected.append(gpt(window)[:, -1].argmax(1))
            window = torch.cat([window, expected[-1][:, None]], dim=1)
    assert torch.equal(generated, torch.stack(expected, dim=1))


def test_padding_of_the_vocabulary_is_never_generated():
    gpt = small(vocab_size=257)
    gpt.wte.weight.data[257:] = 100.0  # the padded rows would win every draw
    assert gpt.wte.weight.shape[0] == 320
    ids = torch.stack(list(gpt.generate(torch.zeros(4, 1, dtype=torch.long), 30)))
    assert ids.max() < 257
    assert gpt(torch.zeros(1, 1, dtype=torch.long)).shape == (1, 1, 257)


def test_rows_that_have_ended_repeat_the_end_and_all_ended_stops():
    gpt = small()
    first = torch.stack(list(gpt.generate(torch.tensor([[5], [9]]), 12, temperature=0)))
    end = int(first[3, 0])
    again = torch.stack(list(gpt.generate(torch.tensor([[5], [5]]), 12, temperature=0, eot_id=end)))
    ended_at = int((first[:, 0] == end).nonzero()[0])
    assert len(again) == ended_at + 1 and (again[-1] == end).all()


@pytest.mark.parametrize("rows", [7, 500, 1300])
def test_the_loss_in_chunks_has_the_value_and_the_gradients_of_the_whole(rows):
    torch.manual_seed(0)
    x = torch.randn(rows, 24, requires_grad=True)
    weight = torch.randn(128, 24, requires_grad=True)
    targets = torch.randint(100, (rows,))
    targets[::5] = -1
    whole = F.cross_entropy((x @ weight.T)[:, :100], targets, ignore_index=-1)
    expected = torch.autograd.grad(3 * whole, (x, weight))
    chunked = ChunkedCrossEntropy.apply(x, weight, targets, 100)
    torch.testing.assert_close(chunked, whole)
    gradients = torch.autograd.grad(3 * chunked, (x, weight))
    torch.testing.assert_close(gradients, expected, atol=1e-6, rtol=1e-4)
    size = model.LOSS_CHUNK_TOKENS
    assert rows <= size or rows > 2 * size  # one chunk, and several


@pytest.mark.parametrize(("dtype", "error"), [(torch.float16, 0.01), (torch.bfloat16, 0.02)])
def test_in_half_precision_the_gradients_of_the_loss_stay_close(dtype, error):
    """Gradients of logits are small; float16 keeps them only if the loss is scaled first."""
    torch.manual_seed(0)
    x, weight = torch.randn(8192, 32), torch.randn(2048, 32) / 5
    targets = torch.randint(2048, (8192,))
    gradients = []
    for kind in (torch.float32, dtype):
        inputs = x.clone().requires_grad_(), weight.clone().requires_grad_()
        with torch.autocast("cpu", kind, enabled=kind != torch.float32):
            loss = 1024 * ChunkedCrossEntropy.apply(*inputs, targets, 2048)
        gradients.append(torch.autograd.grad(loss, inputs))
    for exact, rounded in zip(*gradients, strict=True):
        assert (rounded - exact).norm() / exact.norm() < error


def test_measuring_a_loss_computes_no_gradient(monkeypatch):
    gpt = small()
    idx = torch.randint(300, (2, 16))
    with torch.no_grad():
        assert gpt(idx, idx).grad_fn is None
        asked = []
        apply = ChunkedCrossEntropy.forward
        monkeypatch.setattr(
            ChunkedCrossEntropy,
            "forward",
            lambda ctx, *a: asked.append(ctx.needs_input_grad) or apply(ctx, *a),
        )
        gpt(idx, idx)
    assert not any(asked[0])


def test_a_repetition_penalty_lets_stories_end():
    gpt = small()
    options = {"temperature": 0, "eot_id": 7, "repetition_penalty": 1e6}
    gpt.wte.weight.data[7] *= 50  # the end is far ahead, or far behind
    plain = next(gpt.generate(torch.tensor([[7]]), 1, temperature=0, eot_id=7))
    assert torch.equal(next(gpt.generate(torch.tensor([[7]]), 1, **options)), plain)


def test_a_window_without_targets_has_no_loss():
    gpt = small()
    idx = torch.zeros(2, 4, dtype=torch.long)
    assert gpt(idx, torch.full((2, 4), -1)).item() == 0


def test_fresh_weights_know_nothing():
    torch.manual_seed(0)
    gpt = GPT(GPTConfig(vocab_size=1000, block_size=32, n_layer=2, n_head=2, n_embd=64))
    loss = gpt(torch.randint(1000, (8, 32)), torch.randint(1000, (8, 32)))
    assert abs(loss.item() - math.log(1000)) < 0.1


def test_the_published_parameter_counts_come_out():
    gpt2 = {"block_size": 1024, "n_layer": 12, "n_head": 12, "n_embd": 768, "bias": True}
    with torch.device("meta"):
        gpt = GPT(GPTConfig(vocab_size=50304, **gpt2))
        assert gpt.count_parameters() == 123_689_472  # 124M, as nanoGPT counts GPT-2
        small_one = GPT(GPTConfig(vocab_size=50257))
    matrices, vectors = small_one.param_groups()
    assert small_one.count_parameters() == 29_938_560
    assert (len(matrices), sum(p.numel() for p in matrices)) == (26, 30_031_872)
    assert (len(vectors), sum(p.numel() for p in vectors)) == (13, 4_992)


def test_more_tokens_than_the_window_are_refused():
    with pytest.raises(ValueError, match="block_size=16"):
        small()(torch.zeros(1, 17, dtype=torch.long))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"n_embd": 33}, "not divisible by n_head"),
        ({"n_layer": 0}, "n_layer is 0"),
        ({"dropout": 1.0}, "dropout is 1.0"),
    ],
)
def test_shapes_that_no_network_can_have_are_refused(shape, message):
    with pytest.raises(UserError, match=message):
        GPTConfig(**shape)
