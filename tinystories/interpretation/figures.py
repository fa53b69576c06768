"""The pictures of interpret.py."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from tinystories.figures import BLUE_SHADES, INK, saved_figure, short_name, title_and_legend
from tinystories.interpretation.ablation import SURE
from tinystories.interpretation.heads import SCORES, head_name, times_uniform
from tinystories.interpretation.stories import KINDS
from tinystories.interpretation.text import MOST_BITS, Surprise

MORE = LinearSegmentedColormap.from_list("more", ("#ffffff", *BLUE_SHADES))
SURPRISE = LinearSegmentedColormap.from_list(
    "surprise", ("#ffffff", "#fbd9c5", "#f0905a", "#d55e00")
)
BOTH = LinearSegmentedColormap.from_list(
    "both", ("#0072b2", "#8fbfdf", "#ffffff", "#f0905a", "#d55e00")
)
FADED = "#b0b0b0"
LENS_TOKENS = 12  # shown of a text
MOST_HEADS = 24  # whose costs by kind of token are shown
SCORE_TITLES = {
    "previous": "token before",
    "first": "first token",
    "same_token": "same token",
    "induction": "induction",
    "name": "name to come",
}

# Text ---------------------------------------------------------------------------------------


def plot_text(surprise: Surprise, title: str, path: Path, columns: int = 84) -> None:
    """The text, each token on a color that says how surprising it was."""
    lines: list[list[tuple[int, str, float]]] = [[]]
    column = 0
    for piece, bits in zip(surprise.pieces, surprise.bits, strict=True):
        if column + len(piece) > columns:
            lines.append([])
            column = 0
        lines[-1].append((column, piece, float(bits)))
        column += len(piece)
        if piece.endswith("\\n"):
            lines.append([])
            column = 0
    lines = [line for line in lines if line]
    with saved_figure(path, height=1.3 + 0.26 * len(lines)) as figure:
        axes = figure.subplots()
        axes.set(xlim=(0, columns), ylim=(len(lines), 0), title=title)
        axes.set_axis_off()
        for row, line in enumerate(lines):
            for column, piece, bits in line:
                box = (column, row + 0.08), len(piece), 0.84
                axes.add_patch(Rectangle(*box, color=SURPRISE(min(1, bits / MOST_BITS)), lw=0))
                for i, letter in enumerate(piece):
                    axes.text(
                        column + i + 0.5, row + 0.52, letter, ha="center", va="center",
                        family="monospace", fontsize=10.5, color=INK,
                    )  # fmt: skip
        colorbar(figure, axes, SURPRISE, MOST_BITS, f"bits of surprise; {MOST_BITS} or more")


def colorbar(figure: Figure, axes: Any, colors: Any, top: float, label: str) -> None:
    """A scale of colors from 0 to `top` below some axes."""
    from matplotlib.cm import ScalarMappable

    bar = figure.colorbar(
        ScalarMappable(Normalize(0, top), colors), ax=axes, location="bottom",
        shrink=0.4, aspect=40, pad=0.02, anchor=(0, 0),
    )  # fmt: skip
    bar.set_label(label)
    bar.outline.set_visible(False)


def plot_attention(
    patterns: Sequence[np.ndarray], pieces: Sequence[str], title: str, path: Path
) -> None:
    """The attention of every head on one text: rows are queries, the columns what they look at.

    Args:
        patterns: of each layer, (H, T, T).
        pieces: of the text, for the title.
    """
    layers, heads = len(patterns), len(patterns[0])
    size = 8.6 / heads
    with saved_figure(path, height=1.3 + layers * (min(size, 2.6) + 0.25)) as figure:
        figure.suptitle(f"{title}\n“{short_name(''.join(pieces), 70)}”", x=0.01, ha="left")
        grid = figure.subplots(layers, heads, squeeze=False)
        for layer, row in enumerate(grid):
            for head, axes in enumerate(row):
                axes.set_axis_off()
                axes.imshow(patterns[layer][head] ** 0.5, cmap=MORE, vmin=0, vmax=1)
                font = min(9, 60 * size / 9)
                axes.set_title(f"{layer}.{head}", fontsize=font, pad=2, loc="center")


# Lens ---------------------------------------------------------------------------------------


def plot_lens(
    bits: Sequence[float] | None,
    pieces: Sequence[str],
    best: Sequence[Sequence[str]],
    right: np.ndarray,
    title: str,
    path: Path,
) -> None:
    """Bits per byte after each layer, and what each layer would say of the first tokens.

    Args:
        pieces: the tokens that come next, (T,).
        best: the likeliest token after each layer, (L, T), as they are shown.
        right: the probability of the one that comes, (L, T).
    """
    layers, T = len(best), min(LENS_TOKENS, len(pieces))
    with saved_figure(path, height=2.0 + 0.45 * layers) as figure:
        figure.suptitle(title, x=0.01, ha="left", weight="bold")
        left, table = figure.subplots(1, 2, width_ratios=(1.5, 7) if bits else (0.01, 7))
        if bits:
            drawn = left.barh(range(layers), bits, color=BLUE_SHADES[1])
            left.bar_label(drawn, fmt="%.2f", padding=3, fontsize=9.5)
            left.set(title="bits per byte", xlim=(0, 1.35 * max(bits)), ylim=(-0.5, layers - 0.5))
            left.set_xticks([])
        else:
            left.set_axis_off()
        left.set_yticks(range(layers), [f"after layer {i}" for i in range(layers)])
        left.tick_params(length=0)
        left.grid(visible=False)
        table.imshow(right[:, :T], cmap=MORE, vmin=0, vmax=1, aspect="auto", origin="lower")
        for layer in range(layers):
            for i in range(T):
                color = "white" if right[layer, i] > 0.6 else INK
                text = short_name(best[layer][i], 9)
                table.text(i, layer, text, ha="center", va="center", fontsize=8.5, color=color)
        table.set_title("the likeliest next token; blue: probability of the one that comes")
        table.set_yticks([])
        table.set_xticks(range(T), [short_name(p, 9) for p in pieces[:T]], fontsize=9)
        table.set_xlabel("what comes next in the text")
        table.tick_params(length=0)
        table.grid(visible=False)


# Heads --------------------------------------------------------------------------------------


def plot_heads(heads: Sequence[dict], title: str, path: Path) -> None:
    """Heads that go by distance and heads that go by tokens; and what else they look at."""
    layers = 1 + max(head["layer"] for head in heads)
    width = 1 + max(head["head"] for head in heads)
    scores = [name for name in (*SCORES, "name") if heads[0][name]]
    rows = math.ceil(len(scores) / 3)
    height = 0.9 + rows * (0.75 + 0.36 * layers)
    with saved_figure(path, height=4.7 + height) as figure:
        (upper,), (lower,) = figure.subfigures(2, 1, squeeze=False, height_ratios=(4.7, height))
        upper.suptitle(title, x=0.01, ha="left", weight="bold")
        plot_explained(upper.subplots(), heads, layers)
        lower.suptitle("attention as a multiple of uniform attention", x=0.01, ha="left")
        panels = lower.subplots(rows, 3, squeeze=False).flatten()
        for axes in panels[len(scores) :]:
            axes.set_axis_off()
        for axes, score in zip(panels, scores, strict=False):
            table = np.full((layers, width), np.nan)
            for head in heads:
                table[head["layer"], head["head"]] = times_uniform(head, score) or np.nan
            plot_table(axes, table, SCORE_TITLES[score], "{:.1f}")


def plot_explained(axes: Axes, heads: Sequence[dict], layers: int) -> None:
    """A scatter: the share of a head's variance that distance explains, and tokens explain."""
    shades = np.linspace(0.35, 1, layers)
    for layer in range(layers):
        own = [head["explained"] for head in heads if head["layer"] == layer]
        points = [100 * np.array([each[name] for each in own]) for name in ("distance", "token")]
        axes.scatter(*points, color=MORE(shades[layer]), s=60, label=f"layer {layer}", zorder=2)
    few = sorted(heads, key=lambda head: -max(head["explained"].values()))[:16]
    for head in few:
        place = 100 * head["explained"]["distance"], 100 * head["explained"]["token"]
        axes.annotate(head_name(head), place, xytext=(5, 4), textcoords="offset points", fontsize=9)
    axes.set(xlabel="explained by how far back the token is, % of the variance of attention")
    axes.set(ylabel="explained by which token it is, %")
    highest = [max(head["explained"][kind] for head in heads) for kind in ("distance", "token")]
    right, top = (100 * max(1.1 * share, 0.01) for share in highest)  # room for the names
    axes.set(xlim=(0, right), ylim=(0, top))
    title_and_legend(axes, "Attention that goes by distance, and by token", [], columns=6)


def plot_table(axes: Axes, table: np.ndarray, title: str, form: str) -> None:
    """A table of numbers of layers and heads, dark where they are high."""
    top = max(1.0, float(np.nanmax(table, initial=0)))
    axes.imshow(table, cmap=MORE, vmin=0, vmax=top, aspect="auto", origin="lower")
    if table.shape[1] <= 8:
        for (layer, head), value in np.ndenumerate(table):
            color = "white" if value > 0.6 * top else INK
            text = "n/a" if np.isnan(value) else form.format(value)
            axes.text(head, layer, text, ha="center", va="center", fontsize=9, color=color)
    axes.set(title=f"{title} (up to {form.format(top)})", xlabel="head", ylabel="layer")
    axes.set_xticks(range(table.shape[1]))
    axes.set_yticks(range(table.shape[0]))
    axes.tick_params(length=0)
    axes.grid(visible=False)


# Ablation -----------------------------------------------------------------------------------


def plot_ablation(
    heads: Sequence[dict], layers: Sequence[dict], whole: dict, title: str, path: Path
) -> None:
    """What it costs to remove a head, a layer's attention, its MLP; and of heads by kind."""
    count, width = len(layers), 1 + max(head["head"] for head in heads)
    names = [kind for kind in KINDS if whole[kind] is not None]
    shown = sorted(heads, key=lambda head: -largest(head))[:MOST_HEADS]
    shown.sort(key=lambda head: (head["layer"], head["head"]))
    heights = 1.1 + 0.36 * count, 1.55 + 0.29 * len(shown)
    with saved_figure(path, height=0.6 + sum(heights)) as figure:
        figure.suptitle(title, x=0.01, ha="left", weight="bold")
        upper, lower = figure.subplots(2, 1, height_ratios=heights)
        cells = np.full((count, width + 2), np.nan)
        errors = np.full_like(cells, np.nan)
        for head in heads:
            place = head["layer"], head["head"]
            cells[place], errors[place] = head["removed"]["bits_per_byte"], head["removed"]["se"]
        for i, layer in enumerate(layers):
            for column, part in ((width, "attention"), (width + 1, "mlp")):
                removed = layer[f"{part}_removed"]
                cells[i, column] = removed["bits_per_byte"]
                errors[i, column] = removed["se"]
        plot_costs(upper, cells, errors, "bits per byte that removing it adds", "{:+.3f}")
        few = width <= 6
        names_of_parts = ["attention", "MLP"] if few else ["attn", "MLP"]
        labels = [f"head {i}" if few else str(i) for i in range(width)] + names_of_parts
        upper.set_xticks(range(width + 2), labels, fontsize=10)
        upper.set_xlabel("" if few else "head")
        upper.set_yticks(range(count), [f"layer {i}" for i in range(count)])
        upper.invert_yaxis()
        cells = np.array([[value(h["removed"]["kinds"][k]["nats"]) for k in names] for h in shown])
        errors = np.array([[value(h["removed"]["kinds"][k]["se"]) for k in names] for h in shown])
        which = "a head" if len(shown) == len(heads) else f"one of the {MOST_HEADS} that cost most"
        what = f"nats that removing {which} adds, by what comes next\n"
        what += "grey: within three standard errors"
        plot_costs(lower, cells, errors, what, "{:+.2f}")
        columns = [f"{KINDS[kind]}\n({whole[kind]:.2f})" for kind in names]
        lower.set_xticks(range(len(names)), columns)
        lower.xaxis.tick_top()
        lower.set_yticks(range(len(shown)), [f"head {head_name(head)}" for head in shown])
        lower.set_xlabel("in brackets: the loss of the whole model, nats per token")


def largest(head: dict) -> float:
    """The highest cost of a head for any kind of token."""
    costs = [kind["nats"] for kind in head["removed"]["kinds"].values()]
    return max((abs(cost) for cost in costs if cost is not None), default=0.0)


def value(number: float | None) -> float:
    return math.nan if number is None else number


def plot_costs(axes: Axes, cells: np.ndarray, errors: np.ndarray, title: str, form: str) -> None:
    """A table of costs, red where the model got worse; grey where an error may be the reason."""
    measured = np.isfinite(errors).any()  # else there is one text, and all is shown as it is
    sure = np.abs(cells) > SURE * np.nan_to_num(errors, nan=np.inf if measured else 0)
    top = float(np.nanmax(np.abs(np.where(sure, cells, np.nan)), initial=1e-9))
    colors = np.where(sure, np.sign(cells) * np.sqrt(np.abs(cells) / top), 0)
    axes.imshow(colors, cmap=BOTH, vmin=-1.2, vmax=1.2, aspect="auto")
    if cells.shape[1] <= 14:
        for (row, column), cost in np.ndenumerate(cells):
            if not np.isnan(cost):
                color = INK if sure[row, column] else FADED
                options: Any = {"ha": "center", "va": "center", "fontsize": 9, "color": color}
                axes.text(column, row, form.format(cost), **options)
    axes.set_title(title)
    axes.tick_params(length=0)
    axes.grid(visible=False)
