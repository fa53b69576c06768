"""Work on all cores: a map that has only a few items in memory at a time."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import nullcontext


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
