"""Memorization: how much of a text is copied from the training stories.

    nearest(texts, folder, tokenizer)    what each text has in common with the training stories
    leak(validation, folder, tokenizer)  how many validation stories are among them

Both read train.bin once, in chunks. The results are exact: only candidates that cannot improve
them are skipped. Words are those of diversity.words: lower case, without punctuation. Each word is
replaced by a number, so that numpy can compare them.

Copied words: a hash join on n-grams. If the longest copy of a text known so far has 1 word, a
longer one has at least 2 and begins with a copied 2-gram. So the 2-grams of the training stories
are looked up, by their hashes, among those of the text, and every match is extended word by word:

    text     "the dog saw my cat"     the dog | dog saw | saw my | my cat
    story    "a dog saw my hen"         a dog | dog saw | saw my | my hen
    matches  "dog saw" extends to "dog saw my", "saw my" does not: the longest copy has 3 words

n is 1, 2, 3, 5, 8, 13, ... The hash of an n-gram combines those of its first and last m words,
where m is the n before (of 13 words: 1 to 8 and 6 to 13). The search uses the largest n that a
copy longer than the best one so far must have.

ROUGE-L: an upper bound first. The words in common in any order, counted quickly as common bits of
two sets, are at least as many as those in common in the same order. Only where this bound exceeds
the best ROUGE-L so far does rapidfuzz compute the longest common subsequence.
"""

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Any

import numpy as np
from rapidfuzz import process
from rapidfuzz.distance import Indel, LCSseq

from tinystories.dataset import TokenFile
from tinystories.evaluation.diversity import words as words_of
from tinystories.parallel import process_pool
from tinystories.tokenizer import Tokenizer

Progress = Callable[[int], object]  # is called with the number of tokens read since the last call
ROUGE_L: Any = Indel.normalized_similarity  # 1 - indels / (m + n): 2 LCS / (m + n), but rounded
PREFIX_CHARS = 100  # characters that leak() compares
LEAK_NGRAM = 13  # words in a row that count as a leak
# The numbers below change speed and memory, not results. They are round guesses that work well.
FIRST_CHUNK = 2_000  # tokens; start small: early results give bounds that prune the later chunks
LARGEST_CHUNK = 2_000_000  # tokens; each wave has larger chunks, up to this: 200 MB per process
SINGLE_PROCESS_TOKENS = 20_000_000  # read within a minute or so; more needs several processes
MAX_WORKERS = 8  # limits the memory of all processes
WORD_CACHE_SIZE = 500_000  # pieces of text without spaces: some 70 MB
MATCH_BATCH = 300_000  # pairs of positions that are compared at a time, which limits memory


@dataclass(frozen=True)
class Match:
    """What a text has in common with the training stories."""

    copied_words: int  # words of the longest n-gram that is in one training story
    copied_text: str  # that n-gram as written in the text, from space to space
    rouge_l: float  # the best ROUGE-L with a training story, 0 to 1
    nearest_story: str  # the first training story with this ROUGE-L; "" if no word is shared


def nearest(
    texts: list[str], folder: Path, tokenizer: Tokenizer, progress: Progress | None = None
) -> list[Match]:
    """Find what each text has in common with the training stories of a dataset.

    ROUGE-L is the F-measure of Lin (2004), section 3.1, with beta = 1: 2 LCS / (m + n) for a text
    of m words and a story of n, where LCS is the length of their longest common subsequence.

    Raises UserError if train.bin is missing or holds ids outside the vocabulary.
    """
    return _scan_all(_NearestSearch(folder, tokenizer, texts), progress)


def leak(
    texts: Iterable[str], folder: Path, tokenizer: Tokenizer, progress: Progress | None = None
) -> dict[str, int]:
    """Count the validation stories `texts` that are among the training stories; see `nearest`.

    Returns "stories", all of `texts`; "whole", those with the same words as a training story;
    "prefix", with the same first 100 characters; and "ngram", with 13 words in a row that are in a
    training story, the measure of Brown et al. 2020 (GPT-3), appendix C.
    """
    found = _scan_all(_LeakSearch(folder, tokenizer, list(texts)), progress)
    whole, prefix, ngram = found.sum(axis=1).tolist()
    return {"stories": found.shape[1], "whole": whole, "prefix": prefix, "ngram": ngram}


def _excerpt(text: str, start: int, end: int) -> str:
    """Words start to end - 1 of a text, as written there, from space to space."""
    pieces = text.split()
    words_so_far = np.cumsum([len(words_of(piece)) for piece in pieces])
    first, last = np.searchsorted(words_so_far, (start + 1, end))
    return " ".join(pieces[first : last + 1]) if end > start else ""


class _Vocabulary(dict):
    """The words of some texts, numbered from 1 by falling frequency; all other words are 0.

    vocabulary["well-known,"] gives (412, 97). A piece of text without spaces is split into words
    once and then remembered: there are few different ones.
    """

    def __init__(self, texts: Iterable[str]):
        counts = Counter(chain.from_iterable(map(words_of, texts)))
        self.numbers = {word: number for number, (word, _) in enumerate(counts.most_common(), 1)}

    def __missing__(self, piece: str) -> tuple[int, ...]:
        if len(self) >= WORD_CACHE_SIZE:
            self.clear()
        self[piece] = tuple(self.numbers.get(word, 0) for word in words_of(piece))
        return self[piece]


class _EncodedTexts:
    """Texts as the numbers of their words, all in one array, with a separator after each text.

    Attributes:
        words: int32 of shape (W,), separators included.
        starts, lengths: the first word of each text and how many it has, shape (N,).
        text_index: the text that each word or separator belongs to, shape (W,).
    """

    def __init__(self, texts: Iterable[str], vocabulary: _Vocabulary, separator: int):
        parts = [np.empty(0, dtype=np.int32)]
        for text in texts:
            words = chain.from_iterable(map(vocabulary.__getitem__, text.split()))
            parts.append(np.fromiter(chain(words, (separator,)), dtype=np.int32))
        self.words = np.concatenate(parts)
        self.lengths = np.array([len(part) - 1 for part in parts[1:]], dtype=np.int64)
        self.starts = np.cumsum(self.lengths + 1) - self.lengths - 1
        self.text_index = np.repeat(np.arange(len(self.lengths)), self.lengths + 1)

    def as_strings(self) -> np.ndarray:
        """The texts with one character per word, for rapidfuzz: str objects, shape (N,)."""
        joined = self.words.astype("<u4").tobytes().decode("utf-32-le", "surrogatepass")
        bounds = zip(self.starts.tolist(), (self.starts + self.lengths).tolist(), strict=True)
        return np.array([joined[start:end] for start, end in bounds], dtype=object)


class _Search:
    """Looks for some texts among the training stories.

    `scan` adds what one chunk of train.bin has to what is known; `merge` combines two results.
    """

    def __init__(self, folder: Path, tokenizer: Tokenizer, texts: list[str]):
        self.path, self.tokenizer, self.raw_texts = folder / "train.bin", tokenizer, texts
        self.vocabulary = _Vocabulary(texts)
        # Texts and stories have different separators: no equal n-gram crosses one.
        self.texts = _EncodedTexts(texts, self.vocabulary, len(self.vocabulary.numbers) + 1)
        self.text_ngrams = {}  # by n: the hashes of all n-grams of the texts, what sorts them

    def token_file(self) -> TokenFile:
        """train.bin, memory-mapped."""
        return TokenFile(self.path, self.tokenizer.vocab_size, block_size=1)

    def read(self, chunk: tuple[int, int]) -> tuple[list[str], _EncodedTexts]:
        """The training stories in the ids from chunk[0] to chunk[1] - 1."""
        stories = list(self.token_file().stories(self.tokenizer, *chunk))
        return stories, _EncodedTexts(stories, self.vocabulary, separator=0)

    def longest_copies(self, words: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Look among the words of some stories, (W,), for copies longer than those known, (N,).

        Returns words of the longest copy, and, where that is above `known`, the word of the text
        after it; shapes (N,).
        """
        texts, longest, end = self.texts, known.copy(), np.zeros_like(known)
        wanted = np.where(known < texts.lengths, known + 1, 0)
        for n, next_n, hashes in _ngram_hashes(words):
            if n > wanted.max(initial=0):
                break
            searched = (n <= wanted) & (wanted < next_n)
            if not searched.any():
                continue
            if n not in self.text_ngrams:
                of_texts = next(h for m, _, h in _ngram_hashes(texts.words) if m == n)
                self.text_ngrams[n] = of_texts, np.argsort(of_texts)
            text_hashes, order = self.text_ngrams[n]
            positions = order[searched[texts.text_index[order]]]
            for i, j in _matching_positions(hashes, text_hashes, positions):
                last = longest[texts.text_index[j]]  # a longer copy has this word in common, too
                text_words = texts.words.take(j + last, mode="clip")
                longer = words.take(i + last, mode="clip") == text_words
                i, j = i[longer], j[longer]
                length, text = _common_lengths(words, i, texts.words, j), texts.text_index[j]
                np.maximum.at(longest, text, length)
                best = np.flatnonzero(length == longest[text])[::-1]  # the first is assigned last
                end[text[best]] = (j + length - texts.starts[text])[best]
        return longest, end


class _NearestSearch(_Search):
    """The search for the longest copy and the best ROUGE-L of each text: a Match for each."""

    def __init__(self, folder: Path, tokenizer: Tokenizer, texts: list[str]):
        super().__init__(folder, tokenizer, texts)
        self.keys = np.append(np.unique(_occurrences(self.texts)[1]), np.iinfo(np.int64).max)
        self.bitsets, self.strings = _word_bitsets(self.texts, self.keys), self.texts.as_strings()

    def start(self) -> list[Match]:
        return [Match(0, "", 0.0, "")] * len(self.raw_texts)

    def merge(self, before: list[Match], found: list[Match]) -> list[Match]:
        merged = []
        for pair in zip(before, found, strict=True):  # of equal ones, max takes the first
            longer = max(pair, key=lambda match: match.copied_words)
            closer = max(pair, key=lambda match: match.rouge_l)
            copy = longer.copied_words, longer.copied_text
            merged.append(Match(*copy, closer.rouge_l, closer.nearest_story))
        return merged

    def scan(self, chunk: tuple[int, int], known: list[Match]) -> list[Match]:
        stories, encoded = self.read(chunk)
        known_lengths = np.array([match.copied_words for match in known], dtype=np.int64)
        longest, end = self.longest_copies(encoded.words, known_lengths)
        bitsets, strings = _word_bitsets(encoded, self.keys), encoded.as_strings()
        found = []
        for k, match in enumerate(known):
            if longest[k] > match.copied_words:
                copied = _excerpt(self.raw_texts[k], end[k] - longest[k], end[k])
                match = replace(match, copied_words=int(longest[k]), copied_text=copied)
            both = np.maximum(1, self.texts.lengths[k] + encoded.lengths)
            common = np.zeros(len(stories), dtype=np.uint32)  # words, in any order
            for limb in np.flatnonzero(self.bitsets[:, k]):
                common += np.bitwise_count(bitsets[limb] & self.bitsets[limb, k])
            can_improve = np.flatnonzero(2 * common / both > match.rouge_l)
            text, candidates = self.strings[k], strings[can_improve].tolist()
            options = {"scorer": ROUGE_L, "score_cutoff": match.rouge_l}
            if best := process.extractOne(text, candidates, **options):
                story = can_improve[best[2]]
                rouge_l = float(2 * LCSseq.similarity(text, strings[story]) / both[story])
                if rouge_l > match.rouge_l:
                    match = replace(match, rouge_l=rouge_l, nearest_story=stories[story])
            found.append(match)
        return found


def _word_bitsets(texts: _EncodedTexts, keys: np.ndarray) -> np.ndarray:
    """Texts as sets of bits, such that two texts have as many bits as words in common.

    Bit b says that a text has a certain word for the k-th time; keys[b] says which word and which
    k. Other words have no bit. The keys ascend, and the last one is larger than all that occur.
    Returns uint64 of shape (limbs, N), 64 bits in each limb.
    """
    text_index, found = _occurrences(texts)
    bit = np.searchsorted(keys, found)
    has_bit = keys[bit] == found
    text_index, bit = text_index[has_bit], bit[has_bit]
    bits = np.zeros((len(keys) // 64 + 1, len(texts.lengths)), dtype=np.uint64)
    np.add.at(bits, (bit // 64, text_index), 1 << (bit % 64).astype(np.uint64))
    return bits


def _occurrences(texts: _EncodedTexts) -> tuple[np.ndarray, np.ndarray]:
    """For every word in the texts: its text, and a key of the word and how often it came before."""
    keys = np.delete((texts.text_index << 32) | texts.words, texts.starts + texts.lengths)
    keys.sort()
    position = np.arange(len(keys))
    is_first = np.diff(keys, prepend=-1) != 0
    earlier = position - np.maximum.accumulate(np.where(is_first, position, 0))
    return keys >> 32, (keys << 32) | earlier  # the shift drops the text, not the word


class _LeakSearch(_Search):
    """The search for validation stories among the training stories.

    The result is a boolean array of shape (3, N): whole stories, prefixes, n-grams.
    """

    def __init__(self, folder: Path, tokenizer: Tokenizer, texts: list[str]):
        super().__init__(folder, tokenizer, texts)
        self.wholes, self.prefixes = defaultdict(list), defaultdict(list)
        for k, words in enumerate(self.texts.as_strings()):
            if words:
                self.wholes[words].append(k)
                self.prefixes[texts[k][:PREFIX_CHARS]].append(k)

    def start(self) -> np.ndarray:
        return np.zeros((3, len(self.texts.lengths)), dtype=bool)

    def merge(self, before: np.ndarray, found: np.ndarray) -> np.ndarray:
        return before | found

    def scan(self, chunk: tuple[int, int], found: np.ndarray) -> np.ndarray:
        whole, prefix, ngram = found = found.copy()
        stories, encoded = self.read(chunk)
        for story, words in zip(stories, encoded.as_strings(), strict=True):
            whole[self.wholes.get(words, [])] = True
            prefix[self.prefixes.get(story[:PREFIX_CHARS], [])] = True
        known = np.where(ngram, self.texts.lengths, LEAK_NGRAM - 1)
        longest, _ = self.longest_copies(encoded.words, known)
        ngram |= longest >= LEAK_NGRAM
        return found


def _ngram_hashes(words: np.ndarray) -> Iterator[tuple[int, int, np.ndarray]]:
    """Yield n, the next n, and the hashes of all n-grams, uint64, for n = 1, 2, 3, 5, 8, 13, ...

    The two multipliers are arbitrary large odd numbers. N-grams with equal hashes are compared
    word by word, so a worse hash would cost time and change nothing.
    """
    hashes = words.astype(np.uint64) * 0x9E3779B97F4A7C15
    n, next_n = 1, 2
    while len(hashes):
        yield n, next_n, hashes
        step = next_n - n
        joined = hashes[:-step] * 0xD6E8FEB86659FD93
        joined ^= joined >> 32
        joined += hashes[step:]
        hashes, n, next_n = joined, next_n, n + next_n


def _common_lengths(a: np.ndarray, i: np.ndarray, b: np.ndarray, j: np.ndarray) -> np.ndarray:
    """How many words from a[i] on equal those from b[j] on: shaped as i and j."""
    length = np.zeros(len(i), dtype=np.int64)
    equal, n = np.arange(len(i)), 0
    while len(equal):
        equal = equal[a[i[equal] + n] == b[j[equal] + n]]  # different separators end every n-gram
        n += 1
        length[equal] = n
    return length


def _matching_positions(story_hashes: np.ndarray, text_hashes: np.ndarray, positions: np.ndarray):
    """Yield arrays i, j, together all pairs with story_hashes[i] == text_hashes[j], j in positions.

    The hashes are uint64; positions are in such an order that text_hashes[positions] ascends.
    """
    sought = text_hashes[positions]
    bits = (8 * len(sought) + 1).bit_length()
    has_first_bits = np.zeros(2**bits, dtype=bool)  # a quick test that most hashes fail
    has_first_bits[sought >> (64 - bits)] = True
    i = np.flatnonzero(has_first_bits[story_hashes >> (64 - bits)])
    first = np.searchsorted(sought, story_hashes[i], side="left")
    count = np.searchsorted(sought, story_hashes[i], side="right") - first
    cuts = np.flatnonzero(np.diff(np.cumsum(count) // MATCH_BATCH)) + 1
    for part in np.split(np.arange(len(i)), cuts):
        times = count[part]
        nth = np.arange(times.sum()) - np.repeat(np.cumsum(times) - times, times)
        yield np.repeat(i[part], times), positions[np.repeat(first[part], times) + nth]


def _scan_all(search: Any, progress: Progress | None) -> Any:
    """What a search finds in all of train.bin.

    Chunks are scanned in waves, one chunk per process, and a wave knows the results of the waves
    before it. Results are merged in order, so they are the same for any number of processes.
    """
    file, found = search.token_file(), search.start()
    workers = min(MAX_WORKERS, os.cpu_count() or 1) if len(file) > SINGLE_PROCESS_TOKENS else 1
    with ExitStack() as stack:
        parallel_map = map
        if workers > 1:
            parallel_map = stack.enter_context(process_pool(workers)).map
        position, size = 0, FIRST_CHUNK
        while position < len(file):
            chunks = file.story_chunks(search.tokenizer.end_of_text, size, position)
            wave = list(islice(chunks, workers))
            results = parallel_map(search.scan, wave, repeat(found))
            for (start, stop), new in zip(wave, results, strict=True):
                found = search.merge(found, new)
                if progress:
                    progress(stop - start)
            position, size = wave[-1][1], min(4 * size, LARGEST_CHUNK)
    return found
