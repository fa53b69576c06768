"""Datasets: the .bin format, its metadata, the stories in it, and which windows make a batch.

data/<dataset>/ holds train.bin and val.bin (little-endian uint16 ids, nothing else; every story
is followed by the end-of-text id), meta.json (sources, counts, checksums), vocabulary.json and, for
nanoGPT, meta.pkl. Its datasets train here too, and ours there. A window is a sequence of block_size
tokens: what the model is trained on and what it sees at once.
"""

import contextlib
import copy
import functools
import hashlib
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from configurator import ROOT, UserError
from tinystories.files import first_of, only_writer, read_json, sha256_of, write_json
from tinystories.tokenizer import (
    GPT2_VOCAB_SIZE,
    VOCABULARY,
    Tokenizer,
    gpt2,
    read_meta_pkl,
    write_meta_pkl,
)

FORMAT = 1  # of meta.json
SPLITS = ("train", "val")
SPLIT_FIELDS = ("stories", "tokens", "bytes", "sha256")  # in meta.json, of each split
OWN_FILES = {  # what commands write into a dataset's folder
    *("train.bin", "val.bin", "meta.json", *VOCABULARY, "meta.pkl"),
    *("explore.png", "explore.txt", "checked.json", "near_duplicates.txt"),
}
CHUNK = 2**22  # ids that are read at a time
PROBES, PROBE = 16, 4096  # places of a foreign .bin that are looked at, ids at each
LLM_C_MAGIC = {20240520: "GPT-2", 20240801: "Llama 3"}  # the first int32 of its .bin files


class SplitWriter:
    """A context manager that writes one split's .bin, and counts what goes in."""

    def __init__(self, path: Path, dtype: str = "<u2"):
        self.file, self.dtype = open(path, "wb"), dtype
        self.sha256 = hashlib.sha256()
        self.stories = self.tokens = self.bytes = 0

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()

    def write(self, ids: np.ndarray, stories: int, text_bytes: int) -> None:
        """Append the ids of so many stories, and so many UTF-8 bytes of text."""
        data = ids.astype(self.dtype).tobytes()
        self.file.write(data)
        self.sha256.update(data)
        self.stories += stories
        self.tokens += len(ids)
        self.bytes += text_bytes

    def metadata(self) -> dict:
        """The split's entry in meta.json."""
        counts = (self.stories, self.tokens, self.bytes, self.sha256.hexdigest())
        return dict(zip(SPLIT_FIELDS, counts, strict=True))


def dataset_folder(dataset: str) -> Path:
    """The folder of a dataset: under data/, unless its name is an absolute path.

    If a crash has left it under its temporary name, it is brought back first.
    """
    folder = (ROOT / "data" / os.path.expanduser(dataset)).resolve()
    for _ in range(50):  # while prepare.py, which has the lock, replaces it
        if folder.exists() or not folder.with_name(f".{folder.name}.old").exists():
            break
        with contextlib.suppress(UserError), only_writer(folder):
            break
        time.sleep(0.1)
    return folder


def write_meta(folder: Path, meta: dict) -> None:
    """Write meta.json, the metadata of a dataset folder."""
    write_json(folder / "meta.json", {"format": FORMAT} | meta)


def read_meta(folder: Path) -> dict | None:
    """The metadata in meta.json, None where there is none; raises UserError if it is damaged."""

    def is_valid(meta: dict) -> bool:
        parts = meta.get("sources", [])  # a dataset of an earlier version has none
        splits = [part[split] for part in (meta["splits"], *parts) for split in SPLITS]
        counts = [split[name] for split in splits for name in SPLIT_FIELDS[:3]]
        counts += [split.get("kept", 0) for split in splits]
        counts.append(meta["tokenizer"]["vocab_size"])
        if "cleaning" in meta:
            counts += [n for split in SPLITS for n in meta["cleaning"][split].values()]
        texts = [meta["splits"][split]["sha256"] for split in SPLITS] + [meta["tokenizer"]["kind"]]
        texts += [part[name] for part in parts for name in ("name", "source")]
        return (
            meta["format"] == FORMAT
            and isinstance(meta["settings"], dict)
            and all(type(n) is int and 0 <= n < 2**63 for n in counts)
            and meta["splits"]["train"]["tokens"] > 0
            and all(isinstance(text, str) for text in texts)
            and all(type(part["weight"]) in (int, float) for part in parts)
        )

    try:
        return read_json(folder / "meta.json", is_valid, "prepare the dataset again")
    except FileNotFoundError:
        return None


def write_vocabulary(folder: Path, tokenizer: Tokenizer) -> None:
    """Write vocabulary.json, and meta.pkl for nanoGPT, which assumes GPT-2's ids without it."""
    tokenizer.save(folder / VOCABULARY[0])
    if tokenizer.vocab_size != GPT2_VOCAB_SIZE or tokenizer.kind != "gpt2":
        write_meta_pkl(folder / "meta.pkl", tokenizer)


class TokenFile:
    """One .bin, memory-mapped: only the tokens that are asked for are read.

    In a dataset ids have 16 bits; in a temporary file `dtype` may say otherwise.
    Raises UserError for a file that is missing, of odd size, or shorter than one window.
    """

    def __init__(self, path: Path, vocab_size: int, block_size: int, dtype: str = "<u2"):
        self.path, self.vocab_size, self.block_size = path, vocab_size, block_size
        if not path.is_file():
            raise UserError(f"{path} is missing: prepare the dataset again")
        size, width = path.stat().st_size, np.dtype(dtype).itemsize
        if size % width:
            raise UserError(f"{path} has an odd size, {size:,} bytes: it does not hold uint16 ids")
        if size < width * (block_size + 1):
            raise UserError(
                f"{path} holds {size // width:,} tokens; a window of block_size={block_size} "
                f"needs {block_size + 1:,}: give more stories or a smaller block_size"
            )
        self.ids: np.ndarray = np.memmap(path, dtype=dtype, mode="r")

    def __len__(self) -> int:
        return len(self.ids)

    def part(self, start: int, stop: int) -> "TokenFile":
        """The ids [start, stop) like a file of their own."""
        part = copy.copy(self)
        part.ids = self.ids[start:stop]
        return part

    def windows(self, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets of the windows that begin at `starts`.

        x and y have shape (len(starts), block_size), int64; y is x one token later. Past the end of
        the file x is 0 and y is -1, which the loss ignores. Raises UserError for an id outside the
        vocabulary, with its position.
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
            self.check_ids(ids, start)
        return x, y

    def batches(
        self, starts: np.ndarray, batch_size: int, pad: bool = False
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The windows that begin at `starts`, `batch_size` at a time, as x and y of `windows`.

        `pad` fills the last batch with windows that have no target: a compiled model would be
        compiled again for a smaller batch.
        """
        for first in range(0, len(starts), batch_size):
            batch = starts[first : first + batch_size]
            if pad:
                missing = batch_size - len(batch)
                batch = np.pad(batch, (0, missing), constant_values=len(self))
            yield self.windows(batch)

    def sequential_starts(self, tokens: int | None = None) -> np.ndarray:
        """Starts of non-overlapping windows in order, the short last one included.

        As many as cover the first `tokens` targets (rounded up to a window), or the whole file.
        """
        last = len(self) - 1 if tokens is None else min(tokens, len(self) - 1)
        return np.arange(0, last, self.block_size)

    def evenly_spaced_starts(self, count: int) -> np.ndarray:
        """Starts of up to `count` whole windows, evenly spaced; in a small file they overlap."""
        last_start = len(self) - self.block_size - 1
        return np.linspace(0, last_start, min(count, last_start + 1)).astype(np.int64)

    def story_chunks(
        self, end_of_text: int | None, size: int = CHUNK, start: int = 0, stop: int | None = None
    ) -> Iterator[tuple[int, int]]:
        """Bounds of chunks of whole stories, each of about `size` ids, in ids [start, stop).

        A chunk ends after an end of text; the last one, at `stop` or at the end of the file.
        Where there is no such id (None), the file is one story.
        """
        stop = len(self) if stop is None else stop
        while start < stop:
            end, ends = start, np.empty(0, dtype=np.int64)
            while not len(ends) and end < stop:  # a story may be longer than `size`
                ends = np.flatnonzero(self.ids[end : min(end + size, stop)] == end_of_text) + end
                end += size
            end = int(ends[-1]) + 1 if end < stop else stop
            yield start, end
            start = end

    def story_ids(
        self, end_of_text: int | None, start: int = 0, stop: int | None = None
    ) -> Iterator[np.ndarray]:
        """The ids of each story in ids [start, stop), in order and in bounded memory.

        The end of text that follows a story is the last of its ids.
        """
        for first, last in self.story_chunks(end_of_text, CHUNK, start, stop):
            ids = np.asarray(self.ids[first:last])
            self.check_ids(ids, first)
            stops = np.flatnonzero(ids == end_of_text) + 1
            yield from (story for story in np.split(ids, stops) if len(story))

    def stories(
        self, tokenizer: Tokenizer, start: int = 0, stop: int | None = None
    ) -> Iterator[str]:
        """The text of each story in ids [start, stop), in order and in bounded memory."""
        token_bytes = tokenizer.token_bytes
        for ids in self.story_ids(tokenizer.end_of_text, start, stop):
            data = b"".join([token_bytes[i] for i in ids.tolist()])
            yield data.decode("utf-8", errors="replace")

    def check_foreign(self) -> None:
        """Raises UserError if a .bin without meta.json holds something else than it should.

        Looks at the beginning and at some other places, not at the whole file.
        """
        magic = int.from_bytes(self.ids[:2].tobytes(), "little")
        if magic in LLM_C_MAGIC:
            advice = (
                f"cut off the header: tail -c +1025 {self.path.name}"
                if magic == min(LLM_C_MAGIC)
                else "its ids of 32 bits do not fit here; prepare the text with prepare.py"
            )
            raise UserError(f"{self.path} is a file of llm.c, {LLM_C_MAGIC[magic]} ids; {advice}")
        firsts = np.linspace(0, max(0, len(self) - PROBE), PROBES).astype(int) // 2 * 2
        sample = np.stack([self.ids[first : first + min(PROBE, len(self))] for first in firsts])
        low, high = sample[:, ::2], sample[:, 1::2]
        if high.size >= 32 and high.max() < 3 <= low.max():
            raise UserError(
                f"{self.path} holds ids of 32 bits (every second number of 16 bits is "
                f"{'0' if not high.any() else '0 to 2'}); they fit here as 16 bits, if below "
                "65,536: numpy.fromfile(old, 'u4').astype('u2').tofile(new)"
            )
        if len(self) >= 1000 and (largest := int(sample.max())) < self.vocab_size // 8:
            raise UserError(
                f"{self.path} has only ids up to {largest:,} where it was looked at, too few for "
                f"{self.vocab_size:,}; add its meta.pkl (nanoGPT) or vocabulary.json (prepare.py)"
            )

    def check_ids(self, ids: np.ndarray, start: int) -> None:
        """Raises UserError if one of `ids`, which begin at position `start`, is out of range."""
        if ids.max() >= self.vocab_size:
            at = int((ids >= self.vocab_size).argmax())
            raise UserError(
                f"{self.path} holds the id {ids[at]} at position {start + at:,}, "
                f"outside the vocabulary of {self.vocab_size:,}: prepare the dataset again"
            )


class WindowSampler:
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
            self._set_epoch(epoch)
            parts.append(self.order[place : place + count])
            seen, count = seen + len(parts[-1]), count - len(parts[-1])
        return np.concatenate(parts)

    def _set_epoch(self, epoch: int) -> None:
        """Draw the offset and the order of an epoch's windows."""
        if epoch == self.epoch:
            return
        # numpy promises that RandomState's numbers never change; Generator's may.
        bits = np.random.MT19937(np.random.SeedSequence([self.seed, epoch]))
        rng = np.random.RandomState(bits)
        max_offset = self.tokens - 1 - self.windows_per_epoch * self.block_size
        offset = rng.randint(max_offset + 1)
        self.order = rng.permutation(self.windows_per_epoch) * self.block_size + offset
        self.epoch = epoch


@dataclass(frozen=True)
class Dataset:
    """A prepared folder, open for reading."""

    folder: Path
    train: TokenFile
    val: TokenFile
    tokenizer: Tokenizer
    meta: dict | None  # None where the folder has no meta.json
    note: str | None = None  # what is assumed without meta.json

    @functools.cached_property
    def val_parts(self) -> dict[str, TokenFile]:
        """The validation stories by the name of their source; all of them, where there is one."""
        sources = self.meta.get("sources", []) if self.meta else []
        if len(sources) < 2:
            return {"": self.val}
        parts, start = {}, 0
        for source in sources:
            stop = start + source["val"]["tokens"]
            parts[source["name"]], start = self.val.part(start, stop), stop
        return parts

    def first_stories(self) -> list[str]:
        """The first validation stories of each source, about 20,000 tokens of each."""
        parts = [(file, min(20_000, len(file))) for file in self.val_parts.values()]
        return [text for file, stop in parts for text in file.stories(self.tokenizer, 0, stop)]

    @functools.cached_property
    def fingerprint(self) -> str:
        """A checksum of both splits, which a resumed run compares with its own."""
        if self.meta:
            parts = [self.meta["splits"][split]["sha256"] for split in SPLITS]
        else:
            parts = [sha256_of(file.path) for file in (self.train, self.val)]
        return hashlib.sha256(" ".join(parts).encode()).hexdigest()


def open_dataset(dataset: str, block_size: int, docs: Sequence[str] = ()) -> Dataset:
    """Open data/<dataset>/.

    Without meta.json the vocabulary is that of vocabulary.json, else of nanoGPT's meta.pkl, else
    GPT-2's. `docs` are docstrings that may hold the command which prepares the dataset. Raises
    UserError if the folder or a file is missing or damaged, or they do not fit together.
    """
    folder = dataset_folder(dataset)
    if not folder.is_dir():
        raise UserError(missing_dataset_message(folder, docs))
    meta, note = read_meta(folder), None
    if meta:
        path = first_of(folder, *VOCABULARY)
        tokenizer = Tokenizer.load(path)
        if tokenizer.vocab_size != meta["tokenizer"]["vocab_size"]:
            raise UserError(f"{path} is not the one that meta.json describes")
    else:
        tokenizer, note = foreign_tokenizer(folder)
    files = [
        TokenFile(folder / f"{split}.bin", tokenizer.vocab_size, block_size) for split in SPLITS
    ]
    for split, file in zip(SPLITS, files, strict=True):
        if not meta:
            file.check_foreign()
        elif meta["splits"][split]["tokens"] != len(file):
            raise UserError(
                f"{file.path} holds {len(file):,} tokens, but its meta.json says "
                f"{meta['splits'][split]['tokens']:,}: prepare the dataset again"
            )
    if meta:
        check_checksums(folder, meta)
    train, val = files
    return Dataset(folder, train, val, tokenizer, meta, note)


def check_checksums(folder: Path, meta: dict) -> None:
    """Compare the .bin files with meta.json, once for each size and time of change that they have.

    checked.json remembers those. Raises UserError if a checksum differs.
    """
    paths = {split: folder / f"{split}.bin" for split in SPLITS}
    states = {path.name: path.stat() for path in paths.values()}
    seen = {name: [state.st_size, state.st_mtime_ns] for name, state in states.items()}
    with contextlib.suppress(FileNotFoundError, UserError):
        if read_json(folder / "checked.json", bool, "") == seen:
            return
    for split, path in paths.items():
        if sha256_of(path) != meta["splits"][split]["sha256"]:
            raise UserError(f"{path} has changed since it was made: prepare the dataset again")
    with contextlib.suppress(UserError):  # the folder may be read-only
        write_json(folder / "checked.json", seen)


def foreign_tokenizer(folder: Path) -> tuple[Tokenizer, str]:
    """The vocabulary of a dataset without meta.json, and a line that says where it is from."""
    if (path := first_of(folder, *VOCABULARY)).exists():
        if "added_tokens" in read_json(path, bool, "prepare the dataset again"):
            raise UserError(
                f"{path} is a tokenizer of Hugging Face's, and its ids cannot be used here; "
                "prepare the text itself with prepare.py"
            )
        return Tokenizer.load(path), f"has no meta.json; the vocabulary is that of {path.name}"
    if (path := folder / "meta.pkl").exists():
        return read_meta_pkl(path), "has no meta.json; the vocabulary is that of nanoGPT's meta.pkl"
    return gpt2(), "has no meta.json; assuming GPT-2 token ids"


def prepare_command_in(docs: Iterable[str]) -> str | None:
    """The command in the docstrings of configs that prepares their data; None without any."""
    lines = [line.strip() for doc in docs for line in doc.splitlines()]
    commands = [line[line.index("python prepare.py") :] for line in lines if "prepare.py" in line]
    return commands[-1] if commands else None


def missing_dataset_message(folder: Path, docs: Iterable[str]) -> str:
    """What to say of a dataset that is missing."""
    command = prepare_command_in(docs) or "python prepare.py (--help shows how)"
    return f"{folder} is missing; prepare it with: {command}"
