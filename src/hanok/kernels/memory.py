"""Giving memory back to the system: once weights have been taken over into their packed form, or nobody needs them. And keeping
what each call would ask for anew."""

from __future__ import annotations

import contextlib
import gc
import mmap
import sys
from collections.abc import Iterable
from ctypes import CDLL, c_int, c_size_t, c_void_p
from pathlib import Path

import torch
from torch import Tensor

_DONTNEED, _PAGE = 4, 4096


def give_back(tensors: Iterable[Tensor]) -> None:
    """Drop the pages of tensors that are mapped from a file and were never written to: they are read again when somebody asks.
    What was freed and kept for reuse goes back to the system too. Does nothing elsewhere than on Linux."""
    maps = Path("/proc/self/maps")
    if not sys.platform.startswith("linux") or not maps.is_file():
        return
    library = CDLL(None)
    library.madvise.argtypes = [c_void_p, c_size_t, c_int]
    files = []
    for line in maps.read_text().splitlines():
        span, *_, name = line.split(maxsplit=5)
        if name.endswith(".safetensors"):
            files.append(tuple(int(number, 16) for number in span.split("-")))
    for tensor in tensors:
        start, end = tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes
        if any(first <= start and end <= last for first, last in files):
            start, end = -(-start // _PAGE) * _PAGE, end // _PAGE * _PAGE
            if end > start:
                library.madvise(start, end - start, _DONTNEED)
    trim()


class ResultRoom:
    """Memory for a large result that each call needs anew. It is taken again once nobody holds the last result or a part of it:
    fresh pages would cost each call a fault for every 4 KiB. What is larger than `most` bytes is not kept."""

    def __init__(self, most: int = 64 << 20) -> None:
        self._most = most
        self._pages: mmap.mmap | None = None

    def floats(self, rows: int, columns: int) -> Tensor:
        """float32 [rows, columns], not initialised."""
        count = rows * columns
        if not 0 < count * torch.float32.itemsize <= self._most:
            return torch.empty(rows, columns)
        bytes_ = count * torch.float32.itemsize
        held = sys.getrefcount(self._pages) > 2  # by a tensor's memory, beside this object and the call
        if self._pages is None or held or len(self._pages) < bytes_:
            self._pages = mmap.mmap(-1, bytes_, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        return torch.frombuffer(self._pages, dtype=torch.float32, count=count).view(rows, columns)


def release_memory() -> None:
    """Give back what nobody refers to any more: objects in circles, and free pages that the allocator keeps for later."""
    gc.collect()
    trim()


def trim() -> None:
    """Give back the free pages that the allocators keep for later, of a GPU too."""
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    if sys.platform.startswith("linux"):
        with contextlib.suppress(AttributeError, OSError):  # another C library than glibc
            CDLL(None).malloc_trim(0)
