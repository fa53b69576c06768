"""Numbers of an evaluation: proportions with their interval, and how the table shows numbers."""

import math
from collections.abc import Sequence

Rows = dict[str, dict[str, str]]  # of the table: the cell of each label, by section


def proportion_with_ci(outcomes: Sequence[bool]) -> dict:
    """The proportion p of True among n, with its 95 % score interval (Wilson 1927).

    (p + z²/2n ± z sqrt(p (1 - p) / n + z²/4n²)) / (1 + z²/n), where z = 1.96 is the 97.5 %
    quantile of the normal distribution. Unlike p ± z sqrt(p (1 - p) / n) it also holds for small
    n, and for p near 0 or 1.
    """
    n, z = len(outcomes), 1.96
    p = sum(outcomes) / n
    middle = p + z * z / (2 * n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = ((middle + side) / (1 + z * z / n) for side in (-half, half))
    return {"count": n, "proportion": p, "low": max(0.0, low), "high": min(1.0, high)}


def count(value: int | None) -> str:
    return "n/a" if value is None else f"{value:,}"


def ratio(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"


def percent(value: dict | float | None) -> str:
    """A fraction in percent, with the interval if it is one of `proportion_with_ci`."""
    if value is None:
        return "n/a"
    if isinstance(value, float):
        return f"{100 * value:.2f} %"
    low, middle, high = (100 * value[name] for name in ("low", "proportion", "high"))
    return f"{'100' if middle == 100 else f'{middle:.1f}'} % [{low:.0f}-{high:.0f}]"
