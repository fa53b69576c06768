"""Commands as real processes that need no seconds to start.

Importing torch and matplotlib takes longer than what most tests train. So one process imports them
and forks: each command is still a process of its own, with its own memory, signals, working
directory and exit status, in which the script and all modules of this repo are imported anew. What
it does not show is how a command starts on a bare Python, which conftest.command does, and what is
in a plot, which takes longer to draw than a small run to train; test_figures.py does.
"""

import contextlib
import multiprocessing
import os
import runpy
import socket
import sys
import threading
from multiprocessing.connection import Connection
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SERVER = multiprocessing.get_context("forkserver")
# Modules of others only; torch.optim and the plots import the last four when they are first used.
LAZY = ("torch._dynamo", "torch._dynamo.convert_frame")
PLOTS = ("matplotlib.figure", "matplotlib.backends.backend_agg")
SERVER.set_forkserver_preload(["torch", "tqdm", *LAZY, *PLOTS])


class ForkedCommand:
    """A running command; what is used of subprocess.Popen is here under the same names.

    `setup`, which must be a function of a module, is called in the process before the script is.
    """

    def __init__(self, script: str, *args, cwd=None, env=None, setup=None):
        ends = [os.pipe() for _ in range(2)]
        writers = [Connection(writer, readable=False) for _, writer in ends]
        environment = dict(os.environ if env is None else env)
        words = [str(ROOT / script), *map(str, args)]
        values = (words, cwd or os.getcwd(), environment, setup)
        self._process = SERVER.Process(target=_run, args=(*values, *writers), daemon=True)
        self._process.start()
        for writer in writers:
            writer.close()  # else reading would not end with the process
        options = {"encoding": "utf-8", "errors": "backslashreplace"}
        self.stdout, self.stderr = (open(reader, **options) for reader, _ in ends)
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit status; minus the signal where one killed it; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self._process.kill()

    def communicate(self, timeout: float = 900) -> tuple[str, str]:
        """The rest of the output when the process has ended; it is killed after the timeout."""
        errors = []
        reading = threading.Thread(target=lambda: errors.append(self.stderr.read()))
        reading.start()
        alarm = threading.Timer(timeout, self.kill)
        alarm.start()
        with self.stdout, self.stderr:
            out = self.stdout.read()
            reading.join()
        self._process.join()
        alarm.cancel()
        return out, errors[0]


def train_on_two(*args) -> None:
    """Train in two processes, which get from us what torchrun would tell them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    ranks = [shared | {"RANK": rank, "LOCAL_RANK": rank} for rank in "01"]
    processes = [ForkedCommand("train.py", *args, env=os.environ | rank) for rank in ranks]
    for process in processes:
        out, err = process.communicate(120)
        assert process.returncode == 0, out + err


def draw_blank_plots() -> None:
    """Let matplotlib save one pixel of each figure, and measure and draw nothing."""
    from matplotlib.figure import Figure
    from matplotlib.text import Text
    from matplotlib.transforms import Bbox

    save = Figure.savefig
    Figure.draw = lambda figure, renderer: None
    Figure.savefig = lambda figure, file, **options: save(Figure((1, 1), 1), file, **options)
    Text.get_window_extent = lambda text, *renderer, **options: Bbox.unit()


def _run(words: list[str], cwd, environment: dict, setup, stdout, stderr) -> None:
    """In the forked process: become `python script args`, the `words`."""
    os.setsid()  # a Ctrl-C of its own, as in a terminal
    multiprocessing.current_process().daemon = False  # it may have children
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    for number, end in ((1, stdout), (2, stderr)):
        os.dup2(end.fileno(), number)
        end.close()
    threads = environment.get("OMP_NUM_THREADS")  # OpenMP read it when torch was imported
    if threads:
        sys.modules["torch"].set_num_threads(int(threads))
    stdin = sys.stdin = open(os.devnull, encoding="utf-8")
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)
    sys.argv = words
    sys.path[:] = [str(ROOT), *(path for path in sys.path if path != str(ROOT))]
    draw_blank_plots()
    if setup:
        setup()
    with contextlib.closing(stdin):
        runpy.run_path(words[0], run_name="__main__")
