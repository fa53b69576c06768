"""What stories are like, from their text: words, names, openings, n-grams, dialogue, copies.

stats = count_words(stories)                       # of one dataset
comparison = compare({"a": [...], "b": [...]})     # of several, equal amounts of each
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from configurator import UserError
from tinystories.stories.near import SIMILAR, near_duplicates
from tinystories.terminal import counted, short_count

WORDS = 1_000_000  # of each dataset are compared, where all have so many
NGRAMS = (1, 2, 3, 4)  # words of the n-grams that are counted
SHARED = 3  # words of the n-grams that two datasets have in common
LENGTHS = "Length of training stories"  # a title, in each text of explore.py
WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")  # letters, with apostrophes and hyphens inside
# A capitalized word after a lower-case letter or a comma, and a space.
CAPITALIZED_INSIDE = re.compile(r"(?<=[a-zß-öø-ÿ,] )[A-ZÀ-ÖØ-Þ][a-zß-öø-ÿ]+")
QUOTED = re.compile(r'"[^"\n]+"|“[^”\n]+”|„[^“”\n]+[“”]|«[^»\n]+»|「[^」\n]+」')  # in one paragraph
SENTENCE_END = re.compile(r"[.!?…]+(?=[\s\"'”’»)]|$)|[。！？]")
FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, and its bits have no pattern


@dataclass(frozen=True)
class WordStats:
    """Word statistics of some stories."""

    lengths: np.ndarray  # words of each story
    words: Counter  # occurrences of each, in lower case
    names: Counter  # stories that contain each
    openings: Counter  # stories that begin with each

    def rates(self) -> Iterator[tuple[str, str, dict[str, float]]]:
        """(title, unit, rates) of the most frequent words, names and openings."""
        words, stories = self.words.total() / 1000, len(self.lengths) / 100
        for title, unit, counter, count, total in (
            ("Most frequent words", "per 1,000 words", self.words, 40, words),
            ("Names", "per 100 stories", self.names, 40, stories),
            ("Openings", "per 100 stories", self.openings, 20, stories),
        ):
            yield title, unit, {text: n / total for text, n in counter.most_common(count)}


def count_words(stories: Iterable[str]) -> WordStats:
    """Count words, names, and openings: the first four words of a story.

    A name is a word that is capitalized inside sentences at least three times as often as it is in
    lower case. Titles such as Mr and the names of days count as names, too.
    """
    lengths, spelled, inside, names, openings = [], Counter(), Counter(), Counter(), Counter()
    for story in stories:
        words = WORD.findall(story)
        capitalized = CAPITALIZED_INSIDE.findall(story)
        lengths.append(len(words))
        spelled.update(words)
        inside.update(capitalized)
        names.update(set(capitalized))
        openings[" ".join(words[:4])] += 1
    names = Counter({w: n for w, n in names.items() if inside[w] >= 3 * spelled[w.lower()]})
    words = Counter()
    for word, times in spelled.items():
        words[word.lower()] += times
    return WordStats(np.array(lengths), words, names, openings)


@dataclass(frozen=True)
class Portrait:
    """What the compared stories of one dataset are like."""

    words: WordStats
    words_per_byte: float
    sentence_length: float  # words, on average
    paragraphs: float  # of a story, on average
    with_dialogue: float  # share of the stories
    in_dialogue: float  # share of the words
    distinct: dict[int, float]  # different n-grams per million words, by n
    near_duplicates: float  # share of the stories that another one has nearly whole
    shared: dict[str, float]  # share of its n-grams that a dataset has, by its name


@dataclass(frozen=True)
class Comparison:
    """Equal amounts of several datasets."""

    words: int  # of each
    stories: int  # of each, in which near-duplicates are looked for
    portraits: dict[str, Portrait]  # by the dataset's name


def compare(samples: Mapping[str, Sequence[str]]) -> Comparison:
    """Compare stories of datasets, in random order, by their names.

    Different n-grams and near-duplicates become more, or rarer, with more text. So of each dataset
    there are the same number of words, and for near-duplicates of stories: what the smallest has,
    at most WORDS. Raises UserError for a dataset without words.

    `shared` compares n-grams of the first half of those words with the second half of a dataset's:
    its own, too, which is how much may be expected of stories of the same kind.
    """
    lengths = {
        name: np.cumsum([len(WORD.findall(story)) for story in stories])
        for name, stories in samples.items()
    }
    for name, sums in lengths.items():
        if not sums[-1]:
            raise UserError(f"the stories of {name} have no words to compare")
    amount = min(WORDS, *(int(sums[-1]) for sums in lengths.values()))
    stories = min(map(len, samples.values()))
    shown = {
        name: texts[: int(np.searchsorted(lengths[name], amount)) + 1]
        for name, texts in samples.items()
    }
    ids: dict[str, int] = {}  # of the words of all datasets
    encoded = {name: encode(texts, ids, amount) for name, texts in shown.items()}
    half = amount // 2
    first = {name: ngrams(w[:half], s[:half], SHARED) for name, (w, s) in encoded.items()}
    second = {name: ngrams(w[half:], s[half:], SHARED) for name, (w, s) in encoded.items()}
    portraits = {}
    for name, texts in shown.items():
        copies = near_duplicates(samples[name][:stories], stories, 0, SIMILAR)
        similar = copies.keys() | {copy.kept for copy in copies.values()}
        words, size = count_words(texts), sum(len(text.encode(errors="replace")) for text in texts)
        portraits[name] = Portrait(
            words,
            float(words.lengths.sum()) / size,
            *shapes(texts),
            {n: len(ngrams(*encoded[name], n)) * 1e6 / amount for n in NGRAMS},
            len(similar) / stories,
            {other: share_in(first[name], second[other]) for other in samples},
        )
    return Comparison(amount, stories, portraits)


def columns(comparison: Comparison) -> dict[str, dict[str, dict[str, str]]]:
    """The table's cells, by dataset, section and label."""
    rate = "{:,.1f}".format
    amounts = f"{comparison.words:,} words", counted(comparison.stories, "story", "stories")
    labels = [name if len(name) < 27 else f"...{name[-23:]}" for name in comparison.portraits]
    if len(set(labels)) < len(labels):
        labels = [f"{i}: ...{name[-20:]}" for i, name in enumerate(comparison.portraits, 1)]
    table = {}
    for name, portrait in comparison.portraits.items():
        words = portrait.words
        low, median, high = np.quantile(words.lengths, (0.05, 0.5, 0.95))
        openings = [n for _, n in words.openings.most_common(10)]
        per_story = 100 / len(words.lengths)
        table[name] = {
            LENGTHS: {
                "words, median": f"{median:,.0f}",
                "words, 5 % have fewer": f"{low:,.0f}",
                "words, 95 % have fewer": f"{high:,.0f}",
                "words per sentence": rate(portrait.sentence_length),
                "paragraphs per story": rate(portrait.paragraphs),
            },
            "Dialogue": {
                "stories that have it, %": rate(100 * portrait.with_dialogue),
                "words in it, %": rate(100 * portrait.in_dialogue),
            },
            f"Different per million words, counted in {amounts[0]} of each": {
                ("words" if n == 1 else f"{n}-grams"): short_count(count)
                for n, count in portrait.distinct.items()
            },
            "Names": {
                "different ones": f"{len(words.names):,}",
                "per story": rate(words.names.total() / len(words.lengths)),
            },
            "Stories with the most frequent ones, %": {
                "name": rate(max(words.names.values(), default=0) * per_story),
                "opening (four words)": rate(openings[0] * per_story),
                "ten openings": rate(sum(openings) * per_story),
            },
            f"Near-duplicates in {amounts[1]} of each": {
                "stories that have one, %": rate(100 * portrait.near_duplicates),
            },
            f"{SHARED}-grams of one half of these words, % of them in the other half of": {
                label: rate(100 * share)
                for label, share in zip(labels, portrait.shared.values(), strict=True)
            },
        }
    return table


def shapes(stories: Sequence[str]) -> tuple[float, float, float, float]:
    """Words per sentence, paragraphs per story, the shares of stories and words in quotation marks.

    A line that is not empty is a paragraph, and has one sentence at least.
    """
    words = sentences = paragraphs = spoken = speaking = 0
    for story in stories:
        lines = [line for line in story.splitlines() if line.strip()]
        quoted = sum(len(WORD.findall(speech)) for speech in QUOTED.findall(story))
        words += len(WORD.findall(story))
        sentences += sum(max(1, len(SENTENCE_END.findall(line))) for line in lines)
        paragraphs += len(lines)
        spoken += quoted
        speaking += quoted > 0
    return words / sentences, paragraphs / len(stories), speaking / len(stories), spoken / words


def encode(
    stories: Iterable[str], ids: dict[str, int], amount: int
) -> tuple[np.ndarray, np.ndarray]:
    """The first `amount` words as numbers, uint64, and the number of the story of each.

    New words get the next number in `ids`.
    """
    numbers = [
        [ids.setdefault(word, len(ids)) for word in WORD.findall(story.lower())]
        for story in stories
    ]
    owners = np.repeat(np.arange(len(numbers)), [len(story) for story in numbers])
    words = np.array([word for story in numbers for word in story], dtype=np.uint64)
    return words[:amount], owners[:amount]


def ngrams(words: np.ndarray, owners: np.ndarray, n: int) -> np.ndarray:
    """A number for each different n-gram of words of one story, sorted.

    It is a polynomial modulo 2^64: of a million n-grams two are the same number with a probability
    of about 3e-8.
    """
    count = max(0, len(words) - n + 1)
    keys = np.zeros(count, dtype=np.uint64)
    for i in range(n):
        keys = keys * FACTOR + words[i : i + count]
    keys = np.sort(keys[owners[:count] == owners[n - 1 : n - 1 + count]])
    return keys[np.diff(keys, prepend=~keys[:1]) != 0]  # np.unique takes several times as long


def share_in(own: np.ndarray, other: np.ndarray) -> float:
    """The share of one dataset's n-grams that another has, 0 where there are none."""
    return float(np.isin(own, other, assume_unique=True).mean()) if len(own) else 0.0
