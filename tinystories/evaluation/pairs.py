"""The texts that a trained model is tested on: story pairs, and beginnings of stories.

prompts/README.md says what is in them and how to write more.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from configurator import ROOT, UserError

PAIRS = ROOT / "prompts" / "pairs.jsonl"
BEGINNINGS = ROOT / "prompts" / "beginnings.txt"
TEXTS = ("group", "kind", "beginning", "right", "wrong")  # fields that every pair has


@dataclass(frozen=True)
class Pair:
    """A beginning with two continuations, of which a good model finds the right one likelier."""

    group: str  # what is tested: grammar, facts, context, feeling, form
    kind: str  # a finer sort within the group
    beginning: str  # ends without a blank
    right: str  # brings the blank between beginning and continuation
    wrong: str
    distance: int | None = None  # sentences from the one that decides to the continuation


def read_pairs(path: str | Path = PAIRS) -> list[Pair]:
    """Read story pairs: one JSON object a line, its fields those of Pair.

    Raises:
        UserError: a file that cannot be read or holds no pair; a line that is not one.
    """
    pairs = []
    for number, line in _lines(path):
        try:
            pairs.append(_pair(line))
        except ValueError as error:
            raise UserError(f"{path}, line {number}: {error}") from None
    if not pairs:
        raise UserError(f"{path} holds no story pair")
    return pairs


def read_beginnings(path: str | Path = BEGINNINGS) -> list[str]:
    """Read beginnings of stories, one a line, without the blanks around them.

    Raises:
        UserError: a file that cannot be read or holds no beginning.
    """
    beginnings = [line for _, line in _lines(path)]
    if not beginnings:
        raise UserError(f"{path} holds no beginning")
    return beginnings


def _lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """The lines that are not blank, each stripped and with its number, from 1."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text") from None
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, line.strip()


def _pair(line: str) -> Pair:
    """A pair from its JSON; ValueError says what is wrong with it."""
    values = _json_object(line)
    for name in values:
        if name not in (*TEXTS, "distance"):
            raise ValueError(
                f"{name!r} is no field of a pair; they are {', '.join(TEXTS)}, distance"
            )
    for name in TEXTS:
        text = values.get(name)
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"the field {name!r} is missing or not a text")
    pair = Pair(**values)
    if pair.distance is not None and (type(pair.distance) is not int or pair.distance < 1):
        raise ValueError("the field 'distance' is not a whole number from 1")
    if pair.right == pair.wrong:
        raise ValueError("right and wrong are the same")
    if pair.beginning != pair.beginning.rstrip():
        raise ValueError("the beginning ends with a blank; let the continuations begin with it")
    return pair


def _json_object(line: str) -> dict:
    """The object that a line of JSON holds; ValueError where it holds none."""
    try:
        values = json.loads(line)
        json.dumps(values, ensure_ascii=False).encode()  # half an emoji is no text
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at column {error.colno}") from None
    except UnicodeEncodeError:
        raise ValueError("an escape stands for no character") from None
    if not isinstance(values, dict):
        raise ValueError("not a JSON object")
    return values
