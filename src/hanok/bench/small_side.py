"""Our engine's `generate` on a model directory, one stream: `python -m hanok.bench.small_side DIR JSON`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from hanok.engine import sampler
from hanok.engine.api import Request, SamplingParams
from hanok.engine.generator import LocalEngine
from hanok.engine.native import NativeDecoder
from hanok.kernels.native import native


class Clock:
    """Sums the seconds that are spent in native calls, as Python sees them."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any) -> Any:
            start = time.perf_counter()
            found = call(*arguments)
            self.seconds += time.perf_counter() - start
            return found

        return timed


class TimedRunner:
    """In the place of a decoder's runner, and its only holder: its threads read the weights, so it must go before them."""

    def __init__(self, runner: Any, clock: Clock) -> None:
        self._runner, self.step = runner, clock.around(runner.step)
        self.decode = clock.around(runner.decode)

    @property
    def crew(self) -> Any:
        return self._runner.crew


def measure(directory: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Seconds of each answer, and how many of them were spent in native code: the step, and the choice of its token.

    Args:
        settings: threads, kind, prompt, tokens, answers.
    """
    engine = LocalEngine(
        directory, threads=settings["threads"], weights=settings["kind"], max_running=1, speculation="off"
    )
    assert isinstance(engine._paged, NativeDecoder)
    clock, module = Clock(), native()
    engine._paged._runner = TimedRunner(engine._paged._runner, clock)
    sampling = SimpleNamespace(sample=clock.around(module.sample), SamplerMemory=module.SamplerMemory)
    sampler.__dict__["native"] = lambda: sampling
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
