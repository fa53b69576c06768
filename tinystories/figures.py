"""Plots of logs and datasets, as PNG files that are readable on a page 900 pixels wide."""

import contextlib
import csv
import io
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import XAxis, YAxis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullLocator

from configurator import UserError
from tinystories.files import atomic_write, read_json, read_whole, settings_path
from tinystories.terminal import distinct_names, short_count

STYLE = Path(__file__).with_name("plots.mplstyle")
BLUE, VERMILLION, GREEN, SKY = "#0072b2", "#d55e00", "#009e73", "#56b4e9"  # as in STYLE
INK = "#333333"
BLUE_SHADES = ("#cfe3f1", "#8fbfdf", "#3f8fc4", "#0b5a91")

WIDTH = 9.0  # inches
DPI = 150
TICK_STEPS = (1, 2, 5, 10)  # ticks are 1, 2 or 5 times a power of ten apart
START = 0.1  # part of a run whose losses may be above the axis, so that the others have room
WHOLE_FILE: dict[str, Any] = {
    "marker": "D",
    "linestyle": "",
    "markerfacecolor": "none",
    "markersize": 7,
}
PLOTTED = (  # columns of log.csv
    *("step", "tokens", "minutes", "loss", "learning_rate", "grad_norm"),
    *("train_loss", "val_loss", "val_bits_per_byte"),
    *("ema_val_loss", "ema_val_bits_per_byte"),
    *("full_val_loss", "full_val_bits_per_byte"),
)


def plot_run(folder: Path, parameters: int | None = None) -> None:
    """Plot folder/log.csv as folder/loss.png: losses, learning rate and gradient norm.

    One x-axis with three scales: steps, tokens and time of training. Values that are missing or
    not finite are left out. The loss over the whole validation file is a mark apart from the
    curve, which is over its first tokens. Raises UserError where there is no log.csv.

    Args:
        parameters: how many the model has, for the title.
    """
    log = read_log(folder / "log.csv")
    steps = log["step"]
    with saved_figure(folder / "loss.png", height=8.4) as figure:
        loss, rate, norm = figure.subplots(3, 1, sharex=True, height_ratios=(4.5, 1.5, 1.5))
        loss.set(ylabel="loss, nats per token")
        _plot_smoothed(loss, steps, log["loss"], "each logged step", "running mean")
        for split, color in (("train", INK), ("val", VERMILLION)):
            x, y = _finite(steps, log[f"{split}_loss"])
            if len(y):
                label = f"evaluated on {split}: {_result(y)}"
                loss.plot(x, y, "o-", color=color, markersize=4, label=label)
        x, y = _finite(steps, log["ema_val_loss"])
        if len(y):
            label = f"averaged weights on val: {_result(y)}"
            loss.plot(x, y, "o--", color=VERMILLION, markersize=4, label=label)
        x, whole = _finite(steps, log["full_val_loss"])
        if len(whole):
            label = f"on the whole validation file: {whole[-1]:.4f}"
            loss.plot(x, whole, color=VERMILLION, label=label, **WHOLE_FILE)
        shown = ("loss", "train_loss", "val_loss", "ema_val_loss", "full_val_loss")
        top = _limit_height(loss, [(steps, log[name]) for name in shown])
        first = log["val_loss"][steps == 0]
        if (first > top).any():
            text, place = f"evaluated on val at step 0: {first[0]:.2f}", loss.transAxes
            loss.text(
                0.98, 0.98, text, ha="right", va="top", transform=place, backgroundcolor="white"
            )
        _bits_per_byte_axis(loss, log)
        facts = [_dataset_of(folder), f"{short_count(parameters)} parameters" if parameters else ""]
        title_and_legend(loss, short_name(folder.absolute().name), [*facts, _spent(log)])
        x, y = _finite(steps, log["learning_rate"])
        rate.plot(x, y, marker=_marker(x), markersize=3, color=GREEN)
        rate.set(ylabel="learning\nrate", ylim=(0, None))
        rate.yaxis.set_major_locator(MaxNLocator(3, steps=TICK_STEPS))
        rate.yaxis.set_major_formatter("{x:g}")
        _plot_smoothed(norm, steps, log["grad_norm"])
        norm.set(ylabel="gradient norm")
        log_scale(norm.yaxis, norm.dataLim.minposy, norm.dataLim.y1, max_labels=4)
        for axes in (rate, norm):
            if not len(axes.lines[0].get_xdata()):
                axes.set_yticks([])
        _three_scales(norm, log)
        figure.align_ylabels()


def plot_runs(folders: Sequence[Path], path: Path) -> None:
    """Plot validation bits per byte of several runs against steps, tokens and time.

    The evaluation before the first step is left out: the model has learned nothing yet. A result
    over the whole validation file is a mark apart from the curve.
    """
    names = distinct_names([folder.absolute() for folder in folders])
    logs = {name: read_log(f / "log.csv") for name, f in zip(names, folders, strict=True)}
    datasets = dict(zip(names, map(_dataset_of, folders), strict=True))
    one_dataset = len(set(datasets.values())) == 1
    unit, per_minute = time_unit(max((_last(log["minutes"]) for log in logs.values()), default=0))
    labels, lines, shown, any_whole = [], [], [], False
    for name, log in logs.items():
        log["val_bits_per_byte"][log["step"] <= 0] = np.nan
        log["time"] = log["minutes"] * per_minute
        bits, whole = log["val_bits_per_byte"], log["full_val_bits_per_byte"]
        shown += [(log["step"], bits), (log["step"], whole)]
        any_whole |= bool(np.isfinite(whole).any())
        dataset = "" if one_dataset or not datasets[name] else f" ({datasets[name]})"
        result = _result(bits)
        result += f", whole file {_last(whole):.4f}" if np.isfinite(whole).any() else ""
        heading = f"{short_name(name)}{dataset}:"
        labels.append(heading + ("\n" if len(heading + result) > 85 else " ") + result)
    columns = 1 if max(map(len, labels), default=0) > 45 else 2
    num_lines = sum(1 + label.count("\n") for label in labels)
    with saved_figure(path, height=4.4 + 0.23 * math.ceil(num_lines / columns)) as figure:
        panels = figure.subplots(1, 3, sharey=True)
        data = next(iter(datasets.values()), "") if one_dataset else "datasets differ"
        title = "validation bits per byte" + f", {data}" * bool(data)
        figure.suptitle(title, x=0.01, ha="left", weight="bold")
        units = {"step": "steps", "tokens": "tokens", "time": f"{unit} of training"}
        for axes, (column, xlabel) in zip(panels, units.items(), strict=True):
            for log in logs.values():
                (line,) = axes.plot(
                    *_finite(log[column], log["val_bits_per_byte"]), marker="o", markersize=3
                )
                lines.append(line)
                x, whole = _finite(log[column], log["full_val_bits_per_byte"])
                if len(whole):
                    axes.plot(x, whole, color=line.get_color(), **WHOLE_FILE)
            axes.set(xlabel=xlabel)
            axes.set_xlim(0, axes.get_xlim()[1])
            known = math.isfinite(axes.dataLim.x1)
            axes.xaxis.set_major_locator(
                MaxNLocator(5, steps=TICK_STEPS) if known else NullLocator()
            )
            axes.xaxis.set_major_formatter(short)
        _limit_height(panels[0], shown)
        lines = lines[: len(labels)]
        if any_whole:
            lines.append(Line2D([], [], color=INK, **WHOLE_FILE))
            labels.append("on the whole validation file")
        figure.legend(lines, labels, loc="outside lower left", ncols=columns)


def check_replaceable(path: Path) -> None:
    """Raises UserError if a file has this name and is no plot, which a plot would replace."""
    if not path.exists():
        return
    with contextlib.suppress(FileNotFoundError):
        if b"Matplotlib" not in read_whole(path)[:1000]:  # which it writes into each PNG
            raise UserError(f"{path} is no plot of this project; name another --plot")


@contextlib.contextmanager
def saved_figure(path: Path, height: float) -> Iterator[Figure]:
    """A figure to fill, `height` inches high; written atomically to `path` as PNG at the end."""
    png = io.BytesIO()
    with matplotlib.rc_context(fname=STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a box is drawn for it
        figure = Figure(figsize=(WIDTH, height), dpi=DPI)
        yield figure
        _hide_overlapping_labels(figure)
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
    label = f"{unit} (median {median:,.0f}, 95 % below {high:,.0f})"
    axes.set(title=title, xlabel=label, ylabel=counted, xlim=(0, edges[-1]))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.yaxis.set_major_formatter(short)
    axes.grid(visible=False, axis="x")


def bars(axes: Axes, title: str, unit: str, values: Mapping[str, float], label_format: str) -> None:
    """A horizontal bar for each of the `values`, the first on top, each with its number."""
    drawn = axes.barh(list(values), list(values.values()), color=SKY)
    axes.bar_label(drawn, fmt=label_format, padding=3)
    axes.set(title=title, xlabel=unit)
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    axes.margins(x=0.18, y=0.02)
    axes.xaxis.set_major_locator(MaxNLocator(4, steps=TICK_STEPS))
    axes.xaxis.set_major_formatter(short)
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
    axes.set_title(title, pad=26)
    axes.set(xlabel=unit, xlim=(0, 100))
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    axes.grid(visible=False)
    _legend_above(axes, columns=len(parts))


def curve(
    axes: Axes,
    title: str,
    units: tuple[str, str],
    x: np.ndarray,
    y: np.ndarray,
    mark: tuple[float, float, str] | None = None,
) -> None:
    """A curve of y > 0 against x; x is logarithmic where it spans a factor of ten or more.

    `mark` is the x, y and name of a point apart from the curve.
    """
    axes.plot(x, y, marker=_marker(x), markersize=4, color=BLUE)
    axes.set(title=title, xlabel=units[0], ylabel=units[1])
    if mark:
        axes.plot(*mark[:2], "D", color=VERMILLION, label=mark[2])
        axes.legend(loc="lower right")
    low, high = axes.dataLim.x0, axes.dataLim.x1
    if is_wide(low, high):
        log_scale(axes.xaxis, low, high, max_labels=6)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=TICK_STEPS))
        axes.xaxis.set_major_formatter(short)
    axes.set_ylim(0, None)


def read_log(path: Path) -> dict[str, np.ndarray]:
    """The PLOTTED columns of a log.csv, NaN where a row has no number.

    Rows of evaluations have no tokens and minutes; they are interpolated, from 0 at step 0. After
    the last logged step they grow at the mean pace. Raises UserError where there is no such file,
    or it is no table.
    """
    try:
        lines = read_whole(path).decode(errors="replace").splitlines(keepends=True)
    except FileNotFoundError:
        raise UserError(f"there is no {path}; {path.parent} is no run folder") from None
    complete = (line for line in lines if line.endswith("\n"))  # a run may be writing the last one
    try:
        rows = list(csv.DictReader(complete))
    except csv.Error as error:
        raise UserError(f"{path} is damaged: {error}") from None
    log = {name: np.array([number(row.get(name)) for row in rows]) for name in PLOTTED}
    for name in ("tokens", "minutes"):
        steps, values = _finite(log["step"], log[name])
        if len(steps) and steps[-1] > 0:
            x, y = (np.concatenate([[0], known, [1024 * known[-1]]]) for known in (steps, values))
            log[name] = np.interp(log["step"], x, y)
    return log


def number(cell) -> float:
    """A cell of a table as a number; NaN where it holds none."""
    try:
        return math.nan if isinstance(cell, bool) else float(cell)
    except (TypeError, ValueError):
        return math.nan


def _finite(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The points whose two coordinates are finite."""
    good = np.isfinite(x) & np.isfinite(y)
    return x[good], y[good]


def _last(values: np.ndarray) -> float:
    """The last finite value; 0 where there is none."""
    return float(next(iter(values[np.isfinite(values)][::-1]), 0))


def _result(values: np.ndarray) -> str:
    """The last result of a run's evaluations, and the lowest if that is another, for a legend."""
    values = values[np.isfinite(values)]
    if not len(values):
        return "none yet"
    lowest = f" (lowest {values.min():.4f})" if values.min() < values[-1] else ""
    return f"{values[-1]:.4f}{lowest}"


def _dataset_of(folder: Path) -> str:
    """The name of a run's dataset, from its settings; "" where that is unknown."""
    try:
        config = read_json(settings_path(folder), lambda c: isinstance(c["dataset"], str), "")
    except (FileNotFoundError, UserError):
        return ""
    return short_name(Path(config["dataset"]).name, 28)


def time_unit(minutes: float) -> tuple[str, float]:
    """The unit in which a time is easy to read, and how many of it are a minute."""
    if minutes < 3:
        return "seconds", 60
    return ("minutes", 1) if minutes < 180 else ("hours", 1 / 60)


def _spent(log: dict[str, np.ndarray]) -> str:
    """The time of training, for a title; "" where it is unknown."""
    unit, per_minute = time_unit(minutes := _last(log["minutes"]))
    return f"{short(minutes * per_minute)} {unit} of training" if minutes else ""


def short_name(name: str, longest: int = 48) -> str:
    """A name without its middle where it is long."""
    half = (longest - 1) // 2
    return name if len(name) <= longest else f"{name[:half]}…{name[-half:]}"


def _marker(x: np.ndarray) -> str:
    """The marker of a curve: few points are shown each, since one alone makes no line."""
    return "o" if len(x) <= 20 else ""


def _plot_smoothed(axes: Axes, x: np.ndarray, y: np.ndarray, *labels: str) -> None:
    """A pale curve, and its running mean over 2 % of the points; `labels` are for the legend.

    Below 100 points there is nothing to smooth, and the curve is not pale.
    """
    label, mean_label = labels or (None, None)
    x, y = _finite(x, y)
    if len(y) < 100:
        axes.plot(x, y, color=BLUE, marker=_marker(x), markersize=3, label=label if len(y) else "")
        return
    axes.plot(x, y, color=SKY, alpha=0.45, linewidth=0.7, label=label)
    indices, reach = np.arange(len(y)), len(y) // 100
    first, stop = np.maximum(indices - reach, 0), np.minimum(indices + reach + 1, len(y))
    sums = np.append(0.0, np.cumsum(y))
    axes.plot(x, (sums[stop] - sums[first]) / (stop - first), color=BLUE, label=mean_label)


def _limit_height(axes: Axes, curves: Sequence[tuple[np.ndarray, np.ndarray]]) -> float:
    """Fit the y-axis to all that the `curves` have after the START of each; the rest is cut off.

    Without a finite value the axis has no ticks. Returns its upper end.
    """
    curves = [points for points in (_finite(*curve) for curve in curves) if len(points[0])]
    if not curves:
        axes.set_yticks([])
        return math.inf
    low = min(y.min() for _, y in curves)
    high = max(y[x >= START * x.max()].max() for x, y in curves)
    margin = 0.06 * (high - low) or 0.06 * abs(high) or 1
    axes.set_ylim(low - margin, high + margin)
    axes.yaxis.set_major_locator(MaxNLocator(8, steps=TICK_STEPS))
    axes.yaxis.set_major_formatter("{x:g}")
    return high + margin


def _bits_per_byte_axis(axes: Axes, log: dict[str, np.ndarray]) -> None:
    """On the right, the scale of bits per byte of validation text, if an evaluation has both."""
    nats, bits = _finite(log["val_loss"], log["val_bits_per_byte"])
    positive = (nats > 0) & (bits > 0)
    if not positive.any():
        return
    factor = float(np.median(bits[positive] / nats[positive]))  # the same text: the same factor
    functions = partial(np.multiply, factor), partial(np.multiply, 1 / factor)
    scale = axes.secondary_yaxis("right", functions=functions)
    scale.set_ylabel("bits per byte of validation")
    scale.yaxis.set_major_locator(MaxNLocator(8, steps=TICK_STEPS))
    scale.yaxis.set_major_formatter("{x:g}")


def is_wide(low: float, high: float) -> bool:
    """Whether values span a factor of ten, so that a logarithmic axis shows them better."""
    return 0 < low and high > 9.99 * low  # since 1e-3 / 1e-4 is slightly less than 10


def log_scale(axis: XAxis | YAxis, low: float, high: float, max_labels: int) -> None:
    """Make an axis logarithmic, and say so in its label; without values above zero, leave it.

    Its ends are 1, 2 or 5 times a power of ten, and so are its ticks; only powers of ten where
    those would be more than `max_labels`.
    """
    if not 0 < low <= high < math.inf:
        return
    powers = 10.0 ** np.arange(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 2)
    ticks = np.outer(powers, TICK_STEPS[:3]).ravel()
    first = np.searchsorted(ticks, 1.001 * low, side="right") - 1
    last = max(np.searchsorted(ticks, 0.999 * high), first + 1)
    ends = ticks[first], ticks[last]
    ticks = ticks[first : last + 1]
    if len(ticks) > max_labels:
        powers = powers[(ends[0] <= powers) & (powers <= ends[1])]
        ticks = powers[:: math.ceil(len(powers) / max_labels)]
    name, separator = axis.axis_name, " " if axis.axis_name == "x" else "\n"
    axis.axes.set(**{f"{name}scale": "log", f"{name}lim": ends})
    axis.set_ticks(ticks)
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(short)
    axis.set_label_text(f"{axis.get_label_text()}{separator}(log scale)")


def _three_scales(axes: Axes, log: dict[str, np.ndarray]) -> None:
    """Below an x-axis of steps, add the scales of tokens and of time."""
    last_step = np.nanmax(log["step"], initial=1)
    axes.set_xlim(0, 1.015 * last_step)  # room for a whole mark at the last step
    axes.xaxis.set_major_locator(MaxNLocator(8, steps=TICK_STEPS, integer=True))
    axes.xaxis.set_major_formatter(short)
    axes.text(-0.02, -0.075, "steps", ha="right", va="top", transform=axes.transAxes)
    unit, per_minute = time_unit(_last(log["minutes"]))
    columns = ("tokens", log["tokens"], -0.3), (unit, log["minutes"] * per_minute, -0.6)
    for name, column, y in columns:
        steps, values = (np.append(0, each) for each in _finite(log["step"], column))
        ticks = np.array(MaxNLocator(8, steps=TICK_STEPS).tick_values(0, values[-1]))
        ticks = ticks[(ticks >= 0) & (ticks <= values[-1])]
        scale = axes.secondary_xaxis(y)
        scale.set_xticks(np.interp(ticks, values, steps), map(short, ticks))
        axes.text(-0.02, y - 0.075, name, ha="right", va="top", transform=axes.transAxes)


def _hide_overlapping_labels(figure: Figure) -> None:
    """Hide each label of a tick that would touch the one before it on its axis."""
    labelled = [each for one in figure.axes if one.axison for each in (one, *one.child_axes)]
    if not labelled:
        return
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # nothing moves after it was measured
    for axes in labelled:
        for axis, coordinate in ((axes.xaxis, 0), (axes.yaxis, 1)):
            low, high = sorted(axis.get_view_interval())
            shown = None
            for label in axis.get_ticklabels():
                inside = low <= label.get_position()[coordinate] <= high
                if not (inside and label.get_text()) or label.get_rotation():
                    continue
                box = label.get_window_extent().padded(0.02 * figure.dpi, 0)
                if shown and box.overlaps(shown):
                    label.set_visible(False)
                else:
                    shown = box


def title_and_legend(axes: Axes, name: str, facts: Sequence[str], columns: int = 2) -> None:
    """A title, of a name and the facts that are known, and below it the legend."""
    known = ", ".join(filter(None, facts))
    separator = ": " if len(name) + len(known) < 75 else ":\n"
    rows = _legend_above(axes, columns)
    axes.set_title(f"{name}{separator}{known}" if known else name, pad=8 + 19 * rows)


def _legend_above(axes: Axes, columns: int) -> int:
    """A legend between the title and the axes, where it covers nothing; how many rows it has."""
    if not (handles := axes.get_legend_handles_labels()[0]):
        return 0
    axes.legend(loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=columns, borderaxespad=0.2)
    return math.ceil(len(handles) / columns)


def short(x: float, _position: float = 0) -> str:
    """A number on an axis: 0.003, 2.5, 850, 50,257, 125K, 3M."""
    if abs(x) >= 100_000:
        return short_count(x)
    return f"{x:,.0f}" if abs(x) >= 1000 else f"{x:.3g}"
