"""Which device, which precision, compiled or not: each choice comes with its reason."""

import contextlib
import ctypes
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch

from configurator import UserError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

# Dense 16-bit matrix products in TFLOP/s, from the makers' data sheets (their figures "with
# sparsity" are twice as large). The first name that stands in the device's name counts.
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
    """A device and the precision it computes in; `reasons` is one line for each choice."""

    device: torch.device
    dtype: torch.dtype
    reasons: tuple[str, ...]

    def autocast(self) -> contextlib.AbstractContextManager:
        """Matrix products in `dtype`, sums and weights in float32."""
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def peak_flops(self) -> float | None:
        """The most FLOP/s the device can do in `dtype`, or None where that is not known."""
        if self.device.type != "cuda" or self.dtype == torch.float32:
            return None
        name = torch.cuda.get_device_name(self.device)
        if re.search(r"Laptop|NVL|Max-Q|4090 D", name):  # the same name, another chip
            return None
        return next(
            (1e12 * tf for key, tf in PEAK_TFLOPS.items() if re.search(rf"\b{key}\b", name)), None
        )


def choose(device: str = "auto", dtype: str = "auto") -> Hardware:
    """The device and precision asked for, or the best there are.

    Raises:
        UserError: a device that is not here.
    """
    place, why_device = _choose_device(device)
    precision, why_dtype = _choose_dtype(place, dtype)
    if place.type == "cpu":
        keep_freed_memory()
    if place.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32 where float32 remains
        if place.index is not None:
            torch.cuda.set_device(place)
    name = str(precision).removeprefix("torch.")
    return Hardware(
        place, precision, (f"device: {place} ({why_device})", f"precision: {name} ({why_dtype})")
    )


def keep_freed_memory() -> None:
    """Have the C library keep the memory that tensors leave, for those of the next step.

    It would give much of it back to the system, and get it again as new pages, each of which has
    to be zeroed first.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if hasattr(libc, "mallopt"):  # glibc; the numbers are its malloc.h's
        libc.mallopt(-3, 32 * 2**20)  # M_MMAP_THRESHOLD: only larger pieces are given back, ...
        libc.mallopt(-1, -1)  # M_TRIM_THRESHOLD: ... and never the end of the heap


def compiled(module: torch.nn.Module, wanted: bool | str, hardware: Hardware, warm_up: Callable):
    """The module under torch.compile where that is wanted and works, else as it is.

    Args:
        wanted: True, False or "auto", which compiles on CUDA only.
        warm_up: called with the compiled module to compile it here and now.

    Returns:
        the callable to train with, and one line that says what it is.
    """
    if wanted is False or (wanted == "auto" and hardware.device.type != "cuda"):
        why = "as asked" if wanted is False else "pays on CUDA; --compile=True tries it here"
        return module, f"compile: no ({why})"
    try:
        faster = torch.compile(module)
        warm_up(faster)
    except Exception as error:  # a missing compiler, an old GPU, Windows: each its own exception
        if is_out_of_memory(error):
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:100]
        torch._dynamo.reset()
        return module, f"compile: no (it failed here: {reason})"
    return faster, "compile: yes"


def is_out_of_memory(error: Exception) -> bool:
    """Whether an exception means that the device or the host has no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    words = ("can't allocate memory", "out of memory")  # the CPU's allocator, Apple's
    return any(word in str(error) for word in words)


def _choose_device(wanted: str) -> tuple[torch.device, str]:
    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if wanted == "auto":
        device = torch.device(next((kind for kind, present in here.items() if present), "cpu"))
    else:
        try:
            device = torch.device(wanted)
        except RuntimeError:
            device = None
        if device is None or device.type not in ("cuda", "mps", "cpu"):
            raise UserError(f"device={wanted} is none of auto, cuda, cuda:0, mps, cpu")
        if not here.get(device.type, True):
            raise UserError(f"device={wanted} is not here; --device=auto takes what there is")
    if device.type == "cuda":
        if (device.index or 0) >= torch.cuda.device_count():
            raise UserError(f"device={wanted} is not here: {torch.cuda.device_count()} GPUs are")
        return device, torch.cuda.get_device_name(device)
    if device.type == "mps":
        return device, "Apple GPU"
    threads = f"{torch.get_num_threads()} threads"
    return device, threads if wanted == "cpu" else f"no GPU found, {threads}"


def _choose_dtype(device: torch.device, wanted: str) -> tuple[torch.dtype, str]:
    if wanted != "auto":
        return DTYPES[wanted], "as asked"
    if device.type == "cuda":
        if torch.cuda.get_device_capability(device) >= (8, 0):
            return torch.bfloat16, "the GPU multiplies it natively"
        return torch.float16, "with loss scaling: the GPU has no native bfloat16"
    if device.type == "cpu":
        # Emulated bfloat16 is slower than float32, so only CPUs with instructions for it count.
        features = getattr(torch.cpu, "get_capabilities", dict)()  # not in every torch
        native = [name for name in ("amx_bf16", "avx512_bf16") if features.get(name)]
        if native:
            return torch.bfloat16, f"the CPU multiplies it natively: {native[0]}"
        return torch.float32, "the CPU has no native bfloat16"
    return torch.float32, "the safe choice on this device"
