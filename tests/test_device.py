"""The machine: what choosing a device does to the process, and what is compiled for it."""

import subprocess
import sys
from functools import partial

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


def test_training_and_evaluation_use_what_was_compiled_at_the_beginning(monkeypatch):
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))  # it is quick
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
    code = """
import importlib, os
os.environ["RANK"] = "1"
from tinystories import processes as p
print(p.RANK, p.WORLD_SIZE, p.LOCAL_RANK)
os.environ["WORLD_SIZE"] = "2"
importlib.reload(p)
print(p.RANK, p.WORLD_SIZE, p.LOCAL_RANK)
os.environ["LOCAL_RANK"] = "0"
importlib.reload(p)
print(p.RANK, p.WORLD_SIZE, p.LOCAL_RANK)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["0 1 None", "1 2 1", "1 2 0"], done.stderr
