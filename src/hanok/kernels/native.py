"""The native extension, or the reason why it is not there."""

from __future__ import annotations

import functools
import logging
from types import ModuleType

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
    return _native, "built"


def native() -> ModuleType | None:
    """The extension; None (and one log line) where it is not built."""
    return _load()[0]


def native_available() -> bool:
    return native() is not None


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
