"""Reading a part of a model's weights: layer by layer, so that nobody holds more of the rest than one layer."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from hanok.kernels.memory import give_back
from hanok.models.checkpoint import read_settings
from hanok.models.checkpoint.packed import plain_values
from hanok.models.checkpoint.weights import read_weights
from hanok.models.config import ModelConfig
from hanok.models.families import family_of, read_config
from hanok.reporting import log

Cut = Callable[[str, Tensor, ModelConfig], Tensor]


def load_slices(directory: Path, cut: Cut) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Args:
        cut: given a name as in `Decoder.state_dict()`, the whole tensor and the model's configuration, returns the part to
            keep. It is copied, floating-point numbers as float32.

    Returns:
        the configuration of the whole model, and what was kept. Layers for training alone are left out.

    Raises:
        CheckpointError: as `load_model`, as far as it shows before the parts are put together.
    """
    settings = read_settings(directory)
    config = read_config(settings)
    family, packed = family_of(config), settings.get("quantization_config") or {}
    if packed.get("quant_method") == "mxfp4":  # the family's own matter
        packed = {}
    if packed:
        log.info("matrices of %s are dequantised to float32", packed["quant_method"])
    mapped = read_weights(directory)
    kept: dict[str, Tensor] = {}
    for names in _by_layer(list(mapped)):
        theirs = {name: mapped.pop(name) for name in names}
        ours = family.incoming(plain_values(theirs, packed) if packed else dict(theirs), config)
        head = ours.pop("lm_head.weight", None) if config.tie_embeddings else None
        if head is not None and not torch.equal(head, ours.get("embed_tokens.weight", head)):
            config = dataclasses.replace(config, tie_embeddings=False)  # somebody tuned them apart
            ours["lm_head.weight"] = head
        kept |= {name: _copied(cut(name, tensor, config)) for name, tensor in ours.items()}
        del ours, head
        give_back(theirs.values())
    return config, kept


def _copied(part: Tensor) -> Tensor:
    dtype = torch.float32 if part.is_floating_point() else part.dtype
    return torch.empty(part.shape, dtype=dtype).copy_(part)


def _by_layer(names: list[str]) -> list[list[str]]:
    """Names with the number of a layer in them, layer by layer; all others together."""
    groups: dict[int, list[str]] = {}
    for name in names:
        number = re.search(r"(?:^|\.)(\d+)\.", name)
        groups.setdefault(-1 if number is None else int(number[1]), []).append(name)
    return [groups[number] for number in sorted(groups)]
