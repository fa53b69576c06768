"""evaluation.json: which model, under "run", and the result of each part with its "key".

Also the numbers in it: proportions with their interval, and how the table shows numbers.
"""

import math
from collections.abc import Sequence
from pathlib import Path

from tinystories.files import checksum, read_json, write_json

Rows = dict[str, dict[str, str]]  # of the table: the cell of each label, by section
FORMAT = 3  # of evaluation.json
RESULT = "evaluation.json"  # in the run folder
PARTS = {  # what can be measured, and the module of this folder that measures it
    "loss": "validation",
    "pairs": "pairs",
    "generation": "generation",
    "memorization": "memorization",
    "instruct": "instruct",
    "judge": "judge",
}


def read_results(path: Path, info: dict) -> dict:
    """The result of each part in evaluation.json.

    None of them if it is about another model than `info`, of another format, or was changed.
    """
    stored = read_json(path, bool, "delete it to measure again") if path.exists() else {}
    results = {name: stored[name] for name in stored.keys() - {"run", "checksum"}}
    unchanged = stored.get("checksum") == checksum([FORMAT, info, results], sort_keys=True)
    return results if unchanged else {}


def write_results(path: Path, info: dict, results: dict) -> None:
    """Write what `read_results` reads, atomically."""
    sha256 = checksum([FORMAT, info, results], sort_keys=True)
    write_json(path, {"run": info, "checksum": sha256} | results)


def proportion_with_ci(outcomes: Sequence[bool]) -> dict:
    """The proportion p of True among n, with its 95 % score interval (Wilson 1927).

    (p + z²/2n ± z sqrt(p (1 - p) / n + z²/4n²)) / (1 + z²/n), where z = 1.96 is the 97.5 %
    quantile of the normal distribution. It also holds for small n, and for p near 0 or 1.
    """
    n, z = len(outcomes), 1.96
    p = sum(outcomes) / n
    middle = p + z * z / (2 * n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = ((middle + side) / (1 + z * z / n) for side in (-half, half))
    return {"count": n, "proportion": p, "low": max(0.0, low), "high": min(1.0, high)}


def number(value: float | None) -> str:
    """A count or a ratio in the table."""
    if value is None:
        return "n/a"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"


def percent(value: dict | float | None) -> str:
    """A fraction in percent, with the interval if it is one of `proportion_with_ci`."""
    if value is None:
        return "n/a"
    if isinstance(value, float):
        return f"{100 * value:.2f} %"
    low, middle, high = (100 * value[name] for name in ("low", "proportion", "high"))
    return f"{'100' if middle == 100 else f'{middle:.1f}'} % [{low:.0f}-{high:.0f}]"
