"""What is wrong with a run, before or after it: complaints, each with one change and its effect.

Every complaint is a function in COMPLAINTS, EVER or FINISHED. Losses are in bits per byte, by the
law of law.py; a change of shape or vocabulary is compared at equal compute, so it costs no more
time.
"""

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from configurator import UserError
from tinystories.curve import Curve, read_curve
from tinystories.dataset import Dataset
from tinystories.law import Law, read_law
from tinystories.planning import (
    MOST_PER_TOKEN,
    RECIPE,
    WIDTHS,
    Stories,
    ema_of,
    expect,
    heads_of,
    layers_of,
    rates_of,
    size_of,
    step_of,
    window_of,
)
from tinystories.terminal import command_text, counted, short_count, wrapped

LINES = 10  # at most
WORTH = 0.05  # part of the loss that a change must gain
GRAVE = 0.2  # ... for the line at the end of a training


@dataclass(frozen=True)
class Run:
    """What decides the loss of a run."""

    n_layer: int
    n_embd: int
    n_head: int
    arch: str
    optimizer: str
    block_size: int
    step: int  # tokens
    steps: int
    stories: Stories
    settings: Any  # train.py's Settings

    @property
    def tokens(self) -> int:
        return self.step * self.steps

    @property
    def different(self) -> float:
        """Tokens that there are; those seen where that is not known."""
        return self.stories.tokens or self.tokens

    @property
    def passes(self) -> float:
        return self.tokens / self.different

    @property
    def size(self) -> dict[str, int]:
        shape = (self.n_layer, self.n_embd, self.stories.vocab_size, self.block_size)
        return size_of(*shape, self.n_head, self.arch)

    def expected(self, law: Law) -> tuple[float, float, float, bool]:
        """The validation loss, its interval, and whether the law is extrapolated."""
        recipe = f"{self.arch}, {self.optimizer}"
        return expect(law, self.stories, self.size, self.tokens, self.step, recipe)

    def loss(self, law: Law) -> float:
        return self.expected(law)[0]

    def changed(self, **changes) -> "Run":
        """The run with changes, in as many steps as take the same compute."""
        new = replace(self, **changes)
        compute = self.size["flops_per_token"] * self.tokens
        return replace(new, steps=int(compute / (new.size["flops_per_token"] * new.step)))


@dataclass(frozen=True)
class Complaint:
    """What is wrong, the change that helps most, and the loss that it would bring."""

    text: str
    change: str
    gain: float  # part of the loss, for the order
    loss: float | None = None  # bits per byte, where the law knows

    def line(self) -> str:
        brings = "" if self.loss is None else f": {self.loss:.3f}"
        return f"{self.text} -> {self.change}{brings}"


def run_of(s: Any, stories: Stories, steps: int) -> Run:
    """The run that train.py's settings describe."""
    step = s.batch_size * s.gradient_accumulation_steps * s.block_size
    shape = (s.n_layer, s.n_embd, s.n_head, s.arch, s.optimizer, s.block_size)
    return Run(*shape, step, steps, stories, s)


def stories_in(data: Dataset, law: Law, prepare: str = "") -> Stories:
    """What a dataset has to train on; `prepare` is the command that makes it."""
    train = data.meta["splits"]["train"] if data.meta else {"stories": 0, "bytes": 0}
    source = str(data.meta["settings"].get("source", "")) if data.meta else ""
    return Stories(
        dataset=data.folder.name,
        prepare=prepare,
        text=source if source in law.texts else "",
        tokens=len(data.train),
        stories=train["stories"],
        vocab_size=data.tokenizer.vocab_size,
        bytes_per_token=train["bytes"] / len(data.train) or law.bytes_per_token,
    )


def nats(bits: float, bytes_per_token: float) -> float:
    """Nats per token from bits per byte."""
    return bits * math.log(2) * bytes_per_token


# Complaints about settings: each returns one or None ----------------------------------------


def gained(run: Run, law: Law, new: Run, text: str, change: str) -> Complaint | None:
    """A complaint where the changed run is better by WORTH, clearly so if extrapolated."""
    (old, _, _, outside), loss = run.expected(law), new.loss(law)
    gain = 1 - loss / old
    return Complaint(text, change, gain, loss) if gain >= WORTH * (3 if outside else 1) else None


def sized(run: Run, law: Law) -> Run:
    """The run with the size that its compute suits best."""

    def changed(width: int) -> Run:
        return run.changed(n_embd=width, n_layer=layers_of(width), n_head=heads_of(width))

    return min(map(changed, WIDTHS), key=lambda new: new.loss(law))


def with_vocabulary(stories: Stories, law: Law) -> Stories:
    """The same stories in the trained vocabulary that suits them."""
    vocab_size = law.vocab_size_of(stories.text)
    density = law.density(vocab_size, stories.text)
    tokens = round(stories.tokens * stories.bytes_per_token / density)
    return replace(stories, tokens=tokens, vocab_size=vocab_size, bytes_per_token=density)


def planned(run: Run, law: Law) -> Run:
    """What plan.py would make of a run's stories and compute."""
    stories = with_vocabulary(run.stories, law)
    arch, optimizer = RECIPE.split(", ")
    new = run.changed(arch=arch, optimizer=optimizer, stories=stories)
    new = new.changed(step=step_of(law, new.tokens))
    return sized(new, law)


def too_few_stories(run: Run, law: Law) -> Complaint | None:
    if run.passes < 4:
        return None
    more = replace(run.stories, tokens=run.tokens)
    count = f"{run.stories.stories:,} stories" if run.stories.stories else "its stories"
    needed = run.tokens / run.stories.story_tokens
    text = f"{run.passes:.0f} passes over {count}"
    change = f"{short_count(needed)} stories, each once"
    return gained(run, law, replace(run, stories=more), text, change)


def wrong_size(run: Run, law: Law) -> Complaint | None:
    best = sized(run, law)
    size, new = run.size["parameters"], best.size["parameters"]
    few = "few" if new > size else "many"
    text = f"{short_count(size)} parameters are {few} for {short_count(run.tokens)} tokens"
    shape = f"{best.n_layer} layers of {best.n_embd}"
    return gained(run, law, best, text, f"{shape}, {best.steps:,} steps")


def memorizes(run: Run, law: Law) -> Complaint | None:
    per_token = run.size["parameters"] / run.different
    if run.passes < 2 or per_token < 4 * MOST_PER_TOKEN:
        return None
    best = sized(run, law)
    size, tokens = short_count(run.size["parameters"]), short_count(run.different)
    text = f"{size} parameters memorize {tokens} different tokens"
    gain = max(0.1, 1 - best.loss(law) / run.loss(law))
    return Complaint(text, f"{best.n_layer} layers of {best.n_embd}", gain, best.loss(law))


def large_vocabulary(run: Run, law: Law) -> Complaint | None:
    stories = with_vocabulary(run.stories, law)
    if run.stories.vocab_size <= 2 * stories.vocab_size:
        return None
    new = run.changed(stories=stories)
    share = 1 - run.size["block_parameters"] / run.size["parameters"]
    text = f"{run.stories.vocab_size:,} ids are {100 * share:.0f} % of the parameters"
    return gained(run, law, new, text, f"a BPE of {stories.vocab_size:,}")


def large_step(run: Run, law: Law) -> Complaint | None:
    better = step_of(law, run.tokens)
    if run.step <= 4 * better and run.steps >= 200:
        return None
    new = replace(run, step=better, steps=run.tokens // better)
    text = f"{counted(run.steps, 'step')} of {run.step:,} tokens"
    return gained(run, law, new, text, f"{new.steps:,} of {better:,}")


def few_steps(run: Run, law: Law) -> Complaint | None:
    """Too short for its size however it is cut: four times the time gains much."""
    longer = replace(run, steps=4 * run.steps)
    if run.tokens > run.size["parameters"]:
        return None
    text = f"{short_count(run.tokens)} tokens for {short_count(run.size['parameters'])} parameters"
    return gained(run, law, longer, text, f"{longer.steps:,} steps")


def wrong_rate(run: Run, law: Law) -> Complaint | None:
    muon, adamw = rates_of(law, run.n_embd, run.step)
    s = run.settings
    rates = {"learning_rate": (s.learning_rate, adamw)}
    if run.optimizer == "muon":
        rates["muon_learning_rate"] = (s.muon_learning_rate, muon)
    else:
        rates["learning_rate"] = (s.learning_rate, float(f"{law.adamw_rate / run.n_embd:.1g}"))
    name = max(rates, key=lambda name: abs(math.log(rates[name][0] / rates[name][1])))
    used, best = rates[name]
    ratio = used / best
    if 1 / 4.5 < ratio < 4.5:
        return None
    text = f"the rate {used:g} is {'high' if ratio > 1 else 'low'} at width {run.n_embd}"
    gain = min(0.5, 0.05 * abs(math.log(ratio)))  # not measured; for the order only
    return Complaint(text, f"--{name}={best:g}", gain)


def wrong_schedule(run: Run, law: Law) -> Complaint | None:
    s, gain = run.settings, 0.05
    if s.warmup_iters > max(20, 0.2 * run.steps):
        warmup = max(5, run.steps // 50)
        text = f"{s.warmup_iters:,} of {run.steps:,} steps are warmup"
        return Complaint(text, f"--warmup_iters={warmup}", gain)
    if not s.decay_lr or s.min_lr > 0.3 * s.learning_rate:
        return Complaint("the rate does not decay", "--decay_lr=True --min_lr=0", gain)
    last = s.lr_decay_iters
    if last is None or s.max_minutes or 0.7 * run.steps <= last <= 1.4 * run.steps:
        return None
    text = f"the rate decays until step {last:,}, the run ends at {run.steps:,}"
    return Complaint(text, "leave lr_decay_iters out", gain)


def wrong_window(run: Run, law: Law) -> Complaint | None:
    length = run.stories.story_tokens
    wanted = window_of(run.tokens, length)
    change = f"--block_size={wanted}"
    if run.block_size > max(wanted, 4 * length):
        text = f"windows of {run.block_size:,} tokens, stories of {length:.0f}"
        return Complaint(text, change, 0.05)
    if 4 * run.block_size < min(length, 2 * wanted):
        text = f"windows of {run.block_size:,} tokens see little of stories of {length:.0f}"
        return Complaint(text, change, 0.06)
    return None


def wrong_dropout(run: Run, law: Law) -> Complaint | None:
    dropout = run.settings.dropout
    if dropout > 0.05 and run.passes < 2 and run.stories.tokens:
        text = f"dropout {dropout:g}, though tokens are seen {run.passes:.2g} times"
        return Complaint(text, "--dropout=0", 0.1)
    ema = ema_of(run.passes)
    if dropout == 0 and run.settings.ema == 0 and ema and run.passes > 8:
        return Complaint(f"{run.passes:.0f} passes without averaging", f"--ema={ema}", 0.06)
    return None


COMPLAINTS: Sequence[Callable[[Run, Law], Complaint | None]] = (
    too_few_stories,
    memorizes,
    wrong_size,
    large_vocabulary,
    large_step,
    few_steps,
    wrong_rate,
    wrong_schedule,
    wrong_window,
    wrong_dropout,
)


# Complaints about what a finished run has logged --------------------------------------------


def diverged(run: Run, law: Law, curve: Curve) -> Complaint | None:
    last, best = curve.train[-1], min(curve.train)
    start = math.log(run.stories.vocab_size)
    if not (math.isnan(last) or last > 1.2 * best or (run.steps > 100 and last > 0.95 * start)):
        return None
    text = f"diverged: train loss {last:.2f} after {best:.2f}"
    rate = "muon_learning_rate" if run.optimizer == "muon" else "learning_rate"
    half = getattr(run.settings, rate) / 2
    return Complaint(text, f"--{rate}={half:g}", 0.9)


def leak_suspected(run: Run, law: Law, curve: Curve) -> Complaint | None:
    _, low, _, _ = run.expected(law)
    bits, few = curve.bits[-1], run.tokens < law.fitted["tokens"][0]
    if few or not bits < 0.75 * low:
        return None
    text = f"validation {bits:.3f} is too good: a leak?"
    if not law.has_level(run.stories.text):
        text = f"validation {bits:.3f} is far below TinyStories': a simpler text, or a leak?"
    return Complaint(text, "evaluate.py --leak=True", 0.95)


def overfitted(run: Run, law: Law, curve: Curve) -> Complaint | None:
    best = curve.lowest
    if not curve.val[-1] > 1.02 * curve.val[best]:
        return None
    text = f"overfits: validation rose from {curve.val[best]:.2f} at step "
    text += f"{curve.steps[best]:,} to {curve.val[-1]:.2f}"
    more = replace(run, stories=replace(run.stories, tokens=run.tokens))
    return Complaint(text, "more stories", 1 - more.loss(law) / curve.bits[-1], more.loss(law))


def wide_gap(run: Run, law: Law, curve: Curve) -> Complaint | None:
    gap, size = 1 - curve.train[-1] / curve.val[-1], run.size["parameters"]
    expected = law.train_gap(size, run.tokens, run.different)
    if overfitted(run, law, curve) or not gap >= max(0.1, 2 * expected):  # it may be NaN
        return None
    more = replace(run, stories=replace(run.stories, tokens=run.tokens))
    text = f"train is {100 * gap:.0f} % below validation, not {100 * expected:.0f} %"
    return Complaint(text, "more stories", gap / 2, more.loss(law))


def still_falling(run: Run, law: Law, curve: Curve) -> Complaint | None:
    if len(curve.val) < 3 or curve.lowest != len(curve.val) - 1:
        return None
    s = run.settings
    constant = not s.decay_lr or s.min_lr > 0.3 * s.learning_rate
    fall = 1 - curve.val[-1] / curve.val[-2]
    pace = fall / max(1e-9, 1 - curve.steps[-2] / curve.steps[-1])
    if not (constant and fall > 0.003) and pace < 0.6:
        return None
    longer = replace(run, steps=4 * run.steps)
    text = f"still falling: {100 * fall:.1f} % since step {curve.steps[-2]:,}"
    gain = 1 - longer.loss(law) / run.loss(law)
    return Complaint(text, f"{longer.steps:,} steps", gain, longer.loss(law))


def behind_the_law(run: Run, law: Law, curve: Curve) -> Complaint | None:
    loss, _, high, _ = run.expected(law)
    bits = min(curve.bits)
    if not law.is_own_text(run.stories.text) or not bits > 1.1 * high:
        return None
    text = f"lowest validation {bits:.3f} is {100 * (bits / loss - 1):.0f} % above the law"
    gain = 1 - loss / bits
    return Complaint(text, "look at the rates; python plan.py", gain, loss)


EVER: Sequence[Callable[[Run, Law, Curve], Complaint | None]] = (
    diverged,
    leak_suspected,
    overfitted,
)
FINISHED = (*EVER, wide_gap, still_falling, behind_the_law)  # once the rate has decayed


# What is printed ----------------------------------------------------------------------------


def begins_trained(run: Run, curve: Curve | None) -> bool:
    """Whether a run begins with trained weights: the law is about random ones."""
    if curve and curve.val and curve.steps[0] == 0:
        return curve.val[0] < 0.8 * math.log(run.stories.vocab_size)
    return run.settings.init_from not in ("scratch", "resume")


def complaints(run: Run, law: Law, curve: Curve | None = None) -> list[Complaint]:
    """Everything that is wrong, the worst first."""
    found = [complain(run, law) for complain in COMPLAINTS]
    if curve and curve.val and curve.steps[-1] > 0:
        finished = curve.steps[-1] >= run.steps
        found += [complain(run, law, curve) for complain in (FINISHED if finished else EVER)]
    return sorted(filter(None, found), key=lambda c: -c.gain)


def report(name: str, run: Run, law: Law, curve: Curve | None = None) -> list[str]:
    """At most LINES lines: what is trained, what to expect, and what is wrong."""
    size, stories = run.size, run.stories
    table = 1 - size["block_parameters"] / size["parameters"]
    loss, low, high, extrapolated = run.expected(law)
    density = stories.bytes_per_token
    gap = law.train_gap(size["parameters"], run.tokens, run.different)
    val = nats(loss, density)
    known = f"{run.passes:.2g} passes" if stories.tokens else "of unknown stories"
    lines = [
        f"{name}: {short_count(size['parameters'])} parameters, {100 * table:.0f} % for "
        f"{stories.vocab_size:,} ids",
        f"{run.steps:,} steps of {run.step:,} tokens: {short_count(run.tokens)}, {known}, "
        f"{run.tokens / size['parameters']:.2g} per parameter",
        f"nats per token: {math.log(stories.vocab_size):.2f} at the start; at the end train "
        f"{val * (1 - gap):.2f}, validation {val:.2f}",
        f"bits per byte: {loss:.3f} [{low:.3f}-{high:.3f}]" + ", extrapolated" * extrapolated,
    ]
    if not law.has_level(stories.text):
        lines[-1] += ", if it were TinyStories"
    if curve and curve.val:
        at = f" at step {curve.steps[-1]:,}" if curve.steps[-1] < run.steps else ""
        lines[-1] += f"; measured {curve.bits[-1]:.3f}{at}"
    if begins_trained(run, curve):
        lines[2:] = ["it begins with trained weights; the law is about random ones"]
        return wrapped_lines(lines)
    best, found = planned(run, law), complaints(run, law, curve)
    praise = "nothing is wrong with it"
    if (other := best.loss(law)) < (1 - WORTH) * loss:
        praise = "no single setting is wrong"
        shape = f"{best.n_layer} layers of {best.n_embd}, {best.stories.vocab_size:,} ids"
        lines.append(f"planned, this compute gives {other:.3f}: {RECIPE}, {shape}")
    for line in [f"{number}. {c.line()}" for number, c in enumerate(found, 1)] or [praise]:
        if len(wrapped_lines([*lines, line])) > LINES:
            break
        lines.append(line)
    return wrapped_lines(lines)


def wrapped_lines(lines: Sequence[str]) -> list[str]:
    return [part for line in lines for part in wrapped(line, "   ").splitlines()]


def last_line(s: Any, data: Dataset, steps: int, folder: Path) -> str:
    """The worst complaint about a finished run that began with random weights, where it is grave.

    Args:
        s: train.py's Settings.
        folder: of the run.
    """
    with contextlib.suppress(UserError, FileNotFoundError):  # advice is no reason to fail
        law, curve = read_law(), read_curve(folder / "log.csv")
        run = run_of(s, stories_in(data, law), steps)
        if not curve or not steps or begins_trained(run, curve):
            return ""
        found = complaints(run, law, curve)
        if found and found[0].gain >= GRAVE:
            unit = "" if found[0].loss is None else " bits per byte"
            said = wrapped(f"advice: {found[0].line()}{unit}; more with:")
            return f"\n{said}\n{command_text('python', 'plan.py', f'--check={s.out_dir}')}"
    return ""
