"""The adapters that an engine has loaded, by name (LoRA; the files of PEFT).

A request keeps hold of its adapter from the moment it is accepted: whoever unloads one takes its name away, and requests that
have it finish with it. What was computed with an adapter is known by its content, never by its name, so an adapter that is loaded
again under an old name finds nothing of what the old one left in the cache.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hanok.engine.paged_model import PagedModel
from hanok.errors import ConfigError, InputError, did_you_mean
from hanok.models.decoder import Decoder
from hanok.models.linear import LowRank
from hanok.models.lora import LoraConfig, read_adapter

_NAME = re.compile(r"[\w.:/@+-]{1,128}")


@dataclass(frozen=True, slots=True, eq=False)
class Adapter:
    """One that is loaded.

    Args:
        key: hash of its content: maps, scales, numbers. lows: by the names of the model's maps.
        held: as the model takes it that runs in blocks; None where PyTorch's layers do with a cache of their own.
    """

    name: str
    key: bytes
    directory: Path
    config: LoraConfig
    lows: Mapping[str, LowRank]
    held: Any

    @property
    def hash(self) -> str:
        return self.key.hex()


class Adapters:
    """By name. Any thread may call any method."""

    def __init__(self) -> None:
        self._loaded: dict[str, Adapter] = {}
        self._lock = threading.Lock()

    def load(self, name: str, directory: Path, decoder: Decoder, *, model: PagedModel | None) -> Adapter:
        """Raises as `LocalEngine.load_adapter`."""
        if not _NAME.fullmatch(name):
            raise ConfigError(
                f'adapter name "{name}"', remedy="take up to 128 letters, digits and . : / @ + - _"
            )
        self._check_free(name)
        config, lows = read_adapter(decoder, directory)
        if config.dora:
            raise ConfigError(
                f"{directory} is a DoRA adapter, which scales the model's own weights and cannot act for single requests",
                remedy="merge it into a model: hanok model convert MODEL --out DIR --adapter ADAPTER",
            )
        for low in lows.values():
            low.requires_grad_(False).eval()
        made = None if model is None else model.adapter(decoder, lows)
        adapter = Adapter(name, content_hash(lows), directory, config, lows, made)
        with self._lock:
            self._check_free(name)
            self._loaded[name] = adapter
        return adapter

    def unload(self, name: str) -> None:
        """Raises InputError: there is none of this name."""
        with self._lock:
            self._named(name)
            del self._loaded[name]

    def clear(self) -> None:
        """Take none from now on."""
        with self._lock:
            self._loaded.clear()

    def find(self, name: str | None) -> Adapter | None:
        """None for no name. Raises InputError: there is none of this name."""
        with self._lock:
            return None if name is None else self._named(name)

    def all(self) -> dict[str, Adapter]:
        with self._lock:
            return dict(self._loaded)

    def _named(self, name: str) -> Adapter:
        if name not in self._loaded:
            known = sorted(self._loaded)
            raise InputError(
                f'no adapter "{name}" is loaded',
                remedy=did_you_mean(name, known) if known else "this engine has none: load it first",
            )
        return self._loaded[name]

    def _check_free(self, name: str) -> None:
        if name in self._loaded:
            raise ConfigError(
                f'an adapter "{name}" is loaded already', remedy="unload it first, or choose another name"
            )


def lows_of(adapter: Adapter | None) -> Mapping[str, LowRank] | None:
    """As PyTorch's layers take it."""
    return None if adapter is None else adapter.lows


def held_of(adapter: Adapter | None) -> Any:
    """As a `PagedModel` takes it."""
    return None if adapter is None else adapter.held


def parse_adapters(options: Sequence[str]) -> dict[str, Path]:
    """NAME=DIR, several times.

    Raises:
        ConfigError: one without a name or a directory, or a name twice.
    """
    found: dict[str, Path] = {}
    for option in options:
        name, equals, directory = option.partition("=")
        if not (name and equals and directory):
            raise ConfigError(f'--adapter "{option}"', remedy="write NAME=DIR")
        if name in found:
            raise ConfigError(f'--adapter names "{name}" twice', remedy="give each a name of its own")
        found[name] = Path(directory).expanduser()
    return found


def content_hash(lows: Mapping[str, LowRank]) -> bytes:
    """Of what an adapter adds to which maps; 32 bytes."""
    found = hashlib.blake2b(digest_size=32)
    for where, low in sorted(lows.items()):
        found.update(f"{where} {tuple(low.lora_A.shape)} {tuple(low.lora_B.shape)} {low.scale!r}\n".encode())
        for tensor in (low.lora_A, low.lora_B):
            found.update(tensor.detach().to(torch.float32).contiguous().numpy().tobytes())
    return found.digest()
