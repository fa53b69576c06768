"""The loss of a model over batches and over texts, in nats per token and in bits per byte."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from model import LanguageModel
from tinystories.device import Hardware

BATCH_TOKENS = 2**14  # at most, in a batch of an evaluation
BATCH_LOGITS = 2**25  # at most: 128 MB in float32


@dataclass(frozen=True)
class Loss:
    """The loss over some predicted tokens; the sum of two is the loss over both."""

    total_nats: float = 0.0  # summed over the predicted tokens, end of text included
    tokens: int = 0  # predicted
    bytes: int = 0  # of UTF-8 text that these tokens spell; end of text has none

    def __add__(self, other: "Loss") -> "Loss":
        return Loss(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    @property
    def nats(self) -> float:
        """Nats per token: what training minimizes, comparable within one vocabulary."""
        return self.total_nats / self.tokens

    @property
    def bits_per_byte(self) -> float:
        """Bits per byte of text, comparable between vocabularies: nats / ln 2 / bytes."""
        return self.total_nats / math.log(2) / max(1, self.bytes)


@torch.no_grad()
def estimate_loss(
    model: torch.nn.Module,
    batches: Iterable[tuple[np.ndarray, np.ndarray]],
    byte_lengths: np.ndarray | None,
    hardware: Hardware,
) -> Loss:
    """The loss over batches of windows. Leaves the model in training mode.

    Args:
        model: a GPT, compiled or not, that returns the mean loss of (x, y).
        batches: pairs x, y of int64 ids, shape (B, T); y is -1 where there is no target.
        byte_lengths: UTF-8 bytes of each id, shape (V,); None: bytes are not counted.
    """
    loss = Loss()
    model.eval()
    for x, y in batches:
        targets = y[y >= 0]
        with hardware.autocast():
            mean = model(*(torch.from_numpy(a).to(hardware.device) for a in (x, y)))
        nats = mean.item() * len(targets)
        size = 0 if byte_lengths is None else int(byte_lengths[targets].sum())
        loss += Loss(nats, len(targets), size)
    model.train()
    return loss


class Window(NamedTuple):
    """Ids [start, start + length) of a text, each of which predicts the id after it."""

    text: int  # index of the text
    start: int
    length: int
    first_new: int  # the previous window made the predictions before this one


def text_windows(texts: Sequence[np.ndarray], block_size: int) -> list[Window]:
    """Windows that predict each id of each text once, the first of each text excepted.

    Where a text is longer than a window, the next window begins half a window before the first id
    that is new to it: every id is predicted from at least block_size // 2 ids before it, or from
    all that there are.
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
def loss_per_text(
    model: LanguageModel,
    texts: Sequence[np.ndarray],
    context_lengths: Sequence[int],
    text_bytes: Sequence[int],
    hardware: Hardware,
) -> list[Loss]:
    """The loss over each text by itself, read in `text_windows`.

    Args:
        model: in evaluation mode.
        texts: ids, at least two per text; a story begins with end of text.
        context_lengths: how many ids at the start of each text are read but do not count, >= 1.
        text_bytes: UTF-8 bytes of what counts of each text.
    """
    nats = [np.zeros(len(ids) - 1) for ids in texts]  # of each id after the first
    windows = text_windows(texts, model.config.block_size)
    windows.sort(key=lambda window: window.length, reverse=True)  # to pad little
    max_tokens = min(BATCH_TOKENS, BATCH_LOGITS // model.config.vocab_size)
    while windows:
        T = windows[0].length
        count = max(1, max_tokens // T)
        batch, windows = windows[:count], windows[count:]
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
        for row, (text, start, length, first) in enumerate(batch):
            nats[text][start + first : start + length] = losses[row, first:length]
    losses = []
    for text_nats, context, size in zip(nats, context_lengths, text_bytes, strict=True):
        counted = text_nats[context - 1 :]
        losses.append(Loss(float(counted.sum()), len(counted), size))
    return losses
