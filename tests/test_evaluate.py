"""What evaluate.py says of models whose numbers are known."""

import contextlib
import csv
import io
import json
import math
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from conftest import command, complaint, damaged, make_reciter

import evaluate
from configurator import UserError, parse
from tinystories import dataset as datasets
from tinystories.evaluation import memorization, results, validation
from tinystories.evaluation.copies import Match
from tinystories.files import only_writer, write_json
from tinystories.loss import Loss
from tinystories.run import load_model, read_config
from tinystories.tokenizer import Tokenizer

CAT = "Once there was a cat. The cat sat on a mat."  # what the reciter of most tests recites
PAIRS = [
    ("sense", "Once there was a", " cat.", " dog."),
    ("sense", "Once there was a cat. The cat sat", " on a mat.", " on a hat."),
    ("nonsense", "Once there was a", " cow.", " cat."),
]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Calls evaluate.py in this process, with few short stories; returns what it prints."""
    folder = tmp_path_factory.mktemp("texts")
    pairs, prompts = folder / "pairs.jsonl", folder / "prompts.txt"
    names = ("group", "beginning", "right", "wrong")
    rows = [{"kind": "k"} | dict(zip(names, row, strict=True)) for row in PAIRS]
    pairs.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    prompts.write_text("Once there\nOnce there was a\n", encoding="utf-8")
    defaults = ["--device=cpu", "--dtype=float32", f"--pairs={pairs}", f"--prompts={prompts}"]
    defaults += ["--samples_per_prompt=2", "--max_chars=60"]

    def call(*options) -> str:
        settings = parse(evaluate.Settings, [*defaults, *map(str, options)]).settings
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            evaluate.main(settings)
        return printed.getvalue()

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
    tokenizer.save(folder / "vocabulary.json")
    written = {}
    for split, stories in splits.items():
        with datasets.SplitWriter(folder / f"{split}.bin") as writer:
            text_bytes = sum(len(story.encode()) for story in stories)
            writer.write(tokenizer.encode_stories(stories), len(stories), text_bytes)
        written[split] = writer.metadata()
    about = {"kind": tokenizer.kind, "vocab_size": tokenizer.vocab_size}
    datasets.write_meta(folder, {"settings": {}, "tokenizer": about, "splits": written})
    return folder


@pytest.fixture(scope="module")
def evaluated_cat(table, tmp_path_factory):
    """A model that recites CAT, one of its two training stories: its evaluated run, its table."""
    parent = tmp_path_factory.mktemp("cat")
    folder = make_reciter(parent / "reciter", CAT.encode())
    tokenizer = Tokenizer.load(folder / "vocabulary.json")
    train = ["A dog ran. It was a big dog.", CAT]
    data = write_dataset(parent / "cats", tokenizer, train=train, val=[CAT, "So it was.", CAT])
    write_json(folder / "settings.json", {"dataset": str(data)})
    return folder, table(f"--out_dir={folder}", "--nearest=True")


@pytest.fixture
def cat(evaluated_cat, tmp_path):
    """A copy of the run of `evaluated_cat`, to write into."""
    return shutil.copytree(evaluated_cat[0], tmp_path / "cat")


@pytest.fixture
def result(evaluated_cat) -> dict:
    """The evaluation.json of `evaluated_cat`."""
    return result_in(evaluated_cat[0])


def row(out: str, label: str) -> list[str]:
    """The cells of the first row of a table with this label."""
    line = next(line for line in out.splitlines() if line.strip().startswith(label))
    return line.strip().removeprefix(label).split()


# Validation loss ----------------------------------------------------------------------------


def test_the_loss_over_the_file_is_that_of_the_end_of_training(trained, dataset, table):
    table(f"--out_dir={trained}", "--checkpoint=ckpt.pt", "--what=loss")
    with open(trained / "log.csv", encoding="utf-8") as file:
        last = [row for row in csv.DictReader(file) if row["full_val_loss"]][-1]
    loss, meta = result_in(trained)["loss"], datasets.read_meta(dataset)["splits"]["val"]
    all_text = loss["all_text"]
    assert all_text["nats_per_token"] == pytest.approx(float(last["full_val_loss"]), rel=1e-5)
    assert all_text["bits_per_byte"] == pytest.approx(
        float(last["full_val_bits_per_byte"]), rel=1e-5
    )
    assert all_text["perplexity"] == pytest.approx(math.exp(all_text["nats_per_token"]))
    # stories and bytes are those of the dataset
    assert (loss["stories"], loss["bytes"]) == (meta["stories"], meta["bytes"])
    assert loss["key"]["sha256"] == meta["sha256"]
    assert loss["per_story"]["tokens"] == meta["tokens"]


def nats_one_by_one(model, ids: list[int], block_size: int) -> float:
    """The loss over a story, from a separate forward pass for each of its tokens."""
    total, step = 0.0, block_size - block_size // 2
    for i in range(1, len(ids)):
        start = max(0, -(-(i - block_size) // step)) * step
        logits = model(torch.tensor([ids[start:i]]))[0, -1]
        total -= logits.log_softmax(0)[ids[i]].item()
    return total


def test_each_story_by_itself_is_predicted_from_its_own_tokens_alone(trained, tmp_path, table):
    model, tokenizer, _ = load_model(trained)
    stories = ["The cat sat on the mat. " * 5, "A dog came by.", "So they played all day. " * 4]
    source = tmp_path / "stories.jsonl"
    source.write_text("\n".join(map(json.dumps, stories)), encoding="utf-8")
    table(f"--out_dir={trained}", "--what=loss", f"--val_source={source}")
    end = tokenizer.end_of_text
    ids = [[end, *tokenizer.encode(story), end] for story in stories]
    assert max(map(len, ids)) > 2 * 32  # of several windows
    with torch.no_grad():
        total = sum(nats_one_by_one(model, story, 32) for story in ids)
    per_story = result_in(trained)["loss"]["per_story"]
    assert per_story["tokens"] == sum(map(len, ids)) - 3
    assert per_story["nats_per_token"] == pytest.approx(total / per_story["tokens"], rel=1e-5)


def test_a_memorized_story_costs_nothing(cat, tmp_path, table):
    source = tmp_path / "mine.jsonl"
    source.write_text(json.dumps({"text": CAT}) + "\n" + json.dumps(CAT), encoding="utf-8")
    out = table(f"--out_dir={cat}", f"--val_source={source}", "--what=loss")
    loss = result_in(cat)["loss"]
    assert loss["per_story"]["bits_per_byte"] < 1e-6
    assert loss["per_story"]["perplexity"] == pytest.approx(1)
    assert loss["stories"] == 2
    assert loss["bytes"] == 2 * len(CAT)
    assert "0.0000-0.0000" in out


def test_a_story_shorter_than_a_window_has_a_loss_and_no_interval(cat, tmp_path, table):
    (tmp_path / "short.jsonl").write_text('"Once there"', encoding="utf-8")
    out = table(f"--out_dir={cat}", f"--val_source={tmp_path / 'short.jsonl'}", "--what=loss")
    all_text, per_story = (result_in(cat)["loss"][part] for part in ("all_text", "per_story"))
    assert all_text["tokens"] == len("Once there")  # without the first, with end of text
    assert per_story["bits_per_byte_95"] is None
    assert row(out, "95 % interval") == ["n/a"]


def test_the_interval_is_that_of_a_mean_where_stories_are_equally_long():
    bits = [3.0, 5.0, 4.0, 8.0]
    losses = [Loss(b * 10 * math.log(2), 1, 10) for b in bits]
    error = 1.96 * np.std(bits, ddof=1) / 2
    assert validation.interval_of_mean(losses) == pytest.approx([5 - error, 5 + error])


# Minimal pairs ------------------------------------------------------------------------------


def test_the_continuation_that_the_model_would_write_wins(evaluated_cat, result):
    groups = result["pairs"]["groups"].items()
    assert {name: part["proportion"] for name, part in groups} == {"sense": 1, "nonsense": 0}
    assert result["pairs"]["all"]["proportion"] == 2 / 3
    assert row(evaluated_cat[1], "all, of 3")[0] == "66.7"


def test_a_pair_longer_than_the_window_is_read_in_several(trained, tmp_path, table):
    pairs = tmp_path / "long.jsonl"
    pair = {"group": "g", "kind": "k", "beginning": "The cat sat. " * 30 + "The"}
    pairs.write_text(json.dumps(pair | {"right": " cat.", "wrong": " dog."}), encoding="utf-8")
    table(f"--out_dir={trained}", "--what=pairs", f"--pairs={pairs}")
    assert result_in(trained)["pairs"]["all"]["count"] == 1


@pytest.mark.parametrize(
    ("correct", "of", "low", "high"),
    [(8, 10, 0.4902, 0.9433), (0, 10, 0, 0.2775), (10, 10, 0.7225, 1), (50, 100, 0.4038, 0.5962)],
)
def test_wilsons_interval(correct, of, low, high):
    part = results.proportion_with_ci([True] * correct + [False] * (of - correct))
    assert (part["low"], part["high"]) == pytest.approx((low, high), abs=1e-4)


# Generated stories --------------------------------------------------------------------------


def test_what_is_measured_is_what_the_model_wrote(result):
    generated = result["generation"]
    assert generated["ended"]["count"] == 4
    assert generated["ended"]["proportion"] == 1
    # nine words after the one prompt, seven after the other
    assert generated["words"] == {"mean": 8, "median": 8}
    assert generated["self_bleu"] == {"mean": pytest.approx(1), "pairs": 4}
    assert generated["seq_rep_4"] == 0
    assert generated["oov_rate"] == 0


def test_the_generated_stories_are_kept(evaluated_cat):
    path = evaluated_cat[0] / "evaluation_stories.jsonl"
    stories = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert stories == [
        {"beginning": prompt, "story": CAT, "ended": True}
        for prompt in ("Once there", "Once there", "Once there was a", "Once there was a")
    ]


def test_a_story_that_is_too_long_has_not_ended(cat, table):
    table(f"--out_dir={cat}", "--what=generation", "--max_chars=5")
    assert result_in(cat)["generation"]["ended"]["proportion"] == 0
    line = (cat / "evaluation_stories.jsonl").read_text(encoding="utf-8").splitlines()[0]
    assert json.loads(line)["story"] == "Once there was "


def test_words_that_the_training_text_lacks_are_counted(reciter, cat, table):
    blorp = reciter(b"Once there was a blorp.")
    data = read_config(cat)["dataset"]
    out = table(f"--out_dir={blorp}", "--what=generation", f"--dataset={data}")
    # "was a blorp" after the one prompt and "blorp" after the other, twice each
    assert result_in(blorp)["generation"]["oov_rate"] == 4 / 8
    assert row(out, "words not in training text")[0] == "50.00"


def test_without_the_dataset_such_words_are_not_counted(reciter, table):
    out = table(f"--out_dir={reciter(CAT.encode())}", "--what=generation,pairs")
    assert row(out, "words not in training text") == ["n/a"]


# Memorization -------------------------------------------------------------------------------


def test_a_memorized_story_is_found_in_the_training_text(evaluated_cat, result):
    copied = result["memorization"]
    assert copied["copied_words"]["median"] == 8
    assert copied["copy_rate"]["proportion"] == 1
    assert copied["closest"][0]["nearest_story"] == CAT
    assert "NEAREST TRAINING STORY" in evaluated_cat[1]


def test_real_stories_are_next_to_the_generated_ones(evaluated_cat, result):
    real, copied = (result[part]["validation_stories"] for part in ("generation", "memorization"))
    assert real["stories"] == 3  # all validation stories, fewer than the four generated ones
    assert real["words"] == {"mean": 5, "median": 6}  # "The cat sat on a mat." twice, "So it was."
    assert real["oov_rate"] == 1 / 15  # "so"
    assert copied["copied_words"]["median"] == 6
    assert 0 < real["self_bleu"]["mean"] < 1  # two of the three stories are the same
    out = evaluated_cat[1]
    assert out.splitlines()[0].split() == ["reciter", "real", "stories"]
    assert row(out, "words, mean") == ["8.0", "5.0"]


def test_real_stories_of_different_data_have_a_column_each(capsys):
    about = {"step": 1, "parameters": 1, "vocabulary": 257, "block_size": 8}
    results = {}
    for name, copied in (("a", [3, 4]), ("b", [5, 6])):
        stats = memorization.copy_stats([Match(words, "", 0.5, "") for words in copied])
        results[name] = {"run": about, "memorization": {"validation_stories": stats, **stats}}
    evaluate.print_table(results)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["a", "b", "a,", "real"]  # and the fourth column below
    assert "b, real" in [line.strip() for line in lines]


def test_leak_counts_validation_stories_that_were_trained_on(evaluated_cat, table):
    data = read_config(evaluated_cat[0])["dataset"]
    assert table("--leak=True", f"--dataset={data}").splitlines() == [
        "Of 3 validation stories, found in the training text:",
        "  entire story                        2   66.67 %",
        "  first 100 characters                2   66.67 %",
        "  13 consecutive words                0    0.00 %",
    ]


# Judge --------------------------------------------------------------------------------------


class GoodTeacher(BaseHTTPRequestHandler):
    """An endpoint whose model gives every story the same grades, where `status` is 200."""

    status = 200

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        grades = {"grammar": 9, "creativity": 3, "consistency": 8, "plot": 5, "age_group": "C"}
        message = {"message": {"role": "assistant", "content": json.dumps(grades)}}
        body = json.dumps({"choices": [message]}).encode()
        self.send_response(self.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def test_the_generated_stories_are_judged_those_without_grades_again(
    cat, table, tmp_path, monkeypatch
):
    with ThreadingHTTPServer(("127.0.0.1", 0), GoodTeacher) as server:
        threading.Thread(target=server.serve_forever).start()
        judge = [f"--judge_url=http://127.0.0.1:{server.server_port}/v1", "--judge_model=teacher"]
        monkeypatch.setattr(GoodTeacher, "status", 400)  # not asked again
        table(f"--out_dir={cat}", "--what=generation", *judge)
        failed = result_in(cat)["judge"]["failed"]
        monkeypatch.undo()
        out = table(f"--out_dir={cat}", "--what=generation", *judge)
        judged = result_in(cat)["judge"]
        asked = tmp_path / "judge.txt"  # another question
        asked.write_text("Grade this: {beginning}{continuation}")
        monkeypatch.setattr("tinystories.evaluation.judge.PROMPT", asked)
        monkeypatch.setattr(GoodTeacher, "status", 400)
        table(f"--out_dir={cat}", "--what=generation", *judge)
        assert result_in(cat)["judge"]["failed"] == 4
        server.shutdown()
    assert (failed, judged["failed"]) == (4, 0)
    assert judged["means"] == {"grammar": 9, "creativity": 3, "consistency": 8, "plot": 5}
    assert judged["age_groups"] == {"C": 4}
    assert "Judged by teacher" in out


# The cache ----------------------------------------------------------------------------------


def test_the_same_evaluation_writes_the_same_bytes(cat, table):
    first = (cat / "evaluation.json").read_bytes()
    (cat / "evaluation_stories.jsonl").unlink()
    table(f"--out_dir={cat}", "--overwrite=True")
    assert (cat / "evaluation.json").read_bytes() == first
    parts = ["loss", "pairs", "generation", "memorization"]
    assert list(json.loads(first)) == ["run", "checksum", *parts]


def test_the_model_is_named(trained, table):
    table(f"--out_dir={trained}", "--what=pairs")
    about = result_in(trained)["run"]
    assert (about["checkpoint"], about["step"]) == ("best.pt", 10)


def test_what_is_cached_is_not_measured_again(cat, result, table):
    info, parts = result["run"], {name: result[name] for name in evaluate.PARTS if name in result}
    parts["pairs"]["all"]["proportion"] = 0.123
    evaluate.write_results(cat / "evaluation.json", info, parts)
    assert "12.3 %" in table(f"--out_dir={cat}", "--what=pairs")
    assert "66.7 %" in table(f"--out_dir={cat}", "--what=pairs", "--overwrite=True")


def test_the_end_says_where_the_result_is_and_what_was_measured_before(cat, table, capsys):
    table(f"--out_dir={cat}")
    lines = capsys.readouterr().err.splitlines()
    assert "  from evaluation.json (unless --overwrite=True): loss, pairs, " in "\n".join(lines)
    assert f"{cat}/evaluation.json; time: " in " ".join(" ".join(lines).split())
    assert "python sample.py" in lines[-2] + lines[-1]


def test_other_settings_are_measured_and_other_parts_stay(cat, table):
    table(f"--out_dir={cat}", "--what=generation", "--samples_per_prompt=3")
    result = result_in(cat)
    assert result["generation"]["ended"]["count"] == 6
    assert result["pairs"]["all"]["count"] == 3
    assert "memorization" not in result  # it was of the stories that are gone


def test_stories_that_were_changed_are_generated_again(cat, result, table):
    (cat / "evaluation_stories.jsonl").write_text("nothing", encoding="utf-8")
    table(f"--out_dir={cat}", "--what=memorization")
    assert result_in(cat) == result
    assert CAT in (cat / "evaluation_stories.jsonl").read_text(encoding="utf-8")


def test_no_result_of_another_model_stays(cat, reciter, table):
    other = reciter(b"Once there was a cow.", name="cow")
    (cat / "best.pt").write_bytes((other / "best.pt").read_bytes())
    table(f"--out_dir={cat}", "--what=generation")
    assert "pairs" not in result_in(cat)


def test_results_of_earlier_versions_are_measured_again(cat, result, table):
    old = {name: result[name] for name in result.keys() - {"checksum"}}
    old["pairs"] = {"asked": result["pairs"]["key"], "all": {"share": 0.5}}
    write_json(cat / "evaluation.json", old)
    table(f"--out_dir={cat}")
    assert result_in(cat) == result


def test_a_damaged_result_is_never_used(cat, result):
    path, refused = cat / "evaluation.json", 0
    whole = evaluate.read_results(path, result["run"])
    for stored in damaged(result, [None, "x", "\ud800", [1], {"a": []}, -1]):
        path.write_text(json.dumps(stored), encoding="utf-8")
        with contextlib.suppress(UserError):  # no object at all
            read = evaluate.read_results(path, result["run"])
            assert read in ({}, whole)  # whole where only the name of the run is damaged
            refused += not read
    assert refused > 500


def test_what_a_killed_command_left_is_removed(cat, result, table):
    (cat / "evaluation.json.tmp").write_text("{")
    table(f"--out_dir={cat}")
    assert result_in(cat) == result and not list(cat.glob("*.tmp"))


def test_damaged_results_are_measured_again(cat, result, table):
    broken = result | {"loss": [], "pairs": {"key": result["pairs"]["key"]}, "generation": None}
    broken["memorization"] = result["memorization"] | {"closest": [{}]}
    write_json(cat / "evaluation.json", broken)
    table(f"--out_dir={cat}")
    assert result_in(cat) == result


@pytest.mark.parametrize("text", ["", "x", "5", "[]", '{"run": ', "[" * 100_000, "\xff", "null"])
def test_a_file_that_is_no_result_is_named(cat, table, text):
    (cat / "evaluation.json").write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=r"evaluation\.json is damaged .* delete it"):
        table(f"--out_dir={cat}", "--what=pairs")


def test_a_folder_in_place_of_the_result_is_named(cat, table):
    (cat / "evaluation.json").unlink()
    (cat / "evaluation.json").mkdir()
    with pytest.raises(UserError, match="cannot read"):
        table(f"--out_dir={cat}", "--what=pairs")


# Several runs -------------------------------------------------------------------------------


def test_runs_are_side_by_side_and_their_losses_in_a_plot(trained, tmp_path, table):
    other = shutil.copytree(trained, tmp_path / "other")
    plot = tmp_path / "compare.png"
    out = table(f"--compare={trained},{other}", "--what=pairs", f"--plot={plot}")
    assert out.split("\n")[0].split() == ["trained", "other"]
    assert max(map(len, out.splitlines())) <= 80
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert result_in(other) == result_in(trained)


def test_a_run_without_a_log_is_in_the_table_and_not_in_the_plot(trained, cat, tmp_path, table):
    plot = tmp_path / "compare.png"
    out = table(f"--compare={cat},{trained}", "--what=pairs", f"--plot={plot}")
    assert out.split("\n")[0].split() == [cat.name, "trained"]
    assert plot.is_file()


def test_the_best_run_is_the_best_by_story(capsys):
    results = {}
    for name, by_story, concatenated in (("out/a", 0.6, 0.66), ("out/b", 0.61, 0.63)):
        loss = {"stories": 2, "bytes": 9, "all_text": {"bits_per_byte": concatenated}}
        loss["per_story"] = {"bits_per_byte": by_story}
        results[name] = {"run": {"vocabulary": 257}, "loss": loss}
    s = parse(evaluate.Settings, ["--compare=out/a,out/b", "--what=loss"]).settings
    evaluate.print_ending(s, results, 1.0)
    assert "the lowest bits per byte, per story: out/a\n" in capsys.readouterr().err


def test_the_command_that_is_printed_names_the_checkpoint_once(trained, table, capsys):
    table(f"--checkpoint={trained / 'ckpt.pt'}", "--what=pairs")
    said = capsys.readouterr().err
    printed = " ".join(said.partition("stories with it:")[2].replace("\\", "").split())
    assert printed == f"python sample.py --out_dir={trained} --checkpoint=ckpt.pt"


def test_another_command_that_evaluates_the_run_is_waited_for(cat, table, monkeypatch):
    monkeypatch.setattr(evaluate, "PATIENCE", 0.1)
    with only_writer(cat / "evaluation.json"):
        line = "evaluation.json is being written by"
        with pytest.raises(UserError, match=line):
            table(f"--out_dir={cat}", "--what=pairs")


def test_the_leak_of_a_run_is_that_of_its_dataset(evaluated_cat, table, capsys):
    run = evaluated_cat[0]
    named = table("--leak=True", f"--dataset={read_config(run)['dataset']}")
    assert table("--leak=True", f"--checkpoint={run / 'ckpt.pt'}") == named
    with pytest.raises(UserError, match=r"there is no run in .*nowhere"):
        table("--leak=True", "--out_dir=nowhere")


def test_losses_of_different_texts_are_named(trained, tmp_path, table, capsys):
    other, plot = shutil.copytree(trained, tmp_path / "other"), f"--plot={tmp_path / 'x.png'}"
    table(f"--compare={trained},{other}", "--what=loss", plot)
    assert "compare" not in capsys.readouterr().err
    result = result_in(other)
    result["loss"]["stories"] += 1
    evaluate.write_results(other / "evaluation.json", result["run"], {"loss": result["loss"]})
    table(f"--compare={trained},{other}", "--what=loss", plot)
    line = "different validation texts: their losses do not compare; use --val_source=FILE\n"
    assert line in capsys.readouterr().err


# Mistakes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--out_dir=nowhere"], "there is no run in .*nowhere"),
        (["--what=loss,beauty"], "choose from loss,pairs,generation,memorization"),
        (["--compare=a,b", "--out_dir=a"], "either out_dir or compare"),
        (["--compare=,"], "run folders, separated by commas"),
        (["--samples_per_prompt=0"], "must be >= 1"),
        (["--judge_url=http://x"], "judge_model"),
        (["--what=judge"], "judge_url"),
        (["--temperature=-1"], "must be >= 0"),
        (["--plot=x.txt"], "ends in .png"),
        (["--compare=a", "--leak=True"], "not compare"),
        (["--nearest=True", "--what=loss"], "memorization"),
        (["--dataset=nothing", "--leak=True"], "nothing is missing; prepare it"),
    ],
)
def test_mistakes_are_named(table, options, message):
    with pytest.raises(UserError, match=message):
        table(*options)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--pairs=nowhere.jsonl", "cannot read nowhere.jsonl"),
        ("--prompts=nowhere.txt", "cannot read nowhere.txt"),
        ("--judge_url=http://[x/v1", "URL"),
    ],
)
def test_bad_inputs_are_named_before_anything_is_measured(cat, table, option, message):
    (cat / "evaluation.json").unlink()
    judge = ["--judge_model=m"] if "judge" in option else []
    with pytest.raises(UserError, match=message):
        table(f"--out_dir={cat}", option, *judge)
    assert not (cat / "evaluation.json").exists()


def test_a_run_without_its_dataset_says_what_can_be_done(reciter, table):
    with pytest.raises(UserError, match="--val_source=FILE"):
        table(f"--out_dir={reciter(CAT.encode())}")


def test_a_dataset_in_other_tokens_is_refused(cat, dataset, table):
    with pytest.raises(UserError, match="another tokenizer"):
        table(f"--out_dir={cat}", f"--dataset={dataset}")


@pytest.mark.parametrize("named", ["another tokenizer", "nothing", 5])
def test_data_that_is_gone_or_has_another_tokenizer_now_is_missing(cat, dataset, table, named):
    named = str(dataset) if named == "another tokenizer" else named
    write_json(cat / "settings.json", {"dataset": named})
    with pytest.raises(UserError, match="is missing or has another tokenizer"):
        table(f"--out_dir={cat}", "--what=memorization")


def test_the_files_of_a_comparison_are_looked_at_first(cat, trained, table):
    with pytest.raises(UserError, match=r"there is no run in .*nowhere"):
        table(f"--compare={trained},{cat / 'nowhere'}")
    with pytest.raises(UserError, match="no file can be written"):
        table(f"--compare={trained}", f"--plot={trained / 'best.pt' / 'x.png'}")


def test_a_run_folder_can_be_named_alone(cat):
    assert evaluate.Settings.bare_argument(str(cat)) == {"out_dir": str(cat)}
    with pytest.raises(UserError, match="nowhere is no run folder, nor a config file"):
        evaluate.Settings.bare_argument("nowhere")
    with pytest.raises(UserError, match="--compare=out/a,out/b"):
        evaluate.Settings.bare_argument("out/a,out/b")


def test_the_command_itself():
    out = command("evaluate.py", "--help").stdout
    assert "--val_source=TEXT" in out
    assert max(map(len, out.splitlines())) <= 80
    assert complaint("evaluate.py", "--what=beauty").startswith("evaluate.py: what=beauty")
