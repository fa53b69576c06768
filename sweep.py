"""Train runs that differ in a few settings, and compare their validation losses.

    python sweep.py config/x.py --n_head=2,4 --n_layer=2,4    four combinations
    python sweep.py config/x.py --learning_rate=1e-3..1e-2 --num_random_runs=9
                                                  nine values, log-uniform
    python sweep.py config/x.py --vocab_size=512,2048         two new datasets
    python sweep.py --source=a.txt --vocab_size=512,2048 --tokenizer=bpe

Each setting of train.py and prepare.py (see their --help) takes one value or
several. A setting of prepare.py makes a new dataset: the run's with that change
or, with --source, prepare.py's defaults with it. The same command resumes a
sweep that was stopped and retries failed runs. out/sweeps/<name>/ holds
results.csv, plots and runs.
"""

import csv
import io
import itertools
import math
import random
import re
import shutil
import sys
import textwrap
import time
from dataclasses import dataclass, fields
from pathlib import Path

from configurator import RangedSettings, UserError, check, configure, normalize, parse, start
from tinystories.ranges import Count, Name, Seed


@dataclass
class Settings(RangedSettings):
    name: Name | None = None  # None: config and swept settings
    out_dir: Name = "out/sweeps"  # the folder of all sweeps
    overwrite: bool = False  # replace an existing sweep
    num_random_runs: Count | None = None  # random combinations; None: try all
    sweep_seed: Seed = 1337  # draws the combinations


if {"--help", "-h"} & set(sys.argv):
    configure(Settings)  # answers before the slow imports

import prepare
import train
from model import GPTConfig
from tinystories import dataset, figures
from tinystories.files import atomic_write, only_writer, read_json, short_path, write_json
from tinystories.processes import ScriptRunner, print_rank0
from tinystories.run import MODEL_SETTINGS, load_model, run_folder
from tinystories.terminal import (
    SCREEN,
    command_text,
    counted,
    progress,
    right_aligned,
    short_count,
    time_taken,
    wrapped,
)

AllSettings = type("AllSettings", (Settings, train.Settings, prepare.Settings), {})
SWEEP_NAMES = {field.name for field in fields(Settings)}
PREPARE_NAMES = {field.name for field in fields(prepare.Settings)} - {"dataset", "overwrite"}
RESULT = {  # of a finished run: the column of the table, and its format
    "val_bits_per_byte": ("bits/byte", "{:.4f}".format),
    "val_loss": ("val", "{:.4f}".format),
    "train_loss": ("train", "{:.4f}".format),
    "step": ("steps", str),
    "tokens": ("tokens", short_count),
    "minutes": ("time", lambda minutes: time_taken(60 * minutes)),
    "parameters": ("params", short_count),
}
LEAST_NEEDED = ("train_loss", "tokens", "val_loss", "step", "parameters", "minutes")  # on a screen


@dataclass
class Trial:
    """One combination of settings, and the run that tries it."""

    folder: Path
    swept: dict  # the values that distinguish it from the other trials
    training: dict  # settings of train.py
    preparing: dict  # settings of prepare.py; empty where the dataset is used as it is

    def row(self, outcome: dict) -> dict:
        """A row of results: the swept values, and the entries of RESULT or an `error`."""
        return outcome | {"run": self.folder.name} | self.swept


def parse_command_line(argv: list[str]) -> tuple[Settings, list[str], dict[str, list | tuple]]:
    """The sweep's own settings, the config files, and the values of all other settings."""
    sweep_settings, configs, values = {}, [], {}
    for argument in argv:
        name, _, text = argument.removeprefix("--").partition("=")
        if not argument.startswith("-"):
            configs.append(argument)
        elif name in SWEEP_NAMES:
            sweep_settings |= parse(Settings, [argument]).overrides
        else:
            values[name] = read_values(name, text)
    return Settings(**sweep_settings), configs, values


def read_values(name: str, text: str) -> list | tuple:
    """The value of `--name=text`: a list for `a,b,c`, the two ends for the range `lo..hi`."""

    def value(text: str):
        return check(AllSettings, {name: text}, "--")[name]

    if ".." in text:
        low, high = map(value, text.split("..", 1))
        if {type(low), type(high)} <= {int, float}:  # else two dots in a text
            if not 0 < low <= high:
                raise UserError(f"--{name}={text}: a range needs 0 < lo <= hi")
            return low, high
    return [value(part) for part in text.split(",")]


def combinations(values: dict[str, list | tuple], s: Settings) -> list[dict]:
    """All combinations of the listed values, or a random sample of them and of the ranges."""
    ranges = {name: ends for name, ends in values.items() if isinstance(ends, tuple)}
    lists = {name: listed for name, listed in values.items() if name not in ranges}
    found = [dict(zip(lists, listed, strict=True)) for listed in itertools.product(*lists.values())]
    if s.num_random_runs is None:
        if ranges:
            raise UserError(f"{next(iter(ranges))} is a range; say how many: --num_random_runs=N")
        return found
    rng = random.Random(s.sweep_seed)
    rng.shuffle(found)  # a larger sample begins with a smaller one
    repeated = itertools.cycle(found) if ranges else found
    return [
        listed | {name: sample_log_uniform(ends, rng) for name, ends in ranges.items()}
        for listed in itertools.islice(repeated, s.num_random_runs)
    ]


def sample_log_uniform(ends: list | tuple, rng: random.Random) -> float:
    """A number between two, uniform on a logarithmic scale; an integer between integers."""
    low, high = ends
    if isinstance(low, int):  # an integer n represents [n, n + 1) on the log scale
        number = int(math.exp(rng.uniform(math.log(low), math.log(high + 1))))
    else:
        number = float(f"{math.exp(rng.uniform(math.log(low), math.log(high))):.3g}")
    return min(max(number, low), high)  # rounding may have passed an end


def make_trials(values: dict, s: Settings, folder: Path, default_dataset: str) -> list[Trial]:
    """The trials of a sweep, each once; `default_dataset` is used where `values` name none."""
    trials, prepared = {}, {}
    for combination in combinations(values, s):
        swept = {name: combination[name] for name, listed in values.items() if len(listed) > 1}
        base = combination.get("dataset", default_dataset)
        preparing = dataset_settings(combination, base)
        training = {name: v for name, v in combination.items() if name not in PREPARE_NAMES}
        training["dataset"] = name = preparing.get("dataset", base)
        if prepared.setdefault(name, preparing) != preparing:
            raise UserError(
                f"different stories would share the dataset {name}, which is named after their "
                "file; rename one, or sweep prepared ones with --dataset"
            )
        path = folder / label(swept)
        trial = trials.setdefault(path, Trial(path, swept, training, preparing))
        if trial.swept != swept:
            raise UserError(f"two runs would share the folder {path}; choose clearer names")
    return list(trials.values())


def dataset_settings(combination: dict, base: str) -> dict:
    """The settings of prepare.py for a combination; none where the dataset `base` fits it."""
    changes = {name: value for name, value in combination.items() if name in PREPARE_NAMES}
    if not changes:
        return {}
    if "source" in changes:
        if "dataset" in combination:
            raise UserError("with --source, datasets are named after it; leave out --dataset")
        in_name = changes.keys() & {"source", "tokenizer", "vocab_size"}
        settings = {name: changes.pop(name) for name in in_name}
        base = prepare.Settings(**settings).dataset or base  # named after these three
    else:
        meta = dataset.read_meta(dataset.dataset_folder(base))
        if meta is None:
            raise UserError(
                f"{base} is not prepared, so {next(iter(changes))} cannot change it; prepare it "
                "first, or say with --source (and --tokenizer) what to prepare"
            )
        settings = meta["settings"]
        changes = {name: value for name, value in changes.items() if value != settings.get(name)}
        if not changes:
            return {}
    return settings | changes | {"dataset": "_".join(filter(None, (base, label(changes))))}


def label(values: dict) -> str:
    """Settings as part of a file name: learning_rate=0.001_n_head=4."""
    texts = {name: re.sub(r"[^\w.+-]+", "-", str(value)) for name, value in values.items()}
    return "_".join(f"{name}={text}" for name, text in texts.items())


def open_sweep_folder(folder: Path, fixed: dict, overwrite: bool) -> None:
    """Make a sweep's folder, or check that it holds this sweep; all runs share `fixed`."""
    path = folder / "sweep.json"
    if path.exists() and overwrite:
        shutil.rmtree(folder)
    elif path.exists():
        stored = read_json(path, lambda _: True, "start over with --overwrite=True")
        changed = [x for x in sorted(stored | fixed) if stored.get(x) != fixed.get(x)]
        if changed:
            raise UserError(
                f"{folder} holds a sweep with another {', '.join(changed)}; choose another --name, "
                "or start over with --overwrite=True"
            )
        return
    elif folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} exists and is not a sweep; choose another --name")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, fixed)


def check_validation(datasets: set[str]) -> None:
    """Raises UserError if validation splits differ in their number of stories or bytes."""
    found = {}
    for name in sorted(datasets):
        if meta := dataset.read_meta(dataset.dataset_folder(name)):
            val = meta["splits"]["val"]
            found[val["stories"], val["bytes"]] = name
    if len(found) > 1:
        raise UserError(
            f"{' and '.join(found.values())} hold different validation stories; give all runs "
            "the same source, val_source, val_fraction, clean, and with storybook max_stories"
        )


def run_trial(trial: Trial, configs: list[str], runner: ScriptRunner) -> dict:
    """Train a run, or resume it; its row of results."""
    trial.folder.mkdir(exist_ok=True)
    settings = trial.training | {"out_dir": trial.folder}
    if (trial.folder / "ckpt.pt").exists():
        configs, settings = [], {"init_from": "resume", "out_dir": trial.folder}
    if error := runner.run("train.py", settings, trial.folder / "output.txt", *configs):
        return trial.row({"error": error})
    model, _, state = load_model(trial.folder, "ckpt.pt")
    result = last_losses(trial.folder / "log.csv") | {
        "step": state["progress"]["step"],
        "tokens": state["progress"]["windows"] * model.config.block_size,
        "minutes": round(state["progress"]["seconds"] / 60, 3),
        "parameters": model.count_parameters(),
    }
    write_json(trial.folder / "result.json", result)
    return trial.row(read_result(trial.folder) or {"error": "the loss is not finite"})


def last_losses(path: Path) -> dict:
    """The losses in the last row of a log.csv, which is an evaluation: over all of validation if
    that was measured, since runs of different vocabularies compare only by the same text. Of the
    averaged weights where they are better.
    """
    with open(path, encoding="utf-8", newline="") as file:
        last = list(csv.DictReader(file))[-1]
    losses = {"train_loss": float(last["train_loss"])}
    for name in ("val_bits_per_byte", "val_loss"):
        weights = [float(last[column]) for column in (name, f"ema_{name}") if last.get(column)]
        losses[name] = float(last.get(f"full_{name}") or min(weights))
    return losses


def impossible(trial: Trial, overrides: dict) -> str | None:
    """Why train.py would refuse a trial's settings, `overrides` those of config files."""
    try:
        given = overrides | trial.training
        s = train.Settings(**train.Settings.foreign.translate(train.Settings, given, [])[0])
        GPTConfig(**{name: getattr(s, name) for name in MODEL_SETTINGS})
    except UserError as error:
        return str(error)
    return None


def run_sweep(
    trials: list[Trial], configs: list[str], overrides: dict, folder: Path, swept: list[str]
) -> int:
    """Train what is not finished, write results.csv and plots; 0, or the signal that stopped it."""
    start_time = time.perf_counter()
    rows = [trial.row(result) for trial in trials if (result := read_result(trial.folder))]
    waiting = [trial for trial in trials if trial.folder.name not in {row["run"] for row in rows}]
    finished = f", {len(rows):,} of them finished already" if rows else ""
    print_rank0(wrapped(f"{counted(len(trials), 'run')} in {short_path(folder)}{finished}"))

    def add(trial: Trial, row: dict) -> None:
        rows.append(row)
        write_results(folder / "results.csv", rows, swept)
        print_rank0(wrapped(f"{len(rows)} of {len(trials)}, {trial.folder.name}: {outcome(row)}"))

    for trial in list(waiting):
        if error := impossible(trial, overrides):
            waiting.remove(trial)
            add(trial, trial.row({"error": error}))
    # A line of the screen, which the newest line of the script fills.
    line = "{desc} [{elapsed}<{remaining}]{postfix}"
    counts = {"initial": len(rows), "total": len(trials)}
    with progress(None, "datasets", "runs", bar_format=line, **counts) as bar:
        runner = ScriptRunner(bar)
        errors = {}  # of prepare.py, by dataset
        for name, settings in {t.training["dataset"]: t.preparing for t in waiting}.items():
            if settings and not runner.signal:
                errors[name] = runner.run("prepare.py", settings, folder / "prepare.txt")
                print_rank0(wrapped(f"dataset {name}: {errors[name] or 'ready'}"))
        check_validation({trial.training["dataset"] for trial in trials})
        for trial in waiting:
            if runner.signal:
                break
            bar.set_description_str(f"run {len(rows) + 1} of {len(trials)}")
            error = errors.get(trial.training["dataset"])
            row = trial.row({"error": error}) if error else run_trial(trial, configs, runner)
            if runner.signal and "error" in row:  # stopped, not failed
                break
            add(trial, row)
            bar.update()
    if rows:
        write_results(folder / "results.csv", rows, swept)
        print_rank0(f"\n{results_table(rows, swept)}\n")
        for name in swept:
            figures.plot_sweep(rows, name, folder / f"{name}.png")
        for pair in itertools.combinations(swept, 2):
            figures.plot_sweep_table(rows, pair, folder / f"{'_'.join(pair)}.png")
    if not runner.signal:
        print_ending(rows, folder, time.perf_counter() - start_time)
    return runner.signal


def outcome(row: dict) -> str:
    """A row of results in words."""
    if "error" in row:
        return f"failed: {row['error']}"
    took = f"{counted(row['step'], 'step')} in {time_taken(60 * row['minutes'])}"
    return f"{row['val_bits_per_byte']:.4f} bits per byte after {took}"


def print_ending(rows: list[dict], folder: Path, seconds: float) -> None:
    """Say what was made and what to do with it; raises UserError if no run has finished."""
    best, where = rows[0], short_path(folder)
    if "error" in best:
        raise UserError(f"no run finished; {where}/results.csv says why")
    print_rank0(wrapped(f"best run: {best['run']}, {best['val_bits_per_byte']:.4f} bits per byte"))
    pictures = ", ".join(sorted(path.name for path in folder.glob("*.png")))
    print_rank0(wrapped(f"in {where}: results.csv, {pictures}, and the runs"))
    print_rank0(f"time: {time_taken(seconds)}; generate stories with the best run:")
    print_rank0(command_text("python", "sample.py", f"--out_dir={where}/{best['run']}"))


def read_result(folder: Path) -> dict | None:
    """The result of a finished run; None where it is missing, damaged or not finite."""

    def is_valid(result: dict) -> bool:
        return all(type(result[x]) in (int, float) and abs(result[x]) < 1e300 for x in RESULT)

    try:
        return read_json(folder / "result.json", is_valid, "")
    except (FileNotFoundError, UserError):
        return None


def write_results(path: Path, rows: list[dict], swept: list[str]) -> None:
    """Write results.csv, after sorting the rows by bits per byte, failed runs last."""
    rows.sort(key=lambda row: row.get("val_bits_per_byte", math.inf))
    text = io.StringIO()
    names = ["run", *swept, *RESULT, "error"]
    writer = csv.DictWriter(text, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    atomic_write(path, text.getvalue().encode())


def results_table(rows: list[dict], swept: list[str]) -> str:
    """The rows for a screen of 80 columns: columns are left out and errors shortened to fit."""
    lines: list[str] = []
    for left_out in range(len(LEAST_NEEDED) + 1):
        shown = {name: RESULT[name] for name in RESULT if name not in LEAST_NEEDED[:left_out]}
        cells = [[*swept, *(heading for heading, _ in shown.values())]]
        for row in rows:
            results = [write(row[name]) for name, (_, write) in shown.items() if name in row]
            cells.append([*(str(row[name]) for name in swept), *results])
        lines = right_aligned(cells)
        if len(lines[0]) <= SCREEN:
            break
    for i, row in enumerate(rows, 1):
        if "error" in row:
            lines[i] += "  " + textwrap.shorten(row["error"], max(25, 78 - len(lines[i])))
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    argv = normalize(argv, AllSettings)
    s, configs, values = parse_command_line(argv)
    from_files = parse(train.Settings, configs)
    if "eval_only" in from_files.overrides | values:
        raise UserError("eval_only cannot be used in a sweep, which trains")
    swept = [name for name, listed in values.items() if len(listed) > 1]
    if not swept:
        raise UserError("nothing is swept; give several values, as in --learning_rate=3e-4,1e-3")
    fixed = from_files.overrides | {n: listed[0] for n, listed in values.items() if n not in swept}
    name = s.name or "_".join([*(Path(config).stem for config in configs), *swept])
    folder = run_folder(s.out_dir) / name
    trials = make_trials(values, s, folder, fixed.get("dataset", train.Settings.dataset))
    for trial in trials:
        data = dataset.dataset_folder(trial.training["dataset"])
        if not (trial.preparing or (data / "train.bin").is_file()):
            raise UserError(dataset.missing_dataset_message(data, from_files.docs))
        if "full_eval" not in {*fixed, *swept}:
            trial.training["full_eval"] = True  # a short run would measure a part of validation
    with only_writer(folder):
        open_sweep_folder(folder, fixed, s.overwrite)
        number = run_sweep(trials, configs, from_files.overrides, folder, swept)
    if number:
        kept = [word for word in argv if not word.startswith("--overwrite")]  # would delete it
        print_rank0(f"stopped; resume with\n{command_text('python', 'sweep.py', *kept)}")
        sys.exit(128 + number)


if __name__ == "__main__":
    start(main, sys.argv[1:])
