"""The machine: what choosing a device does to the process, and what is compiled for it."""

import os
import subprocess
import sys

import pytest
import torch
from conftest import ROOT

from configurator import UserError
from model import GPT, GPTConfig
from tinystories import device

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


@pytest.mark.parametrize("name", ["cpu:00", "cuda:01", "cuda:256", "cuda:99999999999", "gpu"])
def test_a_device_that_torch_has_no_name_for_is_named(name):
    with pytest.raises(UserError, match=f"device={name} is not"):
        device.select_hardware(name)


def test_training_and_evaluation_use_what_was_compiled_at_the_beginning():
    hardware = device.select_hardware("cpu", "float32")
    model = GPT(GPTConfig(64, 8, n_layer=1, n_head=1, n_embd=8))
    compiled, line = device.compile_model(model, True, hardware, (2, 8))
    assert line == "compile: yes"
    x, y = torch.randint(64, (2, 2, 8)).unbind()
    with torch._dynamo.config.patch(error_on_recompile=True):
        compiled(x, y).backward()
        with torch.no_grad():
            compiled.eval()(x, y)


def test_what_torchrun_says_counts_only_for_several_processes():
    program = "from tinystories.processes import *; print(RANK, WORLD_SIZE, LOCAL_RANK)"
    for given, expected in (
        ({"RANK": "1"}, "0 1 None"),
        ({"RANK": "1", "WORLD_SIZE": "2"}, "1 2 1"),
        ({"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}, "5 8 1"),
    ):
        line = [sys.executable, "-c", program]
        done = subprocess.run(line, cwd=ROOT, env=os.environ | given, capture_output=True)
        assert done.stdout.decode().strip() == expected, done.stderr
