"""Memory: how much of a text stands in the stories that a model was trained on.

    nearest(texts, folder, tokenizer)    what each text has in common with the training stories
    leak(validation, folder, tokenizer)  how many validation stories stand among them

Both read train.bin once, chunk by chunk, and their answers are exact: what is passed over cannot
change them. Words are those of variety.words, in lower case; punctuation does not count.

How that is fast enough for millions of stories: words become numbers, for numpy to compare.

- A copied run longer than the longest one known begins with a window of n words, n being the
  largest power of two that is no longer. All windows of a chunk are hashed and looked up among
  those of the texts; the words themselves are compared wherever a hash is found.
- ROUGE-L counts the words that two texts share in the same order. These are at most the words that
  they share in any order, which are quickly counted for every text and story. Where that leaves
  hope for more than the best ROUGE-L known, the order of the few commonest words is looked at, for
  it is they that all stories share; and where there still is hope, the order of all words.
"""

import functools
import os
import signal
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice, repeat
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from tinystories.dataset import TokenFile
from tinystories.evaluation.diversity import words as words_of
from tinystories.tokenizer import Tokenizer

BEGINNING = 100  # characters that leak() compares
RUN = 13  # words in a row that count as a leak
CHUNK = 2_000_000  # tokens that a process reads at a time
FIRST_CHUNK = 2_000  # the first chunks are small: where nothing is known yet, everything is better
BLOCK = 100_000  # tokens decoded at a time
ALONE = 20_000_000  # tokens for which one process is enough
WORKERS = 8  # processes at most; each holds some 200 MB
COMMON = 32  # words, the commonest of the texts: nearly half of all that is written
PIECES = 500_000  # pieces of text whose words are remembered
PLACES = 300_000  # pairs of places compared at a time
TEXTS = 32  # compared with the stories of a chunk at a time
PAIRS = 16_384  # of a text and a story whose LCS is found at a time


@dataclass(frozen=True)
class Match:
    """What a text has in common with the training stories."""

    copied_words: int  # the longest run of words that stands in one training story
    copied_text: str  # that run as it stands in the text, from blank to blank
    rouge_l: float  # the best ROUGE-L among the training stories, 0 to 1
    nearest_story: str  # the first training story that reaches it; "" where no word is shared


@dataclass(frozen=True)
class Leak:
    """How many validation stories stand in the training stories, by three measures."""

    stories: int  # looked at
    whole: int  # have word for word the same as a training story
    beginning: int  # have the first 100 characters of a training story
    run: int  # have 13 words in a row of a training story


def nearest(
    texts: list[str],
    folder: Path,
    tokenizer: Tokenizer,
    progress: Callable[[int], object] = lambda tokens: None,
) -> list[Match]:
    """Find what each text has in common with the training stories of a dataset.

    ROUGE-L is the F-measure of Lin (2004), section 3.1, with beta = 1: 2 LCS / (m + n) for a text
    of m words and a story of n, LCS being the length of their longest common subsequence.

    Args:
        folder: the dataset, whose train.bin is read.
        progress: is told how many more tokens have been read.

    Raises:
        UserError: train.bin is missing, or holds ids outside the vocabulary.
    """
    best = _read_all(_Nearest(folder, tokenizer, texts), progress)
    matches = []
    for k, text in enumerate(texts):
        copied = _excerpt(text, best.stop[k] - best.run[k], best.stop[k])
        matches.append(Match(int(best.run[k]), copied, float(best.rouge[k]), best.story[k]))
    return matches


def leak(
    texts: Iterable[str],
    folder: Path,
    tokenizer: Tokenizer,
    progress: Callable[[int], object] = lambda tokens: None,
) -> Leak:
    """Count the validation stories that stand in the training stories of a dataset.

    13 words in a row is what GPT-3's authors looked for (Brown et al. 2020, appendix C).

    Args:
        texts: the validation stories, such as read_stories(folder / "val.bin", tokenizer).
        folder, progress: as for `nearest`.

    Raises:
        UserError: train.bin is missing, or holds ids outside the vocabulary.
    """
    found = _read_all(_Leaks(folder, tokenizer, list(texts)), progress)
    return Leak(found.shape[1], *found.sum(axis=1).tolist())


def read_stories(path: Path, tokenizer: Tokenizer) -> Iterator[str]:
    """The stories of a .bin, in order.

    Raises:
        UserError: the file is missing, or holds ids outside the vocabulary.
    """
    return _decode(_open(path, tokenizer), tokenizer)


def _excerpt(text: str, start: int, stop: int) -> str:
    """What stands in a text from word `start` to word `stop`, which is left out."""
    pieces = text.split()
    behind = np.cumsum([len(words_of(piece)) for piece in pieces])  # words up to and with a piece
    first, last = np.searchsorted(behind, (start + 1, stop))
    return " ".join(pieces[first : last + 1]) if stop > start else ""


# Words as numbers ---------------------------------------------------------------------------


class _Vocabulary(dict):
    """The words of some texts, numbered from 1 for the commonest; all other words are 0.

    vocabulary["well-known,"] gives (412, 97). What has no blanks is cut into words once and then
    remembered: stories are made of few such pieces.
    """

    def __init__(self, texts: Iterable[str]):
        counts = Counter()
        for piece, times in Counter(chain.from_iterable(map(str.split, texts))).items():
            for word in words_of(piece):
                counts[word] += times
        self.numbers = {word: number for number, (word, _) in enumerate(counts.most_common(), 1)}

    def __missing__(self, piece: str) -> tuple[int, ...]:
        if len(self) >= PIECES:
            self.clear()
        self[piece] = tuple(self.numbers.get(word, 0) for word in words_of(piece))
        return self[piece]


class _Numbered:
    """Texts as the numbers of their words, all in one array, with a gap behind each text.

    Attributes:
        words: int32 of shape (W,), gaps included.
        starts, lengths: the first word of each text and how many it has, shape (N,).
        owner: the text that each word or gap belongs to, shape (W,).
    """

    def __init__(self, words: np.ndarray, lengths: np.ndarray):
        self.words, self.lengths = words, lengths
        self.starts = np.cumsum(lengths + 1) - lengths - 1
        self.owner = np.repeat(np.arange(len(lengths)), lengths + 1)

    def of(self, text: int) -> np.ndarray:
        """The words of one text."""
        start = self.starts[text]
        return self.words[start : start + self.lengths[text]]

    def only(self, kept: np.ndarray) -> "_Numbered":
        """The same texts with those words only where `kept`, boolean of shape (W,), is true."""
        kept = kept.copy()
        kept[self.starts + self.lengths] = True  # the gaps
        counts = np.bincount(self.owner[kept], minlength=len(self.lengths))
        return _Numbered(self.words[kept], counts - 1)


def _number(texts: Iterable[str], vocabulary: _Vocabulary, gap: int) -> _Numbered:
    parts = [np.empty(0, dtype=np.int32)]
    for text in texts:
        words = chain.from_iterable(map(vocabulary.__getitem__, text.split()))
        parts.append(np.fromiter(chain(words, (gap,)), dtype=np.int32))
    lengths = np.array([len(part) - 1 for part in parts[1:]], dtype=np.int64)
    return _Numbered(np.concatenate(parts), lengths)


class _Search:
    """Looks for some texts among the training stories.

    What a search has found is merged from what it finds in each part of train.bin.
    """

    def __init__(self, folder: Path, tokenizer: Tokenizer, texts: list[str]):
        self.path, self.tokenizer = folder / "train.bin", tokenizer
        self.vocabulary = _Vocabulary(texts)
        # The gaps of texts and those of stories differ: no run of equal words goes over a gap.
        self.texts = _number(texts, self.vocabulary, gap=len(self.vocabulary.numbers) + 1)

    def read(self, span: slice) -> tuple[list[str], _Numbered]:
        """The training stories in some of the tokens."""
        stories = list(_decode(_open(self.path, self.tokenizer)[span], self.tokenizer))
        return stories, _number(stories, self.vocabulary, gap=0)


# Copied runs and ROUGE-L --------------------------------------------------------------------


@dataclass
class _Best:
    """The best known for each of N texts; arrays of shape (N,)."""

    run: np.ndarray  # words of the longest copied run
    stop: np.ndarray  # the word of the text behind that run
    rouge: np.ndarray
    story: np.ndarray  # str objects


class _Nearest(_Search):
    """The search for the longest copied run and the best ROUGE-L of each text."""

    def __init__(self, folder: Path, tokenizer: Tokenizer, texts: list[str]):
        super().__init__(folder, tokenizer, texts)
        common = self.texts.words <= COMMON
        self.common, rare = self.texts.only(common), self.texts.only(~common)
        self.bags = _Bags(self.texts)
        self.common_bags, self.rare_bags = self.bags.of(self.common), self.bags.of(rare)

    def start(self) -> _Best:
        count = len(self.texts.lengths)
        run, stop = np.zeros((2, count), dtype=np.int64)
        return _Best(run, stop, np.zeros(count), np.full(count, "", dtype=object))

    def merge(self, best: _Best, found: _Best) -> _Best:
        longer, closer = found.run > best.run, found.rouge > best.rouge
        return _Best(
            np.where(longer, found.run, best.run),
            np.where(longer, found.stop, best.stop),
            np.where(closer, found.rouge, best.rouge),
            np.where(closer, found.story, best.story),
        )

    def scan(self, span: slice, best: _Best) -> _Best:
        """`best`, improved by what the stories in a part of train.bin have."""
        stories, numbered = self.read(span)
        run, stop = self._longest_runs(numbered.words, best.run, best.stop)
        rouge, chosen = self._best_rouge(numbered, best.rouge)
        story = best.story.copy()
        for text in np.flatnonzero(chosen >= 0):
            story[text] = stories[chosen[text]]
        return _Best(run, stop, rouge, story)

    def _longest_runs(self, words: np.ndarray, known: np.ndarray, stop: np.ndarray):
        """The longest runs and where in the texts they stop, improved by those in `words`.

        Shapes: words (W,), known and stop (N,).
        """
        texts, run, stop = self.texts, known.copy(), stop.copy()
        story_windows, text_windows = _hashes(words), _hashes(texts.words)
        n = 1
        while n <= known.max(initial=0) + 1 and len(story_windows):
            seeded = (n <= known + 1) & (known + 1 < 2 * n) & (known < texts.lengths)
            places = np.flatnonzero(seeded[texts.owner[: len(text_windows)]])
            places = places[np.argsort(text_windows[places])]
            for i, j in _alike(story_windows, text_windows, places):
                end = run[texts.owner[j]]  # a longer run has this word, too
                longer = words.take(i + end, mode="clip") == texts.words.take(j + end, mode="clip")
                i, j = i[longer], j[longer]
                length, text = _run_lengths(words, i, texts.words, j), texts.owner[j]
                new = _records(text, length, run)
                run[text[new]] = length[new]
                stop[text[new]] = (j + length - texts.starts[text])[new]
            story_windows, text_windows = _join(story_windows, n), _join(text_windows, n)
            n *= 2
        return run, stop

    def _best_rouge(self, stories: _Numbered, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The best ROUGE-L, improved by `stories`, and the story that did, or -1: shapes (N,)."""
        rouge, chosen = known.copy(), np.full(len(known), -1)
        bags = self.bags.of(stories)
        common = stories.only((stories.words > 0) & (stories.words <= COMMON))
        by_length = np.argsort(self.texts.lengths)
        for first in range(0, len(by_length), TEXTS):
            some = by_length[first : first + TEXTS]
            both = np.maximum(1, self.texts.lengths[some, None] + stories.lengths)
            rare = np.stack([_shared(bags, self.rare_bags[:, text]) for text in some])
            shared = rare + np.stack([_shared(bags, self.common_bags[:, text]) for text in some])
            row, story = np.nonzero(2 * shared / both > known[some, None])
            bound = rare[row, story] + _lcs_lengths(self.common, some[row], common, story)
            hope = 2 * bound / both[row, story] > known[some[row]]
            row, story = row[hope], story[hope]
            exact = 2 * _lcs_lengths(self.texts, some[row], stories, story) / both[row, story]
            new = _records(row, exact, known[some])
            rouge[some[row[new]]], chosen[some[row[new]]] = exact[new], story[new]
        return rouge, chosen


def _records(owner: np.ndarray, value: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Where each owner's first largest value is, for those above known[owner]."""
    above = np.flatnonzero(value > known[owner])
    order = above[np.lexsort((-value[above], owner[above]))]
    return order[np.unique(owner[order], return_index=True)[1]]


def _run_lengths(a: np.ndarray, i: np.ndarray, b: np.ndarray, j: np.ndarray, limit=None):
    """How many words from a[i] on equal those from b[j] on, at most `limit`: shaped as i and j."""
    length = np.zeros(len(i), dtype=np.int64)
    going, n = np.arange(len(i)), 0
    while len(going) and n != limit:
        going = going[a[i[going] + n] == b[j[going] + n]]  # the gaps differ and end every run
        n += 1
        length[going] = n
    return length


def _lcs_lengths(
    texts: _Numbered, text: np.ndarray, stories: _Numbered, story: np.ndarray
) -> np.ndarray:
    """Lengths of the longest common subsequences of texts.of(text[k]) and stories.of(story[k]).

    All pairs go through their stories abreast, word by word, by the bit-parallel step of Hyyrö
    (2004, "Bit-parallel LCS-length computation revisited"): bit j of a pair's row turns 0 where
    word j of its text makes the subsequence longer. A row is cut into limbs of 63 bits; bit 64
    catches the carry of an addition.

    Shapes: text and story (K,), the result too.
    """
    some, row_of = np.unique(text, return_inverse=True)
    limbs = texts.lengths[some].max(initial=0) // 63 + 1
    size = 1 + int(max(texts.words.max(initial=0), stories.words.max(initial=0)))
    has = np.zeros((limbs, len(some) * size), dtype=np.uint64)  # bit j: word j of the text is it
    for k, words in enumerate(map(texts.of, some)):
        limb, bit = np.divmod(np.arange(len(words)), 63)
        np.add.at(has, (limb, k * size + words), 1 << bit.astype(np.uint64))

    longest = np.empty(len(text), dtype=np.int64)
    order = np.argsort(-stories.lengths[story], kind="stable")
    for pairs in np.split(order, range(PAIRS, len(order), PAIRS)):
        rows = np.full((limbs, len(pairs)), 2**63 - 1, dtype=np.uint64)
        spare = np.empty((3, len(pairs)), dtype=np.uint64)
        base, at = row_of[pairs] * size, stories.starts[story[pairs]]
        lengths = stories.lengths[story[pairs]]
        for n in range(lengths.max(initial=0)):
            going = np.count_nonzero(lengths > n)  # the longest stories come first
            place = base[:going] + stories.words.take(at[:going] + n)
            kept, new, carry = spare[:, :going]
            carry[:] = 0
            for limb, row in zip(has, rows[:, :going], strict=True):
                limb.take(place, out=kept, mode="clip")  # the mode that checks is slow
                kept &= row
                np.add(row, kept, out=new)
                new += carry
                np.right_shift(new, 63, out=carry)
                new &= 2**63 - 1
                row ^= kept
                row |= new
        longest[pairs] = 63 * limbs - np.bitwise_count(rows).sum(axis=0, dtype=np.int64)
    return longest


class _Bags:
    """Texts as sets of bits, such that two texts share as many words as bits.

    A bit says that a text has a certain word for the k-th time; there are as many bits of a word
    as it has places in any one of `texts`.
    """

    def __init__(self, texts: _Numbered):
        _, words, times = _occurrences(texts)
        self.most = np.zeros(texts.words.max(initial=0) + 1, dtype=np.int64)
        np.maximum.at(self.most, words, times + 1)
        self.first = np.cumsum(self.most) - self.most
        self.limbs = -(-int(self.most.sum()) // 64)

    def of(self, texts: _Numbered) -> np.ndarray:
        """The bits of each text: uint64 of shape (limbs, N)."""
        owner, words, times = _occurrences(texts)
        counted = times < self.most[words]
        owner, bit = owner[counted], (self.first[words] + times)[counted]
        bits = np.zeros((self.limbs, len(texts.lengths)), dtype=np.uint64)
        np.add.at(bits, (bit // 64, owner), 1 << (bit % 64).astype(np.uint64))
        return bits


def _occurrences(texts: _Numbered) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For every word in the texts: its text, its number, how often it stood there before."""
    keys = np.delete((texts.owner << 32) | texts.words, texts.starts + texts.lengths)
    keys.sort()
    place = np.arange(len(keys))
    begins = np.diff(keys, prepend=-1) != 0
    times = place - np.maximum.accumulate(np.where(begins, place, 0))
    return keys >> 32, keys & (2**32 - 1), times


def _shared(bags: np.ndarray, bag: np.ndarray) -> np.ndarray:
    """How many words each of the bags (limbs, N) shares with one bag (limbs,): shape (N,)."""
    total = np.zeros(bags.shape[1], dtype=np.uint32)
    for limb in np.flatnonzero(bag):
        total += np.bitwise_count(bags[limb] & bag[limb])
    return total


# Leaks --------------------------------------------------------------------------------------


class _Leaks(_Search):
    """The search for validation stories among the training stories.

    What is found is a boolean array of shape (3, N): whole stories, beginnings, runs.
    """

    def __init__(self, folder: Path, tokenizer: Tokenizer, texts: list[str]):
        super().__init__(folder, tokenizer, texts)
        self.wholes, self.beginnings = defaultdict(list), defaultdict(list)
        for k, text in enumerate(texts):
            if self.texts.lengths[k]:
                self.wholes[self.texts.of(k).tobytes()].append(k)
                self.beginnings[text[:BEGINNING]].append(k)

    def start(self) -> np.ndarray:
        return np.zeros((3, len(self.texts.lengths)), dtype=bool)

    def merge(self, before: np.ndarray, found: np.ndarray) -> np.ndarray:
        return before | found

    @functools.cached_property
    def windows(self) -> tuple[np.ndarray, np.ndarray]:
        """The hashes of the texts' windows of 13 words, and the places that put them in order."""
        hashes = _windows_of_13(self.texts.words)
        return hashes, np.argsort(hashes)

    def scan(self, span: slice, found: np.ndarray) -> np.ndarray:
        """`found`, and what is found in a part of train.bin."""
        whole, beginning, run = found = found.copy()
        stories, numbered = self.read(span)
        for k, story in enumerate(stories):
            whole[self.wholes.get(numbered.of(k).tobytes(), [])] = True
            beginning[self.beginnings.get(story[:BEGINNING], [])] = True
        owner, words = self.texts.owner, self.texts.words
        hashes, places = self.windows
        places = places[~run[owner[places]]]
        for i, j in _alike(_windows_of_13(numbered.words), hashes, places):
            new = ~run[owner[j]]
            i, j = i[new], j[new]
            run[owner[j[_run_lengths(numbered.words, i, words, j, limit=RUN) == RUN]]] = True
        return found


# Windows of words ---------------------------------------------------------------------------


def _hashes(words: np.ndarray) -> np.ndarray:
    """A hash of each word: uint64."""
    return words.astype(np.uint64) * 0x9E3779B97F4A7C15


def _join(windows: np.ndarray, step: int) -> np.ndarray:
    """The hashes of longer windows, each joined from a window and the one `step` words later."""
    joined = windows[:-step] * 0xD6E8FEB86659FD93
    joined ^= joined >> 32
    joined += windows[step:]
    return joined


def _windows_of_13(words: np.ndarray) -> np.ndarray:
    windows = _hashes(words)
    for step in (1, 2, 4, 5):  # to 2, 4, 8 and, overlapping, 13 words
        windows = _join(windows, step)
    return windows


def _alike(ours: np.ndarray, theirs: np.ndarray, places: np.ndarray):
    """Yield arrays i, j with ours[i] == theirs[j], together for all i and for all j in `places`.

    Args:
        ours, theirs: uint64.
        places: in such an order that theirs[places] ascends.
    """
    sought = theirs[places]
    bits = (8 * len(sought) + 1).bit_length()
    some = np.zeros(2**bits, dtype=bool)  # by their first bits alone, most of ours are out
    some[sought >> (64 - bits)] = True
    i = np.flatnonzero(some[ours >> (64 - bits)])
    first = np.searchsorted(sought, ours[i], side="left")
    count = np.searchsorted(sought, ours[i], side="right") - first
    cuts = np.flatnonzero(np.diff(np.cumsum(count) // PLACES)) + 1
    for part in np.split(np.arange(len(i)), cuts):
        times = count[part]
        nth = np.arange(times.sum()) - np.repeat(np.cumsum(times) - times, times)
        yield np.repeat(i[part], times), places[np.repeat(first[part], times) + nth]


# Reading ------------------------------------------------------------------------------------


def _read_all(search: _Nearest | _Leaks, progress: Callable[[int], object]):
    """Let a search scan all of train.bin, and return what it found.

    What is known helps to pass over the rest, so chunks are scanned in waves, one chunk for each
    process, and every wave knows what those before it found. As findings are merged in order, they
    are the same for any number of processes.
    """
    ids = _open(search.path, search.tokenizer)
    workers = min(WORKERS, os.cpu_count() or 1) if len(ids) > ALONE else 1
    sizes = chain.from_iterable(repeat(size, workers) for size in _growing(FIRST_CHUNK, CHUNK))
    spans = _spans(ids, search.tokenizer.end_of_text, sizes)
    found = search.start()
    with _scanner(search, workers) as scan:
        while wave := list(islice(spans, workers)):
            for span, new in zip(wave, scan(wave, repeat(found)), strict=True):
                found = search.merge(found, new)
                progress(span.stop - span.start)
    return found


def _growing(size: int, largest: int) -> Iterator[int]:
    while True:
        yield min(size, largest)
        size *= 4


@contextmanager
def _scanner(search: _Nearest | _Leaks, workers: int):
    """A function that scans several spans, side by side where there is more than one worker."""
    if workers == 1:
        yield functools.partial(map, search.scan)
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), _employ, (search,)) as pool:
        yield functools.partial(pool.map, _scan)


def _employ(search: _Nearest | _Leaks) -> None:
    """Begin as a worker."""
    global _search
    _search = search
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started it


def _scan(span: slice, found):
    return _search.scan(span, found)


def _open(path: Path, tokenizer: Tokenizer) -> np.ndarray:
    """The ids of a .bin, memory-mapped."""
    return TokenFile(path, tokenizer.vocab_size, block_size=1).ids


def _spans(ids: np.ndarray, end_of_text: int, sizes: Iterable[int]) -> Iterator[slice]:
    """Cut ids into spans of whole stories, each of about as many ids as `sizes` says next."""
    start = 0
    for size in sizes:
        if start >= len(ids):
            return
        stop, ends = start, ()
        while not len(ends) and stop < len(ids):  # a story may be longer than `size`
            ends = np.flatnonzero(ids[stop : stop + size] == end_of_text) + stop
            stop += size
        stop = int(ends[-1]) + 1 if stop < len(ids) else len(ids)
        yield slice(start, stop)
        start = stop


def _decode(ids: np.ndarray, tokenizer: Tokenizer) -> Iterator[str]:
    """The texts of the stories in `ids`."""
    byte_lengths = tokenizer.byte_lengths()
    for span in _spans(ids, tokenizer.end_of_text, repeat(BLOCK)):
        block = np.asarray(ids[span])
        text = tokenizer.decode_bytes(block)
        stops = np.cumsum(byte_lengths[block])[block == tokenizer.end_of_text].tolist()
        if block[-1] != tokenizer.end_of_text:
            stops.append(len(text))
        for start, stop in zip([0, *stops], stops, strict=False):
            yield text[start:stop].decode("utf-8", errors="replace")
