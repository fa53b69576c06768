"""Kills and signals at random instants, most of them at the interesting ones."""

import contextlib
import csv
import os
import random
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from conftest import SMALL
from soak_world import (
    QUICK_EVALUATION,
    VOCABULARY,
    Done,
    Failure,
    Watched,
    World,
    no_leftovers,
    succeed,
)
from test_resume import assert_same_run

from configurator import UserError
from tinystories.dataset import open_dataset
from tinystories.run import load_checkpoint

SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
INSTANTS = ("a temporary file", "an evaluation", "start-up", "resuming", "any time")
TRAINING = (*SMALL, "--max_iters=30", "--eval_interval=10", "--warmup_iters=4")
VARIANTS = (
    "",
    "--ema=0.01",
    "--arch=qwen3",
    "--dtype=bfloat16",
    "--optimizer=muon",
    "--arch=qwen3 --optimizer=muon --ema=0.01 --dtype=bfloat16",
    "--arch=qwen3 --optimizer=muon --attention_window=9 --story_mask=True",
)
BINS = ("train.bin", "val.bin", "vocabulary.json")


def case(rng: random.Random, world: World, folder: Path) -> Iterator[str]:
    kinds = (train, train, train, two_processes, prepare, prepare, evaluate, export, sweep)
    yield from rng.choice(kinds)(rng, world, folder)


def disturb(rng: random.Random, processes: list[Watched], folder: Path, seconds: float) -> str:
    """Send a signal at a random instant to a command, which runs in all of `processes`.

    Args:
        folder: where its files appear.
        seconds: how long it takes undisturbed.

    Returns:
        the signal and the instant.
    """
    number, instant = rng.choice(SIGNALS), rng.choice(INSTANTS)
    first = processes[0]
    wait_for(instant, first, folder, seconds, rng)
    time.sleep(rng.random() * rng.choice((0.0, 0.003, 0.03)))
    for process in processes:
        process.send_signal(number)
    if number != signal.SIGKILL and rng.random() < 0.2:  # an impatient user
        time.sleep(rng.random() * 0.1)
        for process in processes:
            process.send_signal(number)
    return f"{number.name}, {instant}"


def wait_for(instant: str, process: Watched, folder: Path, seconds: float, rng) -> None:
    """Wait until an instant comes, or the process ends."""
    patterns = {"an evaluation": r"  \| step", "resuming": r"continuing after|compile: "}
    if instant == "a temporary file":
        wanted = rng.randrange(1, 6)  # so many of them seen
        seen = set()
        while process.poll() is None and len(seen) < wanted:
            with contextlib.suppress(OSError):
                for parent in (folder, folder.parent):
                    names = (entry for entry in os.scandir(parent) if entry.name[-3:] != "png")
                    files = (e for e in names if re.search(r"\.(tmp|partial|old)$", e.name))
                    seen |= {(e.name, e.inode()) for e in files}
    elif instant in patterns:
        # Nothing else reads the output before the end, which needs only the rest of it.
        wanted = rng.randrange(1, 4) if instant == "an evaluation" else 1
        for line in process.stdout:
            wanted -= bool(re.search(patterns[instant], line))
            if not wanted:
                break
    else:
        time.sleep(rng.random() * (0.5 if instant == "start-up" else seconds))


def check_stopped(done: Done) -> None:
    """A command that was sent a signal: killed by it, saved and stopped, or finished before."""
    by_signal = {-number for number in SIGNALS} | {128 + number for number in SIGNALS}
    # Before the script begins, Ctrl-C meets the process that was forked for it.
    before = done.status == 1 and ("configurator.py" not in done.err or not done.err)
    if done.status not in by_signal | {0} and not before:
        raise done.fail("stopped with another status than that of its signal")
    if "Traceback" in done.err and not before:
        raise done.fail("a traceback")


# Training -----------------------------------------------------------------------------------


def undisturbed(world: World, variant: str, size: int) -> Path:
    """The run of a variant that nothing disturbs."""
    path = world.folder / f"whole{VARIANTS.index(variant)}of{size}"
    if not path.exists():
        start = time.monotonic()
        options = (f"--dataset={world.data}", f"--out_dir={path}", *TRAINING, *variant.split())
        for done in finish(start_training(size, *options)):
            if done.status:
                raise done.fail("does not succeed")
        (world.folder / f"{path.name}.seconds").write_text(str(time.monotonic() - start))
    return path


def start_training(size: int, *options) -> list[Watched]:
    """train.py in so many processes, as torchrun starts them."""
    if size == 1:
        return [Watched("train.py", *options)]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks = [shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(size)]
    return [Watched("train.py", *options, env=os.environ | each) for each in ranks]


def finish(processes: list[Watched]) -> list[Done]:
    """Wait for all processes; torchrun would end the others where one has failed."""
    done = [None] * len(processes)

    def wait(i: int) -> None:
        try:
            done[i] = processes[i].end()
        except Failure as failure:
            done[i] = failure

    threads = [threading.Thread(target=wait, args=(i,)) for i in range(len(processes))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed := next((each for each in done if isinstance(each, Failure)), None):
        raise failed
    return done


def train(rng: random.Random, world: World, folder: Path, size: int = 1) -> Iterator[str]:
    """A chain of kills; what each leaves is whole, and the end is the undisturbed one."""
    variant = rng.choice(VARIANTS)
    whole, out = undisturbed(world, variant, size), folder / "run"
    seconds = float((world.folder / f"{whole.name}.seconds").read_text())
    fresh = (f"--dataset={world.data}", f"--out_dir={out}", *TRAINING, *variant.split())
    step = -1
    for _ in range(rng.randrange(2, 9)):
        begin = ("--init_from=resume",) if (out / "ckpt.pt").exists() else (*fresh, "--overwrite")
        often = "--save_minutes=0" if rng.random() < 0.6 else "--save_minutes=10"
        processes = start_training(size, *begin, f"--out_dir={out}", often)
        kind = disturb(rng, processes, out, seconds)
        for done in finish(processes):
            if size == 1:
                check_stopped(done)
        if (out / "ckpt.pt").exists():
            now = load_checkpoint(out / "ckpt.pt")["progress"]
            if now["best_step"] >= 0:
                load_checkpoint(out / "best.pt")
            if now["step"] < step:
                raise Failure(f"step {now['step']} after step {step}")
            step = now["step"]
        elif step >= 0:
            raise Failure(f"ckpt.pt of step {step} is gone")
        yield f"train, {size} processes, {kind}" if size > 1 else f"train, {kind}"
    begin = ("--init_from=resume",) if (out / "ckpt.pt").exists() else (*fresh, "--overwrite")
    for done in finish(start_training(size, *begin, f"--out_dir={out}", "--save_minutes=10")):
        if done.status:
            raise done.fail(f"does not go on ({variant})")
    try:
        assert_same_run(out, whole)
    except AssertionError as error:
        raise Failure(f"not the undisturbed run ({variant}): {error}") from None
    no_leftovers(folder)


def two_processes(rng: random.Random, world: World, folder: Path) -> Iterator[str]:
    yield from train(rng, world, folder, size=2)


# The other commands -------------------------------------------------------------------------


def bins(folder: Path) -> dict[str, bytes] | None:
    """The content of a dataset; None where there is none."""
    if not folder.exists():
        return None
    return {name: (folder / name).read_bytes() for name in BINS}


def prepare(rng: random.Random, world: World, folder: Path) -> Iterator[str]:
    """The old dataset or the new one, whole, or put back by the next command."""
    count = rng.choice((200, 2000))
    new = ("--source=storybook", f"--max_stories={count}", "--val_fraction=0.05", *VOCABULARY)
    wanted = world.folder / f"data{count}"
    if not wanted.exists():
        succeed("prepare.py", *new, f"--dataset={wanted}")
    data = folder / "data"
    replacing = rng.random() < 0.7
    old = bins(world.copy(world.data, folder)) if replacing else None
    words = ("prepare.py", *new, f"--dataset={data}", *["--overwrite"] * replacing)
    for _ in range(rng.randrange(1, 4)):
        process = Watched(*words)
        kind = disturb(rng, [process], data, 0.6 if count == 200 else 1.2)
        check_stopped(process.end())
        with contextlib.suppress(UserError) if old is None else contextlib.nullcontext():
            open_dataset(str(data), block_size=1)  # may put it back
        if bins(data) not in (old, bins(wanted)):
            raise Failure(f"neither the old dataset nor the new one after {kind}")
        yield f"prepare{', overwriting' * replacing}, {kind}"
    succeed(*words)
    if bins(data) != bins(wanted):
        raise Failure("the next command does not make the new dataset")
    no_leftovers(folder)


def evaluate(rng: random.Random, world: World, folder: Path) -> Iterator[str]:
    out = world.copy(world.run, folder)
    for name in rng.choice(((), ("evaluation.json", "evaluation_stories.jsonl"))):
        (out / name).unlink()
    words = ("evaluate.py", out, *QUICK_EVALUATION, f"--pairs={world.pairs}", "--overwrite")
    wanted = succeed("evaluate.py", world.run, *words[2:-1]).out
    for _ in range(rng.randrange(1, 4)):
        process = Watched(*words)
        kind = disturb(rng, [process], out, 1.5)
        check_stopped(process.end())
        yield f"evaluate, {kind}"
    if succeed(*words[:-1]).out != wanted:
        raise Failure("another table than the undisturbed one")
    no_leftovers(folder)


def export(rng: random.Random, world: World, folder: Path) -> Iterator[str]:
    kind = rng.choice(("hf", "nanogpt", "gguf", "html"))
    words = ("export.py", f"--to={kind}", "--overwrite")
    out = world.copy(world.run, folder)
    for _ in range(rng.randrange(1, 4)):
        process = Watched(*words, out)
        instant = disturb(rng, [process], out / "export", 1.0)
        check_stopped(process.end())
        yield f"export, {instant}"
    succeed(*words, out)
    no_leftovers(folder)


def sweep(rng: random.Random, world: World, folder: Path) -> Iterator[str]:
    """The same command again finishes what was stopped; its runs start on a bare Python."""
    options = (f"--out_dir={folder}", "--name=sweep", f"--dataset={world.data}", *SMALL)
    words = ("sweep.py", *options, "--max_iters=2", "--learning_rate=1e-3,2e-3")
    process = Watched(*words)
    kind = disturb(rng, [process], folder / "sweep", 12)
    check_stopped(process.end())
    yield f"sweep, {kind}"
    deadline = time.monotonic() + 30
    while alive := runs_in(folder):  # of a sweep that was killed; they end at their next line
        if time.monotonic() > deadline:
            raise Failure(f"processes {alive} of a killed sweep go on")
        time.sleep(0.1)
    succeed(*words)
    with open(folder / "sweep" / "results.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if len(rows) != 2 or any(row["error"] for row in rows):
        raise Failure(f"results.csv after resuming: {rows}")


def runs_in(folder: Path) -> list[int]:
    """Processes that were started with a setting that names this folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if f"={folder}".encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return found
