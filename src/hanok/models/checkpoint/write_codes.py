"""Quantised model directories: `compressed-tensors` names and settings around the codes of `hanok.kernels.formats`.

The linear maps of the layers become int4 or int8 in groups of 32 along the input, symmetric, with float16 scales, in the
layout "pack-quantized". Embedding and head stay as they are, since `transformers` cannot look a row up in codes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hanok.errors import ConfigError
from hanok.kernels.formats import GROUP, Quantised, pack_words
from hanok.models.coded import as_quantised
from hanok.models.config import ModelConfig
from hanok.models.decoder import Decoder
from hanok.models.families import family_of
from hanok.models.families.family import Transposed
from hanok.models.linear import Linear


def check_codable(config: ModelConfig) -> None:
    """Raises ConfigError for a model that has no such directory."""
    family = family_of(config)
    if config.moe is not None:
        raise ConfigError("experts are not written as codes", remedy="choose a dense model, or GGUF's q8_0")
    if any(isinstance(layout, Transposed) for layout in family.layouts):
        raise ConfigError(
            f"{family.model_type} keeps its matrices turned, and nobody reads codes of such",
            remedy="keep its weights as they are",
        )


def coded_tensors(
    model: Decoder,
    bits: int,
    plain: torch.dtype | None,
    *,
    group: int = GROUP,
    keep: frozenset[str] = frozenset(),
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors by the family's names, `quantization_config`).

    Args:
        plain: the type of what has no codes; None = as it is.
        group: a multiple of 32; above it, all of `maps` have to be codes with such groups already.
        keep: names of weights that get none.

    Raises:
        ConfigError: as `check_codable`.
    """
    check_codable(model.config)
    family = family_of(model.config)
    maps = _maps(model, bits, keep)
    rest = {
        name: tensor.detach() if plain is None else tensor.detach().to(plain)
        for name, tensor in model.named_parameters()
        if name not in maps and ".adapters." not in name and not name.startswith("mtp.")
    }
    written = family.outgoing(rest, model.config)
    left_out = sorted(name.removesuffix(".weight") for name in written if name.endswith("proj.weight"))
    codes = family.outgoing({name: one.q_NK for name, one in maps.items()}, model.config)
    scales = family.outgoing(
        {name: _grouped(one.scales_NG, group) for name, one in maps.items()}, model.config
    )
    for name, q_NK in codes.items():
        base = name.removesuffix(".weight")
        written |= {
            f"{base}.weight_packed": pack_words(q_NK, bits),
            f"{base}.weight_scale": scales[name],
            f"{base}.weight_shape": torch.tensor(q_NK.shape),
        }
    return written, _settings(bits, group, left_out)


def _maps(model: Decoder, bits: int, keep: frozenset[str]) -> dict[str, Quantised]:
    """Those whose inputs fill groups."""
    return {
        f"{name}.weight": as_quantised(module.weight, bits)
        for name, module in model.named_modules()
        if isinstance(module, Linear)
        and name.startswith("layers.")
        and module.weight.shape[1] % GROUP == 0
        and f"{name}.weight" not in keep
    }


def _grouped(scales_NG: Tensor, group: int) -> Tensor:
    """One scale a group in place of one for each 32 inputs."""
    every = group // GROUP
    first_NG = scales_NG[:, ::every].contiguous()
    assert torch.equal(first_NG.repeat_interleave(every, 1), scales_NG)
    return first_NG


def _settings(bits: int, group: int, left_out: list[str]) -> dict[str, Any]:
    weights = {
        "num_bits": bits, "type": "int", "symmetric": True, "strategy": "group", "group_size": group,
        "dynamic": False, "actorder": None,
    }  # fmt: skip
    scheme = {
        "targets": ["Linear"],
        "weights": weights,
        "input_activations": None,
        "output_activations": None,
    }
    return {
        "quant_method": "compressed-tensors", "format": "pack-quantized", "quantization_status": "compressed",
        "config_groups": {"group_0": scheme}, "ignore": ["lm_head", *left_out], "kv_cache_scheme": None,
    }  # fmt: skip
