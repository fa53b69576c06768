"""What people read on a screen of 80 columns: notes, progress bars, short numbers, tables."""

import re
import shlex
import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Iterable, Sequence, Sized
from pathlib import Path
from typing import Any

from tqdm import tqdm

SCREEN = 80  # columns
CHINESE = "[\u3001-\u30ff\u3400-\u9fff\uff01-\uff1f]"  # or Japanese; punctuation, too
WHOLE_WORDS: Any = {"break_long_words": False, "break_on_hyphens": False}


def log_stderr(text: str) -> None:
    """Print to standard error, where the command's result goes to standard output.

    Lines that are longer than the screen are wrapped.
    """
    print("\n".join(map(wrapped, text.splitlines())), file=sys.stderr, flush=True)


class WordWrap:
    """Prints text that arrives in pieces.

    On a terminal, lines break between words, and between Chinese or Japanese characters.
    """

    def __init__(self):
        self.width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        self.column, self.space, self.word = 0, "", ""

    def write(self, text: str, last: bool = False) -> None:
        """Print what is complete of a text, and at the `last` piece the rest and a line break."""
        if not self.width:
            print(text, end="\n" if last else "", flush=True)
            return
        for part in re.findall(rf"\s|{CHINESE}|.", text + "\n" * last):
            if not part.isspace() and not re.match(CHINESE, part):
                self.word += part
                continue
            self._print_word(self.width)
            if part == "\n":
                self.column, self.space = 0, ""
                print()
            elif part.isspace():
                self.space += part
            else:
                self.word = part
                self._print_word(self.width)
        sys.stdout.flush()

    def _print_word(self, width: int) -> None:
        if self.word and 0 < self.column and self.column + columns(self.space + self.word) > width:
            self.column, self.space = 0, "\n"
        if self.word:
            print(self.space + self.word, end="")
            self.column += columns((self.space + self.word).lstrip("\n"))
            self.space = self.word = ""


def columns(text: str) -> int:
    """How much room a text takes on the screen: Chinese and Korean characters take two columns."""
    marks = sum(unicodedata.combining(character) > 0 for character in text)
    return len(text) - marks + sum(unicodedata.east_asian_width(c) in "WF" for c in text)


def wrapped(text: str, indent: str = "  ") -> str:
    """A text broken at spaces into lines of the screen, all but the first of them indented.

    What has no space, such as a path, stays whole even where it is longer than a line.
    """
    return textwrap.fill(text, SCREEN, subsequent_indent=indent, **WHOLE_WORDS)


def command_text(*words: str) -> str:
    """A command on lines of its own, to be copied; in a shell a backslash continues a line."""
    quoted = (shlex.quote(word).replace(" ", "\0") for word in words)
    lines = textwrap.wrap(" ".join(quoted), SCREEN - len("    " + " \\"), **WHOLE_WORDS)
    return ("  " + " \\\n    ".join(lines)).replace("\0", " ")


def progress(items: Iterable | None, desc: str, unit: str, **options) -> tqdm:
    """The items with a progress bar, which only a terminal shows.

    `unit` says what is counted, in the plural; `options` as tqdm has them.
    """
    if isinstance(items, Sized):
        options.setdefault("total", len(items))
    bar = "{desc}: {n_fmt} {unit} [{elapsed}]"
    if options.get("total") is not None:
        bar = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} {unit} [{elapsed}<{remaining}]"
    options.setdefault("bar_format", bar)
    return tqdm(items, desc=desc, unit=unit, disable=None, leave=False, mininterval=0.5, **options)


def counted(count: int, singular: str, plural: str = "") -> str:
    """A count with its noun: 1 run, 2,000 runs; `plural` where an s is not enough."""
    return f"{count:,} {singular if count == 1 else plural or singular + 's'}"


def short_count(count: float) -> str:
    """A count in few characters: 850, 8.50K, 614M, 1.23B."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if count >= 0.9995 * size:
            return f"{count / size:#.3g}".rstrip(".") + letter
    return f"{count:.0f}"


def duration(seconds: float) -> str:
    """A time in few characters: 45s, 12m05s, 3h20m."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02}m"
    return f"{minutes}m{seconds:02}s" if minutes else f"{seconds}s"


def time_taken(seconds: float) -> str:
    """A time with its unit, in a sentence: 0.24 s, 45 s, 12.1 min, 3.33 h."""
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.2g} s"


def right_aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines, each column as wide as its widest cell; rows may be shorter."""
    widths = [max(len(row[i]) for row in rows if i < len(row)) for i in range(max(map(len, rows)))]
    return ["  ".join(map(str.rjust, row, widths)) for row in rows]


def sections_table(columns: dict[str, dict[str, dict[str, str]]], label_width: int = 29) -> str:
    """Columns side by side under their names, as many at a time as the screen takes.

    `columns` are by name; each has its cells by section and by label.
    """
    longest = SCREEN - label_width - 2
    names = [name if len(name) <= longest else "..." + name[3 - longest :] for name in columns]
    cells = list(columns.values())
    width = max(17, *(len(name) + 2 for name in names))
    fitting = (SCREEN - label_width) // width
    lines = []
    for first in range(0, len(names), fitting):
        shown, shown_names = cells[first : first + fitting], names[first : first + fitting]
        labels = {}  # of these columns, by section
        for column in shown:
            for section, rows in column.items():
                labels.setdefault(section, {}).update(rows)
        lines += ["", " " * label_width + "".join(name.rjust(width) for name in shown_names)]
        for section, rows in labels.items():
            lines.append(section[:SCREEN])
            for label in rows:
                row = "".join(c.get(section, {}).get(label, "").rjust(width) for c in shown)
                lines.append(f"  {label:{label_width - 3}.{label_width - 3}} {row}")
    return "\n".join(line.rstrip() for line in lines[1:])


def distinct_names(paths: Sequence[Path]) -> list[str]:
    """A name for each path: the shortest ends of the paths that differ."""
    parts = [path.parts for path in paths]
    depth = 1
    while len({p[-depth:] for p in parts}) < len(set(parts)):
        depth += 1
    return [Path(*p[-depth:]).as_posix() for p in parts]
