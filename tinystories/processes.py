"""Processes and signals: torchrun's ranks, how they stop together, scripts that are run."""

import atexit
import ctypes
import errno
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from textwrap import shorten
from typing import NoReturn

import torch
import torch.distributed as dist
from tqdm import tqdm

from configurator import ROOT, UserError

WORLD_SIZE = int(os.environ.get("WORLD_SIZE", 1))  # processes; torchrun sets these variables
RANK = int(os.environ.get("RANK", 0)) if WORLD_SIZE > 1 else 0  # of this process
# Its GPU on this machine.
LOCAL_RANK = int(os.environ.get("LOCAL_RANK", RANK)) if WORLD_SIZE > 1 else None


class Stopped(Exception):
    """Ctrl-C, SIGTERM or the end of the terminal came; args[0] is the signal's number."""


def launcher() -> str:
    """What started this script, as it stands before its name in a command."""
    if WORLD_SIZE == 1:
        return "python"
    here = int(os.environ.get("LOCAL_WORLD_SIZE", WORLD_SIZE))
    if here == WORLD_SIZE:
        return f"torchrun --nproc_per_node={here}"
    nodes = f"--nnodes={WORLD_SIZE // here} --nproc_per_node={here}"
    return f"torchrun {nodes} --rdzv_backend=c10d --rdzv_endpoint=HOST:PORT"


def print_rank0(text: str) -> None:
    """Print above the progress bar, in the first process only."""
    if RANK == 0:
        try:
            tqdm.write(text)
        except OSError as error:
            if error.errno != errno.EIO:  # a terminal that was closed: SIGHUP is about to come
                raise


def connect(device: torch.device) -> None:
    """Connect the processes that torchrun started."""
    if WORLD_SIZE > 1:
        # gloo also on GPUs, since StopSignal.sync reduces a CPU tensor.
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=timedelta(days=1))  # evaluations may take long


def disconnect(status: int) -> NoReturn:
    """Wait for the other processes, shut down torch.distributed and end with this status.

    One of several processes ends without Python's shutdown: after that, gloo's threads may release
    a tensor, which would abort the process (PyTorch's pull request 179291).
    """
    if WORLD_SIZE > 1:
        dist.barrier()
        dist.destroy_process_group()
        atexit._run_exitfuncs()  # those of trackers
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def average(tensor: torch.Tensor) -> None:
    """Average a tensor over all processes, in place."""
    if WORLD_SIZE > 1:
        dist.all_reduce(tensor)
        tensor /= WORLD_SIZE


def check_divisible(name: str, count: int) -> None:
    """Raises UserError unless the count can be divided evenly among the processes."""
    if count % WORLD_SIZE:
        raise UserError(f"{name}={count} cannot be divided among {WORLD_SIZE} processes")


def raise_if_peer_failed(error: Exception) -> None:
    """Raises UserError if an error only means that another process of the run has ended."""
    gone = "closed by peer|reset by peer|ncclRemoteError|remote process exit"
    if WORLD_SIZE > 1 and re.search(gone, str(error)):
        raise UserError("another process of the run ended; its message says why") from None


def trapped_signals() -> list[int]:
    """The signals that mean "save and stop": Ctrl-C, SIGTERM and a closed terminal."""
    hangup = getattr(signal, "SIGHUP", None)  # not on Windows
    ignored = hangup and signal.getsignal(hangup) == signal.SIG_IGN  # by nohup
    return [signal.SIGINT, signal.SIGTERM, *([hangup] if hangup and not ignored else [])]


class StopSignal:
    """The first signal that asks the run to stop; a second one ends the process at once.

    Repeated SIGHUPs are ignored, since a closing terminal may send several.
    """

    def __init__(self):
        self.number = 0  # of the signal, 0 before one came

    def listen(self) -> None:
        """Notice signals from now on.

        Python runs signal handlers between two of its instructions only, and one call of torch can
        take seconds. A thread that reads the wake-up socket notices a signal at once.
        """
        reader, writer = socket.socketpair()
        writer.setblocking(False)
        terminals = [stream.fileno() for stream in (sys.stdout, sys.stderr) if stream.isatty()]

        def leave_terminal(number: int, _frame=None) -> None:
            if number == getattr(signal, "SIGHUP", None):  # to print to a closed one would fail
                for descriptor in terminals:
                    os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)

        for number in trapped_signals():
            signal.signal(number, leave_terminal)  # perhaps before the thread runs
        signal.set_wakeup_fd(writer.fileno())
        self.writer = writer  # keep a reference: garbage collection would close it
        threading.Thread(target=self._watch, args=(reader, leave_terminal), daemon=True).start()

    def _watch(self, reader: socket.socket, leave_terminal: Callable[[int], None]) -> None:
        hangup = getattr(signal, "SIGHUP", None)
        self.number = reader.recv(1)[0]
        leave_terminal(self.number)
        print_rank0("stopping and saving; press Ctrl-C again to quit immediately")
        second_signal = 0
        while second_signal in (0, hangup):
            second_signal = reader.recv(1)[0]
        os._exit(128 + second_signal)

    def watch(self, items: Iterable) -> Iterator:
        """The items, until a signal comes, which raises Stopped."""
        for item in items:
            if self.number:
                raise Stopped(self.number)
            yield item

    def sync(self, fraction: float = 0.0) -> float:
        """Wait for all processes, so that they stop together and see the same clock.

        `fraction` is the part of the time limit that is used, 0 to 1; rank 0's is returned. Raises
        Stopped if a signal came to one of the processes.
        """
        number = self.number
        if WORLD_SIZE > 1:
            both = torch.tensor([number, fraction if RANK == 0 else 0.0], dtype=torch.float64)
            dist.all_reduce(both, dist.ReduceOp.MAX)
            number, fraction = int(both[0]), both[1].item()
        if number == getattr(signal, "SIGHUP", None):  # another one must not end the saving
            signal.signal(number, signal.SIG_IGN)
        if number:
            raise Stopped(number)
        return fraction


def end_with_parent() -> Callable[[], None] | None:
    """What a child does before it becomes a script, so that SIGTERM ends it if this process dies.

    Linux can do that (prctl, PR_SET_PDEATHSIG); None elsewhere.
    """
    if sys.platform != "linux":
        return None
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()

    def set_signal() -> None:
        prctl(1, signal.SIGTERM)
        if os.getppid() != parent:  # it has died already
            os._exit(1)

    return set_signal


class ScriptRunner:
    """Runs one script at a time, and forwards signals to it: train.py saves and ends at them."""

    def __init__(self, bar):
        self.bar = bar  # shows the last line of the script
        self.process = None
        self.signal = 0  # the first one
        for number in trapped_signals():
            signal.signal(number, self.forward_signal)

    def forward_signal(self, number: int, _frame=None) -> None:
        self.signal = self.signal or number
        if self.process and os.name == "posix":  # on Windows the script gets Ctrl-C itself
            self.process.send_signal(number)

    def run(
        self,
        script: str,
        settings: dict,
        output: Path,
        *configs: str,
        is_enough: Callable[[str], bool] = lambda line: False,
    ) -> str | None:
        """Run a script, and append what it prints to `output`; its last line where it failed.

        If this process is killed, the script ends: on Linux by SIGTERM, elsewhere at its next
        write (broken pipe).

        Args:
            is_enough: is called with each line; where it is true, SIGTERM ends the script.
        """
        options = [f"--{name}={value}" for name, value in settings.items()]
        last, ended = "", False
        with open(output, "a", encoding="utf-8", buffering=1) as file:
            self.process = subprocess.Popen(
                [sys.executable, ROOT / script, *configs, *options],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
                errors="replace",
                start_new_session=True,  # else a terminal's Ctrl-C would reach it twice
                preexec_fn=end_with_parent(),
            )
            if self.signal:  # came while it started
                self.forward_signal(self.signal)
            for line in self.process.stdout or ():
                file.write(line)
                last = line.strip() or last
                self.bar.set_postfix_str(shorten(last.removeprefix("| "), 50, placeholder=" ..."))
                if not ended and is_enough(line):
                    ended = True  # a second signal would not let it save
                    self.process.terminate()
            status = self.process.wait()
        self.process = None
        if status < 0:
            return f"ended by signal {-status} after: {last}"
        return last.removeprefix(f"{script}: ") if status else None
