"""What is evaluated: a run's model, or a published one, and the data that it is measured with.

Each part of an evaluation is a module of this folder with

    key(subject) -> dict      what the result depends on; quick, raises UserError for bad input,
                              and Unsuitable where the model or the data have nothing to measure
    measure(subject) -> dict  the result, in JSON values
    rows(result) -> Rows      the result in the table

evaluate.py keeps results with their key. The same of real stories, if measured, is the entry
"validation_stories" of a result.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from configurator import UserError
from model import LanguageModel
from tinystories.dataset import Dataset, dataset_folder, open_dataset
from tinystories.device import Hardware
from tinystories.files import settings_path, sha256_of
from tinystories.formats import causal_lm
from tinystories.formats.causal_lm import is_published
from tinystories.loss import Loss, loss_per_text
from tinystories.run import (
    find_checkpoint,
    kept_file,
    load_model,
    read_config,
    results_folder,
    run_folder,
    split_step,
)
from tinystories.terminal import progress
from tinystories.tokenizer import Tokenizer

MAX_CHARS = 10_000_000  # of a file of lines
TEXTS_AT_ONCE = 512  # between two steps of the progress bar


class Unsuitable(UserError):
    """Why a part does not go with a model or its data; a default part is left out then."""


@dataclass(frozen=True)
class Subject:
    """A run that is evaluated, or a published model."""

    settings: Any  # of evaluate.py
    name: str  # of the run, as the user wrote it
    folder: Path  # of the results
    model: LanguageModel
    tokenizer: Tokenizer
    hardware: Hardware
    info: dict  # identifies the model; stored under "run" in evaluation.json
    data: Dataset | None  # None where it is missing, or has another tokenizer now
    stage: str = ""  # begins the names of progress bars: "2 of 4: "

    def dataset(self) -> Dataset:
        """The data; raises UserError if there is none."""
        if self.data is None:
            if is_published(self.name):
                raise UserError(
                    f"{self.name} comes without stories: name a dataset with --dataset=, or use "
                    "--val_source=FILE --what=loss,pairs,generation"
                )
            raise UserError(
                f"the dataset of {self.name} is missing or has another tokenizer now: prepare it, "
                "name it with --dataset=, or use --val_source=FILE --what=loss,pairs,generation"
            )
        return self.data

    def machine(self) -> dict:
        """Device and dtype, which can change the last digits of a result."""
        dtype = str(self.hardware.dtype).removeprefix("torch.")
        return {"device": self.hardware.device.type, "dtype": dtype}

    def progress(self, items: Iterable | None, desc: str, unit: str, **options) -> tqdm:
        """`terminal.progress`, with the stage."""
        return progress(items, f"{self.stage}{desc}", unit, **options)

    def loss_per_text(
        self,
        texts: Sequence[np.ndarray],
        context_lengths: Sequence[int],
        text_bytes: Sequence[int],
        desc: str,
        unit: str,
    ) -> list[Loss]:
        """`loss.loss_per_text` with a progress bar."""
        model, losses = self.model.eval(), []
        with self.progress(None, desc, unit, total=len(texts)) as bar:
            for first in range(0, len(texts), TEXTS_AT_ONCE):
                part = slice(first, first + TEXTS_AT_ONCE)
                values = (texts[part], context_lengths[part], text_bytes[part])
                losses += loss_per_text(model, *values, self.hardware)
                bar.update(len(losses) - bar.n)
        return losses


def open_subject(settings: Any, name: str, hardware: Hardware) -> Subject:
    """Load a run's model and its data, None if that is missing or has another tokenizer now.

    `name` is that of a run, RUN@STEP for a kept checkpoint, or of a published model.

    Raises UserError if either is damaged, or settings.dataset has another tokenizer.
    """
    if is_published(name):
        return _open_published(settings, name, hardware)
    run, step = split_step(name)
    folder, results = run_folder(run), results_folder(name)
    file = Path(settings.checkpoint).name if step is None else kept_file(step)
    while True:
        checkpoint = find_checkpoint(folder, file)
        sha256 = sha256_of(checkpoint)
        model, tokenizer, state = load_model(folder, file)
        if sha256_of(checkpoint) == sha256:
            break  # else the run has just saved another one
    results.mkdir(exist_ok=True)
    info = {
        "checkpoint": checkpoint.name,
        "sha256": sha256,
        "step": state.get("step", state.get("progress", {}).get("step")),
        "parameters": model.count_parameters(),
        "vocabulary": tokenizer.vocab_size,
        "block_size": model.config.block_size,
    }
    if state.get("program"):  # whose checkpoint is not all of the model
        files = [folder / "config.json", *sorted(folder.glob("model-*.safetensors"))]
        info["tokenizer"] = tokenizer.fingerprint
        info["other_files"] = sha256_of(*(p for p in files if p.is_file() and p != checkpoint))
    dataset = settings.dataset or state.get("dataset")  # the latter of another program
    data = open_data(dataset, folder, model.config.block_size)
    if data and data.tokenizer.fingerprint != tokenizer.fingerprint:
        if settings.dataset:
            raise UserError(f"{data.folder} was prepared with another tokenizer than {name} has")
        data = None  # prepared again since then
    model.to(hardware.device)
    return Subject(settings, name, results, model, tokenizer, hardware, info, data)


def _open_published(settings: Any, name: str, hardware: Hardware) -> Subject:
    """A published model, and the data that the settings name; its tokenizer may be any."""
    model, tokenizer, weights, sha256 = causal_lm.load(name)
    info = {
        "checkpoint": weights,
        "sha256": sha256,
        "step": None,
        "parameters": model.count_parameters(),
        "vocabulary": tokenizer.vocab_size,
        "block_size": model.config.block_size,
    }
    folder = causal_lm.results_folder(name)
    folder.mkdir(parents=True, exist_ok=True)
    data = open_dataset(settings.dataset, block_size=1) if settings.dataset else None
    model.to(hardware.device)
    return Subject(settings, name, folder, model, tokenizer, hardware, info, data)


def open_data(dataset: str | None, folder: Path, block_size: int) -> Dataset | None:
    """The named dataset, or the one that the run in `folder` was trained on; None if it is missing.

    Raises UserError if the named one is missing, or either is damaged.
    """
    if dataset is None:
        has_config = settings_path(folder).is_file()
        dataset = read_config(folder).get("dataset") if has_config else None
        if not isinstance(dataset, str) or not dataset_folder(dataset).is_dir():
            return None
    return open_dataset(dataset, block_size)


def numbered_lines(path: str | Path, what: str) -> list[tuple[int, str]]:
    """The lines of a text file that are not blank, stripped, each with its number, from 1.

    Raises UserError if the file cannot be read, or has no lines; `what` says what they hold.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            text = file.read(MAX_CHARS)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text") from None
    if len(text) == MAX_CHARS:  # a device has no end
        raise UserError(f"{path} has {MAX_CHARS:,} characters or more")
    lines = [(i, line.strip()) for i, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        raise UserError(f"{path} contains no {what}")
    return lines
