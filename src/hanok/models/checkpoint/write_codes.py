"""Quantised model directories: `compressed-tensors` names and settings around the codes of `hanok.kernels.formats`.

The linear maps of the layers become int4 or int8 in groups along the input (of 32 unless somebody chose others) with float16
scales, in the layout "pack-quantized"; some maps may be wider than the rest. Embedding and head stay as they are, since
`transformers` cannot look a row up in codes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hanok.errors import ConfigError
from hanok.kernels.formats import GROUP, Quantised, pack_words
from hanok.models.coded import as_quantised
from hanok.models.config import ModelConfig
from hanok.models.decoder import Decoder
from hanok.models.families import family_of
from hanok.models.families.family import ExpertList, Transposed
from hanok.models.linear import Linear
from hanok.models.mlp import Experts


def check_codable(config: ModelConfig) -> None:
    """Raises ConfigError for a model that has no such directory."""
    family = family_of(config)
    if config.moe is not None and not any(isinstance(layout, ExpertList) for layout in family.layouts):
        raise ConfigError(
            f"{family.model_type} keeps its experts in one tensor, and nobody reads codes of such",
            remedy="choose another model, or GGUF's q8_0",
        )
    if any(isinstance(layout, Transposed) for layout in family.layouts):
        raise ConfigError(
            f"{family.model_type} keeps its matrices turned, and nobody reads codes of such",
            remedy="keep its weights as they are",
        )


@dataclass(frozen=True, slots=True)
class FileCodes:
    """A map as it is to be written: words_NP of `pack_words`, scales_NG, bits 4 or 8; zeros_NG int8 where the grid has zero
    points. Of experts all have one dimension more, in front."""

    words_NP: Tensor
    scales_NG: Tensor
    bits: int
    zeros_NG: Tensor | None = None

    @staticmethod
    def of(codes: Quantised) -> FileCodes:
        """Raises ConfigError: zero points that the files do not hold."""
        zeros_NG, end = codes.zeros_NG, 1 << (codes.bits - 1)
        if zeros_NG is not None and not bool((zeros_NG.round().clamp(-end, end - 1) == zeros_NG).all()):
            raise ConfigError(
                f"zero points that are no whole numbers from {-end} to {end - 1}",
                remedy="keep the weights plain",
            )
        zeros_NG = None if zeros_NG is None else zeros_NG.to(torch.int8)
        return FileCodes(pack_words(codes.q_NK, codes.bits), codes.scales_NG, codes.bits, zeros_NG)

    def with_zeros(self) -> FileCodes:
        """The same, its zero points told where all are 0."""
        if self.zeros_NG is not None:
            return self
        return replace(self, zeros_NG=torch.zeros_like(self.scales_NG, dtype=torch.int8))


def coded_tensors(
    model: Decoder,
    bits: int,
    plain: torch.dtype | None,
    *,
    codes: Mapping[str, FileCodes] | None = None,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors by the family's names, `quantization_config`).

    Args:
        bits: 4 or 8, of maps that are rounded here.
        plain: the type of what has no codes; None = as it is.
        codes: by the names of weights, in groups of one size or of a row each; what is not named gets none. None: every map
            of the layers whose inputs fill groups is rounded to the nearest, or keeps the codes of this width that it has.

    Raises:
        ConfigError: as `check_codable` and `FileCodes.of`; maps that the family's files join, of several widths.
    """
    check_codable(model.config)
    family = family_of(model.config)
    maps = _rounded(model, bits) if codes is None else dict(codes)
    if any(one.zeros_NG is not None for one in maps.values()):  # the settings speak for all
        maps = {name: one.with_zeros() for name, one in maps.items()}
    rest = {
        name: tensor.detach() if plain is None else tensor.detach().to(plain)
        for name, tensor in model.state_dict(
            keep_vars=True
        ).items()  # routers have buffers; nothing is dequantised
        if name not in maps and ".adapters." not in name and not name.startswith("mtp.")
    }
    written = family.outgoing(rest, model.config)
    left_out = sorted(name.removesuffix(".weight") for name in written if name.endswith("proj.weight"))

    def theirs(part: Callable[[FileCodes], Tensor | None]) -> dict[str, Tensor]:
        parts = {name: part(one) for name, one in maps.items()}
        return family.outgoing({n: t for n, t in parts.items() if t is not None}, model.config)

    widths = theirs(lambda one: torch.full((*one.words_NP.shape[:-1], 1), one.bits))
    if mixed := [name for name, bits_N1 in widths.items() if len(bits_N1.unique()) > 1]:
        raise ConfigError(f"{mixed[0]} joins maps of several widths", remedy="give them one width")
    words, scales = theirs(lambda one: one.words_NP), theirs(lambda one: one.scales_NG)
    zeros = theirs(lambda one: one.zeros_NG)
    width_of: dict[str, int] = {}
    groups: set[int] = set()
    for name, words_NP in words.items():
        base = name.removesuffix(".weight")
        width_of[base] = width = int(widths[name][0, 0])
        shape = (len(words_NP), words_NP.shape[1] * 32 // width)
        groups.add(shape[1] // scales[name].shape[1])
        written |= {
            f"{base}.weight_packed": words_NP,
            f"{base}.weight_scale": scales[name],
            f"{base}.weight_shape": torch.tensor(shape),
        }
        if name in zeros:
            written[f"{base}.weight_zero_point"] = _packed_rows(zeros[name], width)
    assert len(groups) < 2 or all(one.shape[1] == 1 for one in scales.values()), (
        "groups of one size, or whole rows"
    )
    group = None if len(groups) > 1 else min(groups, default=GROUP)
    return written, _settings(width_of, group, left_out, symmetric=not zeros)


def _rounded(model: Decoder, bits: int) -> dict[str, FileCodes]:
    """Those whose inputs fill groups."""
    found: dict[str, FileCodes] = {}
    for name, module in model.named_modules():
        if not name.startswith("layers."):
            continue
        if isinstance(module, Experts):
            for part in ("gate_up_proj", "down_proj"):
                weight = module.get_parameter(part)
                if weight.shape[-1] % GROUP == 0:
                    found[f"{name}.{part}"] = _of_stack(weight, bits)
        elif isinstance(module, Linear) and module.weight.shape[1] % GROUP == 0:
            found[f"{name}.weight"] = FileCodes.of(as_quantised(module.weight, bits))
    return found


def _of_stack(weight_ENK: Tensor, bits: int) -> FileCodes:
    experts = weight_ENK.shape[0]
    one = FileCodes.of(as_quantised(weight_ENK, bits))
    words, scales, zeros = (
        None if part is None else part.unflatten(0, (experts, -1))
        for part in (one.words_NP, one.scales_NG, one.zeros_NG)
    )
    assert words is not None
    assert scales is not None
    return FileCodes(words, scales, bits, zeros)


def _packed_rows(zeros_NG: Tensor, bits: int) -> Tensor:
    """Words of several neighbouring outputs, [N / P, G]."""
    filled_GN = F.pad(zeros_NG, (0, 0, 0, -len(zeros_NG) % GROUP)).t()
    return pack_words(filled_GN.contiguous(), bits)[:, : -(-len(zeros_NG) * bits // 32)].t().contiguous()


def _settings(
    width_of: Mapping[str, int], group: int | None, left_out: list[str], *, symmetric: bool
) -> dict[str, Any]:
    """One scheme a width; the commonest takes every map that is not named. group None: a scale a row."""
    strategy = "channel" if group is None else "group"
    counts = Counter(width_of.values()).most_common()
    schemes = {
        f"group_{number}": {
            "targets": ["Linear"] if not number else sorted(n for n, w in width_of.items() if w == width),
            "weights": {
                "num_bits": width, "type": "int", "symmetric": symmetric, "strategy": strategy, "group_size": group,
                "dynamic": False, "actorder": None,
            },
            "input_activations": None,
            "output_activations": None,
        }
        for number, (width, _) in enumerate(counts)
    }  # fmt: skip
    return {
        "quant_method": "compressed-tensors", "format": "pack-quantized", "quantization_status": "compressed",
        "config_groups": schemes, "ignore": ["lm_head", *left_out], "kv_cache_scheme": None,
    }  # fmt: skip
