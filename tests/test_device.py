"""The machine: what choosing a device does to the process."""

import subprocess
import sys

import pytest
from conftest import ROOT

COUNT_FRESH_PAGES = """
import resource
import torch
from tinystories import device

device.select_hardware("cpu")
for turn in range(30):
    if turn == 20:  # settled by then
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(6_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems' C libraries have no mallopt")
def test_a_freed_tensor_leaves_its_memory_to_the_next():
    done = subprocess.run(
        [sys.executable, "-c", COUNT_FRESH_PAGES], cwd=ROOT, capture_output=True, check=True
    )
    assert int(done.stdout) < 1000  # of 6,000 pages in each of ten tensors
