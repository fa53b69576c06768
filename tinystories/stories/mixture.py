"""Several sources in one dataset: their cleaned stories, and how often an epoch sees them."""

import json
import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from configurator import UserError
from tinystories.stories.catalog import SPLITS, Source, known_name
from tinystories.stories.cleaning import RULES, cleaned, digest
from tinystories.terminal import counted, progress

EXAMPLES = "near_duplicates.txt"  # in the dataset's folder: dropped stories, with what was kept


@dataclass
class Ingredient:
    """A source, how often an epoch of training sees its stories, and what cleaning left of it."""

    name: str  # of the source, short and no other one's
    source: Source
    weight: float
    kept: dict[str, int] = field(default_factory=dict)  # stories by split
    cleaning: dict[str, dict[str, int]] = field(default_factory=dict)  # by split: stories by rule


def combine(sources: Sequence[Source], weights: Sequence[float] = ()) -> list[Ingredient]:
    """The sources of a dataset; one that has the name of another gets a number after it."""
    weights = weights or [1.0] * len(sources)
    names = []
    for source in sources:
        options = (source.name, *(f"{source.name}_{n}" for n in range(2, len(sources) + 1)))
        names.append(next(name for name in options if name not in names))
    return [Ingredient(*given) for given in zip(names, sources, weights, strict=True)]


def source_names(text: str) -> list[str]:
    """The sources in `a,b,c`, each once; a file may have a comma in its name."""
    whole = os.path.exists(os.path.expanduser(text))  # of a text that is too long, too
    parts = [text] if whole else [name.strip() for name in text.split(",")]
    names = [known_name(name) for name in parts]
    for name, count in Counter(names).items():
        if not name:
            raise UserError(f"source={text} names an empty source; leave out the comma")
        if count > 1:
            raise UserError(f"source={text} names {name} {count} times; --weights repeats a source")
    return names


def read_weights(text: str | None, count: int) -> list[float]:
    """How often an epoch sees each of `count` sources, from `2,1,0.5`; None: all of them once."""
    if text is None:
        return [1.0] * count
    try:
        weights = [float(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"weights={text}: give a number for each source, as 2,1,0.5") from None
    if len(weights) != count:
        given, wanted = counted(len(weights), "number"), counted(count, "source")
        raise UserError(f"weights={text} gives {given} for {wanted}")
    if not all(0 < weight <= 100 for weight in weights):
        raise UserError(f"weights={text}: each must be > 0 and <= 100")
    return weights


def clean_into(
    folder: Path,
    ingredients: Sequence[Ingredient],
    clean: bool,
    limit: int | None = None,
    near_duplicates: float | None = None,
    select: int | None = None,
) -> None:
    """Clean the stories of each source into a temporary file per split, `stories_path`.

    A training story that came before is dropped, also where it came from another source, and so is
    one that is in the validation of any source; a validation story only where another source has
    it, too. Raises UserError for a source of which no story is left.

    Args:
        limit: training stories of each source, at most.
        near_duplicates: the similarity from which a training story is dropped, see near.py.
        select: of what is left then, training stories of all sources together, see select.py.
    """
    seen = {split: set() for split in SPLITS}  # digests
    for split in reversed(SPLITS):  # validation first, since its stories are excluded from train
        for number, ingredient in enumerate(ingredients):
            counts, source = Counter(), ingredient.source
            earlier = frozenset(seen["val"]) if split == "val" else frozenset()
            stories, total = source.stories(split), source.count(split)
            if clean and not source.one_text:
                stories = cleaned(stories, split, source.instruct, seen, counts, earlier)
            kept = 0
            with open(stories_path(folder, split, number), "w", encoding="utf-8") as file:
                for story in progress(stories, f"reading {split}", "stories", total=total):
                    file.write(json.dumps(story) + "\n")
                    kept += 1
                    if split == "train" and kept == limit:
                        break
            if not kept:
                why = [RULES[rule] for rule, _ in counts.most_common() if "dropped" in RULES[rule]]
                most = f" (most of them: {why[0]})" if why else ""
                raise UserError(f"{source.origin}: no {split} story is left; see --clean{most}")
            ingredient.kept[split] = kept
            ingredient.cleaning[split] = {rule: counts[rule] for rule in RULES if counts[rule]}
    if near_duplicates is not None:
        _drop_near_duplicates(folder, ingredients, near_duplicates)
    if select is not None:
        _select(folder, ingredients, select)


def _drop_near_duplicates(folder: Path, ingredients: Sequence[Ingredient], least: float) -> None:
    """Drop training stories that are nearly a validation story or one before; keep some to read."""
    from tinystories.stories.near import StoryFiles, near_duplicates, write_examples

    first_train, count = (sum(i.kept[split] for i in ingredients) for split in ("val", "train"))
    paths = [stories_path(folder, x, n) for x in reversed(SPLITS) for n in range(len(ingredients))]
    stories = StoryFiles(paths)
    copies = near_duplicates(stories, first_train + count, first_train, least)
    write_examples(folder / EXAMPLES, stories, copies)
    names = ("near_duplicate", "near_validation")
    rules = {n - first_train: names[copy.kept < first_train] for n, copy in copies.items()}
    _drop(folder, ingredients, rules)
    if not any(i.kept["train"] for i in ingredients):
        raise UserError(
            f"near_duplicates={least:g} leaves no training story: all are nearly in validation"
        )


def _select(folder: Path, ingredients: Sequence[Ingredient], size: int) -> None:
    """Keep so many training stories, those that together cover most."""
    from tinystories.stories.near import StoryFiles
    from tinystories.stories.select import select

    stories = StoryFiles([stories_path(folder, "train", n) for n in range(len(ingredients))])
    count = sum(i.kept["train"] for i in ingredients)
    kept = select(stories, count, size)
    _drop(folder, ingredients, dict.fromkeys(set(range(count)) - kept, "not_selected"))


def _drop(folder: Path, ingredients: Sequence[Ingredient], rules: dict[int, str]) -> None:
    """Drop training stories, each by a rule; they are numbered through all sources."""
    first = 0
    for number, ingredient in enumerate(ingredients):
        path, counts = stories_path(folder, "train", number), Counter()
        kept_path = path.with_suffix(".kept")
        with open(path, "rb") as file, open(kept_path, "wb") as kept:
            for story, line in enumerate(file, first):
                if rule := rules.get(story):
                    counts[rule] += 1
                else:
                    kept.write(line)
        kept_path.replace(path)
        first += ingredient.kept["train"]
        ingredient.kept["train"] -= counts.total()
        counts.update(ingredient.cleaning["train"])
        ingredient.cleaning["train"] = {rule: counts[rule] for rule in RULES if counts[rule]}


def stories_path(folder: Path, split: str, number: int) -> Path:
    """The cleaned stories of the source of this number, a JSON text per line."""
    return folder / f"{split}.{number}.jsonl"


def passes(
    folder: Path, ingredients: Sequence[Ingredient], split: str
) -> Iterator[tuple[int, Iterator[str]]]:
    """What an epoch reads, one after the other: the number of a source, and its stories.

    Validation has each source once. In training a source of weight 2.5 comes in three passes, the
    last of which has half of its stories, chosen by their hash; the copies of a story are as far
    apart as that.
    """
    weights = [i.weight if split == "train" else 1.0 for i in ingredients]
    for before in range(math.ceil(max(weights))):
        for number, weight in enumerate(weights):
            share = min(1.0, weight - before)
            if share <= 0:
                continue
            with open(stories_path(folder, split, number), encoding="utf-8") as file:
                stories = map(json.loads, file)
                if share < 1:
                    stories = (story for story in stories if _is_in_share(story, share))
                yield number, stories


def _is_in_share(story: str, share: float) -> bool:
    """Whether a story is among a share of all; the hash is another than that of validation."""
    return digest(f"share of an epoch: {story}") < share * 2**64
