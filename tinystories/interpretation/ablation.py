"""What the model loses without a head, a layer's attention, or its MLP: mean ablation.

What is removed is replaced by its mean over the same stories: zero would be a value that the later
layers have never seen.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tinystories.activations import block_calls, inputs, logits_of, replaced, run_from
from tinystories.interpretation.stories import KINDS, ModelWithStories, by_story, nats
from tinystories.terminal import progress

SURE = 3  # standard errors: what is nearer to zero may be chance
Removal = tuple[int, str, int | None]  # layer, part, head; None: all of it


def removals(subject: ModelWithStories) -> list[Removal]:
    """All that is removed, one at a time."""
    heads = [("attention", head) for head in range(subject.num_heads)]
    parts = [*heads, ("attention", None), ("mlp", None)]
    return [(layer, part, head) for layer in range(subject.num_layers) for part, head in parts]


def measure(subject: ModelWithStories) -> tuple[dict[str, float | None], dict[Removal, dict]]:
    """The whole model's loss by kind of token; and the cost of each removal, as in interpret.json.

    The layers before one are computed once for all that is removed from it or later.
    """
    means = {part: mean_inputs(subject, part) for part in ("attention", "mlp")}
    whole: list[np.ndarray] = []
    without: dict[Removal, list[np.ndarray]] = {removal: [] for removal in removals(subject)}
    batches = list(subject.batches())
    with progress(None, "ablation", "removals", total=len(batches) * len(without)) as bar:
        for _, x, y in batches:
            calls = block_calls(subject.model, x)
            whole += losses_from(subject, calls, 0, y)
            for layer, part, head in without:
                mean = means[part][layer]
                if head is not None:
                    mean = mean.view(subject.num_heads, -1)[head]
                with replaced(subject.model, layer, part, mean, head):
                    without[layer, part, head] += losses_from(subject, calls, layer, y)
                bar.update()
    found = {removal: costs(subject, whole, each) for removal, each in without.items()}
    return by_kind(subject, whole), found


@torch.no_grad()
def losses_from(subject: ModelWithStories, calls: list, layer: int, y: Tensor) -> list[np.ndarray]:
    """The loss of each token, by story, if the model is computed from a layer on."""
    each = nats(logits_of(subject.model, run_from(subject.model, calls, layer)[-1]), y)
    return by_story(each, y)


def mean_inputs(subject: ModelWithStories, part: str) -> list[Tensor]:
    """The mean over all tokens of what enters the last matrix of a part, for each layer."""
    sums: list[Any] = [0.0] * subject.num_layers
    count = 0
    for _, x, y in subject.batches():
        counted = y >= 0

        def add(layer: int, z: Tensor, counted=counted) -> None:
            sums[layer] = sums[layer] + z[counted].cpu().double().sum(0)

        inputs(subject.model, x, part, add)
        count += int(counted.sum())
    return [(each / count).float().to(subject.device) for each in sums]


def costs(subject: ModelWithStories, full: list[np.ndarray], without: list[np.ndarray]) -> dict:
    """What a removal costs: bits per byte, and nats per token by kind, with standard errors."""
    differences = [after - before for before, after in zip(full, without, strict=True)]
    sizes = [story.bytes for story in subject.stories]
    per_byte, error = ratio([d.sum() for d in differences], sizes)
    kinds = {}
    for i, kind in enumerate(KINDS):
        masks = [story.kinds == i for story in subject.stories]
        sums = [d[mask].sum() for d, mask in zip(differences, masks, strict=True)]
        counts = [int(mask.sum()) for mask in masks]
        mean, se = ratio(sums, counts)
        kinds[kind] = {"nats": mean, "se": se, "tokens": sum(counts)}
    bits, error = (None if x is None else x / math.log(2) for x in (per_byte, error))
    return {"bits_per_byte": bits, "se": error, "kinds": kinds}


def by_kind(subject: ModelWithStories, losses: list[np.ndarray]) -> dict[str, float | None]:
    """The loss by kind of token in nats per token; None for a kind that is not there."""
    each = np.concatenate(losses)
    kinds = np.concatenate([story.kinds for story in subject.stories])
    return {
        kind: float(each[kinds == i].mean()) if (kinds == i).any() else None
        for i, kind in enumerate(KINDS)
    }


def ratio(sums: list[float], counts: list[int]) -> tuple[float | None, float | None]:
    """Sum of sums / sum of counts over stories, and its standard error; None for nothing.

    The error is that of a ratio (Cochran 1977, Sampling Techniques, section 2.11): how much the
    result would differ with other stories. None for less than two stories that have any.
    """
    s, n = np.array(sums, dtype=float), np.array(counts, dtype=float)
    if not n.sum():
        return None, None
    mean, m = s.sum() / n.sum(), int((n > 0).sum())
    if m < 2:
        return float(mean), None
    residuals = (s - mean * n)[n > 0]
    return float(mean), float(math.sqrt((residuals**2).sum() * m / (m - 1)) / n.sum())
