"""Which maps of a quantised directory keep their codes, and why the others are dequantised.

Kept is what `hanok.kernels.formats` holds without loss: symmetric codes of 4 bits, or of 8 bits above -128; groups of a
multiple of 32 neighbouring inputs, or one scale a row; scales that float16 has. Names and letters as in `packed.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from hanok.kernels.formats import GROUP, Stored, pack_words
from hanok.models.checkpoint.packed import columns, groups_of, parts_of, rows, unshuffled, width_of
from hanok.models.config import ModelConfig
from hanok.models.families.family import Family, Transposed
from hanok.reporting import log


def stored_bits(settings: Mapping[str, Any]) -> int | None:
    """The width, 4 or 8, that a directory's `quantization_config` says its codes have, if they may be kept; where it has both,
    4: wider maps stay wide."""
    method = settings.get("quant_method")
    if method == "compressed-tensors":
        groups = [group.get("weights") or {} for group in (settings.get("config_groups") or {}).values()]
        widths = {group.get("num_bits") for group in groups}
        kept = all(
            group.get("symmetric", True) and group.get("type", "int") == "int" and not group.get("actorder")
            for group in groups
        )
        size = min((group.get("group_size") or -1 for group in groups), default=-1)
        bits = min(widths, key=lambda width: width or 0) if widths and widths <= {4, 8} else None
    else:
        bits, size = settings.get("bits"), settings.get("group_size", -1)
        kept = not (settings.get("desc_act") or settings.get("zero_point")) and settings.get("sym", True)
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
        why = "the family turns its matrices" if _turns(family) else _place(base)
        found = why or _checked(read(parts, settings))
        if isinstance(found, Stored):
            kept[f"{base}.weight"] = found
        else:
            refused.setdefault(found, []).append(base)
            left |= {f"{base}.{name}": tensor for name, tensor in parts.items()}
    for why, bases in refused.items():
        log.info(
            "%d maps (%s) do not keep their codes and are dequantised: %s", len(bases), _kinds(bases), why
        )
    if kept:
        log.info("%d maps keep the codes of their file", len(kept))
    return left, kept


def incoming_stored(kept: Mapping[str, Stored], family: Family, config: ModelConfig) -> dict[str, Stored]:
    """Under our names: whatever a family does to rows of a matrix, it does to rows of codes and of scales."""
    codes = family.incoming({name: one.codes for name, one in kept.items()}, config)
    scales = family.incoming({name: one.scales_NG for name, one in kept.items()}, config)
    cols = family.incoming(
        {name: torch.full((len(one.codes), 1), one.cols) for name, one in kept.items()}, config
    )
    widths = family.incoming(
        {name: torch.full((len(one.codes), 1), one.bits) for name, one in kept.items()}, config
    )
    return {
        name: Stored(codes[name], scales[name], int(widths[name][0, 0]), int(cols[name][0, 0]))
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


def _turns(family: Family) -> bool:
    return any(isinstance(layout, Transposed) for layout in family.layouts)


def _place(base: str) -> str:
    return "experts are stacked" if ".experts." in base else ""


def _gptq(parts: Mapping[str, Tensor], settings: Mapping[str, Any]) -> Stored | str:
    bits, words = settings.get("bits"), parts["qweight"]
    if bits not in (4, 8):
        return f"{bits} bits"
    inputs = words.shape[0] * 32 // bits
    offset = 0 if settings.get("checkpoint_format") == "gptq_v2" else 1
    if not bool((columns(parts["qzeros"], bits) + offset == 1 << (bits - 1)).all()):
        return "codes with zero points"
    if "g_idx" in parts and not _in_order(parts["g_idx"], inputs, len(parts["scales"])):
        return "groups in the order of activations"
    return Stored(words.t(), parts["scales"].t(), bits, inputs)


def _awq(parts: Mapping[str, Tensor], settings: Mapping[str, Any]) -> Stored | str:
    bits = settings.get("bits")
    if bits != 4:
        return f"{bits} bits"
    if not bool((columns(parts["qzeros"], bits) == 8).all()):
        return "codes with zero points"
    codes_IO = unshuffled(columns(parts["qweight"], bits)) - 8
    return Stored(pack_words(codes_IO.t().to(torch.int8), 4), parts["scales"].t(), 4, len(codes_IO))


def _compressed(parts: Mapping[str, Tensor], settings: Mapping[str, Any]) -> Stored | str:
    scales = parts["weight_scale"]
    zeros = parts.get("weight_zero_point")
    if "weight_packed" not in parts:
        codes = parts["weight"]
        if codes.dtype != torch.int8:
            return f"codes of {str(codes.dtype).removeprefix('torch.')}"
        if zeros is not None and bool(zeros.any()):
            return "codes with zero points"
        scales = scales.reshape(-1, 1) if scales.dim() < 2 else scales
        return Stored(codes, scales.expand(len(codes), -1), 8, codes.shape[1])
    outputs, inputs = (int(n) for n in parts["weight_shape"])
    bits = width_of(parts["weight_packed"], inputs, settings)
    if bits not in (4, 8):
        return f"{bits} bits"
    if zeros is not None and not bool((rows(zeros, bits)[:outputs] == 1 << (bits - 1)).all()):
        return "codes with zero points"
    if "weight_g_idx" in parts and not _in_order(parts["weight_g_idx"], inputs, scales.shape[1]):
        return "groups in the order of activations"
    return Stored(parts["weight_packed"], scales, bits, inputs)


_READERS = {"gptq": _gptq, "awq": _awq, "compressed-tensors": _compressed}


def _in_order(group_I: Tensor, inputs: int, groups: int) -> bool:
    return inputs % groups == 0 and torch.equal(group_I.long(), groups_of(inputs, groups))


def _checked(found: Stored | str) -> Stored | str:
    """Raises RuntimeError where the parts are not those of one matrix."""
    if isinstance(found, str):
        return found
    (outputs, inputs), scales = found.shape, found.scales_NG
    width = inputs if found.codes.dtype == torch.int8 else inputs * found.bits // 32
    if scales.shape[0] != outputs or found.codes.shape[1] != width:
        raise RuntimeError(f"codes {tuple(found.codes.shape)}, scales {tuple(scales.shape)}, {inputs} inputs")
    if inputs % scales.shape[1] or inputs // scales.shape[1] % GROUP:
        return f"groups of {inputs / scales.shape[1]:g} inputs"
    if not bool((scales.half().float() == scales.float()).all()):  # NaN is not equal to itself
        return "scales that float16 does not have"
    if found.bits == 8 and _has_lowest(found.codes):
        return "codes of -128"
    return found


def _has_lowest(codes: Tensor) -> bool:
    """Whether -128 is among codes of 8 bits: in words, 128 higher, it is a byte of zero."""
    if codes.dtype == torch.int8:
        return int(codes.min()) == -128
    straight = codes if codes.is_contiguous() else codes.t().contiguous()  # GPTQ's are views of the turned
    return int(straight.view(torch.uint8).min()) == 0


def _kinds(bases: Iterable[str]) -> str:
    return ", ".join(sorted(Counter(base.rpartition(".")[2] for base in bases)))
