"""`hanok compress`: a model directory with the maps of its layers as codes, in the files that `hanok model convert` writes too.

Layer by layer: gather the moments of what the maps read, choose codes, let the block with its new weights make the inputs of
the next. What is done lies in a folder beside the result (`.OUT.layers`), one file a layer, each renamed into place whole; the
same command goes on there. The result itself appears at the end, or not at all.

Grids are symmetric; codes of 2 to 4 bits lie in words of four, of 5 to 8 in words of eight: what the kernels take as it is.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from hanok.artefacts import Artefact, create_artefact, fsync_file, open_artefact, write_json
from hanok.compression.awq import awq_clip, awq_scales, scaled_hessian
from hanok.compression.calibrate import Moments, advance, embed, moments_of, open_rows
from hanok.compression.folds import apply_fold, folds_of
from hanok.compression.gptq import gptq
from hanok.compression.grid import Codes
from hanok.compression.hqq import hqq
from hanok.compression.measure import compare
from hanok.compression.rtn import rtn
from hanok.compression.texts import Texts, read_texts
from hanok.errors import ConfigError
from hanok.kernels.formats import GROUP, Stored, pack_words
from hanok.models.checkpoint import load_config, load_model, save_quantised
from hanok.models.checkpoint.weights import read_file, write_file
from hanok.models.checkpoint.write_codes import check_codable
from hanok.models.coded import CodedParameter
from hanok.models.decoder import Block, Decoder
from hanok.models.linear import Linear
from hanok.reporting import Report, log, progress

Method = Literal["rtn", "hqq", "gptq", "awq"]
# decay, write strength and gates of delta attention: small, and what they say is multiplied up over a whole text
PLAIN = ("f_a_proj", "f_b_proj", "b_proj", "a_proj", "g_a_proj", "g_b_proj")


@dataclass(frozen=True, kw_only=True, slots=True)
class CompressConfig:
    """Args:
    bits: 2 to 8. group: inputs that share a scale, a multiple of 32.
    samples, length: windows of text to calibrate on, and tokens of each (gptq, awq).
    held_out: windows to measure on.
    damp: part of the mean second moment that is added to all (gptq). act_order: large inputs first (gptq).
    seed: of which windows are drawn.
    """

    bits: int = 4
    group: int = 32
    samples: int = 128
    length: int = 512
    held_out: int = 16
    damp: float = 0.01
    act_order: bool = False
    seed: int = 1

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise ConfigError(f"bits = {self.bits}", remedy="choose 2 to 8")
        if self.group < GROUP or self.group % GROUP:
            raise ConfigError(f"group = {self.group}", remedy=f"choose a multiple of {GROUP}")

    @property
    def words(self) -> int:
        """Bits that a code has in the file."""
        return 4 if self.bits <= 4 else 8


def compress(method: Method, config: CompressConfig, *, model: Path, data: Path, out: Path) -> Artefact:
    """Write `out` from `model`. Returns the new artefact; its metrics say what it cost.

    Raises:
        ConfigError: a model without such files (experts). ArtefactError: damaged data, or
            shards of another tokeniser.
    """
    if out.exists():
        raise ConfigError(f"{out} is there already", remedy="choose another name, or delete it")
    check_codable(load_config(model))
    texts = read_texts(
        data, model, samples=config.samples, held_out=config.held_out, length=config.length, seed=config.seed
    )
    source = open_artefact(model)
    step = {
        "compress": {"method": method, "source": model.name, "data": texts.hash, **dataclasses.asdict(config)}
    }
    work = out.with_name(f".{out.name}.layers")
    _begin(work, {"source": source.hash, **step})
    quantise_layers(method, config, model, texts, work)
    with create_artefact(out, kind="model", parents={"source": source}, step=step) as draft:
        made = load_model(model, dtype="stored")
        _fill(made, work, config)
        plain = sorted(f"{n}.weight" for n, m in _maps(made) if not isinstance(m.weight, CodedParameter))
        save_quantised(
            made,
            draft.path,
            bits=config.words,
            tokenizer_dir=model,
            group=config.group,
            keep=frozenset(plain),
        )
        draft.metrics |= _measure(model, draft.path, texts, config)
        draft.metrics["maps_left_plain"] = len(plain)
        _report(method, config, draft.metrics, plain).write(draft.path)
    shutil.rmtree(work)
    return open_artefact(out, verify=False)


def quantise_layers(method: Method, config: CompressConfig, model: Path, texts: Texts, work: Path) -> None:
    """Leave `layer-NNN.safetensors` in `work` for each layer; those that are there are not made again."""
    decoder = load_model(model, dtype="stored")
    decoder.requires_grad_(False).set_compute_dtype(torch.float32)
    width, lengths = decoder.config.hidden_size, [len(ids) for ids in texts.calibration]
    streamed, count = method in ("gptq", "awq"), len(decoder.layers)
    done = next((n for n in range(count) if not _layer_file(work, n).is_file()), count)
    if done:
        log.info("going on at layer %d of %d", done, count)
    elif streamed:
        embed(decoder, texts.calibration, work / "inputs-0.tmp")
        os.replace(work / "inputs-0.tmp", work / "inputs-0.bin")
    with progress("compress", count - done, "layers") as bar:
        for n in range(done, count):
            block = decoder.layers[n]
            assert isinstance(block, Block)
            inputs = open_rows(work / f"inputs-{n}.bin", width) if streamed else None
            moments = {} if inputs is None else moments_of(block, inputs, lengths)
            tensors = quantise_block(method, config, block, moments)
            if inputs is not None:  # before the layer's own file, which says that both are done
                advance(block, inputs, lengths, work / f"inputs-{n + 1}.tmp")
                os.replace(work / f"inputs-{n + 1}.tmp", work / f"inputs-{n + 1}.bin")
            _write_layer(tensors, _layer_file(work, n))
            (work / f"inputs-{n}.bin").unlink(missing_ok=True)
            decoder.layers[n] = nn.Identity()  # its numbers are not needed again
            bar.advance(1)


@torch.no_grad()
def quantise_block(
    method: Method, config: CompressConfig, block: Block, moments: dict[str, Moments]
) -> dict[str, Tensor]:
    """Codes and scales by the names of the block's maps, and what else changed; the block is left with the new weights."""
    maps = {
        name: module
        for name, module in block.named_modules()
        if isinstance(module, Linear) and takes_codes(name, module, config.group)
    }
    hessians = {name: moments[name].hessian_KK for name in maps} if moments else {}
    changed: set[str] = set()
    if method == "awq":
        for fold in folds_of(block):
            if any(name not in maps for name in (*fold.readers,)):
                continue
            first = fold.readers[0]
            weights = [maps[name].weight for name in fold.readers]
            scale_K = awq_scales(
                weights, hessians[first], moments[first].mean_abs_K, config.bits, config.group
            )
            scale_K = apply_fold(block, fold, scale_K)
            hessians |= {name: scaled_hessian(hessians[name], scale_K) for name in fold.readers}
            source = block.get_submodule(fold.source)
            changed |= {f"{fold.source}.{name}" for name, _ in source.named_parameters(recurse=False)}
    tensors: dict[str, Tensor] = {}
    for name, module in maps.items():
        codes = _codes(method, config, module.weight, hessians.get(name))
        module.weight = nn.Parameter(codes.values(), requires_grad=False)
        tensors |= {f"{name}.codes": codes.q_NK.to(torch.int8), f"{name}.scales": codes.grid.scales_NG.half()}
    changed -= {f"{name}.weight" for name in maps}
    return tensors | {name: block.get_parameter(name).detach() for name in changed}


def takes_codes(name: str, module: Linear, group: int) -> bool:
    """Whether a map of a block is quantised: its inputs fill groups, and it is no gate of delta attention."""
    return name.rpartition(".")[2] not in PLAIN and module.weight.shape[1] % group == 0


def _codes(method: Method, config: CompressConfig, weight_NK: Tensor, hessian_KK: Tensor | None) -> Codes:
    if method == "rtn":
        return rtn(weight_NK, config.bits, config.group)
    if method == "hqq":
        return hqq(weight_NK, config.bits, config.group, symmetric=True)
    assert hessian_KK is not None
    if method == "awq":
        return awq_clip(weight_NK, hessian_KK, config.bits, config.group)
    return gptq(
        weight_NK, hessian_KK, config.bits, config.group, damp=config.damp, act_order=config.act_order
    )


def _begin(work: Path, job: dict[str, object]) -> None:
    """Keep what an equal command left; clear what another left."""
    job = json.loads(json.dumps(job))
    file = work / "job.json"
    if file.is_file() and json.loads(file.read_text(encoding="utf-8")) == job:
        return
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    write_json(file, job)


def _layer_file(work: Path, layer: int) -> Path:
    return work / f"layer-{layer:03d}.safetensors"


def _write_layer(tensors: dict[str, Tensor], file: Path) -> None:
    temporary = file.with_suffix(".tmp")
    write_file(tensors, temporary)
    fsync_file(temporary)
    os.replace(temporary, file)


def _fill(model: Decoder, work: Path, config: CompressConfig) -> None:
    for n, block in enumerate(model.layers):
        for name, tensor in read_file(_layer_file(work, n)).items():
            where, _, part = name.rpartition(".")
            module = block.get_submodule(where)
            if part == "scales":
                continue
            if part != "codes":
                old = getattr(module, part)
                setattr(module, part, nn.Parameter(tensor.to(old.dtype), requires_grad=False))
                continue
            scales = read_file(_layer_file(work, n))[f"{where}.scales"]
            stored = Stored(pack_words(tensor, config.words), scales, config.words, tensor.shape[1])
            setattr(module, "weight", CodedParameter.of(stored))  # noqa: B010 - a module of any kind


def _maps(model: Decoder) -> list[tuple[str, Linear]]:
    found = [(f"layers.{name}", m) for name, m in model.layers.named_modules() if isinstance(m, Linear)]
    return found


def _measure(model: Path, made: Path, texts: Texts, config: CompressConfig) -> dict[str, float]:
    """Of the files as they were written."""
    decoders = [load_model(path, dtype="stored") for path in (model, made)]
    numbers = sum(p.numel() for p in decoders[0].parameters())
    coded = sum(p.numel() for p in decoders[1].parameters() if isinstance(p, CodedParameter))
    for decoder in decoders:
        decoder.requires_grad_(False).set_compute_dtype(torch.float32)
    sizes = [sum(f.stat().st_size for f in path.glob("*.safetensors")) for path in (model, made)]
    return {
        "bytes_before": sizes[0],
        "bytes_after": sizes[1],
        "bits_a_weight": 8 * sizes[1] / numbers,
        "bits_a_coded_weight": config.words + 16 / config.group,
        "coded_share": coded / numbers,
        **compare(decoders[0], decoders[1], texts.held_out),
    }


def _report(method: str, config: CompressConfig, metrics: dict[str, float], plain: list[str]) -> Report:
    report = Report(f"Compressed: {method}, {config.bits} bits in groups of {config.group}")
    report.add_table("What it cost", ("measure", "value"), list(metrics.items()))
    report.add_table("Settings", ("setting", "value"), list(dataclasses.asdict(config).items()))
    if plain:
        report.add_text("Maps that stayed as they are", "\n".join(plain))
    return report
