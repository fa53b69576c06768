"""Measure how fast this machine trains, generates stories and prepares data.

    python bench.py                         everything, in some minutes
    python bench.py --what=train,sample     a part of it
    python bench.py --compare=bench.json    against an earlier measurement
    python bench.py --peer=../nanoGPT       against nanoGPT's model.py

The model has random weights and reads random tokens: speed depends on neither.
Ours and the reference (nanoGPT, tiktoken) take turns, so that a slowdown of the
machine affects both; each round gives one ratio. --compare reads an old file.
"""

import contextlib
import math
import os
import re
import runpy
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from configurator import RangedSettings, UserError, configure, normalize, start
from tinystories import nanogpt
from tinystories.ranges import Count, FractionBelow1, Name, Range


@dataclass
class Settings(RangedSettings):
    # What
    what: str = "train,sample,prepare"  # parts to measure
    repeats: Count = 5  # rounds, after a warm-up
    peer: str | None = None  # nanoGPT folder to compare with
    compare: str | None = None  # earlier bench.json to compare with
    output: Name = "bench.json"  # where the numbers go
    # Model (tinystories_30m's) and optimizer
    arch: Literal["gpt2", "qwen3"] = "gpt2"  # as in train.py
    optimizer: Literal["adamw", "muon"] = "adamw"  # as in train.py
    vocab_size: Annotated[int, Range(257, 65_536)] = 50257  # ids
    batch_size: Count = 16  # windows per step
    block_size: Count = 256  # tokens per window
    n_layer: Count = 6  # blocks of attention and MLP
    n_head: Count = 6  # attention heads; must divide n_embd
    n_embd: Count = 384  # embedding dimension
    dropout: FractionBelow1 = 0.0  # in training
    # Generation and preparing
    max_new_tokens: Count = 200  # per story
    text: str | None = None  # .txt to prepare; None: 20,000 storybook stories
    # Machine
    device: str = "auto"  # auto, cuda, cuda:1, mps, cpu
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"  # precision
    compile: bool | Literal["auto"] = "auto"  # torch.compile in training
    peer_dtype: Literal["auto", "float32", "bfloat16"] = "auto"  # auto: as its README
    peer_compile: bool | Literal["auto"] = "auto"  # nanoGPT's; auto: on CUDA

    foreign = nanogpt.BENCH

    def __post_init__(self):
        super().__post_init__()
        if not set(self.what.split(",")) <= {"train", "sample", "prepare"}:
            raise UserError(f"what={self.what} may name train, sample and prepare only")
        for path in filter(None, (self.text, self.compare)):
            if not Path(path).is_file():
                raise UserError(f"there is no {path}")
        if self.text and Path(self.text).suffix != ".txt":
            raise UserError(f"text={self.text}: name a .txt file, which tiktoken reads as it is")
        if Path(self.output).is_dir():
            raise UserError(f"output={self.output} is a folder; name a file")


command_line = configure(Settings)  # answers --help and mistakes before the slow imports

import numpy as np
import tiktoken
import torch

import prepare
import train
from tinystories import dataset, device, generate, tokenizer
from tinystories.files import read_json, write_json
from tinystories.parallel import process_pool
from tinystories.stories import storybook
from tinystories.terminal import command_text, progress, time_taken, wrapped

STORIES_AT_ONCE = (1, 8, 64)
Rounds = Iterator[dict[str, float]]  # of each round: measurements by name


def main(s: Settings) -> None:
    earlier = {}
    if s.compare:
        earlier = medians(read_json(Path(s.compare), medians, "python bench.py writes one"))
    output = Path(s.output)
    if s.compare and output.resolve() == Path(s.compare).resolve():  # which stays as it is
        output = output.with_stem(f"{output.stem}_new")
    with contextlib.suppress(FileNotFoundError):  # overwrite nothing but an earlier one
        read_json(output, medians, "name another --output")
    output.parent.mkdir(parents=True, exist_ok=True)
    start_time = time.perf_counter()
    hardware = device.select_hardware(s.device, s.dtype)
    machine = device.describe_machine(hardware)
    for name, text in machine.items():
        print(wrapped(f"{name}: {text}"))
    print(f"\n{'':36}{'median':>10}{'min':>10}{'max':>10}" + "    new/old" * bool(earlier))
    results = {}
    for part in s.what.split(","):
        for name, values in within_memory(measure(part, s, hardware)):
            row = {"median": statistics.median(values), "min": min(values), "max": max(values)}
            results[name] = row | {"runs": len(values)}
            cells = [f"{x:,.0f}" if x >= 100 else f"{x:.3g}" for x in row.values()]
            if earlier:
                old = earlier.get(name)
                cells.append(f"{row['median'] / old:.2f}" if old else "-")
            print(f"{name:36}" + "".join(f"{cell:>10}" for cell in cells))
        measured = {"machine": machine, "settings": asdict(s), "results": results}
        write_json(output, measured)  # a later part may fail
    took = time_taken(time.perf_counter() - start_time)
    print("\n" + wrapped(f"results: {output}; time: {took}; to compare with them later:"))
    words = normalize(sys.argv[1:], Settings)
    options = [word for word in words if not word.startswith("--compare")]
    print(command_text("python", "bench.py", *options, f"--compare={output}"))


def within_memory(rows: Iterator) -> Iterator:
    """The rows of a measurement; raises UserError where the memory does not suffice."""
    with device.out_of_memory("lower batch_size, block_size, n_layer or n_embd"):
        yield from rows


def medians(saved: dict) -> dict[str, float]:
    """The medians in a bench.json by row."""
    return {name: float(row["median"]) for name, row in saved["results"].items()}


def measure(part: str, s: Settings, hardware: device.Hardware) -> Iterator[tuple[str, list[float]]]:
    """Rows of the table: ours, those of another program, and the ratio of each round.

    Each program has its own process, so that its peak memory is measured separately.
    """
    other = "tiktoken" if part == "prepare" else "nanoGPT"
    measured: dict[str, dict[str, list[float]]] = {}  # by name and program: a number per round
    programs = ("ours", other) if s.peer or other == "tiktoken" else ("ours",)
    parts = s.what.split(",")
    desc = f"{parts.index(part) + 1} of {len(parts)}: {part}"
    rounds = len(programs) * (NUM_ROUNDS[part] * s.repeats + 1)  # the last one says that it ends
    with contextlib.ExitStack() as stack, progress(None, desc, "rounds", total=rounds) as bar:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        workers = {program: stack.enter_context(process_pool(1)) for program in programs}
        row: dict[str, float] | None = None
        while row != {}:
            for program, worker in workers.items():  # all have equally many rounds
                row = worker.submit(next_round, part, s, program, hardware, folder).result()
                bar.update()
                for name, value in row.items():
                    measured.setdefault(name, {}).setdefault(program, []).append(value)
    for name, values in measured.items():
        yield name, values["ours"]
        if other in values:
            yield f"{other} {name}", values[other]
            ratios = [a / b for a, b in zip(values["ours"], values[other], strict=True)]
            yield f"{name.rpartition(', ')[0]}, ours/{other}", ratios


running: list[Rounds] = []  # in the process of a program


def next_round(part: str, *arguments) -> dict[str, float]:
    """What this process' program measures in its next round, {} at its end; prints nothing."""
    if not running:
        sys.stdout = sys.stderr = open(os.devnull, "w")
        running.append(PARTS[part](*arguments))
    return next(running[0], {})


def timed(where: torch.device, task: Callable, *arguments, times: int = 1) -> float:
    """Seconds until a task is done so many times, on the device too."""
    start_time = time.perf_counter()
    for _ in range(times):
        task(*arguments)
    if where.type != "cpu":
        torch.accelerator.synchronize(where)
    return time.perf_counter() - start_time


def peak_memory(where: torch.device) -> float:
    """Peak memory of this process in bytes, on CUDA of its tensors; NaN where it is not known."""
    if where.type == "cuda":
        return torch.cuda.max_memory_allocated(where)
    if sys.platform != "linux":
        return math.nan
    import resource  # which Windows has not

    status = Path("/proc/self/status").read_text("utf-8")
    peak = re.search(r"VmHWM:\s*(\d+)", status)  # which some containers do not say
    return 1024 * (int(peak[1]) if peak else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def reset_peak_memory(where: torch.device) -> None:
    """Let `peak_memory` count from now on, as far as the system allows it."""
    if where.type == "cuda":
        torch.cuda.reset_peak_memory_stats(where)
    elif sys.platform == "linux":
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets VmHWM


def training(s: Settings, program: str, hardware: device.Hardware, folder: Path) -> Rounds:
    """Steps of train.py and matrix multiplication, or nanoGPT's steps without data loading."""
    where = hardware.device
    if program == "ours":
        r = set_up(s, folder)
    else:
        model, hardware = nanogpt_model(s, hardware)
        optimizer = model.configure_optimizers(0.1, 1e-3, (0.9, 0.99), where.type)
        wanted = where.type == "cuda" if s.peer_compile == "auto" else s.peer_compile
        compiled: Any = torch.compile(model) if wanted else model
        x, y = torch.randint(s.vocab_size, (2, s.batch_size, s.block_size), device=where)

    def train_step() -> None:
        if program == "ours":
            train.train_step(r, rate=1e-3)
            return
        with hardware.autocast():  # as in nanoGPT's train.py
            _, loss = compiled(x, y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    steps = 20 if where.type == "cuda" else 1  # per round; one alone is too short on a GPU
    size = 8192 if where.type == "cuda" else 2048  # large enough to keep the device busy
    timed(where, train_step, times=steps)  # warm-up
    for i in range(s.repeats):
        seconds = timed(where, train_step, times=steps)
        speed = steps * s.batch_size * s.block_size / seconds
        row = {"training, tokens/s": speed}
        if i == 0:
            row["training, peak memory, GB"] = peak_memory(where) / 1e9
        if program == "ours":
            a = torch.randn(size, size).to(where, hardware.dtype)
            timed(where, torch.mm, a, a)  # warm-up
            ceiling = 2 * size**3 / timed(where, torch.mm, a, a)
            row["matrix multiplication, TFLOP/s"] = ceiling / 1e12
            flops = speed * r.raw_model.flops_per_token()
            row["training, % of matmul speed"] = 100 * flops / ceiling
            if peak := hardware.peak_flops():
                row["training, MFU (data sheet), %"] = 100 * flops / peak
        yield row


def generation(s: Settings, program: str, hardware: device.Hardware, folder: Path) -> Rounds:
    """1, 8 and 64 stories at once, as in sample.py, or by nanoGPT's `generate`."""
    where = hardware.device
    if program == "ours":
        r = set_up(replace(s, compile=False), folder)
        model = generate.prepare_for_generation(r.raw_model.eval(), hardware)
    else:
        peer, hardware = nanogpt_model(s, hardware)

    def run(count: int, new_tokens: int) -> None:
        if program == "ours":
            options = {"count": count, "max_new_tokens": new_tokens, "stop": False}
            list(generate.generate_stories(model, r.data.tokenizer, hardware, **options))
        else:
            prompts = torch.zeros(count, 1, dtype=torch.long, device=where)
            with hardware.autocast():
                peer.eval().generate(prompts, new_tokens)

    for count in STORIES_AT_ONCE:
        run(count, 3)  # warm-up
        for _ in range(s.repeats):
            row = {"first token, ms": 1e3 * timed(where, run, 1, 1)} if count == 1 else {}
            seconds = timed(where, run, count, s.max_new_tokens)
            yield row | {f"generation of {count}, tokens/s": count * s.max_new_tokens / seconds}


def preparing(s: Settings, program: str, _, folder: Path) -> Rounds:
    """A dataset as by prepare.py with GPT-2's vocabulary, or tiktoken's batch encoding alone."""
    text = Path(s.text or folder / "storybook.txt")
    if not text.exists():
        stories = f"\n{tokenizer.END_OF_TEXT}\n".join(storybook.stories(20_000))
        text.write_text(stories, encoding="utf-8")
    if program == "ours":
        settings = prepare.Settings(source=str(text), dataset=f"{folder}/data", overwrite=True)
        task = partial(prepare.main, settings)
    else:
        encode = tiktoken.get_encoding("gpt2").encode_ordinary_batch
        stories = text.read_text("utf-8").split(tokenizer.END_OF_TEXT)
        task = partial(encode, stories, num_threads=os.cpu_count() or 1)
    task()  # warm-up
    for _ in range(s.repeats):
        yield {"preparing, MB/s": text.stat().st_size / 1e6 / timed(torch.device("cpu"), task)}


PARTS = {"train": training, "sample": generation, "prepare": preparing}
NUM_ROUNDS = {"train": 1, "sample": len(STORIES_AT_ONCE), "prepare": 1}  # times `repeats`


def set_up(s: Settings, folder: Path) -> train.Run:
    """What train.py trains, on a dataset of random ids with numbers in place of words."""
    words = [bytes([byte]) for byte in range(256)]
    words += [b" %d" % number for number in range(s.vocab_size - 257)]
    dataset.write_vocabulary(folder, tokenizer.Tokenizer("bpe", tokenizer.STORY_PATTERN, words))
    ids = np.random.default_rng(0).integers(s.vocab_size, size=1000 * s.block_size + 1)
    for split in dataset.SPLITS:
        with dataset.SplitWriter(folder / f"{split}.bin") as writer:
            writer.write(ids, stories=1, text_bytes=len(ids))
    meta = {"settings": {}, "tokenizer": {"kind": "bpe", "vocab_size": s.vocab_size}}
    meta["splits"] = dict.fromkeys(dataset.SPLITS, writer.metadata())
    dataset.write_meta(folder, meta)
    shared = {f.name: getattr(s, f.name) for f in fields(train.Settings) if hasattr(s, f.name)}
    settings = train.Settings(dataset=str(folder), gradient_accumulation_steps=1, **shared)
    return train.set_up(settings, docs=[], saved=None)


def nanogpt_model(s: Settings, hardware: device.Hardware) -> tuple[Any, device.Hardware]:
    """nanoGPT's model of the same shape, and the hardware in the precision of its README."""
    shape = {name: getattr(s, name) for name in ("block_size", "n_layer", "n_head", "n_embd")}
    shape["vocab_size"] = -(-s.vocab_size // 64) * 64  # as its README advises
    try:
        names = runpy.run_path(f"{s.peer}/model.py", run_name="nanogpt")
        model = names["GPT"](names["GPTConfig"](bias=False, dropout=s.dropout, **shape))
    except (OSError, KeyError, AttributeError, TypeError, ImportError) as error:
        raise UserError(f"peer={s.peer} is not a nanoGPT checkout: {error}") from None
    torch.backends.cuda.matmul.allow_tf32 = True  # as in its train.py
    natural = "bfloat16" if hardware.device.type == "cuda" else "float32"
    dtype = device.DTYPES[natural if s.peer_dtype == "auto" else s.peer_dtype]
    return model.to(hardware.device), replace(hardware, dtype=dtype)


if __name__ == "__main__":
    start(main, command_line.settings)
