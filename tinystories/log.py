"""What a run tells of itself: a table on the screen, log.csv, samples.txt, Weights & Biases."""

import csv
import io
import os
import textwrap
from pathlib import Path

from tqdm import tqdm

from configurator import RANK, UserError

FILES = ("log.csv", "samples.txt")
COLUMNS = (  # of log.csv; a step fills the first ones, an evaluation the last ones
    *("step", "tokens", "loss", "learning_rate", "grad_norm"),
    *("tokens_per_second", "mfu", "minutes", "minutes_left"),
    *("train_loss", "val_loss", "val_bits_per_byte"),
)
HEADER = "  step  tokens    loss        lr    norm   tok/s    MFU    left"


def say(text: str) -> None:
    """Print above the progress bar, in the first of several processes alone."""
    if RANK == 0:
        tqdm.write(text)


class Logbook:
    """The records of a run, in a folder where its files only grow.

    Their sizes are saved with the run's state; a run that resumes cuts them back to those, so
    that nothing stands in them twice.
    """

    def __init__(self, folder: Path, sizes: dict[str, int] | None = None, wandb=None):
        """Open the records of a new run, or, given `sizes` in bytes, of one that resumes.

        Args:
            wandb: a run that `open_wandb` opened, which gets the same rows.
        """
        self.wandb = wandb
        self.files = {name: open(folder / name, "ab") for name in FILES}
        for name, file in self.files.items():
            file.truncate(min(file.tell(), sizes[name]) if sizes else 0)
            file.seek(0, os.SEEK_END)
        if self.files["log.csv"].tell() == 0:
            self._append("log.csv", ",".join(COLUMNS) + "\n")

    def step(self, row: dict) -> None:
        """Record a training step; `row` holds its COLUMNS, mfu None where it is not known."""
        self._record(row | {"mfu": "n/a" if row["mfu"] is None else round(row["mfu"], 4)})
        mfu = "n/a" if row["mfu"] is None else f"{row['mfu']:.1%}"
        say(
            f"{row['step']:6} {short(row['tokens']):>7} {row['loss']:7.4f} "
            f"{row['learning_rate']:9.2e} {row['grad_norm']:7.3f} "
            f"{short(row['tokens_per_second']):>7} {mfu:>6} {duration(60 * row['minutes_left']):>7}"
        )

    def evaluation(self, row: dict, story: str) -> None:
        """Record an evaluation and the story told at it."""
        self._record(row)
        self._append("samples.txt", f"--- step {row['step']} ---\n{story}\n\n")
        say(evaluation_line(row))
        say(textwrap.fill(story, 79, initial_indent="  | ", subsequent_indent="  | ", max_lines=8))

    def sizes(self) -> dict[str, int]:
        """Flush the files to the disk; their sizes in bytes."""
        for file in self.files.values():
            os.fsync(file.fileno())
        return {name: file.tell() for name, file in self.files.items()}

    def _record(self, row: dict) -> None:
        line = io.StringIO()
        csv.DictWriter(line, COLUMNS, lineterminator="\n").writerow(row)
        self._append("log.csv", line.getvalue())
        if self.wandb:
            numbers = {name: value for name, value in row.items() if value != "n/a"}
            self.wandb.log(numbers, step=row["step"])

    def _append(self, name: str, text: str) -> None:
        self.files[name].write(text.encode())
        self.files[name].flush()


def open_wandb(folder: Path, settings: dict, run_id: str | None):
    """Open a run at Weights & Biases, or the one that has this id.

    Raises:
        UserError: wandb is not installed, or refuses.
    """
    try:
        import wandb
    except ImportError:
        raise UserError("wandb_log needs wandb: pip install wandb") from None
    try:
        return wandb.init(
            project=settings["wandb_project"],
            name=settings["wandb_run_name"] or folder.name,
            id=run_id,
            resume="allow",
            dir=folder,
            config=settings,
        )
    except wandb.errors.Error as error:
        reason = " ".join(str(error).split())
        raise UserError(f"wandb_log: {reason}; WANDB_MODE=offline needs no account") from None


def evaluation_line(row: dict) -> str:
    """The losses of an evaluation in a line."""
    return (
        f"step {row['step']}: train loss {row['train_loss']:.4f}, val loss {row['val_loss']:.4f}, "
        f"{row['val_bits_per_byte']:.4f} bits per byte"
    )


def short(count: float) -> str:
    """A count in few characters: 850, 8.5K, 614M, 1.23B."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if count >= 0.9995 * size:
            return f"{count / size:.3g}{letter}"
    return f"{count:.0f}"


def duration(seconds: float) -> str:
    """A time in words: 45s, 12m05s, 3h20m."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02}m"
    return f"{minutes}m{seconds:02}s" if minutes else f"{seconds}s"
