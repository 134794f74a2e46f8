"""Which maps of a quantised directory keep their codes, and why the others are dequantised.

Kept is what `hanok.kernels.formats` holds without loss: codes of 4 or 8 bits, with zero points or without; groups of a multiple
of 32 neighbouring inputs, or one scale a row; scales that float16 has. Names and letters as in `packed.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from hanok.kernels.formats import GROUP, Stored, pack_words
from hanok.models.checkpoint.packed import columns, groups_of, parts_of, rows, unshuffled, width_of
from hanok.models.config import ModelConfig
from hanok.models.families.family import ExpertList, Family, Transposed
from hanok.reporting import log


def stored_bits(settings: Mapping[str, Any]) -> int | None:
    """The width, 4 or 8, that a directory's `quantization_config` says its codes have, if they may be kept; where it has both,
    4: wider maps stay wide."""
    method = settings.get("quant_method")
    if method == "compressed-tensors":
        groups = [group.get("weights") or {} for group in (settings.get("config_groups") or {}).values()]
        widths = {group.get("num_bits") for group in groups}
        kept = all(group.get("type", "int") == "int" and not group.get("actorder") for group in groups)
        size = min((group.get("group_size") or -1 for group in groups), default=-1)
        bits = min(widths, key=lambda width: width or 0) if widths and widths <= {4, 8} else None
    else:
        bits, size = settings.get("bits"), settings.get("group_size", -1)
        kept = not settings.get("desc_act")
    return bits if kept and bits in (4, 8) and (size < 0 or size % GROUP == 0) else None


def split_stored(
    tensors: Mapping[str, Tensor], settings: Mapping[str, Any], family: Family
) -> tuple[dict[str, Tensor], dict[str, Stored]]:
    """(what is left to dequantise, or plain; maps that keep their codes, by the names of their weights in the file)."""
    method = settings["quant_method"]
    key, read = _key(settings), _READERS.get(method)
    if key is None or read is None:
        return dict(tensors), {}
    left, groups = parts_of(tensors, key, _PARTS)
    kept: dict[str, Stored] = {}
    refused: dict[str, list[str]] = {}
    for base, parts in groups.items():
        found = _why_not(family, base) or _checked(read(parts, settings))
        if isinstance(found, Stored):
            kept[base] = found
        else:
            refused.setdefault(found, []).append(base)
    _keep_whole_stacks(kept, refused, tensors)
    for base in {base for bases in refused.values() for base in bases}:
        left |= {f"{base}.{name}": tensor for name, tensor in groups[base].items()}
    for why, bases in refused.items():
        log.info(
            "%d maps (%s) do not keep their codes and are dequantised: %s", len(bases), _kinds(bases), why
        )
    if kept:
        log.info("%d maps keep the codes of their file", len(kept))
    return left, {f"{base}.weight": one for base, one in kept.items()}


def _keep_whole_stacks(
    kept: dict[str, Stored], refused: dict[str, list[str]], tensors: Mapping[str, Tensor]
) -> None:
    """Experts become one matrix: where some of a layer keep no codes, or codes of another kind, all are refused; where some have
    zero points, all are told theirs."""
    out = {base for bases in refused.values() for base in bases}
    plain = {name.removesuffix(".weight") for name in tensors if name.endswith(".weight")} - kept.keys()
    spoilt = {_stack_of(base) for base in out | plain} - {None}
    for stack in {_stack_of(base) for base in kept} - {None}:
        bases = [base for base in kept if _stack_of(base) == stack]
        experts = [kept[base] for base in bases]
        kinds = {(one.cols, one.bits, one.scales_NG.shape[1]) for one in experts}
        if stack in spoilt or len(kinds) > len({one.cols for one in experts}):
            for base in bases:
                del kept[base]
            refused.setdefault("experts of one layer have codes of one kind, or none", []).extend(bases)
        elif any(one.zeros_NG is not None for one in experts):
            kept |= {base: _with_zeros(kept[base]) for base in bases}


def _stack_of(base: str) -> str | None:
    before, experts, _ = base.partition(".experts.")
    return before if experts else None


def _with_zeros(one: Stored) -> Stored:
    return one if one.zeros_NG is not None else replace(one, zeros_NG=torch.zeros_like(one.scales_NG))


def incoming_stored(kept: Mapping[str, Stored], family: Family, config: ModelConfig) -> dict[str, Stored]:
    """Under our names: whatever a family does to rows of a matrix, it does to rows of codes, scales and zero points."""

    def ours(part: Callable[[Stored], Tensor | None]) -> dict[str, Tensor]:
        parts = {name: part(one) for name, one in kept.items()}
        return family.incoming({name: one for name, one in parts.items() if one is not None}, config)

    codes, scales = ours(lambda one: one.codes), ours(lambda one: one.scales_NG)
    zeros = ours(lambda one: one.zeros_NG)
    cols = ours(lambda one: torch.full((len(one.codes), 1), one.cols))
    widths = ours(lambda one: torch.full((len(one.codes), 1), one.bits))
    return {
        name: Stored(
            codes[name],
            scales[name],
            int(widths[name].flatten()[0]),
            int(cols[name].flatten()[0]),
            zeros.get(name),
        )
        for name in codes
    }


_PARTS = (
    "qzeros", "scales", "g_idx", "weight", "weight_scale", "weight_zero_point", "weight_shape", "weight_g_idx", "input_scale",
)  # fmt: skip


def _key(settings: Mapping[str, Any]) -> str | None:
    if settings["quant_method"] != "compressed-tensors":
        return "qweight"
    layout = settings.get("format")
    if layout == "pack-quantized":
        return "weight_packed"
    return "weight_scale" if layout in ("int-quantized", "naive-quantized") else None


def _why_not(family: Family, base: str) -> str:
    """What the family does to a map that is not done to codes; nothing: ""."""
    if any(isinstance(layout, Transposed) for layout in family.layouts):
        return "the family turns its matrices"
    listed = any(isinstance(layout, ExpertList) for layout in family.layouts)
    return "" if listed or _stack_of(base) is None else "the family's experts are not stacked from a list"


def _gptq(parts: Mapping[str, Tensor], settings: Mapping[str, Any]) -> Stored | str:
    bits, words = settings.get("bits"), parts["qweight"]
    if bits not in (4, 8):
        return f"{bits} bits"
    inputs = words.shape[0] * 32 // bits
    offset = 0 if settings.get("checkpoint_format") == "gptq_v2" else 1
    zeros_GO = columns(parts["qzeros"], bits) + offset
    if "g_idx" in parts and not _in_order(parts["g_idx"], inputs, len(parts["scales"])):
        return "groups in the order of activations"
    return Stored(words.t(), parts["scales"].t(), bits, inputs, _around_zero(zeros_GO.t(), bits))


def _awq(parts: Mapping[str, Tensor], settings: Mapping[str, Any]) -> Stored | str:
    bits = settings.get("bits")
    if bits != 4:
        return f"{bits} bits"
    codes_IO, zeros_GO = (unshuffled(columns(parts[name], bits)) for name in ("qweight", "qzeros"))
    words = pack_words((codes_IO - 8).t().to(torch.int8), bits)
    return Stored(words, parts["scales"].t(), bits, len(codes_IO), _around_zero(zeros_GO.t(), bits))


def _compressed(parts: Mapping[str, Tensor], settings: Mapping[str, Any]) -> Stored | str:
    scales = parts["weight_scale"]
    zeros = parts.get("weight_zero_point")
    if "weight_packed" not in parts:
        codes = parts["weight"]
        if codes.dtype != torch.int8:
            return f"codes of {str(codes.dtype).removeprefix('torch.')}"
        scales = scales.reshape(-1, 1) if scales.dim() < 2 else scales
        if zeros is not None:
            zeros = zeros.reshape(scales.shape).expand(len(codes), -1) if bool(zeros.any()) else None
        return Stored(codes, scales.expand(len(codes), -1), 8, codes.shape[1], zeros)
    outputs, inputs = (int(n) for n in parts["weight_shape"])
    bits = width_of(parts["weight_packed"], inputs, settings)
    if bits not in (4, 8):
        return f"{bits} bits"
    if zeros is not None:
        zeros = _around_zero(rows(zeros, bits)[:outputs], bits)
    if "weight_g_idx" in parts and not _in_order(parts["weight_g_idx"], inputs, scales.shape[1]):
        return "groups in the order of activations"
    return Stored(parts["weight_packed"], scales, bits, inputs, zeros)


_READERS = {"gptq": _gptq, "awq": _awq, "compressed-tensors": _compressed}


def _around_zero(zeros_OG: Tensor, bits: int) -> Tensor | None:
    """From files' zero points, which begin at 0, to those of codes around it; None: symmetric codes."""
    zeros_OG = zeros_OG - (1 << (bits - 1))
    narrow = torch.int8 if bits == 4 else torch.int16  # of 8 bits format 1 of GPTQ has 128
    return zeros_OG.to(narrow) if bool(zeros_OG.any()) else None


def _in_order(group_I: Tensor, inputs: int, groups: int) -> bool:
    return inputs % groups == 0 and torch.equal(group_I.long(), groups_of(inputs, groups))


def _checked(found: Stored | str) -> Stored | str:
    """Raises RuntimeError where the parts are not those of one matrix."""
    if isinstance(found, str):
        return found
    (outputs, inputs), scales, zeros = found.shape, found.scales_NG, found.zeros_NG
    width = inputs if found.codes.dtype == torch.int8 else inputs * found.bits // 32
    if scales.shape[0] != outputs or found.codes.shape[1] != width:
        raise RuntimeError(f"codes {tuple(found.codes.shape)}, scales {tuple(scales.shape)}, {inputs} inputs")
    if zeros is not None and zeros.shape != scales.shape:
        raise RuntimeError(f"zero points {tuple(zeros.shape)}, scales {tuple(scales.shape)}")
    if inputs % scales.shape[1] or inputs // scales.shape[1] % GROUP:
        return f"groups of {inputs / scales.shape[1]:g} inputs"
    if not bool((scales.half().float() == scales.float()).all()):  # NaN is not equal to itself
        return "scales that float16 does not have"
    return found


def _kinds(bases: Iterable[str]) -> str:
    return ", ".join(sorted(Counter(base.rpartition(".")[2] for base in bases)))
