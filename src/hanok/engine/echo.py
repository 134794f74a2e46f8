"""Log-probabilities of a prompt's own tokens, collected while it is read.

n rows of a piece, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

ECHO_ROWS = 64  # logits of a prompt at a time: what bounds the memory for them


class PromptEcho:
    """Told `take` of every piece of a prompt. What is read twice (after a preemption) overwrites itself.

    Args:
        alternatives: reported beside each prompt token.
    """

    def __init__(self, prompt_ids: Sequence[int], alternatives: int) -> None:
        self._prompt_ids, self._alternatives = prompt_ids, alternatives
        self._logprobs: list[float | None] = [None] * len(prompt_ids)
        self._tops: list[dict[int, float] | None] = [None] * len(prompt_ids)

    def rows(self, start: int, end: int) -> range:
        """The positions from `start` to `end` whose logits say how probable the prompt's next token was."""
        return range(start, min(end, len(self._prompt_ids) - 1))

    def take(self, start: int, logits_nV: Tensor) -> None:
        """Float32 logits behind the positions from `start` on."""
        if not len(logits_nV):
            return
        targets = list(self._prompt_ids[start + 1 : start + 1 + len(logits_nV)])
        logprobs_nV = logits_nV.log_softmax(-1)
        chosen = (
            logprobs_nV.gather(1, torch.tensor(targets, device=logits_nV.device)[:, None]).squeeze(1).tolist()
        )
        best = logprobs_nV.topk(min(self._alternatives, logprobs_nV.shape[1]))
        places = zip(chosen, best.indices.tolist(), best.values.tolist(), strict=True)
        for place, (logprob, ids, values) in enumerate(places, start + 1):
            self._logprobs[place] = logprob
            self._tops[place] = dict(zip(ids, values, strict=True))

    @property
    def complete(self) -> bool:
        return None not in self._logprobs[1:]

    @property
    def logprobs(self) -> tuple[float | None, ...]:
        return tuple(self._logprobs)

    @property
    def tops(self) -> tuple[dict[int, float] | None, ...]:
        return tuple(self._tops)
