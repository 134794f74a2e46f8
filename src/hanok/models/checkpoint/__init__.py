"""Model directories in the Hugging Face layout: `config.json`, safetensors (one file or several), the tokeniser's files.

Any family of `hanok.models.families` is read and written. Weights are memory-mapped; nothing is executed or unpickled.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from hanok.artefacts import write_json
from hanok.errors import CheckpointError
from hanok.kernels.memory import give_back
from hanok.models.checkpoint.packed import dequantise, fitting
from hanok.models.checkpoint.stored import incoming_stored, split_stored, stored_bits
from hanok.models.checkpoint.weights import SHARD_BYTES, read_file, read_weights, write_file, write_weights
from hanok.models.checkpoint.write_codes import FileCodes, coded_tensors
from hanok.models.coded import CodedParameter, finite_codes
from hanok.models.config import ModelConfig
from hanok.models.decoder import Decoder
from hanok.models.families import family_of, read_config, write_config

TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json", "chat_template.jinja",
)  # fmt: skip
_HEAD_BITS = "hanok_head_bits"  # others ignore it
_FINITE_CHUNK = 1 << 24  # numbers looked at together


def save_model(
    model: Decoder, directory: Path, *, tokenizer_dir: Path | None = None, shard_bytes: int = SHARD_BYTES
) -> None:
    """Write the model's files into `directory`; that it appears whole is the caller's care."""
    dtype = str(model.embed_tokens.weight.dtype).removeprefix("torch.")
    tensors = {name: t.detach() for name, t in model.state_dict().items() if ".adapters." not in name}
    main = {name: tensor for name, tensor in tensors.items() if not name.startswith("mtp.")}
    theirs = family_of(model.config).outgoing(main, model.config)
    _write(model, theirs, write_config(model.config, dtype=dtype), directory, shard_bytes)
    _copy_tokenizer(tokenizer_dir, directory)


def save_quantised(
    model: Decoder,
    directory: Path,
    *,
    bits: int,
    plain: torch.dtype | None = None,
    tokenizer_dir: Path | None = None,
    shard_bytes: int = SHARD_BYTES,
    codes: Mapping[str, FileCodes] | None = None,
    head_bits: int | None = None,
) -> None:
    """The same with the linear maps of the layers as codes (`write_codes.py`), the rest in the type `plain`.

    Args:
        bits: 4 or 8, where the codes are found here. codes: those found elsewhere; maps that are not among them stay plain.
        head_bits: what the kernels are to round embedding and head to, if not to `bits`.

    Raises:
        ConfigError: a model whose family has no such files.
    """
    theirs, settings = coded_tensors(model, bits, plain, codes=codes)
    # float16 is the type of the scales: read as anything else by others, they would be rounded
    values = write_config(model.config, dtype="float16") | {"quantization_config": settings}
    if head_bits in (4, 8):
        values[_HEAD_BITS] = head_bits
    _write(model, theirs, values, directory, shard_bytes)
    _copy_tokenizer(tokenizer_dir, directory)


def _write(
    model: Decoder, theirs: dict[str, Tensor], values: dict[str, Any], directory: Path, shard_bytes: int
) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / "config.json", values)
    write_weights(theirs, directory, shard_bytes=shard_bytes)
    future = {f"mtp.{name}": tensor.detach() for name, tensor in model.mtp.state_dict().items()}
    if future:
        write_file(future, directory / "mtp.safetensors")


def _copy_tokenizer(source: Path | None, directory: Path) -> None:
    for name in TOKENIZER_FILES:
        if source is not None and (source / name).is_file():
            shutil.copyfile(source / name, directory / name)


def load_config(directory: Path) -> ModelConfig:
    """Raises CheckpointError where there is no readable `config.json` of a supported family."""
    return read_config(read_settings(directory))


def load_stored_bits(directory: Path) -> int | None:
    """4 or 8 where a quantised directory has codes of that width that the kernels take as they are. Raises as `load_config`."""
    return stored_bits(read_settings(directory).get("quantization_config") or {})


def load_head_bits(directory: Path) -> int | None:
    """Bits that embedding and head of a quantised directory are meant to have in the kernels, where it says so; in the file
    they are plain. Raises as `load_config`."""
    bits = read_settings(directory).get(_HEAD_BITS)
    return bits if bits in (4, 8) else None


def read_settings(directory: Path) -> dict[str, Any]:
    """What `config.json` says. Raises CheckpointError where there is no readable one."""
    file = directory / "config.json"
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"no config.json in {directory}", remedy="give a model directory") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} is not JSON ({error})", remedy="restore it") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{file} holds no object", remedy="restore it")
    return values


def load_model(
    directory: Path,
    *,
    dtype: torch.dtype | Literal["stored"] | None = None,
    device: str = "cpu",
    sparing: bool = False,
) -> Decoder:
    """A decoder with the directory's weights, in float32 unless `dtype` says otherwise.

    Args:
        dtype: "stored" keeps the file's types and maps the weights from disk without a copy; codes stay codes where
            `stored.py` can keep them, as `CodedParameter`.
        sparing: gives the pages of a mapped file back as soon as their numbers were checked.

    Raises:
        CheckpointError: a tensor missing, unknown, of another shape or not finite, a file cut short or malformed.
    """
    settings = read_settings(directory)
    config = read_config(settings)
    tensors = _incoming(read_weights(directory), settings, config, keep_codes=dtype == "stored")
    head = tensors.pop("lm_head.weight", None) if config.tie_embeddings else None
    if head is not None and not torch.equal(head, tensors.get("embed_tokens.weight", head)):
        config = dataclasses.replace(config, tie_embeddings=False)  # somebody tuned them apart
        tensors["lm_head.weight"] = head
    if (directory / "mtp.safetensors").is_file():
        tensors |= read_file(directory / "mtp.safetensors")
    wanted = None if dtype == "stored" else dtype or torch.float32
    done = (lambda tensor: give_back([tensor])) if sparing else (lambda _: None)
    model = assemble(
        config, {n: _converted(t, wanted) for n, t in tensors.items()}, where=str(directory), done=done
    )
    return model if device == "cpu" else model.to(device)


def assemble(
    config: ModelConfig,
    tensors: dict[str, Tensor],
    *,
    where: str,
    new: Callable[[ModelConfig], Decoder] = Decoder,
    done: Callable[[Tensor], None] = lambda _: None,
) -> Decoder:
    """A decoder (as `new` makes it) that holds exactly these tensors, in their types. Raises CheckpointError where they do
    not fit. `done` is called with each plain tensor once its numbers were looked at."""
    with torch.device("meta"):
        model = new(config)
    _check(model, tensors, where, done)
    model.load_state_dict(tensors, assign=True)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    if model.embed_tokens.weight.dtype != torch.float32:
        model.set_compute_dtype(model.embed_tokens.weight.dtype)
    return model.eval()


def _incoming(
    tensors: dict[str, Tensor], settings: Mapping[str, Any], config: ModelConfig, *, keep_codes: bool
) -> dict[str, Tensor]:
    """Under our names, dequantised where codes are not to be kept; gpt-oss's experts are its family's matter."""
    family, packed = family_of(config), settings.get("quantization_config")
    if not packed or packed.get("quant_method") == "mxfp4":
        return family.incoming(tensors, config)
    coded: dict[str, Tensor] = {}
    if keep_codes:
        with fitting(packed):
            tensors, kept = split_stored(tensors, packed, family)
            ours = incoming_stored(kept, family, config)
        coded = {name: CodedParameter.of(stored) for name, stored in ours.items()}
    return family.incoming(dequantise(tensors, packed), config) | coded


def _converted(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    return tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor


def _check(model: Decoder, tensors: dict[str, Tensor], where: str, done: Callable[[Tensor], None]) -> None:
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    missing, extra = sorted(set(wanted) - set(tensors)), sorted(set(tensors) - set(wanted))
    if missing or extra:
        what = f"lacks {missing[0]}" if missing else f"has an unknown tensor {extra[0]}"
        raise CheckpointError(f"{where}: {what}", remedy="config.json and the weights do not belong together")
    for name, tensor in tensors.items():
        if tuple(tensor.shape) != wanted[name]:
            raise CheckpointError(
                f"{where}: {name} has shape {tuple(tensor.shape)}, expected {wanted[name]}",
                remedy="config.json and the weights do not belong together",
            )
        coded = isinstance(tensor, CodedParameter)
        if not (finite_codes(tensor) if coded else not tensor.is_floating_point() or _finite(tensor)):
            raise CheckpointError(
                f"{where}: {name} holds NaN or infinity", remedy="take an earlier checkpoint"
            )
        if not coded:
            done(tensor)


def _finite(tensor: Tensor) -> bool:
    """Piece by piece, by the extremes (a NaN is one): a mask of a whole embedding would take as much memory as it does."""
    parts = tensor.reshape(-1).split(_FINITE_CHUNK) if tensor.numel() else ()
    if tensor.element_size() == 1:  # of eight bits PyTorch knows no extremes
        parts = (part.half() for part in parts)
    return all(bool(torch.stack(part.aminmax()).isfinite().all()) for part in parts)
