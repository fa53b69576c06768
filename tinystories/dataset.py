"""Token files: the .bin format and its manifest, and which windows of tokens make a batch.

data/<dataset>/ holds train.bin and val.bin (little-endian uint16 ids, nothing else; every story
is followed by the end-of-text id), meta.json (where they come from, how many, checksums) and
tokenizer.json. A .bin of any other nanoGPT-style repo trains here too, and ours there.
"""

import functools
import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from configurator import ROOT, UserError

FORMAT = 1  # of meta.json
GPT2_VOCAB_SIZE = 50_257  # a folder without meta.json is taken to hold GPT-2's ids
SPLITS = ("train", "val")
SPLIT_FIELDS = ("stories", "tokens", "bytes", "sha256")  # what meta.json says of each


# Writing ------------------------------------------------------------------------------------


class SplitWriter:
    """Writes one split's .bin, and keeps count of what goes in.

    Use as a context manager; `manifest()` gives the split's entry in meta.json.
    """

    def __init__(self, path: Path):
        self.file = open(path, "wb")
        self.sha256 = hashlib.sha256()
        self.stories = self.tokens = self.bytes = 0

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()

    def write(self, ids: np.ndarray, stories: int, text_bytes: int) -> None:
        """Append the uint16 ids of whole `stories`, which hold `text_bytes` of UTF-8 text."""
        data = ids.astype("<u2").tobytes()
        self.file.write(data)
        self.sha256.update(data)
        self.stories += stories
        self.tokens += len(ids)
        self.bytes += text_bytes

    def manifest(self) -> dict:
        """The counts and the checksum of what was written."""
        counts = (self.stories, self.tokens, self.bytes, self.sha256.hexdigest())
        return dict(zip(SPLIT_FIELDS, counts, strict=True))


def dataset_folder(dataset: str) -> Path:
    """Where a dataset lies: under data/, or wherever an absolute path says."""
    return ROOT / "data" / Path(dataset).expanduser()


def write_meta(folder: Path, meta: dict) -> None:
    """Write meta.json, the manifest of a dataset folder."""
    text = json.dumps({"format": FORMAT} | meta, indent=2, ensure_ascii=False)
    (folder / "meta.json").write_text(text + "\n", encoding="utf-8")


def read_meta(folder: Path) -> dict | None:
    """The manifest of a dataset folder, or None where there is none.

    Raises:
        UserError: a manifest that is damaged or from a newer version.
    """
    path = folder / "meta.json"
    if not path.exists():
        return None
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
        counts = [meta["splits"][split][name] for split in SPLITS for name in SPLIT_FIELDS]
        known = meta["format"] == FORMAT and "settings" in meta and None not in counts
        known = known and meta["tokenizer"]["vocab_size"] > 0
    except (ValueError, KeyError, TypeError):
        known = False
    if not known:
        raise UserError(f"{path} is damaged or of another format; prepare the dataset again")
    return meta


def publish(built: Path, folder: Path) -> None:
    """Put a folder that was built under a temporary name in its place, whole."""
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    built.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


# Reading ------------------------------------------------------------------------------------


class TokenFile:
    """One .bin, memory-mapped: its tokens are read as they are asked for.

    Raises:
        UserError: a file that is missing, of odd size, or shorter than one window.
    """

    def __init__(self, path: Path, vocab_size: int, block_size: int):
        self.path, self.vocab_size, self.block_size = path, vocab_size, block_size
        if not path.is_file():
            raise UserError(f"there is no {path}: prepare the dataset again")
        size = path.stat().st_size
        if size % 2:
            raise UserError(f"{path} has {size:,} bytes, an odd number: it holds no uint16 ids")
        if size < 2 * (block_size + 1):
            raise UserError(
                f"{path} holds {size // 2:,} tokens; a window of block_size={block_size} "
                f"needs {block_size + 1:,}: give more stories or a smaller block_size"
            )
        self.ids = np.memmap(path, dtype="<u2", mode="r")

    def __len__(self) -> int:
        return len(self.ids)

    def windows(self, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets of the windows that begin at `starts`.

        Returns:
            x and y of shape (len(starts), block_size), int64, where y is x one token later. Past
            the end of the file x is 0 and y is -1, which the loss passes over.

        Raises:
            UserError: an id outside the vocabulary, with its position.
        """
        T = self.block_size
        x = np.zeros((len(starts), T), dtype=np.int64)
        y = np.full((len(starts), T), -1, dtype=np.int64)
        for row, start in enumerate(starts):
            ids = self.ids[start : start + T + 1]
            if len(ids) < 2:
                continue
            x[row, : len(ids) - 1] = ids[:-1]
            y[row, : len(ids) - 1] = ids[1:]
            if ids.max() >= self.vocab_size:
                position = start + int((ids >= self.vocab_size).argmax())
                raise UserError(
                    f"{self.path} holds the id {self.ids[position]} at position {position:,}, "
                    f"outside the vocabulary of {self.vocab_size:,}: prepare the dataset again"
                )
        return x, y

    def in_order(self, tokens: int | None = None) -> np.ndarray:
        """Starts of non-overlapping windows from the front, the short last one included.

        As many as cover the first `tokens` targets (rounded up to a window), or the whole file.
        """
        last = len(self) - 1 if tokens is None else min(tokens, len(self) - 1)
        return np.arange(0, last, self.block_size)

    def spread(self, count: int) -> np.ndarray:
        """Starts of `count` whole windows, evenly spaced from the first token to the last."""
        last_start = len(self) - self.block_size - 1
        return np.linspace(0, last_start, min(count, last_start + 1)).astype(np.int64)


class Shuffle:
    """The order in which training sees the windows of a .bin of `tokens` tokens.

    Window i of an epoch begins at o + i·T, with T the block size and o a random offset of that
    epoch: every token is a target at most once an epoch, no boundary is fixed, nothing is
    skipped for good. Which windows come next depends on the seed and the number of windows seen
    so far, and on nothing else.
    """

    def __init__(self, tokens: int, block_size: int, seed: int):
        self.tokens, self.block_size, self.seed = tokens, block_size, seed
        # One window fewer than would fit leaves at least T places for the offset.
        self.windows_per_epoch = max(1, (tokens - block_size) // block_size)
        self.epoch = None

    def starts(self, seen: int, count: int) -> np.ndarray:
        """Starts of the `count` windows that follow the first `seen` ones, shape (count,)."""
        parts = []
        while count > 0:
            epoch, place = divmod(seen, self.windows_per_epoch)
            self._enter(epoch)
            parts.append(self.order[place : place + count])
            seen, count = seen + len(parts[-1]), count - len(parts[-1])
        return np.concatenate(parts)

    def _enter(self, epoch: int) -> None:
        """Draw the offset and the order of an epoch."""
        if epoch == self.epoch:
            return
        # RandomState's numbers are promised never to change, those of numpy's Generator are not.
        bits = np.random.MT19937(np.random.SeedSequence([self.seed, epoch]))
        random = np.random.RandomState(bits)
        slack = self.tokens - 1 - self.windows_per_epoch * self.block_size
        offset = random.randint(slack + 1)
        self.order = random.permutation(self.windows_per_epoch) * self.block_size + offset
        self.epoch = epoch


@dataclass(frozen=True)
class Dataset:
    """A prepared folder under data/, open for training."""

    folder: Path
    train: TokenFile
    val: TokenFile
    vocab_size: int
    meta: dict | None  # None where the folder has no meta.json

    @functools.cached_property
    def identity(self) -> str:
        """A checksum of both splits: what a resumed run compares."""
        if self.meta:
            parts = [self.meta["splits"][split]["sha256"] for split in SPLITS]
        else:
            parts = [_sha256(file.path) for file in (self.train, self.val)]
        return hashlib.sha256(" ".join(parts).encode()).hexdigest()


def open_dataset(dataset: str, block_size: int) -> Dataset:
    """Open data/<dataset>/ for training.

    Raises:
        UserError: the folder or a .bin is missing, or a .bin is not what meta.json says.
        FileNotFoundError: there is no such folder (the caller knows how to prepare it).
    """
    folder = dataset_folder(dataset)
    if not folder.is_dir():
        raise FileNotFoundError(folder)
    meta = read_meta(folder)
    vocab_size = meta["tokenizer"]["vocab_size"] if meta else GPT2_VOCAB_SIZE
    train, val = (TokenFile(folder / f"{split}.bin", vocab_size, block_size) for split in SPLITS)
    for split, file in zip(SPLITS, (train, val), strict=True):
        if meta and meta["splits"][split]["tokens"] != len(file):
            raise UserError(
                f"{file.path} holds {len(file):,} tokens, but its meta.json says "
                f"{meta['splits'][split]['tokens']:,}: prepare the dataset again"
            )
    return Dataset(folder, train, val, vocab_size, meta)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
