"""Which device an engine runs on, from one setting."""

from __future__ import annotations

import re

import torch

from hanok.errors import ConfigError

ON_CPU = "cpu-torch"  # the same path on the CPU: what the tests run where there is no GPU


def choose_device(setting: str) -> torch.device | None:
    """None: the CPU, by the native kernels or PyTorch's layers with a cache of their own.

    Args:
        setting: "auto" (a GPU if PyTorch finds one), "cpu", "cuda", "cuda:N", or `ON_CPU`.

    Raises:
        ConfigError: none of these, or a GPU that is not there.
    """
    if setting == ON_CPU:
        return torch.device("cpu")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if setting == "cpu" or (setting == "auto" and not count):
        return None
    found = re.fullmatch(r"auto|cuda(?::(\d+))?", setting)
    if found is None:
        raise ConfigError(f'device = "{setting}"', remedy=f"choose auto, cpu, cuda, cuda:N or {ON_CPU}")
    number = int(found[1] or 0)
    if number >= count:
        has = f"PyTorch finds {count}" if count else "PyTorch finds no GPU"
        raise ConfigError(f'device = "{setting}", but {has}', remedy="choose auto or cpu")
    return torch.device("cuda", number)


def room_on(device: torch.device, share: float) -> int | None:
    """Bytes that so large a share of the GPU's free memory has; None: it is no GPU."""
    if device.type != "cuda":
        return None
    return int(torch.cuda.mem_get_info(device)[0] * share)
