"""The evaluations that a run has logged."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from configurator import UserError
from tinystories.files import read_whole


@dataclass(frozen=True)
class Curve:
    """The evaluations of a run, in order."""

    steps: Sequence[int]
    train: Sequence[float]  # nats per token
    val: Sequence[float]  # nats per token, of the better weights
    bits: Sequence[float]  # bits per byte of val

    @property
    def lowest(self) -> int:
        return min(range(len(self.val)), key=lambda i: self.val[i])


def read_curve(path: Path) -> Curve | None:
    """The evaluations in a log.csv; None where there is none."""
    try:
        text = read_whole(path).decode(errors="replace")
    except FileNotFoundError:
        return None
    rows = [row for row in csv.DictReader(text.splitlines()) if row.get("val_loss")]

    def numbers(name: str) -> list[float]:
        return [float(row[name]) for row in rows]

    try:
        steps = [int(row["step"]) for row in rows]
        names = ("train_loss", "val_loss", "val_bits_per_byte")
        return Curve(steps, *map(numbers, names))
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path} is damaged: it has rows without numbers") from None
