"""The native extension, or the reason why it is not there."""

from __future__ import annotations

import functools
import logging
import sys
from ctypes import CDLL, c_void_p, cast
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

log = logging.getLogger("hanok")


@functools.cache
def _load() -> tuple[ModuleType | None, str]:
    try:
        from hanok.kernels import _native
    except ImportError as error:
        why = f"the native kernels are not built ({error})"
        log.warning("%s: the PyTorch reference runs, several times slower", why)
        return None, why
    _share_threads(_native)
    return _native, "built"


def _share_threads(module: ModuleType) -> None:
    """Let the kernels' loops run on the OpenMP threads of PyTorch: two sets would fight for the cores."""
    maps = Path("/proc/self/maps")
    if not sys.platform.startswith("linux") or not maps.is_file():
        return
    libraries = {line.split()[-1] for line in maps.read_text().splitlines() if "libgomp" in line}
    if len(libraries) == 1:  # of several, it is unknown which one PyTorch uses
        library = CDLL(libraries.pop())
        module.share_threads(cast(library.GOMP_parallel, c_void_p).value)


def native() -> Any:
    """The extension, untyped; None (and one log line) where it is not built."""
    return _load()[0]


def native_available() -> bool:
    return native() is not None


def runs_native(x: Tensor) -> bool:
    """Whether the kernels take this tensor: on the CPU, float32 or bfloat16, and not empty."""
    return (
        x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.bfloat16)
        and x.numel() > 0
        and native_available()
    )


def reason() -> str:
    return _load()[1]


def memory_bandwidth(seconds: float) -> float:
    """Bytes read per second with all threads, in GB/s; the best of what fits into `seconds`."""
    module = native()
    assert module is not None
    return float(module.memory_bandwidth(seconds))


def set_num_threads(threads: int) -> None:
    """Threads of the native kernels; results do not depend on it."""
    if (module := native()) is not None:
        module.set_num_threads(threads)


def address(x: Tensor | None) -> int:
    """0 for None; the tensor must be contiguous and outlive the call."""
    if x is None:
        return 0
    assert x.is_contiguous()
    return x.data_ptr()
