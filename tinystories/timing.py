"""Measuring programs that are compared: each in its own process, their rounds interleaved."""

import contextlib
import math
import multiprocessing
import os
import platform
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import tiktoken
import torch

from tinystories.device import Hardware
from tinystories.terminal import progress

CPU = torch.device("cpu")
Rounds = Iterator[dict[str, float]]  # of each round: measurements by name
Measurements = dict[str, dict[str, list[float]]]  # by name and program: one number per round


def run_interleaved(programs: dict[str, Callable[..., Rounds]], *arguments) -> Measurements:
    """Run one round of each program after the other, so that a slow moment slows down all.

    Each program has its own process, so that its peak memory is measured separately.

    Args:
        programs: functions that a new process can import, and calls with `arguments`.

    Raises:
        what a program raises.
    """
    measurements: Measurements = {}
    with contextlib.ExitStack() as stack, progress(None, "measuring", "round") as bar:
        workers = {}
        for name, program in programs.items():
            spawn = multiprocessing.get_context("spawn")
            worker = ProcessPoolExecutor(1, spawn, _start, (program, *arguments))
            workers[name] = stack.enter_context(worker)
        while workers:
            for program, worker in list(workers.items()):
                measured = worker.submit(_run_round).result()
                bar.update()
                if measured is None:
                    del workers[program]
                    continue
                for name, value in measured.items():
                    measurements.setdefault(name, {}).setdefault(program, []).append(value)
    return measurements


_rounds: Rounds = iter(())  # of this process' program


def _start(program: Callable[..., Rounds], *arguments) -> None:
    """Start a program in this process, which prints nothing, and ends if its parent is killed."""
    global _rounds
    sys.stdout = sys.stderr = open(os.devnull, "w")
    parent = multiprocessing.parent_process()
    if parent:
        threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
    _rounds = program(*arguments)


def _run_round() -> dict[str, float] | None:
    """What this process' program measures in its next round, None at its end."""
    return next(_rounds, None)


def timed(device: torch.device, task: Callable, *arguments, times: int = 1) -> float:
    """Seconds until a task is done so many times, on the device too."""
    start_time = time.perf_counter()
    for _ in range(times):
        task(*arguments)
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter() - start_time


def peak_memory(device: torch.device) -> float:
    """Peak memory of this process in bytes, on CUDA of its tensors; NaN where it is not known."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform != "linux":
        return math.nan
    status = Path("/proc/self/status").read_text("utf-8")
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def describe_machine(hardware: Hardware) -> dict[str, str]:
    """What the numbers depend on."""
    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, IndexError):  # on Linux this file has the full name
        cpu = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text("utf-8"))[0]
    return {
        "processor": f"{cpu}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
        **dict(reason.split(": ", 1) for reason in hardware.reasons),
        "versions": f"python {platform.python_version()}, torch {torch.__version__}, "
        f"numpy {np.__version__}, tiktoken {tiktoken.__version__}, {platform.system()}",
    }
