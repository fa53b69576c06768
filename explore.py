"""Look at a prepared dataset: a page of pictures and a summary in words.

    python explore.py --dataset=tinystories           its explore.png
    python explore.py --dataset=mine --picture=x.png  another place

The summary goes to standard output, and into a .txt file beside the picture.

All training tokens are read for what is said of tokens: how long stories are,
how much of the text the N most frequent ids cover, and how many stories
a window of block_size tokens holds parts of (counted over every place where a
window can begin; a story's end of text belongs to it).

What is said of words comes from a sample of stories, evenly spread from the
first to the last. A word is a run of letters, with apostrophes and hyphens
inside. An opening is the first four words of a story. A name is a word that is
found with a capital letter inside a sentence (behind a small letter or a comma,
and a blank) at least three times as often as without one; titles such as Mr and
the names of days pass for names too.

Bytes per token against vocabulary size: a BPE vocabulary is learned from the
same sample, and what its first 257, 512, ... ids make of validation stories is
measured. More bytes per token mean that more of a story fits into a window; end
of text counts as a token.
"""

import functools
import re
import sys
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from configurator import UserError, parse, start
from tinystories.stories.cleaning import RULES


@dataclass
class Settings:
    dataset: str = "tinystories"  # folder under data/, made by prepare.py
    sample: int = 100_000  # training stories whose words are counted
    block_sizes: str = "128,256,512,1024"  # windows to look at, in tokens
    picture: str | None = None  # a .png file; None: explore.png in the dataset's folder

    def __post_init__(self):
        if not self.dataset:
            raise UserError("dataset is empty; leave it out or give it a name")
        if self.sample < 1:
            raise UserError(f"sample is {self.sample}; it must be at least 1")
        sizes = self.block_sizes.split(",")
        if not all(size.strip().isdecimal() and int(size) > 0 for size in sizes):
            raise UserError(f"block_sizes is {self.block_sizes!r}; write it as 128,256,512")
        self.windows = [int(size) for size in sizes]
        if self.picture is not None and Path(self.picture).suffix != ".png":
            raise UserError(f"picture is {self.picture!r}; name a .png file")
        if self.picture is not None and not Path(self.picture).parent.is_dir():
            raise UserError(f"there is no folder {Path(self.picture).parent} for the picture")


if __name__ == "__main__":  # --help and mistakes answer before the slow imports
    start(parse, Settings, sys.argv[1:])

import numpy as np
from tqdm import tqdm

from tinystories import dataset as tokens
from tinystories import figures
from tinystories.tokenizer import Tokenizer, gpt2, train_bpe

CHUNK = 2**22  # ids looked at in one go
MOST = 4  # stories in a window that are told apart: 1, 2, 3, and more
MEASURED = 5000  # validation stories on which vocabularies are measured
SIZES = (257, 512, 1024, 2048, 4096, 8192, 16_384)  # of vocabularies
WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
INSIDE = re.compile(r"(?<=[a-zß-öø-ÿ,] )[A-ZÀ-ÖØ-Þ][a-zß-öø-ÿ]+")  # capitalised, in a sentence
OPENING = 4  # words


# Tokens -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Split:
    """The tokens of one .bin, and what reading them once has told."""

    ids: np.ndarray  # memory-mapped, shape (N,)
    counts: np.ndarray  # how often each id occurs, shape (V,)
    ends: np.ndarray  # positions of end of text, in order

    @functools.cached_property
    def stories(self) -> np.ndarray:
        """Where each story begins and where its end of text stands, shape (stories, 2).

        Files of other repos may have end of text in front of stories, or none behind the last:
        a story is what stands between two, or between one and an end of the file.
        """
        bounds = np.concatenate([[-1], self.ends, [len(self.ids)]])
        spans = np.stack([bounds[:-1] + 1, bounds[1:]], axis=1)
        return spans[spans[:, 0] < spans[:, 1]]

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of each story, without end of text."""
        return self.stories[:, 1] - self.stories[:, 0]


def read_split(file: tokens.TokenFile, end_of_text: int) -> Split:
    """Go once through a .bin, a few megabytes at a time.

    Raises:
        UserError: an id outside the vocabulary, or no story.
    """
    ids = np.asarray(file.ids)  # still memory-mapped, but quicker to cut up
    counts, ends = np.zeros(file.vocab_size, dtype=np.int64), []
    for first in tqdm(range(0, len(ids), CHUNK), desc=f"reading {file.path.name}", disable=None):
        chunk = ids[first : first + CHUNK]
        if chunk.max() >= file.vocab_size:
            position = int((chunk >= file.vocab_size).argmax())
            raise UserError(
                f"{file.path} holds the id {chunk[position]} at position {first + position:,}, "
                f"outside the vocabulary of {file.vocab_size:,}: prepare the dataset again"
            )
        counts += np.bincount(chunk, minlength=file.vocab_size)
        ends.append(first + np.flatnonzero(chunk == end_of_text))
    ends = np.concatenate(ends)
    if not 0 < len(ends) < len(ids):
        raise UserError(f"{file.path} holds no story that ends (end of text is id {end_of_text})")
    return Split(ids, counts, ends)


def coverage(counts: np.ndarray) -> np.ndarray:
    """The share of all tokens that the 1, 2, ... most frequent ids cover."""
    sums = np.cumsum(np.sort(counts[counts > 0])[::-1])
    return sums / sums[-1]


def windows_by_stories(ends: np.ndarray, length: int, block_size: int) -> np.ndarray:
    """How many of all windows of a file hold (parts of) 1, 2, 3, and MOST or more stories.

    A window that begins at s holds one story, and another for each end of text in it that is not
    its last token. The end of text at e is such a one for s from e - block_size + 2 to e. So the
    number goes up at the one place and down behind the other, and between two places it stays.

    Args:
        ends: positions of end of text, in order.
        length: tokens in the file.

    Returns:
        counts, shape (MOST,), int64; their sum is length - block_size + 1.
    """
    beginnings = max(0, length - block_size + 1)
    up = np.clip(ends - block_size + 2, 0, beginnings)
    down = np.clip(ends + 1, 0, beginnings)
    places = np.concatenate([[0], up, down])
    changes = np.concatenate([[1], np.ones_like(up), -np.ones_like(down)])
    order = np.argsort(places, kind="stable")
    held = np.cumsum(changes[order])
    spans = np.diff(places[order], append=beginnings)
    counts = np.bincount(np.minimum(held, MOST), weights=spans, minlength=MOST + 1)
    return counts[1:].astype(np.int64)


# Words --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Words:
    """What the words of some stories tell."""

    lengths: np.ndarray  # words of each story
    words: Counter  # how often each occurs, in small letters
    names: Counter  # in how many stories each occurs
    openings: Counter  # how many stories begin with each

    def words_in_1000(self, most: int) -> dict[str, float]:
        """The commonest words, and how many of a thousand words each is."""
        total = self.words.total()
        return {word: 1000 * count / total for word, count in self.words.most_common(most)}

    def in_100_stories(self, counts: Counter, most: int) -> dict[str, float]:
        """The commonest names or openings, and how many of a hundred stories have each."""
        total = len(self.lengths)
        return {text: 100 * count / total for text, count in counts.most_common(most)}


def sampled(split: Split, tokenizer: Tokenizer, count: int, what: str) -> Iterator[str]:
    """The text of `count` stories, evenly spread from the first to the last.

    Args:
        what: is done with them, for the progress bar.
    """
    count = min(count, len(split.stories))
    chosen = np.linspace(0, len(split.stories) - 1, count).astype(np.int64)
    for begin, end in tqdm(
        split.stories[chosen].tolist(), desc=what, unit=" stories", disable=None
    ):
        yield tokenizer.decode(split.ids[begin:end])


def count_words(stories: Iterable[str]) -> Words:
    """Count words, names and openings, as the docstring of this file defines them."""
    lengths, spelled, inside, names, openings = [], Counter(), Counter(), Counter(), Counter()
    for story in stories:
        words = WORD.findall(story)
        capitalised = INSIDE.findall(story)
        lengths.append(len(words))
        spelled.update(words)
        inside.update(capitalised)
        names.update(set(capitalised))
        openings[" ".join(words[:OPENING])] += 1
    for word, times in inside.items():
        if times < 3 * spelled[word.lower()]:
            del names[word]
    words = Counter()
    for word, times in spelled.items():
        words[word.lower()] += times
    return Words(np.array(lengths), words, names, openings)


def bytes_per_token(tokenizer: Tokenizer, stories: list[str]) -> float:
    """UTF-8 bytes of the stories by their tokens, end of text included."""
    return sum(len(story.encode()) for story in stories) / len(tokenizer.encode_stories(stories))


def bytes_by_size(learned: Tokenizer, stories: list[str]) -> dict[int, float]:
    """Bytes per token of `stories` for vocabularies of several SIZES.

    What is learned first does not depend on what is learned later: the beginning of a large
    vocabulary is the small one.
    """
    return {
        size: bytes_per_token(
            Tokenizer(learned.kind, learned.pattern, learned.tokens[: size - 1]), stories
        )
        for size in SIZES
        if size <= learned.vocab_size
    }


# The whole ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Facts:
    """All that the page and the summary tell."""

    dataset: str
    tokenizer: Tokenizer
    splits: dict[str, Split]
    sample: Words
    bytes_by_size: dict[int, float]  # of vocabularies learned here
    own_bytes: float  # bytes per token of the dataset's own
    windows: dict[int, np.ndarray]  # by block_size: how many hold 1, 2, 3, and MOST or more stories
    cleaning: dict[str, dict[str, int]] | None  # by split and rule; None where it is not known

    @property
    def train(self) -> Split:
        return self.splits["train"]


def look_at(s: Settings) -> Facts:
    """Read the dataset and find out.

    Raises:
        UserError: it is not there, or damaged.
    """
    try:
        data = tokens.open_dataset(s.dataset, block_size=1)
    except FileNotFoundError as missing:
        raise UserError(
            f"{missing.args[0]} is not there; prepare it: python prepare.py (--help shows how)"
        ) from None
    tokenizer = Tokenizer.load(data.folder / "tokenizer.json") if data.meta else gpt2()
    if not data.meta:
        note(f"{data.folder} has no meta.json: its ids are taken for GPT-2's")
    if tokenizer.vocab_size != data.vocab_size:
        raise UserError(f"{data.folder / 'tokenizer.json'} is not the one that meta.json describes")
    files = {"train": data.train, "val": data.val}
    splits = {name: read_split(file, tokenizer.end_of_text) for name, file in files.items()}
    train = splits["train"]
    learned = train_bpe(sampled(train, tokenizer, s.sample, "learning a vocabulary"), SIZES[-1])
    measured = list(sampled(splits["val"], tokenizer, MEASURED, "reading validation"))
    return Facts(
        dataset=data.folder.name,
        tokenizer=tokenizer,
        splits=splits,
        sample=count_words(sampled(train, tokenizer, s.sample, "counting words")),
        bytes_by_size=bytes_by_size(learned, measured),
        own_bytes=bytes_per_token(tokenizer, measured),
        windows={
            size: windows_by_stories(train.ends, len(train.ids), size)
            for size in s.windows
            if size <= len(train.ids)
        },
        cleaning=data.meta["cleaning"] if data.meta else None,
    )


# In words -----------------------------------------------------------------------------------


def summary(facts: Facts) -> str:
    """The facts in words and tables, in lines of at most 80 characters."""
    sections = (
        *(tell_sizes, tell_lengths, tell_vocabulary),
        *(tell_windows, tell_words, tell_cleaning),
    )
    return "\n\n".join("\n".join(section(facts)) for section in sections)


def tell_sizes(facts: Facts) -> Iterator[str]:
    yield facts.dataset
    byte_lengths = facts.tokenizer.byte_lengths()
    for name, split in facts.splits.items():
        yield (
            f"  {name:5}{len(split.stories):11,} stories {len(split.ids):13,} tokens "
            f"{split.counts @ byte_lengths:15,} bytes"
        )


def tell_lengths(facts: Facts) -> Iterator[str]:
    yield "Length of a training story"
    yield "          shortest      5 %   median     95 %   longest"
    for unit, values in (("words", facts.sample.lengths), ("tokens", facts.train.lengths)):
        low, *middle, high = np.quantile(values, (0, 0.05, 0.5, 0.95, 1))
        middle = "".join(f"{value:9,.0f}" for value in middle)
        yield f"  {unit:6}{low:10,.0f}{middle}{high:10,.0f}"


def tell_vocabulary(facts: Facts) -> Iterator[str]:
    yield "So many of the most frequent ids cover so much of the training tokens"
    covered = coverage(facts.train.counts)
    for share in (0.5, 0.9, 0.99, 0.999):
        yield f"  {np.searchsorted(covered, share) + 1:8,}{100 * share:9.1f} %"
    yield f"  {len(covered):8,}    100.0 %  (of {facts.tokenizer.vocab_size:,} in the vocabulary)"
    yield ""
    yield "Ids in a vocabulary, and bytes per token of validation stories"
    for size, ratio in facts.bytes_by_size.items():
        yield f"  {size:8,}{ratio:9.3f}  learned from the sample"
    yield f"  {facts.tokenizer.vocab_size:8,}{facts.own_bytes:9.3f}  the dataset's own"


def tell_windows(facts: Facts) -> Iterator[str]:
    yield "So many in 100 windows hold (parts of) so many stories; so many in 100 stories"
    yield "are no longer than the window"
    yield "  block_size      1      2      3     4+       no longer"
    for size, counts in facts.windows.items():
        parts = "".join(f"{share:7.1f}" for share in 100 * counts / counts.sum())
        yield f"  {size:10,}{parts}{100 * np.mean(facts.train.lengths <= size):16.1f}"


def tell_words(facts: Facts) -> Iterator[str]:
    sample = facts.sample
    total, stories = max(1, sample.words.total()), len(sample.lengths)
    yield f"{total:,} words in a sample of {stories:,} stories, {len(sample.words):,} different"
    for most in (100, 1000, 5000):
        share = sum(times for _, times in sample.words.most_common(most)) / total
        yield f"  the commonest {most:5,} make up {100 * share:5.1f} %"
    for title, values in (
        ("Commonest words, in 1,000 words", sample.words_in_1000(40)),
        ("Names, in 100 stories", sample.in_100_stories(sample.names, 40)),
        ("Openings, in 100 stories", sample.in_100_stories(sample.openings, 20)),
    ):
        # A blank that does not break keeps a word and its number in one line.
        listed = ", ".join(
            f"{word} {value:.1f}".replace(" ", "\xa0") for word, value in values.items()
        )
        yield ""
        yield title
        yield textwrap.indent(textwrap.fill(listed, 78), "  ").replace("\xa0", " ")


def tell_cleaning(facts: Facts) -> Iterator[str]:
    if facts.cleaning is None:
        yield "Cleaning: not known, for want of meta.json"
        return
    yield "Cleaning" if any(facts.cleaning.values()) else "Cleaning changed nothing"
    for split, rules in facts.cleaning.items():
        for rule, count in rules.items():
            yield f"  {split:5}{count:10,}  {rule}: {RULES.get(rule, '')}"


# In pictures --------------------------------------------------------------------------------


def draw(facts: Facts, path: Path) -> None:
    """The facts as a page of pictures."""
    with figures.page(path, height=16.5) as figure:
        title = f"{facts.dataset}: {len(facts.train.stories):,} training stories"
        figure.suptitle(title, x=0.01, ha="left", weight="bold")
        upper, lower = figure.subfigures(2, 1, height_ratios=(4, 1))
        panels = upper.subplots(4, 2, height_ratios=(3, 3, 2.4, 4.2))
        draw_lengths(facts, *panels[0])
        draw_vocabulary(facts, *panels[1])
        draw_windows(facts, panels[2, 0])
        draw_cleaning(facts, panels[2, 1])
        draw_words(facts.sample, *panels[3], lower.subplots())


def draw_lengths(facts: Facts, left, right) -> None:
    for axes, unit, values in (
        (left, "words", facts.sample.lengths),
        (right, "tokens", facts.train.lengths),
    ):
        figures.histogram(axes, values, f"Length of a story in {unit}", unit, "stories")


def draw_vocabulary(facts: Facts, left, right) -> None:
    figures.curve(
        left,
        "Bytes per token, by size of vocabulary",
        ("ids, learned from the sample", "bytes per token"),
        facts.bytes_by_size,
        {"the dataset's own": (facts.tokenizer.vocab_size, facts.own_bytes)},
    )
    percent = 100 * coverage(facts.train.counts)
    ranks = np.unique(np.geomspace(1, len(percent), 200).astype(int))  # enough for a curve
    figures.curve(
        right,
        "Text covered by the most frequent ids",
        ("most frequent ids", "% of the tokens"),
        dict(zip(ranks, percent[ranks - 1], strict=True)),
    )


def draw_windows(facts: Facts, axes) -> None:
    rows = {f"{size:,} tokens": counts for size, counts in facts.windows.items()}
    figures.shares(axes, "Stories in a window", "% of all windows", rows, ("1", "2", "3", "4+"))


def draw_cleaning(facts: Facts, axes) -> None:
    rules = (facts.cleaning or {}).get("train", {})
    title = "What cleaning changed" if rules else "Cleaning changed nothing"
    title = "Cleaning: not known" if facts.cleaning is None else title
    figures.bars(axes, title, "stories", rules, "{:,.0f}")


def draw_words(sample: Words, left, right, below) -> None:
    for axes, title, unit, values in (
        (left, "Commonest words", "in 1,000 words", sample.words_in_1000(20)),
        (right, "Names", "in 100 stories", sample.in_100_stories(sample.names, 20)),
        (below, "Openings", "in 100 stories", sample.in_100_stories(sample.openings, 12)),
    ):
        figures.bars(axes, title, unit, values, "{:.1f}")


# ----


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(argv: list[str]) -> None:
    s = parse(Settings, argv).settings
    facts = look_at(s)
    text = summary(facts)
    print(text)
    picture = Path(s.picture) if s.picture else tokens.dataset_folder(s.dataset) / "explore.png"
    picture.with_suffix(".txt").write_text(text + "\n", encoding="utf-8")
    draw(facts, picture)
    note(f"drawn: {picture}; in words: {picture.with_suffix('.txt')}")


if __name__ == "__main__":
    start(main, sys.argv[1:])
