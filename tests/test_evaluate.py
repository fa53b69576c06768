"""What evaluate.py says of a model, held against models whose numbers are known."""

import csv
import json
import math
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from conftest import command, complaint

import evaluate
from configurator import UserError
from tinystories import dataset as tokens
from tinystories import generate as storyteller
from tinystories import run as checkpoint
from tinystories.evaluation import copies as memory
from tinystories.evaluation import report
from tinystories.tokenizer import Tokenizer

MACHINE = ("--device=cpu", "--dtype=float32")
CAT = "Once there was a cat. The cat sat on a mat."  # what the reciter of most tests recites
PAIRS = [
    ("sense", "Once there was a", " cat.", " dog."),
    ("sense", "Once there was a cat. The cat sat", " on a mat.", " on a hat."),
    ("nonsense", "Once there was a", " cow.", " cat."),
]


@pytest.fixture
def table(capsys, tmp_path):
    """Calls evaluate.py in this process, with few short stories; returns what it prints."""
    pairs, beginnings = tmp_path / "pairs.jsonl", tmp_path / "beginnings.txt"
    names = ("group", "beginning", "right", "wrong")
    rows = [{"kind": "k"} | dict(zip(names, row, strict=True)) for row in PAIRS]
    pairs.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    beginnings.write_text("Once there\nOnce there was a\n", encoding="utf-8")
    prompts = [f"--pairs={pairs}", f"--beginnings={beginnings}", "--stories_each=2"]

    def call(*options) -> str:
        capsys.readouterr()
        evaluate.main([*MACHINE, *prompts, "--max_characters=60", *map(str, options)])
        return capsys.readouterr().out

    return call


@pytest.fixture
def trained(run, tmp_path):
    """A copy of the small trained run, to write into."""
    return shutil.copytree(run, tmp_path / "trained")


def result_in(folder) -> dict:
    return json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))


def write_dataset(folder, tokenizer: Tokenizer, **splits: list[str]):
    """Make a dataset of these stories by split, as prepare.py does."""
    folder.mkdir(parents=True)
    tokenizer.save(folder / "tokenizer.json")
    written = {}
    for split, stories in splits.items():
        with tokens.SplitWriter(folder / f"{split}.bin") as writer:
            text_bytes = sum(len(story.encode()) for story in stories)
            writer.write(tokenizer.encode_stories(stories), len(stories), text_bytes)
        written[split] = writer.manifest()
    about = {"vocab_size": tokenizer.vocab_size}
    tokens.write_meta(folder, {"settings": {}, "tokenizer": about, "splits": written})
    return folder


@pytest.fixture
def cat(reciter, tmp_path):
    """The folder of a model that tells CAT by heart, one of its two training stories."""
    folder = reciter(CAT.encode())
    tokenizer = Tokenizer.load(folder / "tokenizer.json")
    train = ["A dog ran. It was a big dog.", CAT]
    data = write_dataset(tmp_path / "cats", tokenizer, train=train, val=[CAT, "So it was.", CAT])
    checkpoint.write_config(folder, {"dataset": str(data)})
    return folder


# Loss --------------------------------------------------------------------------------------


def test_the_loss_over_the_file_is_that_of_the_end_of_training(trained, table):
    table(f"--out_dir={trained}", "--checkpoint=ckpt.pt", "--what=loss")
    with open(trained / "log.csv", encoding="utf-8") as file:
        last = [row for row in csv.DictReader(file) if row["val_loss"]][-1]
    whole = result_in(trained)["loss"]["whole"]
    assert whole["nats_per_token"] == pytest.approx(float(last["val_loss"]), rel=1e-5)
    assert whole["bits_per_byte"] == pytest.approx(float(last["val_bits_per_byte"]), rel=1e-5)
    assert whole["perplexity"] == pytest.approx(math.exp(whole["nats_per_token"]))


def test_stories_and_bytes_are_those_of_the_dataset(trained, dataset, table):
    table(f"--out_dir={trained}", "--what=loss")
    loss, meta = result_in(trained)["loss"], tokens.read_meta(dataset)["splits"]["val"]
    assert (loss["stories"], loss["bytes"]) == (meta["stories"], meta["bytes"])
    assert loss["asked"]["sha256"] == meta["sha256"]
    assert loss["by_story"]["tokens"] == meta["tokens"]


def nats_one_by_one(model, ids: list[int], block_size: int) -> float:
    """The loss over a story, by asking the model anew for each of its tokens."""
    total, step = 0.0, block_size - block_size // 2
    for i in range(1, len(ids)):
        start = max(0, -(-(i - block_size) // step)) * step
        logits = model(torch.tensor([ids[start:i]]))[0, -1]
        total -= logits.log_softmax(0)[ids[i]].item()
    return total


def test_each_story_by_itself_is_predicted_from_its_own_tokens_alone(trained, tmp_path, table):
    model, tokenizer, _ = checkpoint.load_model(trained)
    stories = ["The cat sat on the mat. " * 5, "A dog came by.", "So they played all day. " * 4]
    source = tmp_path / "stories.jsonl"
    source.write_text("\n".join(map(json.dumps, stories)), encoding="utf-8")
    table(f"--out_dir={trained}", "--what=loss", f"--val_source={source}")
    end = tokenizer.end_of_text
    ids = [[end, *tokenizer.encode(story), end] for story in stories]
    assert max(map(len, ids)) > 2 * 32  # of several windows
    with torch.no_grad():
        total = sum(nats_one_by_one(model, story, 32) for story in ids)
    by_story = result_in(trained)["loss"]["by_story"]
    assert by_story["tokens"] == sum(map(len, ids)) - 3
    assert by_story["nats_per_token"] == pytest.approx(total / by_story["tokens"], rel=1e-5)


@pytest.mark.parametrize("length", [2, 3, 9, 10, 11, 24, 60])
@pytest.mark.parametrize("block_size", [1, 2, 7, 8])
def test_windows_predict_each_id_once_and_from_half_a_window_at_least(length, block_size):
    windows = storyteller.text_windows([np.arange(length)], block_size)
    predicted = []
    for window in windows:
        assert window.length <= block_size
        ids = range(window.start + window.new + 1, window.start + window.length + 1)
        assert all(i - window.start >= min(i, block_size // 2) for i in ids)
        predicted += ids
    assert predicted == list(range(1, length))


def test_a_story_known_by_heart_costs_nothing(cat, tmp_path, table):
    source = tmp_path / "mine.jsonl"
    source.write_text(json.dumps({"text": CAT}) + "\n" + json.dumps(CAT), encoding="utf-8")
    out = table(f"--out_dir={cat}", f"--val_source={source}", "--what=loss")
    loss = result_in(cat)["loss"]
    assert loss["by_story"]["bits_per_byte"] < 1e-6
    assert loss["by_story"]["perplexity"] == pytest.approx(1)
    assert loss["stories"] == 2
    assert loss["bytes"] == 2 * len(CAT)
    assert "0.0000-0.0000" in out


def test_a_story_shorter_than_a_window_has_a_loss_and_no_interval(cat, tmp_path, table):
    (tmp_path / "short.jsonl").write_text('"Once there"', encoding="utf-8")
    out = table(f"--out_dir={cat}", f"--val_source={tmp_path / 'short.jsonl'}", "--what=loss")
    whole, by_story = (result_in(cat)["loss"][part] for part in ("whole", "by_story"))
    assert whole["tokens"] == len("Once there")  # without the first, with end of text
    assert by_story["bits_per_byte_95"] is None
    assert "n/a" in next(line for line in out.splitlines() if "95 % interval" in line)


def test_the_interval_is_that_of_a_mean_where_stories_are_equally_long():
    bits = [3.0, 5.0, 4.0, 8.0]
    losses = [storyteller.Loss(b * 10 * math.log(2), 1, 10) for b in bits]
    error = 1.96 * np.std(bits, ddof=1) / 2
    assert evaluate.interval_of_mean(losses) == pytest.approx([5 - error, 5 + error])


# Story pairs -------------------------------------------------------------------------------


def test_a_model_wins_the_pairs_whose_right_side_it_would_say(cat, table):
    out = table(f"--out_dir={cat}", "--what=pairs")
    pairs = result_in(cat)["pairs"]
    assert {group: part["share"] for group, part in pairs["groups"].items()} == {
        "sense": 1.0,
        "nonsense": 0.0,
    }
    assert pairs["all"]["share"] == 2 / 3
    assert "all, of 3" in out


def test_a_pair_is_decided_by_the_loss_per_byte_of_the_continuation(run):
    model, tokenizer, _ = checkpoint.load_model(run)
    beginning = [tokenizer.end_of_text, *tokenizer.encode("The cat sat")]
    ids = beginning + tokenizer.encode(" down.")
    with torch.no_grad():
        logs = model(torch.tensor([ids]))[0].log_softmax(-1)
    nats = -sum(logs[i - 1, ids[i]].item() for i in range(len(beginning), len(ids)))
    hardware = evaluate.device.choose("cpu", "float32")
    lengths = tokenizer.byte_lengths()
    (loss,) = storyteller.measure_texts(model, [np.array(ids)], [len(beginning)], lengths, hardware)
    assert loss.bits_per_byte == pytest.approx(nats / math.log(2) / len(" down."), rel=1e-5)


def test_a_pair_longer_than_the_window_is_read_in_several(trained, tmp_path, table):
    pairs = tmp_path / "long.jsonl"
    pair = {"group": "g", "kind": "k", "beginning": "The cat sat. " * 30 + "The"}
    pairs.write_text(json.dumps(pair | {"right": " cat.", "wrong": " dog."}), encoding="utf-8")
    table(f"--out_dir={trained}", "--what=pairs", f"--pairs={pairs}")
    assert result_in(trained)["pairs"]["all"]["count"] == 1


@pytest.mark.parametrize(
    ("won", "of", "low", "high"),
    [(8, 10, 0.4902, 0.9433), (0, 10, 0, 0.2775), (10, 10, 0.7225, 1), (50, 100, 0.4038, 0.5962)],
)
def test_wilsons_interval(won, of, low, high):
    part = evaluate.share([True] * won + [False] * (of - won))
    assert (part["low"], part["high"]) == pytest.approx((low, high), abs=1e-4)


# Stories told ------------------------------------------------------------------------------


def test_what_is_measured_is_what_the_model_wrote(cat, table):
    table(f"--out_dir={cat}", "--what=generation")
    told = result_in(cat)["generation"]
    assert told["ended"]["count"] == 4
    assert told["ended"]["share"] == 1
    assert told["words"] == {"mean": 8, "median": 8}  # nine after the one beginning, seven after...
    assert told["self_bleu"] == {"mean": pytest.approx(1), "pairs": 4}
    assert told["repeated_4grams"] == 0
    assert told["unknown_words"] == 0


def test_the_stories_told_are_kept(cat, table):
    table(f"--out_dir={cat}", "--what=generation")
    lines = (cat / "evaluation_stories.jsonl").read_text(encoding="utf-8").splitlines()
    expected = {"beginning": "Once there", "story": CAT, "ended": True}
    assert json.loads(lines[0]) == expected
    assert [json.loads(line)["beginning"] for line in lines[1:]] == [
        *("Once there", "Once there was a", "Once there was a")
    ]


def test_a_story_that_goes_on_for_too_long_has_not_ended(cat, table):
    table(f"--out_dir={cat}", "--what=generation", "--max_characters=5")
    assert result_in(cat)["generation"]["ended"]["share"] == 0
    line = (cat / "evaluation_stories.jsonl").read_text(encoding="utf-8").splitlines()[0]
    assert json.loads(line)["story"] == "Once there was "


def test_words_that_the_training_text_lacks_are_unknown(reciter, cat, table):
    dog = reciter(b"Once there was a blorp.", name="blorp")
    data = checkpoint.read_config(cat)["dataset"]
    out = table(f"--out_dir={dog}", "--what=generation", f"--dataset={data}")
    # "was a blorp" after the one beginning and "blorp" after the other, twice each
    assert result_in(dog)["generation"]["unknown_words"] == 4 / 8
    assert "50.00 %" in out


def test_without_the_dataset_unknown_words_are_not_said(reciter, table):
    out = table(f"--out_dir={reciter(CAT.encode())}", "--what=generation,pairs")
    assert "n/a" in next(line for line in out.splitlines() if "not in training" in line)


# Memory ------------------------------------------------------------------------------------


def test_a_story_by_heart_is_found_in_the_training_text(cat, table):
    out = table(f"--out_dir={cat}", "--what=memory", "--nearest=True")
    copied = result_in(cat)["memory"]
    assert copied["copied_words"]["median"] == 8
    assert copied["copies"]["share"] == 1
    assert copied["closest"][0]["nearest_story"] == CAT
    assert "NEAREST TRAINING STORY" in out


def test_real_stories_stand_beside_those_told(cat, table):
    out = table(f"--out_dir={cat}", "--what=memory,generation")
    told, copied = (result_in(cat)[part]["real"] for part in ("generation", "memory"))
    assert told["stories"] == 3  # all validation stories, fewer than the four told
    assert told["words"] == {"mean": 5, "median": 6}  # "The cat sat on a mat." twice, "So it was."
    assert told["unknown_words"] == 1 / 15  # "so"
    assert copied["copied_words"]["median"] == 6
    assert out.splitlines()[0].split() == ["reciter", "real", "stories"]
    assert next(line.split()[2:] for line in out.splitlines() if "words, mean" in line) == [
        "8.0",
        "5.0",
    ]


def test_real_stories_of_different_data_stand_apart(capsys):
    about = {"step": 1, "parameters": 1, "vocabulary": 257, "block_size": 8}
    results = {}
    for name, copied in (("a", [3, 4]), ("b", [5, 6])):
        matches = [memory.Match(words, "", 0.5, "") for words in copied]
        part = {"real": evaluate.about_copies(matches), **evaluate.about_copies(matches)}
        results[name] = {"run": about, "memory": part}
    evaluate.print_table(results)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["a", "b", "a,", "real"]  # and the fourth column below
    assert "b, real" in [line.strip() for line in lines]


def test_leak_counts_validation_stories_that_were_trained_on(cat, table):
    data = checkpoint.read_config(cat)["dataset"]
    out = table("--leak=True", f"--dataset={data}")
    assert out.splitlines()[:2] == [
        "Of 3 validation stories, the training stories hold",
        "  all words                           2   66.67 %",
    ]


# Judge -------------------------------------------------------------------------------------


class GoodTeacher(BaseHTTPRequestHandler):
    """An endpoint whose model gives every story the same grades."""

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        grades = {"grammar": 9, "creativity": 3, "consistency": 8, "plot": 5, "age_group": "C"}
        message = {"message": {"role": "assistant", "content": json.dumps(grades)}}
        body = json.dumps({"choices": [message]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def test_the_stories_told_are_judged(cat, table):
    with ThreadingHTTPServer(("127.0.0.1", 0), GoodTeacher) as server:
        threading.Thread(target=server.serve_forever).start()
        where = [f"--judge_url=http://127.0.0.1:{server.server_port}/v1", "--judge_model=teacher"]
        out = table(f"--out_dir={cat}", "--what=generation", *where)
        server.shutdown()
    judged = result_in(cat)["judge"]
    assert judged["means"] == {"grammar": 9, "creativity": 3, "consistency": 8, "plot": 5}
    assert judged["age_groups"] == {"C": 4}
    assert "Judged by teacher" in out


# The result --------------------------------------------------------------------------------


def test_the_same_evaluation_writes_the_same_bytes(trained, table):
    what = "--what=loss,pairs,generation,memory"
    table(f"--out_dir={trained}", what)
    first = (trained / "evaluation.json").read_bytes()
    table(f"--out_dir={trained}", what, "--overwrite=True")
    assert (trained / "evaluation.json").read_bytes() == first
    result = json.loads(first)
    assert list(result) == ["run", "loss", "pairs", "generation", "memory"]
    assert result["run"]["checkpoint"] == "best.pt"
    assert result["run"]["step"] == 10


def test_what_is_known_is_not_measured_again(cat, table):
    table(f"--out_dir={cat}", "--what=pairs")
    result = result_in(cat)
    result["pairs"]["all"]["share"] = 0.123
    (cat / "evaluation.json").write_text(json.dumps(result), encoding="utf-8")
    assert "12.3 %" in table(f"--out_dir={cat}", "--what=pairs")
    assert "66.7 %" in table(f"--out_dir={cat}", "--what=pairs", "--overwrite=True")


def test_other_settings_are_measured_anew_and_other_parts_stay(cat, table):
    table(f"--out_dir={cat}", "--what=pairs,generation")
    table(f"--out_dir={cat}", "--what=generation", "--stories_each=3")
    result = result_in(cat)
    assert result["generation"]["ended"]["count"] == 6
    assert result["pairs"]["all"]["count"] == 3


def test_what_is_known_of_stories_that_are_gone_does_not_stay(cat, table):
    table(f"--out_dir={cat}", "--what=memory")
    table(f"--out_dir={cat}", "--what=generation", "--stories_each=3")
    assert "memory" not in result_in(cat)


def test_nothing_that_is_known_of_another_model_stays(cat, reciter, table):
    table(f"--out_dir={cat}", "--what=pairs")
    other = reciter(b"Once there was a cow.", name="cow")
    (cat / "best.pt").write_bytes((other / "best.pt").read_bytes())
    table(f"--out_dir={cat}", "--what=generation")
    assert "pairs" not in result_in(cat)


def test_runs_stand_side_by_side_and_their_curves_in_a_picture(trained, tmp_path, table):
    other = shutil.copytree(trained, tmp_path / "other")
    picture = tmp_path / "compare.png"
    out = table(f"--compare={trained},{other}", "--what=pairs", f"--picture={picture}")
    assert out.split("\n")[0].split() == ["trained", "other"]
    assert max(map(len, out.splitlines())) <= 80
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert result_in(other) == result_in(trained)


def test_runs_of_one_name_are_told_apart_by_their_folders():
    assert evaluate.headings(["out/a/small", "out/b/small"]) == ["a/small", "b/small"]
    assert evaluate.headings(["out/a", "out/b/"]) == ["a", "b"]


def test_a_long_name_is_cut_at_its_front():
    first = report.table(["a/" + "x" * 100], [{"Run": {"steps": "1"}}]).splitlines()[0]
    assert first.strip() == "..." + "x" * 46
    assert len(first) <= 80


def test_more_runs_than_the_screen_takes_stand_below_each_other():
    columns = [{"Run": {"steps": str(i)}} for i in range(5)]
    lines = report.table([f"run{i}" for i in range(5)], columns).splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.split() for line in lines if "run" in line] == [
        ["run0", "run1", "run2"],
        ["run3", "run4"],
    ]
    assert "4" in lines[-1]


def test_a_row_that_all_columns_beside_each_other_lack_is_left_out():
    columns = [{"Run": {"steps": "1"}}] * 3 + [{"Told": {"stories": "2"}}]
    below = report.table(["a", "b", "c", "d"], columns).split("\n\n")[1]
    assert [line.split() for line in below.splitlines()] == [["d"], ["Told"], ["stories", "2"]]


# Mistakes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--out_dir=nowhere"], "there is no run with best.pt in nowhere"),
        (["--what=loss,beauty"], "choose from loss,pairs,generation,memory"),
        (["--compare=a,b", "--out_dir=a"], "either out_dir or compare"),
        (["--compare=,"], "folders with commas between"),
        (["--stories_each=0"], "at least 1"),
        (["--judge_url=http://x"], "judge_model"),
        (["--what=judge"], "judge_url"),
        (["--judge_url=http://[x/v1", "--judge_model=m"], "no endpoint's URL"),
        (["--temperature=-1"], "must not be negative"),
        (["--picture=x.txt"], "ends in .png"),
        (["--compare=a", "--leak=True"], "not compare"),
        (["--nearest=True", "--what=loss"], "memory"),
        (["--dataset=nothing", "--leak=True"], "there is no dataset nothing"),
    ],
)
def test_mistakes_are_named(table, options, message):
    with pytest.raises(UserError, match=message):
        table(*options)


def test_a_run_without_its_dataset_says_what_can_be_done(reciter, table):
    with pytest.raises(UserError, match="--val_source=FILE"):
        table(f"--out_dir={reciter(CAT.encode())}")


def test_a_dataset_in_other_tokens_is_refused(reciter, dataset, table):
    with pytest.raises(UserError, match="another tokenizer"):
        table(f"--out_dir={reciter(CAT.encode())}", f"--dataset={dataset}")


def test_data_prepared_anew_in_other_tokens_is_not_the_one_trained_on(cat, dataset, table):
    checkpoint.write_config(cat, {"dataset": str(dataset)})
    with pytest.raises(UserError, match="trained on is not there"):
        table(f"--out_dir={cat}", "--what=memory")


def test_the_files_of_a_comparison_are_looked_at_first(trained, tmp_path, table):
    shutil.copytree(trained, tmp_path / "bare")
    (tmp_path / "bare" / "log.csv").unlink()
    with pytest.raises(UserError, match="no run with log"):
        table(f"--compare={trained},{tmp_path / 'bare'}")
    with pytest.raises(UserError, match="no file can be written"):
        table(f"--compare={trained}", f"--picture={trained / 'best.pt' / 'x.png'}")


def test_the_command_itself():
    assert "--val_source=None" in command("evaluate.py", "--help").stdout
    assert complaint("evaluate.py", "--what=beauty").startswith("evaluate.py: what=beauty")
