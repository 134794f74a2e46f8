"""What an adapter of a public family is made of: a configuration read and written, and layouts of tensor names.

`theirs` are names as in the family's files, `ours` as in `Decoder.state_dict()`. Every layout works both ways.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from hanok.errors import CheckpointError
from hanok.models.config import ModelConfig

Values = Mapping[str, Any]
Tensors = dict[str, Tensor]


class Layout(Protocol):
    def incoming(self, tensors: Tensors, config: ModelConfig) -> Tensors:
        """Their names and shapes to ours."""
        ...

    def outgoing(self, tensors: Tensors, config: ModelConfig) -> Tensors:
        """Ours to theirs."""
        ...


@dataclass(frozen=True)
class Family:
    """One `model_type`.

    Args:
        read, write: `config.json` to a ModelConfig and back (what `common_values` does not write already).
        layouts: applied in order to what is read, in reverse order to what is written.
        examples: public models of the family, for the table in the documentation.
    """

    model_type: str
    architecture: str
    read: Callable[[Values], ModelConfig]
    write: Callable[[ModelConfig], dict[str, Any]]
    layouts: Sequence[Layout] = field(default_factory=lambda: (Prefix(),))
    examples: str = ""

    def incoming(self, tensors: Tensors, config: ModelConfig) -> Tensors:
        for layout in self.layouts:
            tensors = layout.incoming(tensors, config)
        return tensors

    def outgoing(self, tensors: Tensors, config: ModelConfig) -> Tensors:
        for layout in reversed(self.layouts):
            tensors = layout.outgoing(tensors, config)
        return tensors


@dataclass(frozen=True)
class Prefix:
    """All names but the head's stand below `prefix`; some old files leave it out."""

    prefix: str = "model."

    def incoming(self, tensors: Tensors, config: ModelConfig) -> Tensors:
        return {name.removeprefix(self.prefix): tensor for name, tensor in tensors.items()}

    def outgoing(self, tensors: Tensors, config: ModelConfig) -> Tensors:
        return {
            name if name.startswith("lm_head.") else self.prefix + name: tensor
            for name, tensor in tensors.items()
        }


@dataclass(frozen=True)
class Rename:
    """Whole parts of dotted names: Rename("attn.c_proj", "self_attn.o_proj")."""

    theirs: str
    ours: str

    def incoming(self, tensors: Tensors, config: ModelConfig) -> Tensors:
        return {_swap(name, self.theirs, self.ours): tensor for name, tensor in tensors.items()}

    def outgoing(self, tensors: Tensors, config: ModelConfig) -> Tensors:
        return {_swap(name, self.ours, self.theirs): tensor for name, tensor in tensors.items()}


@dataclass(frozen=True)
class Ignored:
    """Names (a regular expression) that carry no weights of the model: buffers, heads for training only."""

    pattern: str

    def incoming(self, tensors: Tensors, config: ModelConfig) -> Tensors:
        return {name: tensor for name, tensor in tensors.items() if not re.search(self.pattern, name)}

    def outgoing(self, tensors: Tensors, config: ModelConfig) -> Tensors:
        return tensors


@dataclass(frozen=True)
class Transposed:
    """Matrices that a family keeps as [in, out]."""

    ours: tuple[str, ...]

    def incoming(self, tensors: Tensors, config: ModelConfig) -> Tensors:
        return {name: t.t() if name.endswith(self.ours) else t for name, t in tensors.items()}

    outgoing = incoming


@dataclass(frozen=True)
class Fused:
    """One tensor of theirs is several of ours, one below the other (weights and biases)."""

    theirs: str
    ours: tuple[str, ...]
    rows: Callable[[ModelConfig], list[int]]

    def incoming(self, tensors: Tensors, config: ModelConfig) -> Tensors:
        found: Tensors = {}
        for name, tensor in tensors.items():
            if f".{self.theirs}." not in name:
                found[name] = tensor
                continue
            if name.endswith("lora_A.weight"):  # the common input of all parts
                found |= {_swap(name, self.theirs, ours): tensor for ours in self.ours}
                continue
            rows = self.rows(config)
            if sum(rows) != tensor.shape[0]:
                raise CheckpointError(
                    f"{name} has {tensor.shape[0]} rows, expected {sum(rows)}",
                    remedy="config.json and the weights do not belong together",
                )
            for ours, part in zip(self.ours, tensor.split(rows), strict=True):
                found[_swap(name, self.theirs, ours)] = part
        return found

    def outgoing(self, tensors: Tensors, config: ModelConfig) -> Tensors:
        first, rest = self.ours[0], self.ours[1:]
        found: Tensors = {}
        for name, tensor in tensors.items():
            if f".{first}." in name:
                parts = [tensor, *(tensors[_swap(name, first, other)] for other in rest)]
                found[_swap(name, first, self.theirs)] = torch.cat(parts)
            elif not any(f".{other}." in name for other in rest):
                found[name] = tensor
        return found


@dataclass(frozen=True)
class ExpertList:
    """Each expert's matrices by number below `mlp.experts`; ours are stacked: gate_up_proj [E, 2I, D], down_proj [E, D, I]."""

    gate: str = "gate_proj"
    up: str = "up_proj"
    down: str = "down_proj"

    def incoming(self, tensors: Tensors, config: ModelConfig) -> Tensors:
        found: Tensors = {}
        experts: dict[str, dict[tuple[int, str], Tensor]] = {}
        for name, tensor in tensors.items():
            match = re.fullmatch(r"(.*\.mlp\.experts)\.(\d+)\.(\w+)\.weight", name)
            if match:
                experts.setdefault(match[1], {})[int(match[2]), match[3]] = tensor
            else:
                found[name] = tensor
        count = 0 if config.moe is None else config.moe.experts
        for base, parts in experts.items():
            try:
                up = [torch.cat([parts[e, self.gate], parts[e, self.up]]) for e in range(count)]
                down = [parts[e, self.down] for e in range(count)]
            except KeyError as error:
                raise CheckpointError(
                    f"{base}: expert {error} is missing", remedy="the file is incomplete"
                ) from error
            found[f"{base}.gate_up_proj"], found[f"{base}.down_proj"] = torch.stack(up), torch.stack(down)
        return found

    def outgoing(self, tensors: Tensors, config: ModelConfig) -> Tensors:
        found: Tensors = {}
        for name, tensor in tensors.items():
            base = name.rpartition(".")[0]
            if name.endswith("mlp.experts.gate_up_proj"):
                for e, both in enumerate(tensor):
                    gate, up = both.chunk(2)
                    found[f"{base}.{e}.{self.gate}.weight"] = gate
                    found[f"{base}.{e}.{self.up}.weight"] = up
            elif name.endswith("mlp.experts.down_proj"):
                for e, down in enumerate(tensor):
                    found[f"{base}.{e}.{self.down}.weight"] = down
            else:
                found[name] = tensor
        return found


def _swap(name: str, old: str, new: str) -> str:
    return f".{name}.".replace(f".{old}.", f".{new}.")[1:-1]


def attention_rows(config: ModelConfig) -> list[int]:
    """Rows of q_proj, k_proj, v_proj."""
    keys = config.kv_heads * config.dim_of_head
    return [config.num_heads * config.dim_of_head, keys, keys]
