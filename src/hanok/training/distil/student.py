"""The student where none is given: a shape, from the teacher's by a rule, with new weights or with slices of the teacher's.

The rule: width and depth shrink together. Of all depths, each with the widest width that stays within the share of the
parameters, that one is taken whose ratio of width to depth is nearest the teacher's. Heads stay as wide and become fewer,
so that kernels made for their width run the student too. Layers are spread evenly over the teacher's, first and last among
them, and keep their mixers.
D, I: width of the model and of its feed-forward.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor

from hanok.artefacts import Artefact, create_artefact, open_artefact
from hanok.errors import ConfigError
from hanok.models.checkpoint import load_config, load_model, save_model
from hanok.models.config import ModelConfig
from hanok.models.decoder import Decoder
from hanok.reporting import log
from hanok.training.distil.config import Shrink

_UNIT = 16  # widths are multiples of it
# what writes into the residual stream -> the dimension that counts its channels
_WRITERS = {"embed_tokens": 1, "embed_positions": 1, "o_proj": 0, "out_proj": 0, "down_proj": 0}
_FULL = 0.75  # of the largest that fits: what uses less of its share is not considered


def make_student(
    out: Path, *, teacher: Path, shape: ModelConfig | None, shrink: Shrink, seed: int
) -> Artefact:
    """A model directory with the teacher's tokeniser; what is there already is taken as it is if it was made so.

    Args:
        shape: of a new model; None: `shrink` says how to make one of the teacher's.

    Raises:
        ConfigError: no student of that share, or another one is there.
    """
    parent = open_artefact(teacher)
    step = {"shape": shape and asdict(shape), "shrink": None if shape else asdict(shrink), "seed": seed}
    if out.exists():
        found = open_artefact(out, kind="model")
        if found.parents != {"teacher": parent.hash} or found.step != _as_json(step):
            raise ConfigError(
                f"{out} holds a student that was made otherwise", remedy="give another output directory"
            )
        return found
    decoder = _new_student(teacher, shape, shrink, seed)
    config = decoder.config
    log.info(
        "student: %d parameters, %d layers of width %d (teacher: %d)", num_parameters(config), config.num_layers,
        config.hidden_size, num_parameters(load_config(teacher)),
    )  # fmt: skip
    with create_artefact(out, kind="model", parents={"teacher": parent}, step=step) as draft:
        save_model(decoder, draft.path, tokenizer_dir=teacher)
    return open_artefact(out, kind="model")


def _new_student(teacher: Path, shape: ModelConfig | None, shrink: Shrink, seed: int) -> Decoder:
    known = load_config(teacher)
    generator = torch.Generator().manual_seed(seed)
    if shape is not None:
        return Decoder(replace(shape, vocab_size=shape.vocab_size or known.vocab_size), generator=generator)
    if shrink.start == "fresh":
        return Decoder(smaller(known, shrink.share), generator=generator)
    return slices(load_model(teacher, dtype=torch.float32), smaller(known, shrink.share, keep_heads=True))


def smaller(teacher: ModelConfig, share: float, *, keep_heads: bool = False) -> ModelConfig:
    """The rule above.

    Args:
        keep_heads: there are as many as the teacher has, so that they can be cut out of it.

    Raises:
        ConfigError: nothing so small can be made.
    """
    wanted = share * num_parameters(teacher)
    ratio = teacher.hidden_size / teacher.num_layers
    found = [
        config
        for layers in range(1, teacher.num_layers + 1)
        if (config := _widest(teacher, layers, wanted, keep_heads=keep_heads)) is not None
    ]
    if not found:
        raise ConfigError(
            f"share = {share}: no student so small keeps the teacher's vocabulary",
            remedy="raise share, or give a shape",
        )
    largest = max(map(num_parameters, found))
    full = [config for config in found if num_parameters(config) >= _FULL * largest]
    return min(full, key=lambda config: abs(math.log(config.hidden_size / config.num_layers / ratio)))


def _widest(teacher: ModelConfig, layers: int, wanted: float, *, keep_heads: bool) -> ModelConfig | None:
    """By bisection: parameters grow with the width."""
    low, high = 0, teacher.hidden_size // _UNIT
    while low < high:
        middle = (low + high + 1) // 2
        if num_parameters(_shape(teacher, layers, middle * _UNIT, keep_heads=keep_heads)) <= wanted:
            low = middle
        else:
            high = middle - 1
    return _shape(teacher, layers, low * _UNIT, keep_heads=keep_heads) if low else None


def _shape(teacher: ModelConfig, layers: int, width: int, *, keep_heads: bool) -> ModelConfig:
    ratio = width / teacher.hidden_size

    def scaled(size: int) -> int:
        return max(_UNIT, round(size * ratio / _UNIT) * _UNIT)

    kept = kept_layers(teacher.num_layers, layers)
    moe = teacher.moe
    if moe is not None:
        sparse = tuple(new for new, old in enumerate(kept) if teacher.is_sparse(old))
        shared = None if moe.shared_width is None else scaled(moe.shared_width)
        moe = replace(moe, width=scaled(moe.width), shared_width=shared, layers=sparse, first_dense=0)
    heads = teacher.num_heads if keep_heads else max(1, round(teacher.num_heads * ratio))
    groups = max(1, round(heads * teacher.kv_heads / teacher.num_heads))
    while heads % groups:
        groups -= 1
    return replace(
        teacher, hidden_size=width, num_layers=layers, pattern=tuple(teacher.layers[old] for old in kept), moe=moe,
        num_heads=heads, num_kv_heads=None if teacher.num_kv_heads is None else groups, head_dim=teacher.dim_of_head,
        intermediate_size=scaled(teacher.mlp_width), mtp_layers=0,
    )  # fmt: skip


def kept_layers(teacher: int, student: int) -> list[int]:
    """Numbers of the teacher's layers, evenly spread, first and last among them."""
    if student == 1:
        return [teacher - 1]
    return [round(i * (teacher - 1) / (student - 1)) for i in range(student)]


def num_parameters(config: ModelConfig) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in Decoder(config).parameters())


@torch.no_grad()
def slices(teacher: Decoder, config: ModelConfig) -> Decoder:
    """The student's weights are the teacher's at the channels that carry most, and at each layer's strongest neurons.

    A channel's strength is the sum of the squares of the weights that write it, a neuron's of those that read or write it.
    Norms divide by the mean square over the channels that are left, which is larger: their weights are raised by as much,
    taking strength for energy.

    Raises:
        ConfigError: a mixture of experts, whose experts have no neurons in common.
    """
    if config.moe is not None:
        raise ConfigError('start = "slices" of a mixture of experts', remedy='use start = "fresh"')
    student = Decoder(config)
    kept = kept_layers(teacher.config.num_layers, config.num_layers)
    theirs = teacher.state_dict()
    wanted = student.state_dict()
    sources = {name: theirs[_name_there(name, kept)] for name in wanted}
    channels, raised = _channels(sources, config.hidden_size)
    neurons = {
        layer: _strongest(_neuron_strength(theirs, f"layers.{old}.mlp."), config.mlp_width)
        for layer, old in enumerate(kept)
    }
    for name, source in sources.items():
        for dim, inner in enumerate(_is_inner(name, source.dim())):
            if source.shape[dim] != wanted[name].shape[dim]:
                chosen = neurons[int(name.split(".")[1])] if inner else channels
                source = source.index_select(dim, chosen)
                if name.endswith("norm.weight"):
                    offset = float(config.norm == "rms_plus_one")
                    source = (source + offset) * raised - offset
        wanted[name].copy_(source)
    return student


def _channels(sources: dict[str, Tensor], width: int) -> tuple[Tensor, float]:
    """The channels that stay, and the root of how much larger the mean square over them is than over all."""
    parts_D = [
        source.double().square().movedim(dim, 0).reshape(source.shape[dim], -1).sum(1)
        for name, source in sources.items()
        for writer, dim in _WRITERS.items()
        if name.endswith(f"{writer}.weight")
    ]
    strength_D = torch.stack(parts_D).sum(0)
    chosen = _strongest(strength_D, width)
    return chosen, math.sqrt(float(strength_D[chosen].mean() / strength_D.mean()))


def _neuron_strength(tensors: dict[str, Tensor], prefix: str) -> Tensor:
    parts_I = [
        tensor.double().square().movedim(_is_inner(name, tensor.dim()).index(True), 0).flatten(1).sum(1)
        for name, tensor in tensors.items()
        if name.startswith(prefix) and True in _is_inner(name, tensor.dim()) and tensor.dim() == 2
    ]
    return torch.stack(parts_I).sum(0)


def _is_inner(name: str, dims: int) -> list[bool]:
    """Which dimensions of a tensor count a feed-forward's neurons."""
    if ".mlp." not in name:
        return [False] * dims
    if "down_proj" in name:
        return [False, True][:dims]
    return [True, False][:dims]


def _strongest(strength: Tensor, count: int) -> Tensor:
    return strength.topk(count).indices.sort().values


def _name_there(name: str, kept: list[int]) -> str:
    if not name.startswith("layers."):
        return name
    _, layer, rest = name.split(".", 2)
    return f"layers.{kept[int(layer)]}.{rest}"


def _as_json(values: dict[str, object]) -> object:
    return json.loads(json.dumps(values))
