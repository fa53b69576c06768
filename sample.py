"""Generate stories with a trained model.

    python sample.py                             three stories, newest run
    python sample.py --start="Once upon a time"  stories that begin like this
    python sample.py --start=FILE:prompt.txt     prompt from a file; - is stdin
    python sample.py --stream=True               token by token
    python sample.py --interactive=True          type prompts, read stories
    python sample.py --words="cat, moon, brave" --features=Dialogue,MoralValue
    python sample.py hf:NAME                     a model of the Hugging Face hub

Stories go to standard output, everything else to standard error; of a header
only what follows it. Headers are for models of TinyStories-Instruct, or of
prepare.py --source=storybook --instruct.
"""

import contextlib
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from configurator import RangedSettings, UserError, configure, start
from tinystories import nanogpt
from tinystories.ranges import (
    Count,
    Fraction,
    Natural,
    NonNegative,
    PositiveFraction,
    Range,
    Seed,
)


@dataclass
class Settings(RangedSettings):
    # Model
    out_dir: str | None = None  # run folder, or hf:NAME; None: the run saved last
    checkpoint: str = "best.pt"  # or ckpt.pt, the newest; or out/RUN/ckpt.pt
    # Stories
    start: str = ""  # prompt of every story; FILE:path, or - for stdin
    words: str | None = None  # header: words that it has, as cat,moon
    features: str | None = None  # header: Dialogue, MoralValue, Twist, ...
    summary: str | None = None  # header: what happens in it
    sentence: str | None = None  # header: one of its sentences
    num_samples: Count = 3  # stories
    max_new_tokens: Count = 500  # per story
    stop: bool = True  # stop at the end-of-text token
    stream: bool = False  # print text as it is generated
    interactive: bool = False  # type prompts, one story each
    seed: Seed = 1337  # of the sampling
    # Sampling of the next token
    temperature: NonNegative = 0.8  # below 1 less random; 0 is greedy
    top_k: Natural | None = None  # only the k most probable tokens; 0: all
    top_p: PositiveFraction | None = None  # nucleus: probability to keep
    min_p: Fraction | None = None  # drop below this part of the top
    repetition_penalty: Annotated[float, Range(0.01, 100)] = 1.0  # above 1: no repeats
    # Machine
    device: str = "auto"  # auto, cuda, cuda:1, mps, cpu
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"  # precision

    foreign = nanogpt.SAMPLE

    @staticmethod
    def bare_argument(argument: str) -> dict:
        """A run folder, a checkpoint or the beginning of a story."""
        if argument.endswith(".pt"):
            return {"checkpoint": argument}
        is_path = "/" in argument and not re.search(r"\s", argument)  # perhaps misspelled
        is_model = argument.startswith("hf:") or is_path or Path(argument).is_dir()
        return {"out_dir" if is_model else "start": argument}


command_line = configure(Settings)  # answers --help and mistakes before the slow imports

from tinystories import device
from tinystories.evaluation.subject import open_data
from tinystories.formats import causal_lm
from tinystories.formats.causal_lm import is_published
from tinystories.generate import (
    Piece,
    Sampling,
    collect_stories,
    generate_stories,
    prepare_for_generation,
)
from tinystories.run import load_model, locate, run_folder
from tinystories.stories.instruct import cut_for, has_records, prompt_of
from tinystories.terminal import WordWrap, log_stderr, progress
from tinystories.tokenizer import END_OF_TEXT

MAX_PROMPT = 10_000_000  # characters


def main(s: Settings) -> None:
    sampling = Sampling(s.temperature, s.top_k or None, s.top_p, s.min_p, s.repetition_penalty)
    prompt = read_prompt(s.start)
    header = prompt_of(s.words, s.features, s.summary, s.sentence)
    if s.out_dir and is_published(s.out_dir):
        if s.checkpoint != "best.pt":
            raise UserError(f"checkpoint={s.checkpoint} is for runs; {s.out_dir} has none")
        out_dir, (model, tokenizer, checkpoint, _) = s.out_dir, causal_lm.load(s.out_dir)
    else:
        out_dir, checkpoint = locate(s.out_dir, s.checkpoint)
        model, tokenizer, state = load_model(run_folder(out_dir), checkpoint)
        if header:
            check_headers(out_dir, state)
    hardware = device.select_hardware(s.device, s.dtype)
    model = prepare_for_generation(model.to(hardware.device), hardware)
    log_stderr(f"{checkpoint} of {out_dir}, {model.count_parameters() / 1e6:.2f}M parameters")
    for reason in hardware.reasons:
        log_stderr(reason)

    def generate(prompt: str, count: int, seed: int) -> Iterator[list[Piece]]:
        alone = header and not prompt
        whole = cut_for(header, tokenizer.encode) if alone else header + prompt
        length = len(tokenizer.encode(whole)) + 1
        if length > model.config.block_size:
            log_stderr(f"the prompt has {length} tokens; the model reads only the last of them")
        pieces = generate_stories(
            model, tokenizer, hardware, whole, count, s.max_new_tokens, sampling, seed, s.stop
        )
        return without_first_space(pieces, count) if alone else pieces

    with device.out_of_memory(f"lower num_samples (now {s.num_samples})"):
        if s.interactive:
            return converse(generate, s.seed)
        pieces = generate(prompt, s.num_samples, s.seed)
        if s.stream:
            num_ended = stream(pieces, prompt, s.num_samples)
        else:
            bar = progress(pieces, "generating", "tokens", total=s.max_new_tokens)
            stories = collect_stories(bar, prompt, s.num_samples)
            for i, story in enumerate(stories):
                print_rule(i, s.num_samples)
                WordWrap().write(story.text, last=True)
            num_ended = sum(story.ended for story in stories)
    if s.stop and tokenizer.end_of_text is not None and num_ended < s.num_samples:
        log_stderr(
            f"({s.num_samples - num_ended} of {s.num_samples} cut off after {s.max_new_tokens} "
            "tokens; raise --max_new_tokens to let them end)"
        )


def check_headers(out_dir: str, state: dict) -> None:
    """Raises UserError for a run that has learned stories without headers.

    A run of an earlier version does not say so; then its dataset does, where that is there.
    """
    known = state.get("headers")
    if known is None and (data := open_data(None, run_folder(out_dir), block_size=1)):
        known = has_records(data.first_stories())
    if known is None:
        log_stderr(f"nothing says whether the stories of {out_dir} had headers")
    elif not known:
        raise UserError(
            f"{out_dir} has learned stories without headers, so it takes no words, features, "
            "summary or sentence; prepare.py --source=storybook --instruct=True gives some"
        )


def without_first_space(rows: Iterator[list[Piece]], count: int) -> Iterator[list[Piece]]:
    """The pieces of `count` stories without the space between "Story:" and the story."""
    begun = [False] * count
    for row in rows:
        texts = [p.text if b else p.text.lstrip() for p, b in zip(row, begun, strict=True)]
        begun = [b or bool(text) for b, text in zip(begun, texts, strict=True)]
        yield [piece._replace(text=text) for piece, text in zip(row, texts, strict=True)]


def read_prompt(value: str) -> str:
    """The text that --start means; raises UserError for a file that cannot be read as UTF-8."""
    name = value.removeprefix("FILE:")
    if value != "-" and name == value:
        return value.removeprefix(END_OF_TEXT)  # which precedes every story anyway
    try:
        with open(0 if value == "-" else name, encoding="utf-8", closefd=value != "-") as file:
            text = file.read(MAX_PROMPT + 1)  # /dev/zero has no end
    except OSError as error:
        raise UserError(f"cannot read {name}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"the prompt from {value} is not UTF-8 text") from None
    if len(text) > MAX_PROMPT:
        raise UserError(f"the prompt from {value} is longer than {MAX_PROMPT:,} characters")
    return text.removesuffix("\n").removesuffix("\r").removeprefix(END_OF_TEXT)


def print_rule(i: int, count: int) -> None:
    """A line before story i of several."""
    if count > 1:
        print(f"--- {i + 1} of {count} ".ljust(79, "-"))


def stream(rows: Iterator[list[Piece]], prompt: str, count: int) -> int:
    """Print stories as they are generated, one after the other; how many of them have ended."""
    waiting, ended, current = [prompt] * count, [False] * count, 0
    print_rule(0, count)
    out = WordWrap()
    for pieces in rows:
        waiting = [text + piece.text for text, piece in zip(waiting, pieces, strict=True)]
        ended = [piece.ended for piece in pieces]
        while ended[current] and current + 1 < count:
            out.write(waiting[current], last=True)
            current += 1
            print_rule(current, count)
        out.write(waiting[current])
        waiting[current] = ""
    for i in range(current, count):
        if i > current:
            print_rule(i, count)
        out.write(waiting[i], last=True)
    return sum(ended)


def converse(generate: Callable[[str, int, int], Iterator[list[Piece]]], seed: int) -> None:
    """Generate a story for each prompt that is typed, until the input ends."""
    if sys.stdin.isatty():
        with contextlib.suppress(ImportError):  # not on Windows
            import readline  # noqa: F401  gives input() line editing and a history
    log_stderr("type a prompt and Enter, or only Enter; Ctrl-C ends a story, Ctrl-D ends all")
    while True:
        try:
            prompt = input("> " if sys.stdin.isatty() else "")
        except EOFError:
            return
        try:
            stream(generate(prompt, 1, seed), prompt, 1)
        except UserError as error:  # a character that the vocabulary does not have
            log_stderr(str(error))
        except KeyboardInterrupt:
            print()
        seed += 1


if __name__ == "__main__":
    start(main, command_line.settings)
