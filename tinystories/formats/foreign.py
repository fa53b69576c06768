"""Checkpoints of other programs: what a file or a folder is, and the ones that can be read.

A module of this folder that reads what torch.save wrote has `recognizes(state)`,
`convert(state, path)` and the name of its PROGRAM; `hf` reads folders with safetensors. One that
writes has, for export.py, `check_exportable(config)`, `write(path, final, trained)`, the name of
the file or folder that it writes (EXPORT; {name} is that of the run), and `verify(path, trained)`:
the largest difference of logits, and how much is allowed.
"""

import contextlib
import pickle
import warnings
import zipfile
from pathlib import Path

import torch

from configurator import UserError
from tinystories.formats import hf, nanogpt

READERS = (nanogpt,)
READABLE = f"runs of this project, checkpoints of nanoGPT and folders of {hf.PROGRAM}"


def read_checkpoint(path: Path) -> dict:
    """A checkpoint that another program wrote, in the form of `run.load_checkpoint`.

    Besides it has "program", its name, "foreign_tokenizer", its Tokenizer, and "dataset", the
    folder of its data or None.

    Raises:
        UserError: says what the file is, if it cannot be read. Only tensors and plain values are
            ever read from it (weights_only).
    """
    with open(path, "rb") as file:
        start = file.read(10)
    if start[8:] == b'{"':  # after the length of the header, which is JSON
        if hf.find_weights(path.parent) == path:
            return _finite(hf.convert(path), path) | {"program": hf.PROGRAM}
        raise UserError(
            f"{path} is a safetensors file: weights without the shape of their model; "
            f"{READABLE} can be read"
        )
    try:
        with warnings.catch_warnings(action="ignore"):
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a crafted file can make the reader fail in any way it likes
        raise UserError(f"{path} {_what_it_is(path, start, error)}") from None
    if not isinstance(state, dict) or not state:
        raise UserError(f"{path} holds a {type(state).__name__}, not a checkpoint")
    for reader in READERS:
        if reader.recognizes(state):
            return _finite(reader.convert(state, path), path) | {"program": reader.PROGRAM}
    if all(isinstance(value, torch.Tensor) for value in state.values()):
        raise UserError(
            f"{path} holds weights alone (a state dict), without the shape of their model; "
            f"{READABLE} can be read"
        )
    if "format" in state or "model_config" in state:  # of ours, and its checksum is wrong
        raise UserError(f"{path} is damaged or cut short")
    names = ", ".join(str(name) for name in list(state)[:5])
    raise UserError(f"{path} is of another program (it holds {names}); {READABLE} can be read")


def _finite(converted: dict, path: Path) -> dict:
    """The same; raises UserError for weights that generate nothing. Theirs have no checksum."""
    for name, weight in converted["model"].items():
        if not torch.isfinite(weight).all():
            raise UserError(f"{path}: {name} has values that are not finite")
    return converted


def _what_it_is(path: Path, start: bytes, error: Exception) -> str:
    """The end of the sentence about a file that torch.load fails to read."""
    if zipfile.is_zipfile(path):
        whole = False
        with contextlib.suppress(Exception), zipfile.ZipFile(path) as archive:
            whole = archive.testzip() is None
        if whole and isinstance(error, pickle.UnpicklingError):
            return "has other objects than tensors and plain values: refused to load it"
    elif start[:1] == b"\x80":
        return "is a pickle of other objects than tensors: refused to load it, as it can run code"
    return "is damaged, cut short or not a checkpoint"
