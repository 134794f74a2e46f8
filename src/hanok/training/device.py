"""Where a run computes: decided once, with the reason kept; and the random state of that place.

A GPU is one that PyTorch calls "cuda" (NVIDIA's and AMD's). In a team every process takes the one of its local rank.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from hanok.errors import CheckpointError, ConfigError

DeviceKind = Literal["cpu", "cuda"]
_CPU, _CUDA = "rng", "rng.cuda"


def choose_device(setting: str, *, processes: int = 1) -> tuple[DeviceKind, str]:
    """The kind of device and the reason for it.

    Args:
        setting: "auto", "cpu" or "cuda". processes: of the team on this host.

    Raises:
        ConfigError: "cuda" where there is none, or too few for the team.
    """
    if setting == "cpu":
        return "cpu", "cpu: as configured"
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    why = "PyTorch finds no GPU" if not count else f"{count} GPUs for {processes} processes"
    if count >= processes:
        name = torch.cuda.get_device_name(0)
        return "cuda", f"cuda: {'as configured' if setting == 'cuda' else 'there is one'} ({name})"
    if setting == "cuda":
        raise ConfigError(f'device = "cuda", but {why}', remedy='choose "auto" or "cpu"')
    return "cpu", f"cpu: {why}"


def random_state(device: torch.device) -> dict[str, Tensor]:
    """Of the CPU, and of the GPU if the run is on one: what a checkpoint keeps."""
    found = {_CPU: torch.get_rng_state()}
    if device.type == "cuda":
        found[_CUDA] = torch.cuda.get_rng_state(device)
    return found


def set_random_state(tensors: Mapping[str, Tensor], device: torch.device) -> None:
    """Raises CheckpointError where the state of a GPU is wanted and was not kept."""
    torch.set_rng_state(tensors[_CPU])
    if device.type != "cuda":
        return
    if _CUDA not in tensors:
        raise CheckpointError(
            "the checkpoint holds no random state of a GPU", remedy="train anew, or on the CPU"
        )
    torch.cuda.set_rng_state(tensors[_CUDA], device)
