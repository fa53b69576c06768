"""Plots of logs, sweeps and datasets, as PNG files that are readable on a page 900 pixels wide."""

import csv
import io
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, NullLocator

from configurator import UserError
from tinystories.files import atomic_write
from tinystories.terminal import distinct_names, short_count

STYLE = Path(__file__).with_name("plots.mplstyle")
BLUE, VERMILLION, GREEN, SKY = "#0072b2", "#d55e00", "#009e73", "#56b4e9"  # as in STYLE
INK = "#333333"
BLUE_SHADES = ("#cfe3f1", "#8fbfdf", "#3f8fc4", "#0b5a91")

WIDTH = 9.0  # inches
DPI = 150
TICK_STEPS = (1, 2, 5, 10)  # ticks are 1, 2 or 5 times a power of ten apart
PLOTTED = "step tokens minutes loss learning_rate grad_norm train_loss val_loss val_bits_per_byte"


def plot_run(folder: Path) -> None:
    """Plot folder/log.csv as folder/loss.png: losses, learning rate and gradient norm.

    One x-axis with three scales: steps, tokens and minutes of training. Values that are missing
    or not finite are left out. Earlier evaluations use only the first validation tokens, so the
    last one can differ slightly. Raises UserError where there is no log.csv.
    """
    log = read_log(folder / "log.csv")
    steps = log["step"]
    with saved_figure(folder / "loss.png", height=7.6) as figure:
        loss, rate, norm = figure.subplots(3, 1, sharex=True, height_ratios=(4.5, 1.5, 1.5))
        loss.set_title(folder.absolute().name, pad=38)
        loss.set(ylabel="loss, nats per token")
        _plot_smoothed(loss, steps, log["loss"], "each step logged", "their running mean")
        for split, color in (("train", INK), ("val", VERMILLION)):
            x, y = _finite(steps, log[f"{split}_loss"])
            label = f"evaluated on {split}: {_last_and_lowest(y)}"
            loss.plot(x, y, "o-", color=color, markersize=4, label=label, clip_on=False)
        _log_scale(loss)
        _legend_above(loss, columns=2)
        rate.plot(*_finite(steps, log["learning_rate"]), color=GREEN)
        rate.set(ylabel="learning rate", ylim=(0, None))
        rate.yaxis.set_major_formatter("{x:g}")
        norm.set(ylabel="gradient norm")
        _plot_smoothed(norm, steps, log["grad_norm"])
        _log_scale(norm, ticks=4)
        _three_scales(norm, log)
        figure.align_ylabels()


def plot_runs(folders: Sequence[Path], path: Path) -> None:
    """Plot validation bits per byte of several runs against steps, tokens and minutes.

    The evaluation before the first step is left out: the model has learned nothing yet.
    """
    names = distinct_names([folder.absolute() for folder in folders])
    logs = {name: read_log(f / "log.csv") for name, f in zip(names, folders, strict=True)}
    columns = 1 if max(map(len, logs), default=0) > 30 else 2
    with saved_figure(path, height=3.9 + 0.2 * math.ceil(len(logs) / columns)) as figure:
        panels = figure.subplots(1, 3, sharey=True)
        figure.suptitle("validation bits per byte", x=0.01, ha="left", weight="bold")
        lines = {}
        units = {"step": "steps", "tokens": "tokens", "minutes": "minutes of training"}
        for axes, (unit, xlabel) in zip(panels, units.items(), strict=True):
            for name, log in logs.items():
                bits = np.where(log["step"] > 0, log["val_bits_per_byte"], np.nan)
                (line,) = axes.plot(*_finite(log[unit], bits), marker="o", markersize=3)
                lines[f"{name}: {_last_and_lowest(bits[np.isfinite(bits)])}"] = line
            axes.set(xlabel=xlabel, xlim=(0, None))
            axes.xaxis.set_major_locator(MaxNLocator(4))
            axes.xaxis.set_major_formatter(_short)
        _log_scale(panels[0])
        figure.legend(lines.values(), lines.keys(), loc="outside lower left", ncols=columns)


def plot_sweep(rows: Sequence[dict], setting: str, path: Path) -> None:
    """Plot val_bits_per_byte of runs against one setting: one point per run, a line at the best.

    Each row holds a run's settings and val_bits_per_byte, as numbers or text. A run without a
    finite result is a cross at the top. The x-axis is logarithmic where the values span a factor
    of ten or more; values that are not all numbers are categories, numbers first.
    """
    values = [row.get(setting) for row in rows]
    bits = np.array([_number(row.get("val_bits_per_byte")) for row in rows], dtype=float)
    x = np.array([_number(value) for value in values], dtype=float)
    with saved_figure(path, height=4.4) as figure:
        axes = figure.add_subplot()
        if np.isfinite(x).all():
            _value_axis(axes, x, max_labels=14)
        else:
            order = np.argsort(x, kind="stable")  # NaN last
            categories = list(dict.fromkeys(str(values[i]) for i in order))
            x = np.array([categories.index(str(value)) for value in values], dtype=float)
            crowded = sum(map(len, categories)) > 70  # no room side by side
            rotation, ha = (20, "right") if crowded else (0, "center")
            axes.set_xticks(range(len(categories)), categories, rotation=rotation, ha=ha)
            axes.set_xlim(-0.5, len(categories) - 0.5)
        good = np.isfinite(bits)
        axes.plot(x[good], bits[good], "o", color=SKY, alpha=0.8, label="one run")
        best = {value: bits[good & (x == value)].min() for value in np.unique(x[good])}
        axes.plot(list(best), list(best.values()), "o-", color=BLUE, label="the best at each value")
        if failed := (~good).sum():
            top = {"transform": axes.get_xaxis_transform()}  # x in values, y from 0 to 1
            label = f"no result: {failed}"
            axes.plot(x[~good], [0.97] * failed, "x", color=VERMILLION, label=label, **top)
        axes.margins(y=0.12)
        axes.set(xlabel=setting, ylabel="validation bits per byte")
        _legend_above(axes, columns=3)


@contextmanager
def saved_figure(path: Path, height: float) -> Iterator[Figure]:
    """A figure to fill, `height` inches high; written atomically to `path` as PNG at the end."""
    png = io.BytesIO()
    with matplotlib.rc_context(fname=STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a box is drawn for it
        figure = Figure(figsize=(WIDTH, height), dpi=DPI)
        yield figure
        figure.savefig(png, format="png")
    atomic_write(path, png.getvalue())


def histogram(axes: Axes, values: np.ndarray, title: str, unit: str, counted: str) -> None:
    """A histogram of the integers `values`, one of each thing that is `counted`.

    The largest 0.5 % are left out, since a long tail would leave no room for the others.
    """
    median, high, top = np.quantile(values, (0.5, 0.95, 0.995))
    width = math.ceil((top + 1) / 60)  # an integer, so that each bin holds as many integers
    edges = np.arange(0, top + 1 + width, width)
    axes.stairs(np.histogram(values, edges)[0], edges, fill=True, color=SKY)
    for x in (median, high):
        axes.axvline(x, color=INK, linewidth=1, linestyle="--")
    label = f"{unit} (dashed: median {median:,.0f}; 95 % below {high:,.0f})"
    axes.set(title=title, xlabel=label, ylabel=counted, xlim=(0, edges[-1]))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.yaxis.set_major_formatter(_short)
    axes.grid(visible=False, axis="x")


def bars(axes: Axes, title: str, unit: str, values: Mapping[str, float], label_format: str) -> None:
    """A horizontal bar for each of the `values`, the first on top, each with its number."""
    drawn = axes.barh(list(values), list(values.values()), color=SKY)
    axes.bar_label(drawn, fmt=label_format, padding=3)
    axes.set(title=title, xlabel=unit)
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    axes.margins(x=0.18, y=0.02)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(_short)
    axes.grid(visible=False, axis="y")


def stacked_bars(
    axes: Axes, title: str, unit: str, rows: Mapping[str, np.ndarray], parts: Sequence[str]
) -> None:
    """A bar of 100 % for each of the `rows`, divided into up to four `parts`."""
    table = np.array(list(rows.values()), dtype=float).reshape(-1, len(parts))
    table = 100 * table / table.sum(axis=1, keepdims=True)
    left = np.zeros(len(table))
    for i, (part, percents) in enumerate(zip(parts, table.T, strict=True)):
        drawn = axes.barh(list(rows), percents, left=left, color=BLUE_SHADES[i], label=part)
        texts = [f"{percent:.0f}" if percent >= 5 else "" for percent in percents]
        axes.bar_label(drawn, texts, label_type="center", color=INK if i < 2 else "white")
        left += percents
    axes.set_title(title, pad=24)
    axes.set(xlabel=unit, xlim=(0, 100))
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    axes.grid(visible=False)
    _legend_above(axes, columns=len(parts))


def curve(axes: Axes, title: str, units: tuple[str, str], x: np.ndarray, y: np.ndarray) -> None:
    """A curve of y > 0 against x; x is logarithmic where it spans a factor of ten or more."""
    axes.plot(x, y, marker="o" if len(x) <= 20 else "", markersize=4, color=BLUE)
    _value_axis(axes, x, max_labels=7)
    axes.set(title=title, xlabel=units[0], ylabel=units[1], ylim=(0, None))


def read_log(path: Path) -> dict[str, np.ndarray]:
    """The PLOTTED columns of a log.csv, NaN where a row has no number.

    Rows of evaluations have no tokens and minutes; they are interpolated, from 0 at step 0. After
    the last logged step they grow at the mean pace. Raises UserError where there is no such file.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    except FileNotFoundError:
        raise UserError(f"there is no {path}; {path.parent} is no run folder") from None
    complete = (line for line in lines if line.endswith("\n"))  # a run may be writing the last one
    rows = list(csv.DictReader(complete))
    log = {name: np.array([_number(row.get(name)) for row in rows]) for name in PLOTTED.split()}
    for name in ("tokens", "minutes"):
        steps, values = _finite(log["step"], log[name])
        if len(steps) and steps[-1] > 0:
            x, y = (np.concatenate([[0], known, [1024 * known[-1]]]) for known in (steps, values))
            log[name] = np.interp(log["step"], x, y)
    return log


def _number(cell) -> float:
    """A cell of a table as a number; NaN where it holds none."""
    try:
        return math.nan if isinstance(cell, bool) else float(cell)
    except (TypeError, ValueError):
        return math.nan


def _finite(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The points whose two coordinates are finite."""
    good = np.isfinite(x) & np.isfinite(y)
    return x[good], y[good]


def _last_and_lowest(values: np.ndarray) -> str:
    """The result of a run's evaluations, for a legend."""
    return f"{values[-1]:.4f}, lowest {values.min():.4f}" if len(values) else "none yet"


def _plot_smoothed(axes: Axes, x: np.ndarray, y: np.ndarray, *labels: str) -> None:
    """A pale curve, and its running mean over 2 % of the points; `labels` are for the legend."""
    label, mean_label = labels or (None, None)
    x, y = _finite(x, y)
    axes.plot(x, y, color=SKY, alpha=0.45, linewidth=0.7, label=label)
    indices, reach = np.arange(len(y)), len(y) // 100
    first, stop = np.maximum(indices - reach, 0), np.minimum(indices + reach + 1, len(y))
    sums = np.append(0.0, np.cumsum(y))
    axes.plot(x, (sums[stop] - sums[first]) / (stop - first), color=BLUE, label=mean_label)


def _log_scale(axes: Axes, ticks: int = 8) -> None:
    """Make the y-axis logarithmic, with up to `ticks` labels, after the curves are plotted."""
    if axes.dataLim.minposy == math.inf:  # no value is above zero
        return
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    if high < 10 * low:  # powers of ten would be too few ticks
        axes.yaxis.set_major_locator(MaxNLocator(ticks, steps=TICK_STEPS))
    else:
        subs = TICK_STEPS[:3] if high < 100 * low else (1,)
        axes.yaxis.set_major_locator(LogLocator(subs=subs, numticks=ticks))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(NullLocator())


def _value_axis(axes: Axes, values: np.ndarray, max_labels: int) -> None:
    """An x-axis for `values`, logarithmic where they span a factor of ten or more.

    Up to `max_labels` different values are the ticks, without those too close to the one before.
    """
    different = positions = np.unique(values)
    if len(different) > 1 and different[0] > 0 and different[-1] > 9.99 * different[0]:
        # 9.99, since 1e-3 / 1e-4 is slightly less than 10 in floating point
        axes.set_xscale("log")
        positions = np.log(different)
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(_short)
    if 0 < len(different) <= max_labels:
        room = 0.99 * np.ptp(positions) / (max_labels - 1)
        axes.set_xticks(different[np.append(True, np.diff(positions) > room)])
        axes.xaxis.set_minor_locator(NullLocator())


def _three_scales(axes: Axes, log: dict[str, np.ndarray]) -> None:
    """Below an x-axis of steps, add the scales of tokens and minutes."""
    axes.set_xlim(0, np.nanmax(log["step"], initial=1))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.text(-0.012, -0.075, "steps", ha="right", va="top", transform=axes.transAxes)
    for name, y in (("tokens", -0.27), ("minutes", -0.54)):
        steps, values = (np.append(0, column) for column in _finite(log["step"], log[name]))
        ticks = np.array(MaxNLocator(8).tick_values(0, values[-1]))
        ticks = ticks[(ticks >= 0) & (ticks <= values[-1])]
        scale = axes.secondary_xaxis(y)
        scale.set_xticks(np.interp(ticks, values, steps), map(_short, ticks))
        axes.text(-0.012, y - 0.075, name, ha="right", va="top", transform=axes.transAxes)


def _legend_above(axes: Axes, columns: int) -> None:
    """A legend between the title and the axes, where it covers nothing."""
    axes.legend(loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=columns, borderaxespad=0.2)


def _short(x: float, _position: float = 0) -> str:
    """A number on an axis: 0.003, 2.5, 850, 50,257, 125K, 3M."""
    if abs(x) >= 100_000:
        return short_count(x)
    return f"{x:,.0f}" if abs(x) >= 1000 else f"{x:.3g}"
