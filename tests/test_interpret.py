"""What interpret.py says of models whose insides are known."""

import contextlib
import io
import json
import math
import shutil

import matplotlib.image
import numpy as np
import pytest
import torch
from conftest import contents, forked

import interpret
from configurator import UserError, parse
from model import GPT, GPTConfig
from tinystories.activations import inputs
from tinystories.device import select_hardware
from tinystories.interpretation import ablation, figures, heads, lens, neurons, page, text
from tinystories.interpretation.stories import KINDS, ModelWithStories, kinds_of, make_story, nats
from tinystories.loss import loss_per_text
from tinystories.run import load_checkpoint, read_config, save_checkpoint
from tinystories.tokenizer import STORY_PATTERN, Tokenizer

CPU = torch.device("cpu")
BYTES = Tokenizer("bpe", STORY_PATTERN, [bytes([byte]) for byte in range(256)])
TALES = ("Tom ran. Then Tom sat.", "A cat sat on a mat. It was fun.", "Mia met Tom. Mia said hi.")
SHAPES = {
    "gpt2": {},
    "qwen3 with windows": {"arch": "qwen3", "attention_window": 5, "story_mask": True},
}


def subject_of(model: GPT, *tales: str) -> ModelWithStories:
    size = model.config.block_size
    ids = [np.array(BYTES.encode(tale)) for tale in tales]
    stories = [make_story(BYTES, each, size, {"Tom", "Mia"}) for each in ids]
    return ModelWithStories(model.eval(), BYTES, CPU, stories)


@pytest.fixture(scope="module", params=SHAPES.values(), ids=SHAPES)
def subject(request) -> ModelWithStories:
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
        # Queries ask for a position with the vector of the next one: at p + 1 for p.
        first.c_attn.weight[0:P] = sharp * one[places][[(p + 1) % P for p in range(P)]]
        first.c_attn.weight[C : C + P] = one[places]
        first.c_attn.weight[2 * C : 2 * C + V] = one[ids]
        first.c_proj.weight[notes, 0:V] = torch.eye(V) / 10
        second.c_attn.weight[0:V] = sharp * one[ids]
        second.c_attn.weight[C : C + V] = one[notes]
        second.c_attn.weight[2 * C : 2 * C + V] = one[ids]
        second.c_proj.weight[ids, 0:V] = torch.eye(V) / 3
    return model


def test_a_hand_made_head_for_the_token_before_and_one_for_induction_are_found(monkeypatch):
    monkeypatch.setattr(heads, "REPEATED", 4)
    subject = subject_of(make_copier(257), *TALES)
    found, repeat = heads.measure(subject)
    before, copying = found
    assert before["previous"]["attention"] == pytest.approx(1, abs=1e-3)
    assert before["explained"]["distance"] == pytest.approx(1, abs=1e-2)
    assert before["by_distance"][1] == pytest.approx(1, abs=1e-3)
    assert copying["induction"]["attention"] == pytest.approx(1, abs=1e-3)
    assert before["induction"]["attention"] < 1e-3
    assert repeat["random"][1] < 0.05 < repeat["random"][0]  # all but the first id is copied


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
            assert heads.times_uniform(head, score) == pytest.approx(1, abs=1e-5)
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
    assert {place["token"] for place in found["contexts"]} == {"t"}
    share = sum(tale.count("t") for tale in TALES) / len(values)
    assert found["active_share"] == pytest.approx(share)


# The pictures and the page ------------------------------------------------------------------


def some_heads(layers: int, width: int) -> list[dict]:
    """Heads with any numbers, as in interpret.json."""
    rng = np.random.RandomState(0)
    kinds = {kind: {"nats": rng.randn(), "se": 0.2, "tokens": 9} for kind in KINDS}
    return [
        {"layer": layer, "head": head, "explained": {"distance": rng.rand(), "token": rng.rand()}}
        | {name: {"attention": rng.rand(), "uniform": 0.1} for name in (*heads.SCORES, "name")}
        | {"removed": {"bits_per_byte": rng.randn(), "se": 0.5, "kinds": kinds}}
        for layer in range(layers)
        for head in range(width)
    ]


def test_the_heads_that_cost_most_are_those_shown():
    cheap, costly = some_heads(1, 2)
    for cost, head in ((0.1, cheap), (9.0, costly)):
        head["removed"]["kinds"] = {"name_again": {"nats": None}, "word": {"nats": -cost}}
    assert figures.largest(costly) > figures.largest(cheap) > 0


@pytest.mark.parametrize(("layers", "width"), [(1, 1), (12, 16)])
def test_pictures_are_drawn_for_models_of_any_shape(layers, width, tmp_path):
    found, cost = some_heads(layers, width), {"bits_per_byte": 0.1, "se": None}
    rows = [{"attention_removed": cost, "mlp_removed": cost}] * layers
    figures.plot_heads(found, "t", tmp_path / "heads.png")
    for head in found:  # in stories without names
        head["removed"]["kinds"]["name_again"] = {"nats": None, "se": None, "tokens": 0}
    whole = dict.fromkeys(KINDS, 1.0) | {"name_again": None}
    figures.plot_ablation(found, rows, whole, "t", tmp_path / "ablation.png")
    for name in ("heads", "ablation"):
        picture = matplotlib.image.imread(tmp_path / f"{name}.png")
        assert picture.std() > 0.05
        edges = np.concatenate([picture[:, [0, -1], :3].ravel(), picture[[0, -1], :, :3].ravel()])
        assert (edges == 1).all()  # no text is cut off


def test_the_page_has_each_token_with_what_was_expected_and_no_script(subject):
    story = make_story(BYTES, np.array(BYTES.encode("<b>\n\tTom")), 64, set())
    html = page.html_page(text.measure(subject, story), "a & b")
    assert "<script" not in html
    assert "http" not in html
    assert html.count('<span class="t"') == len(story.y)
    assert "<title>a &amp; b</title>" in html
    assert "&lt;" in html
    assert "\\n" in html


# The command --------------------------------------------------------------------------------


def look(*options) -> list[str]:
    """Call interpret.py in this process; the lines of its summary."""
    settings = parse(interpret.Settings, list(map(str, options))).settings
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        interpret.main(settings)
    return printed.getvalue().splitlines()


def refusal(*options) -> str:
    with pytest.raises(UserError) as refused:
        look(*options)
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.fixture
def trained(run, tmp_path):
    """A copy of the small run, to look into."""
    return shutil.copytree(run, tmp_path / "trained")


def test_everything_is_looked_at_and_the_run_stays_as_it_is(trained, dataset):
    before = contents(trained)
    lines = forked("interpret.py", trained, "--stories=3", "--neurons=2").stdout.splitlines()
    folder = trained / "interpret"
    assert {path.name for path in folder.iterdir()} == {
        *("attention.png", "heads.png", "ablation.png", "lens.png", "text.png"),
        *("text.html", "neurons.txt", "interpret.json"),
    }
    result = json.loads((folder / "interpret.json").read_text(encoding="utf-8"))
    assert (result["step"], result["stories"], len(result["heads"])) == (10, 3, 4)
    assert [neuron["layer"] for neuron in result["neurons"]] == [0, 0, 1, 1]
    assert result["bits_per_byte"] == result["layers"][-1]["lens_bits_per_byte"] > 1
    assert set(result["heads"][0]) == {
        *("layer", "head", "entropy_bits", *heads.SCORES, "name", "name_tokens"),
        *("explained", "by_distance", "removed"),
    }
    assert result["repeat"]["random"][0] > 5  # of log 300 = 5.7
    assert 3 < len([line for line in lines if not line.startswith(" ")]) <= 10
    after = contents(trained)
    assert {name: after[name] for name in after if "interpret" not in name} == before


def test_a_text_of_ones_own_is_looked_at_alone(trained):
    lines = look(f"--out_dir={trained}", "--text=One day, Tom", "--device=cpu")
    assert "bits per byte" in lines[0]
    assert [path.name for path in (trained / "interpret").iterdir()] == ["text"]
    made = {path.name for path in (trained / "interpret" / "text").iterdir()}
    assert made == {"text.png", "text.html", "lens.png", "attention.png", "interpret.json"}
    lines = look(f"--out_dir={trained}", "--text=One day", "--parts=ablation", "--device=cpu")
    assert "one text: no standard" in lines[0]


def test_mistakes_are_one_line(trained, tmp_path):
    where = f"--out_dir={trained}"
    assert "did you mean heads?" in refusal(where, "--parts=head")
    assert refusal(where, "--text= ").startswith("text is empty")
    assert "it is not a file" in refusal(where, f"--text=FILE:{tmp_path}")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    assert "is not UTF-8" in refusal(where, f"--text=FILE:{tmp_path / 'bytes'}")
    assert "there is no file" in refusal(where, "--text=FILE:nothing")
    assert "train it with --keep_per_doubling=4" in refusal(where, "--over_training")
    assert "takes a run with all" in refusal("--out_dir=hf:x/y", "--over_training")
    assert "stories is 0" in refusal(where, "--stories=0")
    (trained / "interpret").mkdir()
    (trained / "interpret" / ".DS_Store").touch()
    (trained / "interpret" / "diary.txt").touch()
    assert "has diary.txt, which interpret.py did not write" in refusal(where)


def test_weights_that_are_not_finite_are_refused(trained):
    path = trained / "best.pt"
    state = load_checkpoint(path)
    state["model"]["wte.weight"][0, 0] = math.nan
    save_checkpoint(path, {name: x for name, x in state.items() if name != "format"})
    assert "has weights that are not finite" in refusal(f"--out_dir={trained}")


def test_another_vocabulary_is_refused_and_without_data_one_is_told(trained, reciter, tmp_path):
    data = f"--dataset={read_config(trained)['dataset']}"
    assert "another tokenizer" in refusal(f"--out_dir={reciter(b'Hi.')}", data)
    assert "give a text with --text=" in refusal(f"--out_dir={reciter(b'Hi.', name='alone')}")


def test_a_text_longer_than_the_window_is_cut_and_one_is_told(trained, capsys):
    look(f"--out_dir={trained}", "--parts=text", f"--text={'Once there was a cat. ' * 20}")
    assert "tokens; the first 32 are read" in capsys.readouterr().err
