"""Low-rank adapters (LoRA, arXiv 2106.09685) on any linear map of a decoder, several by name, in the files of PEFT.

y = x W^T + sum over active adapters of scale * x A^T B^T, with scale = alpha / rank, or alpha / sqrt(rank) (rsLoRA,
arXiv 2312.03732). A starts random, B at zero, so that a fresh adapter changes nothing. DoRA (`dora.py`) learns the length of each
row of the weight beside them.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hanok.artefacts import write_json
from hanok.errors import CheckpointError, ConfigError, did_you_mean
from hanok.models.checkpoint.weights import read_file, read_metadata, write_file
from hanok.models.decoder import Decoder
from hanok.models.dora import WeightDecomposed, row_norms
from hanok.models.families import family_of
from hanok.models.linear import Linear, LowRank
from hanok.models.lora_fused import (
    Pair,
    is_turned,
    joined_pairs,
    part_number,
    part_of,
    read_parts,
    write_parts,
)

MAGNITUDE = "lora_magnitude_vector"
WEIGHTS, SETTINGS = "adapter_model.safetensors", "adapter_config.json"
_PREFIX, _RESTORED = "base_model.model.", "restored"
_PLAIN = "use a plain LoRA adapter"
_REMEDIES = {
    "target_parameters": "adapt linear maps; for routed experts, let PEFT merge the adapter into the model"
}
_UNSUPPORTED = ("modules_to_save", "trainable_token_indices", "target_parameters", "use_qalora")


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraConfig:
    """Args:
    rank: inner width. alpha: strength. rslora: divide alpha by sqrt(rank). dora: learn the lengths of the weight's rows too.
    targets: last parts of the names of linear maps; empty = every linear map in the layers.
    dropout: on the adapters' input, in training.
    ranks, alphas: exceptions by last part of the name.
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    rslora: bool = False
    dora: bool = False
    targets: tuple[str, ...] = ()
    ranks: Mapping[str, int] = field(default_factory=dict)
    alphas: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ConfigError(f"rank = {self.rank}", remedy="it must be at least 1")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout = {self.dropout}", remedy="it must lie in [0, 1)")

    def rank_of(self, name: str) -> int:
        return int(_exception(self.ranks, name, self.rank))

    def scale_of(self, name: str, rank: int) -> float:
        alpha = _exception(self.alphas, name, self.alpha)
        return alpha / (math.sqrt(rank) if self.rslora else rank)


def add_adapter(
    model: Decoder, config: LoraConfig, *, name: str = "default", generator: torch.Generator | None = None
) -> None:
    """Put a fresh adapter on every target and freeze the model's own weights.

    Raises:
        ConfigError: a target that is no linear map of the model, or a name that is taken.
    """
    found = _targets(model, config)
    if name in adapter_names(model):
        raise ConfigError(f'there is an adapter "{name}" already', remedy="choose another name")
    model.requires_grad_(False)
    for where, linear in found:
        outputs, inputs = linear.weight.shape
        rank = config.rank_of(where)
        kind = WeightDecomposed if config.dora else LowRank
        low = kind(inputs, outputs, rank, scale=config.scale_of(where, rank), dropout=config.dropout).to(
            linear.weight.device
        )
        with torch.no_grad():
            bound = inputs**-0.5
            low.lora_A.uniform_(-bound, bound, generator=generator)
            low.lora_B.zero_()
            if isinstance(low, WeightDecomposed):
                low.start_at(linear.weight)
        _attach(linear, name, low)


def load_adapter(model: Decoder, directory: Path, *, name: str = "default") -> LoraConfig:
    """Attach an adapter from PEFT's files, active, beside those that are there. Raises as `read_adapter`, and ConfigError for a
    name that is taken."""
    if name in adapter_names(model):
        raise ConfigError(f'there is an adapter "{name}" already', remedy="choose another name")
    config, lows = read_adapter(model, directory)
    linears = dict(_linears(model))
    for where, low in lows.items():
        _attach(linears[where], name, low.to(linears[where].weight.device))
    return config


def read_adapter(model: Decoder, directory: Path) -> tuple[LoraConfig, dict[str, LowRank]]:
    """An adapter from PEFT's files by the names of the model's maps; the model stays as it is.

    Raises:
        CheckpointError: files missing or damaged, a feature that is not supported, maps that the model does not have.
    """
    values = _read_settings(directory)
    config = LoraConfig(
        rank=values["r"], alpha=values["lora_alpha"], dropout=values.get("lora_dropout") or 0.0,
        rslora=values.get("use_rslora", False), dora=bool(values.get("use_dora")), ranks=values.get("rank_pattern") or {},
        alphas=values.get("alpha_pattern") or {},
    )  # fmt: skip
    file = directory / WEIGHTS
    if not file.is_file():
        raise CheckpointError(
            f"no {WEIGHTS} in {directory}", remedy="give a directory that PEFT or Hanok saved"
        )
    family, parts = family_of(model.config), read_parts(file, read_metadata(file))
    theirs = {_short(key): tensor for key, tensor in read_file(file).items()}
    tensors = family.incoming(theirs, model.config)
    pairs: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        where, _, part = key.removesuffix(".weight").rpartition(".")
        pairs.setdefault(where, {})[part] = tensor
    linears = dict(_linears(model))
    for where, pair in pairs.items():
        if where not in linears or set(pair) != _pieces(config):
            raise CheckpointError(
                f"{file}: no linear map of the model takes {where} ({', '.join(sorted(pair))})",
                remedy="is it an adapter for another model?",
            )
        _check_shapes(file, where, pair, linears[where])
    original = {id(tensor): key.removesuffix(".lora_A.weight") for key, tensor in theirs.items()}
    lows: dict[str, LowRank] = {}
    for where, pair in pairs.items():
        linear, a, b = linears[where], pair["lora_A"], pair["lora_B"]
        base = original.get(id(a), where)
        scale = config.scale_of(base, a.shape[0])
        if base in parts:
            number = part_number(where, family)
            if sum(parts[base]) != a.shape[0] or number >= len(parts[base]):
                raise CheckpointError(
                    f"{file}: {base} is of rank {a.shape[0]}, its parts of {parts[base]}",
                    remedy="restore the file",
                )
            a, b = (part_of(x, parts[base], number, dim=d) for d, x in enumerate((a, b)))
        rank = a.shape[0]
        if rank == 0:
            continue
        kind = WeightDecomposed if config.dora else LowRank
        low = kind(linear.weight.shape[1], linear.weight.shape[0], rank, scale=scale, dropout=config.dropout)
        low.lora_A, low.lora_B = nn.Parameter(a.float().clone()), nn.Parameter(b.float().clone())
        if isinstance(low, WeightDecomposed):
            low.lora_magnitude_vector = nn.Parameter(pair[MAGNITUDE].float().clone())
        lows[where] = low
    found = {where.rpartition(".")[2] for where in lows}
    return LoraConfig(
        rank=config.rank, alpha=config.alpha, dropout=config.dropout, rslora=config.rslora, dora=config.dora,
        targets=tuple(sorted(found)), ranks=config.ranks, alphas=config.alphas,
    ), lows  # fmt: skip


def save_adapter(
    model: Decoder, config: LoraConfig, directory: Path, *, name: str = "default", base: str | None = None
) -> None:
    """Write PEFT's two files. `base`: the directory or name of the model that it belongs to.

    Raises:
        ConfigError: no such adapter.
    """
    if name not in adapter_names(model):
        raise ConfigError(f'no adapter "{name}"', remedy=did_you_mean(name, adapter_names(model)))
    family = family_of(model.config)
    lows = {where: low for where, linear in _linears(model) if (low := _adapter(linear, name)) is not None}
    linears = dict(_linears(model))
    pairs = joined_pairs(
        lows, family, model.config, norms=lambda where: row_norms(linears[where].weight.detach())
    )
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {f"{_PREFIX}{key}.lora_A.weight": pair.a for key, pair in pairs.items()}
    tensors |= {f"{_PREFIX}{key}.lora_B.weight": pair.b for key, pair in pairs.items()}
    tensors |= {
        f"{_PREFIX}{key}.{MAGNITUDE}": pair.magnitude
        for key, pair in pairs.items()
        if pair.magnitude is not None
    }
    write_file(tensors, directory / WEIGHTS, metadata=write_parts(pairs))
    levels = 2 if is_turned(family) else 1  # GPT-2 has two maps of the name c_proj in a layer
    targets = sorted({".".join(key.split(".")[-levels:]) for key in pairs})
    write_json(directory / SETTINGS, {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base, "inference_mode": True,
        "r": config.rank, "lora_alpha": config.alpha, "lora_dropout": config.dropout, "use_rslora": config.rslora,
        "target_modules": targets, "bias": "none", "fan_in_fan_out": is_turned(family), "use_dora": config.dora,
        "modules_to_save": None, **_patterns(pairs, config),
    })  # fmt: skip


def _patterns(pairs: Mapping[str, Pair], config: LoraConfig) -> dict[str, Any]:
    """Every map that is not of the common rank and alpha, by its whole name."""
    alphas = {name: pair.alpha(rslora=config.rslora) for name, pair in pairs.items()}
    return {
        "rank_pattern": {n: p.a.shape[0] for n, p in pairs.items() if p.a.shape[0] != config.rank},
        "alpha_pattern": {
            n: a for n, a in alphas.items() if not math.isclose(a, config.alpha, rel_tol=1e-12)
        },
    }


def restore_adapter(model: Decoder, directory: Path, *, name: str = "default") -> None:
    """Put saved values into an adapter that is attached, in place: an optimiser may hold its tensors. Raises as
    `load_adapter`, and CheckpointError where the two do not cover the same maps."""
    load_adapter(model, directory, name=_RESTORED)
    try:
        for where, linear in _linears(model):
            live, stored = _adapter(linear, name), _adapter(linear, _RESTORED)
            if type(live) is not type(stored):
                raise CheckpointError(
                    f"{directory}: {where} is adapted on one side only, or not in the same way",
                    remedy="train it anew",
                )
            if live is not None and stored is not None:
                live.lora_A.data.copy_(stored.lora_A)
                live.lora_B.data.copy_(stored.lora_B * (stored.scale / live.scale))
            if isinstance(live, WeightDecomposed) and isinstance(stored, WeightDecomposed):
                live.lora_magnitude_vector.data.copy_(stored.lora_magnitude_vector)
    finally:
        remove_adapter(model, _RESTORED)


def adapter_names(model: Decoder) -> list[str]:
    """Those attached, in the order of attachment."""
    names = (name for _, linear in _linears(model) for name in linear.adapters or ())
    return list(dict.fromkeys(names))


def activate(model: Decoder, names: Sequence[str]) -> None:
    """Let exactly these adapters act; several are summed. Raises ConfigError for one that is not there."""
    known = adapter_names(model)
    for name in names:
        if name not in known:
            raise ConfigError(f'no adapter "{name}"', remedy=did_you_mean(name, known))
    for _, linear in _linears(model):
        for name, low in (linear.adapters or {}).items():
            assert isinstance(low, LowRank)
            low.active = name in names


def remove_adapter(model: Decoder, name: str) -> None:
    """Take an adapter off. Raises ConfigError for one that is not there."""
    known = adapter_names(model)
    if name not in known:
        raise ConfigError(f'no adapter "{name}"', remedy=did_you_mean(name, known))
    for _, linear in _linears(model):
        if linear.adapters is not None and name in linear.adapters:
            del linear.adapters[name]
            if not linear.adapters:
                linear.adapters = None


class Merged:
    """An adapter written into the weights: `Merged(model, "default")`, and `unmerge()` gives the old ones back bit for bit
    (it keeps them meanwhile). `keep()` makes it final and takes the adapter off."""

    @torch.no_grad()
    def __init__(self, model: Decoder, name: str = "default") -> None:
        if name not in adapter_names(model):
            raise ConfigError(f'no adapter "{name}"', remedy=did_you_mean(name, adapter_names(model)))
        self.model, self.name = model, name
        self._before: list[tuple[Linear, LowRank, Tensor, bool]] = []
        for _, linear in _linears(model):
            low = _adapter(linear, name)
            if low is None:
                continue
            self._before.append((linear, low, linear.weight.data, low.active))
            linear.weight.data = (linear.weight.float() + low.change(linear.weight)).to(linear.weight.dtype)
            low.active = False

    def unmerge(self) -> None:
        for linear, low, weight, active in self._before:
            linear.weight.data, low.active = weight, active
        self._before = []

    def keep(self) -> None:
        self._before = []
        remove_adapter(self.model, self.name)


def _linears(model: Decoder) -> Iterator[tuple[str, Linear]]:
    for name, module in model.named_modules():
        if isinstance(module, Linear):
            yield name, module


def _adapter(linear: Linear, name: str) -> LowRank | None:
    low = linear.adapters[name] if linear.adapters is not None and name in linear.adapters else None
    assert low is None or isinstance(low, LowRank)
    return low


def _attach(linear: Linear, name: str, low: LowRank) -> None:
    if linear.adapters is None:
        linear.adapters = nn.ModuleDict()
    linear.adapters[name] = low


def _targets(model: Decoder, config: LoraConfig) -> list[tuple[str, Linear]]:
    inside = [(name, linear) for name, linear in _linears(model) if name.startswith("layers.")]
    if not config.targets:
        return inside
    known = sorted({name.rpartition(".")[2] for name, _ in inside})
    found = [(n, linear) for n, linear in inside if n.rpartition(".")[2] in config.targets]
    for target in config.targets:
        if target not in known:
            raise ConfigError(
                f'target "{target}" is no linear map of the model', remedy=did_you_mean(target, known)
            )
    return found


def _exception(patterns: Mapping[str, float], name: str, otherwise: float) -> float:
    """As PEFT matches: the key is the end of the name, or a regular expression for it."""
    for key, value in patterns.items():
        if re.match(rf"(.*\.)?({key})$", name):
            return value
    return otherwise


def _read_settings(directory: Path) -> dict[str, Any]:
    file = directory / SETTINGS
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        kind = values["peft_type"]
        if not (isinstance(values["r"], int) and values["r"] > 0):
            raise ValueError(f"r = {values['r']}")
        for key in ("rank_pattern", "alpha_pattern"):
            for pattern, value in (values.get(key) or {}).items():
                re.compile(pattern)
                float(value)
        float(values["lora_alpha"])
    except FileNotFoundError as error:
        raise CheckpointError(
            f"no {SETTINGS} in {directory}", remedy="give an adapter's directory"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, re.error) as error:
        raise CheckpointError(f"{file} is not readable ({error})", remedy="restore it") from error
    if kind != "LORA":
        raise CheckpointError(f'{file}: peft_type "{kind}" is not supported', remedy="only LORA is")
    for key in _UNSUPPORTED:
        if values.get(key):
            raise CheckpointError(f"{file}: {key} is not supported", remedy=_REMEDIES.get(key, _PLAIN))
    if values.get("bias", "none") != "none":
        raise CheckpointError(f"{file}: trained biases are not supported", remedy=_PLAIN)
    return values


def _short(key: str) -> str:
    """Without PEFT's prefix, and without an adapter's name where an old version wrote it."""
    key = re.sub(
        r"\.lora_magnitude_vector(\.\w+)?(\.weight)?$", f".{MAGNITUDE}.weight", key.removeprefix(_PREFIX)
    )
    return re.sub(r"\.(lora_[AB])\.\w+\.weight$", r".\1.weight", key)


def _pieces(config: LoraConfig) -> set[str]:
    """What the files hold of each map."""
    return {"lora_A", "lora_B"} | ({MAGNITUDE} if config.dora else set())


def _check_shapes(file: Path, where: str, parts: Mapping[str, Tensor], linear: Linear) -> None:
    outputs, inputs = linear.weight.shape
    a, b = tuple(parts["lora_A"].shape), tuple(parts["lora_B"].shape)
    if len(a) != 2 or len(b) != 2 or a[1] != inputs or b != (outputs, a[0]):
        raise CheckpointError(
            f"{file}: {where} has A {a} and B {b} for a map [{outputs}, {inputs}]",
            remedy="is it an adapter for another model?",
        )
    if MAGNITUDE in parts and parts[MAGNITUDE].shape != (outputs,):
        raise CheckpointError(
            f"{file}: {where} has magnitudes {tuple(parts[MAGNITUDE].shape)} for {outputs} outputs",
            remedy="is it an adapter for another model?",
        )
    if not all(part.isfinite().all() for part in parts.values()):
        raise CheckpointError(f"{file}: {where} holds NaN or infinity", remedy="take an earlier adapter")
