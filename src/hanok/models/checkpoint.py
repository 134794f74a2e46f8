"""Model directories: `config.json`, `model.safetensors`, and the tokeniser's files beside them."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from hanok.artefacts import write_json
from hanok.errors import CheckpointError
from hanok.models.config import ModelConfig
from hanok.models.decoder import Decoder
from hanok.models.hf import from_hf, tensors_from_hf, tensors_to_hf, to_hf

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja")


def save_model(model: Decoder, directory: Path, *, tokenizer_dir: Path | None = None) -> None:
    """Write the model's files into `directory`; that it appears whole is the caller's care."""
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / "config.json", to_hf(model.config))
    tensors = {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}
    future = {name: tensor for name, tensor in tensors.items() if name.startswith("mtp.")}
    main = {name: tensor for name, tensor in tensors.items() if name not in future}
    save_file(tensors_to_hf(main, model.config), directory / "model.safetensors", metadata={"format": "pt"})
    if future:
        save_file(future, directory / "mtp.safetensors", metadata={"format": "pt"})
    for name in TOKENIZER_FILES:
        if tokenizer_dir is not None and (tokenizer_dir / name).is_file():
            shutil.copyfile(tokenizer_dir / name, directory / name)


def load_config(directory: Path) -> ModelConfig:
    """Raises CheckpointError where there is no readable `config.json`."""
    file = directory / "config.json"
    try:
        return from_hf(json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise CheckpointError(f"no config.json in {directory}", remedy="give a model directory") from error
    except ValueError as error:
        raise CheckpointError(f"{file} is not JSON ({error})", remedy="restore it") from error


def load_model(directory: Path, *, dtype: torch.dtype | None = None, device: str = "cpu") -> Decoder:
    """A decoder with the directory's weights, in float32 unless `dtype` says otherwise.

    Raises:
        CheckpointError: a tensor missing, unknown, of another shape or not finite, or a file cut short.
    """
    config = load_config(directory)
    tensors = tensors_from_hf(_read(directory / "model.safetensors"))
    head = tensors.pop("lm_head.weight", None) if config.tie_embeddings else None
    if head is not None and not torch.equal(head, tensors.get("embed_tokens.weight", head)):
        config = dataclasses.replace(config, tie_embeddings=False)  # somebody tuned them apart
        tensors["lm_head.weight"] = head
    with torch.device("meta"):
        model = Decoder(config)
    if (directory / "mtp.safetensors").is_file():
        tensors |= _read(directory / "mtp.safetensors")
    _check(model, tensors, directory)
    converted = {name: _converted(tensor, dtype).to(device) for name, tensor in tensors.items()}
    model.load_state_dict(converted, assign=True)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    return model.eval()


def _converted(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    return tensor.to(dtype or torch.float32) if tensor.is_floating_point() else tensor


def _read(file: Path) -> dict[str, Tensor]:
    if not file.is_file():
        raise CheckpointError(f"{file} is missing", remedy="the directory holds no weights of ours")
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{file}: {error}", remedy="the file is damaged; restore it or train again"
        ) from error


def _check(model: Decoder, tensors: dict[str, Tensor], directory: Path) -> None:
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    missing, extra = sorted(set(wanted) - set(tensors)), sorted(set(tensors) - set(wanted))
    if missing or extra:
        what = f"lacks {missing[0]}" if missing else f"has an unknown tensor {extra[0]}"
        raise CheckpointError(
            f"{directory}: {what}", remedy="config.json and the weights do not belong together"
        )
    for name, tensor in tensors.items():
        if tuple(tensor.shape) != wanted[name]:
            raise CheckpointError(
                f"{directory}: {name} has shape {tuple(tensor.shape)}, expected {wanted[name]}",
                remedy="config.json and the weights do not belong together",
            )
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise CheckpointError(
                f"{directory}: {name} holds NaN or infinity", remedy="take an earlier checkpoint"
            )
