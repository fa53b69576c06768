"""The evaluations that a run has logged."""

import csv
import math
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
    val: Sequence[float]  # nats per token, of the better weights: trained or averaged
    bits: Sequence[float]  # bits per byte of val

    @property
    def lowest(self) -> int:
        return min(range(len(self.val)), key=lambda i: self.val[i])


def losses(row: dict[str, str], prefix: str) -> tuple[float, float]:
    """Nats per token and bits per byte of a row; infinite where averaged weights have none."""
    if prefix and not row.get(f"{prefix}val_loss"):
        return math.inf, math.inf
    return float(row[f"{prefix}val_loss"]), float(row[f"{prefix}val_bits_per_byte"])


def read_curve(path: Path) -> Curve | None:
    """The evaluations in a log.csv; None where there is none."""
    try:
        lines = read_whole(path).decode(errors="replace").splitlines(keepends=True)
    except FileNotFoundError:
        return None
    complete = [line for line in lines if line.endswith("\n")]  # a full disk may cut the last one
    try:
        rows = [row for row in csv.DictReader(complete) if row.get("val_loss")]
        steps = [int(row["step"]) for row in rows]
        train = [float(row["train_loss"]) for row in rows]
        better = [min(losses(row, ""), losses(row, "ema_")) for row in rows]
        return Curve(steps, train, [nats for nats, _ in better], [bits for _, bits in better])
    except (ValueError, KeyError, TypeError, csv.Error):
        raise UserError(f"{path} is damaged: it has rows without numbers") from None
