"""`hanok serve` under a stop-watch: `python -m hanok.bench.timed_serve FILE serve ...` writes, when the server ends, an object a
request: its id, and the moments of the monotonic clock at which the engine had it and at which the engine gave its first token.

The engine is told to note them; the service is the one that is served otherwise.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hanok.server.app as app
from hanok.cli import main
from hanok.engine.api import Delta, Request
from hanok.engine.generation import Generation
from hanok.engine.generator import LocalEngine

MOMENTS: dict[str, list[float]] = {}


class TimedEngine(LocalEngine):
    """Notes both moments of each request, and is itself from its second delta on."""

    def _new(
        self, request: Request, listen: Callable[[Delta], None], fail: Callable[[Exception], None]
    ) -> Generation:
        def first(delta: Delta) -> None:
            MOMENTS[request.id].append(time.monotonic())
            generation.listener = listen
            listen(delta)

        generation = super()._new(request, first, fail)
        return generation

    def _put_in(self, generations: Sequence[Generation]) -> None:
        now = time.monotonic()
        MOMENTS.update((one.request.id, [now]) for one in generations)
        super()._put_in(generations)


def read(file: Path) -> dict[str, tuple[float, float]]:
    """Of the requests that had a first token."""
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return {name: (moments[0], moments[1]) for name, moments in found.items() if len(moments) == 2}


if __name__ == "__main__":
    app.LocalEngine = TimedEngine
    file = Path(sys.argv.pop(1))
    try:
        main()
    finally:
        file.write_text(json.dumps(MOMENTS), encoding="utf-8")
