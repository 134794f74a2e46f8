"""What the loop runs without knowing it: where examples come from, and how (model, examples) become a loss.

A step draws examples, splits them into micro-batches that fit into memory, and adds up their losses; each is the
micro-batch's part of the step's mean, so the split does not change the update.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from torch import Tensor, nn

from hanok.models.decoder import Decoder


class Example(Protocol):
    """What a step is made of. `name` says where it came from; the log's fingerprint of the data is made of names."""

    @property
    def name(self) -> str: ...

    @property
    def num_tokens(self) -> int:
        """Of the model's input: what memory and micro-batches are counted in."""
        ...


E = TypeVar("E", bound=Example)
E_in = TypeVar("E_in", bound=Example, contravariant=True)


@dataclass(frozen=True, slots=True)
class Loss:
    """Of one micro-batch.

    Args:
        objective: what to differentiate: the micro-batch's part of the step's mean.
        total: the sum over its units (tokens, pairs), detached, for the log.
        metrics: name -> (sum, count); the log shows the sums of a step over the counts.
    """

    objective: Tensor
    total: Tensor
    metrics: Mapping[str, tuple[float, float]] = field(default_factory=dict)


class Objective(Protocol[E_in]):
    """Maps (model, examples) to a loss and metrics."""

    @property
    def heads(self) -> Mapping[str, nn.Module]:
        """Modules that are trained beside the decoder and kept in the checkpoints."""
        ...

    def begin_step(self, decoder: Decoder, examples: Sequence[E_in]) -> int:
        """Measure what concerns the step as a whole, before its micro-batches.

        Returns:
            what the step's loss is a mean over: learnt tokens, pairs, sequences.
        """
        ...

    def loss(self, decoder: Decoder, examples: Sequence[E_in], *, units: int) -> Loss:
        """Loss of a micro-batch; `units` are those of the whole step."""
        ...

    def validate(self, decoder: Decoder, *, stopped: Callable[[], bool]) -> dict[str, float] | None:
        """Metrics named `validation....`; empty if there is nothing to validate on, None if it was stopped."""
        ...


class Batches(Protocol[E]):
    """A source of steps whose place can be kept and taken up again."""

    def count(self, *, max_steps: int | None, max_tokens: int | None) -> tuple[int, int | None] | None:
        """Steps and, if they are known, tokens until a limit is reached or the data are through; None if nothing ends."""
        ...

    def draw_step(self) -> list[E]:
        """The examples of the next update; empty when the data are through."""
        ...

    def metrics(self) -> Mapping[str, float]:
        """About the step that was drawn last."""
        ...

    def state(self) -> dict[str, Any]: ...

    def restore(self, state: Mapping[str, Any]) -> None: ...


class Tally:
    """Sums of a step's metrics over its micro-batches."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[float, float]] = {}

    def add(self, metrics: Mapping[str, tuple[float, float]]) -> None:
        for name, (total, count) in metrics.items():
            before, counted = self._sums.get(name, (0.0, 0.0))
            self._sums[name] = before + total, counted + count

    def means(self, over_team: Callable[[float], float]) -> dict[str, float]:
        """Names without a count are left out."""
        sums = {
            name: (over_team(total), over_team(count)) for name, (total, count) in sorted(self._sums.items())
        }
        return {name: total / count for name, (total, count) in sums.items() if count}
