"""Initial weights, all in one place.

| parameter                                  | start                                                          |
|--------------------------------------------|----------------------------------------------------------------|
| embedding, head, table of positions        | normal(0, initializer_range)                                   |
| matrices that read the residual stream     | normal(0, 1 / sqrt(inputs))                                    |
| matrices that write to it (o_proj, down)   | zero: every block starts as the identity                       |
| norms                                      | one (zero where the weight is an offset from one)              |
| biases, attention sinks                    | zero                                                           |
| short convolutions                         | uniform(-1/sqrt(W), 1/sqrt(W)), the last tap + 1               |
| KDA, GDN A_log                             | log of uniform(1, 16); zero in the bounded form                |
| KDA, GDN dt_bias                           | inverse softplus of dt, log-uniform in [1e-3, 1e-1], >= 1e-4   |
| router                                     | normal(0, initializer_range)                                   |
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hanok.models.config import ModelConfig

if TYPE_CHECKING:
    from hanok.models.decoder import Decoder


@torch.no_grad()
def initialise(decoder: Decoder, config: ModelConfig, generator: torch.Generator) -> None:
    """Fill every parameter, in the order of their names."""
    for name, parameter in sorted(decoder.named_parameters()):
        _fill(name, parameter, config, generator)


def _fill(name: str, p: Tensor, config: ModelConfig, generator: torch.Generator) -> None:
    if name.endswith("norm.weight"):
        return  # as the norms are made
    if name.endswith(("bias", "sinks")) and not name.endswith("dt_bias"):
        p.zero_()
    elif name.endswith("A_log"):
        p.zero_() if config.kda_gate == "lower_bound" else p.uniform_(1, 16, generator=generator).log_()
    elif name.endswith("dt_bias"):
        dt = p.uniform_(math.log(1e-3), math.log(1e-1), generator=generator).exp_().clamp_(min=1e-4)
        p.copy_(dt + torch.log(-torch.expm1(-dt)))
    elif name.endswith("conv1d.weight"):
        bound = p.shape[-1] ** -0.5
        p.uniform_(-bound, bound, generator=generator)
        p[..., -1] += 1.0
    elif name.endswith(("o_proj.weight", "out_proj.weight", "down_proj.weight", "experts.down_proj")):
        p.zero_()
    elif name.startswith(("embed_tokens", "embed_positions", "lm_head")) or name.endswith("mlp.gate.weight"):
        p.normal_(0.0, config.initializer_range, generator=generator)
    else:
        p.normal_(0.0, p.shape[-1] ** -0.5, generator=generator)
