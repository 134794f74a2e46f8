"""Merging models of one shape: linear, SLERP, TIES (arXiv 2306.01708), DARE (arXiv 2311.03099).

Tensor by tensor in float32, so that only one tensor of each model is in memory at a time besides the mapped files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from hanok.errors import CheckpointError, ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class MergeConfig:
    """Args:
    method: "linear" weighs the weights; "slerp" goes along the arc between two; "ties" and "dare" add up what each model
        changed of a common base.
    weights: one a model, of any sum (empty: equal). SLERP goes the second one's share of the way.
    density: part of each change that is kept: its largest (ties), or drawn at random and scaled up (dare).
    strength: factor on the summed change (ties, dare).
    seed: of what is drawn.
    """

    method: Literal["linear", "slerp", "ties", "dare"] = "linear"
    weights: tuple[float, ...] = ()
    density: float = 0.5
    strength: float = 1.0
    seed: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.density <= 1:
            raise ConfigError(f"density = {self.density}", remedy="it must lie in (0, 1]")
        if self.weights and sum(self.weights) <= 0:
            raise ConfigError(
                f"weights {self.weights} add up to {sum(self.weights)}", remedy="give positive weights"
            )


def merge(
    config: MergeConfig, models: Sequence[Mapping[str, Tensor]], base: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Tensors under the names of the first model and in its types.

    Raises:
        ConfigError: numbers of models or weights that the method does not take, or no base where it needs one.
        CheckpointError: models of other names or shapes.
    """
    _check(config, models, base)
    weights = config.weights or (1.0,) * len(models)
    generator = torch.Generator().manual_seed(config.seed)
    merged = {}
    for name, first in models[0].items():
        parts = [model[name].float() for model in models]
        start = None if base is None else base[name].float()
        merged[name] = _merge_one(config, parts, weights, start, generator).to(first.dtype)
    return merged


def _merge_one(
    config: MergeConfig,
    parts: list[Tensor],
    weights: Sequence[float],
    base: Tensor | None,
    generator: torch.Generator,
) -> Tensor:
    if config.method == "linear":
        return linear(parts, weights)
    if config.method == "slerp":
        return slerp(parts[0], parts[1], weights[1] / sum(weights))
    assert base is not None
    changes = [part - base for part in parts]
    if config.method == "ties":
        return base + config.strength * ties(changes, weights, config.density)
    return base + config.strength * dare(changes, weights, config.density, generator)


def linear(parts: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """The weighted mean."""
    return torch.stack([w * p for w, p in zip(weights, parts, strict=True)]).sum(0) / sum(weights)


def slerp(a: Tensor, b: Tensor, t: float) -> Tensor:
    """Along the great circle between the directions of a and b; straight where they are nearly parallel, or zero."""
    cosine = torch.nn.functional.cosine_similarity(a.flatten().double(), b.flatten().double(), dim=0)
    if cosine.abs() > 0.9995 or not a.any() or not b.any():
        return a + t * (b - a)
    angle = cosine.clamp(-1, 1).arccos()
    share_a, share_b = ((1 - t) * angle).sin() / angle.sin(), (t * angle).sin() / angle.sin()
    return (share_a * a + share_b * b).float()


def ties(changes: Sequence[Tensor], weights: Sequence[float], density: float) -> Tensor:
    """Trim each change to its largest part, elect a sign for each number, average those that agree."""
    kept = torch.stack([w * _largest(change, density) for w, change in zip(weights, changes, strict=True)])
    sign = kept.sum(0).sign()
    agree = (kept.sign() == sign) & (kept != 0)
    shares = torch.tensor(list(weights)).view(-1, *[1] * changes[0].dim()) * agree
    return (kept * agree).sum(0) / shares.sum(0).clamp(min=torch.finfo(torch.float32).tiny)


def dare(
    changes: Sequence[Tensor], weights: Sequence[float], density: float, generator: torch.Generator
) -> Tensor:
    """Keep each number of a change with probability `density`, divided by it; then the weighted mean."""
    kept = [c * (torch.rand(c.shape, generator=generator) < density) / density for c in changes]
    return linear(kept, weights)


def _largest(change: Tensor, density: float) -> Tensor:
    count = round(density * change.numel())
    if count >= change.numel():
        return change
    kept = torch.zeros_like(change).flatten()
    index = change.abs().flatten().topk(count).indices
    kept[index] = change.flatten()[index]
    return kept.view_as(change)


def _check(
    config: MergeConfig, models: Sequence[Mapping[str, Tensor]], base: Mapping[str, Tensor] | None
) -> None:
    if len(models) < 2 or (config.method == "slerp" and len(models) != 2):
        raise ConfigError(
            f"{config.method} of {len(models)} models", remedy="slerp takes two, the others two or more"
        )
    if config.weights and len(config.weights) != len(models):
        raise ConfigError(
            f"{len(config.weights)} weights for {len(models)} models", remedy="give one for each"
        )
    if config.method in ("ties", "dare") and base is None:
        raise ConfigError(
            f"{config.method} needs the model that all were tuned from", remedy="name it with --base"
        )
    others = [*models[1:], *([] if base is None else [base])]
    for other in others:
        for name, tensor in models[0].items():
            if name not in other or other[name].shape != tensor.shape:
                found = tuple(other[name].shape) if name in other else "nothing"
                raise CheckpointError(
                    f"{name} is {tuple(tensor.shape)} in one model and {found} in another",
                    remedy="only models of one shape can be merged",
                )
