"""Work on all cores: processes, and a map that has only a few items in memory at a time."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, nullcontext

from configurator import UserError


@contextmanager
def process_pool(count: int, begin: Callable = id, known: object = None) -> Iterator[Executor]:
    """Some processes, in each of which `begin(known)` is called first; for the main thread only.

    Raises UserError where one of them is killed.
    """
    spawn = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(count, spawn, _begin, (begin, known)) as pool:
            usual = signal.signal(signal.SIGINT, signal.SIG_IGN)  # which they inherit, while ...
            try:
                for _ in range(count):  # ... each task starts one: the main process handles Ctrl-C
                    pool.submit(id, None)
            finally:
                signal.signal(signal.SIGINT, usual)
            try:
                yield pool
            except BaseException:  # do not wait for what they are doing
                for process in multiprocessing.active_children():
                    process.terminate()
                raise
    except BrokenProcessPool:
        raise UserError("a process was killed, probably for lack of memory") from None


def _begin(begin: Callable, known: object) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # on Windows nothing is inherited
    if parent := multiprocessing.parent_process():  # if that is killed, end with it
        threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
    begin(known)


def parallel_map(
    function: Callable, items: Iterable, processes: Executor | None = None
) -> Iterator:
    """Like map, on all cores.

    In threads, which are as good as processes for tiktoken: it works outside Python's global lock.
    Or in `processes`.
    """
    cores = os.cpu_count() or 1
    with nullcontext(processes) if processes else ThreadPoolExecutor(cores) as pool:
        waiting = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > 2 * cores:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def batches(stories: Iterable[str], characters: int = 500_000) -> Iterator[list[str]]:
    """The stories in lists of about that many characters."""
    batch, size = [], 0
    for story in stories:
        batch.append(story)
        size += len(story)
        if size >= characters:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
