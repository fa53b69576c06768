"""The stories in which a model is looked at, and which kind of token comes next at each place."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tinystories.dataset import Dataset
from tinystories.loss import BATCH_LOGITS
from tinystories.storystats import WORD, count_words
from tinystories.tokenizer import Tokenizer

BATCH = 16  # stories at a time: their attention, and their logits, have to fit in memory
NAMES_FROM = 2000  # stories in which names are looked for
KINDS = {  # of the token that comes next, with what they are called
    "name_again": "a name that\nstood before",
    "name_new": "a new\nname",
    "word": "first piece\nof a word",
    "inside": "inside\na word",
    "other": "punctuation,\nend",
}


@dataclass(frozen=True)
class Story:
    """One text: x are the ids that the model reads, y the next of each, both (T,)."""

    x: np.ndarray
    y: np.ndarray
    pieces: list[bytes]  # of y
    kinds: np.ndarray  # of y, indices of KINDS
    mentions: list[tuple[int, list[int]]]  # (query that predicts a name, keys of earlier mentions)

    @property
    def bytes(self) -> int:
        """UTF-8 bytes of y."""
        return sum(map(len, self.pieces))


@dataclass(frozen=True)
class ModelWithStories:
    """A model, and the stories in which it is looked at."""

    model: Any  # in evaluation mode, float32
    tokenizer: Tokenizer
    device: torch.device
    stories: list[Story]

    @property
    def num_layers(self) -> int:
        return len(self.model.h)

    @property
    def num_heads(self) -> int:
        return self.model.config.n_head

    def batches(self) -> Iterator[tuple[list[Story], Tensor, Tensor]]:
        """Some stories, and their x and y, (B, T); y is -1 where a story has ended."""
        limit = BATCH_LOGITS // self.model.config.vocab_size // self.model.config.block_size
        size = max(1, min(BATCH, limit))
        for first in range(0, len(self.stories), size):
            batch = self.stories[first : first + size]
            T = max(len(story.x) for story in batch)
            x = np.zeros((len(batch), T), dtype=np.int64)
            y = np.full((len(batch), T), -1, dtype=np.int64)
            for row, story in enumerate(batch):
                x[row, : len(story.x)], y[row, : len(story.y)] = story.x, story.y
            yield batch, torch.from_numpy(x).to(self.device), torch.from_numpy(y).to(self.device)


def nats(logits: Tensor, y: Tensor) -> Tensor:
    """The loss of each prediction, (B, T), 0 where y has no target."""
    each = F.cross_entropy(
        logits.flatten(0, 1).float(), y.flatten(), ignore_index=-1, reduction="none"
    )
    return each.view_as(y)


def by_story(each: Tensor, y: Tensor) -> list[np.ndarray]:
    """The losses that `nats` gives, of each story only those that have a target."""
    rows = each.cpu().double().numpy()
    return [row[:n] for row, n in zip(rows, (y >= 0).sum(1).tolist(), strict=True)]


def validation_stories(
    data: Dataset, tokenizer: Tokenizer, block_size: int, count: int
) -> tuple[list[Story], set[str]]:
    """Up to `count` validation stories, evenly spread, the first block_size tokens of each; names.

    Data that is one text has no stories: windows of it take their place. A tokenizer that is not
    the data's reads their text.
    """
    own = tokenizer.fingerprint == data.tokenizer.fingerprint if tokenizer.lossless else False
    if data.tokenizer.end_of_text is None:
        starts = data.val.evenly_spaced_starts(NAMES_FROM)
        each = [np.asarray(data.val.ids[i : i + block_size + 1]) for i in starts]
    else:
        each = [ids[:-1] for ids in data.val.story_ids(data.tokenizer.end_of_text) if len(ids) > 1]
    texts = [data.tokenizer.decode(ids) for ids in evenly_spread(each, NAMES_FROM)]
    names = set(count_words(texts).names)
    stories = []
    for ids in evenly_spread(each, count):
        if not own:
            ids = np.array(tokenizer.encode(data.tokenizer.decode(ids)))
        stories.append(make_story(tokenizer, ids, block_size, names))
    return [story for story in stories if len(story.x)], names


def evenly_spread(items: Sequence, count: int) -> list:
    """Up to `count` of some items, evenly spread over all of them, in order."""
    places = np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int)
    return [items[i] for i in places]


def make_story(
    tokenizer: Tokenizer, ids: np.ndarray, block_size: int, names: set[str], ended: bool = True
) -> Story:
    """The first block_size predictions in a text, which the tokenizer's first id precedes.

    Args:
        names: words that are names.
        ended: whether its end is predicted, too, if the vocabulary has an end of text.
    """
    end = [] if tokenizer.end_of_text is None or not ended else [tokenizer.end_of_text]
    whole = np.array([tokenizer.first_id, *ids, *end], dtype=np.int64)
    x, y = whole[:-1][:block_size], whole[1:][:block_size]
    pieces = pieces_of(tokenizer, y)
    return Story(x, y, pieces, *kinds_of(pieces, names))


def pieces_of(tokenizer: Tokenizer, ids: Sequence[int] | np.ndarray) -> list[bytes]:
    """The bytes that each id adds to a text; of one that completes a character, all of these."""
    if tokenizer.lossless:
        return [tokenizer.token_bytes[i] for i in ids]
    decode = tokenizer.stream_decoder([])
    return [decode([int(i)], False).encode() for i in ids]


def kinds_of(pieces: list[bytes], names: set[str]) -> tuple[np.ndarray, list]:
    """The kind of each piece of a text, and where the names that come again stood before.

    What counts is the text, not what a piece looks like: a piece belongs to the word it has
    letters of, and a bare space to the word after it. The first piece of a word is the one with
    its first letter, and a bare space before that; so a name that a space and a letter begin is
    two predictions of a name. The second result is as Story.mentions, for pieces that are y: the
    piece at i is predicted by query i, and is key i + 1.
    """
    # A byte that is part of no character becomes a surrogate, which is one byte again.
    text = b"".join(pieces).decode(errors="surrogateescape")
    sizes = [len(character.encode(errors="surrogateescape")) for character in text]
    places = np.cumsum([0, *sizes])
    ends = np.cumsum([len(piece) for piece in pieces])
    starts = ends - [len(piece) for piece in pieces]
    kinds = np.full(len(pieces), list(KINDS).index("other"))
    seen: dict[str, list[int]] = {}
    mentions = []
    for word in WORD.finditer(text):
        begin, stop = places[word.start()], places[word.end()]
        own = np.flatnonzero((starts < stop) & (ends > begin)).tolist()
        while own[0] and pieces[own[0] - 1] == b" ":
            own.insert(0, own[0] - 1)
        first = [i for i in own if starts[i] <= begin]
        name = word[0].removesuffix("'s").removesuffix("’s")
        kind = "word"
        if name in names:
            kind = "name_again" if name in seen else "name_new"
            mentions += [(i, [key + 1 for key in seen[name]]) for i in first if name in seen]
            seen.setdefault(name, []).extend(own)
        kinds[own] = list(KINDS).index("inside")
        kinds[first] = list(KINDS).index(kind)
    return kinds, mentions
