"""Our engine's `generate` on a model directory, one stream: `python -m hanok.bench.small_side DIR JSON`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hanok.engine.api import Request, SamplingParams
from hanok.engine.generator import LocalEngine


class Clocked:
    """A runner whose steps are timed, from inside Python."""

    def __init__(self, runner: Any) -> None:
        self._runner = runner
        self.seconds = 0.0

    def step(self, *arguments: Any) -> Any:
        start = time.perf_counter()
        found = self._runner.step(*arguments)
        self.seconds += time.perf_counter() - start
        return found


def measure(directory: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Seconds of each answer, and how many of them were spent in the native step.

    Args:
        settings: threads, kind, prompt, tokens, answers.
    """
    engine = LocalEngine(
        directory, threads=settings["threads"], weights=settings["kind"], max_running=1, speculation="off"
    )
    assert engine._native is not None
    clock = Clocked(engine._native._runner)
    engine._native._runner = clock
    result: dict[str, Any] = {"answers": [], "native": []}
    for number in range(settings["answers"]):
        first = 300 + number  # another first token: nothing of an earlier prompt is found
        request = Request(
            id=str(number), prompt_ids=[first, *range(301, 300 + settings["prompt"])],
            params=SamplingParams(temperature=0.0, max_tokens=settings["tokens"], ignore_eos=True),
        )  # fmt: skip
        clock.seconds, start = 0.0, time.perf_counter()
        (completion,) = engine.generate([request])
        result["answers"].append(time.perf_counter() - start)
        result["native"].append(clock.seconds)
        assert len(completion.ids) == settings["tokens"]
    engine.close()
    return result


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]), json.loads(sys.argv[2]))))
