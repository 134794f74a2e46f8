"""Quantised model directories: `compressed-tensors` names and settings around the codes of `hanok.kernels.formats`.

The linear maps of the layers become int4 or int8 in groups of 32 along the input, symmetric, with float16 scales, in the
layout "pack-quantized". Embedding and head stay as they are, since `transformers` cannot look a row up in codes; what the
engine makes of them lies in a file beside, which spares it the search.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hanok.errors import CheckpointError, ConfigError
from hanok.kernels.formats import GROUP, Quantised, Stored, pack_words
from hanok.models.coded import as_quantised, put_beside
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
    model: Decoder, bits: int, plain: torch.dtype | None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors by the family's names, `quantization_config`).

    Args:
        plain: the type of what has no codes; None = as it is.

    Raises:
        ConfigError: as `check_codable`.
    """
    check_codable(model.config)
    family = family_of(model.config)
    maps = _maps(model, bits)
    rest = {
        name: tensor.detach() if plain is None else tensor.detach().to(plain)
        for name, tensor in model.named_parameters()
        if name not in maps and ".adapters." not in name and not name.startswith("mtp.")
    }
    written = family.outgoing(rest, model.config)
    left_out = sorted(name.removesuffix(".weight") for name in written if name.endswith("proj.weight"))
    codes = family.outgoing({name: one.q_NK for name, one in maps.items()}, model.config)
    scales = family.outgoing({name: one.scales_NG for name, one in maps.items()}, model.config)
    for name, q_NK in codes.items():
        base = name.removesuffix(".weight")
        written |= {
            f"{base}.weight_packed": pack_words(q_NK, bits),
            f"{base}.weight_scale": scales[name],
            f"{base}.weight_shape": torch.tensor(q_NK.shape),
        }
    return written, _settings(bits, left_out)


def beside_tensors(model: Decoder, bits: int, plain: torch.dtype | None) -> dict[str, Tensor]:
    """Codes of the embedding and of a head of its own, by our names with `.words` and `.scales` behind them."""
    found: dict[str, Tensor] = {}
    for name, weight in _ends(model).items():
        if weight.shape[1] % GROUP == 0:
            codes = as_quantised(weight.detach() if plain is None else weight.detach().to(plain), bits)
            found |= {f"{name}.words": pack_words(codes.q_NK, bits), f"{name}.scales": codes.scales_NG}
    return found


def read_beside(model: Decoder, tensors: Mapping[str, Tensor], bits: int) -> None:
    """Put them beside the weights of a model that has just been read.

    Raises:
        CheckpointError: codes of another shape or type, or scales that are not finite.
    """
    for name, weight in _ends(model).items():
        words, scales = tensors.get(f"{name}.words"), tensors.get(f"{name}.scales")
        if words is None or scales is None:
            continue
        rows, cols = weight.shape
        described = (words.dtype, tuple(words.shape), scales.dtype, tuple(scales.shape))
        expected = (torch.int32, (rows, cols * bits // 32), torch.float16, (rows, cols // GROUP))
        if described != expected or not bool(scales.isfinite().all()):
            raise CheckpointError(
                f"codes beside {name} do not fit it: {described}, expected {expected}, finite",
                remedy="delete the file of codes; it is made anew by hanok model convert",
            )
        put_beside(weight, Stored(words, scales, bits, cols))


def _ends(model: Decoder) -> dict[str, Tensor]:
    head = {} if model.lm_head is None else {"lm_head.weight": model.lm_head.weight}
    return {"embed_tokens.weight": model.embed_tokens.weight} | head


def _maps(model: Decoder, bits: int) -> dict[str, Quantised]:
    """Those whose inputs fill groups."""
    return {
        f"{name}.weight": as_quantised(module.weight, bits)
        for name, module in model.named_modules()
        if isinstance(module, Linear) and name.startswith("layers.") and module.weight.shape[1] % GROUP == 0
    }


def _settings(bits: int, left_out: list[str]) -> dict[str, Any]:
    weights = {
        "num_bits": bits, "type": "int", "symmetric": True, "strategy": "group", "group_size": GROUP,
        "dynamic": False, "actorder": None,
    }  # fmt: skip
    group = {"targets": ["Linear"], "weights": weights, "input_activations": None, "output_activations": None}
    return {
        "quant_method": "compressed-tensors", "format": "pack-quantized", "quantization_status": "compressed",
        "config_groups": {"group_0": group}, "ignore": ["lm_head", *left_out], "kv_cache_scheme": None,
    }  # fmt: skip
