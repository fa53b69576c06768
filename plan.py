"""How large a model for so many minutes; or what is wrong with a run.

    python plan.py --minutes=60                        on TinyStories
    python plan.py --minutes=10 --dataset=mine_bpe4096 on a prepared dataset
    python plan.py --minutes=3 --source=storybook      on prepare.py's source
    python plan.py --check=config/mine.py --n_layer=8  before training
    python plan.py --check=out/mine                    a run that exists

It trains a few steps of three models to see how fast the machine is, asks the
scaling law of docs/scaling.md for the best model, prints it and what to expect
of it, and writes it as a config file for train.py. --check takes a config with
--key=value as train.py does, or a run folder, and prints at most ten lines:
what to expect, and what is wrong, the worst first.
"""

import contextlib
import io
import os
import shlex
import sys
import tempfile
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

from configurator import (
    ROOT,
    RangedSettings,
    UserError,
    configure,
    normalize,
    parse,
    reopen_streams,
    start,
)
from tinystories.ranges import Count, Name, Positive


@dataclass
class Settings(RangedSettings):
    # What to plan
    minutes: Positive = 60.0  # of training
    dataset: Name | None = None  # folder in data/
    source: Name | None = None  # stories of prepare.py; None: tinystories
    output: Name | None = None  # None: config/planned_60min.py, by the minutes
    seconds: Positive = 15.0  # of measuring this machine, about
    # What to check
    check: Name | None = None  # a config file of train.py, or a run folder
    stories: Count | None = None  # as if the dataset had so many
    # Machine
    device: str = "auto"  # auto, cuda, cuda:1, mps, cpu
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"  # precision
    compile: bool | Literal["auto"] = "auto"  # torch.compile; auto: on CUDA

    def __post_init__(self):
        super().__post_init__()
        if self.dataset and self.source:
            raise UserError("give a dataset or a source; a dataset knows its source")
        if self.output and not self.output.endswith(".py"):
            raise UserError(f"output={self.output}: a config file ends in .py")
        if self.stories and not self.check:
            raise UserError("stories is for --check; a plan takes all that its dataset has")

    @staticmethod
    def bare_argument(argument: str) -> dict:
        raise UserError(f"cannot read {argument!r}; to check it: --check={shlex.quote(argument)}")


def parse_plan(argv: list[str]) -> Settings:
    """The settings of a plan, in which no other files are named."""
    for word in normalize(argv, Settings):
        if not word.startswith("--"):
            Settings.bare_argument(word)
    return parse(Settings, argv).settings


if {"--help", "-h", "--version"} & set(sys.argv) or __name__ != "__main__":
    configure(Settings)  # answers before the slow imports
else:
    reopen_streams()
    if not any(word.startswith("--check") for word in sys.argv):
        start(parse_plan, sys.argv[1:])

import bench
import prepare
import train
from tinystories import advice, dataset, device, planning, plantext, run, tokenizer
from tinystories.curve import read_curve
from tinystories.files import atomic_write, settings_path, short_path
from tinystories.law import Law, read_law
from tinystories.planning import Probe, Stories
from tinystories.stories.catalog import is_on_hub
from tinystories.stories.mixture import source_names
from tinystories.terminal import command_text, progress, wrapped

OWN = {field.name for field in fields(Settings)} - {field.name for field in fields(train.Settings)}
AllSettings = type("AllSettings", (Settings, train.Settings), {})
MEMORY_SHARE = 0.7  # of the machine's, for training


# What there is to train on ------------------------------------------------------------------


def find_stories(s: Settings, law: Law) -> Stories:
    """The stories that the settings name: counted where they are prepared, else estimated.

    Raises UserError where there are none.
    """
    if s.dataset:
        return read_stories(s.dataset, law)
    source = s.source or "tinystories"
    size = law.vocab_size_of(source)
    wanted = prepare.Settings(source=source, tokenizer="bpe", vocab_size=size)
    assert wanted.dataset is not None
    if (dataset.dataset_folder(wanted.dataset) / "meta.json").exists():
        return read_stories(wanted.dataset, law)
    return estimate(wanted, law)


def estimate(wanted: prepare.Settings, law: Law) -> Stories:
    """What prepare.py would make, from the sizes of its sources; 0 tokens where nobody knows."""
    published = law.texts.get(wanted.source)
    if published:
        size, count = published["bytes"], int(published["stories"])
    elif any(map(is_on_hub, source_names(wanted.source))):
        size, count = 0, 0
    else:
        opened = prepare.open_sources(wanted)
        size = sum(path.stat().st_size for x in opened for path in x.files.get("train", ()))
        count = sum(x.count("train") or 0 for x in opened)
    if count and wanted.max_stories and wanted.max_stories < count:
        size, count = size * wanted.max_stories / count, wanted.max_stories
    text = wanted.source if published else ""
    vocab_size = wanted.vocab_size or tokenizer.GPT2_VOCAB_SIZE
    density = law.density(vocab_size, text, wanted.tokenizer)
    return Stories(
        dataset=str(wanted.dataset),
        prepare=prepare_command(vars(wanted)),
        text=text,
        tokens=int(size / density),
        stories=count,
        vocab_size=vocab_size,
        bytes_per_token=density,
    )


def read_stories(name: str, law: Law) -> Stories:
    """What a prepared dataset holds; raises UserError if it is missing or damaged."""
    data = dataset.open_dataset(name, block_size=1)
    command = prepare_command(data.meta["settings"] | {"dataset": name}) if data.meta else ""
    return replace(advice.stories_in(data, law, command), dataset=name)


def prepare_command(settings: dict) -> str:
    """The command that prepares a dataset with these settings."""
    given = prepare.Settings(**{k: v for k, v in settings.items() if k in vars(prepare.Settings())})
    names = ("source", "tokenizer", "vocab_size")
    plain = prepare.Settings(**{name: getattr(given, name) for name in names})
    words = [f"--source={given.source}", f"--tokenizer={given.tokenizer}"]
    if given.vocab_size is not None:
        words.append(f"--vocab_size={given.vocab_size}")
    words += [
        f"--{name}={value}"
        for name, value in vars(given).items()
        if value != getattr(plain, name) and name != "overwrite"
    ]
    return shlex.join(["python", "prepare.py", *words])


# Probing ------------------------------------------------------------------------------------


def probe_machine(
    s: Settings, law: Law, stories: Stories, hardware: device.Hardware
) -> tuple[list[Probe], float]:
    """Time training steps: of a small model, a larger one, and of what they lead to.

    Returns the probes, and the bytes of memory that training may take.
    """
    limit = memory_limit(hardware)
    measure = partial(probe, s, stories, hardware, bench.peak_memory(hardware.device))
    with progress(None, "measuring this machine", "models") as bar:
        probes = [measure(2, 64, 128, tokens) for tokens in (1024, 4096)]
        bar.update(2)
        fast = 4096 / probes[1].seconds > 300_000  # tokens/s of a GPU
        with contextlib.suppress(UserError):  # out of memory: the small one has to do
            larger = (6, 384, 256, 32_768) if fast else (4, 256, 128, 1024)
            probes.append(measure(*larger))
        bar.update()
        while len(probes) < 4:
            plan = planning.choose(law, stories, probes, s.minutes, limit)
            at_once = plan.batch_size * plan.block_size
            try:
                probes.append(measure(plan.n_layer, plan.n_embd, plan.block_size, at_once))
            except UserError:  # out of memory
                limit = 0.7 * plan.memory
    return probes, limit


def probe(
    s: Settings,
    stories: Stories,
    hardware: device.Hardware,
    idle: float,
    n_layer: int,
    n_embd: int,
    block_size: int,
    tokens: int,
) -> Probe:
    """Time steps of train.py with one micro-batch of `tokens`, on random ids.

    Args:
        idle: bytes of memory that the process took before there was a model.
    """
    settings = SimpleNamespace(n_layer=n_layer, n_embd=n_embd, block_size=block_size)
    settings.n_head, settings.batch_size = planning.heads_of(n_embd), tokens // block_size
    settings.arch, settings.optimizer, settings.story_mask = "qwen3", "muon", True
    settings.device, settings.dtype, settings.compile = s.device, s.dtype, s.compile
    bench.reset_peak_memory(hardware.device)
    seconds = probe_settings(settings, stories, hardware, s.seconds / 4)
    size = planning.size_of(n_layer, n_embd, stories.vocab_size, block_size)
    flops = float(size["flops_per_token"] * tokens)
    peak = bench.peak_memory(hardware.device)
    place = (n_layer, n_embd, block_size, tokens)
    return Probe(*place, flops, seconds, size["parameters"], peak, idle)


def probe_settings(
    settings: Any, stories: Stories, hardware: device.Hardware, seconds: float
) -> float:
    """Seconds per step of one micro-batch with settings of train.py, on random ids."""
    settings.vocab_size = stories.vocab_size
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        with device.out_of_memory("this model does not fit into this machine's memory"):
            return time_steps(bench.set_up(settings, Path(folder)), hardware, seconds)


def time_steps(r: train.Run, hardware: device.Hardware, seconds: float) -> float:
    """The median time of a step within so many seconds, after a warm-up."""
    bench.timed(hardware.device, train.train_step, r, 1e-3)
    times: list[float] = []
    while sum(times) < seconds:
        times.append(bench.timed(hardware.device, train.train_step, r, 1e-3))
    return sorted(times)[len(times) // 2]


def memory_limit(hardware: device.Hardware) -> float:
    """Bytes that training may take on this machine."""
    if hardware.device.type == "cuda":
        return MEMORY_SHARE * train.torch.cuda.get_device_properties(hardware.device).total_memory
    if "SC_PHYS_PAGES" in getattr(os, "sysconf_names", {}):
        return MEMORY_SHARE * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return 4e9


# The plan -----------------------------------------------------------------------------------


def main(s: Settings) -> None:
    law = read_law()
    stories = find_stories(s, law)
    path = output_path(s)
    hardware = device.select_hardware(s.device, s.dtype)
    probes, limit = probe_machine(s, law, stories, hardware)
    plan = planning.choose(law, stories, probes, s.minutes, limit)
    table = [plan, planning.choose(law, stories, probes, 4 * s.minutes, limit)]
    with contextlib.suppress(UserError):  # half of the time may be too little
        table.insert(0, planning.choose(law, stories, probes, s.minutes / 2, limit))
    print(plantext.screen(plan, table, stories, law, device.describe_machine(hardware)))
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, plantext.config_text(plan, stories, path).encode())
    ready = dataset.dataset_folder(stories.dataset).is_dir()
    print("\n" + wrapped(f"written: {short_path(path)}; train with"))
    if not ready and stories.prepare:
        print(command_text(*shlex.split(stories.prepare)))
    print(command_text("python", "train.py", short_path(path)))


def output_path(s: Settings) -> Path:
    """The config file to write; raises UserError where something else is there already."""
    path = ROOT / os.path.expanduser(s.output or f"config/planned_{s.minutes:g}min.py")
    if path.is_dir():
        raise UserError(f"output={s.output} is a folder; name a file that ends in .py")
    if path.exists() and plantext.MARK not in path.read_text("utf-8", errors="replace"):
        raise UserError(f"{short_path(path)} exists and is no plan; choose another --output")
    return path


# The check ----------------------------------------------------------------------------------


def command(argv: list[str]) -> None:
    if not any(word.startswith("--check") for word in argv):
        return main(parse_plan(argv))
    words = normalize(argv, AllSettings)
    own = [word for word in words if word.removeprefix("--").partition("=")[0] in OWN]
    s = parse(Settings, own).settings
    planning_only = OWN - {"check", "stories", "seconds"}
    if wrong := planning_only & {word[2:].partition("=")[0] for word in own}:
        raise UserError(f"{min(wrong)} is for a plan, not for --check")
    print("\n".join(check(s, [word for word in words if word not in own], read_law())))


def check(s: Settings, others: list[str], law: Law) -> list[str]:
    """What to say of a config file or a run folder.

    Args:
        others: settings of train.py, as --key=value.
    """
    assert s.check is not None
    curve, docs, steps = None, [], 0
    if s.check.endswith(".py"):
        training, _, docs = parse(train.Settings, [s.check, *others])
    else:
        folder = run.run_folder(s.check)
        if not settings_path(folder).is_file():
            raise UserError(f"check={s.check} is no config file (.py) and no run folder")
        words = [f"--{name}={value}" for name, value in run.read_config(folder).items()]
        training = parse(train.Settings, [*words, *others]).settings
        curve = read_curve(folder / "log.csv")
    stories = stories_of(training.dataset, docs, s.stories, law)
    if training.max_minutes:  # a run of minutes that has stopped may have been at its end
        steps = curve.steps[-1] if curve and curve.steps else 0
        steps = steps or min(training.max_iters, steps_in(training, stories, s.seconds))
    done = advice.run_of(training, stories, steps or training.max_iters)
    return advice.report(s.check, done, law, curve)


def stories_of(name: str, docs: list[str], count: int | None, law: Law) -> Stories:
    """The stories of a dataset, or what its config's prepare command would make.

    Args:
        count: as if there were so many stories.
    """
    folder = dataset.dataset_folder(name)
    if folder.is_dir():
        found = read_stories(name, law)
    else:
        words = shlex.split(dataset.prepare_command_in(docs) or "")
        if not words:
            raise UserError(dataset.missing_dataset_message(folder, docs))
        found = estimate(parse(prepare.Settings, words[2:]).settings, law)
    if count:
        return replace(found, tokens=round(count * found.story_tokens), stories=count)
    return found


def steps_in(training: train.Settings, stories: Stories, seconds: float) -> int:
    """How many steps max_minutes allows on this machine, by a probe."""
    hardware = device.select_hardware(training.device, training.dtype)
    left_out = ("dataset", "gradient_accumulation_steps", "init_from", "ema")
    settings = {name: v for name, v in vars(training).items() if name not in left_out}
    with progress(None, "measuring its speed", "models"):
        step = probe_settings(SimpleNamespace(**settings), stories, hardware, seconds)
    step *= training.gradient_accumulation_steps
    return max(1, int(60 * (training.max_minutes or 0) / step))


if __name__ == "__main__":
    start(command, sys.argv[1:])
