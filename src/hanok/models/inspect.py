"""What a model directory or GGUF file holds, without loading it; and what two of them differ in."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from hanok.errors import ArtefactError, CheckpointError, ConfigError, InputError
from hanok.models.checkpoint import load_config
from hanok.models.checkpoint.weights import describe_weights, read_weights
from hanok.models.config import ModelConfig
from hanok.models.families import family_of
from hanok.tokens import Tokenizer


def inspect(path: Path) -> dict[str, Any]:
    """Family, layers, parameters, bytes, types, context, tokeniser and a rendered example of the chat template.

    Raises:
        CheckpointError: no model, or one that is damaged or of an unsupported family.
    """
    if path.suffix == ".gguf":
        from hanok.models.checkpoint.gguf import GGUFFile

        file = GGUFFile(path)
        config = file.config()
        types, parameters, size = file.kinds(), _parameters(config), path.stat().st_size
        try:
            tokenizer = Tokenizer(file.tokenizer_files())
        except (CheckpointError, ArtefactError):
            tokenizer = None
    else:
        config = load_config(path)
        tensors = describe_weights(path)
        types = dict(Counter(dtype for dtype, _ in tensors.values()))
        packed = any(name.endswith((".qweight", ".weight_packed")) for name in tensors)
        parameters = _parameters(config) if packed else sum(math.prod(shape) for _, shape in tensors.values())
        size = sum(file.stat().st_size for file in path.glob("*.safetensors"))
        there = any((path / name).is_file() for name in ("tokenizer.json", "tokenizer.model"))
        tokenizer = Tokenizer.load(path) if there else None
    return {
        "family": family_of(config).model_type, "layers": _layers(config), "hidden size": config.hidden_size,
        "heads": config.num_heads if config.kv_heads == config.num_heads else f"{config.num_heads} on {config.kv_heads}",
        "experts": "none" if config.moe is None else f"{config.moe.per_token} of {config.moe.experts}",
        "vocabulary": config.vocab_size, "context": config.max_context, "parameters": parameters, "bytes": size,
        "tensors": ", ".join(f"{count} {kind}" for kind, count in types.items()),
        "tokeniser": "none here" if tokenizer is None else f"{tokenizer.vocab_size} tokens",
        "stop tokens": "-" if tokenizer is None else _names(tokenizer), "chat template": _preview(tokenizer),
    }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Change:
    """One tensor. `relative`: norm of the difference over the norm of the first; `cosine` between the two."""

    name: str
    relative: float
    largest: float
    cosine: float


def diff(a: Path, b: Path) -> tuple[list[tuple[str, Any, Any]], list[Change], int]:
    """(settings that differ, tensors that differ with the largest change first, how many are equal).

    Raises:
        CheckpointError: models that do not have the same tensors.
    """
    first, second = (dataclasses.asdict(load_config(path)) for path in (a, b))
    settings = [(key, first[key], second[key]) for key in first if first[key] != second[key]]
    ours, theirs = read_weights(a), read_weights(b)
    odd = sorted(set(ours) ^ set(theirs)) or [n for n in ours if ours[n].shape != theirs[n].shape]
    if odd:
        raise CheckpointError(
            f"{odd[0]} is in one model only, or of another shape", remedy="compare models of one shape"
        )
    changes, equal = [], 0
    for name, x in ours.items():
        y = theirs[name]
        if x.dtype == y.dtype and torch.equal(x, y):
            equal += 1
            continue
        x, y = x.double().flatten(), y.double().flatten()
        norms = x.norm(), y.norm()
        changes.append(Change(
            name, float((x - y).norm() / norms[0].clamp(min=1e-30)), float((x - y).abs().max()),
            float(x @ y / (norms[0] * norms[1]).clamp(min=1e-30)),
        ))  # fmt: skip
    return settings, sorted(changes, key=lambda change: -change.relative), equal


def _parameters(config: ModelConfig) -> int:
    from hanok.models.decoder import Decoder

    with torch.device("meta"):
        return sum(p.numel() for p in Decoder(config).parameters())


def _layers(config: ModelConfig) -> str:
    runs = [(kind, len(list(group))) for kind, group in groupby(config.layers)]
    if len(runs) <= 6:
        return f"{config.num_layers}: " + ", ".join(f"{count} {kind}" for kind, count in runs)
    counts = Counter(config.layers)
    return (
        f"{config.num_layers}: " + ", ".join(f"{count} {kind}" for kind, count in counts.items()) + " in turn"
    )


def _names(tokenizer: Tokenizer) -> str:
    return " ".join(tokenizer.token_bytes(n).decode("utf-8", "replace") for n in tokenizer.stop_ids)


def _preview(tokenizer: Tokenizer | None) -> str:
    if tokenizer is None:
        return "-"
    try:
        return tokenizer.render_chat([{"role": "user", "content": "안녕하세요"}], add_generation_prompt=True)
    except (ConfigError, InputError) as error:
        return f"none ({error.message})"
