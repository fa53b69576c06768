"""Train runs that differ in a few settings, and tell which was best.

    python sweep.py config/x.py --n_head=2,4,8 --learning_rate=1e-3,3e-3
    python sweep.py config/x.py --learning_rate=3e-4..1e-2 --random=20
    python sweep.py config/x.py --vocab_size=512,2048 --minutes_each=5

It takes all settings of train.py and prepare.py (see their --help), each with
one value or several. Every combination is a run. With --random=N up to N are
drawn, and a setting may be a range, drawn from evenly on a logarithmic scale;
equal draws are one run.

Settings of prepare.py change those that the run's dataset was prepared with or,
beside --source, prepare.py's defaults; datasets so changed are prepared.

out/sweeps/NAME/ holds results.csv, a picture for each swept setting, and the
runs. The same command goes on with a sweep that was stopped: finished runs are
kept, half-done ones resumed, failed ones tried again. Table and pictures show
the runs that the command asks for.
"""

import csv
import io
import itertools
import json
import math
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
from dataclasses import dataclass, fields
from pathlib import Path

from configurator import ROOT, UserError, check, parse, start


@dataclass
class Settings:
    # Sweep
    name: str | None = None  # its folder; None: named after the config and what is swept
    out_dir: str = "out/sweeps"  # where the folders of sweeps lie
    overwrite: bool = False  # start anew a sweep that is there
    # Runs
    minutes_each: float | None = None  # of training; None: as train.py's settings say
    random: int | None = None  # draw so many of the combinations, or from ranges lo..hi
    random_seed: int = 1337  # of that drawing; --seed is the one of the runs

    def __post_init__(self):
        if self.name == "" or not self.out_dir:
            raise UserError("name and out_dir must not be empty")
        if self.random is not None and self.random < 1:
            raise UserError(f"random is {self.random}; it must be at least 1")


if __name__ == "__main__":  # --help answers before the slow imports
    run(lambda argv: parse(Settings, [word for word in argv if word in ("--help", "-h")]))

from tqdm import tqdm

import prepare
import train
from model import GPT, GPTConfig
from tinystories import dataset as tokens
from tinystories import figures
from tinystories import run as checkpoint
from tinystories.log import say, short


class Known(Settings, train.Settings, prepare.Settings):
    """Declares all that may stand on a sweep's command line."""


OWN = {field.name for field in fields(Settings)}
DATA = {field.name for field in fields(prepare.Settings)} - {"dataset", "overwrite"}
NAMED = ("source", "tokenizer", "vocab_size")  # these prepare.py puts into a dataset's name
RESULT = {  # of a finished run: its heading in the table, and how it is written there
    "val_bits_per_byte": ("bits/byte", "{:.4f}".format),
    "val_loss": ("val", "{:.4f}".format),
    "train_loss": ("train", "{:.4f}".format),
    "step": ("steps", str),
    "tokens": ("tokens", short),
    "minutes": ("min", "{:.1f}".format),
    "parameters": ("params", short),
}


@dataclass
class Run:
    """One combination of settings."""

    folder: Path
    swept: dict  # the values that tell it from the other runs
    training: dict  # what the command line says to train.py
    data: dict  # what it says to prepare.py; empty where the dataset is there as it is


# What to run --------------------------------------------------------------------------------


def read(argv: list[str]) -> tuple[Settings, list[str], dict[str, list | tuple]]:
    """A command line: the sweep's own settings, the config files, and the values of all others.

    Raises:
        UserError: a name that is no setting, a value of the wrong type, two that contradict.
    """
    own, configs, given = {}, [], {}
    for argument in argv:
        name, equals, text = argument.removeprefix("--").partition("=")
        if not argument.startswith("-"):
            configs.append(argument)
        elif name in OWN or not equals or not argument.startswith("--"):
            own |= parse(Settings, [argument])[0]
        else:
            given[name] = read_values(name, text)
    s = Settings(**own)
    if s.minutes_each is not None:
        if "max_minutes" in given:
            raise UserError("minutes_each and max_minutes mean the same; give one of them")
        given["max_minutes"] = [s.minutes_each]
    return s, configs, given


def read_values(name: str, text: str) -> list | tuple:
    """What stands behind `--name=`: a list for `a,b,c`, the two ends for `lo..hi`."""

    def value(text: str):
        return check(Known, {name: text}, "--")[name]

    if ".." in text:
        low, high = map(value, text.split("..", 1))
        if {type(low), type(high)} <= {int, float}:  # else two dots in a text
            if not 0 < low <= high:
                raise UserError(f"--{name}={text}: a range rises, from above 0")
            return low, high
    return [value(part) for part in text.split(",")]


def combinations(given: dict[str, list | tuple], s: Settings) -> list[dict]:
    """All combinations of the listed values, or what chance draws of them and of the ranges.

    A larger --random begins with the runs of a smaller one.
    """
    ranges = {name: ends for name, ends in given.items() if isinstance(ends, tuple)}
    lists = {name: values for name, values in given.items() if name not in ranges}
    found = [dict(zip(lists, values, strict=True)) for values in itertools.product(*lists.values())]
    if s.random is None:
        if ranges:
            raise UserError(
                f"{next(iter(ranges))} is a range; --random=N says how many runs to draw"
            )
        return found
    chance = random.Random(s.random_seed)
    chance.shuffle(found)
    if not ranges:
        return found[: s.random]
    return [
        listed | {name: draw(*ends, chance) for name, ends in ranges.items()}
        for listed in itertools.islice(itertools.cycle(found), s.random)
    ]


def draw(low: float, high: float, chance: random.Random) -> float:
    """A number from low to high, evenly on a logarithmic scale; a whole one between whole ones."""
    if isinstance(low, int):  # each stands for all up to the next
        number = int(math.exp(chance.uniform(math.log(low), math.log(high + 1))))
    else:
        number = float(f"{math.exp(chance.uniform(math.log(low), math.log(high))):.3g}")
    return min(max(number, low), high)  # rounding may have gone past an end


def plan(given: dict, swept: list[str], s: Settings, folder: Path, dataset: str) -> list[Run]:
    """The runs of a sweep, each once; `dataset` serves where the command line names none."""
    runs, datasets = {}, {}
    for values in combinations(given, s):
        own = {name: values[name] for name in swept}
        data = dataset_settings(values, values.get("dataset", dataset))
        training = {name: value for name, value in values.items() if name not in DATA}
        training["dataset"] = (data or values).get("dataset", dataset)
        if datasets.setdefault(training["dataset"], data) != data:
            raise UserError(
                f"different stories would share the dataset {training['dataset']}, which is named "
                "after their file; rename one, or sweep prepared ones with --dataset"
            )
        path = folder / label(own)
        if runs.setdefault(path, Run(path, own, training, data)).swept != own:
            raise UserError(f"two runs would share the folder {path}; choose clearer names")
    return list(runs.values())


def dataset_settings(values: dict, dataset: str) -> dict:
    """What to tell prepare.py for a combination; nothing where `dataset` is as it asks for.

    Raises:
        UserError: it is not clear which stories are meant.
    """
    changes = {name: value for name, value in values.items() if name in DATA}
    if not changes:
        return {}
    if "source" in changes:
        if "dataset" in values:
            raise UserError("with --source, datasets are named after it; leave out --dataset")
        own = {name: changes.pop(name) for name in NAMED if name in changes}
        name = prepare.Settings(**own).dataset
    else:
        meta = tokens.read_meta(tokens.dataset_folder(dataset))
        if meta is None:
            raise UserError(
                f"{dataset} is not prepared, so {next(iter(changes))} is no change of it; prepare "
                "it first, or say with --source (and --tokenizer) what to prepare"
            )
        own, name = meta["settings"], dataset
        changes = {name: value for name, value in changes.items() if value != own.get(name)}
        if not changes:
            return {}
    return own | changes | {"dataset": "_".join(filter(None, (name, label(changes))))}


def label(values: dict) -> str:
    """Settings as part of a file name: learning_rate=0.001_n_head=4."""
    texts = {name: re.sub(r"[^\w.+-]+", "-", str(value)) for name, value in values.items()}
    return "_".join(f"{name}={text}" for name, text in texts.items())


def open_sweep(folder: Path, fixed: dict, overwrite: bool) -> None:
    """Make a sweep's folder, or see that the sweep which is there is this one.

    Args:
        fixed: the settings that all runs share.

    Raises:
        UserError: the folder holds something else.
    """
    path = folder / "sweep.json"
    if path.exists() and not overwrite:
        if changed := sorted({name for name, _ in read_json(path).items() ^ fixed.items()}):
            raise UserError(
                f"{folder} holds a sweep with another {', '.join(changed)}; choose another --name, "
                "or start over with --overwrite=True"
            )
        return
    if path.exists():
        shutil.rmtree(folder)
    elif folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} is there and holds no sweep; choose another --name")
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write(path, json.dumps(fixed, indent=2).encode())


# Running ------------------------------------------------------------------------------------


class Child:
    """Runs one script at a time, and hands on to it the signals that come.

    train.py saves and ends at the first, and quits at the second.
    """

    def __init__(self, bar: tqdm):
        self.bar = bar  # shows the script's last line
        self.process = None
        self.signal = 0  # the first that came
        numbers = [signal.SIGINT, signal.SIGTERM]
        hangup = getattr(signal, "SIGHUP", None)  # comes when a terminal is closed
        if hangup and signal.getsignal(hangup) != signal.SIG_IGN:  # as nohup has it
            numbers.append(hangup)
        for number in numbers:
            signal.signal(number, self.hand_on)

    def hand_on(self, number: int, _frame=None) -> None:
        self.signal = self.signal or number
        if self.process and os.name == "posix":  # on Windows, Ctrl-C reaches the script by itself
            self.process.send_signal(number)

    def run(self, script: str, settings: dict, output: Path, *configs: str) -> str | None:
        """Run a script to its end, and append what it says to `output`.

        Should this process be killed, the script ends as soon as it has something to say.

        Returns:
            None if it went well, else its last line, which says what did not.
        """
        options = [f"--{name}={value}" for name, value in settings.items()]
        last = ""
        with open(output, "a", encoding="utf-8", buffering=1) as file:
            self.process = subprocess.Popen(
                [sys.executable, ROOT / script, *configs, *options],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
                errors="replace",
                start_new_session=True,  # or a terminal's Ctrl-C would reach it twice
            )
            if self.signal:  # came while it started
                self.hand_on(self.signal)
            for line in self.process.stdout:
                file.write(line)
                last = line.strip() or last
                self.bar.set_postfix_str(last)
            status = self.process.wait()
        self.process = None
        if status < 0:
            return f"ended by signal {-status} after: {last}"
        return last.removeprefix(f"{script}: ") if status else None


def check_validation(datasets: set[str]) -> None:
    """Raises UserError where datasets hold different validation stories."""
    found = {}
    for dataset in sorted(datasets):
        if meta := tokens.read_meta(tokens.dataset_folder(dataset)):
            val = meta["splits"]["val"]
            found[val["stories"], val["bytes"]] = dataset
    if len(found) > 1:
        raise UserError(
            f"{' and '.join(found.values())} hold different validation stories, so bits per byte "
            "would not compare; source, val_source, val_fraction and clean must be the same for "
            "all runs, and max_stories too where the source is storybook"
        )


def train_one(r: Run, configs: list[str], child: Child) -> dict:
    """Train a run, or go on with it; its row of results."""
    r.folder.mkdir(exist_ok=True)
    settings = r.training
    if (r.folder / "ckpt.pt").exists():
        configs, settings = [], {"init_from": "resume"}
    settings = settings | {"out_dir": r.folder}
    error = child.run("train.py", settings, r.folder / "output.txt", *configs)
    if error:
        return row_of(r, error=error)
    reached = result(r.folder)
    if not math.isfinite(reached["val_bits_per_byte"]):
        return row_of(r, error="the trained model's loss is not finite")
    atomic_write(r.folder / "result.json", json.dumps(reached, indent=2).encode())
    return row_of(r, **reached)


# Results ------------------------------------------------------------------------------------


def result(folder: Path) -> dict:
    """What a run that trained to its end has reached; RESULT names the entries."""
    with open(folder / "log.csv", encoding="utf-8", newline="") as file:
        evaluation = [row for row in csv.DictReader(file) if row["val_loss"]][-1]
    state = checkpoint.load(folder / "ckpt.pt")
    progress, shape = state["progress"], state["model_config"]
    return {
        "val_bits_per_byte": float(evaluation["val_bits_per_byte"]),
        "val_loss": float(evaluation["val_loss"]),
        "train_loss": float(evaluation["train_loss"]),
        "step": progress["step"],
        "tokens": progress["windows"] * shape["block_size"],
        "minutes": round(progress["seconds"] / 60, 3),
        "parameters": GPT(GPTConfig(**shape)).count_parameters(),
    }


def read_json(path: Path) -> dict:
    """What a file of the sweep holds."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        again = "start over with --overwrite=True" if path.name == "sweep.json" else "delete it"
        raise UserError(f"{path} is damaged; {again}") from None


def row_of(r: Run, **outcome) -> dict:
    """A run's row of results: its swept values, and what it reached or its `error`."""
    return {"run": r.folder.name} | r.swept | outcome


def best_first(rows: list[dict]) -> list[dict]:
    """Rows sorted by bits per byte, runs that failed at the end."""
    return sorted(rows, key=lambda row: row.get("val_bits_per_byte", math.inf))


def in_words(row: dict) -> str:
    """What came of a run."""
    if "error" in row:
        return f"failed: {row['error']}"
    bits, steps, minutes = row["val_bits_per_byte"], row["step"], row["minutes"]
    return f"{bits:.4f} bits per byte after {steps:,} steps, {minutes:.1f} minutes"


def write_results(path: Path, rows: list[dict], swept: list[str]) -> None:
    """Write results.csv."""
    text = io.StringIO()
    writer = csv.DictWriter(text, ["run", *swept, *RESULT, "error"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    atomic_write(path, text.getvalue().encode())


def table(rows: list[dict], swept: list[str]) -> str:
    """The rows for a screen of 80 columns; the reasons of failures are cut to fit it."""
    lines = [[*swept, *(heading for heading, _ in RESULT.values())]]
    for row in rows:
        results = [write(row[name]) for name, (_, write) in RESULT.items() if name in row]
        lines.append([*(str(row[name]) for name in swept), *results])
    widths = [max(map(len, column)) for column in itertools.zip_longest(*lines, fillvalue="")]
    text = ["  ".join(map(str.rjust, cells, widths)) for cells in lines]
    for i, row in enumerate(rows, 1):
        if "error" in row:
            text[i] += "  " + textwrap.shorten(row["error"], max(25, 78 - len(text[i])))
    return "\n".join(text)


def work(runs: list[Run], configs: list[str], folder: Path, swept: list[str]) -> int:
    """Train what is not finished, and keep results.csv and the pictures.

    Returns:
        the signal that stopped it, or 0.

    Raises:
        UserError: the validation stories are not the same for all, or no run finished.
    """
    done = [r for r in runs if (r.folder / "result.json").exists()]
    rows = best_first([row_of(r, **read_json(r.folder / "result.json")) for r in done])
    waiting = [r for r in runs if r not in done]
    say(f"{len(runs)} runs in {folder}, {len(done)} of them finished already")
    with tqdm(total=len(runs), initial=len(done), unit="run", disable=None) as bar:
        child = Child(bar)
        unprepared = {}  # the reasons, by dataset
        for dataset, data in {r.training["dataset"]: r.data for r in waiting if r.data}.items():
            if not child.signal:
                unprepared[dataset] = child.run("prepare.py", data, folder / "prepare.txt")
                say(f"dataset {dataset}: {unprepared[dataset] or 'ready'}")
        check_validation({r.training["dataset"] for r in runs})
        for r in waiting:
            if child.signal:
                break
            reason = unprepared.get(r.training["dataset"])
            row = row_of(r, error=reason) if reason else train_one(r, configs, child)
            if child.signal and "error" in row:  # stopped, not failed
                break
            rows = best_first([*rows, row])
            write_results(folder / "results.csv", rows, swept)
            say(f"{len(rows)}/{len(runs)} {r.folder.name}: {in_words(row)}")
            bar.update()
    if rows:
        write_results(folder / "results.csv", rows, swept)
        say(f"\n{table(rows, swept)}\n")
        for name in swept:
            figures.draw_sweep(rows, name, folder / f"{name}.png")
    if not child.signal and all("error" in row for row in rows):
        raise UserError(f"no run finished; {folder / 'results.csv'} says why")
    return child.signal


def go_on(argv: list[str]) -> str:
    """The command that goes on with a sweep; --overwrite would delete it."""
    kept = [word for word in argv if not word.startswith("--overwrite=")]
    return f"python sweep.py {shlex.join(kept)}"


def main(argv: list[str]) -> None:
    s, configs, given = read(argv)
    in_files, docs = parse(train.Settings, configs)
    if "eval_only" in in_files | given:
        raise UserError("eval_only has no place in a sweep, which trains")
    swept = [name for name, values in given.items() if len(values) > 1]
    if not swept:
        raise UserError("nothing is swept; give several values, as in --learning_rate=3e-4,1e-3")
    fixed = in_files | {name: values[0] for name, values in given.items() if name not in swept}
    name = s.name or "_".join([*(Path(config).stem for config in configs), *swept])
    folder = checkpoint.run_folder(s.out_dir) / name
    runs = plan(given, swept, s, folder, fixed.get("dataset", train.Settings.dataset))
    for r in runs:
        dataset = tokens.dataset_folder(r.training["dataset"])
        if not (r.data or (dataset / "train.bin").is_file()):
            raise UserError(train.not_prepared(dataset, docs))
    open_sweep(folder, fixed, s.overwrite)
    number = work(runs, configs, folder, swept)
    if number:
        say(f"stopped; go on with: {go_on(argv)}")
        sys.exit(128 + number)


if __name__ == "__main__":
    start(main, sys.argv[1:])
