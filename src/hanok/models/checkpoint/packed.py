"""Quantised safetensors that users have: GPTQ, AWQ, `compressed-tensors`. Here they are dequantised, and the log says so;
`stored.py` keeps the codes for who can use them.

Four- or eight-bit codes lie in 32-bit words; a group of inputs shares a scale and a zero point. O outputs, I inputs, G groups,
P codes a word.

| format | codes | zero points | scales | value |
|---|---|---|---|---|
| GPTQ | qweight [I/P, O], `g_idx` [I] | qzeros [G, O/P], one less than meant (format 1) | [G, O] | (q - z) s |
| AWQ | qweight [I, O/P], columns in the order 0 2 4 6 1 3 5 7 | qzeros [G, O/P], same order | [G, O] | (q - z) s |
| pack-quantized | weight_packed [O, I/P], offset 2^(b-1) | weight_zero_point [O/P, G] | weight_scale [O, G] | (q - z) s |
| int-, float-, naive-quantized | weight int8 or float8 [O, I] | weight_zero_point | weight_scale [O, 1 or G] | (q - z) s |
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from hanok.errors import CheckpointError
from hanok.reporting import log

_AWQ_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)  # where each of eight neighbouring columns lies in its word
_COMPRESSED = ("pack-quantized", "int-quantized", "naive-quantized", "float-quantized")


def dequantise(tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> dict[str, Tensor]:
    """Plain `weight` tensors (in the type of the scales) in place of the packed ones; names are the family's. The log says so.

    Args:
        settings: `quantization_config` of `config.json`.

    Raises:
        CheckpointError: a method, format or width that is not read, or parts that do not fit together.
    """
    found = plain_values(tensors, settings)
    count = sum(found[name] is not tensors.get(name) for name in found)
    if count:
        log.info("%d matrices of %s were dequantised to %s", count, settings["quant_method"], _type(found))
    return found


def plain_values(tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> dict[str, Tensor]:
    """`dequantise` without a word."""
    method = settings.get("quant_method")
    with fitting(settings):
        if method == "gptq":
            found = _gptq(tensors, settings)
        elif method == "awq":
            found = _awq(tensors, settings)
        elif method == "compressed-tensors":
            found = _compressed(tensors, settings)
        else:
            raise CheckpointError(
                f'weights quantised with "{method}" are not read',
                remedy="known: gptq, awq, compressed-tensors, GGUF",
            )
    return found


@contextlib.contextmanager
def fitting(settings: Mapping[str, Any]) -> Iterator[None]:
    """Raises CheckpointError where parts of a matrix are missing or of the wrong shape."""
    try:
        yield
    except (KeyError, RuntimeError, TypeError, ValueError, ZeroDivisionError) as error:
        raise CheckpointError(
            f"{settings.get('quant_method')}: parts of the quantised weights do not fit together ({error})",
            remedy="restore the files",
        ) from error


def _gptq(tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> dict[str, Tensor]:
    bits, offset = _bits(settings), 0 if settings.get("checkpoint_format") == "gptq_v2" else 1
    found, groups = parts_of(tensors, "qweight", ("qzeros", "scales", "g_idx"))
    for base, parts in groups.items():
        codes_IO = rows(parts["qweight"], bits)
        zeros_GO = columns(parts["qzeros"], bits) + offset
        group_I = (
            parts["g_idx"].long() if "g_idx" in parts else groups_of(len(codes_IO), len(parts["scales"]))
        )
        found[f"{base}.weight"] = (
            _values(codes_IO, zeros_GO[group_I], parts["scales"][group_I]).t().contiguous()
        )
    return found


def _awq(tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> dict[str, Tensor]:
    bits = _bits(settings)
    if bits != 4 or settings.get("version", "gemm").lower() != "gemm":
        raise CheckpointError(
            f"awq, {bits} bits, {settings.get('version')}: not read", remedy="known: 4 bits, gemm"
        )
    found, groups = parts_of(tensors, "qweight", ("qzeros", "scales"))
    for base, parts in groups.items():
        codes_IO, zeros_GO = (unshuffled(columns(parts[name], bits)) for name in ("qweight", "qzeros"))
        group_I = groups_of(len(codes_IO), len(parts["scales"]))
        found[f"{base}.weight"] = (
            _values(codes_IO, zeros_GO[group_I], parts["scales"][group_I]).t().contiguous()
        )
    return found


def _compressed(tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> dict[str, Tensor]:
    layout = settings.get("format")
    if layout not in _COMPRESSED:
        raise CheckpointError(
            f'compressed-tensors "{layout}" is not read', remedy=f"known: {', '.join(_COMPRESSED)}"
        )
    extra = ("weight_scale", "weight_zero_point", "weight_shape", "weight_g_idx", "input_scale")
    if layout != "pack-quantized":
        return _eight_bits(tensors, extra)
    found, groups = parts_of(tensors, "weight_packed", extra)
    for base, parts in groups.items():
        outputs, inputs = (int(n) for n in parts["weight_shape"])
        bits = width_of(parts["weight_packed"], inputs, settings)
        codes_OI = columns(parts["weight_packed"], bits)[:, :inputs] - (1 << (bits - 1))
        scale_OG = parts["weight_scale"]
        zeros_OG = torch.zeros_like(scale_OG, dtype=torch.int32)
        if "weight_zero_point" in parts:
            zeros_OG = rows(parts["weight_zero_point"], bits)[:outputs] - (1 << (bits - 1))
        group_I = (
            parts["weight_g_idx"].long() if "weight_g_idx" in parts else groups_of(inputs, scale_OG.shape[1])
        )
        found[f"{base}.weight"] = _values(codes_OI, zeros_OG[:, group_I], scale_OG[:, group_I])
    return found


def width_of(words: Tensor, inputs: int, settings: Mapping[str, Any]) -> int:
    """Bits of a map's codes: of the widths in the settings, the one with so many words a row."""
    widths = {group["weights"]["num_bits"] for group in settings["config_groups"].values()}
    fitting = [bits for bits in sorted(widths) if -(-inputs // (32 // bits)) == words.shape[1]]
    if not fitting:
        raise ValueError(f"{words.shape[1]} words a row for {inputs} inputs")
    return fitting[0]


def _eight_bits(tensors: Mapping[str, Tensor], extra: tuple[str, ...]) -> dict[str, Tensor]:
    found, groups = parts_of(tensors, "weight_scale", tuple(name for name in extra if name != "weight_scale"))
    for base, parts in groups.items():
        codes_OI, scale = found[f"{base}.weight"], parts["weight_scale"]
        scale = scale.reshape(-1, 1) if scale.dim() < 2 else scale
        group_I = groups_of(codes_OI.shape[1], scale.shape[1])
        zeros = parts.get("weight_zero_point")
        codes = (
            codes_OI.float()
            if zeros is None
            else codes_OI.float() - zeros.float().reshape(scale.shape)[:, group_I]
        )
        found[f"{base}.weight"] = (codes * scale.float()[:, group_I]).to(scale.dtype)
    return found


def parts_of(
    tensors: Mapping[str, Tensor], key: str, others: tuple[str, ...]
) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]:
    """(what is plain, the parts of each quantised map by its name)."""
    bases = {name.removesuffix(f".{key}") for name in tensors if name.endswith(f".{key}")}
    plain: dict[str, Tensor] = {}
    groups: dict[str, dict[str, Tensor]] = {base: {} for base in bases}
    for name, tensor in tensors.items():
        base, _, part = name.rpartition(".")
        if base in bases and part in (key, *others):
            groups[base][part] = tensor
        else:
            plain[name] = tensor
    return plain, groups


def columns(words: Tensor, bits: int) -> Tensor:
    """[R, C] words to [R, C P] codes, the lowest bits first."""
    shifts = torch.arange(0, 32, bits, dtype=torch.int32)
    return ((words[..., None] >> shifts) & ((1 << bits) - 1)).flatten(-2)


def rows(words: Tensor, bits: int) -> Tensor:
    """[R, C] words to [R P, C] codes."""
    return columns(words.t(), bits).t()


def unshuffled(codes: Tensor) -> Tensor:
    """From the order of AWQ to that of the columns."""
    return codes.unflatten(-1, (-1, len(_AWQ_ORDER)))[..., list(_AWQ_ORDER)].flatten(-2)


def groups_of(inputs: int, groups: int) -> Tensor:
    """The group of each input."""
    return torch.arange(inputs) // (inputs // groups)


def _values(codes: Tensor, zeros: Tensor, scales: Tensor) -> Tensor:
    return ((codes - zeros).float() * scales.float()).to(scales.dtype)


def _bits(settings: Mapping[str, Any]) -> int:
    bits = settings.get("bits")
    if bits not in (2, 4, 8):
        raise CheckpointError(f"{bits} bits are not read", remedy="known: 2, 4, 8")
    return bits


def _type(tensors: Mapping[str, Tensor]) -> str:
    return ", ".join(
        sorted({str(t.dtype).removeprefix("torch.") for t in tensors.values() if t.is_floating_point()})
    )
