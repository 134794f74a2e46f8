"""Other people's four bits on the same model: each peer by its own quantiser, and the law of the next token that is left.

HQQ, torchao and optimum-quanto round the maps of the layers as they are; gptqmodel calibrates on windows of text, once a seed;
llama.cpp rounds its own file and runs it. Embedding and head: llama.cpp's as its format has them, in bfloat16 with the others.
"""

from __future__ import annotations

import importlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hanok.bench.accuracy import LENGTH
from hanok.bench.decode import make_gguf
from hanok.bench.llama_peer import bits_a_weight, peer_logits
from hanok.compression.compress import texts_of
from hanok.compression.settings import CompressConfig
from hanok.models.checkpoint import load_model
from hanok.models.decoder import Decoder
from hanok.models.linear import Linear
from hanok.reporting import log

Logits = Callable[[list[int]], Tensor]
Found = tuple[str, float, list[Logits]]
_PLAIN = 16.0


def peers(
    stored: Path, shards: Path, folder: Path, config: CompressConfig, seeds: Sequence[int]
) -> Iterator[Found]:
    """(name, bits a weight of a matrix, logits of ids: one for each seed where it calibrates), of those that are installed."""
    for name in WITHOUT_TEXT:
        if (found := peer(name, stored, folder)) is not None:
            yield name, found[0], [found[1]]
    several = [found for s in seeds if (found := gptqmodel(stored, shards, folder, replace(config, seed=s)))]
    if several:
        yield GPTQMODEL, several[0][0], [logits for _, logits in several]


def gptqmodel(
    stored: Path, shards: Path, folder: Path, config: CompressConfig
) -> tuple[float, Logits] | None:
    """As `peer`, of the one that calibrates: on the windows that ours has with these settings."""
    os.environ.setdefault(
        "GPTQMODEL_CPU_WORKERS", "2"
    )  # by itself it takes fewer on two cores, and then stops
    if not _installed(GPTQMODEL, "gptqmodel"):
        return None
    return _gptqmodel(stored, shards, folder / f"gptqmodel-{config.seed}", config)


def peer(name: str, stored: Path, folder: Path) -> tuple[float, Logits] | None:
    """Bits a weight of a matrix, and logits of ids, of one that looks at weights alone; None: it is not installed."""
    if name in _FORMATS:
        file = make_gguf(stored, folder).get(_FORMATS[name])
        if file is None:
            return None
        return bits_a_weight(file), peer_logits(file, LENGTH, torch.get_num_threads())
    module, rounding = _ROUNDINGS[name]
    if not _installed(name, module):
        return None
    decoder = load_model(stored).requires_grad_(False)
    return round_layers(decoder, rounding), logits_of(decoder)


def logits_of(decoder: Decoder) -> Logits:
    def logits(ids: list[int]) -> Tensor:
        hidden_ND, _ = decoder(torch.tensor(ids), torch.tensor([0, len(ids)], dtype=torch.int32))
        return decoder.logits(hidden_ND)

    return logits


def round_layers(decoder: Decoder, rounding: Callable[[Tensor], tuple[Tensor, float]]) -> float:
    """Every map of the layers, in place; bits a weight of all matrices."""
    count = sum(p.numel() for p in decoder.parameters() if p.dim() > 1)
    held = _PLAIN * count
    for module in decoder.layers.modules():
        if isinstance(module, Linear):
            values, bits = rounding(module.weight.detach())
            module.weight.copy_(values)
            held -= (_PLAIN - bits) * values.numel()
    return held / count


def _installed(name: str, module: str) -> bool:
    if find_spec(module.split(".")[0]) is None:
        log.info("%s is not installed: no such peer", name)
        return False
    try:
        importlib.import_module(module)
    except ImportError as error:
        log.warning("%s cannot be imported (%s): no such peer", name, error)
        return False
    return True


def _hqq(weight_NK: Tensor) -> tuple[Tensor, float]:
    """Four bits, groups of 64 along the input, scale and zero point in 16 bits each."""
    quantiser = importlib.import_module("hqq.core.quantize").Quantizer
    codes, meta = quantiser.quantize(
        weight_NK.float(), nbits=4, group_size=64, axis=1, device="cpu", compute_dtype=torch.float32
    )
    return quantiser.dequantize(codes, meta).view_as(weight_NK), 4 + 32 / 64


def _torchao(weight_NK: Tensor) -> tuple[Tensor, float]:
    """Four bits asymmetric, groups of 32 along the input, scale and zero point in 16 bits each."""
    ao = importlib.import_module("torchao.quantization.quant_primitives")
    block, args = (1, 32), {"quant_min": 0, "quant_max": 15}
    scale, zero = ao.choose_qparams_affine(
        weight_NK.float(), ao.MappingType.ASYMMETRIC, block, torch.uint8, **args, eps=1e-6
    )
    codes = ao.quantize_affine(weight_NK.float(), block, scale, zero, torch.uint8, **args)
    values = ao.dequantize_affine(codes, block, scale, zero, torch.uint8, **args, output_dtype=torch.float32)
    return values, 4 + 32 / 32


def _quanto(weight_NK: Tensor) -> tuple[Tensor, float]:
    """Four bits, groups of 64 along the input, scale and shift in 16 bits each."""
    quanto = importlib.import_module("optimum.quanto")
    weight_NK = weight_NK.float()
    scale, shift = quanto.MaxOptimizer()(weight_NK, quanto.qint4, 0, 64)
    codes = quanto.quantize_weight(weight_NK, quanto.qint4, 0, scale.half().float(), shift.half().float(), 64)
    return codes.dequantize(), 4 + 32 / 64


_FORMATS = {"llama.cpp Q4_0": "Q4_0", "llama.cpp Q4_K_M": "Q4_K_M"}
_ROUNDINGS: dict[str, tuple[str, Callable[[Tensor], tuple[Tensor, float]]]] = {
    "hqq": ("hqq.core.quantize", _hqq),
    "torchao": ("torchao.quantization.quant_primitives", _torchao),
    "optimum-quanto": ("optimum.quanto", _quanto),
}


WITHOUT_TEXT = (*_FORMATS, *_ROUNDINGS)
GPTQMODEL = "gptqmodel"


def _gptqmodel(stored: Path, shards: Path, out: Path, config: CompressConfig) -> tuple[float, Logits]:
    """GPTQ by its own loop, symmetric in groups of 32; its files are read by ours."""
    theirs: Any = importlib.import_module("gptqmodel")
    if not out.is_dir():
        windows = texts_of(config, stored, shards).calibration
        model = theirs.GPTQModel.load(str(stored), theirs.QuantizeConfig(bits=4, group_size=32), device="cpu")
        model.quantize(
            [{"input_ids": [w.tolist()], "attention_mask": [[1] * len(w)]} for w in windows], batch_size=1
        )
        making = out.with_name(f".{out.name}.making")
        shutil.rmtree(making, ignore_errors=True)
        model.save(str(making))
        making.rename(out)
    decoder = load_model(out).requires_grad_(False)
    count = sum(p.numel() for p in decoder.parameters() if p.dim() > 1)
    in_layers = sum(p.numel() for p in decoder.layers.parameters() if p.dim() > 1)
    return (_PLAIN * (count - in_layers) + (4 + 20 / 32) * in_layers) / count, logits_of(decoder)
