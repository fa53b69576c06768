"""Measure how fast this machine trains, generates stories and prepares data.

    python bench.py                         everything, in some minutes
    python bench.py --what=train,sample     a part of it
    python bench.py --compare=bench.json    against an earlier measurement
    python bench.py --peer=../nanoGPT       against nanoGPT's model.py

The model has random weights and reads random tokens: speed depends on neither.
What is compared is measured interleaved, so that a machine that slows down
slows down both, and each round gives one ratio.
"""

import os
import runpy
import statistics
import tempfile
from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from configurator import RangedSettings, UserError, configure, start
from tinystories.ranges import Count, Fraction, Name, Range


@dataclass
class Settings(RangedSettings):
    # What
    what: str = "train,sample,prepare"  # some of these
    repeats: Count = 5  # measurements, after one warm-up
    peer: str | None = None  # nanoGPT folder to compare with
    compare: str | None = None  # earlier bench.json to compare with
    output: Name = "bench.json"  # where the numbers go
    # Model (tinystories_30m's)
    vocab_size: Annotated[int, Range(257, 65_536)] = 50257  # ids
    batch_size: Count = 16  # windows per step
    block_size: Count = 256  # tokens per window
    n_layer: Count = 6  # blocks of attention and MLP
    n_head: Count = 6  # attention heads; must divide n_embd
    n_embd: Count = 384  # embedding dimension
    dropout: Fraction = 0.0  # in training
    # Generation and preparing
    max_new_tokens: Count = 200  # per story
    text: str | None = None  # .txt to prepare; None: 20,000 storybook stories
    # Machine
    device: str = "auto"  # auto, cuda, cuda:1, mps, cpu
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"  # autocast; weights: float32
    compile: bool | Literal["auto"] = "auto"  # torch.compile in training
    peer_dtype: Literal["auto", "float32", "bfloat16"] = "auto"  # auto: as in nanoGPT's README
    peer_compile: bool | Literal["auto"] = "auto"  # auto: on CUDA, as there

    def __post_init__(self):
        super().__post_init__()
        if not set(self.what.split(",")) <= {"train", "sample", "prepare"}:
            raise UserError(f"what={self.what} may name train, sample and prepare only")
        if self.text and not Path(self.text).is_file():
            raise UserError(f"there is no text {self.text}")


command_line = configure(Settings)  # answers --help and mistakes before the slow imports

import numpy as np
import tiktoken
import torch

import prepare
import train
from tinystories import dataset, device, generate, timing, tokenizer
from tinystories.device import Hardware
from tinystories.files import read_json, write_json
from tinystories.stories import storybook
from tinystories.timing import CPU, Rounds, timed

RENAMED = {  # parts of names in files of older versions
    "telling, ms to the first token": "first token, ms",
    "telling ": "generation of ",
    " at once": "",
    "matrix products": "matrix multiplication",
    "% of those": "% of that",
}


def main(s: Settings) -> None:
    earlier = read_earlier(s.compare) if s.compare else {}
    hardware = device.select_hardware(s.device, s.dtype)
    machine = timing.describe_machine(hardware)
    print("\n".join(f"{name}: {text}" for name, text in machine.items()))
    print(f"\n{'':36}{'median':>10}{'min':>10}{'max':>10}" + "    new/old" * bool(earlier))
    results = {}
    for part in s.what.split(","):
        for name, values in measure(part, s, hardware):
            row = {"median": statistics.median(values), "min": min(values), "max": max(values)}
            results[name] = row | {"runs": len(values)}
            cells = [f"{x:,.0f}" if x >= 100 else f"{x:.3g}" for x in row.values()]
            if earlier:
                old = earlier.get(name)
                cells.append(f"{row['median'] / old:.2f}" if old else "-")
            print(f"{name:36}" + "".join(f"{cell:>10}" for cell in cells))
    write_json(Path(s.output), {"machine": machine, "settings": asdict(s), "results": results})
    print(f"\nwritten to {s.output}; --compare={s.output} compares with it")


def measure(part: str, s: Settings, hardware: Hardware) -> Iterator[tuple[str, list[float]]]:
    """Rows of the table: ours, those of another program, and the ratio of each round."""
    with tempfile.TemporaryDirectory() as folder:
        programs = {n: run for n, run in PROGRAMS[part].items() if s.peer or n != "nanoGPT"}
        measurements = timing.run_interleaved(programs, s, hardware, Path(folder))
    for name, values in measurements.items():
        yield name, values["ours"]
        for other in values.keys() - {"ours"}:
            yield f"{other} {name}", values[other]
            ratios = [a / b for a, b in zip(values["ours"], values[other], strict=True)]
            yield f"{name.rpartition(', ')[0]}, ours/{other}", ratios


def read_earlier(path: str) -> dict[str, float]:
    """The medians in an earlier bench.json by row, under today's names."""

    def medians(saved: dict) -> dict[str, float]:
        return {name: float(row["median"]) for name, row in saved["results"].items()}

    try:
        earlier = medians(read_json(Path(path), medians, "python bench.py writes one"))
    except FileNotFoundError:
        raise UserError(f"there is no {path}; python bench.py writes one") from None
    for old, new in RENAMED.items():
        earlier = {name.replace(old, new): median for name, median in earlier.items()}
    return earlier


# What is measured in each round -------------------------------------------------------------


def training_rounds(
    s: Settings, where: torch.device, train_step: Callable
) -> Generator[dict[str, float], None, list[float]]:
    """Training, then the peak memory of the process. Returns the tokens/s of all rounds."""
    steps = 20 if where.type == "cuda" else 1  # per round; one alone is too short on a GPU
    timed(where, train_step, times=steps)  # warm-up
    speeds = []
    for _ in range(s.repeats):
        seconds = timed(where, train_step, times=steps)
        speeds.append(steps * s.batch_size * s.block_size / seconds)
        yield {"training, tokens/s": speeds[-1]}
    yield {"training, peak memory, GB": timing.peak_memory(where) / 1e9}
    return speeds


def generation_rounds(s: Settings, where: torch.device, run: Callable[[int, int], None]) -> Rounds:
    """Generation by run(stories, new tokens), with 1, 8 and 64 stories at once."""
    for count in (1, 8, 64):
        run(count, 3)  # warm-up
        for _ in range(s.repeats):
            row = {"first token, ms": 1e3 * timed(where, run, 1, 1)} if count == 1 else {}
            seconds = timed(where, run, count, s.max_new_tokens)
            yield row | {f"generation of {count}, tokens/s": count * s.max_new_tokens / seconds}


def preparing_rounds(s: Settings, text: Path, task: Callable, *arguments) -> Rounds:
    """What makes token ids of a text."""
    task(*arguments)  # warm-up
    for _ in range(s.repeats):
        yield {"preparing, MB/s": text.stat().st_size / 1e6 / timed(CPU, task, *arguments)}


# Programs -----------------------------------------------------------------------------------


def set_up(s: Settings, compile: bool | Literal["auto"], folder: Path) -> train.Run:
    """What train.py trains, on a dataset of random ids with numbers in place of words."""
    single = [bytes([byte]) for byte in range(256)]
    numbers = [f" {number}".encode() for number in range(s.vocab_size - 257)]
    words = tokenizer.Tokenizer("bpe", tokenizer.STORY_PATTERN, single + numbers)
    words.save(folder / "tokenizer.json")
    ids = np.random.default_rng(0).integers(s.vocab_size, size=1000 * s.block_size + 1)
    for split in dataset.SPLITS:
        with dataset.SplitWriter(folder / f"{split}.bin") as writer:
            writer.write(ids, stories=1, text_bytes=len(ids))
    splits = dict.fromkeys(dataset.SPLITS, writer.metadata())
    about = {"kind": words.kind, "vocab_size": s.vocab_size}
    dataset.write_meta(folder, {"settings": {}, "tokenizer": about, "splits": splits})
    names = "batch_size block_size n_layer n_head n_embd dropout device dtype".split()
    settings = {name: getattr(s, name) for name in names} | {"gradient_accumulation_steps": 1}
    settings = train.Settings(dataset=str(folder), compile=compile, **settings)
    return train.set_up(settings, docs=[], saved=None)


def our_training(s: Settings, _, folder: Path) -> Rounds:
    """Steps of train.py, data loading included, and then matrix multiplication alone."""
    r = set_up(s, s.compile, folder)
    where = r.hardware.device
    speeds = yield from training_rounds(s, where, lambda: train.train_step(r, rate=1e-3))
    size = 8192 if where.type == "cuda" else 2048  # large enough to keep the device busy
    a = torch.randn(size, size).to(where, r.hardware.dtype)
    timed(where, torch.mm, a, a)  # warm-up
    for speed in speeds:
        ceiling = 2 * size**3 / timed(where, torch.mm, a, a)
        flops = speed * r.raw_model.flops_per_token()
        row = {
            "training, ms/step": 1e3 * s.batch_size * s.block_size / speed,
            "matrix multiplication, TFLOP/s": ceiling / 1e12,
            "training, % of that (MFU)": 100 * flops / ceiling,
        }
        if peak := r.hardware.peak_flops():
            row["training, % of the data sheet (MFU)"] = 100 * flops / peak
        yield row


def our_generation(s: Settings, _, folder: Path) -> Rounds:
    """Stories as in sample.py."""
    r = set_up(s, False, folder)
    model = generate.prepare_for_generation(r.raw_model.eval(), r.hardware)

    def run(count: int, new_tokens: int) -> None:
        options = {"count": count, "max_new_tokens": new_tokens, "stop": False}
        for _ in generate.generate_stories(model, r.data.tokenizer, r.hardware, **options):
            pass

    yield from generation_rounds(s, r.hardware.device, run)


def our_preparing(s: Settings, _, folder: Path) -> Rounds:
    """A dataset as by prepare.py, with GPT-2's vocabulary."""
    text = Path(s.text or folder / "storybook.txt")
    if not s.text:
        stories = f"\n{tokenizer.END_OF_TEXT}\n".join(storybook.stories(20_000))
        text.write_text(stories, encoding="utf-8")
    options = {"source": str(text), "dataset": str(folder / "data"), "overwrite": True}
    yield from preparing_rounds(s, text, prepare.main, prepare.Settings(**options))


def nanogpt_training(s: Settings, hardware: Hardware, _) -> Rounds:
    """Steps of nanoGPT's train.py, without data loading."""
    model, hardware = nanogpt_model(s, hardware)
    where = hardware.device
    optimizer = model.configure_optimizers(0.1, 1e-3, (0.9, 0.99), where.type)
    compile = where.type == "cuda" if s.peer_compile == "auto" else s.peer_compile
    compiled = torch.compile(model) if compile else model
    x, y = torch.randint(s.vocab_size, (2, s.batch_size, s.block_size), device=where)

    def train_step() -> None:
        with hardware.autocast():
            _, loss = compiled(x, y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    yield from training_rounds(s, where, train_step)


def nanogpt_generation(s: Settings, hardware: Hardware, _) -> Rounds:
    """Stories by nanoGPT's `generate`."""
    model, hardware = nanogpt_model(s, hardware)

    def run(count: int, new_tokens: int) -> None:
        prompts = torch.zeros(count, 1, dtype=torch.long, device=hardware.device)
        with hardware.autocast():
            model.eval().generate(prompts, new_tokens)

    yield from generation_rounds(s, hardware.device, run)


def nanogpt_model(s: Settings, hardware: Hardware) -> tuple[Any, Hardware]:
    """nanoGPT's model of the same shape, and the hardware in the precision of its README.

    Raises:
        UserError: the folder is not a nanoGPT checkout.
    """
    shape = {name: getattr(s, name) for name in ("block_size", "n_layer", "n_head", "n_embd")}
    shape["vocab_size"] = -(-s.vocab_size // 64) * 64  # as its README advises
    try:
        names = runpy.run_path(f"{s.peer}/model.py", run_name="nanogpt")
        model = names["GPT"](names["GPTConfig"](bias=False, dropout=s.dropout, **shape))
    except (OSError, KeyError, AttributeError, TypeError, ImportError) as error:
        raise UserError(f"peer={s.peer} is not a nanoGPT checkout: {error}") from None
    torch.backends.cuda.matmul.allow_tf32 = True  # as in its train.py
    dtype = "bfloat16" if hardware.device.type == "cuda" else "float32"
    dtype = device.DTYPES[dtype if s.peer_dtype == "auto" else s.peer_dtype]
    return model.to(hardware.device), replace(hardware, dtype=dtype)


def tiktoken_preparing(s: Settings, _, folder: Path) -> Rounds:
    """tiktoken's batch encoding, without anything else."""
    text = Path(s.text or folder / "storybook.txt")  # written by our_preparing
    stories = text.read_text("utf-8").split(tokenizer.END_OF_TEXT)
    encode = tiktoken.get_encoding("gpt2").encode_ordinary_batch
    task = partial(encode, stories, num_threads=os.cpu_count() or 1)
    yield from preparing_rounds(s, text, task)


PROGRAMS = {
    "train": {"ours": our_training, "nanoGPT": nanogpt_training},
    "sample": {"ours": our_generation, "nanoGPT": nanogpt_generation},
    "prepare": {"ours": our_preparing, "tiktoken": tiktoken_preparing},
}

if __name__ == "__main__":
    start(main, command_line.settings)
