"""Diversity of stories: pure functions on lists of words.

A word is a run of letters and digits, in lower case, with the apostrophes inside it: "It's 3
o'clock!" has three. A metric that has nothing to measure, like the 4-grams of two words, is None.
"""

import math
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

Words = Sequence[str]

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")


def words(text: str) -> list[str]:
    """The words of a text, in order."""
    return [word.replace("’", "'") for word in _WORD.findall(text.lower())]


def vocabulary(texts: Iterable[str]) -> set[str]:
    """All words of some texts, which are read once, one at a time."""
    pieces = set()
    for text in texts:  # splitting at spaces is fast, and there are few different pieces
        pieces.update(text.split())
    return set(chain.from_iterable(map(words, pieces)))


def ngrams(story: Words, n: int) -> Iterator[tuple[str, ...]]:
    """All n-grams of a story, overlapping."""
    return zip(*(story[i:] for i in range(n)), strict=False)


def distinct(stories: Iterable[Words], n: int) -> float | None:
    """distinct-n: different n-grams of all stories / all n-grams (Li et al. 2016, section 5.2).

    It falls as the text gets longer, so compare texts of about the same total length.
    """
    counts = Counter(chain.from_iterable(ngrams(story, n) for story in stories))
    return len(counts) / counts.total() if counts else None


def seq_rep_n(story: Words, n: int = 4) -> float | None:
    """seq-rep-n: the fraction of a story's n-grams that occurred before (Welleck et al. 2020)."""
    fraction = distinct([story], n)
    return None if fraction is None else 1 - fraction


def bleu(story: Words, reference: Words) -> float:
    """BLEU-4 of a story against one reference (Papineni et al. 2002, section 2.3).

    The geometric mean of the fractions of its 1- to 4-grams that are in the reference too, each
    counted at most as often as there, times the brevity penalty. One is added to both counts of
    the longer n-grams, so that a single missing 4-gram does not make the result 0 (Lin and Och
    2004, section 4).
    """
    if not story:
        return 0.0
    logs = []
    for n in range(1, 5):
        own, other = Counter(ngrams(story, n)), Counter(ngrams(reference, n))
        added = int(n > 1)
        common, count = (own & other).total() + added, own.total() + added
        if not common:
            return 0.0
        logs.append(math.log(common / count))
    log_brevity_penalty = min(0.0, 1 - len(reference) / len(story))
    return math.exp(sum(logs) / 4 + log_brevity_penalty)


def self_bleu(
    groups: Sequence[Sequence[Words]], pairs: int = 2000, seed: int = 0
) -> tuple[float | None, int]:
    """Similarity of the stories of a group: the mean BLEU of one of them against another.

    The idea of Self-BLEU (Zhu et al. 2018, section 3.3); pairwise, as in Shen et al. 2019, it does
    not grow with the number of stories. About `pairs` ordered pairs are sampled, evenly from the
    groups: 2,000 give a standard error below 0.001, since the standard deviation among real
    stories is 0.03. Returns the mean, and the number of pairs.
    """
    rng = random.Random(seed)
    pairs_per_group = -(-pairs // max(1, len(groups)))
    scores = []
    for group in groups:
        others = len(group) - 1
        all_pairs = range(len(group) * others)  # by number: a list of them may not fit into memory
        for pair in rng.sample(all_pairs, min(pairs_per_group, len(all_pairs))):
            i, j = divmod(pair, others)
            scores.append(bleu(group[i], group[j + (j >= i)]))
    return (sum(scores) / len(scores) if scores else None), len(scores)


def oov_rate(stories: Iterable[Words], known: set[str]) -> float | None:
    """The fraction of the words of all stories that are not in a vocabulary."""
    counts = Counter(chain.from_iterable(stories))
    unknown = sum(count for word, count in counts.items() if word not in known)
    return unknown / counts.total() if counts else None
