"""What a user relies on when a model tells stories."""

import contextlib
import io
import math
import os
import pty
import re
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, command

import sample
from configurator import UserError, parse
from model import GPT, GPTConfig, sample_next_token
from tinystories import device
from tinystories import run as run_module
from tinystories.generate import (
    Piece,
    Sampling,
    collect_stories,
    generate_stories,
    prepare_for_generation,
)
from tinystories.run import load_model

CPU = device.select_hardware("cpu", "float32")


@pytest.fixture
def generate(capsys):
    """Calls sample.py in this process: generate(folder, "--seed=1") -> (stories, notes)."""

    def call(folder, *options, tokens=60) -> tuple[str, str]:
        where = [f"--out_dir={folder}"] if folder else []
        machine = ["--device=cpu", "--dtype=float32", f"--max_new_tokens={tokens}"]
        capsys.readouterr()
        sample.main(parse(sample.Settings, [*where, *machine, *options]).settings)
        captured = capsys.readouterr()
        return captured.out, captured.err

    return call


def pieces_of(folder, prompt="", count=1, **options) -> list[list[Piece]]:
    """What generate_stories yields for the model in a run folder."""
    model, tokenizer, _ = load_model(folder)
    return list(generate_stories(model, tokenizer, CPU, prompt, count, **options))


def stories_in(out: str) -> list[str]:
    """The stories that were printed with rules before them."""
    return re.split(r"(?:^|\n)--- \d+ of \d+ -+\n", out.removesuffix("\n"))[1:]


# Randomness -------------------------------------------------------------------------------------


@pytest.mark.parametrize("extra", [(), ("--start=Once", "--top_k=50", "--temperature=1.2")])
def test_the_same_seed_tells_the_same_stories(generate, run, extra):
    first, _ = generate(run, "--seed=5", *extra)
    assert generate(run, "--seed=5", *extra)[0] == first


def test_another_seed_tells_other_stories(generate, run):
    assert generate(run, "--seed=5")[0] != generate(run, "--seed=6")[0]


def test_the_stories_of_one_batch_differ(generate, run):
    assert len(set(stories_in(generate(run)[0]))) == 3


@pytest.mark.parametrize("count", [1, 3])
def test_streaming_changes_nothing_in_the_text(generate, run, count):
    options = ["--start=Once upon", f"--num_samples={count}"]
    assert generate(run, "--stream=True", *options)[0] == generate(run, *options)[0]


def test_telling_stories_leaves_the_chance_of_others_alone(run):
    model, tokenizer, _ = load_model(run)
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    list(generate_stories(model, tokenizer, CPU, seed=1, max_new_tokens=5))
    assert torch.equal(torch.rand(4), expected)


def test_temperature_0_tells_one_and_the_same_story(generate, run):
    out, _ = generate(run, "--temperature=0", "--seed=1")
    assert len(set(stories_in(out))) == 1
    assert generate(run, "--temperature=0", "--seed=2")[0] == out


def test_top_k_of_1_is_greedy(generate, run):
    greedy, _ = generate(run, "--temperature=0")
    assert generate(run, "--top_k=1", "--temperature=1.5")[0] == greedy


def draws(logits: list[float], count: int = 20_000, **sampling) -> torch.Tensor:
    """The share of each id among many draws."""
    rows = torch.tensor([logits]).expand(count, -1)
    ids = sample_next_token(rows, generator=torch.Generator().manual_seed(0), **sampling)
    return torch.bincount(ids, minlength=len(logits)) / count


def chosen(logits: list[float], **sampling) -> set[int]:
    """The ids that are ever drawn."""
    return set(draws(logits, **sampling).nonzero().flatten().tolist())


def logs(*probabilities: float) -> list[float]:
    return [math.log(p) for p in probabilities]


PROBABILITIES = (0.1, 0.4, 0.05, 0.3, 0.15)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_softmax_at_a_temperature(temperature):
    expected = (torch.tensor(logs(*PROBABILITIES)) / temperature).softmax(0)
    shares = draws(logs(*PROBABILITIES), temperature=temperature)
    assert torch.allclose(shares, expected, atol=0.015)  # four standard deviations


def test_what_is_left_keeps_its_proportions():
    shares = draws(logs(*PROBABILITIES), top_k=2)
    assert torch.allclose(shares, torch.tensor([0, 4 / 7, 0, 3 / 7, 0]), atol=0.015)


@pytest.mark.parametrize(
    ("k", "kept"),
    [(1, {1}), (2, {1, 3}), (4, {0, 1, 3, 4}), (5, {0, 1, 2, 3, 4}), (99, {0, 1, 2, 3, 4})],
)
def test_top_k_keeps_the_k_likeliest(k, kept):
    assert chosen(logs(*PROBABILITIES), top_k=k) == kept


@pytest.mark.parametrize(
    ("p", "kept"),
    [
        (0.01, {1}),
        (0.39, {1}),
        (0.41, {1, 3}),
        (0.69, {1, 3}),
        (0.71, {1, 3, 4}),
        (0.94, {0, 1, 3, 4}),
        (1.0, {0, 1, 2, 3, 4}),
    ],
)
def test_top_p_keeps_the_smallest_set_that_reaches_p(p, kept):
    assert chosen(logs(*PROBABILITIES), top_p=p) == kept


@pytest.mark.parametrize(
    ("p", "kept"),
    [(0.0, {0, 1, 2, 3, 4}), (0.2, {0, 1, 3, 4}), (0.3, {1, 3, 4}), (0.5, {1, 3}), (1.0, {1})],
)
def test_min_p_keeps_what_is_likely_enough_beside_the_likeliest(p, kept):
    assert chosen(logs(*PROBABILITIES), min_p=p) == kept


def test_top_k_top_p_and_min_p_work_together():
    assert chosen(logs(*PROBABILITIES), top_k=3, top_p=0.9, min_p=0.5) == {1, 3}


@pytest.mark.parametrize("sampling", [{"top_k": 2}, {"top_p": 0.5}, {"min_p": 0.9}])
def test_each_row_is_cut_for_itself(sampling):
    rows = torch.tensor([[9.0, 0.0, 0.0, -9.0], [-9.0, 0.0, 0.0, 9.0]])
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        assert sample_next_token(rows, generator=generator, **sampling).tolist() == [0, 3]


def test_equal_logits_survive_top_k_and_temperature_0():
    assert sample_next_token(torch.zeros(2, 5), temperature=0).shape == (2,)
    assert sample_next_token(torch.zeros(2, 5), top_k=1).shape == (2,)


def preferring(*ids: int) -> GPT:
    """A GPT that likes these ids best at every place, the first most, each a bit less."""
    model = GPT(GPTConfig(8, 16, n_layer=1, n_head=1, n_embd=64))
    with torch.no_grad():
        for weights in (model.wpe.weight, *model.h.parameters()):
            weights.zero_()
        model.wte.weight.copy_(torch.eye(64))
        for rank, id in enumerate(ids):
            model.wpe.weight[:, id] = 100.0 - 10 * rank
    return model.eval()


def generated(model: GPT, beginning: list[int], count: int, **options) -> list[int]:
    ids = model.generate(torch.tensor([beginning]), count, temperature=0, **options)
    return [id.item() for id in ids]


def test_without_a_penalty_the_likeliest_comes_again_and_again():
    assert generated(preferring(3, 5, 2), [0], 4) == [3, 3, 3, 3]


def test_repetition_penalty_makes_way_for_ids_that_have_not_come():
    assert generated(preferring(3, 5, 2), [0], 3, repetition_penalty=2.0) == [3, 5, 2]


def test_repetition_penalty_counts_the_beginning_too():
    assert generated(preferring(3, 5, 2), [3], 2, repetition_penalty=2.0) == [5, 2]


def test_a_repetition_penalty_below_1_likes_what_has_come():
    assert generated(preferring(3, 5, 2), [2], 2, repetition_penalty=0.5) == [2, 2]


def test_repetition_penalty_makes_unlikely_ids_unlikelier():
    """Where all logits lie below zero, dividing would do the opposite."""
    model = preferring(3, 5)
    with torch.no_grad():
        model.ln_f.weight.neg_()
    favourite, *_ = generated(model, [0], 1)
    assert generated(model, [favourite], 1, repetition_penalty=5.0) != [favourite]


# The beginning ------------------------------------------------------------------------------

STORY = b"Once upon a time there was a fox. The end."


def test_stories_go_to_standard_output_and_nothing_else_does(generate, reciter):
    out, notes = generate(reciter(STORY), "--num_samples=2")
    assert stories_in(out) == [STORY.decode()] * 2
    assert "best.pt of" in notes


def test_a_story_starts_with_the_start_text(generate, reciter):
    """This model only goes on rightly where end of text stands in front, as in training."""
    out, _ = generate(reciter(STORY), "--start=Once upon", "--num_samples=1")
    assert out == STORY.decode() + "\n"


def test_the_start_text_may_be_any_text(generate, reciter):
    out, _ = generate(reciter(STORY), "--start=Öxi upon", "--num_samples=1", "--stream=True")
    assert out == "Öxi upon a time there was a fox. The end.\n"


def test_end_of_text_at_the_beginning_of_a_start_is_the_one_before_every_story(generate, reciter):
    folder = reciter(STORY)
    out, _ = generate(folder, "--start=<|endoftext|>Once", "--num_samples=1")
    assert out == STORY.decode() + "\n"
    out, _ = generate(folder, "--start=Once<|endoftext|>", "--num_samples=1")
    assert out.startswith("Once<|endoftext|>")  # there it is plain text


def test_top_k_0_keeps_all(generate, run):
    assert generate(run, "--top_k=0")[0] == generate(run)[0]


@pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
def test_the_start_text_may_stand_in_a_file(generate, reciter, tmp_path, ending):
    (tmp_path / "start.txt").write_bytes(b"Once upon" + ending.encode())
    out, _ = generate(reciter(STORY), f"--start=FILE:{tmp_path / 'start.txt'}", "--num_samples=1")
    assert out == STORY.decode() + "\n"


def test_the_start_text_may_come_from_standard_input(reciter):
    options = ("--start=-", "--num_samples=1", "--device=cpu", "--dtype=float32")
    line = [sys.executable, ROOT / "sample.py", f"--out_dir={reciter(STORY)}", *options]
    done = subprocess.run(line, input="Öxe upon\n".encode(), capture_output=True, check=True)
    assert done.stdout.decode() == "Öxe upon" + STORY.decode()[9:] + "\n"


def test_a_missing_start_file_is_named():
    with pytest.raises(UserError, match=r"^cannot read none\.txt: No such file or directory$"):
        sample.read_prompt("FILE:none.txt")


def test_a_start_file_that_is_not_utf8_is_named(tmp_path):
    (tmp_path / "latin.txt").write_bytes("Öx".encode("latin-1"))
    with pytest.raises(UserError, match=r"latin\.txt is not UTF-8 text"):
        sample.read_prompt(f"FILE:{tmp_path / 'latin.txt'}")


def test_a_start_longer_than_the_window_is_said_and_works(generate, reciter):
    """The model reads the last half window, so this one goes on with its eighth letter."""
    folder = reciter(b"abcdefghijklmno", window=16)
    out, notes = generate(folder, f"--start={'x' * 40}", "--num_samples=2", tokens=5)
    assert stories_in(out) == ["x" * 40 + "hijkl"] * 2
    assert "the prompt has 41 tokens; the model reads only the last of them" in notes


@pytest.mark.parametrize("length", [14, 15, 16, 17])
def test_a_start_about_as_long_as_the_window_works(generate, reciter, length):
    folder = reciter(b"abcdefgh", window=16)
    out, notes = generate(folder, f"--start={'x' * length}", "--num_samples=1", tokens=20)
    assert out.startswith("x" * length)
    assert ("the model reads only the last" in notes) == (length + 1 > 16)


def test_a_story_may_be_longer_than_the_window(run):
    told = pieces_of(run, max_new_tokens=100, stop=False)
    assert len(told) == 101


# The end ------------------------------------------------------------------------------------


def test_a_story_stops_where_the_model_ends_it(generate, reciter):
    out, notes = generate(reciter(b"Hi.", b"More."), "--num_samples=1")
    assert out == "Hi.\n"
    assert "cut off" not in notes


def test_stop_false_goes_on_behind_the_end(generate, reciter):
    folder = reciter(b"Hi.", b"More.")
    out, notes = generate(folder, "--stop=False", "--num_samples=1", tokens=10)
    assert out == "Hi.<|endoftext|>More.<|endoftext|>\n"
    assert "cut off" not in notes


def test_a_story_that_is_cut_off_is_said_to_be(generate, reciter):
    out, notes = generate(reciter(STORY), "--num_samples=1", tokens=4)
    assert out == "Once\n"
    assert "(1 of 1 cut off after 4 tokens; raise --max_new_tokens" in notes


def test_an_end_that_just_fits_is_no_cut(generate, reciter):
    assert "cut off" not in generate(reciter(b"Hi."), "--num_samples=1", tokens=4)[1]
    assert "cut off" in generate(reciter(b"Hi.", name="again"), "--num_samples=1", tokens=3)[1]


def test_a_streamed_story_that_is_cut_off_is_said_to_be_as_well(generate, reciter):
    _, notes = generate(reciter(STORY), "--num_samples=1", "--stream=True", tokens=4)
    assert "cut off after 4 tokens" in notes


def test_each_story_of_a_batch_ends_for_itself(reciter):
    """This model says a or ends, each with chance one half, so stories end at different times."""
    model, tokenizer, _ = load_model(reciter())
    with torch.no_grad():
        model.wpe.weight[:, [ord("a"), tokenizer.end_of_text]] = 100.0
    told = list(generate_stories(model, tokenizer, CPU, count=8, max_new_tokens=60, seed=3))
    ends = [next(t for t, row in enumerate(told) if row[i].ended) for i in range(8)]
    assert len(set(ends)) > 2
    for i, end in enumerate(ends):
        assert [row[i].text for row in told] == ["a"] * end + [""] * (len(told) - end)
        assert all(row[i].ended for row in told[end:])


# Streaming ----------------------------------------------------------------------------------

LETTERS = "a ö 好 🦊é"


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_weights_that_give_no_probabilities_are_named(run, temperature):
    model, tokenizer, _ = load_model(run)
    with torch.no_grad():
        model.wte.weight.fill_(1e38)  # finite, but not their products
    sampling = Sampling(temperature)
    with pytest.raises(UserError, match="its weights are damaged"):
        list(generate_stories(model, tokenizer, CPU, max_new_tokens=5, sampling=sampling))


def test_streaming_yields_whole_characters_only(reciter):
    told = pieces_of(reciter(LETTERS.encode()), max_new_tokens=60)
    pieces = [row[0].text for row in told if row[0].text]
    assert pieces == list(LETTERS)


def test_streamed_pieces_come_as_soon_as_their_character_is_whole(reciter):
    told = pieces_of(reciter("好a".encode()), max_new_tokens=60)
    assert [row[0].text for row in told] == ["", "", "好", "a", "", ""]
    assert [row[0].ended for row in told] == [False] * 4 + [True] * 2


def test_a_story_cut_off_inside_a_character_shows_the_replacement_sign(generate, reciter):
    folder = reciter("好a".encode())
    assert generate(folder, "--num_samples=1", tokens=2)[0] == "\ufffd\n"
    assert generate(folder, "--num_samples=1", "--stream=True", tokens=2)[0] == "\ufffd\n"


def test_a_story_that_ends_inside_a_character_shows_the_replacement_sign(generate, reciter):
    folder = reciter("a好".encode()[:-1])
    assert generate(folder, "--num_samples=1")[0] == "a\ufffd\n"
    assert generate(folder, "--num_samples=1", "--stream=True")[0] == "a\ufffd\n"


def test_the_pieces_of_any_tokens_join_to_their_text(run):
    """An untrained model: its bytes are seldom whole characters."""
    model, tokenizer, _ = load_model(run)
    idx = torch.tensor([[tokenizer.end_of_text]])
    generator = torch.Generator().manual_seed(4)
    ids = [id.item() for id in model.eval().generate(idx, 300, generator=generator)]
    told = generate_stories(model, tokenizer, CPU, max_new_tokens=300, seed=4, stop=False)
    text = collect_stories(told, "", 1)[0].text
    assert text.replace("<|endoftext|>", "") == tokenizer.decode(ids)


def test_streaming_several_stories_shows_them_one_after_the_other(generate, reciter):
    out, _ = generate(reciter(LETTERS.encode()), "--stream=True", "--num_samples=3")
    assert stories_in(out) == [LETTERS] * 3


def test_telling_leaves_the_model_in_the_mode_it_was_in(run):
    model, tokenizer, _ = load_model(run)
    for training in (True, False):
        model.train(training)
        list(generate_stories(model, tokenizer, CPU, max_new_tokens=2))
        assert model.training is training


@pytest.mark.parametrize(("dtype", "alike"), [("float32", 64), ("bfloat16", 33)])
def test_a_model_made_ready_for_telling_is_a_copy_that_tells_the_same(run, dtype, alike):
    model, tokenizer, _ = load_model(run)
    before = {name: weights.clone() for name, weights in model.state_dict().items()}
    hardware = device.select_hardware("cpu", dtype)
    ready = prepare_for_generation(model, hardware)
    stories = []
    for gen_model, precision in ((ready, hardware), (model, CPU)):
        told = generate_stories(gen_model, tokenizer, precision, "", 64, max_new_tokens=8, seed=3)
        stories.append(collect_stories(told, "", 64))
    assert sum(a == b for a, b in zip(*stories, strict=True)) >= alike
    assert ready.wte.weight.stride() == ((1, 320) if dtype == "float32" else (32, 1))
    for name, weights in model.state_dict().items():
        assert weights.dtype == torch.float32 and torch.equal(weights, before[name])
        assert weights.is_contiguous()


def test_listening_no_further_leaves_the_model_in_the_mode_it_was_in(run):
    model, tokenizer, _ = load_model(run)
    told = generate_stories(model.train(), tokenizer, CPU, max_new_tokens=9)
    next(told)
    told.close()
    assert model.training


# In a real process --------------------------------------------------------------------------


def test_interactive_answers_each_line_with_a_story(reciter):
    options = [f"--out_dir={reciter(STORY)}", "--interactive=True", "--device=cpu"]
    told = command("sample.py", *options, input="Once upon\n\nÖxi upon\n")
    again = "Öxi upon a time there was a fox. The end.\n"
    assert told.stdout == f"{STORY.decode()}\n" * 2 + again
    assert "type a prompt" in told.stderr


def test_a_typed_prompt_can_be_edited_and_called_again(reciter):
    ours, theirs = pty.openpty()
    argv = [sys.executable, ROOT / "sample.py", f"--out_dir={reciter(STORY)}", "--interactive"]
    ends = dict.fromkeys(("stdin", "stdout", "stderr"), theirs)
    process = subprocess.Popen(argv, **ends, env=os.environ | {"TERM": "xterm"})
    os.close(theirs)
    shown = b""
    # "Onc upon" and, five places to the left, an e; the line before; the end of the input
    for keys in (b"Onc upon" + 5 * b"\x1b[D" + b"e\r", b"\x1b[A\r", b"\x04"):
        seen = len(shown)
        while b"> " not in shown[seen:]:
            shown += os.read(ours, 4096)
        os.write(ours, keys)
    with contextlib.suppress(OSError):  # how Linux says that the other end is closed
        while part := os.read(ours, 4096):
            shown += part
    os.close(ours)
    assert process.wait() == 0
    told = shown.replace(b"\r", b"").replace(b"\n", b" ")
    assert told.count(STORY) == 2, shown


def test_interactive_stories_differ_from_line_to_line(generate, run, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n\n"))
    first, second = generate(run, "--interactive=True")[0].removesuffix("\n").split("\n", 1)
    assert first != second


def test_the_story_is_utf8_whatever_the_locale(reciter):
    options = [f"--out_dir={reciter(LETTERS.encode())}", "--num_samples=1", "--device=cpu"]
    plain = os.environ | {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    assert command("sample.py", *options, env=plain).stdout == LETTERS + "\n"


# Which run ----------------------------------------------------------------------------------


def test_the_run_trained_last_tells_where_none_is_named(generate, reciter, tmp_path, monkeypatch):
    monkeypatch.setattr(run_module, "ROOT", tmp_path)
    for age, name in ((2, "old"), (1, "new")):
        folder = reciter(name.encode(), name=f"out/{name}")
        os.utime(folder / "ckpt.pt", (1e9 - age, 1e9 - age))
    out, notes = generate(None, "--num_samples=1")
    assert out == "new\n"
    assert "best.pt of out/new" in notes


def test_the_best_weights_tell_unless_the_newest_are_asked_for(generate, reciter):
    folder, later = reciter(b"best"), reciter(b"newest", name="later")
    (later / "ckpt.pt").replace(folder / "ckpt.pt")
    assert generate(folder, "--num_samples=1")[0] == "best\n"
    out, notes = generate(folder, "--num_samples=1", "--checkpoint=ckpt.pt")
    assert out == "newest\n"
    assert "ckpt.pt of" in notes
