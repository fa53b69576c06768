"""The study of a sweep: an Optuna journal in its folder, which several workers share.

A worker opens the study under a short lock of the sweep's folder, and reads the journal anew each
time. A trial that is RUNNING in it belongs to the worker that holds the lock in the run's folder.
That lock ends with the worker, however it ends: where nobody holds it, another takes the trial
over. A finished run has a result.json besides, so that it outlasts the journal.
"""

import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import optuna
from optuna import Study
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState
from optuna.trial import Trial as OpenTrial

from configurator import UserError
from tinystories import ranking
from tinystories.figures import read_log
from tinystories.files import checksum, only_writer, read_json, settings_path, write_json
from tinystories.run import is_own

JOURNAL = "journal.log"
PATIENCE = 600  # seconds that a worker waits for the others to write
PERCENTS = np.arange(10, 100, 10)  # of a run's budget, where runs are compared
FIRST_PRUNED, LAST_PRUNED = 20, 80  # percent; later than that, little is saved
ENOUGH = 8  # finished runs that tell which settings matter

optuna.logging.set_verbosity(optuna.logging.WARNING)


@dataclass
class Trial:
    """One combination of settings, and the run that tries it."""

    folder: Path
    swept: dict  # the values that distinguish it from the other trials
    training: dict  # settings of train.py
    preparing: dict  # settings of prepare.py; empty where the dataset is used as it is

    @property
    def name(self) -> str:
        return self.folder.name

    def row(self, outcome: dict) -> dict:
        """A row of results: the swept values, and those of result.json or an `error`."""
        return outcome | {"run": self.name} | self.swept


@dataclass
class Claim:
    """A run that no other worker may train while `lock` is held."""

    number: int  # in the study
    trial: Trial
    lock: ExitStack


class Unlocked(JournalFileOpenLock):
    """The journal's own lock, of which there is no need under the lock of the sweep's folder."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        pass


class SharedStudy:
    """The study of one sweep, as one of its workers sees it.

    Args:
        folder: the sweep's.
        values: of the swept settings, each a list or the two ends of a range.
        fixed: the other settings; a journal of other ones is refused.
        make: gives the trial of swept values, which Optuna may have chosen.
        trials: those to try; in a search, random ones that stand in for repetitions.
        search: how many a search tries; None: all of the `trials`.
        seed: of the search.
    """

    def __init__(
        self,
        folder: Path,
        values: Mapping[str, list | tuple],
        fixed: dict,
        make: Callable[[dict], Trial],
        trials: list[Trial],
        search: int | None,
        seed: int,
    ):
        self.folder, self.make, self.trials = folder, make, trials
        self.search, self.seed = search, seed
        ranges = any(isinstance(listed, tuple) for listed in values.values())
        different = math.prod(len(listed) for listed in values.values())
        self.total = search or len(trials)
        if not ranges:
            self.total = min(self.total, different)
        self.space = {name: distribution(listed) for name, listed in values.items()}
        # All trials of a study choose from the same values, so other values are another study.
        self.name = " ".join(
            f"{name}={('..' if isinstance(listed, tuple) else ',').join(map(str, listed))}"
            for name, listed in values.items()
        )
        self.fixed = checksum(fixed, sort_keys=True)
        self.failed_before = set()  # numbers of trials that failed before; they are tried again
        with self.opened() as study:
            failed = [trial for trial in self._begun(study) if trial.state == TrialState.FAIL]
            self.failed_before = {trial.number for trial in failed}
            for trial in self.untried(study):  # an earlier version wrote no journal
                if result := ranking.read_result(trial.folder):
                    self.end(study, self._ask(study, trial.swept).number, trial, result)

    @contextmanager
    def opened(self) -> Iterator[Study]:
        """The study; other workers wait, so for a short time only.

        Raises UserError for a journal that is damaged or of another sweep.
        """
        with only_writer(self.folder, PATIENCE):
            yield self._read(self.folder / JOURNAL)

    def _read(self, path: Path) -> Study:
        advice = "remove it, and the sweep goes on from its finished runs"
        try:
            check_journal(path)
            storage = JournalStorage(JournalFileBackend(str(path), Unlocked(str(path))))
            summaries = optuna.get_all_study_summaries(storage, include_best_trial=False)
        except OSError:
            raise
        except Exception:  # a crafted file can make the reader fail in any way it likes
            raise UserError(f"{path} is damaged; {advice}") from None
        studies = {summary.study_name: summary.user_attrs.get("fixed") for summary in summaries}
        if set(studies.values()) - {self.fixed, None}:
            raise UserError(f"{path} is the journal of another sweep; {advice}")
        pruner = optuna.pruners.MedianPruner(n_warmup_steps=FIRST_PRUNED)
        study = optuna.create_study(
            storage=storage, study_name=self.name, load_if_exists=True, pruner=pruner
        )
        if studies.get(self.name) is None:
            study.set_user_attr("fixed", self.fixed)
        count = len(study.get_trials(deepcopy=False))  # each trial has random numbers of its own
        seed = np.random.SeedSequence([self.seed, count]).generate_state(1)[0]
        study.sampler = optuna.samplers.TPESampler(seed=int(seed))
        return study

    def _begun(self, study: Study) -> list[FrozenTrial]:
        """The trials with all their values: a worker may be killed while it writes them."""
        trials = study.get_trials(deepcopy=False)
        return [trial for trial in trials if trial.params.keys() == self.space.keys()]

    def rows(self, study: Study) -> dict[str, dict | None]:
        """The row of results of each run that was begun, by its name; None while it has none."""
        found = {}
        for begun in self._begun(study):
            if begun.number in self.failed_before or "repeats" in begun.user_attrs:
                continue
            trial, outcome = self.make(begun.params), None
            if begun.state == TrialState.FAIL:
                outcome = {"error": begun.user_attrs.get("error", "")}
            elif begun.state.is_finished():
                outcome = ranking.read_result(trial.folder)
                if not outcome:  # somebody removed the run, so that it is trained again
                    continue
            found[trial.name] = outcome and trial.row(outcome)
        return found

    def untried(self, study: Study) -> list[Trial]:
        """Those of the trials that were not begun."""
        found = self.rows(study)
        return [trial for trial in self.trials if trial.name not in found]

    def claim(self, study: Study) -> Claim | None:
        """A run to train: one whose worker has ended, or a new one. None: there is none left."""
        for begun in self._begun(study):
            if begun.state == TrialState.RUNNING:
                trial = self.make(begun.params)
                if lock := try_lock(trial.folder):
                    return Claim(begun.number, trial, lock)
        if new := self._next(study):
            trial = self.make(new.params)
            if lock := try_lock(trial.folder):
                return Claim(new.number, trial, lock)
        return None

    def _next(self, study: Study) -> OpenTrial | None:
        """A new trial; None if there is none left."""
        if self.search:
            found = self.rows(study)
            if len(found) >= self.search:
                return None
            chosen = self._ask(study)
            if self.make(chosen.params).name not in found:
                return chosen
            chosen.set_user_attr("repeats", True)
            study.tell(chosen, state=TrialState.FAIL)
        untried = self.untried(study)
        return self._ask(study, untried[0].swept) if untried else None

    def _ask(self, study: Study, params: dict | None = None) -> OpenTrial:
        """A new trial: of these values, or of those that TPE (Bergstra et al. 2011) chooses."""
        # What a worker that was killed had enqueued would be asked for in the place of these.
        while study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            left = study.ask(self.space)
            left.set_user_attr("repeats", True)
            study.tell(left, state=TrialState.FAIL)
        if params:
            study.enqueue_trial(params)
        return study.ask(self.space)

    def fail(self, study: Study, trial: Trial, error: str) -> list[dict]:
        """Enter a trial that cannot be trained; all rows of results."""
        return self.end(study, self._ask(study, trial.swept).number, trial, {"error": error})

    def end(self, study: Study, number: int, trial: Trial, outcome: dict) -> list[dict]:
        """Enter how a run ended, with its result or an `error`; all rows of results."""
        ended = report(study, number, progress(trial.folder))
        if "error" in outcome:
            ended.set_user_attr("error", outcome["error"])
            study.tell(ended, state=TrialState.FAIL)
        elif "pruned" in outcome:
            study.tell(ended, state=TrialState.PRUNED)
        else:
            study.tell(ended, outcome["val_bits_per_byte"])
        return self.write_results(study)

    def write_results(self, study: Study) -> list[dict]:
        """Write results.csv; its rows, the best first."""
        rows = ranking.ranked(row for row in self.rows(study).values() if row)
        ranking.write_results(self.folder / "results.csv", rows, list(self.space))
        return rows

    def importance(self, study: Study) -> dict[str, float]:
        """How much each setting decides whether a run is in the better half, the most first.

        By PED-ANOVA (Watanabe et al. 2023). The sum is 1; empty where the runs are too few.
        """
        finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if len(self.space) < 2 or len(finished) < ENOUGH:
            return {}
        evaluator = PedAnovaImportanceEvaluator(target_quantile=0.5)
        return get_param_importances(study, evaluator=evaluator)


def distribution(values: list | tuple) -> BaseDistribution:
    """Optuna's form of a list of values or, for a tuple, of the range between its two ends."""
    if isinstance(values, list):
        return CategoricalDistribution(tuple(dict.fromkeys(values)))
    kind = IntDistribution if isinstance(values[0], int) else FloatDistribution
    return kind(*values, log=True)


def check_journal(path: Path) -> None:
    """Cut off a last line that a killed worker left unfinished; ValueError for other damage."""
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    if lines and not lines[-1].endswith(b"\n"):
        os.truncate(path, sum(map(len, lines[:-1])))
        lines.pop()
    for line in lines:
        json.loads(line)


def try_lock(folder: Path) -> ExitStack | None:
    """The lock in a run's folder; None if another worker has it."""
    folder.mkdir(exist_ok=True)
    lock = ExitStack()
    try:
        lock.enter_context(only_writer(folder / "sweep"))
    except UserError:
        return None
    return lock


# Pruning ------------------------------------------------------------------------------------


def progress(folder: Path) -> dict[int, float]:
    """The validation bits per byte of a run at those PERCENTS of its budget that it has reached.

    A budget of minutes is used up as train.py's schedule has it: by minutes or steps, whichever
    are further. Between two evaluations it is interpolated.
    """
    try:
        s = read_json(settings_path(folder), lambda s: s["max_iters"] > 0, "")
        log = read_log(folder / "log.csv")
    except (FileNotFoundError, UserError):
        return {}
    used = 100 * log["step"] / s["max_iters"]
    if s.get("max_minutes"):
        used = np.fmax(used, 100 * log["minutes"] / s["max_minutes"])
    bits = np.fmin(log["val_bits_per_byte"], log["ema_val_bits_per_byte"])
    known = np.isfinite(bits) & (log["step"] > 0)
    used, bits = used[known], bits[known]
    if not len(used):
        return {}
    reached = PERCENTS[(PERCENTS >= used[0]) & (PERCENTS <= used[-1])]
    return dict(zip(reached.tolist(), np.interp(reached, used, bits).tolist(), strict=True))


def report(study: Study, number: int, values: Mapping[int, float]) -> OpenTrial:
    """Add to a trial what it has reached at each percent of its budget."""
    begun = study.get_trials(deepcopy=False)[number]
    trial = OpenTrial(study, begun._trial_id)
    for percent, value in values.items():
        if percent not in begun.intermediate_values:
            trial.report(value, percent)
    return trial


def percent_behind(study: Study, claim: Claim) -> int | None:
    """The percent of its budget at which a run is behind; None where it is not.

    It is behind if the best that it has reached is worse than the median of what the finished
    runs had there, which are five at least.
    """
    values = progress(claim.trial.folder)
    trial = report(study, claim.number, values)
    last = max(values, default=100)
    return last if last <= LAST_PRUNED and trial.should_prune() else None


# The folder ---------------------------------------------------------------------------------


def open_folder(folder: Path, fixed: dict, overwrite: bool, pictures: set[str]) -> None:
    """Make a sweep's folder, or check that it holds this sweep.

    Args:
        fixed: the settings that all runs share.
        overwrite: whether to remove a sweep that is there.
        pictures: all that a sweep may draw, by name.
    """
    path = folder / "sweep.json"
    if path.exists() and not overwrite:
        stored = read_json(path, lambda _: True, "start over with --overwrite=True")
        stored.pop("device", None)  # of the only worker, in an earlier version
        changed = [name for name in sorted(stored | fixed) if stored.get(name) != fixed.get(name)]
        if changed:
            raise UserError(
                f"{folder} holds a sweep with another {', '.join(changed)}; choose another --name, "
                "or start over with --overwrite=True"
            )
        return
    if path.exists():
        remove_sweep(folder, {JOURNAL, "sweep.json", "results.csv", "prepare.txt", *pictures})
    elif folder.exists() and any(not is_begun(path.name) for path in folder.iterdir()):
        raise UserError(f"{folder} exists and is not a sweep; choose another --name")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, fixed)


def remove_sweep(folder: Path, own: set[str]) -> None:
    """Remove a sweep's runs and its `own` files.

    Raises UserError, and removes nothing, if anything else is there or a worker is at work.
    """
    paths = [path for path in folder.iterdir() if not is_lock(path.name)]
    runs = [path for path in paths if "=" in path.name and path.is_dir() and not path.is_symlink()]
    others = [path for path in paths if path not in runs]
    foreign = [path.name for path in others if path.name.removesuffix(".tmp") not in own]
    for run in runs:
        names = [path.name for path in run.iterdir() if not is_lock(path.name)]
        names = [name for name in names if not is_own(name.removesuffix(".tmp"))]
        foreign += [f"{run.name}/{name}" for name in names]
    if foreign:
        raise UserError(
            f"{folder} has {min(foreign)}, which no sweep made; move it, or choose another --name"
        )
    with ExitStack() as locks:
        for path in (folder / "prepare", *runs, *(run / "sweep" for run in runs)):
            locks.enter_context(only_writer(path))
        for run in runs:
            shutil.rmtree(run)
        for path in others:
            if path.name != "sweep.json":  # it is replaced; as long as it is there, this is a sweep
                path.unlink()


def is_begun(name: str) -> bool:
    """Whether a file may be in the folder of a sweep that was killed before it had sweep.json."""
    return is_lock(name) or name == "sweep.json.tmp"


def is_lock(name: str) -> bool:
    """Whether a file is the lock of `only_writer`, perhaps of a command that was killed."""
    return name.startswith(".") and name.endswith(".lock")
