"""Validation loss: of the concatenated stories, and of each story by itself."""

import math
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from configurator import UserError
from tinystories.dataset import SplitWriter, TokenFile
from tinystories.evaluation.results import Rows, number
from tinystories.evaluation.subject import Subject
from tinystories.files import sha256_of
from tinystories.loss import BATCH_TOKENS, Loss, estimate_loss
from tinystories.stories.catalog import Source, open_source
from tinystories.tokenizer import batches


def key(subject: Subject) -> dict:
    """What the result depends on."""
    source = subject.settings.val_source
    if source is None:
        path = subject.dataset().val.path
        name, sha256 = f"{path.parent.name}/{path.name}", sha256_of(path)
    else:
        name, sha256 = source, sha256_of(*user_source(source).files["val"])
    return {"text": name, "sha256": sha256} | subject.machine()


def measure(subject: Subject) -> dict:
    """The loss over the whole text, and over each story by itself."""
    tokenizer, hardware = subject.tokenizer, subject.hardware
    eot = tokenizer.end_of_text
    with validation_file(subject) as file:
        starts, size = file.sequential_starts(), max(1, BATCH_TOKENS // file.block_size)
        total = -(-len(starts) // size)
        windows = subject.progress(file.batches(starts, size), "loss", "batches", total=total)
        all_text = estimate_loss(subject.model, windows, tokenizer.byte_lengths(), hardware)
        stories = [np.append(tokenizer.first_id, ids) for ids in file.story_ids(eot)]
    losses = subject.loss_per_text(stories, [1] * len(stories), "loss per story", "stories")
    return {
        "stories": len(stories),
        "bytes": sum(loss.bytes for loss in losses),
        "all_text": loss_metrics(all_text),
        "per_story": loss_metrics(sum(losses, Loss()))
        | {"bits_per_byte_95": interval_of_mean(losses)},
    }


def rows(result: dict) -> Rows:
    """The result in the table."""

    def metrics(part: dict) -> dict[str, str]:
        return {
            "nats per token": f"{part['nats_per_token']:.4f}",
            "perplexity": f"{part['perplexity']:.3f}",
            "bits per byte": f"{part['bits_per_byte']:.4f}",
        }

    interval = result["per_story"]["bits_per_byte_95"]
    return {
        "Validation text": {
            "stories": number(result["stories"]),
            "bytes": number(result["bytes"]),
        },
        "Loss, concatenated text": metrics(result["all_text"]),
        "Loss, per story": metrics(result["per_story"])
        | {"95 % interval": "{:.4f}-{:.4f}".format(*interval) if interval else "n/a"},
    }


def user_source(path: str) -> Source:
    """The user's own validation stories, which are not cleaned."""
    return open_source(path, val_source=path)


@contextmanager
def validation_file(subject: Subject) -> Iterator[TokenFile]:
    """The validation tokens; the user's own stories are tokenized into a temporary file."""
    source, tokenizer = subject.settings.val_source, subject.tokenizer
    if source is None:
        yield subject.dataset().val
        return
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        path, block_size = Path(folder) / "val.bin", subject.model.config.block_size
        with SplitWriter(path) as writer:
            for batch in batches(user_source(source).stories("val")):
                writer.write(tokenizer.encode_stories(batch), len(batch), text_bytes=0)
        if writer.tokens < 2:
            raise UserError(f"{source} contains no story")
        yield TokenFile(path, tokenizer.vocab_size, min(block_size, writer.tokens - 1))


def loss_metrics(loss: Loss) -> dict:
    """A loss in the usual units."""
    return {
        "tokens": loss.tokens,
        "nats_per_token": loss.nats,
        "perplexity": math.exp(min(loss.nats, 700)),  # exp(710) is too large for a float
        "bits_per_byte": loss.bits_per_byte,
    }


def interval_of_mean(losses: Sequence[Loss]) -> list[float] | None:
    """The 95 % confidence interval of the bits per byte; None for a single story.

    The standard error of a ratio of two sums (Cochran 1977, Sampling Techniques, section 2.11).
    It covers the sampling of the stories, not the variance between training runs.
    """
    n = len(losses)
    if n < 2:
        return None
    total = sum(losses, Loss())
    text_bytes = max(1, total.bytes)
    ratio = total.total_nats / text_bytes
    squares = sum((loss.total_nats - ratio * loss.bytes) ** 2 for loss in losses)
    error = math.sqrt(squares * n / (n - 1)) / text_bytes / math.log(2)
    return [total.bits_per_byte - 1.96 * error, total.bits_per_byte + 1.96 * error]
