"""What interpret.py says of models whose insides are known."""

import math

import numpy as np
import pytest
import torch

from model import GPT, GPTConfig
from tinystories.activations import inputs
from tinystories.device import select_hardware
from tinystories.interpretation import ablation, figures, heads, lens, neurons, text
from tinystories.interpretation.stories import KINDS, Subject, kinds_of, make_story, nats
from tinystories.loss import loss_per_text
from tinystories.tokenizer import STORY_PATTERN, Tokenizer

CPU = torch.device("cpu")
BYTES = Tokenizer("bpe", STORY_PATTERN, [bytes([byte]) for byte in range(256)])
TALES = ("Tom ran. Then Tom sat.", "A cat sat on a mat. It was fun.", "Mia met Tom. Mia said hi.")
SHAPES = {
    "gpt2": {},
    "qwen3 with windows": {"arch": "qwen3", "attention_window": 5, "story_mask": True},
}


def subject_of(model: GPT, *tales: str) -> Subject:
    size = model.config.block_size
    ids = [np.array(BYTES.encode(tale)) for tale in tales]
    stories = [make_story(BYTES, each, size, {"Tom", "Mia"}) for each in ids]
    return Subject(model.eval(), BYTES, CPU, stories)


@pytest.fixture(scope="module", params=SHAPES.values(), ids=SHAPES)
def subject(request) -> Subject:
    """A model with random weights in three stories."""
    torch.manual_seed(1)
    model = GPT(GPTConfig(257, 64, n_layer=2, n_head=2, n_embd=16, **request.param))
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.3) if weight.dim() == 2 else None
    return subject_of(model, *TALES)


# A model that was made by hand --------------------------------------------------------------

SHARP = 60.0  # of its attention


def make_copier(vocab_size: int = 300, block_size: int = 64) -> GPT:
    """Two layers of one head, and nothing else: head 0.0 attends to the token before and notes
    its id; head 1.0 attends to where the present id is noted, and says the id that stands there.

    The dimensions are: one for each id, one for each position, and one for each noted id.
    """
    V, P = -(-vocab_size // 64) * 64, block_size
    ids, places, notes = slice(0, V), slice(V, V + P), slice(V + P, 2 * V + P)
    C = 2 * V + P
    model = GPT(GPTConfig(vocab_size, block_size, n_layer=2, n_head=1, n_embd=C))
    one = torch.eye(C)
    with torch.no_grad():
        for weight in model.h.parameters():
            weight.zero_() if weight.dim() == 2 else None
        model.wte.weight.copy_(one[ids])
        model.wpe.weight.copy_(one[places])
        first, second = (block.attn for block in model.h)
        sharp = SHARP / math.sqrt(C)  # LayerNorm makes a one about sqrt(C) / 2
        first.c_attn.weight[0:P] = sharp * one[places].roll(-1, 0)  # q: where p + 1 is, ask for p
        first.c_attn.weight[0, :] = 0
        first.c_attn.weight[0:P] = sharp * one[places][[(p + 1) % P for p in range(P)]]
        first.c_attn.weight[C : C + P] = one[places]
        first.c_attn.weight[2 * C : 2 * C + V] = one[ids]
        first.c_proj.weight[notes, 0:V] = torch.eye(V) / 10
        second.c_attn.weight[0:V] = sharp * one[ids]
        second.c_attn.weight[C : C + V] = one[notes]
        second.c_attn.weight[2 * C : 2 * C + V] = one[ids]
        second.c_proj.weight[ids, 0:V] = torch.eye(V) / 3
    return model


def test_a_hand_made_head_for_the_token_before_and_one_for_induction_are_found():
    subject = subject_of(make_copier(257), *TALES)
    found, repeat = heads.measure(subject)
    before, copying = found
    assert before["previous"]["attention"] == pytest.approx(1, abs=1e-3)
    assert before["explained"]["distance"] == pytest.approx(1, abs=1e-2)
    assert before["by_distance"][1] == pytest.approx(1, abs=1e-3)
    assert copying["induction"]["attention"] == pytest.approx(1, abs=1e-3)
    assert before["induction"]["attention"] < 1e-3
    assert repeat["random"][1] < repeat["random"][0] - 1


def test_the_uniform_attention_of_a_model_without_queries_is_uniform_in_every_score():
    torch.manual_seed(0)
    model = GPT(GPTConfig(257, 64, n_layer=1, n_head=2, n_embd=16))
    with torch.no_grad():
        model.h[0].attn.c_attn.weight[:16] = 0
    subject = subject_of(model, *TALES)
    found, _ = heads.measure(subject)
    lengths = [len(story.x) for story in subject.stories]
    queries = [t for length in lengths for t in range(length)]
    for head in found:
        assert head["entropy_bits"] == pytest.approx(np.mean(np.log2(np.add(queries, 1))))
        assert head["first"]["attention"] == pytest.approx(np.mean(1 / np.add(queries, 1)))
        for score in (*heads.SCORES, "name"):
            assert figures.times_uniform(head, score) == pytest.approx(1, abs=1e-5)
        pairs = [(t - s, 1 / (t + 1)) for n in lengths for t in range(n) for s in range(1, t + 1)]
        groups = {}
        for distance, share in pairs:
            groups.setdefault(distance, []).append(share)
        shares = [share for _, share in pairs]
        between = sum(len(g) * (np.mean(g) - np.mean(shares)) ** 2 for g in groups.values())
        assert head["explained"]["distance"] == pytest.approx(between / len(pairs) / np.var(shares))


# Names and other kinds of token -------------------------------------------------------------


def kind_names(*pieces: bytes) -> list[str]:
    return [list(KINDS)[kind] for kind in kinds_of(list(pieces), {"Tom", "Mia"})[0]]


def test_a_piece_belongs_to_the_word_it_has_letters_of_and_a_bare_space_to_the_next():
    pieces = [
        b"T",
        b"om",
        b" s",
        b"at",
        b". ",
        b"Mia",
        b" met",
        b" ",
        b"Tom",
        b"'s",
        b" \xc3",
        b"\xa9t",
        b"!",
        b"",
    ]
    assert kind_names(*pieces) == [
        *("name_new", "inside", "word", "inside", "other", "name_new", "word"),
        *("name_again", "name_again", "inside", "word", "inside", "other", "other"),
    ]  # fmt: skip


def test_a_name_that_comes_again_is_predicted_with_its_earlier_mentions_in_sight():
    pieces = [b"Tom", b" sat", b".", b" T", b"om", b" ran"]
    kinds, mentions = kinds_of(pieces, {"Tom"})
    assert mentions == [(3, [1])]  # the query before " T"; "Tom" is key 1, after the first id
    assert kinds[4] == list(KINDS).index("inside")


# Numbers that agree -------------------------------------------------------------------------


def test_lens_text_and_evaluation_say_the_same(subject):
    bits = lens.measure(subject)
    each = [text.measure(subject, story) for story in subject.stories]
    whole = sum(surprise.bits.sum() for surprise in each)
    assert bits[-1] == pytest.approx(
        whole / sum(story.bytes for story in subject.stories), rel=1e-5
    )
    ids = [np.append(story.x, story.y[-1]) for story in subject.stories]
    sizes = [story.bytes for story in subject.stories]
    losses = loss_per_text(subject.model, ids, [1] * 3, sizes, select_hardware("cpu", "float32"))
    for surprise, loss in zip(each, losses, strict=True):
        assert surprise.bits_per_byte == pytest.approx(loss.bits_per_byte, rel=1e-5)


def test_a_head_that_writes_nothing_costs_nothing_and_a_removal_is_what_hooks_say(subject):
    model = subject.model
    width = model.config.head_width
    kept = model.h[1].attn.c_proj.weight.detach().clone()
    with torch.no_grad():
        model.h[1].attn.c_proj.weight[:, :width] = 0
    whole, removed = ablation.measure(subject)
    nothing = removed[1, "attention", 0]
    assert (nothing["bits_per_byte"], nothing["se"]) == (0, 0)
    mean = ablation.mean_inputs(subject, "attention")[0][width:]
    handle = model.h[0].attn.c_proj.register_forward_pre_hook(
        lambda _, z: (torch.cat([z[0][..., :width], mean.expand_as(z[0][..., width:])], -1),)
    )
    (_, x, y), *_ = subject.batches()
    with torch.no_grad():
        without = nats(model(x), y).double().sum().item()
    handle.remove()
    with torch.no_grad():
        before = nats(model(x), y).double().sum().item()
        model.h[1].attn.c_proj.weight.copy_(kept)
    size = sum(story.bytes for story in subject.stories)
    expected = (without - before) / size / math.log(2)
    assert removed[0, "attention", 1]["bits_per_byte"] == pytest.approx(expected, abs=1e-5)
    kinds = removed[0, "attention", 1]["kinds"]
    total = sum(kind["nats"] * kind["tokens"] for kind in kinds.values())
    assert total == pytest.approx(without - before, abs=1e-3)
    assert whole.keys() == KINDS.keys()


def test_the_error_of_a_ratio_is_that_of_the_stories():
    mean, error = ablation.ratio([1.0, 2.0, 3.0], [1, 1, 1])
    assert (mean, error) == (2, pytest.approx(1 / math.sqrt(3)))
    assert ablation.ratio([1.0], [2]) == (0.5, None)
    assert ablation.ratio([0.0], [0]) == (None, None)


def test_a_neuron_that_fires_at_one_id_shows_that_id_and_nothing_else():
    torch.manual_seed(0)
    model = GPT(GPTConfig(257, 64, n_layer=1, n_head=1, n_embd=320))
    with torch.no_grad():
        model.wte.weight.copy_(torch.eye(320))
        for weight in (model.wpe.weight, *model.h[0].parameters()):
            weight.zero_() if weight.dim() == 2 else None
        model.h[0].mlp.c_fc.weight[5, ord("t")] = 1.0
        model.h[0].mlp.c_proj.weight[ord("!"), 5] = 1.0
    subject = subject_of(model, *TALES)
    (found,) = neurons.measure(subject, 1)
    assert (found["neuron"], found["raises"][0]) == (5, "!")
    values = torch.cat([inputs(model, x, "mlp")[0][y >= 0] for _, x, y in subject.batches()])[:, 5]
    z = (values - values.mean()) / values.std(correction=0)
    assert found["kurtosis"] == pytest.approx((z.double() ** 4).mean().item(), rel=1e-3)
    places = [place for place in found["contexts"] if place["value"] > 1]
    assert {place["token"] for place in places} == {"t"}
    share = sum(tale.count("t") for tale in TALES) / len(values)
    assert found["active_share"] == pytest.approx(share)
