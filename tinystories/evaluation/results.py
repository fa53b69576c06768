"""evaluation.json: which model, under "run", and the result of each part with its "key".

Also the numbers in it: proportions with their interval, and how the table shows numbers.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tinystories.files import read_json

Rows = dict[str, dict[str, str]]  # of the table: the cell of each label, by section
OLD_NAMES = {  # of entries, in files of earlier versions
    "asked": "key",
    "memory": "memorization",
    "whole": "all_text",
    "by_story": "per_story",
    "share": "proportion",
    "beginnings": "prompts",
    "beginning": "prompt",
    "told": "continuation",
    "stories_each": "samples_per_prompt",
    "max_characters": "max_chars",
    "repeated_4grams": "seq_rep_4",
    "unknown_words": "oov_rate",
    "copies": "copy_rate",
    "above": "threshold",
    "real": "validation_stories",
}


def read_results(path: Path, info: dict) -> dict:
    """The result of each part in evaluation.json; none if it is about another model than `info`."""
    try:
        stored = read_json(path, rename, "delete it to measure again")
    except FileNotFoundError:
        return {}
    if stored.pop("run", None) != info:
        return {}
    results = {
        part: result
        for part, result in rename(stored).items()
        if isinstance(result, dict) and isinstance(result.get("key"), dict)
    }
    if "sha256" in results.get("generation", {}):  # where earlier versions had it
        generation = results["generation"]
        generation["key"]["stories_sha256"] = generation.pop("sha256")
    return results


def rename(value: Any, is_groups: bool = False) -> Any:
    """A JSON value with its OLD_NAMES replaced, but not those of the user's groups of pairs."""
    if isinstance(value, list):
        return [rename(item) for item in value]
    if not isinstance(value, dict):
        return value
    new_names = {} if is_groups else OLD_NAMES
    return {new_names.get(k, k): rename(item, k == "groups") for k, item in value.items()}


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
