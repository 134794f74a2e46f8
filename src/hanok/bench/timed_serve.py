"""`hanok serve` under a stop-watch: `python -m hanok.bench.timed_serve FILE serve ...` writes, when the server ends, an object a
request: its id, and the moments of the monotonic clock at which the engine had it and at which the engine gave its first token.

The engine is told to note them; the service is the one that is served otherwise.
"""

from __future__ import annotations

import json
import runpy
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hanok.engine.api import Delta, Request
from hanok.engine.generation import Generation
from hanok.engine.generator import LocalEngine

MOMENTS: dict[str, list[float]] = {}
_new, _put_in = LocalEngine._new, LocalEngine._put_in


def timed_new(
    engine: LocalEngine, request: Request, listen: Callable[[Delta], None], fail: Callable[[Exception], None]
) -> Generation:
    """Notes the first delta; from the second on nothing is in between."""

    def first(delta: Delta) -> None:
        MOMENTS[request.id].append(time.monotonic())
        generation.listener = listen
        listen(delta)

    generation = _new(engine, request, first, fail)
    return generation


def timed_put_in(engine: LocalEngine, generations: Sequence[Generation]) -> None:
    now = time.monotonic()
    MOMENTS.update((one.request.id, [now]) for one in generations)
    _put_in(engine, generations)


def read(file: Path) -> dict[str, tuple[float, float]]:
    """Of the requests that had a first token."""
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return {name: (moments[0], moments[1]) for name, moments in found.items() if len(moments) == 2}


if __name__ == "__main__":
    LocalEngine._new, LocalEngine._put_in = timed_new, timed_put_in  # type: ignore[method-assign]
    file = Path(sys.argv.pop(1))
    try:
        runpy.run_module("hanok", run_name="__main__")
    finally:
        file.write_text(json.dumps(MOMENTS), encoding="utf-8")
