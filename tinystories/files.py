"""Files that are written whole or not at all, and read only when they are what they should be."""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import socket
import stat
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import filelock

from configurator import ROOT, UserError

LARGEST = 2**28  # bytes that are read at once
OTHER_ERRORS = (  # than that of a disk without locks
    *(errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE),
    *(errno.EEXIST, errno.ENOTDIR),  # a file in the place of a folder
)
without_locks: set[Path] = set()  # folders of which it was said that their disk has no locks


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
        rename(temporary, path)
        if os.name == "posix":  # the rename itself must reach the disk too
            folder = os.open(path.parent, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            raise UserError(f"cannot write {path}: {error.strerror}") from None
        raise


def rename(source: Path, target: Path) -> None:
    """`os.replace`; on Windows again and again for some seconds, while a reader has the file."""
    for _ in range(50 if os.name == "nt" else 0):
        try:
            return os.replace(source, target)
        except PermissionError:
            time.sleep(0.1)
    os.replace(source, target)


def short_path(path: Path) -> str:
    """A path as people read and type it: relative to the scripts where it is below them."""
    return (path.relative_to(ROOT) if path.is_relative_to(ROOT) else path).as_posix()


def write_json(path: Path, value: object) -> None:
    """Write a value as JSON, atomically."""
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    atomic_write(path, text.encode(errors="replace"))


def read_whole(path: Path) -> bytes:
    """The content of a file that a command wrote, other than a checkpoint or token ids.

    Raises UserError for what cannot be read or is none of these: a FIFO would be waited for, and a
    device has no end. FileNotFoundError where there is nothing.
    """
    try:
        state = path.stat()
        if not stat.S_ISREG(state.st_mode):
            raise UserError(f"cannot read {path}: it is not a file")
        if state.st_size > LARGEST:
            raise UserError(f"cannot read {path}: it has {state.st_size:,} bytes")
        return path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None


def read_json(path: Path, is_valid: Callable[[dict], object], advice: str) -> dict:
    """Read a JSON object.

    Args:
        is_valid: tells whether the object has the wanted shape; an exception that missing entries
            or other types raise in it means no.
        advice: what to do about a damaged file, the end of the error message.

    Raises UserError for a file that cannot be read, is not JSON, or has another shape, and
    FileNotFoundError where there is none.
    """
    data = read_whole(path)
    try:
        value = json.loads(data.decode())
        if isinstance(value, dict) and is_valid(value):
            return value
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        pass
    raise UserError(f"{path} is damaged or not of this version; {advice}")


def first_of(folder: Path, *names: str) -> Path:
    """The first of some files that is there; else the first one."""
    paths = [folder / name for name in names]
    return next((path for path in paths if path.exists()), paths[0])


def settings_path(folder: Path) -> Path:
    """The settings of a run. Earlier versions wrote config.json, which is Hugging Face's name."""
    return first_of(folder, "settings.json", "config.json")


@contextlib.contextmanager
def only_writer(folder: Path, patience: float = 0) -> Iterator[None]:
    """Be the only command that writes a folder, which need not exist; readers never wait for it.

    The lock is a file beside the folder, since a dataset's folder is replaced as a whole. It ends
    with the process, however that ends. Raises UserError if another process has it, and still has
    it after `patience` seconds.
    """
    folder = folder.resolve()
    if not folder.name:
        raise UserError(f"{folder} cannot be written; choose another name")
    path = folder.with_name(f".{folder.name}.lock")
    lock = filelock.FileLock(path, timeout=patience, fallback_to_soft=False)
    made = [parent for parent in folder.parents if not parent.exists()]  # the deepest first
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except filelock.Timeout:
        holder = ""
        with contextlib.suppress(OSError):
            holder = path.read_text(encoding="utf-8")
        raise UserError(
            f"{short_path(folder)} is being written by {holder or 'another process'}; wait until "
            "that ends, or choose another name"
        ) from None
    except (OSError, NotImplementedError) as error:
        reason = getattr(error, "strerror", None) or error
        number = getattr(error, "errno", None)
        if number in OTHER_ERRORS or (number == errno.EACCES and path.exists()):
            raise UserError(f"cannot lock {short_path(folder)}: {reason} ({path})") from None
        if path.parent not in without_locks:
            without_locks.add(path.parent)
            where = short_path(path.parent)
            log = f"{where}: no lock here ({reason}): start nothing else that writes there"
            print(log, file=sys.stderr)
        put_back(folder)
        yield
        return
    try:
        name = Path(sys.argv[0]).name
        since = time.strftime("%Y-%m-%d %H:%M")
        text = f"{name}, process {os.getpid()} on {socket.gethostname()} since {since}"
        with contextlib.suppress(OSError):  # Windows locks the file's content, too
            path.write_text(text, encoding="utf-8")
        put_back(folder)
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()  # a process that has just opened it notices
        lock.release()
        with contextlib.suppress(OSError):
            for parent in made:  # leave no empty folders
                parent.rmdir()


def replace_folder(built: Path, folder: Path) -> None:
    """Put a built folder in place of `folder`; after a crash in between, `put_back` mends it."""
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    built.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def put_back(folder: Path) -> None:
    """Bring back the old folder where a crash in `replace_folder` has left none."""
    old = folder.with_name(f".{folder.name}.old")
    if old.is_dir() and not folder.exists():
        old.rename(folder)


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
