"""Threads for work that waits for another server (a classifier behind an address), so that neither the event loop nor the threads
of everything else wait with it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

MOST = 64  # at once; who comes later waits for one of them
T = TypeVar("T")


class Waiting:
    """Makes its threads when they are needed."""

    def __init__(self, most: int = MOST) -> None:
        self._pool = ThreadPoolExecutor(most, thread_name_prefix="guard-waits")

    async def run(self, work: Callable[..., T], *args: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, *args)
