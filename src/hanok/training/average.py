"""Averages of weights: a moving one (EMA), with the bias of its start corrected by a growing decay; and one of two models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from hanok.errors import CheckpointError
from hanok.training.team import fill, local


class WeightAverage:
    """average = d * average + (1 - d) * weights, with d = min(decay, (1 + updates) / (10 + updates))."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], *, decay: float) -> None:
        self._decay = decay
        self._parameters = dict(parameters)
        self._average = {name: p.detach().clone() for name, p in parameters.items()}

    @torch.no_grad()
    def update(self, updates: int) -> None:
        decay = min(self._decay, (1 + updates) / (10 + updates))
        averages = [local(tensor) for tensor in self._average.values()]
        weights = [local(p.detach()) for p in self._parameters.values()]
        torch._foreach_lerp_(averages, weights, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model carries the average inside, its own weights again after."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def state(self) -> dict[str, Tensor]:
        return {f"average.{name}": tensor for name, tensor in self._average.items()}

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        for name, live in self._average.items():
            if f"average.{name}" not in tensors:
                raise CheckpointError(f"the checkpoint holds no average of {name}")
            fill(live, tensors[f"average.{name}"])

    @torch.no_grad()
    def _swap(self) -> None:
        for name, parameter in self._parameters.items():
            kept = parameter.detach().clone()
            parameter.copy_(self._average[name])
            self._average[name].copy_(kept)


@torch.no_grad()
def blend_(model: nn.Module, start: nn.Module, share: float) -> None:
    """model = start + share (model - start), in place, of models of one shape (Wortsman et al. 2022, arXiv 2109.01903)."""
    for mine, other in zip(model.parameters(), start.parameters(), strict=True):
        mine.lerp_(other.to(mine), 1 - share)
