"""Who and what occurs in the storybook's stories: people, animals, things, places and habits.

They are the rows of the tables in cast.txt.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple


@dataclass(eq=False)
class Person:
    """Someone in a story: a child, an animal or an adult, with the words for them in templates."""

    name: str
    kind: str
    he: str  # or "she"
    traits: frozenset[str] = frozenset()

    def __post_init__(self):
        self.him, self.his = ("him", "his") if self.he == "he" else ("her", "her")
        self.himself = f"{self.him}self"
        self.He, self.His = self.he.title(), self.his.title()
        self.a = f"{'an' if self.kind[0] in 'aeiou' else 'a'} {self.kind}"
        is_animal = self.kind not in ("girl", "boy", "woman", "man")
        self.bag = "bag" if is_animal else "pocket"  # where small things are kept
        has_kind = is_animal and "adult" not in self.traits
        self.full = f"{self.name} the {self.kind}" if has_kind else self.name

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, eq=False)
class Thing:
    """Something that can be held. Its look belongs to it and never changes."""

    name: str
    look: str
    traits: frozenset[str]

    def __str__(self) -> str:
        return f"{self.look} {self.name}"

    @property
    def a(self) -> str:
        """Such as "a red ball"."""
        return f"{'an' if self.look[0] in 'aeiou' else 'a'} {self}"


class ThingRow(NamedTuple):
    """A row of the table of things, from which a `Thing` with one of the looks is made."""

    name: str
    looks: tuple[str, ...]
    traits: frozenset[str]


@dataclass(frozen=True)
class Place:
    """Where a scene takes place."""

    name: str
    at: str  # such as "in the park"
    traits: frozenset[str]
    spots: tuple[str, ...]  # for small things
    high: str  # where the wind may carry things, or ""
    water: str  # such as "sea", or ""

    def __str__(self) -> str:
        return f"the {self.name}"


def _read_tables(path: Path) -> dict[str, list[list[str]]]:
    """The rows of each section of a file like cast.txt."""
    tables, rows = {}, []
    text = path.read_text(encoding="utf-8")
    for line in re.sub("\n +", " ", text).splitlines():  # a line with a blank goes on with the row
        if line.startswith("== "):
            rows = tables[line.removeprefix("== ")] = []
        elif line and not line.startswith("#"):
            rows.append([cell.strip() for cell in line.split("|")])
    return tables


def _place(name: str, preposition: str, traits: str, spots: str, high: str, water: str) -> Place:
    marks = [*traits.split(), *(["high"] if high else []), *(["float"] if water else [])]
    with_article = tuple(spot.replace(" ", " the ", 1) for spot in spots.split("; "))
    return Place(name, f"{preposition} the {name}", frozenset(marks), with_article, high, water)


TABLES = _read_tables(Path(__file__).with_name("cast.txt"))
CHILDREN = tuple(
    Person(name, kind, he) for kind, he, names in TABLES["children"] for name in names.split()
)
ANIMALS = tuple(Person(n, kind, he, frozenset(t.split())) for n, kind, he, t in TABLES["animals"])
ADULTS = tuple(
    Person(n, kind, he, frozenset(["adult", *t.split()])) for n, kind, he, t in TABLES["adults"]
)
PEOPLE = CHILDREN + ANIMALS + ADULTS
THING_ROWS = tuple(
    ThingRow(n, tuple(looks.split()), frozenset(t.split())) for n, looks, t in TABLES["things"]
)
PLACES = tuple(_place(*row) for row in TABLES["places"])
PLACE = {place.name: place for place in PLACES}
HABITATS = frozenset(["woods", "farm", "water", "town"])
