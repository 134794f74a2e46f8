"""Any objective on rounded weights (quantisation-aware training): forward, the model is the one that codes will make of it;
backward, rounding is the identity (straight-through, arXiv 1308.3432).

N outputs, K inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hanok.kernels.formats import GROUP, quantise
from hanok.models.coded import FLOAT_MAPS
from hanok.models.decoder import Decoder
from hanok.models.linear import Linear
from hanok.training.objective import Loss, Objective

Rounding = Callable[[str, Tensor], Tensor | None]
"""From a weight's name and numbers to the numbers that it will have; None: it stays."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rounded:
    """Losses and validation of `inner` on the rounded model. Adapters are rounded with the weight that they add to."""

    inner: Objective[Any]
    rounding: Rounding

    @property
    def heads(self) -> Mapping[str, nn.Module]:
        return self.inner.heads

    def begin_step(self, decoder: Decoder, examples: Sequence[Any]) -> int:
        return self.inner.begin_step(decoder, examples)

    def loss(self, decoder: Decoder, examples: Sequence[Any], *, units: int) -> Loss:
        with rounded_weights(decoder, self.rounding):
            return self.inner.loss(decoder, examples, units=units)

    def validate(self, decoder: Decoder, *, stopped: Callable[[], bool]) -> dict[str, float] | None:
        with rounded_weights(decoder, self.rounding):
            return self.inner.validate(decoder, stopped=stopped)


def as_the_engine(bits: int) -> Rounding:
    """Maps of the layers, embedding and head to 4 or 8 bits in groups of 32."""

    def rounding(name: str, weight_NK: Tensor) -> Tensor | None:
        if name.startswith("mtp.") or name.rpartition(".weight")[0].rpartition(".")[2] in FLOAT_MAPS:
            return None
        filled = F.pad(weight_NK, (0, -weight_NK.shape[1] % GROUP))
        return quantise(filled, bits).dequantised()[:, : weight_NK.shape[1]]

    return rounding


@contextmanager
def rounded_weights(decoder: Decoder, rounding: Rounding) -> Iterator[None]:
    """While it is open, linear maps and the embedding have rounded weights whose gradients go to their parameters."""
    changed: list[tuple[nn.Module, nn.Parameter]] = []
    silenced = []
    try:
        for name, module in decoder.named_modules():
            if not isinstance(module, Linear | nn.Embedding):
                continue
            weight = module._parameters["weight"]
            assert weight is not None
            whole = module.effective_weight() if isinstance(module, Linear) else weight
            with torch.no_grad():
                values = rounding(f"{name}.weight", whole.detach().float())
            if values is None:
                continue
            if isinstance(module, Linear):
                adapters = module.active_adapters()
                silenced += adapters
                for adapter in adapters:
                    adapter.active = False
            changed.append((module, weight))
            # not a parameter, so that the graph leads through it
            module._parameters["weight"] = whole + (values.to(whole.dtype) - whole).detach()  # pyright: ignore[reportArgumentType]
        yield
    finally:
        for module, weight in changed:
            module._parameters["weight"] = weight
        for adapter in silenced:
            adapter.active = True
