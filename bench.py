"""Measure how fast this machine trains, tells stories, prepares data and starts.

    python bench.py                          everything, in some minutes
    python bench.py --what=train,sample      a part of it
    python bench.py --vocab_size=4096 --compile=True
    python bench.py --compare=bench.json     beside an earlier measurement
    python bench.py --peer=../nanoGPT        beside nanoGPT's model.py, in turns

The model has fresh weights and reads random tokens: speed does not depend on
either. What is compared is measured in turns, so that a machine that slows
down slows down both, and each turn gives one ratio. Printed are medians, the
least and the most; the same goes into bench.json.
"""

import contextlib
import dataclasses
import functools
import importlib.util
import io
import json
import multiprocessing
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from configurator import ROOT, UserError, parse, start

PARTS = ("train", "sample", "prepare", "startup")


@dataclass
class Settings:
    # What
    what: str = ",".join(PARTS)  # some of these
    repeats: int = 5  # turns of each measurement, after one that does not count
    peer: str | None = None  # folder of a nanoGPT checkout to measure in turns with ours
    compare: str | None = None  # an earlier bench.json, to print ratios to
    output: str = "bench.json"  # where the numbers go
    # Model (tinystories_30m's)
    vocab_size: int = 50257  # ids
    batch_size: int = 16  # windows in a step
    block_size: int = 256  # tokens in a window
    n_layer: int = 6  # blocks of attention and MLP
    n_head: int = 6  # heads of attention
    n_embd: int = 384  # channels
    dropout: float = 0.0  # in training
    # Telling
    new_tokens: int = 200  # of each story
    # Preparing
    text: str | None = None  # a .txt file of stories; None: 20,000 of the storybook's
    # Machine
    device: str = "auto"  # auto, cuda, cuda:1, mps, cpu
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"  # of matrix products
    compile: bool | Literal["auto"] = "auto"  # torch.compile in training
    peer_dtype: Literal["auto", "float32", "bfloat16"] = "auto"  # auto: as its README runs it
    peer_compile: bool | Literal["auto"] = "auto"  # auto: as its README, on CUDA alone

    def __post_init__(self):
        for part in self.what.split(","):
            if part not in PARTS:
                raise UserError(f"what={part} is none of {', '.join(PARTS)}")
        for name in ("repeats", "batch_size", "new_tokens"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not 257 <= self.vocab_size <= 65_536:
            raise UserError(f"vocab_size is {self.vocab_size}; it must lie in 257 to 65536")
        if self.peer and not (Path(self.peer) / "model.py").is_file():
            raise UserError(f"peer={self.peer} is no checkout of nanoGPT: it has no model.py")
        if self.text and not Path(self.text).is_file():
            raise UserError(f"there is no text {self.text}")


if __name__ == "__main__":  # --help and mistakes answer before the slow imports
    start(parse, Settings, sys.argv[1:])

import numpy as np
import tiktoken
import torch

import prepare
import train
from model import GPT, GPTConfig
from tinystories import dataset as tokens
from tinystories import device, tokenizer
from tinystories import generate as storyteller
from tinystories import log as logbook
from tinystories.stories import files as corpus
from tinystories.stories import storybook

CPU = torch.device("cpu")
ENOUGH = 60.0  # seconds after which a work is not measured again


class Table:
    """The numbers, printed as they come."""

    def __init__(self, earlier: dict | None):
        self.earlier = earlier
        self.results = {}
        print(f"{'':36}{'median':>10}{'least':>10}{'most':>10}" + "   now/then" * bool(earlier))

    def add(self, name: str, values: list[float]) -> None:
        """One row; `name` ends in its unit."""
        row = {"median": statistics.median(values), "min": min(values), "max": max(values)}
        self.results[name] = row | {"runs": len(values)}
        line = f"{name:36}" + "".join(f"{_digits(value):>10}" for value in row.values())
        if self.earlier:
            then = self.earlier["results"].get(name, {}).get("median")
            line += f"{row['median'] / then:11.2f}" if then else f"{'-':>11}"
        print(line)

    def add_ratio(self, name: str, upper: list[float], lower: list[float]) -> None:
        """One row: the ratio within each turn."""
        self.add(name, [a / b for a, b in zip(upper, lower, strict=False)])


def _digits(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def main(argv: list[str]) -> None:
    s = parse(Settings, argv).settings
    earlier = read_earlier(s.compare) if s.compare else None
    hardware = device.select_hardware(s.device, s.dtype)
    machine = describe_machine(hardware)
    for name, value in machine.items():
        print(f"{name}: {value}")
    print(
        f"model: {s.n_layer} layers, {s.n_head} heads, {s.n_embd} channels, {s.vocab_size:,} ids; "
        f"batches of {s.batch_size} x {s.block_size} tokens"
    )
    print()
    table = Table(earlier)
    with tempfile.TemporaryDirectory() as folder:
        for part in s.what.split(","):
            globals()[f"measure_{part}"](s, hardware, table, Path(folder))
    settings = dataclasses.asdict(s)
    numbers = {"machine": machine, "settings": settings, "results": table.results}
    Path(s.output).write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")
    print(f"\nwritten to {s.output}; --compare={s.output} compares with it")


def read_earlier(path: str) -> dict:
    """What an earlier bench.py has written.

    Raises:
        UserError: there is no such file, or it is another's.
    """
    try:
        earlier = json.loads(Path(path).read_text(encoding="utf-8"))
        return earlier | {"results": dict(earlier["results"])}
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{path} is not a bench.json; python bench.py writes one") from None


def describe_machine(hardware: device.Hardware) -> dict[str, str]:
    """What the numbers depend on."""
    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):  # Linux knows it better
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        cpu = next(line.split(": ")[1] for line in lines if line.startswith("model name"))
    return {
        "processor": f"{cpu}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
        "device": hardware.reasons[0].removeprefix("device: "),
        "precision": hardware.reasons[1].removeprefix("precision: "),
        "versions": f"python {platform.python_version()}, torch {torch.__version__}, "
        f"numpy {np.__version__}, tiktoken {tiktoken.__version__}, {platform.system()}",
    }


# Taking turns -------------------------------------------------------------------------------


class Worker:
    """A process of its own for what is measured, so that one's memory is not another's.

    Args:
        make: called there with `arguments`; returns the works by name.
    """

    def __init__(self, make: Callable[..., dict[str, Callable]], *arguments):
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        task = (theirs, make, arguments)
        self.process = context.Process(target=serve, args=task, daemon=True)
        self.process.start()
        theirs.close()
        self.pipe.recv()

    def __call__(self, work: str, *arguments):
        """Do a work, and wait for what it returns.

        Raises:
            what the work raises.
        """
        self.pipe.send((work, arguments))
        answer = self.pipe.recv()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def __enter__(self):
        return self

    def __exit__(self, error, *_):
        self.pipe.close()  # at which the process ends, if it is not in the midst of a work
        if error:
            self.process.terminate()
        self.process.join()


def serve(pipe, make: Callable, arguments: tuple) -> None:
    """What a Worker's process does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one that started it
    works, failure = {}, None
    try:
        works = make(*arguments)
    except Exception as error:
        failure = error
    pipe.send("ready")
    with contextlib.suppress(EOFError):
        while True:
            name, given = pipe.recv()
            try:
                pipe.send(failure or works[name](*given))
            except Exception as error:
                pipe.send(error)


def in_turns(works: dict[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """The seconds that each work reports, one after the other, again and again.

    A work that has taken ENOUGH seconds in all is left out from then on.
    """
    seconds = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            if sum(seconds[name]) < ENOUGH:
                seconds[name].append(work())
    return seconds


def timed(work: Callable[[], object], where: torch.device = CPU) -> float:
    """Seconds until the work is done, on the device too."""
    wait(where)
    begun = time.perf_counter()
    work()
    wait(where)
    return time.perf_counter() - begun


def wait(where: torch.device) -> None:
    """Until the device has done all that it was given."""
    if where.type == "cuda":
        torch.cuda.synchronize(where)
    elif where.type == "mps":
        torch.mps.synchronize()


@contextlib.contextmanager
def quietly():
    """What is printed inside is not shown."""
    silence = io.StringIO()
    with contextlib.redirect_stdout(silence), contextlib.redirect_stderr(silence):
        yield


# Training -----------------------------------------------------------------------------------


def measure_train(s: Settings, hardware: device.Hardware, table: Table, folder: Path) -> None:
    """Tokens a second of train.py's loop, of the bare step inside it, and of the peer."""
    make_dataset(s, folder / "data")
    steps = 20 if hardware.device.type == "cuda" else 1  # of a turn
    with (
        Worker(our_training, s, folder, steps) as ours,
        peer(peer_training, s, hardware, steps) as theirs,
    ):
        works = {"loop": lambda: ours("loop"), "bare": lambda: ours("bare")}
        in_turns(works, 1)
        ceiling = [ours("matrix_flops") for _ in range(s.repeats)]
        turns = in_turns(works, s.repeats)
        overhead = [100 * (a / b - 1) for a, b in zip(*turns.values(), strict=False)]
        if theirs:
            works = {"loop": works["loop"], "peer": lambda: theirs("steps")}
            in_turns(works, 1)
            turns = in_turns(works, s.repeats)
        memory = ours("peak_bytes") / 1e9
        peer_memory = theirs("peak_bytes") / 1e9 if theirs else None
        flops_per_token = ours("flops_per_token")
        works = {name: functools.partial(ours, name) for name in ("losses", "evaluation")}
        in_turns(works, 1)
        evaluations = in_turns(works, s.repeats)
    count = steps * s.batch_size * s.block_size
    speed = {name: [count / seconds for seconds in turn] for name, turn in turns.items()}
    flops = [tokens * flops_per_token for tokens in speed["loop"]]
    table.add("training, tokens/s", speed["loop"])
    table.add("training, ms/step", [1e3 * seconds / steps for seconds in turns["loop"]])
    table.add("training, overhead of the loop, %", overhead)
    share = evaluation_share(evaluations, count, statistics.median(speed["loop"]))
    table.add("evaluation and story, % of the time", share)
    table.add("matrix products, TFLOP/s", [1e-12 * value for value in ceiling])
    table.add("training, % of those (MFU)", [100 * f / statistics.median(ceiling) for f in flops])
    if peak := hardware.peak_flops():
        table.add("training, % of the data sheet (MFU)", [100 * f / peak for f in flops])
    table.add("training, peak memory, GB", [memory])
    if s.peer:
        table.add("nanoGPT training, tokens/s", speed["peer"])
        table.add_ratio("training, ours/nanoGPT", speed["loop"], speed["peer"])
        table.add("nanoGPT training, peak memory, GB", [peer_memory])
        table.add_ratio("training memory, ours/nanoGPT", [memory], [peer_memory])


def evaluation_share(turns: dict[str, list[float]], count: int, speed: float) -> list[float]:
    """The share of a training's time, in %, that evaluations take at train.py's default settings.

    Args:
        turns: the seconds of "losses" over `count` tokens of training and of validation, and of an
            "evaluation": those losses, a story, the saving and the drawing.
        speed: of training, tokens/s.
    """
    default = train.Settings()
    windows = default.eval_interval * default.gradient_accumulation_steps * default.batch_size
    training = windows * default.block_size / speed
    seconds = [
        losses * default.eval_tokens / count + max(0.0, evaluation - losses)
        for losses, evaluation in zip(turns["losses"], turns["evaluation"], strict=False)
    ]
    return [100 * second / (second + training) for second in seconds]


def our_training(s: Settings, folder: Path, steps: int) -> dict[str, Callable]:
    """Works of training with train.py, so many steps a turn."""
    names = "block_size n_layer n_head n_embd dropout batch_size device dtype compile".split()
    settings = train.Settings(
        **{name: getattr(s, name) for name in names},
        dataset=str(folder / "data"),
        out_dir=str(folder / "run"),
        gradient_accumulation_steps=1,
        eval_interval=10**9,
        eval_tokens=steps * s.batch_size * s.block_size,
    )
    with quietly():
        r = train.set_up(settings, [], None)
    (folder / "run").mkdir()
    r.log = logbook.Logbook(folder / "run")
    r.progress.evaluated = 10**9  # so it never evaluates
    where = r.hardware.device
    batch = r.data.train.windows(r.shuffle.starts(0, s.batch_size))
    x, y = (torch.from_numpy(ids).to(where) for ids in batch)

    def loop() -> None:
        """The loop, with all that it loads, checks, prints and logs."""
        settings.max_iters = r.progress.step + steps
        with quietly():
            train.train(r)

    def bare() -> None:
        """The model and the optimizer alone, on tokens that are there already."""
        for _ in range(steps):
            r.optimizer.zero_grad(set_to_none=True)
            with r.hardware.autocast():
                loss = r.trained(x, y)
            r.scaler.scale(loss).backward()
            r.scaler.unscale_(r.optimizer)
            torch.nn.utils.clip_grad_norm_(r.network.parameters(), 1.0)
            r.scaler.step(r.optimizer)
            r.scaler.update()

    def losses() -> None:
        """What an evaluation measures, on eval_tokens."""
        with quietly():
            train.evaluate(r, whole=False)

    def evaluation() -> None:
        """The same, with the story that is told, the saving and the drawing."""
        with quietly():
            train.evaluate_and_save(r, whole=False)
        r.progress.evaluated = 10**9

    return {
        "loop": lambda: timed(loop, where),
        "bare": lambda: timed(bare, where),
        "losses": lambda: timed(losses, where),
        "evaluation": lambda: timed(evaluation, where),
        "matrix_flops": lambda: matrix_flops(r.hardware),
        "flops_per_token": r.network.flops_per_token,
        "peak_bytes": lambda: peak_bytes(where),
    }


def make_dataset(s: Settings, folder: Path) -> None:
    """A dataset of random ids, with a vocabulary of meaningless tokens of that size."""
    folder.mkdir(exist_ok=True)
    made_up_tokenizer(s.vocab_size).save(folder / "tokenizer.json")
    random = np.random.default_rng(0)
    splits = {}
    for split in tokens.SPLITS:
        ids = random.integers(s.vocab_size - 1, size=1000 * s.block_size + 1, dtype=np.uint16)
        with tokens.SplitWriter(folder / f"{split}.bin") as writer:
            writer.write(ids, stories=1, text_bytes=4 * len(ids))
        splits[split] = writer.metadata()
    about = {"kind": "bpe", "vocab_size": s.vocab_size}
    tokens.write_meta(folder, {"settings": {}, "tokenizer": about, "splits": splits})


def made_up_tokenizer(vocab_size: int) -> tokenizer.Tokenizer:
    """A vocabulary of single bytes, and of numbers in place of words."""
    single = [bytes([byte]) for byte in range(256)]
    words = [f" {number}".encode() for number in range(vocab_size - 257)]
    return tokenizer.Tokenizer("bpe", tokenizer.STORY_PATTERN, single + words)


def matrix_flops(hardware: device.Hardware) -> float:
    """FLOP/s of the product of two large square matrices: what the device really can do."""
    size = 8192 if hardware.device.type == "cuda" else 2048
    a = torch.randn(size, size, device=hardware.device).to(hardware.dtype)
    a @ a
    return 2 * size**3 / timed(lambda: a @ a, hardware.device)


def peak_bytes(where: torch.device) -> int:
    """The most memory that this process has held: on CUDA for tensors, elsewhere in all.

    Raises:
        UserError: an operating system that does not tell.
    """
    if where.type == "cuda":
        return torch.cuda.max_memory_allocated(where)
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])
    except (OSError, IndexError):
        raise UserError("peak memory can be measured on CUDA and on Linux only") from None


# nanoGPT ------------------------------------------------------------------------------------


def peer(make: Callable, s: Settings, *arguments) -> contextlib.AbstractContextManager:
    """A Worker for nanoGPT, or None in its place where none is given."""
    return Worker(make, s, *arguments) if s.peer else contextlib.nullcontext()


def peer_hardware(s: Settings, ours: device.Hardware) -> tuple[device.Hardware, bool]:
    """Our device, in the precision that nanoGPT's README runs there, and whether to compile."""
    on_cuda = ours.device.type == "cuda"
    natural = "bfloat16" if on_cuda else "float32"
    dtype = device.DTYPES[natural if s.peer_dtype == "auto" else s.peer_dtype]
    compile = on_cuda if s.peer_compile == "auto" else s.peer_compile
    return dataclasses.replace(ours, dtype=dtype), compile


def peer_model(s: Settings, dropout: float, where: torch.device) -> torch.nn.Module:
    """nanoGPT's model of the same shape.

    Raises:
        UserError: a checkout that is not nanoGPT's.
    """
    spec = importlib.util.spec_from_file_location("peer", Path(s.peer) / "model.py")
    module = importlib.util.module_from_spec(spec)
    shape = {name: getattr(s, name) for name in ("block_size", "n_layer", "n_head", "n_embd")}
    shape["vocab_size"] = -(-s.vocab_size // 64) * 64  # as its README advises
    try:
        spec.loader.exec_module(module)
        with quietly():
            model = module.GPT(module.GPTConfig(bias=False, dropout=dropout, **shape))
    except (AttributeError, TypeError, ImportError) as error:
        raise UserError(f"peer={s.peer} is no checkout of nanoGPT: {error}") from None
    return model.to(where)


def peer_training(s: Settings, ours: device.Hardware, steps: int) -> dict[str, Callable]:
    """Works of training as nanoGPT's train.py does, so many steps a turn."""
    hardware, compile = peer_hardware(s, ours)
    where = hardware.device
    model = peer_model(s, s.dropout, where)
    with quietly():
        optimizer = model.configure_optimizers(0.1, 1e-3, (0.9, 0.99), where.type)
    compiled = torch.compile(model) if compile else model
    shape = (s.batch_size, s.block_size)
    x, y = (torch.randint(s.vocab_size, shape, device=where) for _ in "xy")

    def take_steps() -> None:
        for _ in range(steps):
            with hardware.autocast():
                _, loss = compiled(x, y)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return {"steps": lambda: timed(take_steps, where), "peak_bytes": lambda: peak_bytes(where)}


# Telling ------------------------------------------------------------------------------------


def measure_sample(s: Settings, hardware: device.Hardware, table: Table, folder: Path) -> None:
    """Tokens a second at several batch sizes, and the time to the first token."""
    with Worker(our_telling, s) as ours, peer(peer_telling, s, hardware) as theirs:
        workers = {"ours": ours} | ({"peer": theirs} if theirs else {})
        first = [ours("tell", 1, 1) for _ in range(s.repeats + 1)][1:]
        table.add("telling, ms to the first token", [1e3 * seconds for seconds in first])
        for count in (1, 8, 64):
            for worker in workers.values():
                worker("tell", count, 3)
            works = {
                name: functools.partial(worker, "tell", count, s.new_tokens)
                for name, worker in workers.items()
            }
            turns = in_turns(works, s.repeats)
            made = count * s.new_tokens
            speed = {name: [made / seconds for seconds in turn] for name, turn in turns.items()}
            table.add(f"telling {count} at once, tokens/s", speed["ours"])
            if theirs:
                table.add(f"nanoGPT telling {count}, tokens/s", speed["peer"])
                table.add_ratio(f"telling {count}, ours/nanoGPT", speed["ours"], speed["peer"])


def our_telling(s: Settings) -> dict[str, Callable]:
    """Telling with our model: {"tell": stories at once and tokens of each -> seconds}."""
    hardware = device.select_hardware(s.device, s.dtype)
    shape = (s.block_size, s.n_layer, s.n_head, s.n_embd)
    model = GPT(GPTConfig(s.vocab_size, *shape)).to(hardware.device).eval()
    model = storyteller.for_telling(model, hardware)
    words = made_up_tokenizer(s.vocab_size)

    def tell(count: int, new_tokens: int) -> None:
        for _ in storyteller.tell(model, words, hardware, "", count, new_tokens, stop=False):
            pass

    return {"tell": lambda *numbers: timed(lambda: tell(*numbers), hardware.device)}


def peer_telling(s: Settings, ours: device.Hardware) -> dict[str, Callable]:
    """The same with nanoGPT's generate."""
    hardware, _ = peer_hardware(s, ours)
    model = peer_model(s, 0.0, hardware.device).eval()

    def tell(count: int, new_tokens: int) -> None:
        with hardware.autocast():
            model.generate(
                torch.zeros(count, 1, dtype=torch.long, device=hardware.device), new_tokens
            )

    return {"tell": lambda *numbers: timed(lambda: tell(*numbers), hardware.device)}


# Preparing ----------------------------------------------------------------------------------


def measure_prepare(s: Settings, hardware: device.Hardware, table: Table, folder: Path) -> None:
    """MB a second from a text file to .bin files, and of tiktoken's batch encoding alone."""
    text = Path(s.text) if s.text else folder / "storybook.txt"
    if not s.text:
        text.write_text(corpus.SEPARATOR.join(storybook.stories(20_000)), encoding="utf-8")
    whole = text.read_text(encoding="utf-8")
    stories = whole.split(corpus.SEPARATOR)
    tokenizer.gpt2()  # says how to get it, where it is not here
    encoding = tiktoken.get_encoding("gpt2")
    options = (f"--source={text}", f"--dataset={folder / 'prepared'}", "--overwrite=True")

    def ours() -> None:
        with quietly():
            prepare.main(list(options))

    def bare_encoding() -> None:
        encoding.encode_ordinary_batch(stories, num_threads=os.cpu_count())

    works = {"ours": lambda: timed(ours), "bare": lambda: timed(bare_encoding)}
    in_turns(works, 1)
    turns = in_turns(works, s.repeats)
    size = len(whole.encode()) / 1e6
    speed = {name: [size / seconds for seconds in turn] for name, turn in turns.items()}
    table.add("preparing, MB/s", speed["ours"])
    table.add("tiktoken's batch encoding, MB/s", speed["bare"])
    table.add_ratio("preparing, ours/bare tiktoken", speed["ours"], speed["bare"])


# Start-up -----------------------------------------------------------------------------------


def measure_startup(s: Settings, hardware: device.Hardware, table: Table, folder: Path) -> None:
    """Seconds of `train.py --help`, and of a new run until its first step is logged."""
    make_dataset(s, folder / "data")
    names = "block_size n_layer n_head n_embd batch_size device dtype compile".split()
    options = [f"--{name}={getattr(s, name)}" for name in names]
    options += [f"--dataset={folder / 'data'}", f"--out_dir={folder / 'first'}", "--max_iters=1"]
    options += ["--gradient_accumulation_steps=1", "--log_interval=1", "--overwrite=True"]
    table.add("train.py --help, s", [timed(lambda: start("--help")) for _ in range(s.repeats)])
    first = [timed(lambda: start(*options, until="     1 ")) for _ in range(s.repeats)]
    table.add("train.py to its first step, s", first)


def start(*arguments: str, until: str | None = None) -> None:
    """Run train.py to its end, or until a line begins so.

    Raises:
        RuntimeError: it ended without such a line, or in failure.
    """
    command = [sys.executable, str(ROOT / "train.py"), *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "encoding": "utf-8"}
    with subprocess.Popen(command, **pipes) as process:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if until and line.startswith(until):
                process.kill()
                return
        if process.wait() or until:
            raise RuntimeError("train.py failed:\n" + "".join(lines))


if __name__ == "__main__":
    start(main, sys.argv[1:])
