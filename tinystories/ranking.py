"""What the runs of a sweep gave: result.json of each, results.csv and the table of all."""

import csv
import io
import math
import textwrap
from collections.abc import Iterable
from pathlib import Path

from configurator import UserError
from tinystories.files import atomic_write, read_json
from tinystories.terminal import SCREEN, counted, right_aligned, short_count, time_taken

RESULT = {  # of a finished run: the column of the table, and its format
    "val_bits_per_byte": ("bits/byte", "{:.4f}".format),
    "val_loss": ("val", "{:.4f}".format),
    "train_loss": ("train", "{:.4f}".format),
    "step": ("steps", str),
    "tokens": ("tokens", short_count),
    "minutes": ("time", lambda minutes: time_taken(60 * minutes)),
    "parameters": ("params", short_count),
}
LEAST_NEEDED = ("train_loss", "tokens", "val_loss", "step", "parameters", "minutes")  # on a screen


def read_result(folder: Path) -> dict | None:
    """The result of a run that ended; None where it is missing, damaged or not finite.

    Of a run that was ended because it was behind, `pruned` is the percentage of its budget where
    that was.
    """

    def is_valid(result: dict) -> bool:
        return all(type(result[x]) in (int, float) and abs(result[x]) < 1e300 for x in RESULT)

    try:
        return read_json(folder / "result.json", is_valid, "")
    except (FileNotFoundError, UserError):
        return None


def last_losses(path: Path) -> dict:
    """The losses of the last evaluation in a log.csv: over all of validation if that was
    measured, since runs of different vocabularies compare only by the same text. Of the averaged
    weights where they are better.
    """
    with open(path, encoding="utf-8", newline="") as file:
        last = [row for row in csv.DictReader(file) if row["val_loss"]][-1]
    losses = {"train_loss": float(last["train_loss"])}
    for name in ("val_bits_per_byte", "val_loss"):
        weights = [float(last[column]) for column in (name, f"ema_{name}") if last.get(column)]
        losses[name] = float(last.get(f"full_{name}") or min(weights))
    return losses


def is_finished(row: dict) -> bool:
    """Whether a row of results is of a run that was trained to its end."""
    return not ("error" in row or "pruned" in row)


def outcome(row: dict) -> str:
    """A row of results in words."""
    if "error" in row:
        return f"failed: {row['error']}"
    took = f"{counted(row['step'], 'step')} in {time_taken(60 * row['minutes'])}"
    pruned = f"pruned at {row['pruned']} %: " if "pruned" in row else ""
    return f"{pruned}{row['val_bits_per_byte']:.4f} bits per byte after {took}"


def ranked(rows: Iterable[dict]) -> list[dict]:
    """Rows by bits per byte; behind the finished runs stand the pruned, then the failed."""

    def key(row: dict) -> tuple:
        return "error" in row, "pruned" in row, row.get("val_bits_per_byte", math.inf), row["run"]

    return sorted(rows, key=key)


def write_results(path: Path, rows: list[dict], swept: list[str]) -> None:
    """Write results.csv."""
    text = io.StringIO()
    names = ["run", *swept, *RESULT, "pruned", "error"]
    writer = csv.DictWriter(text, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    atomic_write(path, text.getvalue().encode())


def results_table(rows: list[dict], swept: list[str]) -> str:
    """The rows for a screen of 80 columns: columns are left out and errors shortened to fit."""
    lines: list[str] = []
    for left_out in range(len(LEAST_NEEDED) + 1):
        shown = {name: RESULT[name] for name in RESULT if name not in LEAST_NEEDED[:left_out]}
        cells = [[*swept, *(heading for heading, _ in shown.values())]]
        for row in rows:
            results = [write(row[name]) for name, (_, write) in shown.items() if name in row]
            cells.append([*(str(row[name]) for name in swept), *results])
        lines = right_aligned(cells)
        if len(lines[0]) + 8 * any("pruned" in row for row in rows) <= SCREEN:
            break
    for i, row in enumerate(rows, 1):
        if "error" in row:
            lines[i] += "  " + textwrap.shorten(row["error"], max(25, 78 - len(lines[i])))
        elif "pruned" in row:
            lines[i] += "  pruned"
    return "\n".join(lines)
