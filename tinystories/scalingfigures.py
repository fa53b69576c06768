"""Plots of the scaling law and the runs that it is fitted to: docs/scaling_*.png."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from configurator import ROOT
from tinystories.figures import BLUE, INK, VERMILLION, log_scale, saved_figure, short_name
from tinystories.law import Law
from tinystories.terminal import short_count

FOLDER = ROOT / "docs"
COLORS = ("#56b4e9", "#0072b2", "#009e73", "#e69f00", "#d55e00", "#cc79a7", "#000000")
BITS = "validation bits per byte"


def plot_all(runs: dict, law: Law, published: Sequence[dict], folder: Path = FOLDER) -> None:
    """All plots of the law; `runs` are those that it is fitted to, by column."""
    plot_budgets(runs, law, folder / "scaling_budgets.png")
    plot_frontier(runs, law, published, folder / "scaling_frontier.png")
    plot_passes(runs, law, folder / "scaling_passes.png")


def compute_of(runs: dict) -> np.ndarray:
    """Training FLOPs of each run, as model.py counts them."""
    channels = runs["n_head"] * runs["head_dim"]
    attention = 12 * runs["n_layer"] * channels * runs["block_size"]
    return runs["tokens"] * (6 * runs["parameters"] + attention)


def budgets(runs: dict) -> list[np.ndarray]:
    """Masks of runs of about equal compute and data, where there are three sizes or more.

    Runs that are apart from the median of the budget by less than a factor of 1.5 belong to it.
    """
    compute, whole = compute_of(runs), runs["train_tokens"] >= 0.9 * runs["train_tokens"].max()
    masks, free = [], whole.copy()
    while free.any():
        rest = np.sort(compute[free])
        near = [np.abs(np.log(rest / c)) < np.log(1.5) for c in rest]
        center = rest[max(range(len(rest)), key=lambda i: near[i].sum())]
        mask = free & (np.abs(np.log(compute / center)) < np.log(1.5))
        if len(np.unique(runs["parameters"][mask])) >= 3:
            masks.append(mask)
        free &= ~mask
    return sorted(masks, key=lambda mask: float(np.median(compute[mask])))


def plot_budgets(runs: dict, law: Law, path: Path) -> None:
    """Loss against size at equal compute; a diamond is the law's minimum of each curve."""
    with saved_figure(path, height=5.2) as figure:
        axes = figure.add_subplot()
        sizes = runs[law.counts]
        x = np.geomspace(sizes.min() / 1.3, sizes.max() * 1.3, 200)
        for color, mask in zip(COLORS, budgets(runs), strict=False):
            compute = float(np.median(compute_of(runs)[mask]))
            different = float(runs["train_tokens"][mask].max())
            y = law.loss(x, compute / per_token(runs, law, x), different)
            axes.plot(x, y, color=color, linewidth=1.2)
            label = f"{compute:.1e} FLOPs"
            axes.plot(sizes[mask], runs["val_bits_per_byte"][mask], "o", color=color, label=label)
            if 0 < y.argmin() < len(y) - 1:  # else the best size is beyond those that were run
                axes.plot(x[y.argmin()], y.min(), "D", color=color, markersize=9, fillstyle="none")
        name = "parameters" if law.counts == "parameters" else "parameters inside blocks"
        axes.set(title="Equal compute, different sizes", xlabel=name, ylabel=BITS)
        log_scale(axes.xaxis, x[0], x[-1], max_labels=6)
        if axes.lines:
            axes.legend()


def per_token(runs: dict, law: Law, sizes: np.ndarray) -> np.ndarray:
    """FLOPs per token by size: between those of the runs."""
    order = np.argsort(runs[law.counts])
    known = np.log(runs[law.counts][order])
    flops = np.log((compute_of(runs) / runs["tokens"])[order])
    curve = np.polyfit(known, flops, min(2, len(np.unique(known)) - 1))
    return np.exp(np.polyval(curve, np.log(sizes)))


def plot_frontier(runs: dict, law: Law, published: Sequence[dict], path: Path) -> None:
    """Loss against compute: the runs, the law's best sizes, and published runs beyond it."""
    compute = compute_of(runs)
    sizes = np.geomspace(runs[law.counts].min(), 1e9, 300)
    flops = np.maximum(per_token(runs, law, np.minimum(sizes, runs[law.counts].max())), 6 * sizes)
    places = [6 * p["parameters"] * p["tokens"] for p in published]
    x = np.geomspace(compute.min(), 2 * max([compute.max(), *places]), 60)
    tokens = x[:, None] / flops
    with saved_figure(path, height=6.4) as figure:
        axes = figure.add_subplot()
        axes.axvspan(compute.max(), x[-1], color="#f4f4f4", zorder=0)
        axes.plot(compute, runs["val_bits_per_byte"], "o", color=BLUE, markersize=4, label="runs")
        frontier = law.loss(sizes, tokens, np.inf)
        axes.plot(x, frontier.min(1), color=INK, label="the law, best size, endless stories")
        bounds = [
            law.interval(float(sizes[best]), float(row[best]), np.inf)
            for row, best in zip(tokens, frontier.argmin(1), strict=True)
        ]
        axes.fill_between(x, *np.array(bounds).T, color=INK, alpha=0.12, linewidth=0)
        here = law.loss(sizes, tokens, runs["train_tokens"].max()).min(1)
        axes.plot(x, here, "--", color=INK, label="... with the stories of the runs")
        for number, place in enumerate(published, 1):
            mark_published(axes, law, place, number)
        axes.set(title="Loss over compute (gray: extrapolated)", ylabel=BITS)
        axes.set(xlabel="training FLOPs (log scale)", xscale="log", ylim=(0, None))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0e}".replace("e+", "e"))
        axes.legend(fontsize=9, loc="upper right")


def mark_published(axes: Axes, law: Law, place: dict, number: int) -> None:
    """A published run, and how far it is from what the law says of its size and tokens."""
    x, y = 6 * place["parameters"] * place["tokens"], place["bits_per_byte"]
    expected = float(law.loss(place[law.counts], place["tokens"], place["different_tokens"]))
    text = f"{number} {short_name(place['name'], 40)}: {y / expected - 1:+.0%} from the law"
    axes.plot(x, y, "s", color=VERMILLION, label=text)
    style = {"fontsize": 9, "color": INK, "ha": "center", "va": "bottom"}
    axes.annotate(str(number), (x, y), (0, 4), textcoords="offset points", **style)


def plot_passes(runs: dict, law: Law, path: Path) -> None:
    """Loss against passes over 1,000, 4,000 and all stories, at the commonest size among them."""
    few = runs["train_tokens"] < 0.9 * runs["train_tokens"].max()
    with saved_figure(path, height=5.2) as figure:
        axes = figure.add_subplot()
        chosen = few if few.any() else ~few
        values, counts = np.unique(runs[law.counts][chosen], return_counts=True)
        size = values[counts.argmax()]
        same = runs[law.counts] == size
        for color, tokens in zip(COLORS[1:], np.unique(runs["train_tokens"][same]), strict=False):
            mask = same & (runs["train_tokens"] == tokens)
            x = np.geomspace(max(0.1, runs["passes"][mask].min() / 1.3), 25, 100)
            stories = int(runs["max_stories"][mask][0])
            label = f"{stories:,} stories, {short_count(tokens)} tokens"
            axes.plot(x, law.loss(size, x * tokens, tokens), color=color, linewidth=1.2)
            x, y = runs["passes"][mask], runs["val_bits_per_byte"][mask]
            axes.plot(x, y, "o", color=color, label=label)
        title = f"Repeated stories, {short_count(size)} {law.counts.replace('_', ' ')}"
        axes.set(title=title, xlabel="passes", ylabel=BITS)
        log_scale(axes.xaxis, runs["passes"][same].min() / 1.3, 25, max_labels=8)
        axes.legend()
