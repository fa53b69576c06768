"""Kept checkpoints: the weights at steps that are evenly spaced in doublings, to see it learn.

    kept/step_0000512.pt     the weights alone, in the format of best.pt

With N per doubling these are steps 0, 2^(0/N), 2^(1/N), ... rounded, and the last one. That needs
no known end, so it goes with max_minutes, and many of them are early, where most changes.
"""

import contextlib
import math
import re
import shutil
from pathlib import Path

from tinystories.processes import RANK
from tinystories.run import KEPT, kept_file, model_state, run_folder, save_checkpoint
from tinystories.terminal import counted


def kept_steps(per_doubling: int, last: int) -> list[int]:
    """The steps to keep up to `last`, that one included; 0 per doubling: none."""
    if not per_doubling:
        return []
    powers = range(int(per_doubling * math.log2(max(1, last)) + 1e-9) + 1)
    steps = {round(2 ** (k / per_doubling)) for k in powers}
    return sorted({0, last} | {step for step in steps if step <= last})


def is_kept(step: int, per_doubling: int) -> bool:
    """Whether a step is kept wherever the run ends."""
    return bool(per_doubling) and step in kept_steps(per_doubling, 2 * step)


def begin(folder: Path, per_doubling: int, step: int, resumed: bool, goes_on: bool = True) -> None:
    """Remove what a run has not done yet: all of a new one, of a resumed one what is after `step`.

    The last step of a run that goes on is no longer the last, so it stays only where its turn is.
    """
    last_stays = not goes_on or not per_doubling or is_kept(step, per_doubling)
    for path in (folder / KEPT).glob("step_*"):
        if not (match := re.fullmatch(r"step_(\d+)(\.pt)?(\.tmp)?", path.name)):
            continue
        kept = int(match[1])
        stays = kept < step or (kept == step and last_stays)
        if resumed and stays and not match[3]:
            continue
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    with contextlib.suppress(OSError):
        (folder / KEPT).rmdir()  # where it is empty


def room_needed(s, num_bytes: int) -> str:
    """How much room the checkpoints take, of `num_bytes` each; `s` is train.py's Settings."""
    count = len(kept_steps(s.keep_per_doubling, s.max_iters))
    existing = next(path for path in run_folder(s.out_dir).parents if path.exists())
    free, most = shutil.disk_usage(existing).free / 1e9, "at most " if s.max_minutes else ""
    size = f"{num_bytes / 1e6:.1f} MB each, {most}{count * num_bytes / 1e9:.2g} GB"
    return f"keeping weights of {most}{counted(count, 'step')}: {size}; {free:.0f} GB are free"


def keep(r, finished: bool) -> None:
    """Keep the weights, if it is their turn; `r` is train.py's Run."""
    per_doubling, step = r.settings.keep_per_doubling, r.state.step
    if RANK or not per_doubling or not (finished or is_kept(step, per_doubling)):
        return
    r.optimizer.check_weights()
    path = r.log.folder / kept_file(step)
    path.parent.mkdir(exist_ok=True)
    weights = model_state(r.raw_model, r.data.tokenizer, r.headers)
    save_checkpoint(path, {"step": step, "average": False} | weights)
