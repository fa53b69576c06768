"""What the parts of soak.py share: small datasets and runs, and commands that are watched."""

import contextlib
import dataclasses
import functools
import json
import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import soak_limits
from conftest import SMALL
from forks import ForkedCommand

from tinystories.dataset import open_dataset

TIMEOUT = 60  # seconds, after which a command hangs
LONGEST_LINE = 1200  # characters of a complaint
STORIES = ("--source=storybook", "--max_stories=400", "--val_fraction=0.05")
VOCABULARY = ("--tokenizer=bpe", "--vocab_size=300")


class Failure(Exception):
    """A case did not end as it should."""


@dataclasses.dataclass
class Done:
    """A command that has ended."""

    words: tuple[str, ...]
    status: int  # minus the signal where one killed it
    out: str
    err: str
    memory: int  # its largest, in bytes, as far as it was seen

    def fail(self, why: str) -> Failure:
        """A Failure with everything that the command was told and said."""
        shown = " ".join(word if len(word) < 300 else f"{word[:300]}..." for word in self.words)
        text = f"{why}\n  python {shown!r}\n  status {self.status}\n{self.out[-600:]}"
        return Failure(f"{text}{self.err[-2500:]}")


class Watched(ForkedCommand):
    """A command with limited memory, whose largest use of it is noted."""

    def __init__(self, *words, setup: Callable | None = None, **options):
        self.words = tuple(map(str, words))
        super().__init__(*self.words, setup=setup or soak_limits.limit, **options)
        self.memory, self.hung = 0, False
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        status, first = Path(f"/proc/{self.pid}/status"), 0
        while True:
            try:
                now = re.search(r"VmRSS:\s*(\d+)", status.read_text())
            except OSError:
                return
            if not now:  # it has ended
                return
            first = first or int(now[1])
            self.memory = max(self.memory, 1024 * (int(now[1]) - first))
            time.sleep(0.02)

    def send_signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            super().send_signal(number)

    def end(self, timeout: float = TIMEOUT) -> Done:
        """Wait for the end; a command that hangs is killed and fails."""

        def give_up() -> None:
            self.hung = True
            os.killpg(self.pid, signal.SIGKILL)

        alarm = threading.Timer(timeout, give_up)
        alarm.start()
        out, err = self.communicate(timeout + 30)
        alarm.cancel()
        done = Done(self.words, self.returncode, out, err, self.memory)
        if self.hung:
            raise done.fail(f"hangs: it was killed after {timeout} seconds")
        return done


def run(*words, **options) -> Done:
    """Run a command to its end."""
    return Watched(*words, **options).end()


def succeed(*words, **options) -> Done:
    """Run a command, which must succeed."""
    done = run(*words, **options)
    if done.status:
        raise done.fail("does not succeed")
    return done


def check_answer(done: Done, also: tuple[int, ...] = (), may_not_start: bool = False) -> None:
    """A command succeeds, or ends with status 2 and one line that says why.

    Args:
        also: other statuses that are allowed.
        may_not_start: Python itself may fail before the script is there to answer.
    """
    if may_not_start and done.status == 1 and "configurator.py" not in done.err:
        return
    if "Traceback (most recent call last)" in done.out + done.err:
        raise done.fail("a traceback")
    if done.status not in (0, 2, *also):
        raise done.fail("a status that is neither 0 nor 2")
    if done.status == 2:
        name = Path(done.words[0]).name
        lines = done.err.splitlines()
        said = [line for line in lines if line.startswith(f"{name}: ")]
        if len(said) != 1 or lines[-1] != said[0]:
            raise done.fail("the complaint is not one line")
        if len(said[0]) > LONGEST_LINE:
            raise done.fail("the complaint is long")


def no_leftovers(folder: Path) -> None:
    """Nothing temporary and no lock is left in a folder or below it."""
    left = [p for p in folder.rglob("*") if re.search(r"\.(tmp|lock|old|partial)$", p.name)]
    if left:
        raise Failure(f"left behind: {', '.join(str(path.relative_to(folder)) for path in left)}")


class World:
    """Small datasets, runs and other files, each made when it is first needed.

    Cases copy what they harm; nothing here changes.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def copy(self, thing: Path, folder: Path) -> Path:
        """A copy of a file or folder of this world in the folder of a case."""
        if thing.is_dir():
            return Path(shutil.copytree(thing, folder / thing.name, symlinks=True))
        return Path(shutil.copy(thing, folder / thing.name))

    @functools.cached_property
    def data(self) -> Path:
        """A dataset of 400 stories and 300 ids, opened once, so that it has checked.json."""
        path = self.folder / "data"
        succeed("prepare.py", *STORIES, *VOCABULARY, f"--dataset={path}")
        open_dataset(str(path), block_size=1)
        return path

    @functools.cached_property
    def run(self) -> Path:
        """A run of four steps, evaluated."""
        path = self.folder / "run"
        options = (f"--dataset={self.data}", f"--out_dir={path}", *SMALL, "--max_iters=4")
        succeed("train.py", *options, "--eval_interval=2", "--full_eval=False")
        succeed("evaluate.py", path, *QUICK_EVALUATION, f"--pairs={self.pairs}")
        return path

    @functools.cached_property
    def pairs(self) -> Path:
        lines = Path("prompts/pairs.jsonl").read_text(encoding="utf-8").splitlines(True)
        path = self.folder / "pairs.jsonl"
        path.write_text("".join(lines[:8]), encoding="utf-8")
        return path

    @functools.cached_property
    def prompts(self) -> Path:
        path = self.folder / "prompts.txt"
        path.write_text("Once upon a time\nThe fox was\n", encoding="utf-8")
        return path

    @functools.cached_property
    def hf(self) -> Path:
        """The run as transformers reads it."""
        return self._exported("hf")

    @functools.cached_property
    def nanogpt(self) -> Path:
        """The run as nanoGPT reads it: ckpt.pt, vocabulary.json and meta.pkl."""
        return self._exported("nanogpt")

    def _exported(self, kind: str) -> Path:
        succeed("export.py", self.run, f"--to={kind}", "--overwrite=True")
        return shutil.copytree(self.run / "export" / kind, self.folder / kind)

    @functools.cached_property
    def characters(self) -> Path:
        """A dataset as nanoGPT's shakespeare_char: two .bin, and the characters in meta.pkl."""
        path = shutil.copytree(self.nanogpt, self.folder / "characters")
        (path / "ckpt.pt").unlink()
        (path / "vocabulary.json").unlink()
        import pickle

        import numpy as np

        letters = "\nabcdefghijklmnopqrstuvwxyz ."
        itos = dict(enumerate(letters))
        meta = {"vocab_size": len(letters), "itos": itos, "stoi": {c: i for i, c in itos.items()}}
        (path / "meta.pkl").write_bytes(pickle.dumps(meta))
        rng = np.random.default_rng(0)
        for split, count in (("train", 4000), ("val", 500)):
            rng.integers(len(letters), size=count).astype("<u2").tofile(path / f"{split}.bin")
        return path

    @functools.cached_property
    def sweep(self) -> Path:
        """A finished sweep of two runs."""
        options = (f"--out_dir={self.folder}", "--name=sweep", f"--dataset={self.data}", *SMALL)
        succeed("sweep.py", *options, "--max_iters=2", "--learning_rate=1e-3,2e-3")
        return self.folder / "sweep"

    @functools.cached_property
    def bench(self) -> Path:
        """An earlier measurement, in the form of bench.py."""
        path = self.folder / "bench.json"
        row = {"median": 1.0, "min": 1.0, "max": 1.0, "runs": 1}
        rows = {"training, tokens/s": row}
        path.write_text(json.dumps({"machine": {}, "settings": {}, "results": rows}))
        return path


QUICK_EVALUATION = (
    "--what=loss,pairs,generation --samples_per_prompt=1 --max_chars=20 --device=cpu"
).split()
