"""Experts as codes: each with the moments of the rows that the router sent to it, and how many those were.

An expert that met few rows is rounded to the nearest: moments of so few say little about what it will read.

N rows of calibration, E experts, I inner width, D model width, K inputs of a map.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from hanok.compression.calibrate import Rows, batches
from hanok.compression.gptq import gptq
from hanok.compression.grid import Codes
from hanok.compression.hessian import hessian_of
from hanok.compression.rtn import rtn
from hanok.compression.settings import Plan
from hanok.models.decoder import Block
from hanok.models.mlp import Experts, MixtureOfExperts

ROWS_FOR_EACH_INPUT = 1  # an expert with fewer rows than its maps have inputs is rounded to the nearest


@dataclass(slots=True)
class Routed:
    """What a block's experts read: rows, and the experts that each was sent to [N, per token]."""

    rows_ND: list[Tensor] = field(default_factory=list)
    chosen: list[Tensor] = field(default_factory=list)

    def of(self, expert: int) -> Tensor:
        parts = zip(self.rows_ND, self.chosen, strict=True)
        return torch.cat([rows[(to == expert).any(1)] for rows, to in parts])


@torch.no_grad()
def routed_rows(block: Block, inputs: Rows, lengths: Sequence[int]) -> Routed:
    """Run a block over all calibration rows and watch its router."""
    assert isinstance(block.mlp, MixtureOfExperts)
    found = Routed()

    def see(_: nn.Module, args: tuple[Tensor, Tensor, Tensor]) -> None:
        found.rows_ND.append(args[0].float())
        found.chosen.append(args[1])

    handle = block.mlp.experts.register_forward_pre_hook(see)
    try:
        for rows, ragged in batches(lengths):
            block(inputs[rows], ragged, None)
    finally:
        handle.remove()
    return found


@torch.no_grad()
def compress_experts(
    plan: Plan, where: str, experts: Experts, routed: Routed | None
) -> tuple[dict[str, list[Codes]], list[int]]:
    """(codes of each expert by the name of the stacked parameter, rows that each met); the experts are left with new numbers.

    Args:
        where: the name of `experts` in the model. routed: None for methods that look at weights alone.
    """
    bits, count = plan.bits(where), len(experts.gate_up_proj)
    found: dict[str, list[Codes]] = {"gate_up_proj": [], "down_proj": []}
    counts = []
    stacks: dict[str, list[Tensor]] = {"gate_up_proj": [], "down_proj": []}
    for expert in range(count):
        rows_ND = None if routed is None else routed.of(expert)
        counts.append(0 if rows_ND is None else len(rows_ND))
        codes = _codes(plan, bits, experts.gate_up_proj[expert], rows_ND)
        _keep(codes, "gate_up_proj", found, stacks)
        inner_NI = None
        if rows_ND is not None and len(rows_ND):
            hidden = rows_ND @ codes.values().T
            if experts.config.biases:
                hidden = hidden + experts.gate_up_proj_bias[expert].float()
            inner_NI = experts._gate(hidden)
        _keep(_codes(plan, bits, experts.down_proj[expert], inner_NI), "down_proj", found, stacks)
    for name, values in stacks.items():
        experts.register_parameter(name, nn.Parameter(torch.stack(values), requires_grad=False))
    return found, counts


def _keep(codes: Codes, name: str, found: dict[str, list[Codes]], stacks: dict[str, list[Tensor]]) -> None:
    found[name].append(codes)
    stacks[name].append(codes.values())


def _codes(plan: Plan, bits: int, weight_NK: Tensor, rows_NK: Tensor | None) -> Codes:
    config, group = plan.config, plan.config.group_of(weight_NK.shape[1])
    enough = rows_NK is not None and len(rows_NK) >= ROWS_FOR_EACH_INPUT * weight_NK.shape[1]
    if rows_NK is None or not enough or plan.method not in ("gptq", "awq"):
        return rtn(weight_NK, bits, group, symmetric=not config.zeros)
    return gptq(
        weight_NK, hessian_of(rows_NK), bits, group, symmetric=not config.zeros, damp=config.damp,
        act_order=config.act_order,
    )  # fmt: skip
