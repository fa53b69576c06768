"""What a model and its tokenizer do together: the loss of tokens, and telling stories."""

import codecs
import copy
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from configurator import UserError
from model import GPT
from tinystories.device import Hardware
from tinystories.tokenizer import END_OF_TEXT, Tokenizer

TOKENS_AT_ONCE = 2**14  # read in one batch, and
LOGITS_AT_ONCE = 2**25  # held of them: 128 MB


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


class Window(NamedTuple):
    """What is read of a text at once: `length` ids from `start` on, which predict the next ones."""

    text: int  # which one
    start: int
    length: int
    new: int  # the first prediction that no window before has made


def text_windows(texts: Sequence[np.ndarray], block_size: int) -> list[Window]:
    """Windows that predict each id of each text once, the first of each text excepted.

    Where a text is longer than a window, the next one begins half a window before the first id
    that is new to it: every id is predicted from at least block_size // 2 ids before it, or from
    all there are.
    """
    overlap = block_size // 2
    windows = []
    for text, ids in enumerate(texts):
        last = len(ids) - 1
        windows.append(Window(text, 0, min(block_size, last), 0))
        for start in range(block_size - overlap, last - overlap, block_size - overlap):
            windows.append(Window(text, start, min(block_size, last - start), overlap))
    return windows


@torch.no_grad()
def measure_texts(
    model: GPT,
    texts: Sequence[np.ndarray],
    given: Sequence[int],
    byte_lengths: np.ndarray,
    hardware: Hardware,
) -> list[Loss]:
    """The loss over each of some texts, every text by itself, read in `text_windows`.

    Args:
        model: a GPT in evaluation mode.
        texts: the ids of each text, two at least; a story begins with end of text.
        given: how many ids at the front of each text are read but do not count, at least 1.
        byte_lengths: UTF-8 bytes of each id, shape (V,).
    """
    nats = [np.zeros(len(ids) - 1) for ids in texts]  # of each id but the first
    windows = text_windows(texts, model.config.block_size)
    windows.sort(key=lambda window: window.length, reverse=True)  # little padding
    room = min(TOKENS_AT_ONCE, LOGITS_AT_ONCE // model.config.vocab_size)
    while windows:
        T = windows[0].length
        batch, windows = windows[: max(1, room // T)], windows[max(1, room // T) :]
        x = np.zeros((len(batch), T), dtype=np.int64)
        y = np.full((len(batch), T), -1, dtype=np.int64)
        for row, (text, start, length, _) in enumerate(batch):
            x[row, :length] = texts[text][start : start + length]
            y[row, :length] = texts[text][start + 1 : start + length + 1]
        x, y = (torch.from_numpy(ids).to(hardware.device) for ids in (x, y))
        with hardware.autocast():
            logits = model(x).flatten(0, 1)
        losses = F.cross_entropy(logits.float(), y.flatten(), ignore_index=-1, reduction="none")
        losses = losses.view_as(y).cpu().numpy()
        for row, (text, start, length, new) in enumerate(batch):
            nats[text][start + new : start + length] = losses[row, new:length]
    losses = []
    for ids, of_ids, count in zip(texts, nats, given, strict=True):
        total, text_bytes = of_ids[count - 1 :].sum(), byte_lengths[ids[count:]].sum()
        losses.append(Loss(float(total), len(ids) - count, int(text_bytes)))
    return losses


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


def for_telling(model: GPT, hardware: Hardware) -> GPT:
    """A copy of the model whose matrices lie as telling reads them fastest; or the model itself.

    In a lower precision they are converted: autocast would do so anew for every token. In float32
    on a CPU they lie column by column: one story is told 1.3 times as fast.

    The position table stays as it is, which keeps the sums between the layers in float32.
    """
    in_float32 = hardware.dtype == torch.float32
    if in_float32 and hardware.device.type != "cpu":
        return model
    model = copy.deepcopy(model)
    for parameter in model.parameters():
        if parameter.dim() == 2 and parameter is not model.wpe.weight:
            if in_float32:
                parameter.data = parameter.data.T.contiguous().T
            else:
                parameter.data = parameter.data.to(hardware.dtype)
    return model


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
        model: in evaluation mode, or dropout makes it stutter; `for_telling` makes it faster.
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
            text = END_OF_TEXT.encode() if is_end and not stop else tokenizer.token_bytes[token]
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
