"""How varied told stories are: pure functions on lists of words.

A word is a run of letters and digits, in lower case, with the apostrophes inside it: "It's 3
o'clock!" has three. A measure that has nothing to measure, as the 4-grams of two words, is None.
"""

import math
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, permutations

Words = Sequence[str]

LONGEST = 4  # words in an n-gram of BLEU
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")


def words(text: str) -> list[str]:
    """The words of a text, in order."""
    return [word.replace("’", "'") for word in _WORD.findall(text.lower())]


def vocabulary(texts: Iterable[str]) -> set[str]:
    """All words of some texts, which are read once, one at a time."""
    pieces = set()
    for text in texts:  # cutting at blanks is fast, and the pieces that differ are few
        pieces.update(text.split())
    return set(chain.from_iterable(map(words, pieces)))


def ngrams(story: Words, n: int) -> Iterator[tuple[str, ...]]:
    """All runs of n words of a story, overlapping."""
    return zip(*(story[i:] for i in range(n)), strict=False)


def distinct(stories: Iterable[Words], n: int) -> float | None:
    """Different n-grams of all stories together, as a share of all (Li et al. 2016, section 5.2).

    It falls as the text grows: compare it between equally many stories.
    """
    counts = Counter(chain.from_iterable(ngrams(story, n) for story in stories))
    return len(counts) / counts.total() if counts else None


def repeated(story: Words, n: int = 4) -> float | None:
    """The share of a story's n-grams that stood in it before: seq-rep-n of Welleck et al. 2020."""
    share = distinct([story], n)
    return None if share is None else 1 - share


def bleu(story: Words, reference: Words) -> float:
    """BLEU-4 of a story against one reference (Papineni et al. 2002, section 2.3).

    The geometric mean of the shares of its 1- to 4-grams that stand in the reference too, each
    counted as often as there at most, times a penalty for being shorter. One is added to both
    counts of the longer n-grams, so that a single missing 4-gram does not make all of it 0
    (Lin and Och 2004, section 4).
    """
    if not story:
        return 0.0
    logs = []
    for n in range(1, LONGEST + 1):
        own, other = Counter(ngrams(story, n)), Counter(ngrams(reference, n))
        added = int(n > 1)
        common, count = (own & other).total() + added, own.total() + added
        if not common:
            return 0.0
        logs.append(math.log(common / count))
    shortness = min(0.0, 1 - len(reference) / len(story))
    return math.exp(sum(logs) / LONGEST + shortness)


def self_bleu(
    groups: Sequence[Sequence[Words]], pairs: int = 2000, seed: int = 0
) -> tuple[float | None, int]:
    """How alike the stories of a group are: the mean BLEU of one of them against another.

    The idea is that of Self-BLEU (Zhu et al. 2018, section 3.3); taken pair by pair, as in Shen et
    al. 2019, it does not grow with the number of stories.

    Args:
        groups: stories to be compared with each other, as those with the same beginning.
        pairs: about as many ordered pairs are drawn, evenly from the groups.

    Returns:
        the mean, and the number of pairs that it is taken over.
    """
    chance = random.Random(seed)
    each = -(-pairs // max(1, len(groups)))
    scores = []
    for group in groups:
        all_pairs = list(permutations(group, 2))
        drawn = chance.sample(all_pairs, min(each, len(all_pairs)))
        scores += [bleu(story, reference) for story, reference in drawn]
    return (sum(scores) / len(scores) if scores else None), len(scores)


def unknown(stories: Iterable[Words], known: set[str]) -> float | None:
    """The share of the words of all stories that are not among the known ones."""
    counts = Counter(chain.from_iterable(stories))
    strange = sum(count for word, count in counts.items() if word not in known)
    return strange / counts.total() if counts else None
