"""Plots against the steps of kept checkpoints: how a model learned."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullLocator

from tinystories.figures import INK, saved_figure, short, short_name

STYLES = ("-", "--", ":", "-.")  # of several runs
Curves = Mapping[str, Sequence[float | None]]  # by name; None where there is no value


def plot_steps(runs: Mapping[str, Mapping[int, dict]], path: Path) -> None:
    """Plot the results of evaluate.py for steps of one run or several: losses, minimal pairs.

    Args:
        runs: what evaluation.json has, by run and step.
    """
    with saved_figure(path, height=5.2) as figure:
        left, right = figure.subplots(1, 2)
        if len(runs) == 1:
            figure.suptitle(short_name(next(iter(runs))), x=0.01, ha="left", weight="bold")
        steps = sorted({step for run in runs.values() for step in run})
        for i, (name, results) in enumerate(runs.items()):
            own, style = sorted(results), STYLES[i % len(STYLES)]
            bits = [bits_of(results[step]) for step in own]
            left.plot(own, values(bits), style, marker="o", markersize=4, color=f"C{i}", label=name)
            for j, (group, shares) in enumerate(pairs_of(results).items()):
                options = {"color": f"C{j}", "label": "" if i else group}
                right.plot(own, values(shares), style, marker="o", markersize=4, **options)
        left.set(title="validation bits per byte", ylim=(0, None))
        right.set(title="minimal pairs, % correct", ylim=(0, 102))
        right.axhline(50, color=INK, linewidth=0.8, linestyle=":")
        for axes in (left, right):
            step_axis(axes, steps)
        if right.get_legend_handles_labels()[0]:
            right.legend(loc="lower right", ncols=2, fontsize=9.5)
        if len(runs) > 1:
            left.legend(left.lines, map(short_name, runs), loc="lower left", fontsize=9.5)


def bits_of(result: dict) -> float | None:
    """Bits per byte of a run's results, None where the loss was not measured."""
    return result["loss"]["all_text"]["bits_per_byte"] if "loss" in result else None


def pairs_of(results: Mapping[int, dict]) -> Curves:
    """The share of correct minimal pairs in % by group, over the steps in order."""
    ordered = [results[step].get("pairs", {}) for step in sorted(results)]
    groups = {group for pairs in ordered for group in pairs.get("groups", {})}

    def share(pairs: dict, group: str) -> float | None:
        part = pairs.get("groups", {}).get(group)
        return None if part is None else 100 * part["proportion"]

    return {group: [share(pairs, group) for pairs in ordered] for group in sorted(groups)}


def plot_panels(
    steps: Sequence[int], panels: Mapping[str, tuple[str, Curves]], title: str, path: Path
) -> None:
    """A page of panels with curves over the steps; each is a title with a unit and its curves."""
    rows = math.ceil(len(panels) / 2)
    with saved_figure(path, height=0.6 + 3.6 * rows) as figure:
        figure.suptitle(title, x=0.01, ha="left", weight="bold")
        grid = figure.subplots(rows, 2, squeeze=False).flatten()
        for axes in grid[len(panels) :]:
            axes.set_axis_off()
        for axes, (name, (unit, curves)) in zip(grid, panels.items(), strict=False):
            for label, curve in curves.items():
                axes.plot(steps, values(curve), marker="o", markersize=3, label=label)
            axes.set(title=name, ylabel=unit, ylim=(0, None))
            step_axis(axes, steps)
            axes.legend(fontsize=9.5)


def values(curve: Sequence[float | None]) -> np.ndarray:
    """The values of a curve, NaN where there is none."""
    return np.array([math.nan if y is None else y for y in curve], dtype=float)


def step_axis(axes: Axes, steps: Sequence[int]) -> None:
    """An axis of steps: their logarithm, and room for step 0 before it where that is there."""
    first, last = min(steps), max(*steps, 1)
    powers = [2**k for k in range(int(math.log2(last)) + 1) if 2**k >= 0.85 * first]
    if first:
        axes.set_xscale("log")
        axes.set_xlim(0.85 * first, 1.15 * last)
    else:
        axes.set_xscale("symlog", linthresh=1)
        axes.set_xlim(-0.1, 1.15 * last)
        powers = [0, *powers]
    powers = powers or [first, last]
    axes.set_xticks(powers[:: max(1, math.ceil(len(powers) / 9))])
    axes.xaxis.set_major_formatter(FuncFormatter(short))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("steps (log scale)")
