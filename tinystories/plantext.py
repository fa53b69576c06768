"""What a plan looks like: on the screen, and as a config file for train.py."""

import shlex
from pathlib import Path

from tinystories.advice import nats
from tinystories.files import short_path
from tinystories.law import Law
from tinystories.planning import RECIPE, Plan, Stories, ema_of
from tinystories.terminal import counted, short_count, wrapped

MARK = "Planned by plan.py"  # in the docstring of configs, which may be replaced


def screen(
    plan: Plan, table: list[Plan], stories: Stories, law: Law, machine: dict[str, str]
) -> str:
    """What is printed: the machine, the data, the plan, and other times."""
    data = f"{short_count(stories.tokens)} tokens" if stories.tokens else "of unknown size"
    if stories.stories:
        data += f", {counted(stories.stories, 'story', 'stories')}"
    length = f"; a story has {stories.story_tokens:.0f}" if stories.stories else ""
    ema = ema_of(plan.passes)
    averaged = f", weights averaged over {ema} epochs" if ema else ""
    windows = f"{counted(plan.batch_size, 'window')}"
    if plan.accumulation > 1:
        windows += f" x {plan.accumulation} micro-batches"
    rows = [
        ("machine", f"{machine['processor']}; {machine['precision']}"),
        ("data", f"{stories.dataset}, {data}"),
        ("", ""),
        ("model", f"{plan.n_layer} layers, n_embd {plan.n_embd}, {counted(plan.n_head, 'head')}"),
        (
            "parameters",
            f"{plan.parameters / 1e6:.2f}M, {plan.block_parameters / 1e6:.2f}M in layers",
        ),
        (
            "vocabulary",
            f"{stories.vocab_size:,} ids, {stories.bytes_per_token:.2f} bytes per token",
        ),
        ("window", f"{plan.block_size} tokens{length}"),
        ("step", f"{plan.tokens_per_step:,} tokens: {windows}"),
        ("rates", f"Muon {plan.muon_learning_rate:g}, AdamW {plan.learning_rate:g}, linear to 0"),
        ("weight decay", f"0.1{averaged}"),
        ("memory", f"about {plan.memory / 1e9:.1f} GB"),
        ("steps", f"{plan.steps:,} of {plan.seconds_per_step:.2g} s, {passes_text(plan)}"),
        ("loss", loss_text(plan, stories)),
    ]
    lines = [wrapped(f"{name:14}{text}".rstrip(), " " * 14) for name, text in rows]
    lines += [wrapped(note) for note in notes(plan, stories, law)]
    lines += [
        "",
        f"{'minutes':>8}{'parameters':>12}{'tokens':>9}{'passes':>8}{'bits per byte':>24}",
    ]
    for other in table:
        passes = f"{other.passes:.2g}" if stories.tokens else "?"
        loss = f"{other.loss:.3f} [{other.low:.3f}-{other.high:.3f}]"
        lines.append(
            f"{other.minutes:8g}{short_count(other.parameters):>12}"
            f"{short_count(other.tokens):>9}{passes:>8}{loss:>24}"
        )
    return "\n".join(lines)


def passes_text(plan: Plan) -> str:
    """How many tokens a plan trains on, and how often each of them."""
    tokens = f"{short_count(plan.tokens)} tokens"
    return f"{tokens}, {plan.passes:.2g} passes" if plan.passes else f"{tokens}, all different"


def loss_text(plan: Plan, stories: Stories) -> str:
    """The expected validation loss with its interval."""
    per_token = nats(plan.loss, stories.bytes_per_token)
    interval = f"[{plan.low:.3f}-{plan.high:.3f}]"
    return f"{plan.loss:.3f} bits per byte {interval}, {per_token:.2f} nats per token"


def notes(plan: Plan, stories: Stories, law: Law) -> list[str]:
    """What limits the forecast."""
    lines = []
    if plan.extrapolated:
        (least, most), tokens = (law.fitted[name] for name in (law.counts, "tokens"))
        inside = " inside layers" if law.counts == "block_parameters" else ""
        lines.append(
            f"The law is extrapolated: it was measured from {short_count(least)} to "
            f"{short_count(most)} parameters{inside}, and up to {short_count(tokens[1])} tokens."
        )
    if not law.has_level(stories.text):
        lines.append("The loss is that of TinyStories; other stories have another level.")
    return lines


def config_text(plan: Plan, stories: Stories, path: Path) -> str:
    """The config file of a plan."""
    tokens = f"{short_count(plan.tokens)} tokens of training"
    interval = max(10, 10 * round(plan.steps / 150))
    arch, optimizer = RECIPE.split(", ")
    length = f"a story has {stories.story_tokens:.0f}; " if stories.stories else ""
    lines = [
        f'r"""{MARK}: {plan.parameters / 1e6:.2g}M parameters, {plan.minutes:g} minutes.',
        "",
        f"The data:  {stories.prepare or stories.dataset + ', which is prepared'}",
        f"Training:  python train.py {shlex.quote(short_path(path))}",
        "",
        f"Expected: {loss_text(plan, stories)},",
        f"after {plan.steps:,} steps of {plan.seconds_per_step:.2g} s, {passes_text(plan)}.",
        '"""',
        "",
        f"out_dir = {f'out/{path.stem}'!r}",
        f"dataset = {stories.dataset!r}",
        f"gradient_accumulation_steps = {plan.accumulation}",
        f"batch_size = {plan.batch_size}  # x window: {plan.tokens_per_step:,} tokens per step, "
        "few, as suits few tokens",
        f"block_size = {plan.block_size}  # {length}short ones learn faster for minutes",
        "",
        f'arch = "{arch}"  # learns faster than GPT-2\'s block',
        f"n_layer = {plan.n_layer}  # the size with the lowest expected loss after {tokens}",
        f"n_head = {plan.n_head}  # of 64 channels or more",
        f"n_embd = {plan.n_embd}",
        "story_mask = True",
        "",
        f"max_minutes = {plan.minutes:g}",
        "max_iters = 1_000_000  # never reached: max_minutes ends the run",
        f'optimizer = "{optimizer}"  # learns faster than AdamW alone',
        f"muon_learning_rate = {plan.muon_learning_rate:g}  # measured by width",
        f"learning_rate = {plan.learning_rate:g}  # AdamW's, of the embedding and the vectors",
        'lr_schedule = "linear"',
        "cooldown = 0.8",
        "min_lr = 0.0",
        f"warmup_iters = {min(100, max(5, plan.steps // 100))}  # a hundredth of the steps",
        "weight_decay = 0.1  # hardly matters with few passes",
        f"ema = {ema_of(plan.passes)}  # pays where stories are repeated, from three passes on",
        f"eval_interval = {interval}  # about 15 evaluations",
        "eval_tokens = 65_536",
        f"log_interval = {max(1, interval // 10)}",
    ]
    return "\n".join(lines) + "\n"
