"""Minimal pairs: does the model prefer the correct of two continuations of a prompt?

As in BLiMP (Warstadt et al. 2020). prompts/README.md says what is tested and how to add pairs.
"""

import json
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import numpy as np

from configurator import ROOT, UserError
from tinystories.evaluation.results import Rows, percent, proportion_with_ci
from tinystories.evaluation.subject import Subject, Unsuitable, numbered_lines
from tinystories.files import checksum

PAIRS = ROOT / "prompts" / "pairs.jsonl"
REQUIRED_FIELDS = ("group", "kind", "beginning", "right", "wrong")


@dataclass(frozen=True)
class MinimalPair:
    """A prompt with two continuations, of which a good model finds `right` more probable."""

    group: str  # what is tested: grammar, facts, recall, ...
    kind: str  # finer than the group
    beginning: str  # the prompt; does not end with a space
    right: str  # the correct continuation; starts with the space
    wrong: str  # the incorrect one
    distance: int | None = None  # sentences from the one that decides to the continuation


def read_pairs(path: str | Path = PAIRS) -> list[MinimalPair]:
    """Minimal pairs from JSON lines; raises UserError for a bad file, and names a bad line."""
    pairs = []
    for number, line in numbered_lines(path, "minimal pair"):
        try:
            pairs.append(_read_pair(line))
        except ValueError as error:
            raise UserError(f"{path}, line {number}: {error}") from None
    return pairs


def _read_pair(line: str) -> MinimalPair:
    """A pair from its JSON; ValueError says what is wrong with it."""
    try:
        values = json.loads(line)
        pair = MinimalPair(**values)
        distance = 1 if pair.distance is None else pair.distance
        texts = [values[name].strip().encode() for name in REQUIRED_FIELDS]
        if not all(texts) or type(distance) is not int or distance < 1:
            raise ValueError
    except (ValueError, TypeError, AttributeError, RecursionError):
        fields = ", ".join(REQUIRED_FIELDS)
        raise ValueError(
            f"not a JSON object with the texts {fields}, and if needed an integer distance >= 1"
        ) from None
    if pair.right == pair.wrong:
        raise ValueError("right and wrong are the same")
    if pair.beginning != pair.beginning.rstrip():
        raise ValueError("the beginning ends with a space; start the continuations with it")
    return pair


def can_write(subject: Subject, pair: MinimalPair) -> bool:
    """Whether a vocabulary has all the characters of a pair."""
    return subject.tokenizer.can_encode(pair.beginning + pair.right + pair.wrong)


def key(subject: Subject) -> dict:
    """What the result depends on."""
    pairs = read_pairs(subject.settings.pairs or PAIRS)
    if not any(can_write(subject, pair) for pair in pairs):
        raise Unsuitable("no minimal pair can be written in the characters of this vocabulary")
    return {"pairs": checksum([list(vars(pair).values()) for pair in pairs])} | subject.machine()


def measure(subject: Subject) -> dict:
    """How often the correct continuation has the lower loss per byte.

    The prompt is preceded by the end-of-text token, as every story is in training. Both
    continuations are predicted from the tokens that they have in common with the prompt: all of
    it where continuations start with a space, at which every vocabulary splits text. Pairs with
    characters that a vocabulary lacks are left out; the table says of how many pairs it speaks.
    """
    encode, pairs = subject.tokenizer.encode, read_pairs(subject.settings.pairs or PAIRS)
    pairs = [pair for pair in pairs if can_write(subject, pair)]
    texts, context_lengths, sizes = [], [], []
    for pair in pairs:
        first, sides = [subject.tokenizer.first_id], (pair.right, pair.wrong)
        prompt, *both = (first + encode(pair.beginning + side) for side in ("", *sides))
        texts += map(np.array, both)
        common = takewhile(lambda ids: len(set(ids)) == 1, zip(prompt, *both, strict=False))
        context_lengths += [len(list(common))] * 2
        sizes += [len(side.encode(errors="replace")) for side in sides]
    losses = subject.loss_per_text(texts, context_lengths, sizes, "pairs", "texts")
    bits = [loss.bits_per_byte for loss in losses]
    correct = [right < wrong for right, wrong in zip(bits[::2], bits[1::2], strict=True)]
    groups, kinds, distances = {}, {}, {}
    for pair, outcome in zip(pairs, correct, strict=True):
        groups.setdefault(pair.group, []).append(outcome)
        kinds.setdefault(f"{pair.group}, {pair.kind}", []).append(outcome)
        if pair.distance is not None:
            distances.setdefault(pair.distance, []).append(outcome)
    return {
        "all": proportion_with_ci(correct),
        "groups": {group: proportion_with_ci(groups[group]) for group in groups},
        "kinds": {kind: proportion_with_ci(kinds[kind]) for kind in kinds},
        "distances": {str(n): proportion_with_ci(distances[n]) for n in sorted(distances)},
    }


def rows(result: dict) -> Rows:
    """The result in the table."""

    def shown(parts: dict[str, dict]) -> dict[str, str]:
        return {f"{name}, of {part['count']}": percent(part) for name, part in parts.items()}

    sections = {"Minimal pairs, correct (chance 50 %)": {"all": result["all"]} | result["groups"]}
    if distances := {f"{n} back": part for n, part in result["distances"].items()}:
        sections["Minimal pairs, by how many sentences back the answer stands"] = distances
    return {section: shown(parts) for section, parts in sections.items()}
