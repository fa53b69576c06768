"""Programs that draw the curves of runs: Weights & Biases, TensorBoard, Trackio.

They get the rows of log.csv, those of a step in one call, once a checkpoint has the step: what a
resumed run does again, perhaps with other settings, they have not seen. log.csv is the only record:
on resume its rows are read again, and each tracker gets the steps that it lacks. So no row is lost
and none comes twice, whenever a run was killed and whatever a tracker still had in its buffers.
"""

import contextlib
import csv
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from shutil import rmtree
from typing import Any, ClassVar, Protocol

from configurator import UserError

PACKAGES = ("wandb", "tensorboard", "trackio")  # the names of the trackers, too
CURVES = "events.out.tfevents.*"  # TensorBoard's files in a run folder


def check_names(log_to: str | None) -> list[str]:
    """The trackers that the setting names; UserError for an unknown one or a missing package."""
    names = list(dict.fromkeys(log_to.replace(" ", "").split(","))) if log_to else []
    for name in names:
        if name not in PACKAGES:
            raise UserError(f"log_to={log_to}: {name!r} is none of {', '.join(PACKAGES)}")
        if not importlib.util.find_spec(name):
            raise UserError(f"log_to={log_to} needs a package: pip install {name}")
    return names


class Tracker(Protocol):
    """Where rows are sent to."""

    first: int  # the first step that it lacks

    def send(self, step: int, numbers: dict[str, float]) -> None: ...

    def close(self) -> None: ...


class Trackers:
    """The trackers of a run; `closed_trackers` closes them."""

    open: ClassVar[list["Trackers"]] = []

    def __init__(self, trackers: list[Tracker], log: Path, state):
        """Send what `trackers` lack of log.csv; the rest comes by `add` and `flush`.

        Args:
            state: train.py's TrainState, which tells when a step is complete.
        """
        self.trackers, self.state = trackers, state
        self.waiting: dict[int, dict[str, float]] = {}  # numbers by step, not sent yet
        if trackers:
            self.open.append(self)
            with open(log, encoding="utf-8", errors="replace", newline="") as file:
                rows = csv.DictReader(file)
                try:
                    for row in rows:
                        self.add(row)
                except (KeyError, TypeError, ValueError, csv.Error):
                    raise UserError(
                        f"{log}: line {rows.line_num} is damaged; copy it from a backup, or go on "
                        "with --log_to=None"
                    ) from None
            self.flush()

    def add(self, row: dict) -> None:
        """Take a row of log.csv."""
        if self.trackers:
            values = {name: value for name, value in row.items() if value not in ("", "n/a")}
            numbers = {n: float(value) for n, value in values.items() if n != "step"}
            self.waiting.setdefault(int(row["step"]), {}).update(numbers)

    def flush(self) -> None:
        """Send all steps, now that a checkpoint has them, but one that is still to be evaluated."""
        for step in sorted(self.waiting):
            if step < self.state.step or self.state.evaluated == self.state.step:
                numbers = self.waiting.pop(step)
                for tracker in self.trackers:
                    if numbers and step >= tracker.first:
                        tracker.send(step, numbers)


@contextlib.contextmanager
def closed_trackers() -> Iterator[None]:
    """Close the trackers that are opened within, however that ends."""
    try:
        yield
    finally:
        while Trackers.open:
            for tracker in Trackers.open.pop().trackers:
                tracker.close()


def open_trackers(s, folder: Path, run_id: str | None) -> list[Tracker]:
    """The trackers that train.py's Settings name; raises UserError where one cannot begin.

    Args:
        folder: of the run; its name is that of the run there, unless wandb_run_name is another.
        run_id: the same one when a run is resumed; None where there are no trackers.
    """
    kinds = {"wandb": WandB, "tensorboard": TensorBoard, "trackio": Trackio}
    return [kinds[name](s, folder, run_id) for name in check_names(s.log_to)]


class WandB:
    """A run at Weights & Biases or, with WANDB_MODE=offline, in the folder wandb/ of the run.

    The server tells which step is its last. An offline run cannot be resumed, so a new one with all
    rows and the same id replaces it: it is whole, and `wandb sync` uploads it in the place of what
    the server may have of the run.
    """

    def __init__(self, s, folder: Path, run_id: str | None):
        import wandb

        name = s.wandb_run_name or folder.name
        options: dict[str, Any] = {"id": run_id, "resume": "allow", "dir": folder}
        try:
            self.run = wandb.init(project=s.wandb_project, name=name, config=vars(s), **options)
        except wandb.errors.Error as error:
            reason = " ".join(str(error).split())
            raise UserError(f"wandb: {reason}; WANDB_MODE=offline needs no account") from None
        if self.run.offline:
            for old in folder.glob(f"wandb/offline-run-*-{run_id}"):
                if old != Path(self.run.dir).parent:
                    rmtree(old)
        self.first = self.run.starting_step

    def send(self, step: int, numbers: dict[str, float]) -> None:
        self.run.log(numbers, step=step, commit=True)

    def close(self) -> None:
        self.run.finish()


class TensorBoard:
    """Files in the run folder for `tensorboard --logdir=out`, written anew by a resumed run."""

    first = 0

    def __init__(self, s, folder: Path, run_id: str | None):
        from torch.utils.tensorboard import SummaryWriter

        for old in folder.glob(CURVES):
            old.unlink()
        self.writer = SummaryWriter(folder, flush_secs=10)

    def send(self, step: int, numbers: dict[str, float]) -> None:
        for name, value in numbers.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        self.writer.close()


class Trackio:
    """A run in Trackio's database on this machine, or on a server that its variables name.

    It knows runs by their names only, so the name has the id.
    """

    def __init__(self, s, folder: Path, run_id: str | None):
        import trackio

        name = f"{s.wandb_run_name or folder.name}-{run_id}"
        options: dict[str, Any] = {"resume": "allow", "config": vars(s)}
        options |= {"auto_log_cpu": False, "auto_log_gpu": False}
        self.close = trackio.finish
        try:
            self.run = trackio.init(project=s.wandb_project, name=name, **options)
        except (ValueError, OSError) as error:
            raise UserError(f"trackio: {' '.join(str(error).split())}") from None
        self.first = self.run._next_step  # private, and the only place that has it

    def send(self, step: int, numbers: dict[str, float]) -> None:
        self.run.log(numbers, step)
