"""What the neurons of the MLPs that fire most selectively react to, and what they raise."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tinystories.activations import inputs, last_matrix, logits_of
from tinystories.interpretation.stories import ModelWithStories
from tinystories.interpretation.text import name_of, visible

CONTEXTS, BEFORE, AFTER = 8, 8, 1  # shown of each neuron; tokens before the one that fires it
RAISED = 6  # tokens whose logits a neuron raises
ACTIVE = 0.25  # of the largest activation: from there on a neuron counts as active


@dataclass(frozen=True)
class Moments:
    """Of each neuron of a layer over all tokens, (M,)."""

    kurtosis: np.ndarray  # 3 for a normal distribution
    skew: np.ndarray


def measure(subject: ModelWithStories, count: int) -> list[dict]:
    """The `count` neurons of each layer with the highest kurtosis, as in interpret.json.

    High kurtosis: nearly always near the mean, rarely far from it. A neuron whose long tail is
    below zero, as a gated one may have, is looked at with its sign turned.
    """
    moments = [moments_of(*sums) for sums in power_sums(subject)]
    chosen = [np.argsort(-each.kurtosis, kind="stable")[:count] for each in moments]
    chosen = [ids[each.kurtosis[ids] > 0] for ids, each in zip(chosen, moments, strict=True)]
    values = activations(subject, chosen)
    found = []
    for layer, (ids, each) in enumerate(zip(chosen, moments, strict=True)):
        for column, neuron in enumerate(ids):
            sign = -1 if each.skew[neuron] < 0 else 1
            tail = sign * values[layer][:, column]
            threshold = max(0.0, ACTIVE * float(tail.max()))
            found.append(
                {
                    "layer": layer,
                    "neuron": int(neuron),
                    "kurtosis": float(each.kurtosis[neuron]),
                    "sign": sign,
                    "active_share": float((tail > threshold).mean()),
                    "contexts": contexts(subject, tail, threshold),
                    "raises": raised(subject, layer, int(neuron), sign),
                }
            )
    return found


def power_sums(subject: ModelWithStories) -> list[tuple[int, list[Tensor]]]:
    """For each layer how many tokens there are, and sums of the powers 1 to 4 of each neuron."""
    sums: list = [(0, [0.0] * 4) for _ in range(subject.num_layers)]
    for _, x, y in subject.batches():

        def add(layer: int, z: Tensor, counted: Tensor = y >= 0) -> None:
            z = z[counted].cpu().double()
            n, powers = sums[layer]
            sums[layer] = n + len(z), [s + (z**k).sum(0) for k, s in enumerate(powers, 1)]

        inputs(subject.model, x, "mlp", add)
    return sums


def moments_of(n: int, powers: list[Tensor]) -> Moments:
    """Skew and kurtosis from sums of powers; 0 for a neuron that never changes."""
    a, b, c, d = (each.cpu().numpy() / n for each in powers)
    variance = b - a**2
    flat = variance <= 1e-12 * np.maximum(b, 1e-300)
    v = np.where(flat, 1, variance)
    third = c - 3 * a * b + 2 * a**3
    fourth = d - 4 * a * c + 6 * a**2 * b - 3 * a**4
    return Moments(np.where(flat, 0, fourth / v**2), np.where(flat, 0, third / v**1.5))


def activations(subject: ModelWithStories, chosen: list[np.ndarray]) -> list[np.ndarray]:
    """The activations of the chosen neurons of each layer at all tokens, (tokens, chosen)."""
    parts: list[list[np.ndarray]] = [[] for _ in chosen]
    for _, x, y in subject.batches():

        def keep(layer: int, z: Tensor, counted: Tensor = y >= 0) -> None:
            parts[layer].append(z[counted][:, chosen[layer].tolist()].float().cpu().numpy())

        inputs(subject.model, x, "mlp", keep)
    return [np.concatenate(each) for each in parts]


def contexts(subject: ModelWithStories, values: np.ndarray, threshold: float) -> list[dict]:
    """Where a neuron is most active: the text before, the token, the text after.

    At most one place in each story, so that one story does not fill the list, and none where the
    neuron is not above the threshold.
    """
    ends = np.cumsum([len(story.x) for story in subject.stories])
    starts = ends - [len(story.x) for story in subject.stories]
    best = [int(a + values[a:b].argmax()) for a, b in zip(starts, ends, strict=True)]
    best.sort(key=lambda place: -values[place])
    shown = []
    for place in [place for place in best if values[place] > threshold][:CONTEXTS]:
        row = int(np.searchsorted(ends, place, side="right"))
        story, i = subject.stories[row], place - int(starts[row])
        # The id at i is the piece i - 1; before the first piece stands the first id.
        before = visible(b"".join(story.pieces[max(0, i - 1 - BEFORE) : max(0, i - 1)]))
        token = visible(story.pieces[i - 1]) if i else name_of(subject, int(story.x[0]))
        after = visible(b"".join(story.pieces[i : i + AFTER]))
        value = float(values[place])
        shown.append({"before": before, "token": token, "after": after, "value": value})
    return shown


@torch.no_grad()
def raised(subject: ModelWithStories, layer: int, neuron: int, sign: int) -> list[str]:
    """The tokens whose logits a neuron raises most, through the last norm and the head alone."""
    matrix: Any = last_matrix(subject.model, layer, "mlp")
    # GPT-2 of transformers keeps its matrices the other way round than torch's linear layers.
    columns = matrix.weight if isinstance(matrix, torch.nn.Linear) else matrix.weight.T
    direction = sign * columns[:, neuron]
    logits = logits_of(subject.model, direction[None, None])[0, 0]
    logits = logits - logits_of(subject.model, -direction[None, None])[0, 0]
    logits = logits.nan_to_num(nan=-math.inf)  # inf - inf, of an id that is never predicted
    return [name_of(subject, i) for i in logits.topk(min(RAISED, len(logits))).indices.tolist()]


def listing(found: list[dict]) -> str:
    """The neurons as text: what excites each, and what it raises."""
    lines = []
    for each in found:
        name = f"{each['layer']}.{each['neuron']}"
        below = ", sign turned: it fires below zero" if each["sign"] < 0 else ""
        lines.append(
            f"neuron {name}  kurtosis {each['kurtosis']:.0f}, active at "
            f"{each['active_share']:.2%} of the tokens{below}"
        )
        lines.append(f"  {name} raises  {'  '.join(each['raises'])}")
        for place in each["contexts"]:
            text = f"{place['before'][-50:]:>50}[{place['token']}]{place['after']}"
            lines.append(f"  {name} {place['value']:7.2f}  {text}".rstrip())
        lines.append("")
    return "\n".join(lines)
