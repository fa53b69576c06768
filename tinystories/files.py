"""Files that are written whole or not at all, and read only when they are what they should be."""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from configurator import ROOT, UserError


def atomic_write(path: Path, *parts: bytes | memoryview) -> None:
    """Write a file under a temporary name, flush it to the disk, and rename it.

    Raises UserError if the disk is full or the folder cannot be written; the old file is intact.
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
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise UserError(f"cannot write {path}: {error.strerror}") from None


def short_path(path: Path) -> str:
    """A path as people read and type it: relative to the scripts where it is below them."""
    return (path.relative_to(ROOT) if path.is_relative_to(ROOT) else path).as_posix()


def write_json(path: Path, value: object) -> None:
    """Write a value as JSON, atomically."""
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    atomic_write(path, text.encode(errors="replace"))


def read_json(path: Path, is_valid: Callable[[dict], object], advice: str) -> dict:
    """Read a JSON object.

    Args:
        is_valid: tells whether the object has the wanted shape; an exception that missing entries
            or other types raise in it means no.
        advice: what to do about a damaged file, the end of the error message.

    Raises UserError for a file that cannot be read, is not JSON, or has another shape, and
    FileNotFoundError where there is none.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(value, dict) and is_valid(value):
            return value
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        pass
    raise UserError(f"{path} is damaged or not of this version; {advice}")


def replace_folder(built: Path, folder: Path) -> None:
    """Put a built folder in place of `folder`; a crash in between leaves the old as .NAME.old."""
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    built.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def sha256_of(*paths: Path) -> str:
    """The checksum, in hexadecimal, of one file or of several in a row."""
    sha256 = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            hashlib.file_digest(file, lambda: sha256)
    return sha256.hexdigest()


def checksum(value: object, sort_keys: bool = False) -> str:
    """The SHA-256 of a value as JSON, in hexadecimal."""
    return hashlib.sha256(json.dumps(value, sort_keys=sort_keys).encode()).hexdigest()
