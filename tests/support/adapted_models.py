"""Adapters with large random numbers, and the models that they make when they are merged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from hanok.models.checkpoint import load_model, save_model
from hanok.models.decoder import Decoder
from hanok.models.linear import LowRank
from hanok.models.lora import LoraConfig, Merged, _linears, add_adapter, load_adapter, save_adapter
from hanok.tokens.tokenizer import Tokenizer


def random_adapter(
    model: Decoder, directory: Path, *, seed: int, strength: float = 0.5, **config: Any
) -> Path:
    """Saved in PEFT's files; the model keeps nothing of it."""
    settings = LoraConfig(**{"rank": 4, "alpha": 8.0} | config)
    generator = torch.Generator().manual_seed(seed)
    add_adapter(model, settings, name="made", generator=generator)
    for _, linear in _linears(model):
        for low in (linear.adapters or {}).values():
            assert isinstance(low, LowRank)
            spread = strength / low.scale / low.lora_A.shape[0] ** 0.5
            low.lora_B.data = spread * torch.randn(low.lora_B.shape, generator=generator)
    save_adapter(model, settings, directory, name="made")
    for _, linear in _linears(model):
        linear.adapters = None
    return directory


def merged_model(model_dir: Path, adapter: Path, directory: Path) -> Path:
    """What `hanok model convert --adapter` writes."""
    model = load_model(model_dir)
    load_adapter(model, adapter)
    Merged(model).keep()
    return save_with_tokenizer(model, directory, model_dir)


def save_with_tokenizer(model: Decoder, directory: Path, tokenizer: Path) -> Path:
    save_model(model, directory)
    Tokenizer.load(tokenizer).save(directory)
    return directory


def all_maps(model: Decoder) -> list[str]:
    """By name, but those that inference does not use."""
    return [name for name, _ in _linears(model) if not name.startswith("mtp")]


def random_lows(
    model: Decoder, names: list[str], *, seed: int, rank: int = 6, scale: float = 1.0
) -> dict[str, LowRank]:
    generator = torch.Generator().manual_seed(seed)
    linears, lows = dict(_linears(model)), {}
    for name in names:
        outputs, inputs = linears[name].weight.shape
        low = LowRank(inputs, outputs, rank, scale=scale, dropout=0.0).requires_grad_(False)
        low.lora_A.copy_(torch.randn(rank, inputs, generator=generator) * inputs**-0.5)
        low.lora_B.copy_(torch.randn(outputs, rank, generator=generator))
        lows[name] = low
    return lows
