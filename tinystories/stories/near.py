"""Near-duplicates: stories that another one has nearly whole.

    copies = near_duplicates(StoryFiles(paths), count, first_train, 0.8)

Similarity is containment (Broder 1997): the share of the smaller story's word 5-grams that the
other story has, too. So a story with a paragraph less is as similar as its copy, 1.0, where the
Jaccard similarity (shared 5-grams / all 5-grams of both) may be 0.5. The 5-grams are those of
`grams`, which neither another name nor another order of the sentences changes: such copies have at
least 0.9, and the most similar two of 14,872 TinyStories that were found have 0.35. 0.8 is between.

Comparing every pair would take years, so there are candidates first, by MinHash with LSH (Leskovec
et al. 2020, Mining of Massive Datasets, sections 3.3 and 3.4). A signature has HASHES numbers; the
probability that two stories agree in one is their Jaccard similarity J. Stories that agree in all
numbers of a band are in one bucket: with 64 bands of 4, the probability that two are in any bucket
together is 1 - (1 - J⁴)⁶⁴: 0.98 for J = 0.5, 0.81 for J = 0.4, and 0.0004 for J = 0.05. Of two
different TinyStories, J is 0.006 on average and below 0.06 for 999 pairs in 1,000. A copy with less
than half of a story has a lower J, so it may be missed.

In a bucket each story meets only NEIGHBOURS others, those with the most similar signatures, so that
time and memory grow with the stories and not with their square. Candidates whose signatures agree
too little for the threshold are left out; of the others, the text of the COMPARED best ones is
compared. Nothing is dropped on an estimate.
"""

import heapq
import json
import os
import re
from array import array
from bisect import bisect
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
import rensa

from tinystories.parallel import batches, parallel_map, process_pool
from tinystories.terminal import counted, progress

NGRAM = 5  # words
BANDS, ROWS = 64, 4
HASHES = BANDS * ROWS
NEIGHBOURS = 4  # of a bucket, which a story's signature is compared with, on either side
LEAST_SCORE = -2  # standard errors that the estimate of a candidate may be below the threshold
COMPARED = 8  # candidates of a story whose text is compared, those with the best estimate
SIMILAR = 0.8  # the threshold where no setting has another
BLOCK = 4096  # stories for which an Index makes room at a time
EXAMPLES = 20  # pairs to read
SEED = 1  # of the hashes
BATCH = 1_000_000  # characters of the stories that are hashed at a time
PAIR_BATCH = 50_000  # pairs of signatures that are compared at a time: 100 MB
COMPARED_AT_ONCE = 200  # stories whose text one process compares at a time
PARTS = 10  # of so many stories, for each process, before it is known which of them are dropped
SINGLE_PROCESS = 50_000  # stories up to which starting other processes takes longer
MAX_WORKERS = 16
Sketch = tuple[np.ndarray, np.ndarray]  # signatures and sizes of some stories, as _sketch has them


class Copy(NamedTuple):
    """Why a story is dropped."""

    kept: int  # the number of the story that it is nearly the same as
    similarity: float


class StoryFiles:
    """The stories of files that have a JSON text per line, in order and by number."""

    def __init__(self, paths: Sequence[Path]):
        self.paths = paths
        self.firsts: list[int] = []  # of each file: the number of its first story
        self.places = array("q")  # of each story: the byte where it begins in its file

    def __iter__(self) -> Iterator[str]:
        self.firsts, self.places = [], array("q")
        for path in self.paths:
            self.firsts.append(len(self.places))
            place = 0
            with open(path, "rb") as file:
                for line in file:
                    self.places.append(place)
                    place += len(line)
                    yield json.loads(line)

    def __getitem__(self, number: int) -> str:
        """A story by its number, once all were read."""
        path = self.paths[bisect(self.firsts, number) - 1]
        with open(path, "rb") as file:
            file.seek(self.places[number])
            return json.loads(file.readline())


_NAME = re.compile(r"[A-Z]\w*")
_WORD = re.compile(r"\w+")
_ENDS, _BETWEEN = ".!?", "\t\"#$%&'()*+,-/:;<=>@[\\]^_`{|}~"
_MARKS = str.maketrans(_ENDS + _BETWEEN, "\n" * len(_ENDS) + " " * len(_BETWEEN))
_OTHER_MARK = re.compile(r"[^\w\s]")
_OTHER_WORD = re.compile("([\u3040-\u30ff\u3400-\u9fff])")  # a Chinese or Japanese character
_OTHER_END = str.maketrans("。！？।؟…", "\n" * 6)
_PRONOUN = dict.fromkeys(("he", "she", "his", "her", "hers", "him", "himself", "herself"), "he")


def grams(text: str, n: int = NGRAM) -> set[str]:
    """The word n-grams of a text, so that copies have the same ones.

    A capitalized word is a name or begins a sentence, and both are the token N; he and she are one
    token. N-grams do not cross the end of a sentence, and a shorter sentence is one by itself.
    """
    if not text.isascii():
        text = _WORD.sub(lambda word: "N" if word[0][0].isupper() else word[0], text)
    text = _NAME.sub("N", text).translate(_MARKS)
    if not text.isascii():
        text = _OTHER_WORD.sub(r" \1 ", _OTHER_MARK.sub(" ", text.translate(_OTHER_END)))
    found = set()
    for sentence in text.split("\n"):
        words = [_PRONOUN.get(word, word) for word in sentence.split()]
        if words:
            found.update(" ".join(words[i : i + n]) for i in range(max(1, len(words) - n + 1)))
    return found


def containment(a: set[str], b: set[str]) -> float:
    """The share of the smaller set that is in the other, 0 to 1."""
    return len(a & b) / min(len(a), len(b)) if a and b else 0.0


def near_duplicates(
    stories: StoryFiles | Sequence[str], count: int, first_train: int, threshold: float
) -> dict[int, Copy]:
    """The training stories that are near-duplicates of a validation story or of a kept one.

    Of `count` stories, those before number `first_train` are the validation stories, of which none
    is dropped. A story is compared with kept stories only, so a chain of small changes does not
    take everything along; of near-duplicates in training the first one stays.
    """
    candidates = _candidates(*_sketch(stories, count), first_train, threshold)
    having = np.flatnonzero((candidates >= 0).any(axis=1)).tolist()
    copies: dict[int, Copy] = {}

    def others(story: int) -> list[int]:
        """What to compare a story with, as far as is known now: validation first."""
        row = [n for n in candidates[story].tolist() if n >= 0]
        # A candidate that was dropped stands for the story that it was dropped for.
        kept = dict.fromkeys(copies[n].kept if n in copies else n for n in row)
        return sorted(kept, key=lambda n: min(n, first_train))

    bar = progress(None, "comparing near-duplicates", "stories", total=len(having))
    with _processes(len(having), stories) as run, bar:
        compare = partial(_compare, threshold=threshold, stories=stories if run is map else None)
        waves = _cut(having, _cores() * PARTS * COMPARED_AT_ONCE)
        for wave in waves:
            pairs = [(story, others(story)) for story in wave]
            found = chain.from_iterable(run(compare, _cut(pairs, COMPARED_AT_ONCE)))
            for story, known in zip(wave, found, strict=True):
                for other in others(story):
                    if other not in known:  # it stands for one that was dropped in this wave
                        known[other] = containment(grams(stories[story]), grams(stories[other]))
                    if known[other] >= threshold:
                        copies[story] = Copy(other, known[other])
                        break
                bar.update()
    return copies


def _cores() -> int:
    return min(MAX_WORKERS, os.cpu_count() or 1)


def _cut(items: Sequence, size: int) -> Iterator[Sequence]:
    return (items[first : first + size] for first in range(0, len(items), size))


@contextmanager
def _processes(count: int, stories: StoryFiles | Sequence[str] = ()) -> Iterator[Callable]:
    """A `map` on all cores, whose processes know the stories; `map` itself for few stories."""
    if _cores() == 1 or count <= SINGLE_PROCESS:
        yield map
        return
    with process_pool(_cores(), _keep, stories) as pool:
        yield partial(parallel_map, processes=pool)


_kept: list[StoryFiles | Sequence[str]] = []  # the stories, in another process


def _keep(stories: StoryFiles | Sequence[str]) -> None:
    _kept.append(stories)


def _compare(
    part: Sequence[tuple[int, list[int]]],
    threshold: float,
    stories: StoryFiles | Sequence[str] | None = None,
) -> list[dict[int, float]]:
    """The similarity of each story to its others, up to the first that reaches the threshold."""
    texts, found = _kept[0] if stories is None else stories, []
    for story, others in part:
        own, known = grams(texts[story]), {}
        for other in others:
            known[other] = containment(own, grams(texts[other]))
            if known[other] >= threshold:
                break
        found.append(known)
    return found


class Index:
    """Stories that become more; each new one can be compared with all that are there.

    Its signature is compared with every other one, without bands, so that no bucket can miss any:
    22 ms for 100,000 stories, of which each takes 516 bytes. `read` gives the text of a story by
    its number, in the order in which they were added.
    """

    def __init__(self, read: Callable[[int], str]):
        self.read, self.count = read, 0
        self.blocks: list[Sketch] = []  # of BLOCK stories each

    def add(self, text: str) -> None:
        place = self.count % BLOCK
        if place == 0:
            self.blocks.append((np.zeros((BLOCK, HASHES), np.uint16), np.zeros(BLOCK, np.int32)))
        signatures, sizes = self.blocks[-1]
        own = grams(text)
        signatures[place], sizes[place] = _signatures([own])[0], len(own)
        self.count += 1

    def find(self, text: str, threshold: float) -> Copy | None:
        """A story that this text is a near-duplicate of; None where there is none."""
        own = grams(text)
        if not own or not self.count:
            return None
        sketch = _signatures([own]), np.array([len(own)], np.int32)
        scores = np.concatenate([_score(block, sketch, threshold) for block in self.blocks])
        scores = scores[: self.count]
        best = np.argsort(-scores, kind="stable")[:COMPARED]
        for number in best[scores[best] > LEAST_SCORE].tolist():
            if (similarity := containment(own, grams(self.read(number)))) >= threshold:
                return Copy(number, similarity)
        return None


def write_examples(path: Path, stories: StoryFiles, copies: dict[int, Copy]) -> None:
    """Write pairs of a dropped and a kept story, for reading: the EXAMPLES least similar ones.

    They show whether the threshold is too low. No file is written where nothing was dropped.
    """
    least = heapq.nsmallest(EXAMPLES, copies, key=lambda number: copies[number].similarity)
    if not least:
        return
    parts = [f"{len(least):,} of {counted(len(copies), 'near-duplicate')}, the least similar first"]
    for number in least:
        kept, similarity = copies[number]
        rule = "=" * 20
        parts.append(f"{rule} dropped, similarity {similarity:.3f}\n{stories[number]}")
        parts.append(f"{rule} kept\n{stories[kept]}")
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _sketch(stories: Iterable[str], count: int) -> Sketch:
    """Signatures, uint16 [count, HASHES], and how many n-grams each story has, [count]."""
    signatures = np.empty((count, HASHES), np.uint16)
    sizes = np.empty(count, np.int32)
    start, shown = 0, progress(stories, "reading near-duplicates", "stories", total=count)
    with _processes(count) as run:
        for some in run(_sketch_some, batches(shown, BATCH)):
            end = start + len(some[1])
            signatures[start:end], sizes[start:end] = some
            start = end
    return signatures, sizes


def _sketch_some(texts: Sequence[str]) -> Sketch:
    found = list(map(grams, texts))
    return _signatures(found), np.array(list(map(len, found)), np.int32)


def _signatures(stories: Sequence[set[str]]) -> np.ndarray:
    """The signatures of stories, given by their n-grams, uint16 [len(stories), HASHES].

    Two bytes of a hash are enough: they agree by chance once in 65,536 times. 512 bytes a story.
    """
    digests = rensa.RMinHash.digests_from_token_sets(list(map(list, stories)), HASHES, SEED)
    return np.array(digests, np.uint32).astype(np.uint16)


def _candidates(
    signatures: np.ndarray, sizes: np.ndarray, first_train: int, threshold: float
) -> np.ndarray:
    """The earlier stories to compare each story with, int32 [count, COMPARED], the best first.

    -1 fills the places that are left, and those of validation stories.
    """
    count = len(sizes)
    keys = signatures.view(np.uint64)  # [count, BANDS]: the ROWS numbers of a band are one key
    best = np.full((count, COMPARED), -1, np.int32)
    scores = np.full((count, COMPARED), LEAST_SCORE, np.float32)
    for band in progress(range(BANDS), "matching near-duplicates", "bands"):
        # Sorted by the next band, too: in a large bucket, similar signatures become neighbours.
        order = np.lexsort((keys[:, (band + 1) % BANDS], keys[:, band]))
        key = keys[order, band]
        for distance in range(1, NEIGHBOURS + 1):
            same = np.flatnonzero(key[distance:] == key[:-distance])
            one, other = order[same], order[same + distance]
            # In each direction, a story comes once as the late one.
            for early, late in ((one, other), (other, one)):
                wanted = (early < late) & (late >= first_train) & (sizes[early] > 0)
                early, late = early[wanted], late[wanted]
                for i in range(0, len(late), PAIR_BATCH):
                    pair = early[i : i + PAIR_BATCH], late[i : i + PAIR_BATCH]
                    a, b = ((signatures[each], sizes[each]) for each in pair)
                    score = _score(a, b, threshold)
                    _keep_best(best, scores, *pair, score)
    return np.take_along_axis(best, np.argsort(-scores, axis=1), axis=1)


def _score(a: Sketch, b: Sketch, threshold: float) -> np.ndarray:
    """By how many standard errors the signatures of pairs agree more than they need to.

    What is needed is the Jaccard similarity that a containment of `threshold` means for the sizes.
    """
    shared = threshold * np.minimum(a[1], b[1])
    needed = shared / (a[1] + b[1] - shared)
    estimate = np.count_nonzero(a[0] == b[0], axis=1) / HASHES
    return (estimate - needed) / (np.sqrt(needed * (1 - needed) / HASHES) + 1e-3)


def _keep_best(best, scores, early, late, score) -> None:
    """Put pairs in the place of worse ones; each story comes at most once as the late one."""
    worst = scores[late].argmin(axis=1)
    better = (score > scores[late, worst]) & (best[late] != early[:, None]).all(axis=1)
    place = late[better], worst[better]
    best[place], scores[place] = early[better], score[better]
