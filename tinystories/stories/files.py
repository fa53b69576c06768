"""Stories from files: .txt with separators, .jsonl, .json, .csv, .parquet and .arrow.

Read as streams, in bounded memory; text also compressed, as .txt.gz. UserError gives the place of
what is wrong in a file.
"""

import codecs
import csv
import difflib
import glob
import importlib
import io
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from configurator import UserError

SEPARATOR = "<|endoftext|>"  # between the stories of a .txt file
MAX_CHARS = 16 * 2**20  # a longer "story" is a file without separators
MAX_TEXT = 2**30  # characters of a file that is one text, which is held in memory
LINE = 2000  # characters; where one text is cut, an end of a line is looked for this far
CHUNK = 2**20  # bytes that are read at a time
DECOMPRESSORS = {".gz": "gzip", ".bz2": "bz2", ".xz": "lzma", ".zst": "pyarrow"}  # modules
SPLIT_WORD = re.compile(r"(?<![a-z])(train|validation|valid|val|dev|test)(?![a-z])")
NO_STORIES = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}


class Options(NamedTuple):
    """How files are read."""

    column: str | None = None  # of the text, in tables; None: "text" or "story"
    separator: str | None = SEPARATOR  # between the stories of a text file; None: it is one text


def find_files(source: str, options: Options, known: Sequence[str]) -> tuple[Path, ...]:
    """The files of a path or glob, sorted; raises UserError for what cannot be read as stories.

    Reads the beginning of each file, so that mistakes show at once. `known` are names of other
    sources, for the error message.
    """
    path = Path(os.path.expanduser(source))
    if path.is_dir():
        raise UserError(f"{source} is a folder; say which files of it, as in {_pattern(path)}")
    found = [path] if path.is_file() else map(Path, glob.glob(str(path), recursive=True))
    paths = tuple(sorted(path for path in found if path.is_file()))
    if not paths:
        near = difflib.get_close_matches(source, known, n=1)
        others = f"a path, an id on the hub (owner/name), or {', '.join(known)}"
        hint = f"did you mean {near[0]}?" if near else f"a source is {others}"
        raise UserError(f"there is no file {source}; {hint}")
    try:
        starts = [_first_texts(path, options) for path in paths]
    except OSError as error:  # no permission, a failing disk
        raise UserError(f"cannot read {error.filename or source}: {error.strerror}") from None
    if not any(map(any, starts)):
        raise UserError(f"{source} holds no stories")
    tables = [path for path in paths if extension_of(path) in READERS.keys() - {".txt"}]
    if options.separator != SEPARATOR and tables:
        raise UserError(f"--separator goes with text files; {tables[0]} is none")
    if options.separator and not tables and sum(map(len, starts)) == 1:
        raise UserError(
            f"{source} is one single story, with no {options.separator!r} in it; prepare.py takes "
            "another --separator, such as '\\n\\n', or --separator=none for one text"
        )
    return paths


def _pattern(folder: Path) -> Path:
    """A glob of the stories in a folder, for an error message."""
    endings = [path.suffix for path in sorted(folder.iterdir()) if extension_of(path) in READERS]
    return folder / f"*{endings[0] if endings else '.txt'}"


def find_splits(names: Iterable[str], origin: str, any_folder: bool = False) -> dict[str, list]:
    """The data files in a folder or a repository, by split: "train", and "val" where it is there.

    Of several formats, the first in FORMATS is taken. A name with train in it belongs to train,
    one with validation, val, dev or else test to validation; other names are train where no name
    says so. Raises UserError where there is none, or more than one dataset.

    Args:
        names: paths of files, relative to the folder.
        origin: the folder, for error messages.
        any_folder: whether training files may be in several folders, else taken for datasets.
    """
    names = [name for name in sorted(names) if Path(name).name not in NO_STORIES]
    formats = {name: extension_of(Path(name)) for name in names}
    extension = next((e for e in FORMATS if e in formats.values()), None)
    by_word = {}
    for name in names:
        if formats[name] == extension is not None:
            words = SPLIT_WORD.findall(name.lower())
            by_word.setdefault(words[-1] if words else "", []).append(name)
    train = by_word.get("train") or by_word.get("")
    if not train:
        raise UserError(
            f"{origin} has no training files; the known endings are {', '.join(READERS)}"
        )
    folders = sorted({Path(name).parent.as_posix() for name in train})
    if len(folders) > 1 and not any_folder:
        shown = ", ".join(folders[:6]) + (", ..." if len(folders) > 6 else "")
        raise UserError(
            f"{origin} has several datasets, {shown}: name one, as {origin}/{folders[0]}"
        )
    val = next(filter(None, map(by_word.get, ("validation", "valid", "val", "dev", "test"))), None)
    return {"train": train} | ({"val": val} if val else {})


def _first_texts(path: Path, options: Options) -> list[bool]:
    """For each of the first two texts, or as many as it takes to find a story: is it one?"""
    found = []
    for text in read_texts([path], options):
        found.append(text.strip() != "")
        if len(found) > 1 and any(found):
            break
    return found


def short_name(source: str) -> str:
    """tales/fox.txt.gz gives fox, tales/part-*.txt gives part, tales/*.txt gives tales."""
    path = Path(os.path.expanduser(source))
    stem = Path(path.stem).stem if path.suffix.lower() in DECOMPRESSORS else path.stem
    for part in (stem, *(parent.name for parent in path.absolute().parents)):
        name = re.sub(r"\W+", "_", re.sub(r"\[.*?\]|[*?]", "", part)).strip("_")
        if name:
            return name
    return "stories"


def extension_of(path: Path) -> str:
    """The extension that names the format: .txt of fox.txt and of fox.txt.gz."""
    extension = path.suffix.lower()
    inner = Path(path.stem).suffix.lower()
    return (
        inner if extension in DECOMPRESSORS and inner not in (".parquet", ".arrow") else extension
    )


def read_texts(paths: Iterable[Path], options: Options) -> Iterator[str]:
    """The texts of files, one after the other; raises UserError for what cannot be read."""
    for path in paths:
        extension = extension_of(path)
        if extension not in READERS and options.separator == SEPARATOR:
            known = ", ".join(READERS)
            raise UserError(
                f"cannot read stories from {path}; the known extensions are {known}; "
                "with --separator other files are read as text"
            )
        for text in READERS.get(extension, _text_file)(path, options):
            if len(text) > MAX_CHARS and options.separator is not None:
                raise UserError(f"{path}: a story has {len(text):,} characters; divide it")
            yield text


def read_parts(paths: Iterable[Path], val_fraction: float, split: str) -> Iterator[str]:
    """Of files that are one text each, what belongs to a split: validation is the end of each.

    Cut at the end of a line, or at least of a word.
    """
    for text in read_texts(paths, Options(separator=None)):
        cut = _cutting_place(text, round(len(text) * (1 - val_fraction)))
        if part := text[:cut] if split == "train" else text[cut:]:
            yield part


def _cutting_place(text: str, near: int) -> int:
    """Where the end of a line is near, else of a word; not after the last character."""
    for mark in "\n ":
        start = max(0, near - 1)
        after = text.find(mark, start, min(near + LINE, len(text) - 1))
        before = text.rfind(mark, max(0, near - LINE), start)
        if after >= 0 or before >= 0:
            return 1 + (after if after >= 0 else before)
    return near


def count_texts(paths: Iterable[Path], options: Options) -> int | None:
    """How many texts files have, about; None where that takes as long as reading them."""
    total = 0
    for path in paths:
        extension = path.suffix.lower()
        if extension == ".parquet":
            import pyarrow.parquet

            try:
                total += pyarrow.parquet.read_metadata(path).num_rows
            except (pyarrow.ArrowException, OSError):  # reading it will say what is wrong
                return None
        elif extension == ".jsonl" or (extension == ".txt" and options.separator):
            mark = b"\n" if extension == ".jsonl" else (options.separator or "").encode()
            with path.open("rb") as file:
                total += sum(chunk.count(mark) for chunk in iter(lambda: file.read(CHUNK), b""))
        else:
            return None
    return total


def split_stories(pieces: Iterable[str], path: Path, separator: str = SEPARATOR) -> Iterator[str]:
    """Cut text, in pieces, at the separators, and remove one line break before and after each."""
    if "\n" in separator:  # so that it is found in files with the line breaks of Windows
        pieces = map(io.IncrementalNewlineDecoder(None, translate=True).decode, pieces)
        separator = separator.replace("\r\n", "\n")
    for number, part in enumerate(_cut(pieces, separator, path)):
        story = part.removesuffix(separator)
        if not story.strip() and (number == 0 or not part.endswith(separator)):
            continue  # a file may begin or end with a separator
        story = story[2:] if story.startswith("\r\n") else story.removeprefix("\n")
        yield story[:-2] if story.endswith("\r\n") else story.removesuffix("\n")


def _cut(pieces: Iterable[str], separator: str, path: Path) -> Iterator[str]:
    """Cut text after each separator, which stays at the end of its part."""
    rest = ""
    for piece in pieces:
        *parts, rest = (rest + piece).split(separator)
        for part in parts:
            yield part + separator
        if len(rest) > MAX_CHARS:
            missing = "a line break" if separator == "\n" else f"{separator!r}; see --separator"
            raise UserError(f"{path} has {MAX_CHARS:,} characters without {missing}")
    if rest:
        yield rest


def _text_file(path: Path, options: Options) -> Iterator[str]:
    """The stories of a text file, or all of it as one text."""
    if options.separator is not None:
        yield from split_stories(_decoded(path), path, options.separator)
        return
    pieces, size = [], 0
    for piece in _decoded(path):
        pieces.append(piece)
        size += len(piece)
        if size > MAX_TEXT:
            raise UserError(f"{path} has more than {MAX_TEXT:,} characters; cut it into files")
    if size:
        yield "".join(pieces)


def _open(path: Path) -> BinaryIO:
    """Open a file, which may be compressed, to read its bytes."""
    extension = path.suffix.lower()
    if extension not in DECOMPRESSORS:
        return path.open("rb")
    module = importlib.import_module(DECOMPRESSORS[extension])
    return module.input_stream(str(path), "zstd") if extension == ".zst" else module.open(path)


def _decoded(path: Path) -> Iterator[str]:
    """The text of a file in chunks; UserError if it is not UTF-8, or not what its name says."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    position = 0  # of the bytes that are decoded
    try:
        with _open(path) as file:
            while True:
                at = position - len(decoder.getstate()[0])  # the decoder holds half a character
                chunk = file.read(CHUNK)
                position += len(chunk)
                piece = decoder.decode(chunk, final=not chunk)
                yield piece.removeprefix("\ufeff") if at == 0 else piece  # byte order mark
                if not chunk:
                    return
    except UnicodeDecodeError as error:
        place = f"{path}, byte {at + error.start:,}"
        raise UserError(f"{place}: this is not UTF-8; save the file as UTF-8") from None
    except Exception as error:  # each kind of compression has its own exceptions
        if path.suffix.lower() not in DECOMPRESSORS or getattr(error, "errno", None):
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:100]
        raise UserError(f"cannot decompress {path} ({reason}); copy it again") from None


def _json_texts(path: Path, options: Options) -> Iterator[str]:
    """The texts of a file with one JSON value per line, or one JSON list: objects or strings."""
    if next(_decoded(path)).lstrip().startswith("["):
        unit, rows = "entry", enumerate(_loads("".join(_decoded(path)), path, 1), 1)
    else:
        lines = enumerate(_cut(_decoded(path), "\n", path), 1)
        unit, rows = "line", ((n, _loads(line, path, n)) for n, line in lines if line.strip())
    for number, row in rows:
        place = f"{path}, {unit} {number:,}"
        if isinstance(row, dict):
            row = row[_column(row, options, place)]
        yield _text(row, place)


def _loads(text: str, path: Path, first_line: int) -> Any:
    """Parse JSON that begins in a given line of a file."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # also numbers and nesting beyond all limits
        place = f"{path}, line {first_line + getattr(error, 'lineno', 1) - 1:,}"
        reason = getattr(error, "msg", error)
        raise UserError(f"{place}: this is not JSON ({reason}); one object per line") from None


def _csv_texts(path: Path, options: Options) -> Iterator[str]:
    """The texts in a column of a CSV file, whose first line names the columns."""
    csv.field_size_limit(MAX_CHARS)
    rows = csv.DictReader(_cut(_decoded(path), "\n", path), strict=True)
    try:
        column = _column(rows.fieldnames or (), options, path)
        for row in rows:
            yield _text(row[column], f"{path}, line {rows.line_num:,}")
    except csv.Error as error:
        raise UserError(f"{path}, line {rows.line_num:,}: this is not CSV ({error})") from None


def _parquet_texts(path: Path, options: Options) -> Iterator[str]:
    """The texts in a column of a parquet file, a thousand rows at a time."""
    import pyarrow
    import pyarrow.parquet

    # Arrow's threads can abort the process when it ends early (apache/arrow issue 34314), and
    # reading is no faster with them.
    try:
        with pyarrow.parquet.ParquetFile(path, pre_buffer=False) as file:
            column = _column(file.schema_arrow.names, options, path)
            for batch in file.iter_batches(1000, columns=[column], use_threads=False):
                for value in batch[column].to_pylist():
                    yield _text(value, path)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise _unreadable(path, error) from None


def _arrow_texts(path: Path, options: Options) -> Iterator[str]:
    """The texts in a column of an Arrow stream, as Dataset.save_to_disk writes it, or file."""
    import pyarrow
    import pyarrow.ipc

    try:
        with pyarrow.memory_map(str(path)) as file:
            if file.read(6) == b"ARROW1":
                reader = pyarrow.ipc.open_file(file)
                batches = map(reader.get_batch, range(reader.num_record_batches))
            else:
                file.seek(0)
                batches = reader = pyarrow.ipc.open_stream(file)
            column = _column(reader.schema.names, options, path)
            for batch in batches:
                for value in batch[column]:
                    yield _text(value.as_py(), path)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> UserError:
    """What is said of a damaged table."""
    reason = " ".join(str(error).split())[:160]
    stored = path.resolve()  # in the hub's cache, the path is a link
    return UserError(f"cannot read {path} ({reason}); delete {stored}, fetch it again")


def _column(names: Iterable[str], options: Options, place: object) -> str:
    """The column that holds the text."""
    wanted = ("text", "story") if options.column is None else (options.column,)
    if found := [column for column in wanted if column in names]:
        return found[0]
    hint = f"name one with --column, there are: {', '.join(names) or 'none'}"
    raise UserError(f"{place}: no column {' or '.join(wanted)}; {hint}")


def _text(value: object, place: object) -> str:
    """A cell as text. Half a surrogate pair, which JSON allows, becomes U+FFFD."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise UserError(f"{place}: a story is text, this is {str(value)[:40]!r}")
    return value if value.isascii() else re.sub("[\ud800-\udfff]", "\ufffd", value)


READERS = {
    ".txt": _text_file,
    ".jsonl": _json_texts,
    ".json": _json_texts,
    ".csv": _csv_texts,
    ".parquet": _parquet_texts,
    ".arrow": _arrow_texts,
}
FORMATS = (".parquet", ".arrow", ".jsonl", ".json", ".csv", ".txt")  # preferred in this order
