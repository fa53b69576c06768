"""Logging of a run: the table on the screen, log.csv, samples.txt."""

import csv
import io
import math
import os
import secrets
import textwrap
from collections.abc import Iterable
from pathlib import Path

from tqdm import tqdm

from configurator import UserError
from model import GPT
from tinystories import kept
from tinystories.advice import last_line
from tinystories.dataset import Dataset, WindowSampler
from tinystories.device import Hardware
from tinystories.optim import Optimizer
from tinystories.processes import RANK, WORLD_SIZE, launcher, print_rank0
from tinystories.run import open_run_folder, run_folder
from tinystories.terminal import command_text, counted, duration, short_count, wrapped
from tinystories.trackers import Trackers, open_trackers

FILES = ("log.csv", "samples.txt")
COLUMNS = (  # of log.csv; a step fills the first ones, an evaluation the last ones
    *("step", "tokens", "loss", "learning_rate", "grad_norm"),
    *("tokens_per_second", "mfu", "minutes", "eta_minutes"),
    *("train_loss", "val_loss", "val_bits_per_byte"),  # on the same tokens every time
    *("ema_val_loss", "ema_val_bits_per_byte"),  # of the averaged weights
    *("full_val_loss", "full_val_bits_per_byte"),  # on all of validation, at the end
)
PART = "val_bits_per_byte_"  # begins the columns of the parts of a validation of several sources
HEADER = "  step  tokens    loss        lr    norm   tok/s    MFU     ETA"
LINES = 20  # of the table, after which its header is repeated
MARGIN = "  | "  # of what is not a row of the table


def print_summary(s, data: Dataset, model: GPT, optimizer: Optimizer, first_step: int) -> None:
    """Print what will be trained, on what, and for how long; `s` is train.py's Settings."""
    splits = data.meta["splits"] if data.meta else {}
    stories = {name: f", {counted(splits[name]['stories'], 'story', 'stories')}" for name in splits}
    windows = s.batch_size * s.gradient_accumulation_steps
    epoch = WindowSampler(len(data.train), s.block_size, s.seed).windows_per_epoch / windows
    lines = [f"run: {s.out_dir} ({s.init_from})"]
    if data.note:
        lines.append(f"{data.folder} {data.note}")
    lines += [
        f"data: {s.dataset}, {len(data.train):,} tokens{stories.get('train', '')}",
        f"validation: {len(data.val):,} tokens{stories.get('val', '')}",
        f"vocabulary: {data.tokenizer.vocab_size:,} ids ({data.tokenizer.kind})",
        f"model: {s.arch}, {counted(s.n_layer, 'layer')}, {counted(s.n_head, 'head')}, "
        f"n_embd {s.n_embd}, window of {counted(s.block_size, 'token')}, dropout {s.dropout}",
        f"number of parameters: {model.count_parameters() / 1e6:.2f}M",
    ]
    for kind, params in zip(("decayed", "non-decayed"), model.param_groups(), strict=True):
        count = sum(p.numel() for p in params)
        lines.append(f"num {kind} parameter tensors: {len(params)}, with {count:,} parameters")
    lines += [
        f"using fused AdamW: {optimizer.groups[0]['fused']}",
        *(["using Muon for the matrices inside blocks"] if s.optimizer == "muon" else []),
        f"tokens per iteration will be: {windows * s.block_size:,}",
        f"  = {counted(s.batch_size, 'window')} per micro-batch x "
        f"{counted(s.gradient_accumulation_steps, 'micro-batch', 'micro-batches')} "
        f"x {s.block_size} tokens per window",
        f"{counted(s.max_iters, 'step')} = {s.max_iters / epoch:.3g} epochs"
        if s.max_minutes is None
        else f"as many steps as {s.max_minutes:g} minutes allow, at most {s.max_iters:,}; "
        f"one epoch = {epoch:,.0f} steps",
    ]
    if first_step:
        lines.append(f"continuing after step {first_step:,}")
    if s.keep_per_doubling:
        size = 4 * sum(parameter.numel() for parameter in model.parameters())
        lines.append(kept.room_needed(s, size))
    print_rank0("\n".join(map(wrapped, lines)))


class RunLog:
    """The log files of a run, which only grow, and the lines on the screen.

    Their sizes are saved with the run's state; a run that resumes cuts them back to those, so
    that no step is in them twice.
    """

    trackers: Trackers | None = None  # which get the rows of log.csv, too
    vocab_size: int | None = None  # of a model that begins with random weights

    def __init__(
        self, folder: Path, sizes: dict[str, int] | None = None, parts: Iterable[str] = ("",)
    ):
        """Open the files of a new run or, given `sizes` in bytes, of one that resumes.

        Args:
            parts: names of the parts of the validation data.
        """
        self.folder = folder
        self.last_line = (0, 0.0)  # windows and seconds of training at the last line of the table
        self.lines = LINES  # printed since the header
        self.files = {name: open(folder / name, "ab") for name in FILES}
        for name, file in self.files.items():
            file.truncate(sizes[name] if sizes else 0)
            file.seek(0, os.SEEK_END)
        if self.files["log.csv"].tell() == 0:
            names = [PART + name for name in parts if name]
            self._append("log.csv", ",".join((*COLUMNS, *names)) + "\n")
        with open(folder / "log.csv", "rb") as file:
            header = file.readline().decode(errors="replace")
        self.columns = header.strip().split(",")  # fewer in the log of an old run

    def step(
        self, s, state, loss: float, rate: float, norm: float, model: GPT, hardware: Hardware
    ) -> None:
        """Log a training step; `s` and `state` are train.py's Settings and TrainState."""
        windows, seconds = self.last_line
        self.last_line = (state.windows, state.seconds)
        elapsed = max(1e-9, state.seconds - seconds)
        tokens_per_second = (state.windows - windows) * s.block_size / elapsed
        peak = hardware.peak_flops()
        mfu = model.flops_per_token() * tokens_per_second / (peak * WORLD_SIZE) if peak else None
        eta = seconds_left(s, state)
        row = {
            "step": state.step,
            "tokens": state.windows * s.block_size,
            "loss": loss,
            "learning_rate": rate,
            "grad_norm": norm,
            "tokens_per_second": round(tokens_per_second),
            "mfu": "n/a" if mfu is None else round(mfu, 4),
            "minutes": round(state.seconds / 60, 3),
            "eta_minutes": round(eta / 60, 3),
        }
        self._record(row)
        if self.lines >= LINES:
            print_rank0(HEADER)
            self.lines = 0
        self.lines += 1
        print_rank0(
            f"{state.step:6} {short_count(row['tokens']):>7} {loss:7.4f} {rate:9.2e} {norm:7.3f} "
            f"{short_count(tokens_per_second):>7} {'n/a' if mfu is None else f'{mfu:.1%}':>6} "
            f"{duration(eta):>7}"
        )

    def evaluation(self, row: dict, story: str) -> None:
        """Log an evaluation and the story that was generated at it."""
        self._record(row)
        self._append("samples.txt", f"--- step {row['step']} ---\n{story}\n\n")
        margin = {"initial_indent": MARGIN, "subsequent_indent": MARGIN}
        line = evaluation_line(row)
        if not row["step"] and self.vocab_size:
            line += f"\nexpected before training: ln {self.vocab_size:,} = "
            line += f"{math.log(self.vocab_size):.4f}"
        lines = textwrap.indent(line, MARGIN).splitlines()
        if row["step"]:  # before the first step it is noise
            lines += textwrap.wrap(story, 79, max_lines=8, **margin)
        self.lines += len(lines)
        print_rank0("\n".join(lines))

    def plot(self, parameters: int | None = None) -> None:
        """Plot log.csv as loss.png; a run does not end because a plot cannot be written.

        Args:
            parameters: how many the model has, for the title.
        """
        from tinystories import figures  # only here: matplotlib takes half a second to import

        try:
            figures.plot_run(self.folder, parameters)
        except UserError as error:
            print_rank0(str(error))

    def sizes(self) -> dict[str, int]:
        """Flush the files to the disk; their sizes in bytes."""
        for file in self.files.values():
            os.fsync(file.fileno())
        return {name: file.tell() for name, file in self.files.items()}

    def _record(self, row: dict) -> None:
        line = io.StringIO()
        row_writer = csv.DictWriter(line, self.columns, lineterminator="\n", extrasaction="ignore")
        row_writer.writerow(row)
        self._append("log.csv", line.getvalue())
        if self.trackers:
            self.trackers.add(row)

    def _append(self, name: str, text: str) -> None:
        self.files[name].write(text.encode())
        self.files[name].flush()


def open_log(s, state, data: Dataset, saved: dict | None) -> RunLog:
    """Open the run folder and its log; the files of a resumed run are cut back to its step.

    Args:
        s, state: train.py's Settings and TrainState.
        saved: the checkpoint that the run starts from.
    """
    sizes = saved["log_sizes"] if saved and s.init_from == "resume" else None
    if sizes:
        check_logs(run_folder(s.out_dir), sizes)
    folder = open_run_folder(s, data.tokenizer)
    goes_on = state.step < s.max_iters and seconds_left(s, state) > 0
    kept.begin(folder, s.keep_per_doubling, state.step, sizes is not None, goes_on)
    if s.log_to and not state.wandb_id:
        state.wandb_id = secrets.token_hex(4)
    log = RunLog(folder, sizes, data.val_parts)
    log.trackers = Trackers(open_trackers(s, folder, state.wandb_id), folder / "log.csv", state)
    log.last_line = (state.windows, state.seconds)
    log.vocab_size = None if saved else data.tokenizer.vocab_size
    return log


def check_logs(folder: Path, sizes: dict[str, int]) -> None:
    """Raises UserError if a log file is missing, shorter than `sizes` says, or no log."""
    for name in FILES:
        path = folder / name
        whole = path.is_file() and path.stat().st_size >= sizes[name]
        if not whole or (name == "log.csv" and not path.read_bytes().startswith(b"step,")):
            raise UserError(
                f"{path} is missing, damaged or has lost its end; copy it from a backup, or "
                f"train on in a new run: --init_from={folder}"
            )


def seconds_left(s, state) -> float:
    """How long the training still takes, at the mean pace of the run."""
    left = state.seconds / max(1, state.step) * (s.max_iters - state.step)
    return min(left, max(0.0, 60 * s.max_minutes - state.seconds)) if s.max_minutes else left


def training_bar(s, state) -> tqdm:
    """A progress bar over the steps, or over the seconds of max_minutes; only on terminals."""
    steps = (s.max_iters, state.step, " steps")
    total, done, unit = (60 * s.max_minutes, state.seconds, " s") if s.max_minutes else steps
    columns = "{desc} {percentage:3.0f}%|{bar}| {n_fmt} of {total_fmt}{unit}"
    off = None if RANK == 0 else True
    total = round(min(total, 1e18))
    return tqdm(total=total, initial=int(done), unit=unit, disable=off, bar_format=columns)


def update_bar(bar: tqdm, s, state) -> None:
    """Show the finished steps or seconds, and how long the rest takes."""
    bar.set_description_str(f"training, {duration(seconds_left(s, state))} left", refresh=False)
    bar.update((int(state.seconds) if s.max_minutes else state.step) - bar.n)


def evaluation_line(row: dict) -> str:
    """The losses of an evaluation in one line, and those on all of validation in another."""
    line = (
        f"step {row['step']:,}: train loss {row['train_loss']:.4f}, val loss "
        f"{row['val_loss']:.4f}, {row['val_bits_per_byte']:.4f} bits per byte"
    )
    if parts := {name.removeprefix(PART): row[name] for name in row if name.startswith(PART)}:
        line += "\nby source: " + ", ".join(f"{name} {bits:.4f}" for name, bits in parts.items())
    for prefix, name in (("ema", "averaged weights: val"), ("full", "on all of validation:")):
        if f"{prefix}_val_loss" in row:
            line += (
                f"\n{name} loss {row[f'{prefix}_val_loss']:.4f}, "
                f"{row[f'{prefix}_val_bits_per_byte']:.4f} bits per byte"
            )
    return line


def stopped_lines(s, state) -> str:
    """What a run that was stopped has saved, and the command that resumes it."""
    command = command_text(
        *launcher().split(), "train.py", "--init_from=resume", f"--out_dir={s.out_dir}"
    )
    return f"stopped and saved after step {state.step}; resume with:\n{command}"


def closing_lines(r, seconds: float) -> str:
    """What a finished run made, where, how good it is, the next command, and perhaps advice.

    Args:
        r: train.py's Run.
        seconds: since the command began.
    """
    s, state = r.settings, r.state
    steps, tokens = counted(state.step, "step"), short_count(state.windows * s.block_size)
    average = " (averaged weights)" if state.best_is_average else ""
    return (
        f"done in {duration(seconds)}: {steps}, {tokens} tokens, {duration(state.seconds)} "
        f"of training\nlowest val loss: {state.best_val:.4f} after step {state.best_step:,}"
        f"{average}, in {s.out_dir}/best.pt\ncurves: {s.out_dir}/loss.png\n"
        f"generate stories:\n{command_text('python', 'sample.py', f'--out_dir={s.out_dir}')}"
    ) + (last_line(s, r.data, state.step, r.log.folder) if r.log else "")
