"""Stories from files: .txt with separators, .jsonl, .json, .csv and .parquet.

Read as streams, in bounded memory. UserError gives the place of what is wrong in a file.
"""

import codecs
import csv
import difflib
import glob
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from configurator import UserError

SEPARATOR = "<|endoftext|>"  # between the stories of a .txt file
MAX_CHARS = 16 * 2**20  # a longer "story" is a file without separators
CHUNK = 2**20  # bytes that are read at a time


def find_files(source: str, text_field: str | None, known: Sequence[str]) -> tuple[Path, ...]:
    """The files of a path or glob, sorted; raises UserError for what cannot be read as stories.

    Reads the beginning of each file, so that mistakes show at once. `known` are names of other
    sources, for the error message.
    """
    path = Path(os.path.expanduser(source))
    if path.is_dir():
        raise UserError(f"{source} is a folder; say which files of it, as in {path / '*.txt'}")
    found = [path] if path.is_file() else map(Path, glob.glob(str(path), recursive=True))
    paths = tuple(sorted(path for path in found if path.is_file()))
    if not paths:
        near = difflib.get_close_matches(source, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"a source is a path or {', '.join(known)}"
        raise UserError(f"there is no file {source}; {hint}")
    try:
        starts = [_first_texts(path, text_field) for path in paths]
    except OSError as error:  # no permission, a failing disk
        raise UserError(f"cannot read {error.filename or source}: {error.strerror}") from None
    if not any(map(any, starts)):
        raise UserError(f"{source} holds no stories")
    if paths[0].suffix.lower() == ".txt" and sum(map(len, starts)) == 1:
        raise UserError(f"{source} is one single story; write a line {SEPARATOR} between stories")
    return paths


def _first_texts(path: Path, text_field: str | None) -> list[bool]:
    """For each of the first two texts, or as many as it takes to find a story: is it one?"""
    found = []
    for text in read_texts([path], text_field):
        found.append(text.strip() != "")
        if len(found) > 1 and any(found):
            break
    return found


def short_name(source: str) -> str:
    """tales/fox.txt gives fox, tales/part-*.txt gives part, tales/*.txt gives tales."""
    path = Path(os.path.expanduser(source))
    for part in (path.stem, *(parent.name for parent in path.absolute().parents)):
        name = re.sub(r"\W+", "_", re.sub(r"\[.*?\]|[*?]", "", part)).strip("_")
        if name:
            return name
    return "stories"


def read_texts(paths: Iterable[Path], text_field: str | None = None) -> Iterator[str]:
    """The texts of files, one after the other; raises UserError for what cannot be read."""
    for path in paths:
        extension = path.suffix.lower()
        if extension not in READERS:
            known = ", ".join(READERS)
            raise UserError(f"cannot read stories from {path}; the known extensions are {known}")
        yield from READERS[extension](path, text_field)


def split_stories(pieces: Iterable[str], path: Path) -> Iterator[str]:
    """Cut text, in pieces, at the separators, and remove one line break before and after each."""
    for number, part in enumerate(_cut(pieces, SEPARATOR, path)):
        story = part.removesuffix(SEPARATOR)
        if not story.strip() and (number == 0 or not part.endswith(SEPARATOR)):
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
            missing = f"a line {separator.strip() or 'break'}"
            raise UserError(f"{path} has {MAX_CHARS:,} characters without {missing}")
    if rest:
        yield rest


def _decoded(path: Path) -> Iterator[str]:
    """The text of a file in chunks; UserError if it is not UTF-8."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    with path.open("rb") as file:
        while True:
            at = file.tell() - len(decoder.getstate()[0])  # the decoder holds half a character
            chunk = file.read(CHUNK)
            try:
                piece = decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                place = f"{path}, byte {at + error.start:,}"
                raise UserError(f"{place}: this is not UTF-8; save the file as UTF-8") from None
            yield piece.removeprefix("\ufeff") if at == 0 else piece  # byte order mark
            if not chunk:
                return


def _json_texts(path: Path, text_field: str | None) -> Iterator[str]:
    """The texts of a file with one JSON value per line, or one JSON list: objects or strings."""
    if next(_decoded(path)).lstrip().startswith("["):
        unit, rows = "entry", enumerate(_loads("".join(_decoded(path)), path, 1), 1)
    else:
        lines = enumerate(_cut(_decoded(path), "\n", path), 1)
        unit, rows = "line", ((n, _loads(line, path, n)) for n, line in lines if line.strip())
    for number, row in rows:
        place = f"{path}, {unit} {number:,}"
        if isinstance(row, dict):
            row = row[_column(row, text_field, place)]
        yield _text(row, place)


def _loads(text: str, path: Path, first_line: int) -> Any:
    """Parse JSON that begins in a given line of a file."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # also numbers and nesting beyond all limits
        place = f"{path}, line {first_line + getattr(error, 'lineno', 1) - 1:,}"
        reason = getattr(error, "msg", error)
        raise UserError(f"{place}: this is not JSON ({reason}); one object per line") from None


def _csv_texts(path: Path, text_field: str | None) -> Iterator[str]:
    """The texts in a column of a CSV file, whose first line names the columns."""
    csv.field_size_limit(MAX_CHARS)
    rows = csv.DictReader(_cut(_decoded(path), "\n", path), strict=True)
    try:
        column = _column(rows.fieldnames or (), text_field, path)
        for row in rows:
            yield _text(row[column], f"{path}, line {rows.line_num:,}")
    except csv.Error as error:
        raise UserError(f"{path}, line {rows.line_num:,}: this is not CSV ({error})") from None


def _parquet_texts(path: Path, text_field: str | None) -> Iterator[str]:
    """The texts in a column of a parquet file, a thousand rows at a time."""
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            column = _column(file.schema_arrow.names, text_field, path)
            for batch in file.iter_batches(batch_size=1000, columns=[column]):
                for value in batch[column].to_pylist():
                    yield _text(value, path)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:160]
        stored = path.resolve()  # in the hub's cache, the path is a link
        raise UserError(f"cannot read {path} ({reason}); delete {stored}, fetch it again") from None


def _column(names: Iterable[str], text_field: str | None, place: object) -> str:
    """The column that holds the text."""
    wanted = ("text", "story") if text_field is None else (text_field,)
    if found := [column for column in wanted if column in names]:
        return found[0]
    hint = f"name one with --text_field, there are: {', '.join(names) or 'none'}"
    raise UserError(f"{place}: no column {' or '.join(wanted)}; {hint}")


def _text(value: object, place: object) -> str:
    """A cell as text. Half a surrogate pair, which JSON allows, becomes U+FFFD."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise UserError(f"{place}: a story is text, this is {str(value)[:40]!r}")
    return value if value.isascii() else re.sub("[\ud800-\udfff]", "\ufffd", value)


READERS = {
    ".txt": lambda path, _: split_stories(_decoded(path), path),
    ".jsonl": _json_texts,
    ".json": _json_texts,
    ".csv": _csv_texts,
    ".parquet": _parquet_texts,
}
