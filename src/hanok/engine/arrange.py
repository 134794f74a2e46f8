"""Weights of a decoder's layers in the order in which the native kernels read them.

Codes that a file has stay codes: whatever is done to rows of a matrix is done to rows of codes, scales and zero points.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from hanok.engine.coverage import LANES
from hanok.kernels.formats import GROUP, Quantised, Stored, stacked_codes
from hanok.kernels.packed import Kind, PackedMatrix, RowsInPlace, pack, pack_quantised, pack_rows, rows_of
from hanok.models.coded import as_quantised, stored_codes
from hanok.models.gqa import GroupedQueryAttention
from hanok.models.linear import Linear, Norm, RMSNorm

_BITS = {"int8": 8, "int5": 5, "int4": 4}


def norm_weight(norm: Norm) -> Tensor:
    offset = norm.offset if isinstance(norm, RMSNorm) else 0.0
    return norm.weight.float() + offset if offset else norm.weight


def bias_of(linear: Linear) -> Tensor:
    return linear.weight.new_zeros(linear.weight.shape[0]) if linear.bias is None else linear.bias


def present(tensor: Tensor | None) -> Tensor:
    assert tensor is not None
    return tensor


def gate_last(mixer: GroupedQueryAttention, parts: Sequence[Tensor]) -> Tensor:
    """[q | k | v | gate]; the query's map makes [query, gate] of each head in turn."""
    queries, keys, values = parts
    query, gate = queries.unflatten(0, (mixer.heads, 2, mixer.width)).unbind(1)
    return torch.cat([query.flatten(0, 1), keys, values, gate.flatten(0, 1)])


def image(
    weight: Tensor | Quantised | RowsInPlace, kind: Kind, bias_N: Tensor | None, group: int = GROUP
) -> PackedMatrix:
    """Codes that a file has in this kind's width go in as they are, numbers in groups of `group`."""
    if isinstance(weight, Tensor):
        if kind == "bf16" or stored_codes(weight) is None:
            return pack(weight.detach(), kind, bias_N=bias_N, group=group)
        weight = stacked([weight], kind, group)
    if isinstance(weight, RowsInPlace):
        return pack_rows(weight, bias_N=bias_N)
    assert isinstance(weight, Quantised)
    return pack_quantised(weight.changed(lambda part: _filled_up(part, LANES)), bias_N=bias_N)


def kind_of(weights: Sequence[Tensor], kind: Kind) -> Kind:
    """Of maps that are packed together in a model of `kind`: codes of a file stay as they are in a model of four or five bits."""
    if kind not in ("int4", "int5"):
        return kind
    stored = [stored_codes(weight) for weight in weights]
    if any(codes is not None and codes.bits == 8 for codes in stored):
        return "int8"
    return "int4" if all(codes is not None and codes.bits == 4 for codes in stored) else kind


def stacked(weights: Sequence[Tensor], kind: Kind, group: int = GROUP) -> Tensor | Quantised | RowsInPlace:
    """One below the other. Rows are quantised for themselves, so codes may stand beside what has none; narrower codes than the
    kind's are widened. Args: group: of numbers; codes that all rows have keep theirs."""
    if kind == "bf16":
        return torch.cat(list(weights))
    bits, stored = _BITS[kind], [stored_codes(weight) for weight in weights]
    rows = None
    at_once = group == GROUP or None not in stored
    if at_once and not any(codes is not None and codes.bits < bits for codes in stored):
        rows = rows_of([_as_it_is(*one, bits) for one in zip(weights, stored, strict=True)], kind)
    if rows is not None:
        return rows
    return stacked_codes([as_quantised(weight, bits, group) for weight in weights], bits)


def expert_rows(
    stack_ENK: Tensor, kind: Kind, change: Callable[[Tensor], Tensor], group: int = GROUP
) -> Callable[[int], Tensor | Quantised | RowsInPlace]:
    """Of each expert of a stack, by its number, its rows as `change` leaves them; codes of at most the kind's width stay."""
    stored = None if kind == "bf16" else stored_codes(stack_ENK)
    if stored is None or stored.bits > _BITS[kind]:
        return lambda expert: change(stack_ENK[expert])

    def of(expert: int) -> Quantised | RowsInPlace:
        one = stored.of(expert)
        rows = rows_of([one], kind) if one.bits == _BITS[kind] else None
        if rows is not None:
            return rows.arranged(change)
        return replace(one.quantised(group), bits=_BITS[kind]).changed(change)

    return of


def _as_it_is(weight: Tensor, stored: Stored | None, bits: int) -> Tensor | Stored:
    return stored if stored is not None and stored.bits == bits else weight.detach()


def side_by_side(
    gate: Tensor, up: Tensor, kind: Kind, group: int = GROUP
) -> Tensor | Quantised | RowsInPlace:
    """16 rows of the gate, 16 rows up, and so on; both padded to whole blocks."""
    both = stacked([gate, up], kind, group)

    def braided(part: Tensor) -> Tensor:
        return in_turns(*part.chunk(2))

    if isinstance(both, RowsInPlace):
        return both.arranged(braided)
    return both.changed(braided) if isinstance(both, Quantised) else braided(both.detach())


def _filled_up(part: Tensor, rows: int) -> Tensor:
    """Zero rows to a multiple of `rows`."""
    return torch.nn.functional.pad(part, (0, 0, 0, -part.shape[0] % rows))


def in_turns(gate: Tensor, up: Tensor) -> Tensor:
    """16 rows of the gate, 16 rows up, and so on; both padded to whole blocks."""
    blocks = [padded(part).unflatten(0, (-1, LANES)) for part in (gate, up)]
    return torch.stack(blocks, dim=1).flatten(0, 2)


def padded(rows: Tensor) -> Tensor:
    """With rows of zeros up to a multiple of 32, the columns of the map behind it."""
    return torch.nn.functional.pad(rows, (0, 0) * (rows.dim() - 1) + (0, -rows.shape[0] % (2 * LANES)))
