"""`hanok compress`: a model directory with the maps of its layers as codes, in the files that `hanok model convert` writes too.

The layers are done one by one in a folder beside the result (`.OUT.layers`, see `layers.py`); the same command goes on there.
The result itself appears at the end, whole, or not at all. Codes of 2 to 4 bits lie in words of four, of 5 to 8 in words of
eight: what the kernels take as it is, with zero points or without.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from hanok.artefacts import Artefact, create_artefact, open_artefact, write_json
from hanok.compression.layers import compress_layers, layer_file
from hanok.compression.measure import compare, layer_distances
from hanok.compression.page import Context, Measured, write_page
from hanok.compression.rotate import Rotation
from hanok.compression.settings import CompressConfig, Method, Plan, words_of
from hanok.compression.sizes import sizes_of
from hanok.compression.texts import Texts, read_texts
from hanok.errors import ConfigError
from hanok.kernels.formats import unpack_words
from hanok.models.checkpoint import FileCodes, load_config, load_model, save_model, save_quantised
from hanok.models.checkpoint.weights import read_file
from hanok.models.checkpoint.write_codes import check_codable
from hanok.models.decoder import Decoder
from hanok.models.linear import Linear
from hanok.reporting import log
from hanok.tokens.tokenizer import Tokenizer


def compress(
    method: Method,
    config: CompressConfig,
    *,
    model: Path,
    data: Path,
    out: Path,
    widths: Mapping[str, int] = {},
    reference: Path | None = None,
    context: Context = Context(),
) -> Artefact:
    """Write `out` from `model`. Returns the new artefact; its metrics say what it cost.

    Args:
        widths: bits of maps that differ from `config.bits`, by name.
        reference: the model to compare the result with, where `model` was changed already.
        context: for the report.

    Raises:
        ConfigError: a model without such files (experts). ArtefactError: damaged data, or
            shards of another tokeniser.
    """
    plan = Plan(method, config, widths)
    if out.exists():
        raise ConfigError(f"{out} is there already", remedy="choose another name, or delete it")
    check_codable(load_config(model))
    texts = texts_of(config, model, data)
    source = open_artefact(model)
    parents = {"source": source, **({} if reference is None else {"original": open_artefact(reference)})}
    step = {
        "compress": {
            "method": method, "source": model.name, "data": texts.hash, "widths": dict(widths),
            **dataclasses.asdict(config),
        }
    }  # fmt: skip
    work = out.with_name(f".{out.name}.layers")
    _begin(work, {"source": source.hash, **step})
    compress_layers(plan, model, texts, work)
    with create_artefact(out, kind="model", parents=parents, step=step) as draft:
        plain = write_model(plan, model, work, draft.path)
        few = few_rows(work)
        measured = _measure(plan, reference or model, draft.path, texts, context)
        draft.metrics |= {
            **measured.metrics(),
            "maps_left_plain": len(plain),
            "experts_with_few_rows": len(few),
        }
        write_page(
            plan, measured, draft.path, tokenizer=Tokenizer.load(model), plain=plain, few=few, context=context
        )
    shutil.rmtree(work)
    return open_artefact(out, verify=False)


def texts_of(config: CompressConfig, model: Path, data: Path) -> Texts:
    return read_texts(
        data, model, samples=config.samples, held_out=config.held_out, length=config.length, seed=config.seed
    )


def write_model(plan: Plan, model: Path, work: Path, directory: Path) -> list[str]:
    """The files of the compressed model from those of its layers. Returns the names of maps without codes."""
    made, codes = filled(plan, model, work)
    plain = sorted(f"{name}.weight" for name, _ in _maps(made) if f"{name}.weight" not in codes)
    if plan.method == "none":
        save_model(made, directory, tokenizer_dir=model)
        return []
    finer = plan.head_bits if plan.head_bits != plan.config.words else None
    save_quantised(made, directory, bits=plan.config.words, tokenizer_dir=model, codes=codes, head_bits=finer)
    return plain


def filled(plan: Plan, model: Path, work: Path) -> tuple[Decoder, dict[str, FileCodes]]:
    """The decoder with what is no code, and the codes by the names of their weights."""
    made, codes = load_model(model, dtype="stored", sparing=True), {}
    made.requires_grad_(False)
    for number, block in enumerate(made.layers):
        tensors = read_file(layer_file(work, number))
        for name, tensor in tensors.items():
            where, _, part = name.rpartition(".")
            if part == "codes":
                full = f"layers.{number}.{where}"
                key = full if ".experts." in full else f"{full}.weight"
                codes[key] = FileCodes(
                    tensor,
                    tensors[f"{where}.scales"],
                    words_of(plan.bits(full)),
                    tensors.get(f"{where}.zeros"),
                )
            elif part not in ("scales", "zeros", "rows"):
                module = block.get_submodule(where)
                old = getattr(module, part)
                setattr(module, part, nn.Parameter(tensor.to(old.dtype), requires_grad=False))
    if plan.config.rotate:
        made.set_compute_dtype(torch.float32)
        Rotation.of(made, plan.config.seed).turn_ends(made)
    return made, codes


def few_rows(work: Path) -> list[tuple[int, int, int]]:
    """(layer, expert, rows) of experts that met fewer calibration rows than their maps have inputs."""
    found = []
    for number, file in enumerate(sorted(work.glob("layer-*.safetensors"))):
        tensors = read_file(file)
        if "mlp.experts.rows" not in tensors:
            continue
        *rows, inputs = tensors["mlp.experts.rows"].tolist()
        found += [(number, expert, count) for expert, count in enumerate(rows) if count < inputs]
    return found


def decompressed(plan: Plan, model: Path, work: Path) -> Decoder:
    """The decoder with the numbers that its codes stand for, in memory, computing in float32."""
    made, codes = filled(plan, model, work)
    for name, one in codes.items():
        words_NP = one.words_NP.flatten(0, -2)
        grouped = unpack_words(words_NP, one.bits).float().unflatten(1, (one.scales_NG.shape[-1], -1))
        if one.zeros_NG is not None:
            grouped = grouped - one.zeros_NG.float().flatten(0, -2)[..., None]
        values = (grouped * one.scales_NG.float().flatten(0, -2)[..., None]).flatten(1)
        where, _, part = name.rpartition(".")
        parameter = nn.Parameter(values.view(*one.words_NP.shape[:-1], -1), requires_grad=False)
        made.get_submodule(where).register_parameter(part, parameter)
    made.set_compute_dtype(torch.float32)
    return made


def _begin(work: Path, job: dict[str, object]) -> None:
    """Keep what an equal command left; clear what another left."""
    job = json.loads(json.dumps(job))
    file = work / "job.json"
    if file.is_file() and json.loads(file.read_text(encoding="utf-8")) == job:
        return
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    write_json(file, job)


def _maps(model: Decoder) -> list[tuple[str, Linear]]:
    return [(f"layers.{name}", m) for name, m in model.layers.named_modules() if isinstance(m, Linear)]


def _measure(plan: Plan, model: Path, made: Path, texts: Texts, context: Context) -> Measured:
    """Of the files as they were written."""
    config = plan.config
    sizes = sizes_of(model, made, plan.head_bits)
    alone: list[float] = []
    if config.layer_windows and not config.rotate:
        alone = layer_distances(*_pair(model, made), texts.held_out[: config.layer_windows])
    distance = compare(*_pair(model, made), texts.held_out, head_bits=plan.head_bits, keep=False)
    speeds = None
    if context.speed is not None:
        log.info("measuring decode speed here, before and after")
        speeds = (context.speed(model), context.speed(made))
    return Measured(distance, sizes, alone, speeds, texts.held_out)


def _pair(model: Path, made: Path) -> tuple[Decoder, Decoder]:
    decoders = tuple(load_model(path, dtype="stored", sparing=True) for path in (model, made))
    for decoder in decoders:
        decoder.requires_grad_(False).set_compute_dtype(torch.float32)
    return decoders[0], decoders[1]
