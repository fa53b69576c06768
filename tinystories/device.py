"""Which device, which precision, compiled or not: each choice comes with its reason."""

import contextlib
import ctypes
import os
import platform
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from configurator import UserError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

# Dense 16-bit matrix multiplication in TFLOP/s, from the makers' data sheets (their figures "with
# sparsity" are twice as large). The first name that occurs in the device's name counts.
PEAK_TFLOPS = {
    "B200": 2250.0,
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100": 989.0,
    "A100": 312.0,
    "L40S": 362.0,
    "A6000": 154.8,
    "RTX 5090": 209.5,
    "RTX 4090": 165.2,
    "RTX 3090": 71.0,
    "V100": 125.0,
    "T4": 65.0,
}


@dataclass(frozen=True)
class Hardware:
    """A device and the precision it computes in; `reasons` has one line per choice."""

    device: torch.device
    dtype: torch.dtype
    reasons: tuple[str, ...]

    def autocast(self) -> contextlib.AbstractContextManager:
        """Matrix multiplications in `dtype`; sums and weights stay in float32."""
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def peak_flops(self) -> float | None:
        """The peak FLOP/s of the device in `dtype`, or None where that is not known."""
        if self.device.type != "cuda" or self.dtype == torch.float32:
            return None
        name = torch.cuda.get_device_name(self.device)
        if re.search(r"Laptop|NVL|Max-Q|MIG|3090 Ti|[45]090 D", name):  # another chip of the name
            return None
        return next(
            (1e12 * tf for key, tf in PEAK_TFLOPS.items() if re.search(rf"\b{key}\b", name)), None
        )


def select_hardware(
    device: str = "auto", dtype: str = "auto", local_rank: int | None = None
) -> Hardware:
    """The requested device and precision, or the best available.

    Args:
        local_rank: the GPU to take where several processes share a machine.

    Raises:
        UserError: the device is not available.
    """
    if local_rank is not None and device in ("auto", "cuda") and torch.cuda.is_available():
        device = f"cuda:{local_rank}"
    selected, why_device = _select_device(device)
    precision, why_dtype = _select_dtype(selected, dtype)
    if selected.type == "cpu":
        tune_malloc()
    if selected.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32 where float32 remains
        if selected.index is not None:
            torch.cuda.set_device(selected)
    name = str(precision).removeprefix("torch.")
    reasons = (f"device: {selected} ({why_device})", f"precision: {name} ({why_dtype})")
    return Hardware(selected, precision, reasons)


def describe_machine(hardware: Hardware) -> dict[str, str]:
    """What the speed of a program depends on, in words."""
    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, IndexError):  # on Linux this file has the full name
        cpu = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text("utf-8"))[0]
    versions = f"python {platform.python_version()}, torch {torch.__version__}"
    return {
        "processor": f"{cpu}, {os.cpu_count()} cores, {_threads()}",
        **dict(reason.split(": ", 1) for reason in hardware.reasons),
        "versions": f"{platform.platform()}, {versions}",
    }


def tune_malloc() -> None:
    """Make glibc's malloc keep freed memory for the next step instead of returning it to the OS.

    Memory that is returned comes back as new pages, each of which the OS has to zero first:
    docs/speed.md has the numbers.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if hasattr(libc, "mallopt"):  # glibc; the numbers are its malloc.h's
        libc.mallopt(-3, 32 * 2**20)  # M_MMAP_THRESHOLD: only larger blocks are returned, ...
        libc.mallopt(-1, -1)  # M_TRIM_THRESHOLD: ... and never the end of the heap


def compile_model(
    model: torch.nn.Module, wanted: bool | str, hardware: Hardware, batch_shape: tuple[int, int]
) -> tuple[torch.nn.Module, str]:
    """The model under torch.compile where that is wanted and works, else as it is.

    Args:
        wanted: True, False or "auto", which compiles on CUDA only.
        batch_shape: (B, T) of the batches; the model is compiled for it here and now.

    Returns:
        the module to train with, and one line that says what it is.
    """
    if wanted is False or (wanted == "auto" and hardware.device.type != "cuda"):
        why = "as requested" if wanted is False else "only worth it on CUDA; try --compile=True"
        return model, f"compile: no ({why})"
    # Two tensors: what is compiled for one in both places is compiled again for two.
    x, y = (torch.zeros(batch_shape, dtype=torch.long, device=hardware.device) for _ in "xy")
    try:
        compiled: Any = torch.compile(model)
        with hardware.autocast():  # as in training, so that it is compiled now ...
            loss = compiled(x, y)
        loss.backward()
        with hardware.autocast(), torch.no_grad():  # ... and as in evaluation
            compiled.eval()(x, y)
        compiled.train().zero_grad(set_to_none=True)
    except Exception as error:  # a missing compiler, an old GPU, Windows: each its own exception
        if is_out_of_memory(error):
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:100]
        torch._dynamo.reset()
        model.train().zero_grad(set_to_none=True)
        return model, f"compile: no (compilation failed: {reason})"
    return compiled, "compile: yes"


def to_device(ids: np.ndarray, device: torch.device) -> torch.Tensor:
    """The ids on the device; to CUDA they are copied while the host continues."""
    tensor = torch.from_numpy(ids)
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


@contextlib.contextmanager
def out_of_memory(hint: str) -> Iterator[None]:
    """Turn running out of memory into a UserError that gives the hint."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            raise UserError(f"out of memory: {hint}") from None
        raise


def is_out_of_memory(error: Exception) -> bool:
    """Whether an exception means that the device or the host has no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    # Of the CPU's allocator, of Apple's, and of cuBLAS.
    words = ("can't allocate memory", "out of memory", "STATUS_ALLOC_FAILED")
    return any(word in str(error) for word in words)


def _select_device(wanted: str) -> tuple[torch.device, str]:
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    best = next((kind for kind, present in available.items() if present), "cpu")
    name = best if wanted == "auto" else wanted
    if not re.fullmatch(r"(cuda|mps|cpu)(:(0|[1-9]\d?))?", name):
        raise UserError(f"device={wanted} is not one of auto, cuda, cuda:0, mps, cpu")
    device = torch.device(name)
    missing = not available.get(device.type, True)
    if missing or (device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()):
        raise UserError(f"device={wanted} is not available; --device=auto takes what there is")
    if device.type == "cuda":
        return device, torch.cuda.get_device_name(device)
    if device.type == "mps":
        return device, "Apple GPU"
    return device, _threads() if wanted == "cpu" else f"no GPU found, {_threads()}"


def _threads() -> str:
    count = torch.get_num_threads()
    return "1 thread" if count == 1 else f"{count} threads"


def _select_dtype(device: torch.device, wanted: str) -> tuple[torch.dtype, str]:
    # Emulated 16-bit types are slower than float32, so only CPUs with instructions for them count.
    features = getattr(torch.cpu, "get_capabilities", dict)()  # not in every torch
    native = {
        "bfloat16": [name for name in ("amx_bf16", "avx512_bf16") if features.get(name)],
        "float16": [name for name in ("amx_fp16", "avx512_fp16") if features.get(name)],
    }
    if wanted != "auto":
        slow = device.type == "cpu" and not native.get(wanted, True)
        remark = ", but this CPU only emulates it: float32 is several times as fast"
        return DTYPES[wanted], f"as requested{remark if slow else ''}"
    if device.type == "cuda":
        if torch.cuda.get_device_capability(device) >= (8, 0):  # Ampere and newer
            return torch.bfloat16, "the GPU multiplies it natively"
        return torch.float16, "with loss scaling: the GPU has no native bfloat16"
    if device.type == "cpu":
        if native["bfloat16"]:
            return torch.bfloat16, f"the CPU multiplies it natively: {native['bfloat16'][0]}"
        return torch.float32, "the CPU has no native bfloat16"
    return torch.float32, "16-bit types are not tested on this device"
