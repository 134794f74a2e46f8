"""Several tokens of every running answer in one native call, where nothing that happens between them is Python's to decide: a
small model's step takes no longer than what Python does around it.

Tokens are those of single steps, to the bit. A call is short, since what arrives or is cancelled meanwhile waits for its end.
"""

from __future__ import annotations

from collections.abc import Sequence

from hanok.engine.blocks import BLOCK
from hanok.engine.learned import LearnedLaws
from hanok.engine.native import Drawn, NativeDecoder, NativeDraws
from hanok.engine.running import Part, reserve
from hanok.engine.sampler import uniform

MOST = 8  # steps of a call
SECONDS = 1e-3  # of a call, about: at most so many as fit in, but one


class Strides:
    """Args:
    vocabulary: ids from here on are never drawn. laws: of the model's decoding heads, if it has any.
    """

    def __init__(self, model: NativeDecoder, *, vocabulary: int, laws: LearnedLaws | None) -> None:
        self._model, self._vocabulary = model, vocabulary
        self._heads = None if laws is None else laws.weights
        self._rows, self._seconds = 0, 0.0  # of the last call; of its steps

    def steps(self, parts: Sequence[Part]) -> int:
        """How many steps the parts can take in one call; 0: some of them cannot go by themselves."""
        if not all(map(_goes_by_itself, parts)):
            return 0
        steps = self._short_enough(len(parts))
        for part in parts:
            generation = part.running.generation
            steps = min(steps, generation.limit - len(generation.ids))
        if steps > 1:
            steps = 1 + min(self._room(part, steps - 1, len(parts)) for part in parts)
        return steps

    def draw(self, parts: Sequence[Part], steps: int) -> list[list[Drawn]]:
        """The next tokens of each part: `steps` of them, or fewer where one ends its answer."""
        generations = [part.running.generation for part in parts]
        scales = [one.request.params.temperature_scale if one.learned else 0.0 for one in generations]
        points: list[float] = []
        for step in range(steps):
            for one in generations:
                random = one.request.params.temperature > 0.0
                points.append(
                    uniform(one.seed, one.request.sample_index, len(one.ids) + step) if random else 0.0
                )
        draws = NativeDraws(
            [one.memory for one in generations if one.memory is not None], points, scales,
            self._heads if any(scales) else None, self._vocabulary,
        )  # fmt: skip
        return self._model.decode(
            [one.ids[-1] for one in generations], [part.start for part in parts],
            [part.running.blocks for part in parts], [part.running.slot for part in parts],
            [part.running.adapter for part in parts], draws,
        )  # fmt: skip

    def took(self, rows: int, seconds: float) -> None:
        """A step of so many rows took so long, with what Python did for it."""
        self._rows, self._seconds = rows, seconds

    def _short_enough(self, rows: int) -> int:
        """One where it is not known how long steps of so many rows take."""
        if rows != self._rows:
            return 1
        return MOST if self._seconds * MOST <= SECONDS else max(1, int(SECONDS / self._seconds))

    def _room(self, part: Part, more: int, parts: int) -> int:
        """Of steps behind the first those that there are blocks for; none past a border of blocks where states may be kept."""
        pool = self._model.pool
        if self._model.recurrent:
            more = min(more, BLOCK - 1 - part.end % BLOCK)
        if pool.free < parts:  # the last ones are for those who need them now
            return min(more, len(part.running.blocks) * BLOCK - part.end)
        return reserve(pool, part.running, part.end, more)


def _goes_by_itself(part: Part) -> bool:
    """Whether it is an answer under way that reads its last token, and nothing else."""
    generation = part.running.generation
    return (
        part.answers
        and part.count == 1
        and not part.draft
        and not part.saves
        and bool(generation.ids)
        and generation.goes_by_itself
    )
