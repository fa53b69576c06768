"""Evaluate a trained model: a table, and evaluation.json in the run folder.

    python evaluate.py                          the run saved last
    python evaluate.py out/x                    this run
    python evaluate.py --compare=out/a,out/b    one column per run, and a plot
    python evaluate.py --compare=out/a,hf:NAME  with a model of the HF hub
    python evaluate.py --val_source=FILE        the loss on your own stories
    python evaluate.py --nearest=True           show similar training stories
    python evaluate.py --leak=True --dataset=x  overlap with training stories

Results are cached in evaluation.json and used again with the same settings. The
table goes to standard output, everything else to standard error.
"""

import os
import re
import time
from dataclasses import dataclass, replace
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import Literal

from configurator import ROOT, RangedSettings, UserError, configure, start
from tinystories.evaluation.results import PARTS
from tinystories.ranges import Count, NonNegative, Seed


@dataclass
class Settings(RangedSettings):
    # Runs
    out_dir: str | None = None  # run folder, or hf:NAME; None: the run saved last
    compare: str | None = None  # run folders, RUN@STEP, hf:NAME, with commas
    plot: str = "out/compare.png"  # file for the curves of --compare
    checkpoint: str = "best.pt"  # or ckpt.pt, the newest; or out/RUN/ckpt.pt
    what: str = "loss,pairs,generation,memorization,instruct"  # parts to measure
    overwrite: bool = False  # ignore cached results in evaluation.json
    # Texts
    dataset: str | None = None  # folder in data/; None: the run's own, which hf:NAME shares
    val_source: str | None = None  # your own stories for the loss, not cleaned
    pairs: str | None = None  # file of minimal pairs; None: prompts/pairs.jsonl
    prompts: str | None = None  # file of prompts; None: prompts/prompts.txt
    leak: bool = False  # only measure train/validation overlap
    # Generated stories
    samples_per_prompt: Count = 10  # generated as one batch
    max_chars: Count = 3000  # longer stories are cut off
    temperature: NonNegative = 1.0  # 1 shows the model as it is, 0 is greedy
    seed: Seed = 1337  # random seed of sampling
    nearest: bool = False  # show the 3 closest to training stories
    # A language model as judge
    judge_url: str | None = None  # OpenAI-compatible; adds the part judge
    judge_model: str | None = None  # model name at the endpoint
    # Machine
    device: str = "auto"  # auto, cuda, cuda:1, mps, cpu
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"  # precision

    def __post_init__(self):
        super().__post_init__()
        parts = self.parts()
        if not set(self.what.replace(" ", "").split(",")) <= PARTS.keys():
            raise UserError(f"what={self.what}: choose from {','.join(PARTS)}")
        if self.nearest and "memorization" not in parts:
            raise UserError("nearest is a result of memorization; add memorization to --what")
        if self.compare is not None and self.out_dir is not None:
            raise UserError("give either out_dir or compare")
        if self.compare is not None and not self.compare.strip(", "):
            raise UserError("compare expects run folders, separated by commas")
        if self.compare is not None and self.leak:
            raise UserError("leak is about one dataset; give out_dir or dataset, not compare")
        if Path(self.plot).suffix != ".png":
            raise UserError(f"plot={self.plot}: name a file that ends in .png")
        judge = (self.judge_url is not None, self.judge_model is not None, "judge" in parts)
        if any(judge) and not all(judge):
            raise UserError("the judge needs both judge_url and judge_model")

    @staticmethod
    def bare_argument(argument: str) -> dict:
        """The run folder in `evaluate.py out/x`; raises UserError for anything else."""
        if "," in argument:
            raise UserError(f"several runs are compared with --compare={argument}")
        folder = os.path.expanduser(re.sub(r"@\d+$", "", argument))  # of RUN@STEP, too
        if not argument.startswith("hf:") and not (ROOT / folder).is_dir():
            raise UserError(f"{argument} is no run folder, nor a config file that ends in .py")
        return {"out_dir": argument}

    def parts(self) -> list[str]:
        """What to measure; memorization and the judge need the stories of generation."""
        named = {*self.what.replace(" ", "").split(","), "judge" if self.judge_url else ""}
        named |= {"generation"} if named & {"memorization", "judge"} else set()
        return [part for part in PARTS if part in named]


command_line = configure(Settings)  # answers --help and mistakes before the slow imports

from tinystories import device
from tinystories.evaluation import memorization, validation
from tinystories.evaluation.results import RESULT, Rows, number, read_results, write_results
from tinystories.evaluation.subject import Subject, Unsuitable, open_data, open_subject
from tinystories.files import only_writer, short_path
from tinystories.formats import causal_lm
from tinystories.formats.causal_lm import is_published
from tinystories.run import results_folder, run_folder, run_name, split_step
from tinystories.terminal import (
    command_text,
    distinct_names,
    log_stderr,
    sections_table,
    time_taken,
    wrapped,
)

PATIENCE = 60  # seconds, for another command that evaluates the same run
MODULES = {part: import_module(f"tinystories.evaluation.{name}") for part, name in PARTS.items()}


def main(s: Settings) -> None:
    start_time = time.perf_counter()
    if s.leak:
        print_leak(s)
        return log_stderr(f"time: {time_taken(time.perf_counter() - start_time)}")
    names, plot = run_names(s), ROOT / os.path.expanduser(s.plot)
    check_plot(s, plot)
    hardware = device.select_hardware(s.device, s.dtype)
    for reason in hardware.reasons:
        log_stderr(reason)
    hint = f"lower samples_per_prompt (now {s.samples_per_prompt}), or take --device=cpu"
    with device.out_of_memory(hint):
        evaluated, dataset = {name: {} for name in names}, s.dataset
        for name in sorted(names, key=is_published):  # which take the data of the first run
            settings = replace(s, dataset=dataset) if is_published(name) else s
            subject = open_subject(settings, name, hardware)
            if dataset is None and subject.data:
                dataset = str(subject.data.folder)
            with only_writer(subject.folder / RESULT, patience=PATIENCE):
                evaluated[name] = evaluate(subject)
            del subject  # one model at a time in memory
    print_table(evaluated)
    if s.nearest:
        for name, result in evaluated.items():
            print(f"\n{name}:\n{memorization.nearest_stories(result['memorization'])}")
    if s.compare:
        plot.parent.mkdir(parents=True, exist_ok=True)
        if any(split_step(name)[1] is not None for name in names):
            plot_steps(evaluated, plot)
        else:
            plot_losses(names, plot)
    print_ending(s, evaluated, time.perf_counter() - start_time)


def print_ending(s: Settings, evaluated: dict[str, dict], seconds: float) -> None:
    """Say what was made, how long it took, whether the losses compare, and what to do next."""
    losses = {name: result["loss"] for name, result in evaluated.items() if "loss" in result}
    comparable = {name: loss for name, loss in losses.items() if "altered_stories" not in loss}
    texts = {(loss["stories"], loss["bytes"]) for loss in losses.values()}
    if len(texts) > 1:
        log_stderr("different validation texts: their losses do not compare; use --val_source=FILE")
    elif len({result["run"]["vocabulary"] for result in evaluated.values()}) > 1:
        log_stderr("the vocabularies differ; compare bits per byte, not nats per token")
    files = [f"{short_path(result_folder(name))}/{RESULT}" for name in evaluated]
    files += [s.plot] if s.compare else []
    log_stderr(wrapped(f"results: {', '.join(files)}; time: {time_taken(seconds)}"))
    if not s.nearest and any("memorization" in result for result in evaluated.values()):
        log_stderr("--nearest=True shows the stories that are closest to training stories")
    if len(evaluated) == 1 or (len(texts) == 1 and comparable):
        best = next(iter(evaluated))
        if len(evaluated) > 1:
            best = min(comparable, key=lambda name: losses[name]["per_story"]["bits_per_byte"])
            log_stderr(wrapped(f"the lowest bits per byte, per story: {best}"))
        options = [f"--out_dir={best}"]
        if s.checkpoint != "best.pt" and not is_published(best) and split_step(best)[1] is None:
            options.append(f"--checkpoint={Path(s.checkpoint).name}")
        log_stderr("generate stories with it:\n" + command_text("python", "sample.py", *options))


def run_names(s: Settings) -> list[str]:
    """The runs and published models to evaluate, each once.

    Raises UserError if one is missing or there is none.
    """
    wanted = [s.out_dir]
    if s.compare is not None:
        wanted = filter(None, map(str.strip, s.compare.split(",")))
    names = []
    for name in wanted:
        if name and is_published(name):
            causal_lm.find(name)
            names.append(name)
        else:
            names.append(run_name(name, "best.pt" if name and "@" in name else s.checkpoint))
    return list({result_folder(name): name for name in names}.values())


def result_folder(name: str) -> Path:
    """Where the results about a run or a published model are."""
    return causal_lm.results_folder(name) if is_published(name) else results_folder(name)


def check_plot(s: Settings, plot: Path) -> None:
    """Raises UserError for a plot that cannot be written, before measuring."""
    existing = next(folder for folder in plot.parents if folder.exists())
    if s.compare and (plot.is_dir() or not existing.is_dir()):
        raise UserError(f"plot={s.plot}: no file can be written there")
    if s.compare and plot.exists():
        from tinystories import figures

        figures.check_replaceable(plot)


def plot_steps(evaluated: dict[str, dict], plot: Path) -> None:
    """Plot losses and minimal pairs of kept checkpoints against their steps."""
    from tinystories import keptfigures

    runs = {}
    for name, result in evaluated.items():
        if (step := result["run"]["step"]) is not None:
            runs.setdefault(split_step(name)[0], {})[step] = result
    keptfigures.plot_steps(runs, plot)


def plot_losses(names: list[str], plot: Path) -> None:
    """Plot the losses of the runs that have a log; those of other programs have none."""
    from tinystories import figures

    logged = [name for name in names if (run_folder(name) / "log.csv").is_file()]
    for name in names:
        if name not in logged:
            log_stderr(f"{name} has no log.csv; it is not in the plot")
    if logged:
        figures.plot_runs([run_folder(name) for name in logged], plot)


def print_leak(s: Settings) -> None:
    """Print how much of the validation text is in the training text."""
    out_dir = "" if s.dataset else split_step(run_name(s.out_dir, s.checkpoint))[0]
    data = open_data(s.dataset, run_folder(out_dir), block_size=1)
    if data is None:
        raise UserError(f"the dataset of {out_dir} is missing: name one with --dataset=")
    log_stderr(short_path(data.folder))
    stories = data.val.stories(data.tokenizer)
    if s.val_source:
        sources = validation.user_sources(s.val_source)
        stories = chain.from_iterable(source.stories("val") for source in sources)
    print(memorization.leak_table(stories, data))


def suitable_parts(subject: Subject) -> list[str]:
    """The parts to measure: those that the settings name, or of the default ones, those that suit.

    Raises UserError for a bad file now, not after minutes.
    """
    s, parts = subject.settings, []
    for part in s.parts():
        try:
            MODULES[part].key(subject)
            parts.append(part)
        except Unsuitable as why:
            asked = part == "judge" or (part == "memorization" and s.nearest)
            if s.what != Settings.what or asked:
                raise
            if part != "instruct":  # which few models are trained for
                log_stderr(wrapped(f"without {part}: {why}"))
    return parts


def evaluate(subject: Subject) -> dict:
    """Measure what the settings ask for, except what evaluation.json has with the same key.

    It is written after each part, so that nothing is lost when a later one fails. The result has
    "run", which says which model it is, and an entry for each part.
    """
    s, path = subject.settings, subject.folder / RESULT
    parts = suitable_parts(subject)
    cached = read_results(path, subject.info)
    log_stderr(f"{subject.info['checkpoint']} of {subject.name}")
    kept = []
    for i, part in enumerate(parts, 1):
        module, subject = MODULES[part], replace(subject, stage=f"{i} of {len(parts)}: ")
        result = cached.get(part, {})
        incomplete = result.get("failed")  # stories that have no grades yet
        if s.overwrite or incomplete or result.get("key") != module.key(subject):
            measured = module.measure(subject)
            # The key is taken afterwards, since generation writes the stories that it names.
            cached[part] = {"key": module.key(subject)} | measured
            if part == "generation":
                drop_outdated(cached)
            write_results(path, subject.info, {p: cached[p] for p in PARTS if p in cached})
        else:
            kept.append(part)
    for left in subject.folder.glob("evaluation*.tmp"):  # by a command that was killed
        left.unlink(missing_ok=True)
    if kept:
        log_stderr(f"  from {RESULT} (unless --overwrite=True): {', '.join(kept)}")
    return {"run": subject.info} | {part: cached[part] for part in parts}


def drop_outdated(cached: dict) -> None:
    """Remove the results about stories that were generated before the newest ones."""
    newest = cached["generation"]["key"]["stories_sha256"]
    for part in list(cached):
        if cached[part]["key"].get("stories_sha256", newest) != newest:
            del cached[part]


def print_table(evaluated: dict[str, dict]) -> None:
    """Print a column for each run, and one for real stories, or several where data differ."""
    folders = [
        causal_lm.model_path(name) if is_published(name) else run_folder(name) for name in evaluated
    ]
    names = distinct_names(folders)
    by_heading = dict(zip(names, evaluated.values(), strict=True))
    columns = {name: run_rows(r["run"]) | column(r) for name, r in by_heading.items()}
    real = {}  # metrics of real validation stories: the reference values for generated ones
    for name, result in by_heading.items():
        real[name] = column({p: result[p].get("validation_stories") for p in PARTS if p in result})
    same = all(column == next(iter(real.values())) for column in real.values())
    for name in filter(real.get, real):
        columns["real stories" if same else f"{name}, real"] = real[name]
    print(sections_table(columns))


def run_rows(info: dict) -> Rows:
    """The model in the table."""
    return {
        "Run": {
            "steps": number(info["step"]),
            "parameters": f"{info['parameters'] / 1e6:.2f} M",
            "vocabulary": number(info["vocabulary"]),
            "window, tokens": number(info["block_size"]),
        }
    }


def column(result: dict) -> Rows:
    """The rows of the parts that are there."""
    rows = [MODULES[part].rows(result[part]) for part in PARTS if result.get(part)]
    return {section: values for part in rows for section, values in part.items()}


if __name__ == "__main__":
    start(main, command_line.settings)
