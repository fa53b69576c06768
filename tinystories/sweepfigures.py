"""Plots of sweeps: their results against one setting, two, or all of them.

`rows` are those of results.csv, each with a run's settings and val_bits_per_byte, as numbers or
text. A run that was pruned has no result here: it does not compare with the finished ones.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import XAxis, YAxis
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.ticker import MaxNLocator, NullLocator

from tinystories.figures import (
    BLUE,
    BLUE_SHADES,
    INK,
    SKY,
    TICK_STEPS,
    VERMILLION,
    is_wide,
    log_scale,
    number,
    saved_figure,
    short,
    short_name,
    time_unit,
    title_and_legend,
)

BEST_IS_DARK = LinearSegmentedColormap.from_list("best is dark", BLUE_SHADES[::-1])


def plot_results(rows: Sequence[dict], importance: Mapping[str, float], folder: Path) -> None:
    """All plots of a sweep, in its folder.

    Args:
        importance: of each swept setting, in order; 0 where it is unknown.
    """
    for name in importance:
        plot_sweep(rows, name, folder / f"{name}.png")
    as_given = sorted(importance, key=list(rows[0]).index)  # so that a pair keeps its name
    for pair in itertools.combinations(as_given, 2):
        plot_sweep_table(rows, pair, folder / f"{'_'.join(pair)}.png")
    if len(importance) > 1:
        plot_parallel(rows, importance, folder / "parallel.png")


def plot_sweep(rows: Sequence[dict], setting: str, path: Path) -> None:
    """Plot val_bits_per_byte of runs against one setting: one point per run, a line at the best.

    A run without a result is a cross at the top. The x-axis is logarithmic where the values span
    a factor of ten or more; values that are not all numbers are categories, numbers first. The
    title has the name of the folder, which is the sweep's.
    """
    values = [row.get(setting) for row in rows]
    bits = result_of_each(rows)
    x = np.array([number(value) for value in values], dtype=float)
    with saved_figure(path, height=4.8) as figure:
        axes = figure.add_subplot()
        axes.set(xlabel=setting, ylabel="validation bits per byte")
        if np.isfinite(x).all():
            _value_axis(axes, x)
        else:
            categories = _different(values)
            x = np.array([categories.index(str(value)) for value in values], dtype=float)
            _category_axis(axes.xaxis, categories)
            axes.set_xlim(-0.5, len(categories) - 0.5)
        good = np.isfinite(bits)
        best = {value: bits[good & (x == value)].min() for value in np.unique(x[good])}
        if len(best) < good.sum():
            axes.plot(x[good], bits[good], "o", color=SKY, alpha=0.8, label="one run")
        if best:
            label = "the best at each value" if len(best) < good.sum() else "one run"
            axes.plot(list(best), list(best.values()), "o-", color=BLUE, label=label)
        if failed := (~good).sum():
            top = {"transform": axes.get_xaxis_transform()}  # x in values, y from 0 to 1
            pruned = " or pruned" if any(row.get("pruned") for row in rows) else ""
            label = f"no result{pruned}: {failed}"
            axes.plot(x[~good], [0.97] * failed, "x", color=VERMILLION, label=label, **top)
        axes.margins(y=0.12)
        axes.yaxis.set_major_locator(MaxNLocator(7, steps=TICK_STEPS))
        if not best:
            axes.set_yticks([])
        title_and_legend(axes, short_name(path.absolute().parent.name), _budget(rows), columns=3)


def plot_sweep_table(rows: Sequence[dict], settings: tuple[str, str], path: Path) -> None:
    """Plot the lowest val_bits_per_byte for each two values of two settings, as a table of colors.

    The title is as in `plot_sweep`. Nothing is plotted if more than half of the cells
    would be empty, as in a random sweep, or if both have more than 10 values.
    """
    different = {name: _different([row.get(name) for row in rows]) for name in settings}
    down, across = sorted(settings, key=lambda name: -len(different[name]))
    lines, columns = different[down], different[across]
    cells: dict[tuple[int, int], list[float]] = {}  # results by line and column
    for row, bits in zip(rows, result_of_each(rows).tolist(), strict=True):
        place = lines.index(str(row.get(down))), columns.index(str(row.get(across)))
        cells.setdefault(place, []).append(bits)
    if len(columns) > 10 or 2 * len(cells) < len(lines) * len(columns):
        return
    table = np.full((len(lines), len(columns)), np.nan)
    for place, results in cells.items():
        table[place] = min(filter(math.isfinite, results), default=math.nan)
    known = table[np.isfinite(table)]
    best, middle = (known.min(), np.median(known)) if len(known) else (0.0, 0.0)
    with saved_figure(path, height=1.9 + 0.5 * len(lines)) as figure:
        axes = figure.add_subplot()
        # Twice as far from the best as the median is the palest: one bad run pales no other.
        palest = max(2 * middle - best, best + 1e-9)
        axes.imshow(table, cmap=BEST_IS_DARK, aspect="auto", vmin=best, vmax=palest)
        for i, j in cells:
            bits = table[i, j]
            dark = bits - best < 0.2 * (palest - best)
            color = "white" if dark else "black" if math.isfinite(bits) else VERMILLION
            text = f"{bits:.4f}" if math.isfinite(bits) else "no result"
            weight = "bold" if bits == best else "normal"
            axes.text(j, i, text, ha="center", va="center", color=color, weight=weight)
        _category_axis(axes.xaxis, columns)
        _category_axis(axes.yaxis, lines)
        axes.set(xlabel=across, ylabel=down)
        axes.tick_params(length=0)
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        name = f"{short_name(path.absolute().parent.name)}, validation bits per byte"
        title_and_legend(axes, name, _budget(rows))


def plot_parallel(rows: Sequence[dict], importance: Mapping[str, float], path: Path) -> None:
    """Plot each finished run as a line over parallel axes, one per setting, the last the result.

    The best run is a line of its own color. Nothing is plotted without two finished runs.

    Args:
        importance: of each setting, in the order of the axes; 0 where it is unknown.
    """
    bits = result_of_each(rows)
    finished = [row for row, result in zip(rows, bits, strict=True) if math.isfinite(result)]
    bits = bits[np.isfinite(bits)]
    if len(finished) < 2:
        return
    places = [_places([row.get(name) for row in finished]) for name in importance]
    places.append(_places(bits.tolist()))
    heights = np.array([heights for heights, _ in places])  # (axes, runs)
    ranks = np.argsort(np.argsort(bits)) / (len(bits) - 1)  # 0 of the best, 1 of the worst
    with saved_figure(path, height=5.2) as figure:
        axes = figure.add_subplot()
        for run in np.argsort(-bits):  # the best is drawn last
            best = run == np.argmin(bits)
            color, width = (VERMILLION, 2.4) if best else (BEST_IS_DARK(ranks[run]), 1.2)
            label = f"the best: {bits.min():.4f}" if best else None
            axes.plot(heights[:, run], "-", color=color, linewidth=width, label=label)
        for x, (_, ticks) in enumerate(places):
            axes.axvline(x, color=INK, linewidth=0.8)
            for height, text in ticks.items():
                box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 1}
                axes.text(x + 0.03, height, text, va="center", fontsize=9.5, bbox=box)
        names = [
            short_name(name, 20) + (f"\n{100 * share:.0f} %" if share else "")
            for name, share in importance.items()
        ]
        axes.set_xticks(range(len(places)), [*names, "validation\nbits per byte"])
        axes.set(yticks=[], xlim=(-0.1, len(places) - 0.7), ylim=(-0.06, 1.06))
        axes.tick_params(length=0)
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        title_and_legend(axes, short_name(path.absolute().parent.name), _budget(rows))


def result_of_each(rows: Sequence[dict]) -> np.ndarray:
    """Bits per byte of each finished run; NaN of the others."""
    cells = [None if row.get("pruned") else row.get("val_bits_per_byte") for row in rows]
    return np.array(list(map(number, cells)), dtype=float)


def _places(values: Sequence) -> tuple[np.ndarray, dict[float, str]]:
    """The heights of values on an axis from 0 to 1, and its labels by height.

    Logarithmic where they span a factor of ten or more; what is not a number is a category.
    """
    x = np.array(list(map(number, values)), dtype=float)
    if not np.isfinite(x).all():
        names = _different(values)
        heights = np.linspace(0, 1, len(names)) if len(names) > 1 else np.array([0.5])
        labels = {height: short_name(name, 16) for height, name in zip(heights, names, strict=True)}
        return heights[[names.index(str(value)) for value in values]], labels
    low, high = x.min(), x.max()
    scale = np.log if is_wide(low, high) else np.asarray
    marks = np.unique(x)
    if len(marks) > 8:  # a range
        marks = np.geomspace(low, high, 5) if scale is np.log else np.linspace(low, high, 5)
    width = scale(high) - scale(low) or 1
    heights, ticks = ((scale(each) - scale(low)) / width for each in (x, marks))
    return heights, dict(zip(ticks.tolist(), map(short, marks), strict=True))


def _budget(rows: Sequence[dict]) -> list[str]:
    """How many runs a sweep has, and the steps and the time of each, for a title."""
    steps, minutes = (
        [value for row in rows if math.isfinite(value := number(row.get(name)))]
        for name in ("step", "minutes")
    )
    unit, per_minute = time_unit(max(minutes, default=0))
    runs = "1 run" if len(rows) == 1 else f"{len(rows)} runs"
    of_steps = f" of {_span(steps)} steps" if steps else ""
    each = " each" if len(rows) > 1 else ""
    time = f"{_span([m * per_minute for m in minutes])} {unit}{each}" if minutes else ""
    return [runs + of_steps, time]


def _span(values: Sequence[float]) -> str:
    """The lowest and the highest value, or one where they look the same."""
    return " to ".join(dict.fromkeys(map(short, (min(values), max(values)))))


def _different(values: Sequence) -> list[str]:
    """The different values as text, numbers first and in order."""
    order = np.argsort(np.array(list(map(number, values)), dtype=float), kind="stable")  # NaN last
    return list(dict.fromkeys(str(values[i]) for i in order))


def _value_axis(axes: Axes, values: np.ndarray) -> None:
    """An x-axis for `values`, logarithmic where they span a factor of ten or more.

    Up to 14 different values are the ticks.
    """
    different = np.unique(values)
    wide = len(different) > 1 and is_wide(different[0], different[-1])
    if wide and len(different) > 14:
        log_scale(axes.xaxis, different[0], different[-1], max_labels=9)
        return
    if wide:
        axes.set(xscale="log", xlabel=f"{axes.get_xlabel()} (log scale)")
        axes.xaxis.set_minor_locator(NullLocator())
    if len(different) <= 14:
        axes.set_xticks(different)
    axes.xaxis.set_major_formatter(short)


def _category_axis(axis: XAxis | YAxis, categories: Sequence[str]) -> None:
    """A place for each category, with its name; aslant below an axis where names are long."""
    names = [short_name(name, 28) for name in categories]
    crowded = axis.axis_name == "x" and max(map(len, names), default=0) * len(names) > 70
    turned: dict[str, Any] = (
        {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if crowded else {}
    )
    axis.set_ticks(range(len(names)), names, **turned)
