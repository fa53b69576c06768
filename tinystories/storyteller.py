"""What a model and its tokenizer do together: the loss of tokens, and telling stories."""

import codecs
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from configurator import UserError
from model import GPT
from tinystories.device import Hardware
from tinystories.tokenizer import END_OF_TEXT, Tokenizer


@dataclass(frozen=True)
class Loss:
    """The loss over some predicted tokens; the sum of two is the loss over both."""

    total_nats: float = 0.0  # summed over the tokens, end of text included
    tokens: int = 0
    bytes: int = 0  # of the text that the tokens stand for; end of text has none

    def __add__(self, other: "Loss") -> "Loss":
        return Loss(
            self.total_nats + other.total_nats,
            self.tokens + other.tokens,
            self.bytes + other.bytes,
        )

    @property
    def nats(self) -> float:
        """Nats per token: what training minimises, comparable within one vocabulary."""
        return self.total_nats / self.tokens

    @property
    def bits_per_byte(self) -> float:
        """Bits per byte of text: comparable between vocabularies."""
        return self.total_nats / math.log(2) / max(1, self.bytes)


@torch.no_grad()
def measure(
    model: torch.nn.Module,
    batches: Iterable[tuple[np.ndarray, np.ndarray]],
    byte_lengths: np.ndarray,
    hardware: Hardware,
) -> Loss:
    """The loss over batches of windows.

    Args:
        model: a GPT, compiled or not, that returns the mean loss of (x, y).
        batches: pairs x, y of int64 ids, shape (B, T); y is -1 where nothing is to be predicted.
        byte_lengths: UTF-8 bytes of each id, shape (V,).
    """
    loss = Loss()
    model.eval()
    for x, y in batches:
        targets = y[y >= 0]
        with hardware.autocast():
            mean = model(*(torch.from_numpy(a).to(hardware.device) for a in (x, y)))
        nats = mean.item() * len(targets)
        loss += Loss(nats, len(targets), int(byte_lengths[targets].sum()))
    model.train()
    return loss


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn; see model.sample_ids and GPT.generate.

    Raises:
        UserError: a value outside its range.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0

    def __post_init__(self):
        if self.temperature < 0:
            raise UserError(f"temperature is {self.temperature}; it must be 0 (greedy) or more")
        if self.top_k is not None and self.top_k < 1:
            raise UserError(f"top_k is {self.top_k}; it must be at least 1, or None for all")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UserError(f"top_p is {self.top_p}; it must lie above 0 and up to 1")
        if self.min_p is not None and not 0 <= self.min_p <= 1:
            raise UserError(f"min_p is {self.min_p}; it must lie in 0 to 1")
        if self.repetition_penalty <= 0:
            raise UserError(
                f"repetition_penalty is {self.repetition_penalty}; it must be above 0 (1 is none)"
            )


def tell(
    model: GPT,
    tokenizer: Tokenizer,
    hardware: Hardware,
    beginning: str = "",
    count: int = 1,
    max_new_tokens: int = 500,
    sampling: Sampling = Sampling(),
    seed: int = 0,
    stop: bool = True,
) -> Iterator[list[str | None]]:
    """Tell `count` stories at once that all begin with `beginning`.

    A story starts behind end of text, as in training. The same seed tells the same stories.

    Args:
        model: in evaluation mode, or dropout makes it stutter.
        stop: end each story at end of text; otherwise the name of that token is written out, and
            the telling goes on.

    Yields:
        what every new token adds to each story: whole characters, so a text is empty while a
        character is not complete; None for a story that has ended. The last texts, after the last
        token, flush characters that were never completed.
    """
    ids = [tokenizer.end_of_text, *tokenizer.encode(beginning)]
    idx = torch.tensor([ids] * count, device=hardware.device)
    decoders = [codecs.getincrementaldecoder("utf-8")("replace") for _ in range(count)]
    ended = [False] * count
    new_ids = model.generate(
        idx,
        max_new_tokens,
        end_of_text=tokenizer.end_of_text if stop else None,
        generator=torch.Generator(hardware.device).manual_seed(seed),
        **vars(sampling),
    )
    while True:
        with hardware.autocast():  # entered anew for each token: the caller runs in between
            new = next(new_ids, None)
        if new is None:
            break
        pieces = []
        for i, token in enumerate(new.tolist()):
            is_end = token == tokenizer.end_of_text
            ended[i] = ended[i] or (stop and is_end)
            text = END_OF_TEXT.encode() if is_end and not stop else tokenizer.decode_bytes([token])
            pieces.append(decoders[i].decode(text, final=ended[i]) or (None if ended[i] else ""))
        yield pieces
    yield [None if over else d.decode(b"", True) for over, d in zip(ended, decoders, strict=True)]


@dataclass
class Story:
    """A story told; `ended` if the model itself brought it to an end."""

    text: str
    ended: bool = False


def tell_whole(told: Iterable[list[str | None]], beginning: str, count: int) -> list[Story]:
    """Listen to `tell` to the end: the stories, their beginning included."""
    stories = [Story(beginning) for _ in range(count)]
    for pieces in told:
        for story, piece in zip(stories, pieces, strict=True):
            story.text += piece or ""
            story.ended = piece is None
    return stories
