"""Rehearsal: in every step, next-token learning on documents and chats from before, beside the objective itself.

What preferences or rewards do not mention is what they make a model forget. InstructGPT mixes the gradient of pre-training
into PPO for that (PPO-ptx, arXiv 2203.02155, section 3.5); here it goes beside any method:

    gradient = gradient of the method + weight * gradient of the mean next-token loss of the rehearsed tokens
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from hanok.artefacts.shards import Shards
from hanok.errors import InputError
from hanok.models.decoder import Decoder
from hanok.training.align.config import AlignConfig
from hanok.training.config import TrainConfig
from hanok.training.objective import Batches, Loss, Objective
from hanok.training.objectives.next_token import next_token_loss
from hanok.training.packing import PackedSequence, pack
from hanok.training.sampler import Sampler


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """A sequence from before; the method's own examples are of other types."""

    sequence: PackedSequence

    @property
    def name(self) -> str:
        return f"rehearsed {self.sequence.name}"

    @property
    def num_tokens(self) -> int:
        return self.sequence.num_tokens


@dataclass(kw_only=True, slots=True)
class Rehearsing:
    """The objective `inner`, and next-token learning with this weight."""

    inner: Objective[Any]
    weight: float
    dtype: torch.dtype
    _tokens: int = 0

    @property
    def heads(self) -> Mapping[str, nn.Module]:
        return self.inner.heads

    def begin_step(self, decoder: Decoder, examples: Sequence[Any]) -> int:
        own, rehearsed = _parted(examples)
        # a step may have nothing but what is only read, as a long question
        self._tokens = max(1, sum(int(one.mask.sum()) for one in rehearsed))
        return self.inner.begin_step(decoder, own)

    def loss(self, decoder: Decoder, examples: Sequence[Any], *, units: int) -> Loss:
        """The total is the method's alone; what is rehearsed is logged as `rehearsal.loss`, nats a token."""
        own, rehearsed = _parted(examples)
        if not rehearsed:
            return self.inner.loss(decoder, own, units=units)
        found = self.inner.loss(decoder, own, units=units) if own else None
        learnt = next_token_loss(
            decoder, pack(rehearsed), step_tokens=self._tokens, dtype=self.dtype, mtp_weight=0.0
        )
        metrics = {
            "rehearsal.loss": (float(learnt.total), float(sum(int(one.mask.sum()) for one in rehearsed)))
        }
        objective = self.weight * learnt.objective
        if found is None:
            return Loss(objective, torch.zeros(()), metrics)
        return Loss(found.objective + objective, found.total, {**found.metrics, **metrics})

    def validate(self, decoder: Decoder, *, stopped: Callable[[], bool]) -> dict[str, float] | None:
        return self.inner.validate(decoder, stopped=stopped)


class WithRehearsal:
    """The steps of `inner`, each with so many tokens from before."""

    def __init__(self, inner: Batches[Any], rehearsed: Sampler) -> None:
        self._inner, self._rehearsed = inner, rehearsed

    def count(self, *, max_steps: int | None, max_tokens: int | None) -> tuple[int, int | None] | None:
        return self._inner.count(max_steps=max_steps, max_tokens=max_tokens)

    def draw_step(self) -> list[Any]:
        own = self._inner.draw_step()
        return [*own, *(Rehearsed(one) for one in self._rehearsed.draw_step())] if own else []

    def metrics(self) -> Mapping[str, float]:
        return self._inner.metrics()

    def state(self) -> dict[str, Any]:
        return {"own": self._inner.state(), "rehearsed": self._rehearsed.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._inner.restore(state["own"])
        self._rehearsed.restore(state["rehearsed"])


def sampler_of(config: AlignConfig, shards: Shards) -> Sampler:
    """From the training splits, `config.rehearsal_chats` of the tokens out of chats, where there are both chats and documents.

    Raises:
        InputError: no training split.
    """
    training = TrainConfig(
        max_steps=1, mixture=mixture_of(config, shards),
        max_seq_len=min(config.max_seq_len, config.rehearsal_tokens), tokens_per_step=config.rehearsal_tokens,
        micro_batch_tokens=config.rehearsal_tokens, seed=config.seed,
    )  # fmt: skip
    return Sampler(training, shards.splits)


def mixture_of(config: AlignConfig, shards: Shards) -> dict[str, float]:
    """Shares of the training splits. Raises InputError: there are none."""
    names = sorted(name for name in shards.splits if name.endswith("-train"))
    chats = [name for name in names if name.startswith("chat")]
    texts = [name for name in names if name not in chats]
    if not names:
        raise InputError(
            f"{shards.path} has no training split to rehearse ({', '.join(sorted(shards.splits))})",
            remedy="give the shards that the model was trained on",
        )
    share = config.rehearsal_chats if chats and texts else float(bool(chats))
    weights = {name: share / len(chats) for name in chats} | {
        name: (1 - share) / len(texts) for name in texts
    }
    return {name: weight for name, weight in weights.items() if weight}


def _parted(examples: Sequence[Any]) -> tuple[list[Any], list[PackedSequence]]:
    return (
        [one for one in examples if not isinstance(one, Rehearsed)],
        [one.sequence for one in examples if isinstance(one, Rehearsed)],
    )
