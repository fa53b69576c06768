"""Pictures of logs and tables, as PNG files that are readable on a page 900 pixels wide.

    plot_run(folder)                     one run: its log.csv as loss.png
    draw_runs(folders, path)             several runs: validation bits per byte
    draw_sweep(rows, setting, path)      bits per byte against a setting that was swept

The rest is what such pictures are made of, for other pages: `page` opens one and writes it whole,
`histogram`, `bars`, `curve` and `shares` fill its axes.
"""

import csv
import math
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from configurator import UserError
from tinystories.terminal import short_count as short

# Distinct for all common kinds of colour-blindness (Okabe and Ito, "Color Universal Design", 2008).
BLUE, VERMILLION, GREEN, PURPLE = "#0072b2", "#d55e00", "#009e73", "#cc79a7"
ORANGE, SKY, BLACK = "#e69f00", "#56b4e9", "#000000"
COLOURS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK)
DASHES = ("-", "--", ":", "-.")  # of the runs after the seventh, which have no colour of their own
GREY, INK = "#8c8c8c", "#333333"
DEPTHS = ("#cfe3f1", "#8fbfdf", "#3f8fc4", "#0b5a91")  # of one blue: fewest to most

WIDTH = 9.0  # inches; at 100 dots an inch the page of 900 pixels
DPI = 150  # a little finer than that, for fine screens
ROUND = (1, 2, 5, 10)  # the first digits of ticks
POINTS = 2000  # of a curve, at most: more than the picture has columns
STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "font.size": 9.5,
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "lines.linewidth": 1.5,
}


# Whole pictures -----------------------------------------------------------------------------


def plot_run(folder: Path) -> None:
    """Draw folder/log.csv as folder/loss.png: losses, learning rate and gradient norm.

    One x-axis with three scales: steps, tokens and minutes of training. What is missing or not
    finite is left out. The last evaluation is over all validation tokens, those before it over the
    first ones: a small jump between them means nothing.

    Raises:
        UserError: there is no log.csv.
    """
    log = read_log(folder / "log.csv")
    steps = log["step"]
    with page(folder / "loss.png", height=7.6) as figure:
        loss, rate, norm = figure.subplots(3, 1, sharex=True, height_ratios=(4.5, 1.5, 1.5))
        loss.set_title(folder.absolute().name, pad=38)
        loss.set_ylabel("loss, nats per token")
        _noisy(loss, steps, log["loss"], "each step logged")
        for name, colour in (("train", INK), ("val", VERMILLION)):
            at, losses = _finite(steps, log[f"{name}_loss"])
            label = f"evaluated on {name}: {_results(losses)}"
            loss.plot(at, losses, "o-", color=colour, markersize=4, label=label, clip_on=False)
        _log_scale(loss)
        _legend_above(loss, columns=2)
        rate.set_ylabel("learning rate")
        rate.plot(*_thin(*_finite(steps, log["learning_rate"])), color=GREEN)
        rate.set_ylim(bottom=0)
        rate.yaxis.set_major_locator(MaxNLocator(4, steps=ROUND))
        rate.yaxis.set_major_formatter("{x:g}")
        norm.set_ylabel("gradient norm")
        _noisy(norm, steps, log["grad_norm"])
        _log_scale(norm, ticks=4)
        _three_scales(norm, log)
        figure.align_ylabels()


def draw_runs(folders: Sequence[Path], path: Path) -> None:
    """Draw validation bits per byte of several runs against steps, tokens and minutes.

    The evaluation before the first step is left out: nothing is learned yet.

    Raises:
        UserError: a folder without a log.csv.
    """
    logs = {name: read_log(folder / "log.csv") for name, folder in _names(folders).items()}
    columns = 1 if max(map(len, logs), default=0) > 30 else 2
    with page(path, height=3.9 + 0.2 * math.ceil(len(logs) / columns)) as figure:
        panels = figure.subplots(1, 3, sharey=True)
        figure.suptitle("validation bits per byte", x=0.01, ha="left", weight="bold")
        lines = {}
        for i, (name, log) in enumerate(logs.items()):
            colour = COLOURS[i % len(COLOURS)]
            dash = DASHES[i // len(COLOURS) % len(DASHES)]
            bits = np.where(log["step"] > 0, log["val_bits_per_byte"], np.nan)
            for axes, unit in zip(panels, ("step", "tokens", "minutes"), strict=True):
                x = log["step"]
                if unit != "step":
                    x = np.interp(x, *_against_steps(log, unit), right=np.nan)
                x, y = _thin(*_finite(x, bits))
                (line,) = axes.plot(x, y, dash, marker="o", markersize=3, color=colour)
            lines[f"{name}: {_results(bits[np.isfinite(bits)])}"] = line
        for axes, unit in zip(panels, ("steps", "tokens", "minutes of training"), strict=True):
            axes.set_xlabel(unit)
            axes.set_xlim(left=0)
            axes.xaxis.set_major_locator(MaxNLocator(5))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: _plain(x)))
        _log_scale(panels[0])
        figure.legend(lines.values(), lines.keys(), loc="outside lower left", ncols=columns)


def draw_sweep(rows: Sequence[dict], setting: str, path: Path) -> None:
    """Draw val_bits_per_byte of runs against one setting: a point a run, a line through the best.

    Args:
        rows: runs, as a row of a table each: the settings and val_bits_per_byte, as numbers or as
            text. A run without a finite result has failed; a cross marks it at the top.
        setting: the column to draw against, on a logarithmic scale where its values span a factor
            of ten or more, as categories, numbers first, where they are not all numbers.
    """
    values = [row.get(setting) for row in rows]
    bits = np.array([_number(row.get("val_bits_per_byte")) for row in rows], dtype=float)
    numbers = np.array([_number(value) for value in values], dtype=float)
    with page(path, height=4.4) as figure:
        axes = figure.add_subplot()
        if np.isfinite(numbers).all():
            x = numbers
            _value_axis(axes, x, labels=14)
        else:
            order = np.argsort(np.where(np.isfinite(numbers), numbers, math.inf), kind="stable")
            categories = list(dict.fromkeys(str(values[i]) for i in order))
            x = np.array([categories.index(str(value)) for value in values], dtype=float)
            slanted = {"rotation": 20, "ha": "right"} if sum(map(len, categories)) > 70 else {}
            axes.set_xticks(range(len(categories)), categories, **slanted)
            axes.set_xlim(-0.5, len(categories) - 0.5)
        good = np.isfinite(bits)
        axes.plot(x[good], bits[good], "o", color=SKY, alpha=0.8, label="a run")
        best = {place: bits[good & (x == place)].min() for place in sorted(set(x[good]))}
        axes.plot(best.keys(), best.values(), "o-", color=BLUE, label="the best at each value")
        if not good.all():
            high = np.full((~good).sum(), 0.97)
            label = f"no result: {len(high)}"
            top = axes.get_xaxis_transform()  # x in values, y from 0 to 1
            axes.plot(x[~good], high, "x", color=VERMILLION, transform=top, label=label)
        axes.margins(y=0.12)
        axes.set_xlabel(setting)
        axes.set_ylabel("validation bits per byte")
        _legend_above(axes, columns=3)


# A page and what stands on it ---------------------------------------------------------------


@contextmanager
def page(path: Path, height: float) -> Iterator[Figure]:
    """A figure to draw on, `height` inches high; written to `path` as PNG at the end.

    The file is written under another name and then renamed: nobody ever sees half a picture.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a box stands for it
        figure = Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained")
        figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08)
        yield figure
        try:
            figure.savefig(temporary, format="png")
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def histogram(axes: Axes, values: np.ndarray, title: str, unit: str, of: str) -> None:
    """How many of the whole numbers `values`, each of which is one of `of`, lie where.

    Dashed lines and the text below show the median and the value that 95 % lie below. The longest
    0.5 % are not drawn: they would press all others together.
    """
    median, high, top = np.quantile(values, (0.5, 0.95, 0.995))
    width = math.ceil((top + 1) / 60)  # a whole number: else some bars would hold more of them
    edges = np.arange(0, top + 1 + width, width)
    axes.stairs(np.histogram(values, edges)[0], edges, fill=True, color=SKY)
    for place in (median, high):
        axes.axvline(place, color=INK, linewidth=1, linestyle="--")
    axes.set_title(title)
    axes.set_xlabel(f"{unit} (dashed: median {median:,.0f}; 95 % below {high:,.0f})")
    axes.set_ylabel(of)
    axes.set_xlim(0, edges[-1])
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: _plain(y)))
    axes.grid(visible=False, axis="x")


def bars(axes: Axes, title: str, unit: str, values: dict[str, float], style: str) -> None:
    """A horizontal bar for each of the `values`, first on top, with its number behind it.

    Args:
        style: how the numbers are written, as in "{:.1f}".
    """
    axes.set_title(title)
    axes.set_xlabel(unit)
    drawn = axes.barh(range(len(values)), values.values(), color=SKY)
    axes.bar_label(drawn, [style.format(value) for value in values.values()], padding=3)
    axes.set_yticks(range(len(values)), values.keys())
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    axes.margins(x=0.18, y=0.02)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: _plain(x)))
    axes.grid(visible=False, axis="y")


def curve(
    axes: Axes,
    title: str,
    units: tuple[str, str],
    points: dict[float, float],
    extra: dict[str, tuple[float, float]] | None = None,
) -> None:
    """A rising curve of y against x; x is logarithmic where it spans a factor of ten or more.

    Args:
        units: of x and y.
        extra: points beside the curve, by what the legend calls them.
    """
    x, y = (np.array(list(numbers), dtype=float) for numbers in (points.keys(), points.values()))
    axes.plot(x, y, marker="o" if len(points) <= 20 else "", markersize=4, color=BLUE)
    for label, place in (extra or {}).items():
        axes.plot(*place, "D", color=VERMILLION, label=label)
        axes.legend(loc="lower right")
    _value_axis(axes, x, labels=7)
    axes.set_ylim(bottom=0)
    axes.set_title(title)
    axes.set_xlabel(units[0])
    axes.set_ylabel(units[1])


def shares(
    axes: Axes, title: str, unit: str, rows: dict[str, Sequence[float]], parts: Sequence[str]
) -> None:
    """A bar of 100 % for each of the `rows`, divided into up to four `parts`, dark for the last."""
    axes.set_title(title, pad=24)
    table = np.array(list(rows.values()), dtype=float).reshape(-1, len(parts))
    table = 100 * table / table.sum(axis=1, keepdims=True)
    left = np.zeros(len(table))
    for part, share, colour in zip(parts, table.T, DEPTHS, strict=False):
        drawn = axes.barh(range(len(table)), share, left=left, color=colour, label=part)
        texts = [f"{value:.0f}" if value >= 5 else "" for value in share]
        dark = colour in DEPTHS[2:]
        axes.bar_label(drawn, texts, label_type="center", color="white" if dark else INK)
        left += share
    axes.set_yticks(range(len(table)), rows.keys())
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel(unit)
    axes.grid(visible=False)
    _legend_above(axes, columns=len(parts))


# Logs ---------------------------------------------------------------------------------------


def read_log(path: Path) -> dict[str, np.ndarray]:
    """The columns of a log.csv that are drawn, NaN where a row has no number.

    Raises:
        UserError: there is no such file.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    except FileNotFoundError:
        raise UserError(f"there is no {path}; {path.parent} is no run's folder") from None
    rows = list(csv.DictReader(line for line in lines if line.endswith("\n")))  # none half-written
    names = "step tokens minutes loss learning_rate grad_norm train_loss val_loss val_bits_per_byte"
    return {name: np.array([_number(row.get(name)) for row in rows]) for name in names.split()}


def _number(value) -> float:
    """A cell of a table as a number; NaN where it holds none, or none that is finite."""
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return math.nan
    return number if math.isfinite(number) else math.nan


def _finite(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The points that have both numbers."""
    good = np.isfinite(x) & np.isfinite(y)
    return x[good], y[good]


def _thin(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A curve of at most POINTS points that looks the same: of each stretch, lowest and highest."""
    if len(x) <= POINTS:
        return x, y
    stretches = np.array_split(np.arange(len(y)), POINTS // 2)
    kept = [i for s in stretches for i in sorted((s[y[s].argmin()], s[y[s].argmax()]))]
    return x[kept], y[kept]


def _smooth(y: np.ndarray) -> np.ndarray:
    """The mean of each value and its neighbours: one in fifty of all, half of them at the ends."""
    places, reach = np.arange(len(y)), len(y) // 100
    first, behind = np.maximum(places - reach, 0), np.minimum(places + reach + 1, len(y))
    sums = np.append(0.0, np.cumsum(y))
    return (sums[behind] - sums[first]) / (behind - first)


def _against_steps(log: dict[str, np.ndarray], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and what a column held at them, from step 0, with nothing, to the last one.

    The rows of evaluations have neither tokens nor minutes: these follow from the steps around.
    After the last step that was logged they go on at the mean pace. Where no step was logged,
    step 0 stands alone.
    """
    steps, values = _finite(log["step"], log[name])
    last = np.nanmax(log["step"], initial=0)
    if len(steps) and last > steps[-1] > 0:
        pace = values[-1] / steps[-1]
        steps, values = np.append(steps, last), np.append(values, pace * last)
    return np.append(0.0, steps), np.append(0.0, values)


def _results(values: np.ndarray) -> str:
    """The outcome of a run's evaluations, for a legend."""
    return f"{values[-1]:.4f}, lowest {values.min():.4f}" if len(values) else "none yet"


def _names(folders: Sequence[Path]) -> dict[str, Path]:
    """The folders by the shortest ends of their paths that tell them apart."""
    folders = list(dict.fromkeys(Path(folder).absolute() for folder in folders))
    depth = 1
    while len(names := {"/".join(f.parts[-depth:]): f for f in folders}) < len(folders):
        depth += 1
    return names


# Axes ---------------------------------------------------------------------------------------


def _noisy(axes: Axes, x: np.ndarray, y: np.ndarray, label: str | None = None) -> None:
    """A curve in a pale colour, and its running mean on top."""
    x, y = _finite(x, y)
    axes.plot(*_thin(x, y), color=SKY, alpha=0.45, linewidth=0.7, label=label)
    smoothed = label and "their running mean"
    axes.plot(*_thin(x, _smooth(y)), color=BLUE, label=smoothed)


def _log_scale(axes: Axes, ticks: int = 8) -> None:
    """A logarithmic y-axis for what has been drawn, with up to so many plain numbers."""
    if axes.dataLim.minposy == math.inf:  # nothing above zero: nothing that has a logarithm
        return
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    if high < 10 * low:  # powers of ten would be too few ticks
        axes.yaxis.set_major_locator(MaxNLocator(ticks, steps=ROUND))
    elif high < 100 * low:
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    else:
        axes.yaxis.set_major_locator(LogLocator(numticks=ticks))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(NullLocator())


def _value_axis(axes: Axes, values: np.ndarray, labels: int) -> None:
    """An x-axis for the values of a setting, logarithmic where they span a factor of ten or more.

    Its ticks are the values themselves, if there are no more than `labels` of them, which is as
    many as find room side by side; of values that lie too close, the first.
    """
    different = places = np.unique(values)
    if len(different) > 1 and different[0] > 0 and different[-1] > 9.99 * different[0]:
        axes.set_xscale("log")  # 1e-3 is not quite ten times 1e-4 to a computer
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        places = np.log(different)
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: _exact(x)))
    if 0 < len(different) <= labels:
        room = 0.99 * np.ptp(places) / (labels - 1)
        ticks = [0]
        for i, place in enumerate(places):
            if place - places[ticks[-1]] > room:
                ticks.append(i)
        axes.set_xticks(different[ticks])
        axes.xaxis.set_minor_locator(NullLocator())


def _three_scales(axes: Axes, log: dict[str, np.ndarray]) -> None:
    """Under an x-axis of steps, the scales of steps, tokens and minutes of training."""
    last = np.nanmax(log["step"], initial=1)
    axes.set_xlim(0, last)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.text(-0.012, -0.075, "steps", ha="right", va="top", transform=axes.transAxes)
    for name, place in (("tokens", -0.27), ("minutes", -0.54)):
        steps, values = _against_steps(log, name)
        ticks = MaxNLocator(8).tick_values(0, np.interp(last, steps, values))
        ticks = ticks[(ticks >= 0) & (ticks <= values[-1])]
        scale = axes.secondary_xaxis(place)
        scale.set_xticks(np.interp(ticks, values, steps), map(_plain, ticks))
        axes.text(-0.012, place - 0.075, name, ha="right", va="top", transform=axes.transAxes)


def _legend_above(axes: Axes, columns: int) -> None:
    """A legend between the title and the axes, where it covers nothing."""
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(-0.01, 1.0),
        ncols=columns,
        borderaxespad=0.2,
        handlelength=1.5,
        columnspacing=1.6,
    )


def _exact(x: float) -> str:
    """A number on an axis: 0.003, 2.5, 850, 4,096, 50,257."""
    return f"{x:,.0f}" if abs(x) >= 1000 else f"{x:.3g}"


def _plain(x: float) -> str:
    """A number on an axis, shortened where it is large: 0.003, 2.5, 850, 4,096, 12.5K, 3M."""
    return _exact(x) if abs(x) < 10_000 else short(x)
