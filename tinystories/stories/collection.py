"""A file of composed stories that grows by a line at a time, whatever stops it in between."""

import contextlib
import json
import os
import threading
from array import array
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from configurator import UserError
from tinystories.files import atomic_write, short_path
from tinystories.stories.cleaning import digest
from tinystories.stories.composing import Dropped
from tinystories.stories.instruct import story_of
from tinystories.stories.near import SIMILAR, Index
from tinystories.terminal import progress


class Collection:
    """The stories in a .jsonl file, and in a .log beside it the answers that were dropped.

    Each answer is one line in one of the two, with the number of its order. The first line of the
    log is `identity`, which all of them have in common. Raises UserError for other files.
    """

    def __init__(self, path: Path, identity: dict):
        self.path, self.log = path, path.with_suffix(".log")
        self.numbers: set[int] = set()  # of the orders that have an answer
        self.digests: set[int] = set()  # of the stories
        self.places = array("q")  # of each story: the byte where its line begins
        self.index = Index(self.story)
        self.dropped: Counter[str] = Counter()  # answers by reason
        self.tokens = [0, 0]  # of all prompts and all answers
        self.lock = threading.Lock()
        self.begin(identity)
        for place, row in progress(read_rows(self.path), "reading what is there", "stories"):
            self.include(row, place)
        for place, row in read_rows(self.log, first=2):
            self.include(row, place)

    @property
    def stories(self) -> int:
        return len(self.digests)

    def begin(self, identity: dict) -> None:
        """Make the files, or raise UserError if they are of something else."""
        name = short_path(self.path)
        if not self.log.exists():
            if self.path.exists() and self.path.stat().st_size:
                raise UserError(f"{name} has stories, but no {self.log.name}; choose another --out")
            atomic_write(self.log, json.dumps(identity).encode() + b"\n")
        with self.log.open("rb") as file:
            try:
                found = json.loads(file.readline())
                different = [key for key in identity if found[key] != identity[key]]
            except (ValueError, LookupError, TypeError):
                raise UserError(f"{self.log} is no log of stories; choose another --out") from None
        if different == ["prompts"]:
            raise UserError(f"{name} was begun with other words or prompts; choose another --out")
        if different:
            was = " ".join(f"--{key}={found[key]}" for key in different if key != "prompts")
            raise UserError(
                f"{name} was begun with {was}; go on with that, or choose another --out"
            )
        self.path.touch()

    def story(self, number: int) -> str:
        """A story of the file, by its place in the order there."""
        with open(self.path, "rb") as file:
            file.seek(self.places[number])
            return story_of(json.loads(file.readline())["text"])

    def include(self, row: dict, place: int) -> None:
        """Count an answer whose line begins at a byte of one of the files."""
        self.numbers.add(row["number"])
        self.tokens = [total + more for total, more in zip(self.tokens, row["tokens"], strict=True)]
        if "dropped" in row:
            self.dropped[row["dropped"]] += 1
        else:
            story = story_of(row["text"])
            self.digests.add(digest(story))
            self.places.append(place)
            self.index.add(story)

    def add(self, row: dict) -> None:
        """Write an answer; raises UserError where it cannot be written.

        Raises Dropped for a story that is there, or one that has nearly everything of it.
        """
        with self.lock:
            if "text" in row:
                story = story_of(row["text"])
                if digest(story) in self.digests:
                    raise Dropped("duplicate")
                if self.index.find(story, SIMILAR):
                    raise Dropped("near-duplicate")
            place = append_line(self.log if "dropped" in row else self.path, row)
            self.include(row, place)


def read_rows(path: Path, first: int = 1) -> Iterator[tuple[int, dict]]:
    """The rows of a file from a line on, each with the byte where it begins.

    A last line that a crash cut short is cut off; one that only lacks its line break gets it.
    """
    position = 0
    with path.open("r+b") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                if not is_json(line):
                    file.truncate(position)
                    return
                file.seek(0, os.SEEK_END)
                file.write(b"\n")
                line += b"\n"
            place, position = position, position + len(line)
            if number < first:
                continue
            try:
                row = json.loads(line)
                text = row["text"] if first == 1 else row["dropped"]
                valid = isinstance(text, str) and isinstance(row["number"], int)
                valid = valid and len(row["tokens"]) == 2 and sum(row["tokens"]) >= 0
            except (ValueError, LookupError, TypeError):
                valid = False
            if not valid:
                raise UserError(f"{path}, line {number:,} is damaged; delete that line")
            yield place, row


def is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def append_line(path: Path, row: dict) -> int:
    """Add a row to a file, all of it or nothing, and return the byte where it begins.

    Raises UserError where the disk is full.
    """
    line = json.dumps(row).encode() + b"\n"
    with open(path, "ab", buffering=0) as file:
        end = file.tell()
        try:
            written = file.write(line)
            reason = "the disk is full" if written < len(line) else ""
        except OSError as error:
            reason = error.strerror
        if reason:
            with contextlib.suppress(OSError):
                file.truncate(end)
            raise UserError(f"cannot write {path}: {reason}")
        return end
