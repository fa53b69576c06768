"""sweep.py: a real sweep, stopped and resumed; which runs and datasets there are; mistakes."""

import contextlib
import csv
import json
import math
import os
import re
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import ROOT, SMALL, contents, forked
from forks import ForkedCommand

import prepare
import sweep
from configurator import UserError, parse
from tinystories import ranking
from tinystories.dataset import read_meta
from tinystories.files import only_writer, write_json
from tinystories.run import load_checkpoint
from tinystories.study import SharedStudy, open_folder, progress

TINY = [option for option in SMALL if not option.startswith("--n_head")]
GOOD = ("vocab_size=280_n_head=2", "vocab_size=280_n_head=4")  # the runs that can train


def refusal(*argv) -> str:
    """The one line with which a command line is refused."""
    with pytest.raises(UserError) as refused:
        sweep.main([str(argument) for argument in argv])
    assert "\n" not in str(refused.value)
    return str(refused.value)


def combinations(*argv) -> list[dict]:
    """The combinations of a command line."""
    s, _, values = sweep.parse_command_line(argv)
    return sweep.combinations(values, s)


def trials(*argv, dataset="tales") -> list[sweep.Trial]:
    """The trials of a command line, where no config names another dataset."""
    s, _, values = sweep.parse_command_line([str(argument) for argument in argv])
    return sweep.make_trials(values, s, ROOT / "out/sweeps/x", str(dataset))


# A real sweep ---------------------------------------------------------------------------------


def wait_for(condition, process: subprocess.Popen) -> None:
    """Wait until condition() is true while a process runs."""
    while not condition():
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.01)


@pytest.fixture(scope="module")
def stopped(dataset, tmp_path_factory):
    """A sweep of 2 x 3 runs, of which two can train; Ctrl-C came in the second.

    Gives its folder, its command line, its status and what it printed.
    """
    out_dir = tmp_path_factory.mktemp("sweeps")
    base = shutil.copytree(dataset, out_dir / "tales")
    argv = [f"--dataset={base}", *TINY, f"--out_dir={out_dir}", "--name=my first"]
    argv += ["--vocab_size=280,100", "--n_head=2,4,5", "--max_iters=60", "--eval_interval=100"]
    # The command that resumes must not delete the sweep.
    process = ForkedCommand("sweep.py", *argv, "--overwrite=True")
    log = out_dir / "my first" / GOOD[1] / "log.csv"
    wait_for(lambda: log.exists() and log.read_text().count("\n") > 8, process)
    process.send_signal(signal.SIGINT)
    printed, err = process.communicate(timeout=120)
    return out_dir / "my first", argv, process.returncode, printed + err


@pytest.fixture(scope="module")
def finished(stopped):
    """The same sweep, resumed: its folder, its command line, and what it printed."""
    folder, argv, *_ = stopped
    return folder, argv, forked("sweep.py", *argv).stdout


def rows(folder) -> list[dict]:
    with open(folder / "results.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def words(printed: str) -> str:
    """What was printed, in one line."""
    return " ".join(printed.split())


def copied(command_line: str) -> list[str]:
    """The words that a shell makes of a command."""
    return shlex.split(command_line.replace("\\\n", ""))


def output(folder, run: str) -> str:
    """Everything that train.py printed about a run."""
    return (folder / run / "output.txt").read_text(encoding="utf-8")


@pytest.mark.slow
def test_ctrl_c_stops_a_sweep_which_says_how_to_resume(stopped):
    _, argv, status, printed = stopped
    assert status == 130
    _, _, command_line = printed.partition("stopped; resume with\n")
    assert copied(command_line) == ["python", "sweep.py", *argv]
    assert f"3 of 6, {GOOD[0]}: " in printed  # after two that are impossible
    assert "4 of 6" not in printed


@pytest.mark.slow
def test_a_stopped_run_is_resumed_and_a_finished_one_is_not_repeated(finished):
    folder, _, printed = finished
    assert words(printed).startswith(f"6 runs in {folder}, 1 of them finished already")
    for run, resumed in zip(GOOD, (0, 1), strict=True):
        text = output(folder, run)
        assert (text.count("(scratch)"), text.count("(resume)")) == (1, resumed)
        assert text.count("\ndone in ") == 1
    assert "stopped and saved after step" in output(folder, GOOD[1])


@pytest.mark.slow
def test_a_script_ends_soon_after_its_sweep_is_killed(tmp_path):
    script = tmp_path / "endless.py"
    script.write_text(
        "import os, time\n"
        "print(os.getpid(), flush=True)\n"
        f"while {sys.platform == 'linux'}:\n"
        "    time.sleep(9)  # silent\n"
        "while True:\n"
        "    print('working', flush=True)\n"
        "    time.sleep(0.01)\n"
    )
    code = (
        "from pathlib import Path; from tqdm import tqdm\n"
        "from tinystories.processes import ScriptRunner\n"
        f"ScriptRunner(tqdm(disable=True)).run({str(script)!r}, {{}}, Path({str(tmp_path)!r}, 'o'))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE)
    wait_for(lambda: (tmp_path / "o").exists() and (tmp_path / "o").stat().st_size, process)
    script_id = int((tmp_path / "o").read_text().split()[0])
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 60
    with contextlib.suppress(ProcessLookupError):
        while True:
            os.kill(script_id, 0)  # whether it is there
            assert time.monotonic() < deadline
            time.sleep(0.01)


@pytest.mark.slow
def test_results_are_those_of_the_runs_the_best_first(finished):
    folder, _, printed = finished
    first, second, *_ = rows(folder)
    assert {first["run"], second["run"]} == set(GOOD)
    assert float(first["val_bits_per_byte"]) <= float(second["val_bits_per_byte"])
    log = list(csv.DictReader((folder / first["run"] / "log.csv").read_text().splitlines()))
    assert log[-1]["step"] == first["step"] == "60"
    for column in ("val_bits_per_byte", "val_loss", "train_loss"):
        full = column.replace("val_", "full_val_", 1)
        assert float(first[column]) == float(log[-1][full])
    assert int(first["tokens"]) == 60 * 8 * 32
    millions = re.search(r"number of parameters: ([\d.]+)M", output(folder, first["run"]))[1]
    assert f"{int(first['parameters']) / 1e6:.2f}" == millions
    table = printed[printed.index("vocab_size  n_head  bits/byte") :].splitlines()
    assert [line.split()[1] for line in table[1:3]] == [first["n_head"], second["n_head"]]


@pytest.mark.slow
def test_a_failed_run_is_a_row_that_says_why(finished):
    folder, _, printed = finished
    reasons = {row["run"]: row["error"] for row in rows(folder)[2:]}
    assert reasons["vocab_size=280_n_head=5"].startswith("n_embd=32 is not divisible by n_head=5")
    assert reasons["vocab_size=100_n_head=2"].startswith("vocab_size=100 is out of range")
    assert len(reasons) == 4
    for run, reason in reasons.items():
        assert f"{run}: failed: {reason} " in words(printed)


@pytest.mark.slow
def test_impossible_shapes_are_found_before_anything_is_trained(finished):
    folder, _, printed = finished
    assert not (folder / "vocab_size=280_n_head=5").exists()
    assert "2 of 6, vocab_size=280_n_head=5: failed: n_embd=32" in words(printed)


@pytest.mark.slow
def test_a_sweep_ends_with_its_best_run_and_where_everything_is(finished):
    folder, _, printed = finished
    best = rows(folder)[0]
    ending, _, command_line = printed[printed.index("best run: ") :].partition("the best run:\n")
    ending = words(ending)
    pictures = "n_head.png, parallel.png, vocab_size.png, vocab_size_n_head.png"
    assert f"{best['run']}, {float(best['val_bits_per_byte']):.4f} bits per byte" in ending
    assert f"in {folder}: results.csv, {pictures}, and the runs" in ending
    assert copied(command_line) == ["python", "sample.py", f"--out_dir={folder / best['run']}"]


def test_losses_over_all_of_validation_are_the_result_if_they_were_measured(tmp_path):
    names = "step,train_loss,val_loss,val_bits_per_byte,full_val_loss,full_val_bits_per_byte"
    (tmp_path / "log.csv").write_text(f"{names}\n5,3.5,2.5,1.5,,\n10,3.0,2.0,1.0,2.1,1.1\n")
    losses = {"val_bits_per_byte": 1.1, "val_loss": 2.1, "train_loss": 3.0}
    assert ranking.last_losses(tmp_path / "log.csv") == losses
    (tmp_path / "log.csv").write_text(f"{names}\n10,3.0,2.0,1.0,,\n")
    losses = {"val_bits_per_byte": 1.0, "val_loss": 2.0, "train_loss": 3.0}
    assert ranking.last_losses(tmp_path / "log.csv") == losses


def test_losses_of_averaged_weights_are_the_result_where_they_are_better(tmp_path):
    names = "step,train_loss,val_loss,val_bits_per_byte,ema_val_loss,ema_val_bits_per_byte"
    for ema, best in (((1.9, 0.9), (1.9, 0.9)), ((2.2, 1.2), (2.0, 1.0))):
        (tmp_path / "log.csv").write_text(f"{names}\n10,3.0,2.0,1.0,{ema[0]},{ema[1]}\n")
        losses = ranking.last_losses(tmp_path / "log.csv")
        assert (losses["val_loss"], losses["val_bits_per_byte"]) == best


def test_a_table_of_many_settings_leaves_out_what_is_needed_least():
    row = dict.fromkeys(ranking.RESULT, 1.5) | {"step": 10}
    swept = ["learning_rate", "weight_decay", "warmup_iters", "n_layer"]
    lines = ranking.results_table([row | dict.fromkeys(swept, 0.001)], swept).splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == [*swept, "bits/byte", "time", "params"]


@pytest.mark.slow
def test_a_swept_vocabulary_has_its_dataset_prepared(finished):
    folder, _, printed = finished
    prepared = folder.parent / "tales_vocab_size=280"
    assert f"dataset {prepared}: ready " in words(printed)
    assert read_meta(prepared)["tokenizer"]["vocab_size"] == 280
    for run in GOOD:
        config = json.loads((folder / run / "settings.json").read_text())
        assert config["dataset"] == str(prepared)


@pytest.mark.slow
def test_each_swept_setting_has_a_plot_and_two_have_a_table(finished):
    folder = finished[0]
    for name in ("vocab_size", "n_head", "vocab_size_n_head"):
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_sweep_with_other_settings_is_refused_in_the_same_folder(finished):
    folder, argv, _ = finished
    before = (folder / "results.csv").read_bytes()
    assert refusal(*argv, "--max_iters=3") == (
        f"{folder} holds a sweep with another max_iters; choose another --name, or start over "
        "with --overwrite=True"
    )
    assert (folder / "results.csv").read_bytes() == before


# Several workers ------------------------------------------------------------------------------


@pytest.mark.slow
def test_workers_share_the_runs_and_take_over_those_of_killed_ones(dataset, tmp_path):
    options = [f"--dataset={dataset}", *SMALL, "--max_iters=80", "--eval_interval=1000"]
    argv = [*options, f"--out_dir={tmp_path}", "--name=shared", "--seed=1,2"]
    folder, runs = tmp_path / "shared", ["seed=1", "seed=2"]
    workers = {worker.pid: worker for worker in (ForkedCommand("sweep.py", *argv) for _ in "1234")}
    killed = {}  # process ids by run
    while len(killed) < 2:
        assert any(worker.poll() is None for worker in workers.values())
        for run in runs:
            log, lock = folder / run / "log.csv", folder / run / ".sweep.lock"
            with contextlib.suppress(OSError, TypeError):
                holder = int(re.search(r"process (\d+)", lock.read_text())[1])
                if run not in killed and log.read_text().count("\n") > 20:
                    workers[holder].kill()
                    killed[run] = holder
        time.sleep(0.01)
    for process_id, worker in workers.items():
        _, err = worker.communicate()
        assert worker.returncode == (-signal.SIGKILL if process_id in killed.values() else 0), err
    for run in runs:  # each was begun once, resumed once by another worker, and ended once
        text = output(folder, run)
        assert [text.count(words) for words in ("(scratch)", "(resume)", "\ndone in ")] == [1, 1, 1]
    found = rows(folder)
    assert sorted(row["run"] for row in found) == runs
    assert {row["step"] for row in found} == {"80"}
    alone, run = tmp_path / "alone", next(iter(killed))  # it ended as if nothing had happened
    forked("train.py", *options, f"--out_dir={alone}", f"--{run}")
    ours, other = (load_checkpoint(each / "ckpt.pt")["model"] for each in (folder / run, alone))
    assert all(torch.equal(ours[name], other[name]) for name in ours)
    row = next(row for row in found if row["run"] == run)
    assert float(row["val_loss"]) == ranking.last_losses(alone / "log.csv")["val_loss"]
    leftover = {path.name for path in folder.iterdir() if not path.name.endswith(".lock")}
    assert leftover == {*runs, "journal.log", "results.csv", "seed.png", "sweep.json"}


# A search, and the study ----------------------------------------------------------------------


def shared(folder, *argv, dataset="tales") -> SharedStudy:
    """The study of a command line, in a folder that is there."""
    s, _, values = sweep.parse_command_line(argv)
    make = partial(sweep.chosen_trial, values=values, folder=folder, default_dataset=dataset)
    swept = {name: listed for name, listed in values.items() if len(listed) > 1}
    some = sweep.make_trials(values, s, folder, dataset)
    return SharedStudy(folder, swept, {"bias": True}, make, some, s.trials, s.sweep_seed)


def train_all(study: SharedStudy, bits) -> list[dict]:
    """Claim all runs of a study, each of which gets bits(its swept values); what was tried."""
    tried = []
    while True:
        with study.opened() as opened:
            if not (claim := study.claim(opened)):
                return tried
            with claim.lock:
                result = dict.fromkeys(ranking.RESULT, 1) | bits(claim.trial.swept)
                write_json(claim.trial.folder / "result.json", result)
                study.end(opened, claim.number, claim.trial, result)
            tried.append(claim.trial.swept)


def distance(swept: dict) -> dict:
    """A loss that is lowest at a learning rate of 3e-3 with many layers."""
    rate = abs(math.log(swept["learning_rate"] / 3e-3))
    return {"val_bits_per_byte": rate + 0.01 * (8 - swept["n_layer"])}


SEARCH = ("--learning_rate=1e-5..1e-1", "--n_layer=2..8", "--optimizer=adamw,muon", "--trials=30")


def test_a_search_comes_to_try_good_values_and_says_what_matters(tmp_path):
    study = shared(tmp_path, *SEARCH)
    tried = train_all(study, distance)
    assert len({str(swept) for swept in tried}) == 30
    assert all(1e-5 <= swept["learning_rate"] <= 1e-1 for swept in tried)
    assert all(f"{swept['learning_rate']:.3g}" == f"{swept['learning_rate']:g}" for swept in tried)
    assert {type(swept["n_layer"]) for swept in tried} == {int}
    distances = [distance(swept)["val_bits_per_byte"] for swept in tried]
    assert statistics.median(distances[20:]) < statistics.median(distances[:10])
    with study.opened() as opened:
        assert next(iter(study.importance(opened))) == "learning_rate"


def test_a_search_goes_on_where_it_ended_and_the_same_each_time(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    tried = train_all(shared(first, *SEARCH[:-1], "--trials=8"), distance)
    more = train_all(shared(first, *SEARCH[:-1], "--trials=12"), distance)
    assert len(more) == 4
    assert tried + more == train_all(shared(second, *SEARCH[:-1], "--trials=12"), distance)


def test_a_search_repeats_nothing_and_ends_when_all_was_tried(tmp_path):
    argv = ("--learning_rate=1e-3,3e-3", "--n_layer=2,3,4", "--trials=50")
    tried = train_all(shared(tmp_path, *argv), distance)
    assert len(tried) == len({str(swept) for swept in tried}) == 6


def test_a_run_of_a_worker_that_ended_is_taken_over(tmp_path):
    study = shared(tmp_path, "--seed=1,2")
    with study.opened() as opened:
        first, second = study.claim(opened), study.claim(opened)
        assert study.claim(opened) is None  # both are at work
        first.lock.close()
        again = study.claim(opened)
        assert (again.number, again.trial) == (first.number, first.trial)
        assert list(study.rows(opened)) == ["seed=1", "seed=2"]
        second.lock.close()
        again.lock.close()


def test_what_a_killed_worker_left_unwritten_is_no_damage(tmp_path):
    study = shared(tmp_path, "--seed=1,2,3")
    with study.opened() as opened:
        study.claim(opened).lock.close()
    journal = tmp_path / "journal.log"
    lines = journal.read_bytes()
    for end in range(lines.index(b"\n") + 1, len(lines), len(lines) // 20):
        journal.write_bytes(lines[:end])
        assert len(train_all(shared(tmp_path, "--seed=1,2,3"), lambda swept: {})) <= 3
        assert [row["run"] for row in rows(tmp_path)] == ["seed=1", "seed=2", "seed=3"]


def test_what_a_killed_worker_had_enqueued_gets_no_result_of_another(tmp_path):
    study = shared(tmp_path, "--n_head=2,4,5")
    with study.opened() as opened:
        opened.enqueue_trial({"n_head": 2})  # and was killed before it asked for it
    five = next(trial for trial in study.trials if trial.swept["n_head"] == 5)
    with study.opened() as opened:
        rows = study.fail(opened, five, "5 heads do not fit")
        left = [trial.swept["n_head"] for trial in study.untried(opened)]
    assert [(row["run"], row["error"]) for row in rows] == [("n_head=5", "5 heads do not fit")]
    assert left == [2, 4]


def test_a_search_ends_with_the_last_combination_that_there_is(tmp_path):
    assert shared(tmp_path, "--n_head=2,4", "--trials=10").total == 2


@pytest.mark.parametrize("begun", [["sweep.json.tmp"], [".prepare.lock"]])
def test_a_sweep_that_was_killed_as_it_began_begins_again(tmp_path, begun):
    for name in begun:
        (tmp_path / name).touch()
    open_folder(tmp_path, {"a": 1}, False, set())
    assert json.loads((tmp_path / "sweep.json").read_text()) == {"a": 1}
    (tmp_path / "seed=1").mkdir()
    (tmp_path / "seed=1" / "events.out.tfevents.1.host.2").touch()  # log_to=tensorboard
    (tmp_path / "results.csv").touch()
    open_folder(tmp_path, {"a": 2}, True, set())
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".tmp"] == ["sweep.json"]


def test_a_setting_whose_value_is_a_list_is_not_swept():
    _, _, values = sweep.parse_command_line(["--log_to=wandb,tensorboard", "--seed=1,2"])
    assert values == {"log_to": ["wandb,tensorboard"], "seed": [1, 2]}


@pytest.mark.parametrize("text", ["{\n", "[]\n", "null\n", '{"op_code": 77}\n', "\xff\n{}\n"])
def test_a_damaged_journal_is_one_line(tmp_path, text):
    (tmp_path / "journal.log").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=r"journal.log is damaged; remove it, and the sweep goes"):
        shared(tmp_path, "--seed=1,2")
    assert (tmp_path / "journal.log").read_bytes() == text.encode("latin-1")


def test_the_journal_of_another_sweep_is_refused_and_can_be_removed(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    train_all(shared(one, "--seed=1,2"), lambda swept: {})
    shutil.copytree(one, other)
    s = shared(other, "--seed=1,2,3")  # more values are another study in the same journal
    assert [swept["seed"] for swept in train_all(s, lambda swept: {})] == [3]
    with pytest.raises(UserError, match=r"journal.log is the journal of another sweep; remove it"):
        SharedStudy(other, {"seed": [1, 2]}, {"bias": False}, s.make, s.trials, None, 1)
    (other / "journal.log").unlink()
    assert train_all(shared(other, "--seed=1,2,3"), lambda swept: {}) == []


def learned(folder, bits: list[float], **settings) -> Path:
    """A run's folder whose evaluations, each after ten steps or a minute, gave these bits."""
    folder.mkdir(parents=True)
    (folder / "settings.json").write_text(json.dumps({"max_iters": 100} | settings))
    lines = ["step,tokens,minutes,val_bits_per_byte,val_loss,train_loss"]
    for i, each in enumerate(bits):
        lines += [f"{10 * i},{i},{i},,,", f"{10 * i},,,{each},{each},{each}"]
    (folder / "log.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_runs_compare_at_equal_shares_of_their_steps_or_minutes(tmp_path):
    assert progress(learned(tmp_path / "a", [8, 4, 3])) == {10: 4, 20: 3}
    assert progress(learned(tmp_path / "b", [8, 4, 3], max_iters=50)) == {20: 4, 30: 3.5, 40: 3}
    assert progress(learned(tmp_path / "c", [8, 4, 3], max_minutes=4))[50] == 3
    assert progress(learned(tmp_path / "d", [8])) == progress(tmp_path / "none") == {}


@pytest.mark.slow
def test_a_run_that_is_behind_the_runs_of_an_old_sweep_is_pruned(dataset, tmp_path):
    folder = tmp_path / "old"
    for seed in (1, 2, 3, 4, 5):
        run = learned(folder / f"seed={seed}", [8, 3, 2.5, 2.4, 2.3, 2.2, 2.1])
        result = dict.fromkeys(ranking.RESULT, 2)
        (run / "result.json").write_text(json.dumps(result))
    options = [option for option in SMALL if "interval" not in option]
    argv = (*options, "--max_iters=300", "--eval_interval=30", f"--out_dir={tmp_path}")
    argv = (f"--dataset={dataset}", *argv, "--learning_rate=1e-6", "--min_lr=0", "--name=old")
    _, _, values = sweep.parse_command_line(argv)
    write_json(folder / "sweep.json", {name: listed[0] for name, listed in values.items()})
    for prunes in (True, False):
        argv = (*argv, "--seed=1,2,3,4,5,6", "--prune=True")[: None if prunes else -1]
        printed = forked("sweep.py", *argv).stdout
        row = rows(folder)[-1]
        assert (row["run"], row["pruned"], row["error"]) == ("seed=6", "20", "")
        assert 60 <= int(row["step"]) < 250
    assert "6 runs in" in printed and "6 of them finished already" in words(printed)
    assert "seed=6" not in printed.partition("best run")[2]


# Which runs there are -------------------------------------------------------------------------


def test_every_combination_is_a_run():
    assert combinations("--n_head=2,4", "--bias=True,False", "--n_layer=3") == [
        {"n_head": n_head, "bias": bias, "n_layer": 3}
        for n_head in (2, 4)
        for bias in (True, False)
    ]


def test_values_that_mean_the_same_are_one_run():
    names = [trial.folder.name for trial in trials("--learning_rate=1e-3,0.001,2e-3")]
    assert names == ["learning_rate=0.001", "learning_rate=0.002"]


def test_random_runs_are_some_of_the_combinations_the_same_each_time():
    argv = ("--n_head=1,2,3,4,5", "--n_layer=1,2,3,4,5")
    some = combinations(*argv, "--num_random_runs=7")
    assert len({tuple(run.items()) for run in some}) == 7
    assert all(run in combinations(*argv) for run in some)
    assert some == combinations(*argv, "--num_random_runs=7")
    assert some == combinations(*argv, "--num_random_runs=12")[:7]
    assert some != combinations(*argv, "--num_random_runs=7", "--sweep_seed=2")


def test_ranges_are_sampled_uniformly_on_a_logarithmic_scale():
    argv = ("--learning_rate=1e-4..1e-2", "--n_layer=2..8", "--n_head=2,4", "--num_random_runs=400")
    runs = combinations(*argv)
    assert len(runs) == 400
    rates = [run["learning_rate"] for run in runs]
    assert 1e-4 <= min(rates) < 1.2e-4 and 0.8e-2 < max(rates) <= 1e-2
    assert 0.7e-3 < statistics.median(rates) < 1.4e-3
    layers = [run["n_layer"] for run in runs]
    assert set(layers) == set(range(2, 9))
    assert layers.count(2) > 1.5 * layers.count(8)
    assert {run["n_head"] for run in runs} == {2, 4}
    assert runs == combinations(*argv)


@pytest.mark.parametrize("ends", ["1.23456e-4..1.23457e-4", "3..3"])
def test_samples_stay_within_a_narrow_range(ends):
    name = "learning_rate" if "e" in ends else "n_layer"
    low, high = map(float, ends.split(".."))
    assert all(
        low <= run[name] <= high for run in combinations(f"--{name}={ends}", "--num_random_runs=9")
    )


# Which datasets there are ---------------------------------------------------------------------


def test_stories_and_vocabularies_change_the_dataset_of_the_run(dataset):
    runs = trials("--max_stories=100,400", "--vocab_size=300,500", dataset=dataset)
    assert [r.training["dataset"] for r in runs] == [
        f"{dataset}_max_stories=100",
        f"{dataset}_max_stories=100_vocab_size=500",
        f"{dataset}",
        f"{dataset}_vocab_size=500",
    ]
    own = read_meta(dataset)["settings"]
    assert runs[1].preparing == own | {
        "max_stories": 100,
        "vocab_size": 500,
        "dataset": f"{dataset}_max_stories=100_vocab_size=500",
    }
    assert runs[2].preparing == {}


def test_with_a_source_datasets_are_named_as_prepare_names_them():
    runs = trials("--source=../x/tales.txt", "--tokenizer=bpe", "--vocab_size=512,1024")
    assert [r.training["dataset"] for r in runs] == ["tales_bpe512", "tales_bpe1024"]
    assert runs[0].preparing["source"] == "../x/tales.txt"
    assert "source" not in runs[0].training
    runs = trials("--source=storybook", "--max_stories=100,200")
    assert [r.training["dataset"] for r in runs] == [
        "storybook_max_stories=100",
        "storybook_max_stories=200",
    ]


def test_different_sources_of_one_name_are_refused():
    with pytest.raises(UserError, match="would share the dataset tales"):
        trials("--source=a/tales.txt,b/tales.txt")


def test_prepare_reads_its_settings_as_they_were(dataset):
    settings = trials("--max_stories=100,200", dataset=dataset)[0].preparing
    argv = [f"--{name}={value}" for name, value in settings.items()]
    assert parse(prepare.Settings, argv).overrides == settings


def test_datasets_with_different_validation_stories_are_refused(dataset, tmp_path):
    trial = trials("--max_stories=100,200", dataset=dataset)[0]
    other = tmp_path / "other"
    options = trial.preparing | {"dataset": other}  # val_fraction of the storybook is fewer stories
    forked("prepare.py", *(f"--{name}={value}" for name, value in options.items()))
    with pytest.raises(UserError, match="hold different validation stories"):
        sweep.check_validation({str(dataset), str(other)})
    sweep.check_validation({str(dataset), "not/there"})


def test_a_missing_dataset_is_reported_before_any_run(tmp_path):
    line = refusal("config/storybook_1m.py", "--dataset=no", "--seed=1,2", f"--out_dir={tmp_path}")
    assert "no is missing; prepare it with: python prepare.py --source=storybook" in line
    assert not list(tmp_path.iterdir())


# Mistakes -------------------------------------------------------------------------------------

MISTAKES = {
    "--learnig_rate=1,2": "--learnig_rate is not a setting; did you mean learning_rate?",
    "--vocabsize=512,1024": "--vocabsize is not a setting; did you mean vocab_size?",
    "--minutes_each=5": "--minutes_each is not a setting; did you mean max_minutes?",
    "--n_head=2,four": "--n_head expects an integer, not 'four'",
    "--n_head=2,": "--n_head expects an integer, not ''",
    "--n_layer=2..8": "n_layer is a range; say how many: --trials=N or --num_random_runs=N",
    "--n_layer=8..2": "--n_layer=8..2: a range needs 0 < lo <= hi",
    "--dropout=0..0.2": "--dropout=0..0.2: a range needs 0 < lo <= hi",
    "--tokenizer=gpt2..bpe": "--tokenizer expects gpt2, bpe, not 'gpt2..bpe'",
    "--trials=0": "trials is 0; it must be >= 1",
    "--trials=5,6": "--trials expects an integer or None, not '5,6'",
    "--seed=1,2 --trials=2 --num_random_runs=2": (
        "trials are chosen by a search, num_random_runs at random; give one"
    ),
    "--num_random_runs=0": "num_random_runs is 0; it must be >= 1",
    "--sweep_seed=5,10": "--sweep_seed expects an integer, not '5,10'",
    "--seed=5": "nothing is swept; give several values, as in --learning_rate=3e-4,1e-3",
    "-seed=5": "cannot read '-seed=5'; settings are given as --key=value",
    "-h=5": "cannot read '-h=5'; settings are given as --key=value",
    "none.py": "there is no config file none.py; settings are given as --key=value",
    "--seed=1,2 --eval_only=True": "eval_only cannot be used in a sweep, which trains",
    "--dataset=no --vocab_size=300,400": (
        "no is not prepared, so vocab_size cannot change it; prepare it first, or say with "
        "--source (and --tokenizer) what to prepare"
    ),
    "--dataset=a,b --source=storybook": (
        "with --source, datasets are named after it; leave out --dataset"
    ),
}


@pytest.mark.parametrize("argv", MISTAKES)
def test_a_mistake_is_one_line(argv, tmp_path):
    words = argv.split()
    assert refusal(*words, f"--out_dir={tmp_path / 'sweeps'}") == MISTAKES[argv]
    assert not (tmp_path / "sweeps").exists()


def test_a_folder_that_is_not_a_sweep_is_left_alone(dataset, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("Dear hen")
    where = (f"--dataset={dataset}", f"--out_dir={tmp_path}", "--name=mine")
    argv = (*where, "--seed=1,2", "--overwrite=True")
    assert refusal(*argv) == f"{tmp_path / 'mine'} exists and is not a sweep; choose another --name"
    assert (tmp_path / "mine" / "letter.txt").exists()


def swept_folder(tmp_path) -> Path:
    """The folder of a sweep with two finished runs."""
    open_folder(tmp_path / "mine", {}, overwrite=False, pictures=set())
    train_all(shared(tmp_path / "mine", "--seed=1,2"), lambda swept: {})
    for name in ("log.csv", "evaluation.json", ".sweep.lock", "ckpt.pt.tmp"):
        (tmp_path / "mine" / "seed=1" / name).touch()
    for name in ("seed.png", "n_head_seed.png", "results.csv.tmp", ".pictures.lock"):
        (tmp_path / "mine" / name).touch()
    return tmp_path / "mine"


def test_only_what_a_sweep_made_is_overwritten(tmp_path):
    folder = swept_folder(tmp_path)
    for name in ("notes.txt", "thesis.png", "seed=1/notes.txt", "seed=3", "backup/x"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("Dear hen")
        before = contents(folder)
        with pytest.raises(UserError, match=f"mine has {name[:6]}.*, which no sweep made; move it"):
            open_folder(folder, {"bias": True}, True, sweep.PICTURES)
        assert contents(folder) == before
        (folder / name).unlink()
        if name == "backup/x":
            (folder / "backup").rmdir()
    open_folder(folder, {"bias": True}, True, sweep.PICTURES)
    assert [path.name for path in folder.iterdir() if path.suffix != ".lock"] == ["sweep.json"]


def test_a_sweep_that_is_at_work_is_not_overwritten(tmp_path):
    folder = swept_folder(tmp_path)
    before = contents(folder)
    with only_writer(folder / "seed=2" / "sweep"):
        with pytest.raises(UserError, match="is being written by"):
            open_folder(folder, {}, True, sweep.PICTURES)
    assert {name: data for name, data in contents(folder).items() if ".lock" not in name} == {
        name: data for name, data in before.items() if ".lock" not in name
    }


def test_the_device_may_differ_between_workers(tmp_path):
    (tmp_path / "x").mkdir()
    write_json(tmp_path / "x" / "sweep.json", {"device": "cuda:1", "bias": True})
    open_folder(tmp_path / "x", {"bias": True}, False, set())


def test_without_optuna_there_is_one_line():
    code = (
        "import runpy, sys; sys.modules['optuna'] = None; sys.argv = ['sweep.py', '--seed=1,2'];"
        "runpy.run_path('sweep.py', run_name='__main__')"
    )
    options = {"cwd": ROOT, "capture_output": True, "encoding": "utf-8"}
    done = subprocess.run([sys.executable, "-c", code], **options)
    assert done.returncode == 2
    assert done.stderr == "sweep.py: a sweep needs Optuna: pip install optuna\n"


DAMAGED = ("", "{", "null", "[1, 2]", "[" * 100_000, '{"val_loss": []}', '{"val_loss": 1.0}')


@pytest.mark.parametrize("text", DAMAGED)
def test_a_damaged_result_is_no_result(tmp_path, text):
    (tmp_path / "result.json").write_text(json.dumps(dict.fromkeys(ranking.RESULT, 1.5)))
    assert ranking.read_result(tmp_path)["step"] == 1.5
    (tmp_path / "result.json").write_text(text)
    assert ranking.read_result(tmp_path) is None


@pytest.mark.parametrize("value", ["null", "NaN", "1e999", '"1.0"', "true", "1" + "0" * 400])
def test_a_result_that_is_not_a_finite_number_is_no_result(tmp_path, value):
    result = dict.fromkeys(ranking.RESULT, 1.5) | {"val_loss": "?"}
    text = json.dumps(result).replace('"?"', value)
    (tmp_path / "result.json").write_text(text)
    assert ranking.read_result(tmp_path) is None


@pytest.mark.parametrize("text", DAMAGED)
def test_a_damaged_sweep_json_is_one_line(dataset, tmp_path, text):
    argv = (f"--dataset={dataset}", f"--out_dir={tmp_path}", "--name=mine", "--seed=1,2")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "sweep.json").write_text(text)
    line = refusal(*argv)
    assert line.endswith("start over with --overwrite=True")
    assert (tmp_path / "mine" / "sweep.json").read_text() == text
