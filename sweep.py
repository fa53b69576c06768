"""Train runs that differ in a few settings, and compare their validation losses.

    python sweep.py config/x.py --n_head=2,4 --n_layer=2,4    four combinations
    python sweep.py config/x.py --learning_rate=1e-3..1e-2 --trials=30 --prune
                                       a search by TPE; the range is log-uniform
    python sweep.py config/x.py --learning_rate=1e-3..1e-2 --num_random_runs=9
                                                  nine values, log-uniform
    python sweep.py config/x.py --vocab_size=512,2048         two new datasets
    python sweep.py --source=a.txt --vocab_size=512,2048 --tokenizer=bpe

Each setting of train.py and prepare.py (see their --help) takes one value or
several. A setting of prepare.py makes a new dataset: the run's with that change
or, with --source, prepare.py's defaults with it. The same command resumes a
sweep that was stopped and retries failed runs. Given twice at a time, also with
--device=cuda:1 or on another machine that shares the disk, the two share the
runs. out/sweeps/<name>/ holds results.csv, plots, runs and Optuna's journal.
"""

import importlib.util
import itertools
import math
import random
import re
import sys
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

from configurator import RangedSettings, UserError, check, configure, normalize, parse, start
from tinystories.ranges import Count, Name, Seed


@dataclass
class Settings(RangedSettings):
    name: Name | None = None  # None: config and swept settings
    out_dir: Name = "out/sweeps"  # the folder of all sweeps
    overwrite: bool = False  # replace an existing sweep
    trials: Count | None = None  # combinations that a search (TPE) tries
    num_random_runs: Count | None = None  # random combinations; None: try all
    sweep_seed: Seed = 1337  # draws the combinations
    prune: bool = False  # end runs that are behind the median of the finished ones


def check_optuna() -> None:
    if importlib.util.find_spec("optuna") is None:
        raise UserError("a sweep needs Optuna: pip install optuna")


if {"--help", "-h", "--version"} & set(sys.argv):
    configure(Settings)  # answers before the slow imports
if __name__ == "__main__":
    start(check_optuna)

import prepare
import train
from model import GPTConfig
from tinystories import dataset, ranking, sweepfigures
from tinystories.files import only_writer, short_path, write_json
from tinystories.processes import ScriptRunner, print_rank0
from tinystories.run import MODEL_SETTINGS, load_model, run_folder
from tinystories.study import PATIENCE, Claim, SharedStudy, Trial, open_folder, percent_behind
from tinystories.terminal import command_text, counted, progress, time_taken, wrapped

AllSettings = type("AllSettings", (Settings, train.Settings, prepare.Settings), {})
SWEEP_NAMES = {field.name for field in fields(Settings)}
PREPARE_NAMES = {field.name for field in fields(prepare.Settings)} - {"dataset", "overwrite"}
NAMES = [field.name for field in (*fields(train.Settings), *fields(prepare.Settings))]
NOT_SWEPT = ("log_to", "weights")  # their commas are in one value
PAIRS = map("_".join, itertools.product(NAMES, NAMES))
PICTURES = {f"{name}.png" for name in (*NAMES, *PAIRS, "parallel")}


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
    if name in NOT_SWEPT:
        return [value(text)]
    return [value(part) for part in text.split(",")]


def combinations(values: dict[str, list | tuple], s: Settings) -> list[dict]:
    """All combinations of the listed values, or a random sample of them and of the ranges."""
    ranges = {name: ends for name, ends in values.items() if isinstance(ends, tuple)}
    lists = {name: listed for name, listed in values.items() if name not in ranges}
    found = [dict(zip(lists, listed, strict=True)) for listed in itertools.product(*lists.values())]
    count = 2 * s.trials + 100 if s.trials else s.num_random_runs  # a search finds some repeated
    if count is None:
        if ranges:
            name = next(iter(ranges))
            raise UserError(f"{name} is a range; say how many: --trials=N or --num_random_runs=N")
        return found
    rng = random.Random(s.sweep_seed)
    rng.shuffle(found)  # a larger sample begins with a smaller one
    repeated = itertools.cycle(found) if ranges else found
    return [
        listed | {name: sample_log_uniform(ends, rng) for name, ends in ranges.items()}
        for listed in itertools.islice(repeated, count)
    ]


def sample_log_uniform(ends: list | tuple, rng: random.Random) -> float:
    """A number between two, uniform on a logarithmic scale; an integer between integers."""
    low, high = ends
    if isinstance(low, int):  # an integer n represents [n, n + 1) on the log scale
        number = int(math.exp(rng.uniform(math.log(low), math.log(high + 1))))
        return min(max(number, low), high)
    return rounded(math.exp(rng.uniform(math.log(low), math.log(high))), ends)


def rounded(value: Any, ends: list | tuple) -> Any:
    """A float from within a range with three digits, as the name of a run has it."""
    if isinstance(value, float) and isinstance(ends, tuple):
        value = min(max(float(f"{value:.3g}"), ends[0]), ends[1])  # rounding may pass an end
    return value


def make_trials(values: dict, s: Settings, folder: Path, default_dataset: str) -> list[Trial]:
    """The trials of a sweep, each once; of a search, random ones that it might try.

    Raises UserError where two would share a run or a dataset.
    """
    trials, prepared = {}, {}
    for combination in combinations(values, s):
        trial = make_trial(combination, values, folder, default_dataset)
        name = trial.training["dataset"]
        if prepared.setdefault(name, trial.preparing) != trial.preparing:
            raise UserError(
                f"different stories would share the dataset {name}, which is named after their "
                "file; rename one, or sweep prepared ones with --dataset"
            )
        if trials.setdefault(trial.folder, trial).swept != trial.swept:
            raise UserError(f"two runs would share the folder {trial.folder}; choose clearer names")
    return list(trials.values())


def make_trial(combination: dict, values: dict, folder: Path, default_dataset: str) -> Trial:
    """The trial of a combination; `default_dataset` is used where it names none."""
    swept = {name: combination[name] for name, listed in values.items() if len(listed) > 1}
    base = combination.get("dataset", default_dataset)
    preparing = dataset_settings(combination, base)
    training = {name: v for name, v in combination.items() if name not in PREPARE_NAMES}
    training["dataset"] = preparing.get("dataset", base)
    return Trial(folder / label(swept), swept, training, preparing)


def chosen_trial(chosen: dict, values: dict, folder: Path, default_dataset: str) -> Trial:
    """The trial of swept values that the study has, perhaps from within a range."""
    combination = {name: listed[0] for name, listed in values.items()}
    for name, value in chosen.items():
        combination[name] = rounded(value, values[name])
    return make_trial(combination, values, folder, default_dataset)


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


def impossible(trial: Trial, overrides: dict) -> str | None:
    """Why train.py would refuse a trial's settings, `overrides` those of config files."""
    try:
        given = overrides | trial.training
        s = train.Settings(**train.Settings.foreign.translate(train.Settings, given, [])[0])
        GPTConfig(**{name: getattr(s, name) for name in MODEL_SETTINGS})
    except UserError as error:
        return str(error)
    return None


@dataclass
class Worker:
    """This process, one of those that share the runs of a sweep."""

    study: SharedStudy
    configs: list[str]
    overrides: dict  # of the config files
    prune: bool
    runner: ScriptRunner
    datasets: dict[str, str | None] = field(default_factory=dict)  # prepared; why one failed

    def prepare(self, trial: Trial) -> str | None:
        """Prepare the dataset of a trial; why that failed."""
        name, folder = trial.training["dataset"], self.study.folder
        if trial.preparing and name not in self.datasets:
            with wait_for_lock(folder / "prepare", self.runner):
                if self.runner.signal:
                    return "stopped"
                error = self.runner.run("prepare.py", trial.preparing, folder / "prepare.txt")
            print_rank0(wrapped(f"dataset {name}: {error or 'ready'}"))
            self.datasets[name] = error
            check_validation({t.training["dataset"] for t in (trial, *self.study.trials)})
        return self.datasets.get(name)

    def train(self, claim: Claim) -> dict:
        """Train a run, or resume it, unless it has ended; its result, or an `error`."""
        trial, folder = claim.trial, claim.trial.folder
        if result := ranking.read_result(folder):
            return result
        if error := impossible(trial, self.overrides) or self.prepare(trial):
            return {"error": error}
        pruned = {}

        def is_enough(line: str) -> bool:
            if "val loss" in line:  # an evaluation
                with self.study.opened() as study:
                    percent = percent_behind(study, claim)
                pruned.update({"pruned": percent} if percent and self.prune else {})
            return bool(pruned)

        configs, settings = self.configs, trial.training
        if (folder / "ckpt.pt").exists():
            device = trial.training.get("device", self.overrides.get("device", "auto"))
            configs, settings = [], {"init_from": "resume", "device": device}
        with wait_for_lock(folder, self.runner):
            pass  # the training of a worker that was killed has ended, too
        settings, output = settings | {"out_dir": folder}, folder / "output.txt"
        error = self.runner.run("train.py", settings, output, *configs, is_enough=is_enough)
        if error and (self.runner.signal or not pruned):
            return {"error": error}
        model, _, state = load_model(folder, "ckpt.pt")
        result = ranking.last_losses(folder / "log.csv") | {
            "step": state["progress"]["step"],
            "tokens": state["progress"]["windows"] * model.config.block_size,
            "minutes": round(state["progress"]["seconds"] / 60, 3),
            "parameters": model.count_parameters(),
        }
        write_json(folder / "result.json", result | (pruned if error else {}))
        return ranking.read_result(folder) or {"error": "the loss is not finite"}

    def work(self, bar) -> None:
        """Train runs until none is left, those of other workers included, or a signal comes."""
        while not self.runner.signal:
            with self.study.opened() as study:
                claim, rows = self.study.claim(study), self.study.rows(study)
            unfinished = sum(row is None for row in rows.values())
            if not (claim or unfinished):
                return
            if not claim:
                bar.set_description_str(f"waiting for {counted(unfinished, 'run')} of others")
                time.sleep(1)
                continue
            bar.set_description_str(f"run {len(rows)} of {self.study.total}")
            with claim.lock:
                outcome = self.train(claim)
                if self.runner.signal and "error" in outcome:  # stopped, not failed
                    return
                with self.study.opened() as study:
                    rows = self.study.end(study, claim.number, claim.trial, outcome)
            with suppress(OSError):
                claim.trial.folder.rmdir()  # if nothing was trained
            print_outcome(rows, claim.trial, self.study.total)
            bar.update()


def wait_for_lock(folder: Path, runner: ScriptRunner) -> ExitStack:
    """The lock of a folder, as soon as nobody has it; without it if a signal comes."""
    lock = ExitStack()
    while not runner.signal:
        with suppress(UserError):
            lock.enter_context(only_writer(folder))
            break
        time.sleep(0.2)
    return lock


def run_sweep(shared: SharedStudy, configs: list[str], overrides: dict, prune: bool) -> int:
    """Train what is not finished, write results.csv and plots; 0, or the signal that stopped it."""
    start_time = time.perf_counter()
    folder = shared.folder
    with shared.opened() as study:
        rows = shared.write_results(study)
        finished = f", {len(rows):,} of them finished already" if rows else ""
        print_rank0(wrapped(f"{counted(shared.total, 'run')} in {short_path(folder)}{finished}"))
        waiting = [] if shared.search else shared.untried(study)
        for trial in list(waiting):
            if error := impossible(trial, overrides):
                waiting.remove(trial)
                rows = shared.fail(study, trial, error)
                print_outcome(rows, trial, shared.total)
    # A line of the screen, which the newest line of the script fills.
    line = "{desc} [{elapsed}<{remaining}]{postfix}"
    counts = {"initial": len(rows), "total": shared.total}
    with progress(None, "datasets", "runs", bar_format=line, **counts) as bar:
        worker = Worker(shared, configs, overrides, prune, ScriptRunner(bar))
        for trial in waiting:
            worker.prepare(trial)
        check_validation({trial.training["dataset"] for trial in shared.trials})
        worker.work(bar)
    with shared.opened() as study:
        rows, importance = shared.write_results(study), shared.importance(study)
    if rows:
        print_rank0(f"\n{ranking.results_table(rows, list(shared.space))}\n")
        with only_writer(folder / "pictures", PATIENCE):
            sweepfigures.plot_results(rows, importance or dict.fromkeys(shared.space, 0), folder)
    if not worker.runner.signal:
        print_ending(rows, importance, folder, time.perf_counter() - start_time)
    return worker.runner.signal


def print_outcome(rows: list[dict], trial: Trial, total: int) -> None:
    """Say how the run of a trial ended, which is one of the rows."""
    row = next(row for row in rows if row["run"] == trial.name)
    print_rank0(wrapped(f"{len(rows)} of {total}, {trial.name}: {ranking.outcome(row)}"))


def print_ending(rows: list[dict], importance: dict, folder: Path, seconds: float) -> None:
    """Say what was made and what to do with it; raises UserError if no run has finished."""
    where = short_path(folder)
    if not rows or not ranking.is_finished(best := rows[0]):
        raise UserError(f"no run finished; {where}/results.csv says why")
    print_rank0(wrapped(f"best run: {best['run']}, {best['val_bits_per_byte']:.4f} bits per byte"))
    if importance:
        shares = ", ".join(f"{name} {100 * share:.0f} %" for name, share in importance.items())
        print_rank0(wrapped(f"importance of settings, by PED-ANOVA: {shares}"))
    pictures = ", ".join(sorted(path.name for path in folder.glob("*.png")))
    print_rank0(wrapped(f"in {where}: results.csv, {pictures}, and the runs"))
    print_rank0(f"time: {time_taken(seconds)}; generate stories with the best run:")
    print_rank0(command_text("python", "sample.py", f"--out_dir={where}/{best['run']}"))


def main(argv: list[str]) -> None:
    argv = normalize(argv, AllSettings)
    s, configs, values = parse_command_line(argv)
    from_files = parse(train.Settings, configs)
    if "eval_only" in from_files.overrides | values:
        raise UserError("eval_only cannot be used in a sweep, which trains")
    swept = [name for name, listed in values.items() if len(listed) > 1]
    if not swept:
        raise UserError("nothing is swept; give several values, as in --learning_rate=3e-4,1e-3")
    if s.trials and s.num_random_runs:
        raise UserError("trials are chosen by a search, num_random_runs at random; give one")
    fixed = from_files.overrides | {n: listed[0] for n, listed in values.items() if n not in swept}
    name = s.name or "_".join([*(Path(config).stem for config in configs), *swept])
    folder = run_folder(s.out_dir) / name
    if "full_eval" not in {*fixed, *swept}:
        values["full_eval"] = [True]  # a short run would measure a part of validation
    default = fixed.get("dataset", train.Settings.dataset)
    trials = make_trials(values, s, folder, default)
    for trial in trials:
        data = dataset.dataset_folder(trial.training["dataset"])
        if not (trial.preparing or (data / "train.bin").is_file()):
            raise UserError(dataset.missing_dataset_message(data, from_files.docs))
    fixed.pop("device", None)  # workers may have one each
    with only_writer(folder, PATIENCE):
        open_folder(folder, fixed, s.overwrite, PICTURES)
    make = partial(chosen_trial, values=values, folder=folder, default_dataset=default)
    space = {name: values[name] for name in swept}
    shared = SharedStudy(folder, space, fixed, make, trials, s.trials, s.sweep_seed)
    number = run_sweep(shared, configs, from_files.overrides, s.prune)
    if number:
        kept = [word for word in argv if not word.startswith("--overwrite")]  # would delete it
        print_rank0(f"stopped; resume with\n{command_text('python', 'sweep.py', *kept)}")
        sys.exit(128 + number)


if __name__ == "__main__":
    start(main, sys.argv[1:])
