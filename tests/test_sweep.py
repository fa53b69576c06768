"""sweep.py: real sweeps of tiny runs, stopped and gone on with; what it draws; what it refuses."""

import csv
import json
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time

import pytest
from conftest import ROOT, SMALL, command

import prepare
import sweep
from configurator import UserError, parse
from tinystories import dataset as tokens

TINY = [option for option in SMALL if not option.startswith("--n_head")]
GOOD = ("vocab_size=280_n_head=2", "vocab_size=280_n_head=4")  # the runs that can train


def refusal(*argv) -> str:
    """The one line with which a sweep, asked for in this process, is refused."""
    with pytest.raises(UserError) as refused:
        sweep.main([str(argument) for argument in argv])
    assert "\n" not in str(refused.value)
    return str(refused.value)


def drawn(*argv) -> list[dict]:
    """The combinations that a command line asks for."""
    s, _, given = sweep.read(argv)
    return sweep.combinations(given, s)


def planned(*argv, dataset="tales") -> list[sweep.Run]:
    """The runs that a command line asks for, where no config names another dataset."""
    s, _, given = sweep.read([str(argument) for argument in argv])
    swept = [name for name, values in given.items() if len(values) > 1]
    return sweep.plan(given, swept, s, ROOT / "out/sweeps/x", str(dataset))


# A real sweep ---------------------------------------------------------------------------------


def start_and_stop(argv, log, number) -> tuple[int, str]:
    """Start a sweep and send it a signal as soon as a run's log has grown by some steps."""

    def lines() -> int:
        return log.read_text().count("\n") if log.exists() else 0

    process = subprocess.Popen(
        [sys.executable, ROOT / "sweep.py", *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    )
    goal = lines() + 8
    while lines() < goal:
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.01)
    process.send_signal(number)
    told, _ = process.communicate(timeout=120)
    return process.returncode, told


@pytest.fixture(scope="module")
def sweeps(dataset, tmp_path_factory):
    """A sweep of 2 x 3 runs, of which two can train: killed, interrupted, and finished.

    Gives its folder, its command line, and status and output of the three starts.
    """
    out_dir = tmp_path_factory.mktemp("sweeps")
    base = shutil.copytree(dataset, out_dir / "tales")
    argv = [f"--dataset={base}", *TINY, f"--out_dir={out_dir}", "--name=first"]
    argv += ["--vocab_size=280,100", "--n_head=2,4,5", "--max_iters=60", "--eval_interval=50"]
    folder = out_dir / "first"
    killed = start_and_stop(argv, folder / GOOD[0] / "log.csv", signal.SIGKILL)
    time.sleep(0.5)  # for the orphan to find out
    stopped = start_and_stop(argv, folder / GOOD[1] / "log.csv", signal.SIGINT)
    done = command("sweep.py", *argv)
    return folder, argv, killed, stopped, done.stdout


def rows(folder) -> list[dict]:
    with open(folder / "results.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def output(folder, run: str) -> str:
    """All that train.py said of a run."""
    return (folder / run / "output.txt").read_text(encoding="utf-8")


def test_ctrl_c_stops_a_sweep_which_says_how_to_go_on(sweeps):
    _, argv, _, (status, told), _ = sweeps
    assert status == 130
    assert told.splitlines()[-1] == f"stopped; go on with: python sweep.py {' '.join(argv)}"
    assert f"1/6 {GOOD[0]}: " in told
    assert "2/6" not in told


def test_what_was_stopped_is_resumed_and_what_was_finished_is_not_repeated(sweeps):
    folder, _, (status, _), _, told = sweeps
    assert status == -signal.SIGKILL
    assert told.splitlines()[0] == f"6 runs in {folder}, 1 of them finished already"
    for run in GOOD:
        said = output(folder, run)
        assert said.count("(scratch)") == said.count("(resume)") == said.count("\ndone: ") == 1
    assert "stopped and saved after step" in output(folder, GOOD[1])


def test_results_are_those_of_the_runs_the_best_first(sweeps):
    folder, _, _, _, told = sweeps
    first, second, *_ = rows(folder)
    assert {first["run"], second["run"]} == set(GOOD)
    assert float(first["val_bits_per_byte"]) <= float(second["val_bits_per_byte"])
    log = list(csv.DictReader((folder / first["run"] / "log.csv").read_text().splitlines()))
    assert log[-1]["step"] == first["step"] == "60"
    for column in ("val_bits_per_byte", "val_loss", "train_loss"):
        assert float(first[column]) == float(log[-1][column])
    assert int(first["tokens"]) == 60 * 8 * 32
    millions = re.search(r"number of parameters: ([\d.]+)M", output(folder, first["run"]))[1]
    assert f"{int(first['parameters']) / 1e6:.2f}" == millions
    table = told[told.index("vocab_size  n_head  bits/byte") :].splitlines()
    assert [line.split()[1] for line in table[1:3]] == [first["n_head"], second["n_head"]]


def test_a_run_that_fails_is_a_row_that_says_why(sweeps):
    folder, _, _, _, told = sweeps
    reasons = {row["run"]: row["error"] for row in rows(folder)[2:]}
    assert reasons["vocab_size=280_n_head=5"].startswith("n_embd=32 is not divisible by n_head=5")
    assert reasons["vocab_size=100_n_head=2"].startswith("vocab_size=100 will not do")
    assert len(reasons) == 4
    for run, reason in reasons.items():
        assert f"{run}: failed: {reason}\n" in told


def test_a_vocabulary_that_is_swept_has_its_dataset_prepared(sweeps):
    folder, _, _, _, told = sweeps
    made = folder.parent / "tales_vocab_size=280"
    assert f"dataset {made}: ready\n" in told
    assert tokens.read_meta(made)["tokenizer"]["vocab_size"] == 280
    for run in GOOD:
        config = json.loads((folder / run / "config.json").read_text())
        assert config["dataset"] == str(made)


def test_each_swept_setting_has_a_picture(sweeps):
    folder = sweeps[0]
    for name in ("vocab_size", "n_head"):
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_a_sweep_with_other_settings_does_not_go_into_its_folder(sweeps):
    folder, argv, *_ = sweeps
    before = (folder / "results.csv").read_bytes()
    assert refusal(*argv, "--max_iters=3") == (
        f"{folder} holds a sweep with another max_iters; choose another --name, or start over "
        "with --overwrite=True"
    )
    assert (folder / "results.csv").read_bytes() == before


# Which runs there are -------------------------------------------------------------------------


def test_every_combination_is_a_run():
    assert drawn("--n_head=2,4", "--bias=True,False", "--n_layer=3") == [
        {"n_head": n_head, "bias": bias, "n_layer": 3}
        for n_head in (2, 4)
        for bias in (True, False)
    ]


def test_values_that_mean_the_same_are_one_run():
    names = [r.folder.name for r in planned("--learning_rate=1e-3,0.001,2e-3")]
    assert names == ["learning_rate=0.001", "learning_rate=0.002"]


def test_minutes_each_bound_the_training_of_a_run():
    assert planned("--seed=1,2", "--minutes_each=1.5")[0].training["max_minutes"] == 1.5


def test_the_command_to_go_on_with_does_not_delete_what_is_there():
    argv = ["--seed=1,2", "--overwrite=True", "--name=my sweep"]
    assert sweep.go_on(argv) == "python sweep.py --seed=1,2 '--name=my sweep'"


def test_random_draws_some_of_the_combinations_the_same_each_time():
    argv = ("--n_head=1,2,3,4,5", "--n_layer=1,2,3,4,5")
    some = drawn(*argv, "--random=7")
    assert len({tuple(run.items()) for run in some}) == 7
    assert all(run in drawn(*argv) for run in some)
    assert some == drawn(*argv, "--random=7")
    assert some == drawn(*argv, "--random=12")[:7]
    assert some != drawn(*argv, "--random=7", "--random_seed=2")


def test_random_draws_from_ranges_on_a_logarithmic_scale():
    argv = ("--learning_rate=1e-4..1e-2", "--n_layer=2..8", "--n_head=2,4", "--random=400")
    runs = drawn(*argv)
    assert len(runs) == 400
    rates = [run["learning_rate"] for run in runs]
    assert 1e-4 <= min(rates) < 1.2e-4 and 0.8e-2 < max(rates) <= 1e-2
    assert 0.7e-3 < statistics.median(rates) < 1.4e-3
    layers = [run["n_layer"] for run in runs]
    assert set(layers) == set(range(2, 9))
    assert layers.count(2) > 1.5 * layers.count(8)
    assert {run["n_head"] for run in runs} == {2, 4}
    assert runs == drawn(*argv)


@pytest.mark.parametrize("ends", ["1.23456e-4..1.23457e-4", "3..3"])
def test_a_narrow_range_is_never_left(ends):
    name = "learning_rate" if "e" in ends else "n_layer"
    low, high = map(float, ends.split(".."))
    assert all(low <= run[name] <= high for run in drawn(f"--{name}={ends}", "--random=9"))


# Which datasets there are ---------------------------------------------------------------------


def test_stories_and_vocabularies_change_the_dataset_of_the_run(dataset):
    runs = planned("--max_stories=100,400", "--vocab_size=300,500", dataset=dataset)
    assert [r.training["dataset"] for r in runs] == [
        f"{dataset}_max_stories=100",
        f"{dataset}_max_stories=100_vocab_size=500",
        f"{dataset}",
        f"{dataset}_vocab_size=500",
    ]
    own = tokens.read_meta(dataset)["settings"]
    assert runs[1].data == own | {
        "max_stories": 100,
        "vocab_size": 500,
        "dataset": f"{dataset}_max_stories=100_vocab_size=500",
    }
    assert runs[2].data == {}


def test_with_a_source_datasets_are_named_as_prepare_names_them():
    runs = planned("--source=../x/tales.txt", "--tokenizer=bpe", "--vocab_size=512,1024")
    assert [r.training["dataset"] for r in runs] == ["tales_bpe512", "tales_bpe1024"]
    assert runs[0].data["source"] == "../x/tales.txt"
    assert "source" not in runs[0].training
    runs = planned("--source=storybook", "--max_stories=100,200")
    assert [r.training["dataset"] for r in runs] == [
        "storybook_max_stories=100",
        "storybook_max_stories=200",
    ]


def test_sources_of_one_name_are_told_apart_or_refused():
    with pytest.raises(UserError, match="would share the dataset tales"):
        planned("--source=a/tales.txt,b/tales.txt")


def test_prepare_understands_what_it_is_told(dataset):
    run = planned("--max_stories=100,200", dataset=dataset)[0]
    told, _ = parse(prepare.Settings, [f"--{name}={value}" for name, value in run.data.items()])
    assert told == run.data


def test_datasets_with_different_validation_stories_are_refused(dataset, tmp_path):
    run = planned("--max_stories=100,200", dataset=dataset)[0]
    other = tmp_path / "other"
    options = run.data | {"dataset": other}  # the storybook's validation stories are a share
    prepare.main([f"--{name}={value}" for name, value in options.items()])
    with pytest.raises(UserError, match="hold different validation stories"):
        sweep.check_validation({str(dataset), str(other)})
    sweep.check_validation({str(dataset), "not/there"})


def test_a_dataset_that_is_not_there_is_said_before_any_run(tmp_path):
    said = refusal("config/storybook_1m.py", "--dataset=no", "--seed=1,2", f"--out_dir={tmp_path}")
    assert "no is not there; prepare it: python prepare.py --source=storybook" in said
    assert not list(tmp_path.iterdir())


# Mistakes -------------------------------------------------------------------------------------

MISTAKES = {
    "--learnig_rate=1,2": "--learnig_rate is not a setting; did you mean learning_rate?",
    "--vocabsize=512,1024": "--vocabsize is not a setting; did you mean vocab_size?",
    "--minutes_eac=5": "--minutes_eac is not a setting; did you mean minutes_each?",
    "--n_head=2,four": "--n_head wants a whole number, not 'four'",
    "--n_head=2,": "--n_head wants a whole number, not ''",
    "--n_layer=2..8": "n_layer is a range; --random=N says how many runs to draw",
    "--n_layer=8..2": "--n_layer=8..2: a range rises, from above 0",
    "--dropout=0..0.2": "--dropout=0..0.2: a range rises, from above 0",
    "--tokenizer=gpt2..bpe": "--tokenizer wants gpt2, bpe, not 'gpt2..bpe'",
    "--random=0": "random is 0; it must be at least 1",
    "--minutes_each=5,10": "--minutes_each wants a number or None, not '5,10'",
    "--seed=5": "nothing is swept; give several values, as in --learning_rate=3e-4,1e-3",
    "--seed 5": "cannot read '--seed 5'; settings are given as --key=value",
    "-h=5": "cannot read '-h=5'; settings are given as --key=value",
    "none.py": "there is no config file none.py; settings are given as --key=value",
    "--seed=1,2 --eval_only=True": "eval_only has no place in a sweep, which trains",
    "--max_minutes=1,2 --minutes_each=3": (
        "minutes_each and max_minutes mean the same; give one of them"
    ),
    "--dataset=no --vocab_size=300,400": (
        "no is not prepared, so vocab_size is no change of it; prepare it first, or say with "
        "--source (and --tokenizer) what to prepare"
    ),
    "--dataset=a,b --source=storybook": (
        "with --source, datasets are named after it; leave out --dataset"
    ),
}


@pytest.mark.parametrize("argv", MISTAKES)
def test_a_mistake_is_answered_in_one_line(argv, tmp_path):
    words = [argv] if argv == "--seed 5" else argv.split()
    assert refusal(*words, f"--out_dir={tmp_path / 'sweeps'}") == MISTAKES[argv]
    assert not (tmp_path / "sweeps").exists()


def test_a_folder_that_holds_something_else_is_left_alone(dataset, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("Dear hen")
    where = (f"--dataset={dataset}", f"--out_dir={tmp_path}", "--name=mine")
    argv = (*where, "--seed=1,2", "--overwrite=True")
    assert (
        refusal(*argv) == f"{tmp_path / 'mine'} is there and holds no sweep; choose another --name"
    )
    assert (tmp_path / "mine" / "letter.txt").exists()
