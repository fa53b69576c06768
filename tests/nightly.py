"""What takes too long for the suite: make nightly.

python -m pytest tests/nightly.py
"""

import itertools
import json
import random
import resource

from test_stories_near import other_names, other_order, shorter

from tinystories.stories import near, storybook

STORIES, PLANTED = 100_000, 1000
MOST_MEMORY = 1_000_000  # KB


def test_near_copies_are_found_among_a_hundred_thousand_stories(tmp_path):
    """Each third of the planted ones has other names, another order, or a paragraph less."""
    texts = list(storybook.stories(STORIES))
    long = [text for text in texts if text.count("\n\n") > 1]
    changes = itertools.cycle((other_names, other_order, shorter))
    chosen = random.Random(1).sample(long, PLANTED)
    texts += [change(text) for change, text in zip(changes, chosen, strict=False)]
    path = tmp_path / "stories.jsonl"
    path.write_text("".join(json.dumps(text) + "\n" for text in texts))
    found = near.near_duplicates(near.StoryFiles([path]), len(texts), 0, near.SIMILAR)
    assert sum(number >= STORIES for number in found) >= 0.95 * PLANTED
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < MOST_MEMORY
