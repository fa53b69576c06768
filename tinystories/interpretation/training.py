"""How a model learned: the same measurements at each kept checkpoint, and a story of each."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from tinystories import keptfigures
from tinystories.device import Hardware
from tinystories.files import atomic_write
from tinystories.generate import Sampling, collect_stories, generate_stories, prepare_for_generation
from tinystories.interpretation import ablation, heads, lens
from tinystories.interpretation.stories import KINDS, ModelWithStories, by_story, nats

STORY_TOKENS = 200  # of a story at each step
SAMPLING, SEED = Sampling(temperature=0.8), 1337
BEST = ("previous", "induction", "name")  # scores of which the best head is followed


def measure(subject: ModelWithStories) -> dict:
    """One row: losses, what the layers would say, and the best heads."""
    losses: list[np.ndarray] = []
    with torch.no_grad():
        for _, x, y in subject.batches():
            losses += by_story(nats(subject.model(x), y), y)
    bits = lens.measure(subject)
    found, repeat = heads.measure(subject)
    row: dict = {"bits_per_byte": bits[-1]}
    kinds = ablation.by_kind(subject, losses)
    row |= {f"nats_{kind}": kinds[kind] for kind in KINDS}
    row |= {f"lens_{layer}": x for layer, x in enumerate(bits)}
    for name in BEST:
        known = [head for head in found if head[name]]
        best = max(known, key=lambda head: head[name]["attention"], default=None)
        row[name] = best[name]["attention"] if best else None
        row[f"{name}_head"] = heads.head_name(best) if best else None
    for text in ("story", "random"):
        first, again = repeat[text] or (None, None)
        row |= {f"{text}_first": first, f"{text}_again": again}
    return row


def write(rows: Sequence[dict], folder: Path, title: str) -> None:
    """Write over_training.csv and draw over_training.png; each row has its step."""
    table = io.StringIO()
    writer = csv.DictWriter(table, rows[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {k: round(x, 5) if isinstance(x, float) else x for k, x in row.items()} for row in rows
    )
    atomic_write(folder / "over_training.csv", table.getvalue().encode())

    def column(name: str, factor: float = 1) -> list[float | None]:
        return [None if row[name] is None else factor * row[name] for row in rows]

    layers = sum(name.startswith("lens_") for name in rows[0])
    kinds = {KINDS[kind].replace("\n", " "): column(f"nats_{kind}") for kind in KINDS}
    named = {"previous": "the token before", "induction": "induction", "name": "the name to come"}
    panels = {
        "Loss by what comes next": ("nats per token", kinds),
        "Highest share of attention of a head": (
            "% of its attention",
            {label: column(name, 100) for name, label in named.items()},
        ),
        "What each layer would say": (
            "bits per byte",
            {f"after layer {layer}": column(f"lens_{layer}") for layer in range(layers)},
        ),
        "Texts read twice": (
            "nats per token",
            {
                f"{text}, {time} time": column(f"{name}_{key}")
                for name, text in (("story", "a story"), ("random", "random tokens"))
                for key, time in (("first", "first"), ("again", "second"))
            },
        ),
    }
    steps = [row["step"] for row in rows]
    keptfigures.plot_panels(steps, panels, title, folder / "over_training.png")


def story(subject: ModelWithStories, hardware: Hardware, prompt: str) -> str:
    """What the model makes of a beginning; the same random numbers at each step."""
    model = prepare_for_generation(subject.model, hardware)
    options = {"max_new_tokens": STORY_TOKENS, "sampling": SAMPLING, "seed": SEED}
    pieces = generate_stories(model, subject.tokenizer, hardware, prompt, **options)
    return collect_stories(pieces, prompt, count=1)[0].text


def summary(rows: Sequence[dict]) -> list[str]:
    """What happened when, in a few lines."""
    lines = []
    for name, text in (("name", "the name to come"), ("previous", "the token before")):
        known = [row for row in rows if row[name] is not None]
        if not known:
            continue
        last = known[-1]
        half = next(row for row in known if row[name] >= last[name] / 2)
        lines.append(
            f"{text}: {last[name]:.0%} of the attention of head {last[f'{name}_head']} after step "
            f"{last['step']:,}; half as much for the first time after step {half['step']:,} (head "
            f"{half[f'{name}_head']})"
        )
    first, last = rows[0], rows[-1]
    lines.append(
        f"bits per byte: {first['bits_per_byte']:.2f} at step {first['step']:,}, "
        f"{last['bits_per_byte']:.2f} at step {last['step']:,}"
    )
    if last["nats_name_again"] is not None:
        lines.append(
            f"a name that stood before: {first['nats_name_again']:.2f} nats at step "
            f"{first['step']:,}, {last['nats_name_again']:.2f} at step {last['step']:,}; a new "
            f"one {last['nats_name_new']:.2f}"
        )
    return lines
