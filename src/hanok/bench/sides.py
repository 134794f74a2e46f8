"""Programs that take turns: each runs in a process of its own, so that no two share the cores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch

from hanok.bench.decode import process
from hanok.reporting import log

T = TypeVar("T")
OURS = "ours"
_NOTHING = {"contexts": [], "steps": 0, "streams": [], "prompts": [], "repeats": 1}


@dataclass(frozen=True, slots=True)
class Side:
    """A module of `hanok.bench` that measures a model, its settings, and what its environment has besides ours."""

    label: str
    module: str
    model: Path
    settings: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)

    def measure(self, **more: Any) -> dict[str, Any]:
        """What it prints with these settings besides its own."""
        settings = {"threads": torch.get_num_threads(), **_NOTHING, **more, **self.settings}
        return process(self.module, self.model, settings, self.environment)


def take_turns(
    what: str, sides: Sequence[Side], rounds: int, measure: Callable[[Side], T]
) -> dict[str, list[T]]:
    """By label, one result a round."""
    found: dict[str, list[T]] = {side.label: [] for side in sides}
    for number in range(rounds):
        log.info("%s, round %d of %d", what, number + 1, rounds)
        for side in sides:
            found[side.label].append(measure(side))
    return found


def fastest(what: str, sides: Sequence[Side], rate: Callable[[Side], float]) -> Side:
    """Of a look at each."""
    rates = [rate(side) for side in sides]
    best = sides[max(range(len(sides)), key=rates.__getitem__)]
    if len(sides) > 1:
        log.info("%s: %s is the fastest of %d", what, best.label, len(sides))
    return best
