"""The network against another implementation and against itself."""

import math

import pytest
import torch
import transformers
from torch.nn import functional as F

from configurator import UserError
from model import GPT, GPTConfig, KVCache
from tinystories.kernels import LOSS_CHUNK_TOKENS, ChunkedCrossEntropy, PiecewiseAttention


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


VARIANTS = {
    "gpt2": {},
    "gpt2, window": {"attention_window": 5},
    "gpt2, stories": {"story_mask": True, "bias": True},
    "qwen3": {"arch": "qwen3"},
    "qwen3, wide heads": {"arch": "qwen3", "head_dim": 12, "rope_theta": 100.0},
    "qwen3, window and stories": {"arch": "qwen3", "attention_window": 5, "story_mask": True},
}
every_variant = pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)


def as_qwen3(gpt: GPT):
    """The same weights in transformers' Qwen3."""
    c = gpt.config
    kinds = [
        "sliding_attention" if i % 2 and c.attention_window else "full_attention"
        for i in range(c.n_layer)
    ]
    theirs = transformers.Qwen3ForCausalLM(
        transformers.Qwen3Config(
            vocab_size=c.vocab_size,
            max_position_embeddings=c.block_size,
            hidden_size=c.n_embd,
            intermediate_size=c.mlp_width,
            num_hidden_layers=c.n_layer,
            num_attention_heads=c.n_head,
            num_key_value_heads=c.n_head,
            head_dim=c.head_width,
            rope_parameters={"rope_type": "default", "rope_theta": c.rope_theta},
            rms_norm_eps=1e-6,
            tie_word_embeddings=True,
            use_sliding_window=c.attention_window is not None,
            sliding_window=c.attention_window,
            layer_types=kinds,
        )
    ).eval()
    embedding = gpt.wte.weight.detach()[: c.vocab_size]
    weights = {"model.embed_tokens.weight": embedding, "lm_head.weight": embedding}
    weights["model.norm.weight"] = gpt.ln_f.weight.detach()
    for i, block in enumerate(gpt.h):
        q, k, v = block.attn.c_attn.weight.detach().chunk(3)
        gate, up = block.mlp.c_fc.weight.detach().chunk(2)
        named = {
            "input_layernorm": block.ln_1.weight,
            "self_attn.q_proj": q,
            "self_attn.k_proj": k,
            "self_attn.v_proj": v,
            "self_attn.o_proj": block.attn.c_proj.weight,
            "self_attn.q_norm": block.attn.q_norm.weight,
            "self_attn.k_norm": block.attn.k_norm.weight,
            "post_attention_layernorm": block.ln_2.weight,
            "mlp.gate_proj": gate,
            "mlp.up_proj": up,
            "mlp.down_proj": block.mlp.c_proj.weight,
        }
        weights |= {f"model.layers.{i}.{name}.weight": w.detach() for name, w in named.items()}
    theirs.load_state_dict(weights)
    return theirs


def as_huggingface(gpt: GPT):
    """The same weights in transformers' GPT-2."""
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


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("shape", [{}, {"head_dim": 12, "rope_theta": 100.0}])
def test_logits_loss_and_greedy_text_equal_those_of_transformers_qwen3(shape, window):
    gpt = small(arch="qwen3", attention_window=window, **shape)
    theirs = as_qwen3(gpt)
    assert theirs.num_parameters() == gpt.count_parameters() - 20 * 32  # 320 rows for 300 ids
    idx = torch.randint(300, (5, 16))
    with torch.no_grad():
        torch.testing.assert_close(gpt(idx), theirs(idx).logits, atol=1e-4, rtol=1e-4)
        targets = torch.cat([idx[:, 1:], torch.full((5, 1), -1)], dim=1)
        loss = theirs(idx, labels=idx).loss
        torch.testing.assert_close(gpt(idx, targets), loss, atol=1e-5, rtol=1e-5)
    greedy = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    expected = theirs.generate(idx[:, :4], attention_mask=torch.ones(5, 4), **greedy)
    generated = torch.stack(list(gpt.generate(idx[:, :4], 12, temperature=0)), dim=1)
    assert torch.equal(generated, expected[:, 4:])


def reference_logits(gpt: GPT, ids: list[int]) -> torch.Tensor:
    """The logits after each of `ids`, written token by token from the formulas."""
    c, D = gpt.config, gpt.config.head_width
    is_gpt2 = c.arch == "gpt2"
    starts, start = [], 0
    for i, token in enumerate(ids):
        start = i if token == c.vocab_size - 1 and c.story_mask else start
        starts.append(start)

    def normalized(x, norm):
        if is_gpt2:
            x = (x - x.mean()) / (x.var(correction=0) + 1e-5).sqrt()
            return x * norm.weight + (0 if norm.bias is None else norm.bias)
        return x / (x.square().mean() + 1e-6).sqrt() * norm.weight

    def turned(x, position):
        if is_gpt2:
            return x
        turned = torch.empty_like(x)
        for i in range(D // 2):
            angle = position * c.rope_theta ** (-2 * i / D)
            a, b, cos, sin = x[i], x[i + D // 2], math.cos(angle), math.sin(angle)
            turned[i], turned[i + D // 2] = a * cos - b * sin, b * cos + a * sin
        return turned

    xs = [gpt.wte.weight[token] for token in ids]
    if is_gpt2:
        xs = [x + gpt.wpe.weight[i - starts[i]] for i, x in enumerate(xs)]
    for layer, block in enumerate(gpt.h):
        queries, keys, values = [], [], []
        for i, x in enumerate(xs):
            q, k, v = block.attn.c_attn(normalized(x, block.ln_1)).view(3, c.n_head, D)
            if not is_gpt2:
                q = torch.stack([normalized(head, block.attn.q_norm) for head in q])
                k = torch.stack([normalized(head, block.attn.k_norm) for head in k])
            queries.append(torch.stack([turned(head, i - starts[i]) for head in q]))
            keys.append(torch.stack([turned(head, i - starts[i]) for head in k]))
            values.append(v)
        for i, x in enumerate(xs):
            first = starts[i]
            if layer % 2 and c.attention_window:
                first = max(first, i - c.attention_window + 1)
            seen_keys, seen_values = (
                torch.stack(keys[first : i + 1]),
                torch.stack(values[first : i + 1]),
            )
            scores = (seen_keys * queries[i]).sum(-1) / math.sqrt(D)  # (seen, H)
            mixed = (scores.softmax(0)[..., None] * seen_values).sum(0).flatten()
            x = x + block.attn.c_proj(mixed)
            hidden = block.mlp.c_fc(normalized(x, block.ln_2))
            if is_gpt2:
                hidden = F.gelu(hidden)
            else:
                gate, up = hidden.chunk(2)
                hidden = gate * torch.sigmoid(gate) * up
            xs[i] = x + block.mlp.c_proj(hidden)
    logits = torch.stack([gpt.wte.weight @ normalized(x, gpt.ln_f) for x in xs])
    return logits[:, : c.vocab_size]


def two_stories(rows: int) -> torch.Tensor:
    """Random ids, (rows, 16), with end of text, 299, at different places."""
    idx = torch.randint(299, (rows, 16))
    for row in range(rows):
        idx[row, [3 + row, 11]] = 299
    return idx


@every_variant
def test_logits_are_those_of_the_formulas(variant):
    gpt, idx = small(**variant), two_stories(3)
    with torch.no_grad():
        expected = torch.stack([reference_logits(gpt, row.tolist()) for row in idx])
        torch.testing.assert_close(gpt(idx), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("arch", ["gpt2", "qwen3"])
def test_with_the_story_mask_a_story_is_read_as_if_it_were_alone(arch):
    gpt = small(arch=arch, story_mask=True)
    first, second = torch.randint(299, (1, 6)), torch.randint(299, (1, 9))
    first[0, 0] = second[0, 0] = 299
    with torch.no_grad():
        both = gpt(torch.cat([first, second], dim=1))
        torch.testing.assert_close(both[:, 6:], gpt(second), atol=1e-4, rtol=0)
        torch.testing.assert_close(both[:, :6], gpt(first), atol=1e-4, rtol=0)


@every_variant
@pytest.mark.parametrize("prefill", [1, 2, 7, 15, 16])
def test_cached_logits_equal_one_full_forward_over_the_same_window(prefill, variant):
    gpt, idx = small(**variant), two_stories(3)
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


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("heads", [3, 20])  # five sequences in one piece, or five pieces
def test_attention_in_pieces_is_attention(masked, dtype, heads):
    torch.manual_seed(3)
    qkv = torch.randn(5, 40, 3, heads, 8)
    mask = torch.ones(40, 40, dtype=torch.bool).tril()
    if masked:  # another one for each sequence
        mask = (mask & (torch.rand(5, 1, 40, 40) < 0.5)) | torch.eye(40, dtype=torch.bool)
    grad = torch.randn(5, heads, 40, 8)
    results = []
    for attend, x in (
        (PiecewiseAttention.apply, qkv.to(dtype)),
        (reference_attention, qkv.double()),
    ):
        x = x.requires_grad_()
        q, k, v = x.permute(2, 0, 3, 1, 4).unbind()
        y = attend(q, k, v, mask if masked or attend is reference_attention else None)
        y.backward(grad.to(y.dtype))
        results.append((y.detach().double(), x.grad.double()))
    for ours, theirs in zip(*results, strict=True):
        tolerance = 1e-5 if dtype == torch.float32 else 0.02 * theirs.abs().max().item()
        torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance)


def reference_attention(q, k, v, mask):
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    return scores.masked_fill(~mask, -math.inf).softmax(-1) @ v


@every_variant
def test_in_bfloat16_a_cpu_trains_as_in_float32(variant):
    gpt = small(**variant)
    idx = torch.randint(300, (3, 17), generator=torch.Generator().manual_seed(2))
    idx[:, 6] = 299  # a story ends in the middle
    grads = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = gpt(idx[:, :-1], idx[:, 1:])
        gpt.zero_grad()
        loss.backward()
        grads.append(torch.cat([p.grad.flatten() for p in gpt.parameters()]))
    assert torch.cosine_similarity(*grads, dim=0) > 0.999


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
    size = LOSS_CHUNK_TOKENS
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


@every_variant
def test_all_matrices_inside_blocks_are_named_with_their_parts(variant):
    gpt = small(**variant)
    found = {id(p): count for p, count in gpt.block_matrices()}
    expected = {id(p) for p in gpt.h.parameters() if p.dim() == 2}
    assert found.keys() == expected
    block = gpt.h[0]
    assert found[id(block.attn.c_attn.weight)] == 3 * gpt.config.n_head
    assert found[id(block.mlp.c_fc.weight)] == len(block.mlp.c_fc.weight) // 64
    assert found[id(block.mlp.c_proj.weight)] == 1


def test_flops_count_what_a_windowed_layer_sees():
    full, windowed = small(), small(attention_window=4)  # layers 0 and 2 of 3 see all 16 tokens
    saved = 12 * 32 * (16 - 4)
    assert full.flops_per_token() - windowed.flops_per_token() == saved
    wide = small(arch="qwen3", head_dim=16)
    assert wide.flops_per_token() == 6 * wide.count_parameters() + 12 * 3 * 64 * 16


def test_more_tokens_than_the_window_are_refused():
    with pytest.raises(ValueError, match="block_size=16"):
        small()(torch.zeros(1, 17, dtype=torch.long))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"n_embd": 33}, "not divisible by n_head"),
        ({"n_layer": 0}, "n_layer is 0"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"head_dim": 32}, "head_dim=32 is not n_embd / n_head; use --arch=qwen3"),
        ({"arch": "qwen3", "head_dim": 7}, "heads of 7 cannot be rotated"),
        ({"arch": "qwen3", "bias": True}, "arch=qwen3 has no biases"),
        ({"attention_window": 257}, "attention_window=257 is longer than block_size=256"),
    ],
)
def test_shapes_that_no_network_can_have_are_refused(shape, message):
    with pytest.raises(UserError, match=message):
        GPTConfig(**shape)
