"""How surprised the model is by each token of a text, and what it expected instead."""

import math
from dataclasses import dataclass

import numpy as np
import torch

from tinystories.interpretation.stories import ModelWithStories, Story, pieces_of

LIKELIEST = 5  # tokens
MOST_BITS = 8  # of surprise, where the color is strongest
END = "[end]"  # how the token at the end of a story is shown


@dataclass(frozen=True)
class Surprise:
    """The predictions of one text."""

    pieces: list[str]  # as they are shown
    bits: np.ndarray  # of surprise, (T,)
    likeliest: list[list[tuple[str, float]]]  # tokens and their probabilities, of each place
    bits_per_byte: float


@torch.no_grad()
def measure(subject: ModelWithStories, story: Story) -> Surprise:
    """The predictions of one text."""
    x = torch.from_numpy(story.x)[None].to(subject.device)
    logprobs = subject.model(x)[0].float().log_softmax(-1)
    y = torch.from_numpy(story.y).long().to(subject.device)
    bits = -logprobs.gather(1, y[:, None])[:, 0] / math.log(2)
    values, ids = logprobs.exp().topk(min(LIKELIEST, logprobs.shape[1]), dim=-1)
    likeliest = [
        list(zip((name_of(subject, i) for i in row), probs, strict=True))
        for row, probs in zip(ids.tolist(), values.tolist(), strict=True)
    ]
    total = bits.cpu().double().sum().item()
    pieces = shown_pieces(subject, story)
    return Surprise(pieces, bits.cpu().numpy(), likeliest, total / max(1, story.bytes))


def shown_pieces(subject: ModelWithStories, story: Story) -> list[str]:
    """How the tokens that come next are shown."""
    end = subject.tokenizer.end_of_text
    pairs = zip(story.y, story.pieces, strict=True)
    return [END if i == end else visible(piece) for i, piece in pairs]


def name_of(subject: ModelWithStories, token: int) -> str:
    """How an id is shown."""
    if token == subject.tokenizer.end_of_text:
        return END
    return visible(pieces_of(subject.tokenizer, [token])[0])


def visible(piece: bytes) -> str:
    """A token as people can read it: line breaks as \\n, bytes that are no text as \\xNN."""
    text = piece.decode(errors="backslashreplace")
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
