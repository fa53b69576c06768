"""What Weights & Biases, TensorBoard and Trackio have of a run on the disk: its log.csv."""

import contextlib
import csv
import json
import re
import shutil
import sqlite3
import subprocess
import sys

import pytest
from conftest import ROOT, SMALL, complaint, forked
from forks import ForkedCommand

import train
from configurator import UserError, parse
from tinystories.run import begin
from tinystories.trackers import Trackers, closed_trackers

EVENTS = "events.out.tfevents.*"


def logged(folder) -> dict[int, dict[str, float]]:
    """The numbers of log.csv by step."""
    steps = {}
    for row in csv.DictReader((folder / "log.csv").read_text().splitlines()):
        step = int(row.pop("step"))
        numbers = {name: float(value) for name, value in row.items() if value not in ("", "n/a")}
        steps.setdefault(step, {}).update(numbers)
    return steps


def in_wandb(folder) -> list[tuple[int, dict]]:
    """What the one offline run of a folder has, read from its records.

    A file of records has blocks of 32 KiB; a record is cut at the end of a block, and each piece
    has a header of 7 bytes: checksum, length, and 1 for a whole record, 2 to 4 for its pieces.
    """
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    data, position, record, rows = path.read_bytes(), 7, b"", []  # the file begins with 7 bytes
    while position + 7 <= len(data):
        if (left := 32768 - position % 32768) < 7:
            position += left
            continue
        length, kind = (
            int.from_bytes(data[position + 4 : position + 6], "little"),
            data[position + 6],
        )
        record += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):
            history = Record.FromString(record).history
            items = {(i.key or ".".join(i.nested_key)): i.value_json for i in history.item}
            numbers = {name: json.loads(text) for name, text in items.items()}
            if numbers:
                step = numbers["_step"]
                rows.append((step, {n: v for n, v in numbers.items() if not n.startswith("_")}))
            record = b""
    return rows


def in_tensorboard(folder) -> list[tuple[int, dict]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (path,) = folder.glob(EVENTS)
    events = EventAccumulator(str(path), size_guidance={"scalars": 0}).Reload()
    steps = {}
    for tag in events.Tags()["scalars"]:
        for event in events.Scalars(tag):
            assert tag not in steps.setdefault(event.step, {}), "a row came twice"
            steps[event.step][tag] = event.value
    return sorted(steps.items())


def in_trackio(folder) -> list[tuple[int, dict]]:
    with contextlib.closing(sqlite3.connect(folder.parent / "trackio" / "tinystories.db")) as file:
        rows = file.execute("SELECT step, metrics FROM metrics ORDER BY id").fetchall()
    return [(step, json.loads(numbers)) for step, numbers in rows]


def assert_same_rows(rows: list[tuple[int, dict]], steps: dict[int, dict]) -> None:
    """All of log.csv, once."""
    assert [step for step, _ in rows] == list(steps)
    for step, numbers in rows:
        assert numbers.keys() == steps[step].keys(), step
        for name in numbers:
            assert numbers[name] == pytest.approx(steps[step][name], rel=1e-6), (step, name)


@pytest.mark.slow
def test_trackers_have_every_row_once_after_a_kill_and_a_resume(dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    folder = tmp_path / "run"
    options = (f"--dataset={dataset}", f"--out_dir={folder}", *SMALL, "--max_iters=12")
    process = ForkedCommand("train.py", *options, "--log_to=wandb,tensorboard,trackio")
    for line in process.stdout:
        if re.match(r" +8 ", line):  # the last checkpoint is that of step 5
            process.kill()
    process.communicate()
    done = forked("train.py", "--init_from=resume", f"--out_dir={folder}")
    assert "continuing after step 5" in done.stdout
    for rows in (in_wandb(folder), in_tensorboard(folder), in_trackio(folder)):
        assert_same_rows(rows, logged(folder))


class Collector:
    """A tracker that has the steps before `first` already."""

    def __init__(self, first: int):
        self.first, self.rows, self.open = first, [], True

    def send(self, step, numbers):
        self.rows.append((step, numbers))

    def close(self):
        self.open = False


def follow(tmp_path, log: str, first: int, **state) -> tuple[Trackers, Collector]:
    (tmp_path / "log.csv").write_text("step,loss,mfu,val_loss\n" + log)
    tracker = Collector(first)
    return Trackers([tracker], tmp_path / "log.csv", train.TrainState(**state)), tracker


def test_a_tracker_gets_the_steps_of_the_log_that_it_lacks(tmp_path):
    trackers, tracker = follow(
        tmp_path, "0,,,5\n1,4,n/a,\n2,3,,\n2,,,3.5\n", 2, step=2, evaluated=2
    )
    assert tracker.rows == [(2, {"loss": 3, "val_loss": 3.5})]
    trackers.add({"step": 3, "loss": 2.5, "mfu": "n/a"})
    trackers.state.step = 4
    assert len(tracker.rows) == 1  # no checkpoint has it yet: other settings may train it again
    trackers.flush()
    assert tracker.rows[1:] == [(3, {"loss": 2.5})]
    with closed_trackers():
        assert tracker.open
    assert not tracker.open


def test_a_step_that_is_still_to_be_evaluated_waits_for_the_resumed_run(tmp_path):
    trackers, tracker = follow(tmp_path, "1,4,,\n2,3,,\n", 0, step=2, evaluated=0)
    assert tracker.rows == [(1, {"loss": 4})]
    trackers, tracker = follow(tmp_path, "1,4,,\n2,3,,\n", 2, step=2, evaluated=0)
    trackers.add({"step": 2, "val_loss": 2.5})
    trackers.state.evaluated = 2
    trackers.flush()
    assert tracker.rows == [(2, {"loss": 3, "val_loss": 2.5})]


@pytest.mark.parametrize("line", ["2,\0", "two,3,,", "2,3,,,,4"])
def test_a_damaged_line_of_the_log_is_told(tmp_path, line):
    with pytest.raises(UserError, match=r"log\.csv: line 3 is damaged; .* --log_to=None$"):
        follow(tmp_path, f"1,4,,\n{line}\n", 0, step=3)
    with closed_trackers():
        pass


def test_an_unknown_tracker_and_a_missing_package_are_told_in_one_line(tmp_path):
    line = complaint("train.py", "--log_to=wandb,papyrus", run=forked)
    assert line.endswith("'papyrus' is none of wandb, tensorboard, trackio")
    # As on a machine without it: -S leaves out what pip has installed.
    done = subprocess.run(
        [sys.executable, "-S", ROOT / "train.py", "--log_to=trackio"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr == "train.py: log_to=trackio needs a package: pip install trackio\n"


def test_wandb_log_of_earlier_versions_and_of_nanogpt_is_understood(tmp_path, capsys):
    config = tmp_path / "mine.py"
    config.write_text("wandb_log = True")
    s = parse(train.Settings, [str(config)]).settings
    assert s == train.Settings(log_to="wandb")  # the other settings are not nanoGPT's
    assert "wandb_log=True: taken as log_to=wandb" in capsys.readouterr().err
    assert parse(train.Settings, ["--wandb_log=False"]).settings == train.Settings()
    assert capsys.readouterr().err == ""


def test_a_run_of_an_earlier_version_resumes_with_its_wandb_log(run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    settings = json.loads((folder / "settings.json").read_text())
    del settings["log_to"]
    (folder / "settings.json").write_text(json.dumps(settings | {"wandb_log": True}))
    resume = {"init_from": "resume", "out_dir": str(folder)}
    assert begin(train.Settings(**resume), resume)[0].log_to == "wandb"
