"""Small files of stories, for the tests of sources."""

import json
from pathlib import Path

import pytest

from configurator import UserError
from tinystories.stories.catalog import open_source

FOX = "Once a fox went up a hill. She wanted to look at the moon, and it was round."
OWL = 'An owl sat in a tree. "Who are you?" he asked. The fox said that she was a fox.'
HEN = "The hen had a red hat.\n\nEach day she put it on. She was a very proud hen!"
STORIES = [FOX, OWL, HEN]


def write(path: Path, text: str | bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def many(count: int) -> list[str]:
    return [
        f"Fox number {n} went up the hill. The moon was round, and she was glad."
        for n in range(count)
    ]


def lines_of(texts: list[str], column: str = "text") -> str:
    return "".join(json.dumps({"id": n, column: text}) + "\n" for n, text in enumerate(texts))


def read(source: str, **more) -> list[str]:
    """All stories of a source, none of them left out for validation."""
    return list(open_source(source, val_source=source, **more).stories("train"))


def mistake(*args, **more) -> str:
    """The message of the error, which is one line."""
    with pytest.raises(UserError) as caught:
        source = open_source(*args, **more)
        for split in source.readers:
            list(source.stories(split))
    assert "\n" not in str(caught.value)
    return str(caught.value)
