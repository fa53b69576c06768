"""Let a trained model tell stories.

    python sample.py                              three by the run trained last
    python sample.py --start="Once upon a time"   with the same beginning
    python sample.py --start=FILE:beginning.txt   from a file; - standard input
    python sample.py --stream=True                word by word
    python sample.py --interactive=True           type beginnings, read stories

Stories go to standard output, all else to standard error.
"""

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from configurator import UserError, parse, run


@dataclass
class Settings:
    # Model
    out_dir: str | None = None  # folder of the run; None: the run trained last
    checkpoint: str = "best.pt"  # in that folder: best.pt or ckpt.pt, the newest
    # Stories
    start: str = ""  # the beginning of every story; FILE:path reads a file, - standard input
    num_samples: int = 3  # stories, told in one batch
    max_new_tokens: int = 500  # of each story
    stop: bool = True  # at the end of the story
    stream: bool = False  # print words as they come
    interactive: bool = False  # type beginnings, one story each
    seed: int = 1337  # the same seed tells the same stories
    # Choice of the next token
    temperature: float = 0.8  # below 1 safer, above 1 wilder; 0 always takes the likeliest
    top_k: int | None = None  # only the k likeliest
    top_p: float | None = None  # only the likeliest that together reach this probability
    min_p: float | None = None  # only those at least this many times as likely as the likeliest
    repetition_penalty: float = 1.0  # above 1 avoids tokens that stand in the story already
    # Machine
    device: str = "auto"  # auto, cuda, cuda:1, mps, cpu
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"  # of matrix products

    def __post_init__(self):
        for name in ("num_samples", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not 0 <= self.seed < 2**63:
            raise UserError(f"seed is {self.seed}; it must lie in 0 to 2^63")


if __name__ == "__main__":  # --help and mistakes answer before the slow imports
    run(lambda argv: Settings(**parse(Settings, argv)[0]))

from tqdm import tqdm

from tinystories import device
from tinystories import generate as storyteller
from tinystories import run as checkpoint

RULE = "-" * 79


def main(argv: list[str]) -> None:
    given, _ = parse(Settings, argv)
    s = Settings(**given)
    sampling = storyteller.Sampling(s.temperature, s.top_k, s.top_p, s.min_p, s.repetition_penalty)
    beginning = read_beginning(s.start)
    out_dir = s.out_dir or checkpoint.newest_run()
    folder = checkpoint.run_folder(out_dir)
    model, tokenizer, _ = checkpoint.load_model(folder, s.checkpoint)
    hardware = device.choose(s.device, s.dtype)
    model = storyteller.for_telling(model.to(hardware.device), hardware)
    note(f"{s.checkpoint} of {out_dir}, {model.count_parameters() / 1e6:.2f}M parameters")
    for reason in hardware.reasons:
        note(reason)

    def tell(beginning: str, count: int, seed: int):
        length = len(tokenizer.encode(beginning)) + 1
        if length > model.config.block_size:
            note(f"the beginning has {length} tokens; the model sees the last of them only")
        return storyteller.tell(
            model, tokenizer, hardware, beginning, count, s.max_new_tokens, sampling, seed, s.stop
        )

    try:
        if s.interactive:
            return converse(tell, s.seed)
        tell_all(s, tell(beginning, s.num_samples, s.seed), beginning)
    except (RuntimeError, MemoryError) as error:
        if not device.is_out_of_memory(error):
            raise
        raise UserError(f"out of memory: lower num_samples (now {s.num_samples})") from None


def tell_all(s: Settings, told: Iterable[list[str | None]], beginning: str) -> None:
    """Print stories as they are told, or all at the end."""
    if s.stream:
        ended = stream(told, beginning, s.num_samples)
    else:
        bar = tqdm(told, total=s.max_new_tokens, unit="tok", leave=False, disable=None)
        stories = storyteller.tell_whole(bar, beginning, s.num_samples)
        print(f"\n{RULE}\n".join(story.text for story in stories))
        ended = sum(story.ended for story in stories)
    if s.stop and ended < s.num_samples:
        note(
            f"({s.num_samples - ended} of {s.num_samples} cut off after {s.max_new_tokens} tokens; "
            "a larger --max_new_tokens lets them go on)"
        )


def read_beginning(start: str) -> str:
    """The text that --start means, without a line break at its end.

    Raises:
        UserError: a file that is missing or not UTF-8.
    """
    try:
        if start == "-":
            start = sys.stdin.read()
        elif start.startswith("FILE:"):
            start = Path(start.removeprefix("FILE:")).read_text(encoding="utf-8")
        else:
            return start
    except OSError as error:
        raise UserError(f"cannot read {start.removeprefix('FILE:')}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"the beginning from {start} is not UTF-8 text") from None
    return start.removesuffix("\n").removesuffix("\r")


def converse(tell, seed: int) -> None:
    """Tell a story for each beginning that is typed, until the input ends."""
    note("type a beginning and Enter, or Enter alone; Ctrl-D ends")
    while True:
        print("> ", end="", flush=True, file=sys.stderr)
        line = sys.stdin.readline()
        if not line:
            return
        beginning = line.rstrip("\r\n")
        stream(tell(beginning, 1, seed), beginning, 1)
        seed += 1


def stream(told: Iterable[list[str | None]], beginning: str, count: int) -> int:
    """Print stories as they are told: the first one live, then what there is of the next.

    Returns:
        how many of them the model brought to an end.
    """
    waiting, ended, current = [beginning] * count, [False] * count, 0

    def show(i: int) -> None:
        print(waiting[i], end="", flush=True)
        waiting[i] = ""

    for pieces in told:
        for i, piece in enumerate(pieces):
            waiting[i] += piece or ""
            ended[i] = piece is None
        show(current)
        while ended[current] and current + 1 < count:
            current += 1
            print(f"\n{RULE}")
            show(current)
    for i in range(current + 1, count):
        print(f"\n{RULE}")
        show(i)
    print()
    return sum(ended)


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    run(main)
