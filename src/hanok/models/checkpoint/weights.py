"""Safetensors files: one, or several with an index; mapped from disk, checked before anything is believed.

A file is 8 bytes of header length, a JSON header (name -> dtype, shape, offsets), then the tensors one behind the other.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from hanok.artefacts import write_json
from hanok.errors import CheckpointError

SHARD_BYTES = 5_000_000_000
_HEADER_BYTES = 100_000_000
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_BITS = {
    "F64": 64, "I64": 64, "U64": 64, "F32": 32, "I32": 32, "U32": 32, "F16": 16, "BF16": 16, "I16": 16, "U16": 16,
    "I8": 8, "U8": 8, "BOOL": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8,
}  # fmt: skip


def read_weights(directory: Path) -> dict[str, Tensor]:
    """All tensors of a model directory under the names of its files, mapped, not copied.

    Raises:
        CheckpointError: no weights, a file missing, cut short or malformed, a tensor that the index puts elsewhere.
    """
    index = directory / "model.safetensors.index.json"
    if index.is_file():
        return _read_shards(directory, index)
    file = directory / "model.safetensors"
    if file.is_file():
        return read_file(file)
    pickles = sorted(f.name for f in directory.glob("*") if f.suffix in _PICKLES)
    if pickles:
        raise CheckpointError(
            f"{directory} holds weights as a pickle ({pickles[0]}), which can run code and is never opened",
            remedy="convert them to safetensors where you trust them",
        )
    raise CheckpointError(f"{file} is missing", remedy="the directory holds no weights")


def read_file(file: Path) -> dict[str, Tensor]:
    """The tensors of one file. Raises CheckpointError for a damaged or malformed one."""
    check_header(file)
    try:
        with safe_open(file, framework="pt") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"{file}: {error}", remedy="the file is damaged; restore it") from error


def read_metadata(file: Path) -> dict[str, str]:
    """Words beside the tensors of a file. Raises as `read_file`."""
    check_header(file)
    with safe_open(file, framework="pt") as opened:
        return opened.metadata() or {}


def check_header(file: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Lengths, names, dtypes, and offsets that follow one another without gap or overlap to the end of the file.

    Returns:
        name -> (dtype as safetensors spells it, shape).
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as opened:
            start = opened.read(8)
            length = int.from_bytes(start, "little")
            if len(start) < 8 or length > size - 8:
                raise _malformed(file, "the file is cut short, or is not safetensors")
            if length > _HEADER_BYTES:
                raise _malformed(file, f"the header claims {length:,} bytes, more than {_HEADER_BYTES:,}")
            text = opened.read(length)
    except OSError as error:
        raise CheckpointError(f"{file}: {error.strerror}", remedy="restore the file") from error
    try:
        header = json.loads(text, object_pairs_hook=lambda pairs: _unique(file, pairs))
    except (ValueError, RecursionError) as error:
        raise _malformed(file, f"the header is not JSON ({error})") from error
    if not isinstance(header, dict):
        raise _malformed(file, "the header holds no object")
    header.pop("__metadata__", None)
    end = 0
    for name, entry in sorted(header.items(), key=lambda item: _span(file, *item)):
        first, last = _span(file, name, entry)
        if first != end:
            raise _malformed(
                file, f"{name} {'overlaps another tensor' if first < end else 'leaves a gap before it'}"
            )
        if last - first != _size(file, name, entry):
            raise _malformed(
                file, f"{name} has {last - first} bytes, its shape and type need {_size(file, name, entry)}"
            )
        end = last
    if 8 + length + end != size:
        raise _malformed(file, f"{8 + length + end:,} bytes are described, the file has {size:,}")
    return {name: (entry["dtype"], tuple(entry["shape"])) for name, entry in header.items()}


def describe_weights(directory: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """dtype and shape of every tensor of a model directory, from the headers alone."""
    files = [directory / "model.safetensors"]
    if (directory / "model.safetensors.index.json").is_file():
        files = sorted(directory.glob("model-*.safetensors")) or files
    return {name: entry for file in files for name, entry in check_header(file).items()}


def write_weights(tensors: Mapping[str, Tensor], directory: Path, *, shard_bytes: int = SHARD_BYTES) -> None:
    """`model.safetensors`, or numbered files of at most `shard_bytes` (or one tensor) with an index."""
    shards: list[dict[str, Tensor]] = [{}]
    room = shard_bytes
    for key in sorted(tensors):
        tensor = tensors[key].contiguous()
        if shards[-1] and tensor.nbytes > room:
            shards.append({})
            room = shard_bytes
        shards[-1][key] = tensor
        room -= tensor.nbytes
    if len(shards) == 1:
        write_file(shards[0], directory / "model.safetensors")
        return
    places: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write_file(shard, directory / file)
        places |= dict.fromkeys(shard, file)
    total = sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": places}
    write_json(directory / "model.safetensors.index.json", index)


def write_file(
    tensors: Mapping[str, Tensor], file: Path, *, metadata: Mapping[str, str] | None = None
) -> None:
    """One file, as `transformers` marks its own."""
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(_apart(contiguous), file, metadata={"format": "pt", **(metadata or {})})


def _read_shards(directory: Path, index: Path) -> dict[str, Tensor]:
    try:
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        files = sorted(set(places.values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index} is not readable ({error})", remedy="restore it") from error
    found: dict[str, Tensor] = {}
    for name in files:
        file = directory / name
        if Path(name).name != name or not file.is_file():
            raise CheckpointError(f"{index} names {name}, which is not there", remedy="restore the file")
        tensors = read_file(file)
        double = sorted(set(tensors) & set(found))
        if double:
            raise CheckpointError(f"{file}: {double[0]} is in another file too", remedy="restore the files")
        found |= tensors
    for name, place in places.items():
        if name not in found:
            raise CheckpointError(
                f"{directory / place} lacks {name}, which the index puts there", remedy="restore it"
            )
    return found


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors that share memory are written each for itself."""
    seen: set[int] = set()
    result = {}
    for name, tensor in tensors.items():
        where = tensor.untyped_storage().data_ptr()
        whole = tensor.nbytes == tensor.untyped_storage().nbytes()
        result[name] = tensor if whole and where not in seen else tensor.clone()
        seen.add(where)
    return result


def _unique(file: Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        double = next(name for name in names if names.count(name) > 1)
        raise _malformed(file, f'the header has "{double}" twice')
    return found


def _span(file: Path, name: str, entry: Any) -> tuple[int, int]:
    try:
        first, last = entry["data_offsets"]
        if not (isinstance(first, int) and isinstance(last, int) and 0 <= first <= last):
            raise ValueError
    except (KeyError, TypeError, ValueError) as error:
        raise _malformed(file, f"{name} has no usable offsets") from error
    return first, last


def _size(file: Path, name: str, entry: Mapping[str, Any]) -> int:
    dtype, shape = entry.get("dtype"), entry.get("shape")
    if dtype not in _BITS:
        raise _malformed(file, f"{name} has the type {dtype}, which is not known")
    if not isinstance(shape, list) or not all(isinstance(n, int) and n >= 0 for n in shape):
        raise _malformed(file, f"{name} has no usable shape")
    return math.prod(shape) * _BITS[dtype] // 8


def _malformed(file: Path, what: str) -> CheckpointError:
    return CheckpointError(f"{file}: {what}", remedy="the file is damaged or made to mislead; restore it")
