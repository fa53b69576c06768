"""Text from a model: several stories at once, streamed piece by piece."""

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

import torch

from configurator import RangedSettings, UserError
from model import LanguageModel
from tinystories.device import Hardware
from tinystories.ranges import Count, Fraction, NonNegative, Positive, PositiveFraction
from tinystories.tokenizer import END_OF_TEXT, Tokenizer


@dataclass(frozen=True)
class Sampling(RangedSettings):
    """How the next token is sampled; see model.sample_next_token and GPT.generate.

    Raises:
        UserError: a value out of its range.
    """

    temperature: NonNegative = 1.0
    top_k: Count | None = None
    top_p: PositiveFraction | None = None
    min_p: Fraction | None = None
    repetition_penalty: Positive = 1.0


@dataclass
class Story:
    """A generated story, its prompt included; `ended` if the model ended it."""

    text: str
    ended: bool = False


class Piece(NamedTuple):
    """What a new token adds to a story: whole characters, so sometimes nothing."""

    text: str
    ended: bool  # by the model, now or before


def prepare_for_generation(model: LanguageModel, hardware: Hardware) -> LanguageModel:
    """A copy of the model with its matrices in the fastest form, or the model itself.

    In a lower precision the matrices are converted once; autocast would do so for every token. In
    float32 on a CPU they become column-major, with which one story is generated 1.3 times as fast.
    Vectors and the position table stay in float32, and so does the residual stream.
    """
    in_float32 = hardware.dtype == torch.float32
    if in_float32 and hardware.device.type != "cpu":
        return model
    model = copy.deepcopy(model)
    for matrix in model.matmul_weights():
        if in_float32:
            matrix.data = matrix.data.T.contiguous().T
        else:
            matrix.data = matrix.data.to(hardware.dtype)
    return model


def generate_stories(
    model: LanguageModel,
    tokenizer: Tokenizer,
    hardware: Hardware,
    prompt: str | Sequence[str] = "",
    count: int = 1,
    max_new_tokens: int = 500,
    sampling: Sampling = Sampling(),
    seed: int = 0,
    stop: bool = True,
    max_chars: int | None = None,
) -> Iterator[list[Piece]]:
    """Generate `count` stories in one batch that all begin with `prompt`.

    The prompt is preceded by the tokenizer's first_id: end of text, as every story is in training.
    The same seed gives the same stories, if count and the other arguments are the same too.

    Args:
        prompt: or as many as stories, each of the same number of tokens; then `count` has no say.
        model: in evaluation mode, or dropout stays active; faster from `prepare_for_generation`.
        stop: end each story at end of text; otherwise write the name of that token and continue.
        max_chars: stop as soon as each story has ended or has that many generated characters.

    Raises UserError where the model's weights give no probabilities, only NaN.

    Yields:
        the pieces that a new token adds, one per story. At the end comes one more list, which
        completes characters of which bytes are missing; not after max_chars.
    """
    prompts = [prompt] * count if isinstance(prompt, str) else prompt
    ids = [[tokenizer.first_id, *tokenizer.encode(text)] for text in prompts]
    decoders = [tokenizer.stream_decoder(row[1:]) for row in ids]
    ended, lengths = [False] * len(ids), [0] * len(ids)
    new_ids = model.generate(
        torch.tensor(ids, device=hardware.device),
        max_new_tokens,
        eot_id=tokenizer.end_of_text if stop else None,
        generator=torch.Generator(hardware.device).manual_seed(seed),
        **asdict(sampling),
    )
    while True:
        with hardware.autocast():  # per token, since the caller runs in between
            new = next(new_ids, None)
        if new is None:
            break
        pieces = []
        for i, token in enumerate(new.tolist()):
            if token >= model.config.vocab_size:  # where the cumulative probabilities are NaN
                raise UserError("the model gives no probabilities: its weights are damaged")
            is_eot = token == tokenizer.end_of_text
            ended[i] = ended[i] or (stop and is_eot)
            text = decoders[i]([token], is_eot) + (END_OF_TEXT if is_eot and not stop else "")
            pieces.append(Piece(text, ended[i]))
            lengths[i] += len(pieces[i].text)
        yield pieces
        if max_chars and all(e or n >= max_chars for e, n in zip(ended, lengths, strict=True)):
            return
    yield [Piece(d([], True), e) for d, e in zip(decoders, ended, strict=True)]


def collect_stories(pieces: Iterable[list[Piece]], prompt: str, count: int) -> list[Story]:
    """The stories that `generate_stories` yields, once it is done."""
    stories = [Story(prompt) for _ in range(count)]
    for row in pieces:
        for story, piece in zip(stories, row, strict=True):
            story.text += piece.text
            story.ended = piece.ended
    return stories
