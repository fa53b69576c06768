"""Choose the stories that together have most different word 3-grams.

    kept = select(stories, count, size)    # numbers of stories

Maximum coverage is NP-hard. The greedy way, each time the story that adds most, covers at least
1 - 1/e = 63 % of what is possible (Nemhauser, Wolsey and Fisher 1978), and no algorithm of
polynomial time promises more (Feige 1998). What a story adds only falls as others are chosen, so
what it added earlier is an upper bound, and few have to be counted again (lazy greedy; Minoux
1978): the result is that of the greedy way, story by story.

The n-grams are those of `near.grams`, in which all names are one: a story told again with another
name adds nothing. 3-grams, since most 5-grams are in one story only, and then the longest stories
would win; single words say too little about a story. Long stories still add more than short ones.
"""

import heapq
import zlib
from collections.abc import Iterable

import numpy as np

from tinystories.stories.near import grams
from tinystories.terminal import progress

NGRAM = 3  # words
MOST_SLOTS = 2**30  # bytes that say what is covered, one for each hash


def select(stories: Iterable[str], count: int, size: int) -> set[int]:
    """The numbers of `size` of `count` stories, or of all where there are not more.

    Of stories that add the same, the first is chosen. 4 bytes of memory per n-gram of a story,
    and up to 1 GB for what is covered.
    """
    if size >= count:
        return set(range(count))
    ids = [_ids(text) for text in progress(stories, "reading n-grams", "stories", total=count)]
    slots = min(max(2**26, 64 * sum(map(len, ids))), MOST_SLOTS)  # so few n-grams share one
    covered = np.zeros(slots, bool)
    bounds = [(-len(found), number) for number, found in enumerate(ids)]
    heapq.heapify(bounds)
    kept = set()
    with progress(None, "selecting", "stories", total=size) as bar:
        while len(kept) < size:
            _, number = bounds[0]
            places = ids[number] % slots
            new = places[~covered[places]]
            heapq.heapreplace(bounds, (-len(new), number))
            if bounds[0] == (-len(new), number):  # still the best, though others are only bounds
                heapq.heappop(bounds)
                covered[new] = True
                kept.add(number)
                bar.update()
    return kept


def _ids(text: str) -> np.ndarray:
    """The hashes of a text's n-grams, each once."""
    return np.array([zlib.crc32(gram.encode()) for gram in grams(text, NGRAM)], np.uint32)
