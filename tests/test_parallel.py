"""Work in other processes: what becomes of them."""

import os
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT

from configurator import UserError
from tinystories.parallel import batches, parallel_map, process_pool


def test_results_come_in_order_and_few_items_are_in_memory():
    taken = []
    squares = parallel_map(lambda n: n * n, (taken.append(n) or n for n in range(1000)))
    assert next(squares) == 0
    assert len(taken) <= 2 * (os.cpu_count() or 1) + 2
    assert list(squares) == [n * n for n in range(1, 1000)]


def test_a_batch_ends_after_so_many_characters():
    assert list(batches(["ab", "c", "def", "g"], 3)) == [["ab", "c"], ["def"], ["g"]]


def test_a_process_that_is_killed_is_told_in_one_line():
    with pytest.raises(UserError, match="a process was killed"), process_pool(1) as pool:
        pool.submit(os.kill, pool.submit(os.getpid).result(), signal.SIGKILL).result()


PROGRAM = """
import time
from tinystories.parallel import process_pool

if __name__ == "__main__":
    with process_pool(2) as pool:
        running = [pool.submit(time.sleep, 60) for _ in range(2)]
        print(*pool._processes, flush=True)
        time.sleep(60)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "seconds"), [(signal.SIGKILL, 1.5), (signal.SIGINT, 0.0), (signal.SIGINT, 0.15)]
)
def test_no_process_stays_when_the_main_one_ends(tmp_path, number, seconds):
    (tmp_path / "program.py").write_text(PROGRAM)
    line = [sys.executable, tmp_path / "program.py"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    options = {"text": True, "start_new_session": True}
    process = subprocess.Popen(
        line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options
    )
    assert len(process.stdout.readline().split()) == 2
    time.sleep(seconds)  # 1.5 until they have begun
    if number == signal.SIGINT:  # as a terminal sends it
        os.killpg(process.pid, number)
    else:
        process.kill()
    _, said = process.communicate(timeout=30)  # which waits for theirs to close the pipes
    assert said.count("Traceback") == (number == signal.SIGINT)  # the main process' own
