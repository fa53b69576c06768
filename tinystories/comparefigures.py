"""The page of plots that compares datasets: explore.py --compare."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.ticker import MaxNLocator, NullLocator

from tinystories.figures import BLUE_SHADES, INK, TICK_STEPS, saved_figure, short, short_name
from tinystories.storystats import SHARED, Comparison
from tinystories.terminal import short_count

MORE_IS_DARK = LinearSegmentedColormap.from_list("more is dark", ("#ffffff", *BLUE_SHADES))
MOST_FREQUENT = 8  # names and openings that are shown


def plot_comparison(comparison: Comparison, path: Path) -> None:
    """Plot datasets side by side on one page; each has a color."""
    count = len(comparison.portraits)
    names = [short_name(name, 24) for name in comparison.portraits]
    if len(set(names)) < count:  # they differ in the middle
        names = list(comparison.portraits)
    portraits = dict(zip(names, comparison.portraits.values(), strict=True))
    heights = (1.7 + 0.5 * count, 1.2 + 0.65 * count, 0.9 + MOST_FREQUENT * (0.14 + 0.16 * count))
    with saved_figure(path, height=1.0 + sum(heights)) as figure:
        panels = figure.subplots(3, 2, height_ratios=heights)
        (lengths, distinct), (shares, shared), (named, openings) = panels
        plot_lengths(lengths, {name: each.words.lengths for name, each in portraits.items()})
        rows = {name: each.distinct for name, each in portraits.items()}
        labels = ["words" if n == 1 else f"{n}-grams" for n in next(iter(rows.values()))]
        values = {name: list(each.values()) for name, each in rows.items()}
        grouped_bars(distinct, "Different n-grams", "per million words", labels, values)
        labels = ["stories with\ndialogue", "words in\ndialogue", "stories with a\nnear-duplicate"]
        values = {
            name: [100 * x for x in (each.with_dialogue, each.in_dialogue, each.near_duplicates)]
            for name, each in portraits.items()
        }
        grouped_bars(shares, "Dialogue and near-duplicates", "%", labels, values)
        plot_shared(shared, {name: list(each.shared.values()) for name, each in portraits.items()})
        words = {name: each.words for name, each in portraits.items()}
        for axes, title, counters in (
            (named, "Names", {name: each.names for name, each in words.items()}),
            (openings, "Openings", {name: each.openings for name, each in words.items()}),
        ):
            rates = {
                name: {text: 100 * n / len(words[name].lengths) for text, n in counter.items()}
                for name, counter in counters.items()
            }
            labels = most_frequent(rates)
            values = {name: [r.get(text, 0) for text in labels] for name, r in rates.items()}
            grouped_bars(axes, title, "per 100 stories", labels, values)
        figure.legend(
            *distinct.get_legend_handles_labels(),
            loc="outside upper left",
            ncols=max(1, min(4, 75 // (5 + max(map(len, portraits))))),
            title=f"{comparison.words:,} words of each dataset",
            title_fontproperties={"size": 12.5, "weight": "bold"},
            alignment="left",
        )


def most_frequent(rates: Mapping[str, Mapping[str, float]]) -> list[str]:
    """The texts that have the highest rates in any of the datasets."""
    highest: dict[str, float] = {}
    for each in rates.values():
        for text, rate in each.items():
            highest[text] = max(rate, highest.get(text, 0))
    return sorted(highest, key=lambda text: -highest[text])[:MOST_FREQUENT]


def plot_lengths(axes: Axes, lengths: Mapping[str, np.ndarray]) -> None:
    """A histogram of each dataset's story lengths, in %; the longest 1 % are left out."""
    top = max(np.quantile(values, 0.99) for values in lengths.values())
    width = math.ceil((top + 1) / 40)  # whole, so that as many lengths are in each
    edges = np.arange(0, top + 1 + width, width)
    for i, values in enumerate(lengths.values()):
        percent = 100 * np.histogram(values, edges)[0] / len(values)
        axes.stairs(percent, edges, color=f"C{i}", linewidth=1.8)
        axes.stairs(percent, edges, color=f"C{i}", fill=True, alpha=0.12)
    axes.set(title="Length of stories", xlabel="words", ylabel="% of stories")
    axes.set(xlim=(0, edges[-1]), ylim=(0, None))
    axes.xaxis.set_major_formatter(short)
    axes.grid(visible=False, axis="x")


def grouped_bars(
    axes: Axes, title: str, unit: str, groups: Sequence[str], rows: Mapping[str, Sequence[float]]
) -> None:
    """Groups of horizontal bars, in each a bar for each dataset, with its number."""
    height = 0.84 / len(rows)
    for i, (name, values) in enumerate(rows.items()):
        places = np.arange(len(groups)) + (i - (len(rows) - 1) / 2) * height
        drawn = axes.barh(places, values, 0.92 * height, color=f"C{i}", label=name)
        texts = [short_count(x) if x > 999 else f"{x:.1f}" if x else "0" for x in values]
        axes.bar_label(drawn, texts, padding=3, fontsize=9.5)
    axes.set_yticks(range(len(groups)), groups)
    axes.set(title=title, xlabel=unit)
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    axes.margins(x=0.18, y=0.02)
    known = axes.dataLim.x1 > 0
    axes.set_xlim(0, axes.get_xlim()[1] if known else 1)
    axes.xaxis.set_major_locator(MaxNLocator(4, steps=TICK_STEPS) if known else NullLocator())
    axes.xaxis.set_major_formatter(short)
    axes.grid(visible=False, axis="y")


def plot_shared(axes: Axes, rows: Mapping[str, Sequence[float]]) -> None:
    """A table of colors: how much of the n-grams of each row's dataset the column's has, in %."""
    table = 100 * np.array(list(rows.values()))
    axes.imshow(table, cmap=MORE_IS_DARK, aspect="auto", vmin=0, vmax=100)
    for (i, j), percent in np.ndenumerate(table):
        color = "white" if percent > 60 else INK
        axes.text(j, i, f"{percent:.0f}", ha="center", va="center", color=color)
    names = list(rows)
    crowded = max(map(len, names)) * len(names) > 38
    turned: Any = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if crowded else {}
    axes.set_xticks(range(len(names)), names, **turned)
    axes.set_yticks(range(len(names)), names)
    axes.set(title=f"{SHARED}-grams in common, %")
    axes.set(ylabel=f"of the {SHARED}-grams of", xlabel="are in the other half of")
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
