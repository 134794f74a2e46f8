"""Layer by layer: gather the moments of what the maps read, choose codes, let the block with its new weights make the inputs
of the next. What is done lies in files, one a layer, each renamed into place whole; the same call goes on there.

Memory holds one layer's numbers: the model's own file is mapped, and its pages are given back behind each layer.

N outputs, K inputs of a map.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from hanok.artefacts import fsync_file
from hanok.compression.awq import awq_clip, awq_scales, scaled_hessian
from hanok.compression.calibrate import Moments, Rows, advance, embed, moments_of
from hanok.compression.experts import compress_experts, routed_rows
from hanok.compression.folds import Fold, apply_fold, folds_of
from hanok.compression.gptq import gptq
from hanok.compression.grid import Codes
from hanok.compression.hqq import hqq
from hanok.compression.prune import Sparsity, keep_mask, magnitude_scores, wanda_scores
from hanok.compression.rotate import Rotation
from hanok.compression.rtn import rtn
from hanok.compression.settings import CompressConfig, Plan, words_of
from hanok.compression.smooth import smooth_scales
from hanok.compression.sparsegpt import sparsegpt
from hanok.compression.texts import Texts
from hanok.kernels.formats import pack_words
from hanok.kernels.memory import give_back
from hanok.models.checkpoint import load_model
from hanok.models.checkpoint.weights import write_file
from hanok.models.coded import FLOAT_MAPS, stored_parts
from hanok.models.decoder import Block
from hanok.models.linear import Linear
from hanok.models.mlp import MixtureOfExperts
from hanok.reporting import log, progress


def compress_layers(plan: Plan, model: Path, texts: Texts, work: Path) -> None:
    """Leave `layer-NNN.safetensors` in `work` for each layer; those that are there are not made again."""
    decoder = load_model(model, dtype="stored", sparing=True)
    decoder.requires_grad_(False).set_compute_dtype(torch.float32)
    rotation = Rotation.of(decoder, plan.config.seed) if plan.config.rotate else None
    width, lengths = decoder.config.hidden_size, [len(ids) for ids in texts.calibration]
    count = len(decoder.layers)
    done = next((n for n in range(count) if not layer_file(work, n).is_file()), count)
    if done:
        log.info("going on at layer %d of %d", done, count)
    elif plan.calibrates:
        embed(decoder, texts.calibration, work / "inputs-0.tmp", rotation)
        os.replace(work / "inputs-0.tmp", work / "inputs-0.bin")
    give_back(stored_parts(decoder))
    with progress("compress", count - done, "layers") as bar:
        for n in range(done, count):
            block = decoder.layers[n]
            assert isinstance(block, Block)
            mapped = list(stored_parts(block))  # the block is about to get other weights
            tensors = rotation.turn_block(block) if rotation is not None else {}
            inputs = Rows(work / f"inputs-{n}.bin", width) if plan.calibrates else None
            moments = {} if inputs is None else moments_of(block, inputs, lengths)
            tensors |= compress_block(plan, f"layers.{n}", block, moments)
            if isinstance(block.mlp, MixtureOfExperts) and plan.method != "none":
                tensors |= _experts(plan, f"layers.{n}", block, inputs, lengths)
            if inputs is not None:  # before the layer's own file, which says that both are done
                advance(block, inputs, lengths, work / f"inputs-{n + 1}.tmp")
                os.replace(work / f"inputs-{n + 1}.tmp", work / f"inputs-{n + 1}.bin")
            _write_layer(tensors, layer_file(work, n))
            (work / f"inputs-{n}.bin").unlink(missing_ok=True)
            decoder.layers[n] = nn.Identity()  # its numbers are not needed again
            del block, inputs, moments, tensors
            give_back(mapped)
            bar.advance(1)


def layer_file(work: Path, layer: int) -> Path:
    return work / f"layer-{layer:03d}.safetensors"


@torch.no_grad()
def compress_block(plan: Plan, where: str, block: Block, moments: Mapping[str, Moments]) -> dict[str, Tensor]:
    """Codes and scales by the names of the block's maps, and what else changed; the block is left with the new weights.

    Args:
        where: the block's name in the model: maps whose width differs are named in full.
    """
    config = plan.config
    maps = {
        name: module
        for name, module in block.named_modules()
        if isinstance(module, Linear) and takes_codes(name, module, config)
    }
    several = {id(one): one.hessian_KK for one in moments.values()}  # maps that read the same share one
    hessians = {name: several[id(moments[name])] for name in maps} if moments else {}
    changed: set[str] = set()
    for fold in folds_of(block) if plan.method == "awq" or config.smooth else ():
        if any(name not in maps for name in fold.readers):
            continue
        changed |= _fold(plan, where, block, fold, moments, hessians)
    changed -= {f"{name}.weight" for name in maps}
    tensors: dict[str, Tensor] = {}
    for name, module in maps.items():
        keep_NK = None
        if config.prune != "none":
            module.weight, keep_NK = _pruned(config, module.weight, hessians.get(name))
        if plan.method == "none":
            tensors[f"{name}.weight"] = module.weight.detach()
            continue
        codes = _codes(plan, plan.bits(f"{where}.{name}"), module.weight, hessians.get(name), keep_NK)
        module.weight = _parameter(codes.values())
        tensors |= {f"{name}.{key}": part for key, part in _in_files(codes).items()}
    return tensors | {name: block.get_parameter(name).detach() for name in changed}


def _experts(
    plan: Plan, where: str, block: Block, inputs: Rows | None, lengths: Sequence[int]
) -> dict[str, Tensor]:
    """Codes of the block's experts, stacked, and how many rows each met."""
    assert isinstance(block.mlp, MixtureOfExperts)
    stacks = (block.mlp.experts.gate_up_proj, block.mlp.experts.down_proj)
    if not all(plan.config.fills(stack.shape[-1]) for stack in stacks):
        return {}
    routed = None if inputs is None else routed_rows(block, inputs, lengths)
    found, counts = compress_experts(plan, f"{where}.mlp.experts", block.mlp.experts, routed)
    inputs_of_each = block.mlp.experts.gate_up_proj.shape[-1]
    tensors = {} if routed is None else {"mlp.experts.rows": torch.tensor([*counts, inputs_of_each])}
    for name, several in found.items():
        parts = [_in_files(codes) for codes in several]
        for key in parts[0]:
            tensors[f"mlp.experts.{name}.{key}"] = torch.stack([part[key] for part in parts])
    return tensors


def takes_codes(name: str, module: Linear, config: CompressConfig) -> bool:
    """Whether a map of a block is quantised: its inputs fill groups, and it is no gate of delta attention."""
    return name.rpartition(".")[2] not in FLOAT_MAPS and config.fills(module.weight.shape[1])


def _fold(
    plan: Plan, where: str, block: Block, fold: Fold, moments: Mapping[str, Moments], hessians: dict[str, Tensor]
) -> set[str]:  # fmt: skip
    """Move a scale from inputs into weights; `hessians` become those of the new inputs. Returns the source's parameters."""
    config, first = plan.config, fold.readers[0]
    readers = [block.get_submodule(name).get_parameter("weight") for name in fold.readers]
    if plan.method == "awq":
        bits = plan.bits(f"{where}.{first}")
        scale_K = awq_scales(
            readers,
            hessians[first],
            moments[first].mean_abs_K,
            bits,
            config.group_of(len(hessians[first])),
            symmetric=not config.zeros,
        )
    else:
        scale_K = smooth_scales(moments[first].max_abs_K, readers, alpha=config.smooth)
    scale_K = apply_fold(block, fold, scale_K)
    for name in fold.readers:
        hessians[name] = scaled_hessian(hessians[name], scale_K)
    source = block.get_submodule(fold.source)
    return {f"{fold.source}.{name}" for name, _ in source.named_parameters(recurse=False)}


def _pruned(
    config: CompressConfig, weight_NK: Tensor, hessian_KK: Tensor | None
) -> tuple[nn.Parameter, Tensor]:
    """(the weight without what is pruned, what stays [N, K])."""
    share, drop, of = config.pruned
    sparsity = Sparsity(share=share, drop=drop, of=of)
    weight_NK = weight_NK.detach().float()
    if config.prune == "sparsegpt":
        assert hessian_KK is not None
        weight_NK = sparsegpt(weight_NK, hessian_KK, sparsity, damp=config.damp)
        return _parameter(weight_NK), weight_NK != 0
    scores_NK = magnitude_scores(weight_NK)
    if config.prune == "wanda":
        assert hessian_KK is not None
        scores_NK = wanda_scores(weight_NK, hessian_KK.diagonal().sqrt().float())
    keep_NK = keep_mask(scores_NK, sparsity)
    return _parameter(weight_NK * keep_NK), keep_NK


def _codes(
    plan: Plan, bits: int, weight_NK: Tensor, hessian_KK: Tensor | None, keep_NK: Tensor | None
) -> Codes:
    config, symmetric = plan.config, not plan.config.zeros
    group = config.group_of(weight_NK.shape[1])
    if plan.method == "rtn":
        return rtn(weight_NK, bits, group, symmetric=symmetric)
    if plan.method == "hqq":
        codes = hqq(weight_NK, bits, group, symmetric=symmetric)
        return codes if symmetric else codes.with_whole_zeros(weight_NK)
    assert hessian_KK is not None
    if plan.method == "awq":
        return awq_clip(weight_NK, hessian_KK, bits, group, symmetric=symmetric)
    return gptq(
        weight_NK, hessian_KK, bits, group, symmetric=symmetric, damp=config.damp, act_order=config.act_order,
        keep_NK=keep_NK,
    )  # fmt: skip


def _in_files(codes: Codes) -> dict[str, Tensor]:
    """Words, scales, and zero points where there are some."""
    bits, symmetric = codes.grid.bits, codes.grid.symmetric
    q_NK = codes.q_NK.to(torch.int8) if symmetric else _centred(codes.q_NK, bits)
    found = {"codes": pack_words(q_NK, words_of(bits)), "scales": codes.grid.scales_NG.half()}
    return found if symmetric else found | {"zeros": _centred(codes.grid.zeros_NG, bits)}


def _centred(codes: Tensor, bits: int) -> Tensor:
    """int8, around the middle of the range: codes of asymmetric grids, and their zero points, as files have them."""
    return (codes - (1 << (bits - 1))).to(torch.int8)


def _write_layer(tensors: dict[str, Tensor], file: Path) -> None:
    temporary = file.with_suffix(".tmp")
    write_file(tensors, temporary)
    fsync_file(temporary)
    os.replace(temporary, file)


def _parameter(values: Tensor) -> nn.Parameter:
    return nn.Parameter(values, requires_grad=False)
