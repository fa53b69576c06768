"""The run folder out/<run>/: what is in it, and how it is written and read safely.

    ckpt.pt         the newest state, everything needed to go on
    best.pt         the weights with the lowest validation loss
    config.json     the settings
    tokenizer.json  the tokenizer
    log.csv         one row for each step that was logged and for each evaluation
    samples.txt     one story for each evaluation
    loss.png        the numbers of log.csv as curves

A .pt file is what torch.save writes, with the SHA-256 of its bytes in the comment at the end of
the zip archive that it is: `torch.load` reads it like any other, and `load` here notices a single
changed bit. Only tensors and plain values are ever read from it (weights_only).
"""

import dataclasses
import hashlib
import io
import json
import os
from pathlib import Path

import torch

from configurator import ROOT, UserError
from model import GPT, GPTConfig
from tinystories.tokenizer import Tokenizer

FORMAT = 1  # of the .pt files
COMMENT = 64  # bytes of the zip comment: a SHA-256 in hexadecimal


def run_folder(out_dir: str) -> Path:
    """Where a run lies: beside the scripts, or wherever an absolute path says."""
    return ROOT / Path(out_dir).expanduser()


def newest_run() -> str:
    """The out_dir of the run under out/ that was saved last.

    Raises:
        UserError: there is none.
    """
    saved = sorted(ROOT.glob("out/*/ckpt.pt"), key=lambda path: path.stat().st_mtime)
    if not saved:
        raise UserError("no run lies in out/ yet; train one first, as in: make story")
    return saved[-1].parent.relative_to(ROOT).as_posix()


# Checkpoints --------------------------------------------------------------------------------


def save(path: Path, state: dict) -> None:
    """Write a checkpoint so that a crash at any instant leaves the old file or the new one.

    Raises:
        UserError: the disk is full or the folder cannot be written; the old file is intact.
    """
    buffer = io.BytesIO()
    torch.save({"format": FORMAT} | state, buffer)
    archive = buffer.getbuffer()
    body, no_comment = archive[:-2], bytes(archive[-2:])
    assert no_comment == b"\0\0", "torch.save wrote a zip archive with a comment of its own"
    checksum = hashlib.sha256(body).hexdigest().encode()
    write_whole(path, body, COMMENT.to_bytes(2, "little"), checksum)


def load(path: Path) -> dict:
    """Read a checkpoint that `save` wrote, its tensors on the CPU.

    Raises:
        UserError: the file is missing, truncated, damaged, tampered with or of another origin.
    """
    if not path.is_file():
        raise UserError(f"there is no checkpoint {path}")
    data = path.read_bytes()
    body, comment = data[: -2 - COMMENT], data[-2 - COMMENT :]
    if comment != COMMENT.to_bytes(2, "little") + hashlib.sha256(body).hexdigest().encode():
        raise UserError(f"{path} is damaged, cut short or not a checkpoint of this project")
    try:
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception:  # a crafted file can make the reader fail in any way it likes
        raise UserError(f"{path} holds more than tensors: it was not read, nor run") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise UserError(f"{path} has another format than this version reads")
    return state


def write_whole(path: Path, *parts: bytes) -> None:
    """Write a file under a temporary name, flush it to the disk, and rename it.

    Raises:
        UserError: the disk is full or the folder cannot be written; the old file is intact.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        if os.name == "posix":  # the rename itself must reach the disk too
            folder = os.open(path.parent, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"cannot write {path}: {error.strerror}") from None


def weights(model: GPT, tokenizer: Tokenizer) -> dict:
    """What makes a model: its shape, its parameters and its tokenizer's identity."""
    return {
        "model_config": dataclasses.asdict(model.config),
        "model": model.state_dict(),
        "tokenizer": tokenizer.fingerprint,
    }


def load_model(folder: Path, name: str = "best.pt") -> tuple[GPT, Tokenizer, dict]:
    """A run's model, its tokenizer and the whole state that `name` holds.

    Raises:
        UserError: no such run or file, a damaged one, or a tokenizer that is not the model's.
    """
    if not folder.is_dir():
        raise UserError(f"there is no run in {folder}")
    state = load(folder / name)
    tokenizer = Tokenizer.load(folder / "tokenizer.json")
    if tokenizer.fingerprint != state["tokenizer"]:
        raise UserError(f"{folder / 'tokenizer.json'} is not the tokenizer of {name} beside it")
    model = GPT(GPTConfig(**state["model_config"]))
    model.load_state_dict(state["model"])
    return model.eval(), tokenizer, state


# Settings --------------------------------------------------------------------------


def write_config(folder: Path, settings: dict) -> None:
    """Write config.json."""
    text = json.dumps(settings, indent=2, ensure_ascii=False) + "\n"
    write_whole(folder / "config.json", text.encode())


def read_config(folder: Path) -> dict:
    """The settings of a run.

    Raises:
        UserError: config.json is missing or damaged.
    """
    path = folder / "config.json"
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"there is no run to resume in {folder}; --out_dir= names it") from None
    except ValueError:
        raise UserError(f"{path} is damaged") from None
    if not isinstance(settings, dict):
        raise UserError(f"{path} is damaged")
    return settings
