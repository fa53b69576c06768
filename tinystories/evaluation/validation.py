"""Validation loss: of the concatenated stories, and of each story by itself."""

import math
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np

from configurator import UserError
from tinystories.dataset import SplitWriter, TokenFile
from tinystories.evaluation.results import Rows, number
from tinystories.evaluation.subject import Subject
from tinystories.files import sha256_of
from tinystories.formats.causal_lm import is_published
from tinystories.loss import BATCH_TOKENS, Loss, estimate_loss
from tinystories.parallel import batches
from tinystories.stories.catalog import Source, open_source
from tinystories.stories.mixture import combine, source_names


def key(subject: Subject) -> dict:
    """What the result depends on."""
    source = subject.settings.val_source
    if source is None:
        path = subject.dataset().val.path
        name, sha256 = f"{path.parent.name}/{path.name}", sha256_of(path)
    else:
        sources = user_sources(source)
        name, sha256 = source, sha256_of(*(p for x in sources for p in x.files["val"]))
    # Earlier versions measured a published model with GPT-2's ids in windows of one token.
    window = subject.model.config.block_size
    of_gpt2 = is_published(subject.name) and subject.tokenizer.lossless
    fixed = {"block_size": window} if of_gpt2 else {}
    return {"text": name, "sha256": sha256} | fixed | subject.machine()


def measure(subject: Subject) -> dict:
    """The loss over the whole text, and over each story by itself.

    Bytes are counted on the ids where a tokenizer is lossless, else on the text; then the result
    also says how many stories decoding does not give back, if there are any: the bits per byte of
    an altered text do not compare with those of the text.
    """
    tokenizer, texts = subject.tokenizer, validation_texts(subject)
    lengths = tokenizer.byte_lengths() if tokenizer.lossless else None
    start = 0 if tokenizer.lossless else 1  # after first_id
    with validation_file(subject, texts) as file:
        starts, size = file.sequential_starts(), max(1, BATCH_TOKENS // file.block_size)
        total = -(-len(starts) // size)
        windows = subject.progress(file.batches(starts, size), "loss", "batches", total=total)
        all_text = estimate_loss(subject.model, windows, lengths, subject.hardware)
        story_ids = list(file.story_ids(tokenizer.end_of_text, start))
    if lengths is not None:
        sizes, altered = [int(lengths[ids].sum()) for ids in story_ids], 0
    else:
        assert texts is not None
        sizes = [len(text.encode(errors="replace")) for text in texts]
        all_text = replace(all_text, bytes=sum(sizes))
        altered = sum(map(str.__ne__, map(tokenizer.decode, story_ids), texts))
    stories = [np.append(tokenizer.first_id, ids) for ids in story_ids]
    ones = [1] * len(stories)
    losses = subject.loss_per_text(stories, ones, sizes, "loss per story", "stories")
    return {
        "stories": len(stories),
        "bytes": sum(sizes),
        "all_text": loss_metrics(all_text),
        "per_story": per_story(losses),
        "parts": {name: per_story(losses[part]) for name, part in parts_of(subject).items()},
    } | ({"bits_per_byte_compare": False, "altered_stories": altered} if altered else {})


def rows(result: dict) -> Rows:
    """The result in the table."""

    def metrics(part: dict) -> dict[str, str]:
        return {
            "nats per token": f"{part['nats_per_token']:.4f}",
            "perplexity": f"{part['perplexity']:.3f}",
            "bits per byte": f"{part['bits_per_byte']:.4f}",
        }

    interval, text = result["per_story"]["bits_per_byte_95"], {}
    parts = {name: f"{part['bits_per_byte']:.4f}" for name, part in result.get("parts", {}).items()}
    by_source = {"Bits per byte by source, per story": parts} if parts else {}
    if altered := result.get("altered_stories"):
        label = "Bits per byte do not compare, since the tokenizer alters the text"
        text = {label: {"altered stories": number(altered)}}
    return {
        "Validation text": {
            "stories": number(result["stories"]),
            "bytes": number(result["bytes"]),
        },
        **text,
        "Loss, concatenated text": metrics(result["all_text"]),
        "Loss, per story": metrics(result["per_story"])
        | {"95 % interval": "{:.4f}-{:.4f}".format(*interval) if interval else "n/a"},
    } | by_source


def per_story(losses: Sequence[Loss]) -> dict:
    """The loss over some stories, each by itself."""
    return loss_metrics(sum(losses, Loss())) | {"bits_per_byte_95": interval_of_mean(losses)}


def user_sources(paths: str) -> list[Source]:
    """The user's own validation stories, which are not cleaned."""
    return [open_source(path, val_source=path) for path in source_names(paths)]


def parts_of(subject: Subject) -> dict[str, slice]:
    """Which of the stories are from which source; none where there is one, or one long text."""
    if subject.tokenizer.end_of_text is None:
        return {}
    if paths := subject.settings.val_source:
        ingredients = combine(user_sources(paths))
        counts = {i.name: sum(1 for _ in i.source.stories("val")) for i in ingredients}
    else:
        sources = (subject.dataset().meta or {}).get("sources", [])
        counts = {source["name"]: source["val"]["stories"] for source in sources}
    if len(counts) < 2:
        return {}
    ends = [0, *accumulate(counts.values())]
    return {name: slice(*bounds) for name, bounds in zip(counts, pairwise(ends), strict=True)}


def validation_texts(subject: Subject) -> list[str] | None:
    """The stories that have to be tokenized; None where the dataset has their ids."""
    tokenizer = subject.tokenizer
    if source := subject.settings.val_source:
        texts = [story for part in user_sources(source) for story in part.stories("val")]
        joined = "".join(f"{text}\n" for text in texts)
    else:
        data = subject.dataset()
        if tokenizer.lossless and data.tokenizer.fingerprint == tokenizer.fingerprint:
            return None
        texts = list(data.val.stories(data.tokenizer))
        joined = "\n".join(texts)
    # Without an end of text they are one text.
    return texts if tokenizer.lossless or tokenizer.end_of_text is not None else [joined]


@contextmanager
def validation_file(subject: Subject, texts: list[str] | None) -> Iterator[TokenFile]:
    """The validation tokens; `texts` are tokenized into a temporary file.

    Where bytes are counted on the text, that file begins with the tokenizer's first_id, so that
    all of the text is predicted.
    """
    tokenizer, shape = subject.tokenizer, subject.model.config
    if texts is None:
        val = subject.dataset().val
        yield TokenFile(val.path, val.vocab_size, min(shape.block_size, len(val) - 1))
        return
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        path, dtype = Path(folder) / "val.bin", "<u4"
        with SplitWriter(path, dtype) as writer:
            if not tokenizer.lossless:
                writer.write(np.array([tokenizer.first_id]), 0, text_bytes=0)
            for batch in batches(texts):
                writer.write(tokenizer.encode_stories(batch), len(batch), text_bytes=0)
        if writer.tokens < 2:
            raise UserError("the validation text contains no story")
        yield TokenFile(path, shape.vocab_size, min(shape.block_size, writer.tokens - 1), dtype)


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
