"""Decoding heads beside a model's weights: one small safetensors file that attaches to any directory of that width.

    decoding_heads.safetensors    tensors named as in AutoDeco's released heads; the header's metadata holds `backbone`,
                                  the hash of the weights that they were trained on; the first maps are bfloat16

Copying the file into a model directory merges, deleting it splits; the backbone's files are never touched.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from safetensors.torch import save_file

from hanok.errors import CheckpointError
from hanok.models.checkpoint.weights import read_file
from hanok.models.decoding import DecodingHeads

HEADS_FILE = "decoding_heads.safetensors"
_FIRST_MAPS = ("temp_head.mlp.0.weight", "top_p_head.mlp.0.weight")


def save_heads(heads: DecodingHeads, directory: Path, *, backbone: str) -> None:
    """Args: backbone: `backbone_hash` of the model that they belong to."""
    tensors = {
        name: tensor.detach().to(torch.bfloat16 if name in _FIRST_MAPS else tensor.dtype).contiguous()
        for name, tensor in heads.state_dict().items()
    }
    # one entry: safetensors writes several in no order of their own, and equal heads must be equal files
    save_file(tensors, directory / HEADS_FILE, metadata={"backbone": backbone})


def load_heads(directory: Path, *, width: int) -> DecodingHeads | None:
    """The heads of a model directory whose hidden vectors have `width` numbers; None if it has no such file.

    Raises:
        CheckpointError: heads of another width, of unknown shape or not finite, or a damaged file.
    """
    file = directory / HEADS_FILE
    if not file.is_file():
        return None
    tensors = {name: tensor.float() for name, tensor in read_file(file).items()}
    with torch.device("meta"):
        heads = DecodingHeads(width)
    wanted = {name: tuple(tensor.shape) for name, tensor in heads.state_dict().items()}
    first = tensors.get("temp_head.mlp.0.weight")
    if first is not None and first.dim() == 2 and first.shape[1] != width:
        raise CheckpointError(
            f"{file}: heads for hidden vectors of {first.shape[1]} numbers, the model's have {width}",
            remedy="these heads belong to another model: delete the file, or train heads for this one",
        )
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if found != wanted:
        odd = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))[0]
        raise CheckpointError(
            f"{file}: {odd} is {found.get(odd, 'missing')}, expected {wanted.get(odd, 'no such tensor')}",
            remedy="restore the file, or delete it to decode without heads",
        )
    if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values()):
        raise CheckpointError(
            f"{file} holds NaN or infinity", remedy="train the heads anew, or delete the file"
        )
    heads.load_state_dict(tensors, assign=True)
    return heads.requires_grad_(False).eval()


def backbone_hash(directory: Path) -> str:
    """SHA-256 over the model's weights: the digests of its files `model*.safetensors`, in order of their names."""
    total = hashlib.sha256()
    for file in sorted(directory.glob("model*.safetensors")):
        with file.open("rb") as opened:
            total.update(hashlib.file_digest(opened, "sha256").digest())
    return total.hexdigest()
