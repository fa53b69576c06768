"""Train a GPT on a prepared dataset:
python train.py config/storybook_1m.py --batch_size=32  on a GPU or the CPU
python train.py --init_from=resume --out_dir=out/x      resume, after Ctrl-C
torchrun --nproc_per_node=4 train.py config/...         on four GPUs
"""

import contextlib
import math
import re
import time
from dataclasses import asdict, dataclass
from typing import Any, Literal

from configurator import RangedSettings, UserError, configure, start
from tinystories import nanogpt, trackers
from tinystories.ranges import (
    Count,
    FractionBelow1,
    Name,
    Natural,
    NonNegative,
    PerDoubling,
    Positive,
    PositiveFraction,
    Seed,
)


@dataclass
class Settings(RangedSettings):
    # Run
    out_dir: Name = "out/gpt"  # run folder, for all files
    init_from: Name = "scratch"  # scratch, resume, a folder, gpt2, hf:owner/name
    overwrite: bool = False  # replace an existing run in out_dir
    eval_only: bool = False  # print the losses and end
    seed: Seed = 1337  # of weights, data and dropout
    # Data
    dataset: Name = "tinystories"  # folder in data/, made by prepare.py
    batch_size: Count = 64  # windows per micro-batch; limits memory
    gradient_accumulation_steps: Count = 4  # micro-batches per step, all processes
    # Model
    arch: Literal["gpt2", "qwen3"] = "gpt2"  # the block of 2019, or one of today
    block_size: Count = 256  # tokens per window
    n_layer: Count = 6  # blocks of attention and MLP
    n_head: Count = 6  # attention heads; must divide n_embd
    n_embd: Count = 384  # embedding dimension
    dropout: FractionBelow1 = 0.0  # above 0 for many epochs
    bias: bool = False  # in linear layers and LayerNorms
    head_dim: Count | None = None  # of qwen3; None: n_embd / n_head
    rope_theta: Positive = 10_000.0  # base of the rotary positions of qwen3
    attention_window: Count | None = None  # last tokens that every second layer sees
    story_mask: bool = False  # a token sees its own story only
    gelu: Literal["erf", "tanh"] = "erf"  # of gpt2: exact, or OpenAI's form
    # Optimizer
    optimizer: Literal["adamw", "muon"] = "adamw"  # muon: for matrices in blocks
    max_iters: Count = 5000  # steps
    max_minutes: Positive | None = None  # of training; the schedule adapts to it
    learning_rate: Positive = 1e-3  # peak, after warmup; of AdamW
    muon_learning_rate: Positive = 0.02  # peak of Muon, on the same schedule
    lr_schedule: Literal["cosine", "linear"] = "cosine"  # how it decays to min_lr
    cooldown: PositiveFraction = 0.5  # part in which linear decays
    decay_lr: bool = True  # False: constant after warmup
    warmup_iters: Natural = 100  # steps of linear warmup
    lr_decay_iters: Natural | None = None  # step that reaches min_lr; None: the last
    min_lr: NonNegative = 1e-4  # final, after the decay
    weight_decay: NonNegative = 0.1  # of matrices only
    beta1: FractionBelow1 = 0.9  # first moment; Muon's momentum
    beta2: FractionBelow1 = 0.99  # AdamW: decay of the second moment
    grad_clip: NonNegative = 1.0  # maximum gradient norm; 0: no limit
    ema: NonNegative = 0.0  # epochs the averaged weights span; 0: none
    # Evaluation and logs
    eval_interval: Count = 250  # steps between evaluations
    eval_tokens: Count = 262_144  # of each split, the same ones every time
    full_eval: bool | Literal["auto"] = "auto"  # at the end, on all of validation
    log_interval: Count = 10  # steps between log lines
    save_minutes: NonNegative = 10.0  # between saves, besides evaluations
    keep_per_doubling: PerDoubling = 0  # weights kept per doubling
    log_to: str | None = None  # wandb,tensorboard,trackio, or one of them
    wandb_project: str = "tinystories"  # at Weights & Biases and Trackio
    wandb_run_name: str | None = None  # None: the name of the run folder
    # Machine
    device: str = "auto"  # auto, cuda, cuda:1, mps, cpu
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"  # precision
    compile: bool | Literal["auto"] = "auto"  # torch.compile; auto: on CUDA

    foreign, configs = nanogpt.TRAIN, "config"

    @staticmethod
    def bare_argument(argument: str) -> dict:
        folder = re.sub(r"/(settings|config)\.json$", "", argument)
        raise UserError(
            f"{argument} is no config file (.py); to resume a run: "
            f"python train.py --init_from=resume --out_dir={folder}"
        )

    def __post_init__(self):
        super().__post_init__()
        if self.decay_lr and self.min_lr > self.learning_rate:
            raise UserError(f"min_lr={self.min_lr} is above learning_rate={self.learning_rate}")
        trackers.check_names(self.log_to)


command_line = configure(Settings)  # answers --help and mistakes before the slow imports

import numpy as np
import torch

from model import GPT, GPTConfig
from tinystories import dataset, device, files, generate, kept, log, loss, optim, processes, run
from tinystories.processes import RANK, WORLD_SIZE, Stopped, print_rank0
from tinystories.stories.instruct import has_records
from tinystories.terminal import progress, wrapped


@dataclass
class TrainState:
    """Training state that is saved in every checkpoint."""

    step: int = 0  # finished steps
    windows: int = 0  # training windows seen
    seconds: float = 0.0  # training time, without set-up, evaluation and saving
    best_val: float = math.inf  # lowest validation loss so far, nats per token
    best_step: int = -1  # the step that had it; -1: none
    best_is_average: bool = False  # whether it is of the averaged weights
    evaluated: int = -1  # the last step that was evaluated; -1: none
    wandb_id: str | None = None  # of the run in trackers


@dataclass
class Run:
    """Everything that the loop works with."""

    settings: Settings
    hardware: device.Hardware
    data: dataset.Dataset
    raw_model: GPT  # the plain module, which is saved
    compiled_model: torch.nn.Module  # the same, compiled where that works
    model: Any  # the same, in DDP where several processes train
    optimizer: optim.Optimizer
    average: optim.AveragedWeights | None  # with ema, on rank 0
    state: TrainState
    sampler: dataset.WindowSampler
    stop: processes.StopSignal
    headers: bool  # whether the stories are records of TinyStories-Instruct
    log: Any = None  # RunLog, on rank 0
    saved_at: float = 0.0


def learning_rate(s: Settings, step: int, time_used: float) -> float:
    """The rate of a step: linear warmup, then the decay to min_lr.

    "cosine" decays at once (Loshchilov & Hutter 2017), "linear" in the last part of the run only.

    Args:
        step: steps finished before this one.
        time_used: fraction of max_minutes used, 0 without a limit. The decay follows this or the
            fraction of lr_decay_iters, whichever is larger.
    """
    if step < s.warmup_iters or not s.decay_lr:
        return s.learning_rate * min(1.0, (step + 1) / (s.warmup_iters + 1))  # + 1: not 0 at step 0
    last = s.max_iters if s.lr_decay_iters is None else s.lr_decay_iters
    done = max(time_used, (step - s.warmup_iters) / max(1, last - s.warmup_iters))
    done = min(1.0, done)
    if s.lr_schedule == "linear":
        height = min(1.0, (1 - done) / s.cooldown)
    else:
        height = (1 + math.cos(math.pi * done)) / 2
    return s.min_lr + (s.learning_rate - s.min_lr) * height


# Set-up -------------------------------------------------------------------------------------


def set_up(s: Settings, docs: list[str], saved: dict | None) -> Run:
    """Build what the loop works with, and print what will happen.

    Args:
        docs: docstrings of the config files, which hold the command that prepares the data.
        saved: the checkpoint to start from.
    """
    resumed = s.init_from == "resume"
    data = dataset.open_dataset(s.dataset, s.block_size, docs)
    if s.story_mask and data.tokenizer.end_of_text is None:
        raise UserError(f"story_mask: {s.dataset} has no end of text between stories")
    if saved:
        run.check_same_data(saved, data, resumed)
    hardware = device.select_hardware(s.device, s.dtype, processes.LOCAL_RANK)
    processes.connect(hardware.device)
    torch.manual_seed(s.seed)
    shape = {name: getattr(s, name) for name in run.MODEL_SETTINGS}
    raw_model = GPT(GPTConfig(data.tokenizer.vocab_size, dropout=s.dropout, **shape))
    if saved:
        raw_model.load_state_dict(saved["model"])
    raw_model.to(hardware.device)
    optimizer = optim.Optimizer(raw_model, hardware, s)
    state = TrainState()
    if saved and resumed:
        optimizer.load_state_dict(saved)
        state = TrainState(**saved["progress"])
        if state.best_step >= 0 and (problem := run.problem_with_best(run.run_folder(s.out_dir))):
            print_rank0(wrapped(f"{problem}; the next evaluation writes a new one"))
            state.best_val, state.best_step = math.inf, -1
    log.print_summary(s, data, raw_model, optimizer, state.step)
    batch_shape = (s.batch_size, s.block_size)
    compiled_model, reason = device.compile_model(raw_model, s.compile, hardware, batch_shape)
    print_rank0("\n".join(map(wrapped, (*hardware.reasons, reason))))
    model = compiled_model
    if WORLD_SIZE > 1:
        model = torch.nn.parallel.DistributedDataParallel(compiled_model)
    sampler = dataset.WindowSampler(len(data.train), s.block_size, s.seed)
    average = None
    if s.ema and RANK == 0:
        steps_per_epoch = sampler.windows_per_epoch / (s.batch_size * s.gradient_accumulation_steps)
        average = optim.AveragedWeights(raw_model, s.ema * steps_per_epoch)
        if saved and resumed and "average" in saved:
            average.load_state_dict(saved["average"])
    stop = processes.StopSignal()
    headers = has_records(data.first_stories())
    parts = (raw_model, compiled_model, model, optimizer, average, state, sampler, stop, headers)
    return Run(s, hardware, data, *parts)


# Evaluating and saving ----------------------------------------------------------------------


def evaluate(r: Run, last: bool) -> dict:
    """Measure the losses on eval_tokens of training and of validation data; may raise Stopped.

    These are the same tokens every time, so that the losses of a run compare. The validation loss
    of the averaged weights stands beside that of the trained ones. The `last` evaluation of a run
    adds the loss on all of validation, of the better weights: full_val_loss, where wanted.
    Returns columns of log.csv.
    """
    data, model = r.data, r.compiled_model
    count = len(data.val.sequential_starts(r.settings.eval_tokens))
    train = measure(r, model, data.train, data.train.evenly_spaced_starts(count), "train")
    parts = validate(r, model, "val")
    val = sum(parts.values(), loss.Loss())
    row = {"step": r.state.step, "train_loss": train.nats, "val_loss": val.nats}
    row["val_bits_per_byte"] = val.bits_per_byte
    if len(parts) > 1:
        row |= {log.PART + name: part.bits_per_byte for name, part in parts.items()}
    if r.average and r.state.step:
        average = sum(validate(r, r.average.module, "averaged weights").values(), loss.Loss())
        row |= {"ema_val_loss": average.nats, "ema_val_bits_per_byte": average.bits_per_byte}
        if average.nats < val.nats:
            val, model = average, r.average.module
    if last and wants_full_eval(r):
        val += sum(validate(r, model, "all of validation", rest=True).values(), loss.Loss())
        row |= {"full_val_loss": val.nats, "full_val_bits_per_byte": val.bits_per_byte}
    return row


def validate(r: Run, model: torch.nn.Module, name: str, rest: bool = False) -> dict[str, loss.Loss]:
    """The validation losses by source: of eval_tokens, or of the `rest` after them."""
    parts, losses = r.data.val_parts, {}
    for source, file in parts.items():
        starts = file.sequential_starts(max(1, r.settings.eval_tokens // len(parts)))
        if rest:
            starts = file.sequential_starts()[len(starts) :]
        losses[source] = measure(r, model, file, starts, name)
    return losses


def measure(
    r: Run, model: torch.nn.Module, file: dataset.TokenFile, starts: np.ndarray, name: str
) -> loss.Loss:
    """The loss of a model over the windows that begin at `starts`, with a progress bar."""
    batch_size, lengths = r.settings.batch_size, r.data.tokenizer.byte_lengths()
    batches = file.batches(starts, batch_size, pad=r.compiled_model is not r.raw_model)
    total = -(-len(starts) // batch_size)
    batches = progress(r.stop.watch(batches), f"evaluating {name}", "batches", total=total)
    return loss.estimate_loss(model, batches, lengths, r.hardware)


def wants_full_eval(r: Run) -> bool:
    """Whether the last evaluation measures all of validation; says so where nobody decided.

    "auto" does where that takes at most a tenth of the time of the training: a forward pass is
    about a third of a training step.
    """
    s = r.settings
    if s.full_eval != "auto":
        return s.full_eval
    wanted = len(r.data.val) / 3 <= r.state.windows * s.block_size / 10
    verb, other = ("evaluating", "skips that") if wanted else ("not evaluating", "does that")
    print_rank0(
        f"{verb} all {len(r.data.val):,} validation tokens; --full_eval={not wanted} {other}"
    )
    return wanted


def evaluate_and_save(r: Run, last: bool) -> None:
    """Evaluate, generate a story, save, and plot the losses; raises Stopped if a signal comes."""
    s, state, tokenizer = r.settings, r.state, r.data.tokenizer
    r.optimizer.check_weights()
    row = evaluate(r, last)
    val_loss, better = row["val_loss"], r.raw_model
    if r.average and row.get("ema_val_loss", math.inf) < val_loss:
        val_loss, better = row["ema_val_loss"], r.average.module
    model = generate.prepare_for_generation(better.eval(), r.hardware)
    # As many tokens as sample.py takes, where the losses take longer: one costs as much as 60.
    options = {"max_new_tokens": min(500, s.eval_tokens // 60), "seed": s.seed + state.step}
    pieces = r.stop.watch(generate.generate_stories(model, tokenizer, r.hardware, **options))
    story = generate.collect_stories(pieces, prompt="", count=1)[0].text
    if state.evaluated < state.step:  # else best.pt was lost, and comes again
        r.log.evaluation(row, story)
    r.raw_model.train()
    state.evaluated = state.step
    if val_loss < state.best_val:
        state.best_val, state.best_step = val_loss, state.step
        state.best_is_average = better is not r.raw_model
        best = {"step": state.step, "val_loss": val_loss, "average": state.best_is_average}
        best |= run.model_state(better, tokenizer, r.headers)
        run.save_checkpoint(r.log.folder / "best.pt", best)
    save(r)
    if state.step:
        r.log.plot(r.raw_model.count_parameters())


def save(r: Run) -> None:
    """Write ckpt.pt: everything that is needed to resume after the last finished step."""
    r.optimizer.check_weights()
    state = run.model_state(r.raw_model, r.data.tokenizer, r.headers) | r.optimizer.state_dict()
    if r.average:
        state["average"] = r.average.state_dict()
    state |= {"progress": asdict(r.state), "log_sizes": r.log.sizes()}
    state |= {"seed": r.settings.seed, "data": r.data.fingerprint}
    run.save_checkpoint(r.log.folder / "ckpt.pt", state)
    run.note_newest(r.log.folder)
    r.log.trackers.flush()
    r.saved_at = time.perf_counter()


# The loop -----------------------------------------------------------------------------------


def train_step(r: Run, rate: float) -> tuple[torch.Tensor, torch.Tensor]:
    """One step of the optimizer. Raises Stopped if a signal comes: the step has changed nothing.

    Returns:
        the mean loss over all micro-batches of all processes and the gradient norm, both on the
        device.
    """
    s, state = r.settings, r.state
    count = s.batch_size * s.gradient_accumulation_steps
    micro_batches = r.sampler.starts(state.windows, count).reshape(-1, s.batch_size)
    micro_batches = micro_batches[RANK::WORLD_SIZE]
    # Reseed each step, so that evaluation does not change dropout and a resumed run is exact.
    seed = np.random.SeedSequence([s.seed, state.step, RANK]).generate_state(1, np.uint64)
    torch.manual_seed(int(seed[0]))
    mean_loss = torch.zeros((), device=r.hardware.device)
    r.optimizer.zero_grad()
    for i, starts in enumerate(micro_batches):
        r.stop.sync()
        x, y = (device.to_device(ids, r.hardware.device) for ids in r.data.train.windows(starts))
        if WORLD_SIZE > 1:  # average the gradients over the processes once per step
            r.model.require_backward_grad_sync = i == len(micro_batches) - 1
        with r.hardware.autocast():
            micro_loss = r.model(x, y) / len(micro_batches)
        r.optimizer.backward(micro_loss)
        mean_loss += micro_loss.detach()
    processes.average(mean_loss)
    norm = r.optimizer.step(rate, mean_loss, state.step + 1)
    if r.average:
        r.average.update_parameters(r.raw_model)
    state.step += 1
    state.windows += count
    return mean_loss, norm


def train(r: Run) -> None:
    """Train until max_iters or max_minutes is reached; raises Stopped if a signal comes."""
    s, state = r.settings, r.state
    time_limit = 60 * (s.max_minutes or math.inf)  # seconds
    r.saved_at = time.perf_counter()
    if state.step >= s.max_iters or state.seconds >= time_limit:
        print_rank0("nothing left to train: raise --max_iters or --max_minutes to go on")
        if RANK == 0:
            r.log.plot(r.raw_model.count_parameters())  # what was killed may not have come to it
    with log.training_bar(s, state) as bar:
        while True:
            time_used = r.stop.sync(state.seconds / time_limit)
            finished = state.step >= s.max_iters or time_used >= 1

            # once in a while: keep the weights, evaluate, generate a story, save
            kept.keep(r, finished)
            if finished or state.step % s.eval_interval == 0:
                if RANK == 0 and (state.evaluated < state.step or state.best_step < 0):
                    with contextlib.suppress(Stopped):  # all processes stop in the next sync
                        evaluate_and_save(r, last=finished)
                r.stop.sync()
            if finished:
                return

            step_start = time.perf_counter()
            rate = learning_rate(s, state.step, time_used)
            mean_loss, norm = train_step(r, rate)
            log_now = state.step % s.log_interval == 0
            if log_now or state.step % s.eval_interval == 0:
                r.optimizer.check()  # waits until the device has finished the step
            state.seconds += time.perf_counter() - step_start

            # print and save
            if log_now and RANK == 0:
                r.log.step(s, state, mean_loss.item(), rate, norm.item(), r.raw_model, r.hardware)
            log.update_bar(bar, s, state)
            if RANK == 0 and time.perf_counter() - r.saved_at > 60 * s.save_minutes:
                save(r)


def main(s: Settings, overrides: dict, docs: list[str]) -> None:
    folder = run.run_folder(s.out_dir)
    writes = RANK == 0 and not s.eval_only
    lock = files.only_writer(folder) if writes else contextlib.nullcontext()
    with lock, trackers.closed_trackers():
        status = train_run(s, overrides, docs)
    processes.disconnect(status)


def train_run(s: Settings, overrides: dict, docs: list[str]) -> int:
    """Begin or resume a run and train until it ends or is stopped; returns the exit status."""
    start_time = time.perf_counter()
    s, saved = run.begin(s, overrides)
    processes.check_divisible("gradient_accumulation_steps", s.gradient_accumulation_steps)
    try:
        with device.out_of_memory(
            f"lower batch_size (now {s.batch_size}), and raise gradient_accumulation_steps by the "
            "same factor to keep the step the same; or n_layer and n_embd, for a smaller model"
        ):
            r = set_up(s, docs, saved)
            if s.eval_only:
                print_rank0(log.evaluation_line(evaluate(r, last=True)))
                return 0
            if RANK == 0:
                r.log = log.open_log(s, r.state, r.data, saved)
            del saved  # the model and the optimizer have copies
            r.stop.listen()
            train(r)
    except Stopped as stopped:
        if RANK == 0:
            save(r)
        print_rank0(log.stopped_lines(s, r.state))
        return 128 + stopped.args[0]
    except RuntimeError as error:
        processes.raise_if_peer_failed(error)
        raise
    print_rank0(log.closing_lines(r, time.perf_counter() - start_time))
    return 0


if __name__ == "__main__":
    start(main, *command_line)
