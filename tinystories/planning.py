"""Which model to train in so many minutes: the law's best, given how fast the machine is.

A plan depends on nothing but its arguments: the law, the stories, and what a probe of the machine
has measured.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from configurator import UserError
from model import GPTConfig
from tinystories.law import Law

WIDTHS = (64, 96, 128, 160, 192, 256, 320, 384, 512, 640, 768, 1024)
SMALLEST, LARGEST = 1024, 524_288  # tokens per step
FEWEST_STEPS = 50
RECIPE = "qwen3, muon"  # of the law's runs
LONG_RUN, LONGER_RUN = 8e6, 2e8  # tokens from which windows of 256 and 512 are taken
MOST_PER_TOKEN = 2  # parameters per different token that a loss gains from; not measured here
OVERHEAD = 16  # bytes per parameter: weights, gradients, the optimizer's two states in float32
VALUES = 24  # numbers kept for the backward pass, per layer, channel and token


@dataclass(frozen=True)
class Stories:
    """What there is to train on."""

    dataset: str  # the folder in data/
    prepare: str  # the command that makes it
    text: str  # the name of a published source, "" of another
    tokens: int  # of training; 0: unknown, taken for endless
    stories: int
    vocab_size: int
    bytes_per_token: float

    @property
    def story_tokens(self) -> float:
        """The mean length of a story; that of TinyStories where it is not known."""
        return self.tokens / self.stories if self.stories and self.tokens else 200.0


@dataclass(frozen=True)
class Probe:
    """A measured training step of one micro-batch."""

    n_layer: int
    n_embd: int
    block_size: int
    tokens: int  # of the micro-batch
    flops: float
    seconds: float
    parameters: int
    memory: float  # peak, bytes; NaN where it is not known
    idle_memory: float  # of the process before there was a model


@dataclass(frozen=True)
class Plan:
    """A recommended run, and what is expected of it."""

    n_layer: int
    n_embd: int
    n_head: int
    block_size: int
    batch_size: int
    accumulation: int
    minutes: float
    seconds_per_step: float
    parameters: int
    block_parameters: int
    muon_learning_rate: float
    learning_rate: float
    loss: float  # bits per byte, and its interval
    low: float
    high: float
    extrapolated: bool
    memory: float  # bytes
    different_tokens: float

    @property
    def steps(self) -> int:
        return int(60 * self.minutes / self.seconds_per_step)

    @property
    def tokens_per_step(self) -> int:
        return self.batch_size * self.accumulation * self.block_size

    @property
    def tokens(self) -> int:
        return self.steps * self.tokens_per_step

    @property
    def passes(self) -> float:
        return self.tokens / self.different_tokens


@cache
def size_of(
    n_layer: int,
    n_embd: int,
    vocab_size: int,
    block_size: int,
    n_head: int | None = None,
    arch: Any = "qwen3",
) -> dict[str, int]:
    """Parameters, those inside blocks, and training FLOPs per token of a shape, as in model.py."""
    c = GPTConfig(vocab_size, block_size, n_layer, n_head or heads_of(n_embd), n_embd, arch=arch)
    channels, head = c.n_head * c.head_width, c.head_width
    matrices = 4 * n_embd * channels + (2 if arch == "gpt2" else 3) * n_embd * c.mlp_width
    vectors = 2 * n_embd + (0 if arch == "gpt2" else 2 * head)  # norms, of queries and keys too
    blocks = n_layer * (matrices + vectors)
    parameters = blocks + n_embd * (c.padded_vocab_size + 1)
    return {
        "parameters": parameters,
        "block_parameters": blocks,
        "flops_per_token": 6 * parameters + 12 * n_layer * channels * block_size,
    }


def heads_of(n_embd: int) -> int:
    """As many heads of 64 or more channels as divide a width evenly."""
    return max(h for h in range(1, n_embd // 64 + 1) if n_embd % h == 0)


def layers_of(n_embd: int) -> int:
    """Layers that suit a width: one per 64 channels, and at least two (docs/findings.md)."""
    return max(2, round(n_embd / 64))


def seconds_of(probes: Sequence[Probe], n_layer: int, flops_per_token: float, tokens: int) -> float:
    """Time of a step of one micro-batch: a fixed part per layer, and a part per token.

    Probes of one shape with different numbers of tokens show the fixed part. The other one is, in
    both logarithms, a line through the probes over FLOPs per token; beyond the largest it grows in
    proportion to them.
    """
    fixed = fixed_seconds(probes)
    points: dict[float, list[float]] = {}
    for p in probes:
        own = max(0.1 * p.seconds, p.seconds - fixed * (p.n_layer + 1))
        points.setdefault(math.log(p.flops / p.tokens), []).append(math.log(own / p.tokens))
    xs = sorted(points)
    ys = [min(points[x]) for x in xs]
    x, slope = math.log(flops_per_token), 1.0
    if x < xs[0] and len(xs) > 1:
        slope = min(1.0, max(0.0, (ys[1] - ys[0]) / (xs[1] - xs[0])))
    nearest = min(max(x, xs[0]), xs[-1])
    per_token = math.exp(np.interp(nearest, xs, ys) + slope * (x - nearest))
    return fixed * (n_layer + 1) + per_token * tokens


def fixed_seconds(probes: Sequence[Probe]) -> float:
    """Time per layer that a step takes however few tokens it has; 0 where it is not measured."""
    found = [0.0]
    for a, b in itertools.combinations(probes, 2):
        if (a.n_layer, a.n_embd, a.block_size) == (b.n_layer, b.n_embd, b.block_size):
            if 2 * min(a.tokens, b.tokens) <= max(a.tokens, b.tokens):
                rest = (a.seconds * b.tokens - b.seconds * a.tokens) / (b.tokens - a.tokens)
                found.append(min(rest, 0.9 * a.seconds, 0.9 * b.seconds) / (a.n_layer + 1))
    return max(found)


def memory_of(probes: Sequence[Probe], parameters: int, values: float) -> float:
    """Peak memory in bytes of a run, in proportion to what the largest probe took, where known.

    Args:
        values: layers x channels x tokens of a micro-batch.
    """

    def raw(parameters: float, values: float) -> float:
        return OVERHEAD * parameters + 4 * VALUES * values

    largest = max(probes, key=lambda p: p.flops)
    its_values = largest.n_layer * largest.n_embd * largest.tokens
    used = largest.memory - largest.idle_memory
    if not used > 0:  # NaN: not known
        return raw(parameters, values)
    taken = used / raw(largest.parameters, its_values)
    return largest.idle_memory + taken * raw(parameters, values)


def window_of(tokens: float, story_tokens: float) -> int:
    """Tokens per window: short ones for minutes (docs/findings.md), longer ones for hours.

    A window much longer than a story gains nothing, since a token sees its own story only.
    """
    wanted = 128 if tokens < LONG_RUN else 256 if tokens < LONGER_RUN else 512
    return min(wanted, max(128, 2 ** math.ceil(math.log2(story_tokens))))


def ema_of(passes: float) -> float:
    """Epochs over which weights are averaged, which pays where data is repeated."""
    return 0.5 if passes >= 3 else 0.0


def step_of(law: Law, tokens: float) -> int:
    """The smallest step worth taking: an eighth of the one that halves a token's worth."""
    exponent = round(math.log2(law.critical_step(max(1.0, tokens)) / 8))
    return min(LARGEST, max(SMALLEST, 2**exponent))


def rates_of(law: Law, n_embd: int, tokens_per_step: int) -> tuple[float, float]:
    """Muon's and AdamW's rate: those measured at the width, or between two widths.

    Not measured here: Muon's grows with the fourth root of the step, and beyond the largest width
    AdamW's falls in proportion to it (Yang et al. 2022).
    """
    muon, adamw = law.best_rates(n_embd)
    muon *= (tokens_per_step / law.tokens_per_step) ** 0.25
    adamw *= min(1.0, max(row["n_embd"] for row in law.rates) / n_embd)
    return float(f"{muon:.2g}"), float(f"{adamw:.2g}")


def choose(
    law: Law, stories: Stories, probes: Sequence[Probe], minutes: float, memory_limit: float
) -> Plan:
    """The plan with the lowest expected loss among shapes and steps.

    Raises UserError where not even the smallest model gets FEWEST_STEPS steps, or none fits.
    """
    best = None
    for block_size in (128, 256, 512):  # a longer window only for a run that is long with it
        plans = list(candidates(law, stories, probes, minutes, memory_limit, block_size))
        found = min(plans, key=lambda plan: plan.loss, default=None)
        if not found or (best and window_of(found.tokens, stories.story_tokens) < block_size):
            break
        best = found
    if best is None:
        fastest = min(p.seconds for p in probes)
        raise UserError(
            f"{minutes:g} minutes are too few here, or the memory is: even a small model takes "
            f"{fastest:.2g} s per step, and needs {FEWEST_STEPS} steps"
        )
    shape = (best.n_layer, best.n_embd, stories.vocab_size, best.block_size)
    known = (size_of(*shape), best.tokens, best.tokens_per_step)
    loss, low, high, extrapolated = expect(law, stories, *known)
    return replace(best, loss=loss, low=low, high=high, extrapolated=extrapolated)


def candidates(
    law: Law,
    stories: Stories,
    probes: Sequence[Probe],
    minutes: float,
    memory_limit: float,
    block_size: int,
) -> Iterator[Plan]:
    """The plans that fit the time and the memory, with their losses, but without intervals."""
    for n_embd in WIDTHS:
        n_layer = layers_of(n_embd)
        size = size_of(n_layer, n_embd, stories.vocab_size, block_size)

        def memory(tokens: int, values=n_layer * n_embd, parameters=size["parameters"]) -> float:
            return memory_of(probes, parameters, values * tokens)

        at_once = LARGEST
        while at_once > SMALLEST and memory(at_once) > memory_limit:
            at_once //= 2
        if memory(at_once) > memory_limit:
            return
        step = SMALLEST
        while step <= LARGEST:
            tokens = min(step, at_once)
            seconds = seconds_of(probes, n_layer, size["flops_per_token"], tokens)
            seconds *= step // tokens
            steps = int(60 * minutes / seconds)
            if steps >= FEWEST_STEPS and step >= step_of(law, steps * step):
                muon, adamw = rates_of(law, n_embd, step)
                loss = expected_loss(law, stories, size, steps * step, step)
                yield Plan(
                    n_layer=n_layer,
                    n_embd=n_embd,
                    n_head=heads_of(n_embd),
                    block_size=block_size,
                    batch_size=tokens // block_size,
                    accumulation=step // tokens,
                    minutes=minutes,
                    seconds_per_step=seconds,
                    parameters=size["parameters"],
                    block_parameters=size["block_parameters"],
                    muon_learning_rate=muon,
                    learning_rate=adamw,
                    loss=loss,
                    low=loss,
                    high=loss,
                    extrapolated=False,
                    memory=memory(tokens),
                    different_tokens=stories.tokens or math.inf,
                )
            step *= 2


def expected_loss(
    law: Law,
    stories: Stories,
    size: dict[str, int],
    tokens: float,
    tokens_per_step: float,
    recipe: str = RECIPE,
) -> float:
    """Expected bits per byte of a run."""
    place = in_law(law, stories, size, tokens, tokens_per_step, recipe)
    return min(level_of(law, stories) * float(law.loss(*place)), start_loss(stories))


def start_loss(stories: Stories) -> float:
    """Bits per byte before training: the logarithm of the vocabulary, per token."""
    return math.log2(stories.vocab_size) / stories.bytes_per_token


def expect(
    law: Law,
    stories: Stories,
    size: dict[str, int],
    tokens: float,
    tokens_per_step: float,
    recipe: str = RECIPE,
) -> tuple[float, float, float, bool]:
    """Expected bits per byte of a run, the ends of its interval, and whether it is extrapolated."""
    place = in_law(law, stories, size, tokens, tokens_per_step, recipe)
    level, most = level_of(law, stories), start_loss(stories)
    loss, low, high = (
        min(level * float(x), most) for x in (law.loss(*place), *law.interval(*place))
    )
    seen = tokens * stories.bytes_per_token / law.bytes_per_token
    passes = tokens / (stories.tokens or math.inf)
    return loss, low, high, law.is_outside(place[0], seen, passes)


def in_law(
    law: Law,
    stories: Stories,
    size: dict[str, int],
    tokens: float,
    tokens_per_step: float,
    recipe: str,
) -> tuple[float, float, float]:
    """What the law needs of a run: parameters, tokens, and different tokens.

    Tokens are counted as those of the law's vocabulary that hold as many bytes. What a step or a
    recipe makes a token worth scales what is seen and what there is alike, so passes stay passes.
    """
    tokens = max(1.0, tokens)  # none at all have a loss, too
    scale = stories.bytes_per_token / law.bytes_per_token
    scale *= law.step_efficiency(tokens * scale, tokens_per_step) * law.recipes[recipe]
    return size_in_law(law, stories, size), tokens * scale, (stories.tokens or math.inf) * scale


def size_in_law(law: Law, stories: Stories, size: dict[str, int]) -> float:
    """The parameters that the law counts.

    Of the table of a larger vocabulary only so many rows count as the law's has: stories use few of
    the others. Beyond MOST_PER_TOKEN of its different tokens a model only memorizes them.
    """
    counted = float(size["block_parameters"])
    if law.counts == "parameters":
        table = size["parameters"] - size["block_parameters"]
        counted += table * min(1.0, law.vocab_size / stories.vocab_size)
    return min(counted, MOST_PER_TOKEN * (stories.tokens or math.inf))


def level_of(law: Law, stories: Stories) -> float:
    """The losses of a text over those of TinyStories, where they were measured."""
    return law.texts.get(stories.text, {}).get("level", 1.0)
