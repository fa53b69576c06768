"""Train a GPT on a prepared dataset.

    python train.py config/tinystories_30m.py                  a GPU, or the CPU
    python train.py config/storybook_1m.py --batch_size=32     any setting
    python train.py --init_from=resume --out_dir=out/x         go on with a run
    torchrun --nproc_per_node=4 train.py config/...            four GPUs

Ctrl-C saves and says how to go on. The run folder out/<run>/ holds everything:
tinystories/checkpoint.py tells what is in it.
"""

import dataclasses
import math
import os
import re
import signal
import socket
import sys
import threading
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Literal, NamedTuple

from configurator import RANK, UserError, check, parse, run


@dataclass
class Settings:
    # Run
    out_dir: str = "out/gpt"  # folder of the run
    init_from: str = "scratch"  # scratch, resume, or a run folder or .pt file to fine-tune
    overwrite: bool = False  # start anew in a folder that holds a run
    eval_only: bool = False  # measure the losses, print them and end
    seed: int = 1337  # of the first weights, the order of the data and dropout
    # Data
    dataset: str = "tinystories"  # folder under data/, made by prepare.py
    batch_size: int = 64  # windows in a micro-batch: what the memory has to hold
    gradient_accumulation_steps: int = 4  # micro-batches in a step, over all processes
    # Model
    block_size: int = 256  # tokens in a window
    n_layer: int = 6  # blocks of attention and MLP
    n_head: int = 6  # heads of attention, among which the channels are divided
    n_embd: int = 384  # channels
    dropout: float = 0.0  # 0 is good while no token is seen often; 0.1 and more against that
    bias: bool = False  # biases in linear layers and LayerNorms
    # Optimizer (AdamW)
    max_iters: int = 5000  # steps
    max_minutes: float | None = None  # budget of training time, which the schedule follows
    learning_rate: float = 1e-3  # the highest
    decay_lr: bool = True  # cosine from learning_rate to min_lr
    warmup_iters: int = 100  # steps of linear warmup
    lr_decay_iters: int | None = None  # the step that reaches min_lr; None: the last
    min_lr: float = 1e-4  # the lowest
    weight_decay: float = 0.1  # on matrices only
    beta1: float = 0.9  # memory of the gradient
    beta2: float = 0.99  # memory of its square
    grad_clip: float = 1.0  # highest norm of the gradient; 0 never clips
    # Evaluation and logs
    eval_interval: int = 250  # steps between evaluations
    eval_tokens: int = 262_144  # of training and of validation; at the last step all of validation
    log_interval: int = 10  # steps between lines
    save_minutes: float = 10.0  # save between evaluations too, this often
    wandb_log: bool = False  # log to Weights & Biases as well
    wandb_project: str = "tinystories"  # the project there
    wandb_run_name: str | None = None  # None: the name of the run folder
    # Machine
    device: str = "auto"  # auto, cuda, cuda:1, mps, cpu
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"  # of matrix products
    compile: bool | Literal["auto"] = "auto"  # torch.compile; auto: on CUDA

    def __post_init__(self):
        counts = "batch_size gradient_accumulation_steps max_iters eval_interval eval_tokens"
        for name in f"{counts} log_interval".split():
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least 1")
        amounts = "learning_rate min_lr weight_decay grad_clip warmup_iters save_minutes seed"
        for name in f"{amounts} lr_decay_iters".split():
            if (getattr(self, name) or 0) < 0:
                raise UserError(f"{name} is {getattr(self, name)}; it must not be negative")
        for name in "out_dir dataset init_from".split():
            if not getattr(self, name):
                raise UserError(f"{name} is empty; leave it out or give it a name")
        if self.seed >= 2**63:
            raise UserError(f"seed is {self.seed}; it must be below 2^63")
        if not (0 <= self.beta1 < 1 and 0 <= self.beta2 < 1):
            raise UserError("beta1 and beta2 must lie in 0 to 1, without 1")
        if self.max_minutes is not None and self.max_minutes <= 0:
            raise UserError("max_minutes must be above 0, or None for no budget")
        if self.decay_lr and self.min_lr > self.learning_rate:
            raise UserError(f"min_lr={self.min_lr} is above learning_rate={self.learning_rate}")


if __name__ == "__main__":  # --help and mistakes answer before the slow imports
    run(lambda argv: Settings(**parse(Settings, argv)[0]))

import numpy as np
import torch
import torch.distributed as dist
from tqdm import tqdm

from model import GPT, GPTConfig
from tinystories import dataset as tokens
from tinystories import device
from tinystories import generate as storyteller
from tinystories import log as logbook
from tinystories import run as checkpoint
from tinystories.log import say
from tinystories.tokenizer import Tokenizer, gpt2

LOCAL_RANK = int(os.environ.get("LOCAL_RANK", 0))  # set by torchrun
WORLD_SIZE = int(os.environ.get("WORLD_SIZE", 1))
SHAPE = ("block_size", "n_layer", "n_head", "n_embd", "bias")  # fixed once a model exists


class Stopped(Exception):
    """Ctrl-C, SIGTERM or the end of the terminal came; args[0] is the signal's number."""


@dataclass
class Progress:
    """Where a run stands; saved with every checkpoint."""

    step: int = 0  # finished steps
    windows: int = 0  # windows of training tokens seen
    seconds: float = 0.0  # training time, without set-up, evaluation and saving
    best_val: float = math.inf  # lowest validation loss so far, nats per token
    evaluated: int = -1  # the last step that was evaluated
    wandb_id: str | None = None


@dataclass
class Run:
    """All that the loop works with."""

    settings: Settings
    folder: Path
    hardware: device.Hardware
    data: tokens.Dataset
    tokenizer: Tokenizer
    network: GPT  # the plain module, which is saved
    compiled: torch.nn.Module  # the same, compiled where that works
    trained: torch.nn.Module  # the same, in DDP where several processes train
    optimizer: torch.optim.AdamW
    scaler: torch.amp.GradScaler
    progress: Progress
    shuffle: tokens.Shuffle
    guard: "Guard"
    log: logbook.Logbook | None = None  # on rank 0
    signal: int = 0  # the signal that came, if one did
    saved_at: float = 0.0
    logged: tuple[int, float] = (0, 0.0)  # windows and seconds when the last line was printed


# Small helpers ------------------------------------------------------------------------------


class Losses(NamedTuple):
    """What an evaluation measures."""

    train: storyteller.Loss
    val: storyteller.Loss
    head: storyteller.Loss  # over the first eval_tokens of validation, to compare between steps

    def row(self, step: int) -> dict:
        """The columns of log.csv."""
        return {
            "step": step,
            "train_loss": self.train.nats,
            "val_loss": self.val.nats,
            "val_bits_per_byte": self.val.bits_per_byte,
        }


class Guard:
    """Keeps a non-finite loss or gradient out of the weights, without asking the device.

    The verdict stays on the device, where AdamW reads it; the host looks when it prints.
    """

    def __init__(self, where: torch.device):
        self.tripped = torch.zeros((), dtype=torch.bool, device=where)
        self.first = torch.zeros(4, device=where)  # step, learning rate, loss, gradient norm

    def look(self, step: int, rate: float, loss: torch.Tensor, norm: torch.Tensor) -> torch.Tensor:
        """Look at one step; returns 1.0 from the first bad step on, as AdamW's found_inf."""
        bad = ~(loss.isfinite() & norm.isfinite())
        numbers = [loss.new_full((), step), loss.new_full((), rate), loss, norm]
        self.first = torch.where(bad & ~self.tripped, torch.stack(numbers), self.first)
        self.tripped = self.tripped | bad
        return self.tripped.float()

    def check(self) -> None:
        """Raises UserError if a bad step has been seen."""
        if self.tripped.item():
            step, rate, loss, norm = self.first.tolist()
            raise UserError(
                f"step {step:.0f} came out non-finite: loss {loss:.4g}, gradient norm {norm:.4g}, "
                f"learning rate {rate:.3g}. The weights were spared; resume from the last save "
                "with a lower learning_rate, or with --dtype=float32"
            )


def learning_rate(s: Settings, step: int, share: float) -> float:
    """The rate of a step: linear warmup, then a cosine down to min_lr (Loshchilov & Hutter 2017).

    Args:
        step: steps finished before this one.
        share: of max_minutes that is spent, 0 where there is no budget; of it and the share of
            the steps, the larger counts, so that the rate is low whichever ends the run.
    """
    if not s.decay_lr:
        return s.learning_rate * min(1.0, (step + 1) / (s.warmup_iters + 1))
    if step < s.warmup_iters:
        return s.learning_rate * (step + 1) / (s.warmup_iters + 1)
    last = s.max_iters if s.lr_decay_iters is None else s.lr_decay_iters
    share = max(share, (step - s.warmup_iters) / max(1, last - s.warmup_iters))
    return s.min_lr + (s.learning_rate - s.min_lr) * (1 + math.cos(math.pi * min(1.0, share))) / 2


def agree(r: Run) -> float:
    """What all processes must hold alike: whether to stop, and the share of the budget spent.

    Raises:
        Stopped: a signal came to any of them.
    """
    budget = r.settings.max_minutes
    number, share = r.signal, r.progress.seconds / (60 * budget) if budget else 0.0
    if WORLD_SIZE > 1:
        both = torch.tensor([number, share if RANK == 0 else 0.0], dtype=torch.float64)
        dist.all_reduce(both, dist.ReduceOp.MAX)
        number, share = int(both[0]), both[1].item()
    if number:
        raise Stopped(number)
    return share


# Set-up -------------------------------------------------------------------------------------


def begin(given: dict) -> tuple[Settings, dict | None]:
    """The settings of the run, and the saved state that it starts from, if any.

    Raises:
        UserError: a run is in the way, none is there to resume, or a shape would change.
    """
    settings = Settings(**given)
    folder = checkpoint.run_folder(settings.out_dir)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"out_dir={settings.out_dir} is a file; name a folder")
    if settings.init_from == "scratch":
        saved = None
    elif settings.init_from == "resume":
        own = check(Settings, checkpoint.read_config(folder), f"{folder / 'config.json'}: ")
        settings = Settings(**own | given)
        saved = checkpoint.load(folder / "ckpt.pt")
        if "optimizer" not in saved:
            raise UserError(f"{folder / 'ckpt.pt'} holds weights alone; --init_from={folder}")
        if settings.seed != saved["seed"]:
            raise UserError(f"the run has seed={saved['seed']}; a resumed run keeps it")
    else:
        path = checkpoint.run_folder(settings.init_from)
        if not path.exists():
            raise UserError(f"init_from is scratch, resume, a run folder or a .pt file: no {path}")
        saved = checkpoint.load(path / "best.pt" if path.is_dir() else path)
    if saved:
        shape = saved["model_config"]
        for name in SHAPE:
            if given.get(name, shape[name]) != shape[name]:
                raise UserError(f"{name}={given[name]}, but the saved model has {shape[name]}")
        settings = dataclasses.replace(settings, **{name: shape[name] for name in SHAPE})
    goes_on = settings.init_from == "resume" or (saved and settings.eval_only)
    if (folder / "ckpt.pt").exists() and not (goes_on or settings.overwrite):
        raise UserError(
            f"{settings.out_dir} holds a run already; go on with it (--init_from=resume), "
            "choose another --out_dir, or start over with --overwrite=True"
        )
    if settings.gradient_accumulation_steps % WORLD_SIZE:
        raise UserError(
            f"gradient_accumulation_steps={settings.gradient_accumulation_steps} does not divide "
            f"among {WORLD_SIZE} processes"
        )
    return settings, saved


def not_prepared(folder: Path, docs: list[str]) -> str:
    """What to say of a dataset that is not there: the command stands in the config's docstring."""
    lines = [line.strip() for doc in docs for line in doc.splitlines()]
    commands = [line[line.index("python prepare.py") :] for line in lines if "prepare.py" in line]
    command = commands[-1] if commands else "python prepare.py (--help shows how)"
    return f"{folder} is not there; prepare it: {command}"


def open_data(s: Settings, docs: list[str], saved: dict | None) -> tuple[tokens.Dataset, Tokenizer]:
    """The dataset and its tokenizer.

    Raises:
        UserError: the data is not prepared, or is not what the saved model was trained on.
    """
    try:
        data = tokens.open_dataset(s.dataset, s.block_size)
    except FileNotFoundError as missing:
        raise UserError(not_prepared(missing.args[0], docs)) from None
    tokenizer = Tokenizer.load(data.folder / "tokenizer.json") if data.meta else gpt2()
    if not data.meta:
        say(f"{data.folder} has no meta.json: its ids are taken for GPT-2's")
    if tokenizer.vocab_size != data.vocab_size:
        raise UserError(f"{data.folder / 'tokenizer.json'} is not the one that meta.json describes")
    if saved and saved["tokenizer"] != tokenizer.fingerprint:
        raise UserError(f"the saved model has another tokenizer than the dataset {s.dataset}")
    if saved and s.init_from == "resume" and saved["data"] != data.identity:
        raise UserError(f"the run was trained on other data than {s.dataset} holds now")
    return data, tokenizer


def set_up(s: Settings, docs: list[str], saved: dict | None) -> Run:
    """Build everything that the loop works with, and say what will happen."""
    data, tokenizer = open_data(s, docs, saved)
    on_gpus = WORLD_SIZE > 1 and torch.cuda.is_available() and s.device in ("auto", "cuda")
    hardware = device.choose(f"cuda:{LOCAL_RANK}" if on_gpus else s.device, s.dtype)
    where = hardware.device
    if WORLD_SIZE > 1:
        backend = "cpu:gloo,cuda:nccl" if where.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=timedelta(days=1))  # evaluations may take long
    torch.manual_seed(s.seed)
    shape = {name: getattr(s, name) for name in SHAPE}
    network = GPT(GPTConfig(vocab_size=tokenizer.vocab_size, dropout=s.dropout, **shape))
    if saved:
        network.load_state_dict(saved["model"])
    network.to(where)
    groups = network.optimizer_groups(s.weight_decay)
    # Apple's fused AdamW does not look at found_inf, which keeps bad steps out of the weights.
    fused = where.type != "mps"
    optimizer = torch.optim.AdamW(groups, s.learning_rate, (s.beta1, s.beta2), fused=fused)
    scaler = torch.amp.GradScaler(where.type, enabled=hardware.dtype == torch.float16)
    progress = Progress()
    if saved and s.init_from == "resume":
        optimizer.load_state_dict(saved["optimizer"])
        for group, fresh in zip(optimizer.param_groups, groups, strict=True):
            wanted = {"weight_decay": fresh["weight_decay"], "betas": (s.beta1, s.beta2)}
            group |= wanted | {"fused": fused}
        if saved["scaler"]:  # empty where the run was not in float16 before
            scaler.load_state_dict(saved["scaler"])
        progress = Progress(**saved["progress"])
    describe(s, data, tokenizer, network, optimizer, progress)
    for reason in hardware.reasons:
        say(reason)
    compiled, why = device.compiled(network, s.compile, hardware, lambda m: warm_up(m, s, hardware))
    network.zero_grad(set_to_none=True)
    say(why)
    distributed = torch.nn.parallel.DistributedDataParallel
    return Run(
        settings=s,
        folder=checkpoint.run_folder(s.out_dir),
        hardware=hardware,
        data=data,
        tokenizer=tokenizer,
        network=network,
        compiled=compiled,
        trained=distributed(compiled) if WORLD_SIZE > 1 else compiled,
        optimizer=optimizer,
        scaler=scaler,
        progress=progress,
        shuffle=tokens.Shuffle(len(data.train), s.block_size, s.seed),
        guard=Guard(where),
    )


def warm_up(model: torch.nn.Module, s: Settings, hardware: device.Hardware) -> None:
    """Pass over nothing, as in training and as in evaluating: torch.compile compiles for both."""
    x = torch.zeros(s.batch_size, s.block_size, dtype=torch.long, device=hardware.device)
    with hardware.autocast():
        loss = model(x, x)
    loss.backward()
    with hardware.autocast(), torch.no_grad():
        model.eval()(x, x)
    model.train()


def describe(
    s: Settings,
    data: tokens.Dataset,
    tokenizer: Tokenizer,
    network: GPT,
    optimizer: torch.optim.AdamW,
    progress: Progress,
) -> None:
    """Say in plain words what will be trained, on what, and how long."""
    splits = data.meta["splits"] if data.meta else {}
    stories = {name: f", {splits[name]['stories']:,} stories" for name in splits}
    windows = s.batch_size * s.gradient_accumulation_steps
    say(f"run: {s.out_dir} ({s.init_from})")
    say(
        f"data: {s.dataset}, to train on {len(data.train):,} tokens{stories.get('train', '')}; "
        f"to validate on {len(data.val):,}{stories.get('val', '')}"
    )
    say(f"vocabulary: {tokenizer.vocab_size:,} ids ({tokenizer.kind})")
    say(
        f"model: {s.n_layer} layers, {s.n_head} heads, {s.n_embd} channels, "
        f"window of {s.block_size} tokens, dropout {s.dropout}"
    )
    say(f"number of parameters: {network.count_parameters() / 1e6:.2f}M")
    for kind, group in zip(("decayed", "non-decayed"), optimizer.param_groups, strict=True):
        count = sum(p.numel() for p in group["params"])
        say(f"num {kind} parameter tensors: {len(group['params'])}, with {count:,} parameters")
    say(f"using fused AdamW: {optimizer.defaults['fused']}")
    say(f"tokens per iteration will be: {windows * s.block_size:,}")
    say(
        f"  = {s.batch_size} windows in a micro-batch x {s.gradient_accumulation_steps} "
        f"micro-batches x {s.block_size} tokens in a window"
    )
    epoch = tokens.Shuffle(len(data.train), s.block_size, s.seed).windows_per_epoch / windows
    if s.max_minutes is None:
        say(f"{s.max_iters:,} steps will go {s.max_iters / epoch:.3g} times through the data")
    else:
        say(
            f"as many steps as {s.max_minutes:g} minutes allow, at most {s.max_iters:,}; "
            f"{epoch:,.0f} go once through the data"
        )
    if progress.step:
        say(f"going on after step {progress.step:,}")


# The run folder ----------------------------------------------------------------------------


def open_run_folder(r: Run, saved: dict | None) -> None:
    """Make the run folder, or cut its records back to the step that the run resumes from."""
    if RANK != 0:
        return
    resumed = r.settings.init_from == "resume"
    beginnings = ("init_from", "overwrite", "eval_only")  # how to begin is not what the run is
    kept = {name: value for name, value in vars(r.settings).items() if name not in beginnings}
    r.folder.mkdir(parents=True, exist_ok=True)
    wandb = logbook.open_wandb(r.folder, kept, r.progress.wandb_id) if kept["wandb_log"] else None
    if wandb:
        r.progress.wandb_id = wandb.id
    if not resumed:
        for name in ("ckpt.pt", "best.pt"):
            (r.folder / name).unlink(missing_ok=True)
    checkpoint.write_config(r.folder, kept)
    r.tokenizer.save(r.folder / "tokenizer.json")
    r.log = logbook.Logbook(r.folder, saved["log_sizes"] if resumed else None, wandb)


def evaluate(r: Run, whole: bool) -> Losses | None:
    """Measure the losses on eval_tokens of training and of validation; None if a signal comes.

    Args:
        whole: take all validation tokens, not only the first eval_tokens.
    """
    size, data = r.settings.batch_size, r.data
    starts = data.val.in_order(None if whole else r.settings.eval_tokens)
    head = len(data.val.in_order(r.settings.eval_tokens))
    parts = [
        (data.train, data.train.spread(head)),
        (data.val, starts[:head]),
        (data.val, starts[head:]),
    ]
    bar = tqdm(total=head + len(starts), desc="evaluating", unit="win", leave=False, disable=None)

    def batches(file: tokens.TokenFile, starts: np.ndarray):
        for first in range(0, len(starts), size):
            if r.signal:
                return
            batch = starts[first : first + size]
            bar.update(len(batch))
            if r.compiled is not r.network:  # a last, smaller batch would have it compiled anew
                batch = np.pad(batch, (0, size - len(batch)), constant_values=len(file))
            yield file.windows(batch)

    lengths = r.tokenizer.byte_lengths()
    train, head, rest = (
        storyteller.measure(r.compiled, batches(*part), lengths, r.hardware) for part in parts
    )
    bar.close()
    return None if r.signal else Losses(train, head + rest, head)


def evaluate_and_save(r: Run, whole: bool) -> None:
    """Evaluate, tell a story, and save; leaves at once if a signal comes."""
    r.guard.check()
    losses = evaluate(r, whole)
    if losses is None:
        return
    s, p = r.settings, r.progress
    r.network.eval()
    teller = storyteller.for_telling(r.network, r.hardware)
    told = storyteller.tell(
        teller, r.tokenizer, r.hardware, max_new_tokens=s.block_size, seed=s.seed + p.step
    )
    story = storyteller.tell_whole(told, beginning="", count=1)[0].text
    r.network.train()
    r.log.evaluation(losses.row(p.step), story)
    p.evaluated = p.step
    if losses.head.nats < p.best_val:
        p.best_val = losses.head.nats
        best = checkpoint.weights(r.network, r.tokenizer)
        checkpoint.save(r.folder / "best.pt", best | {"step": p.step, "val_loss": p.best_val})
    save(r)
    if p.step:
        draw(r)


def draw(r: Run) -> None:
    """Draw the run so far; no training ends because a picture cannot be written."""
    from tinystories import figures

    try:
        figures.draw_run(r.folder)
    except OSError as error:
        say(f"cannot write {r.folder / 'loss.png'}: {error.strerror}")


def log_step(r: Run, loss: float, rate: float, norm: float) -> None:
    """Print a step and add it to log.csv."""
    s, p = r.settings, r.progress
    if r.scaler.is_enabled() and r.scaler.get_scale() < 1:
        raise UserError(
            f"step {p.step}: float16 gradients overflow whatever their scale (loss {loss:.4g}, "
            f"learning rate {rate:.3g}, gradient norm {norm:.4g}); lower learning_rate"
        )
    windows, seconds = r.logged
    r.logged = (p.windows, p.seconds)
    speed = (p.windows - windows) * s.block_size / max(1e-9, p.seconds - seconds)
    peak = r.hardware.peak_flops()
    left = p.seconds / p.step * (s.max_iters - p.step)
    if s.max_minutes:
        left = min(left, max(0.0, 60 * s.max_minutes - p.seconds))
    row = {
        "step": p.step,
        "tokens": p.windows * s.block_size,
        "loss": loss,
        "learning_rate": rate,
        "grad_norm": norm,
        "tokens_per_second": round(speed),
        "mfu": r.network.flops_per_token() * speed / (peak * WORLD_SIZE) if peak else None,
        "minutes": round(p.seconds / 60, 3),
        "minutes_left": round(left / 60, 3),
    }
    r.log.step(row)


def save(r: Run) -> None:
    """Write ckpt.pt: everything that is needed to go on from the last finished step."""
    r.guard.check()
    state = checkpoint.weights(r.network, r.tokenizer) | {
        "optimizer": r.optimizer.state_dict(),
        "scaler": r.scaler.state_dict(),
        "progress": dataclasses.asdict(r.progress),
        "seed": r.settings.seed,
        "data": r.data.identity,
        "log_sizes": r.log.sizes(),
    }
    checkpoint.save(r.folder / "ckpt.pt", state)
    r.saved_at = time.perf_counter()


# The loop ----------------------------------------------------------------------------------


def to_device(ids: np.ndarray, where: torch.device) -> torch.Tensor:
    """The ids on the device; CUDA copies them while the host goes on."""
    tensor = torch.from_numpy(ids)
    if where.type == "cuda":
        return tensor.pin_memory().to(where, non_blocking=True)
    return tensor.to(where)


def update(r: Run, rate: float, loss: torch.Tensor) -> torch.Tensor:
    """Let AdamW take its step, unless loss or gradient are not finite; the gradient's norm."""
    r.scaler.unscale_(r.optimizer)
    limit = r.settings.grad_clip or math.inf
    norm = torch.nn.utils.clip_grad_norm_(r.network.parameters(), limit)
    for group in r.optimizer.param_groups:
        group["lr"] = rate
    if r.scaler.is_enabled():  # skips a gradient that overflowed, and lowers its scale
        r.guard.look(r.progress.step + 1, rate, loss, torch.zeros_like(loss))
        r.scaler.step(r.optimizer)
        r.scaler.update()
        return norm
    bad = r.guard.look(r.progress.step + 1, rate, loss, norm)
    if r.optimizer.defaults["fused"]:
        r.optimizer.found_inf = bad  # where it is 1, the step passes without a trace
        r.optimizer.step()
    elif not bad.item():
        r.optimizer.step()
    return norm


def train_step(r: Run, rate: float) -> tuple[torch.Tensor, torch.Tensor]:
    """One step of AdamW.

    Returns:
        the mean loss over all micro-batches of all processes and the norm of the gradient, both
        on the device.

    Raises:
        Stopped: a signal came; the step leaves no trace.
    """
    s, p = r.settings, r.progress
    count = s.batch_size * s.gradient_accumulation_steps
    micro_batches = r.shuffle.starts(p.windows, count).reshape(-1, s.batch_size)
    mine = micro_batches[RANK::WORLD_SIZE]
    # Chance within a step depends on nothing else, so evaluating and telling cannot disturb it.
    seed = np.random.SeedSequence([s.seed, p.step, RANK]).generate_state(1, np.uint64)
    torch.manual_seed(int(seed[0]))
    loss = torch.zeros((), device=r.hardware.device)
    r.optimizer.zero_grad(set_to_none=True)
    for i, starts in enumerate(mine):
        agree(r)
        x, y = (to_device(ids, r.hardware.device) for ids in r.data.train.windows(starts))
        if WORLD_SIZE > 1:  # gradients travel between processes once a step
            r.trained.require_backward_grad_sync = i == len(mine) - 1
        with r.hardware.autocast():
            micro_loss = r.trained(x, y) / len(mine)
        r.scaler.scale(micro_loss).backward()
        loss += micro_loss.detach()
    if WORLD_SIZE > 1:
        dist.all_reduce(loss)
        loss /= WORLD_SIZE
    norm = update(r, rate, loss)
    p.step += 1
    p.windows += count
    return loss, norm


def progress_bar(s: Settings, p: Progress) -> tqdm:
    """A bar over the steps, or over the seconds of a budget; on terminals alone."""
    return tqdm(
        total=round(60 * s.max_minutes) if s.max_minutes else s.max_iters,
        initial=int(p.seconds) if s.max_minutes else p.step,
        desc="training",
        unit="s" if s.max_minutes else "step",
        disable=None if RANK == 0 else True,
    )


def train(r: Run) -> None:
    """Train until the steps or the minutes are spent.

    Raises:
        Stopped: a signal came.
    """
    s, p = r.settings, r.progress
    say(logbook.HEADER)
    r.saved_at, r.logged = time.perf_counter(), (p.windows, p.seconds)
    share = agree(r)
    with progress_bar(s, p) as bar:
        while True:
            finished = p.step >= s.max_iters or share >= 1
            if p.evaluated < p.step and (finished or p.step % s.eval_interval == 0):
                if RANK == 0:
                    evaluate_and_save(r, finished)
                share = agree(r)
            if finished:
                return
            begun = time.perf_counter()
            rate = learning_rate(s, p.step, share)
            loss, norm = train_step(r, rate)
            due = p.step % s.log_interval == 0
            if due or p.step % s.eval_interval == 0:
                r.guard.check()  # waits until the device has done all that it was given
            p.seconds += time.perf_counter() - begun
            if due and RANK == 0:
                log_step(r, loss.item(), rate, norm.item())
            bar.update(int(p.seconds) - bar.n if s.max_minutes else 1)
            if RANK == 0 and time.perf_counter() - r.saved_at > 60 * s.save_minutes:
                save(r)
            share = agree(r)


def stop_on_signals(r: Run) -> None:
    """Let Ctrl-C, SIGTERM and a closed terminal end the run at the next micro-batch.

    A second signal ends it at once, but for a terminal's, which come in twos and threes.

    Python itself would notice a signal only between two of its instructions, of which a large
    step has few. A thread that waits for the signals' bytes notices them at once.
    """
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    numbers = [signal.SIGINT, signal.SIGTERM]
    hangup = getattr(signal, "SIGHUP", None)
    if hangup and signal.getsignal(hangup) != signal.SIG_IGN:  # as nohup has it
        numbers.append(hangup)
    on_terminal = [stream.fileno() for stream in (sys.stdout, sys.stderr) if stream.isatty()]

    def watch():
        with theirs:  # which would close were nobody to hold it
            r.signal = ours.recv(1)[0]
            if r.signal == hangup:
                for number in on_terminal:  # nobody is there any more, and printing would fail
                    os.dup2(os.open(os.devnull, os.O_WRONLY), number)
            say("stopping and saving; once more quits at once")
            again = hangup
            while again == hangup:
                again = ours.recv(1)[0]
            os._exit(128 + again)

    for number in numbers:
        signal.signal(number, lambda *_: None)
    signal.set_wakeup_fd(theirs.fileno())
    threading.Thread(target=watch, daemon=True).start()


def leave() -> None:
    """Part from the other processes."""
    if WORLD_SIZE > 1:
        dist.barrier()
        dist.destroy_process_group()


def resume_command(r: Run) -> str:
    """What to type to go on with a run that was stopped."""
    launcher = f"torchrun --nproc_per_node={WORLD_SIZE}" if WORLD_SIZE > 1 else "python"
    return f"{launcher} train.py --init_from=resume --out_dir={r.settings.out_dir}"


def main(argv: list[str]) -> None:
    started = time.perf_counter()
    given, docs = parse(Settings, argv)
    s, saved = begin(given)
    try:
        r = set_up(s, docs, saved)
        if s.eval_only:
            say(logbook.evaluation_line(evaluate(r, whole=True).row(r.progress.step)))
            return leave()
        open_run_folder(r, saved)
        del saved  # the weights and the optimizer have their copies
        stop_on_signals(r)
        train(r)
    except Stopped as stopped:
        if RANK == 0:
            save(r)
        say(f"stopped and saved after step {r.progress.step}; go on with: {resume_command(r)}")
        leave()
        sys.exit(128 + stopped.args[0])
    except (RuntimeError, MemoryError) as error:
        if device.is_out_of_memory(error):
            raise UserError(
                f"out of memory: lower batch_size (now {s.batch_size}), and raise "
                "gradient_accumulation_steps by as much to keep the step the same"
            ) from None
        if WORLD_SIZE > 1 and re.search("closed by peer|reset by peer|NCCL", str(error)):
            raise UserError("another process of the run ended; its message says why") from None
        raise
    minutes, whole = r.progress.seconds / 60, (time.perf_counter() - started) / 60
    say(f"done: {minutes:.1f} minutes of training, {whole:.1f} with all around it")
    say(f"hear it: python sample.py --out_dir={s.out_dir}")
    leave()


if __name__ == "__main__":
    run(main)
