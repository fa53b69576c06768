"""A run that is stopped, killed or cut short, and resumed, ends like the undisturbed one."""

import csv
import fcntl
import os
import pty
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import termios
import time

import pytest
import torch
from conftest import ROOT, SMALL, complaint, forked
from forks import ForkedCommand, train_on_two

from tinystories.run import load_checkpoint

pytestmark = pytest.mark.slow

CLOCK = {"tokens_per_second", "mfu", "minutes", "eta_minutes"}  # columns that no two runs share
TWO = ("--nproc_per_node=2",)


def nodes(port: int) -> tuple[str, ...]:
    """How torchrun is started on each of two nodes, which are both this machine."""
    meeting = ("--rdzv_backend=c10d", f"--rdzv_endpoint=127.0.0.1:{port}")
    return ("--nnodes=2", "--nproc_per_node=1", *meeting, "--local_addr=127.0.0.1")


def torchrun(*args, how: tuple[str, ...] = TWO) -> ForkedCommand:
    """Start train.py in two processes, each on a bare Python; what it prints comes line by line
    from .stdout.
    """
    script = torch.distributed.__path__[0] + "/run.py"
    return ForkedCommand(script, *how, ROOT / "train.py", *args)


def wait_for_step(process: ForkedCommand, step: int) -> None:
    """Read what a run prints until the line of a step."""
    for line in process.stdout:
        if re.match(rf"\s*{step} ", line):
            return
    raise AssertionError(process.stderr.read())


def assert_equal(a, b, where: str = "") -> None:
    """The same to the last bit."""
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_equal(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, list):
        assert len(a) == len(b), where
        for i, (left, right) in enumerate(zip(a, b, strict=True)):
            assert_equal(left, right, f"{where}/{i}")
    else:
        assert a == b, where


def assert_same_run(folder, undisturbed) -> None:
    """Weights, optimizer, losses, log and stories are the same; only the clock differs."""
    for name in ("ckpt.pt", "best.pt"):
        one, two = load_checkpoint(folder / name), load_checkpoint(undisturbed / name)
        for state in (one, two):
            state.pop("log_sizes", None)  # the clock's digits vary in number
            state.get("progress", {}).pop("seconds", None)
        assert_equal(one, two, name)
    logs = [
        [
            {column: value for column, value in row.items() if column not in CLOCK}
            for row in csv.DictReader((path / "log.csv").read_text().splitlines())
        ]
        for path in (folder, undisturbed)
    ]
    assert logs[0] == logs[1]
    assert (folder / "samples.txt").read_text() == (undisturbed / "samples.txt").read_text()


@pytest.mark.parametrize(
    "variant",
    [
        "--dtype=float32",
        "--dtype=bfloat16 --arch=qwen3 --optimizer=muon --attention_window=9 --story_mask=True",
        "--dtype=float32 --optimizer=muon --lr_schedule=linear --ema=0.01",
    ],
)
def test_a_run_stopped_by_sigterm_and_resumed_equals_the_undisturbed_one(
    dataset, tmp_path, monkeypatch, variant
):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")  # sums over threads keep their order too
    options = (f"--dataset={dataset}", *SMALL, *variant.split())
    options += ("--max_iters=20", "--eval_interval=10")
    forked("train.py", *options, f"--out_dir={tmp_path / 'whole'}")
    folder = tmp_path / "stopped"
    process = ForkedCommand("train.py", *options, f"--out_dir={folder}")
    wait_for_step(process, 7)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, err
    stopped = int(re.search(r"stopped and saved after step (\d+); resume with:\n", out)[1])
    assert 7 <= stopped < 20
    shown = " ".join(out.replace("\\\n", "").split())  # a long command goes on after a backslash
    assert f"resume with: python train.py --init_from=resume --out_dir={folder}" in shown
    forked("train.py", f"--out_dir={folder}", "--init_from=resume")
    assert_same_run(folder, tmp_path / "whole")


def test_ctrl_c_during_an_evaluation_ends_it_and_the_resumed_run_makes_up_for_it(dataset, tmp_path):
    options = (f"--dataset={dataset}", *SMALL, "--max_iters=6", "--eval_tokens=200000")
    forked("train.py", *options, f"--out_dir={tmp_path / 'whole'}")
    folder = tmp_path / "stopped"
    process = ForkedCommand("train.py", *options, f"--out_dir={folder}")
    wait_for_step(process, 5)  # which an evaluation follows
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "stopped and saved after step 5" in out
    assert load_checkpoint(folder / "ckpt.pt")["progress"]["evaluated"] == 0
    forked("train.py", f"--out_dir={folder}", "--init_from=resume")
    assert_same_run(folder, tmp_path / "whole")


def take_terminal() -> None:
    """Make stdin the controlling terminal of this process, whose closing ends it."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup


def test_a_closed_terminal_saves_the_run(dataset, tmp_path):
    ours, theirs = pty.openpty()
    options = (f"--dataset={dataset}", f"--out_dir={tmp_path / 'run'}", *SMALL, "--max_iters=5000")
    process = subprocess.Popen(
        [sys.executable, ROOT / "train.py", *options, "--eval_interval=5000"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=take_terminal,
    )
    os.close(theirs)
    shown = b""
    while not re.search(rb"\n\s*7 ", shown):
        shown += os.read(ours, 4096)
    os.close(ours)
    time.sleep(0.01)
    process.send_signal(signal.SIGHUP)  # a shell sends one more to its jobs
    assert process.wait(60) == 128 + signal.SIGHUP
    step = load_checkpoint(tmp_path / "run" / "ckpt.pt")["progress"]["step"]
    assert 7 <= step < 5000
    assert (tmp_path / "run" / "log.csv").read_text().splitlines()[-1].startswith(f"{step},")


def test_a_second_ctrl_c_quits_at_once(dataset, tmp_path):
    slow = ("--n_embd=512", "--batch_size=32", "--block_size=256", "--eval_tokens=256")
    options = (f"--dataset={dataset}", f"--out_dir={tmp_path}", *SMALL, *slow)
    process = ForkedCommand("train.py", *options)
    for line in process.stdout:
        if line.startswith("  | step 0:"):
            break
    time.sleep(1)  # in the first step, which takes seconds
    process.send_signal(signal.SIGINT)
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "saved" not in out


def test_ctrl_c_under_torchrun_stops_all_processes_and_two_nodes_resume_exactly(dataset, tmp_path):
    options = (f"--dataset={dataset}", *SMALL, "--max_iters=14")
    train_on_two(*options, f"--out_dir={tmp_path / 'whole'}")
    folder = tmp_path / "stopped"
    process = torchrun(*options, f"--out_dir={folder}")
    wait_for_step(process, 4)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "torchrun --nproc_per_node=2 train.py --init_from=resume" in out, out + err
    assert 'Traceback (most recent call last):\n  File "' + str(ROOT) not in err
    assert 4 <= load_checkpoint(folder / "ckpt.pt")["progress"]["step"] < 14
    with socket.create_server(("127.0.0.1", 0)) as free:
        how = nodes(free.getsockname()[1])
    more = (f"--out_dir={folder}", "--init_from=resume")
    for node in [torchrun(*more, how=how) for _ in range(2)]:
        _, err = node.communicate(timeout=120)
        assert node.returncode == 0, err
    assert_same_run(folder, tmp_path / "whole")


def kill_when_a_temporary_file_appears(process, folder) -> None:
    """kill -9 at the instant a checkpoint is being written."""
    while process.poll() is None:
        if any(entry.name.endswith(".pt.tmp") for entry in os.scandir(folder)):
            break
    process.kill()


def test_a_chain_of_twenty_kills_at_random_instants_loses_nothing(dataset, tmp_path):
    rng = random.Random(7)
    options = (f"--dataset={dataset}", *SMALL, "--max_iters=150", "--eval_interval=25")
    options += ("--eval_tokens=200", "--n_layer=1", "--gradient_accumulation_steps=1")
    forked("train.py", *options, f"--out_dir={tmp_path / 'whole'}")
    folder = tmp_path / "killed"
    folder.mkdir()
    steps = []
    for kill in range(20):
        begin = options if kill == 0 else ("--init_from=resume",)
        process = ForkedCommand("train.py", *begin, f"--out_dir={folder}", "--save_minutes=0")
        wait_for_step(process, steps[-1] + 2 if steps else 2)
        if kill % 2:
            kill_when_a_temporary_file_appears(process, folder)
        else:
            time.sleep(rng.random() * 0.05)
            process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "the run ended before it was killed"
        load_checkpoint(folder / "best.pt")
        steps.append(load_checkpoint(folder / "ckpt.pt")["progress"]["step"])
    assert steps == sorted(set(steps))  # every one of them got further
    forked("train.py", f"--out_dir={folder}", "--init_from=resume", "--save_minutes=10")
    assert_same_run(folder, tmp_path / "whole")


@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_a_log_that_has_lost_its_end_is_not_continued(run, tmp_path, damage):
    folder = shutil.copytree(run, tmp_path / "run")
    log = folder / "log.csv"
    log.write_bytes(log.read_bytes()[:-30]) if damage == "cut" else log.unlink()
    line = complaint(
        "train.py", "--init_from=resume", f"--out_dir={folder}", "--max_iters=12", run=forked
    )
    assert (
        "log.csv is missing, damaged or has lost its end; copy it from a backup, or train on in"
        in line
    )


@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_best_pt_is_written_anew_where_it_is_missing_or_damaged(run, tmp_path, damage):
    folder = shutil.copytree(run, tmp_path / "run")
    best = folder / "best.pt"
    best.write_bytes(best.read_bytes()[:-30]) if damage == "cut" else best.unlink()
    done = forked("train.py", "--init_from=resume", f"--out_dir={folder}", "--max_iters=12")
    assert "the next evaluation writes a new one" in done.stdout
    state = load_checkpoint(folder / "ckpt.pt")["progress"]
    assert load_checkpoint(best)["val_loss"] == state["best_val"]


def test_best_pt_of_a_finished_run_is_written_anew(run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    (folder / "best.pt").unlink()
    logged = (folder / "log.csv").read_bytes()
    done = forked("train.py", "--init_from=resume", f"--out_dir={folder}")
    assert "nothing left to train" in done.stdout
    state = load_checkpoint(folder / "ckpt.pt")["progress"]
    assert load_checkpoint(folder / "best.pt")["step"] == state["best_step"] == 10
    assert (folder / "log.csv").read_bytes() == logged


def test_what_a_killed_run_left_is_removed_and_its_plot_is_drawn(run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    for name in ("loss.png.tmp", "ckpt.pt.tmp"):
        (folder / name).write_bytes(b"half")
    (folder / "loss.png").unlink()
    done = forked("train.py", "--init_from=resume", f"--out_dir={folder}")
    assert "nothing left to train" in done.stdout
    assert (folder / "loss.png").exists()
    assert not list(folder.glob("*.tmp"))
