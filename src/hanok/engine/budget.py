"""How the memory of the cache is divided: blocks for keys and values, places for snapshots of recurrent states."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hanok.engine.blocks import BLOCK
from hanok.engine.coverage import CacheKind, block_bytes, state_bytes
from hanok.errors import ConfigError
from hanok.models.config import ModelConfig

CACHE_TOKENS = 32_768
CACHE_BYTES = 2 << 30
SNAPSHOT_SHARE = (
    0.25  # of the bytes, where a model has both: a snapshot costs as much as the keys of many tokens
)
MAX_SNAPSHOTS = 256


@dataclass(frozen=True, slots=True)
class Budget:
    blocks: int
    snapshots: int


def divide(
    config: ModelConfig,
    cache_bytes: int | None,
    max_running: int,
    cache_type: CacheKind | Literal["float32"] = "bf16",
) -> Budget:
    """Of `cache_bytes`, or by default 2 GiB and no more blocks than `CACHE_TOKENS` or the model's context needs.

    A model without keys and values has blocks in name only: as many as its sequences can fill.

    Raises:
        ConfigError: not even one block fits.
    """
    of_block, of_state = block_bytes(config, cache_type), state_bytes(config)
    total = CACHE_BYTES if cache_bytes is None else cache_bytes
    share = 0.0 if not of_state else SNAPSHOT_SHARE if of_block else 1.0
    snapshots = min(MAX_SNAPSHOTS, int(total * share) // of_state) if of_state else 0
    if not of_block:
        return Budget(-(-config.max_context // BLOCK) * max_running, snapshots)
    left = total - snapshots * of_state
    if cache_bytes is None:
        tokens = min(max(config.max_context, CACHE_TOKENS), config.max_context * max_running)
        return Budget(max(1, min(-(-tokens // BLOCK), left // of_block)), snapshots)
    if left < of_block:
        raise ConfigError(
            f"cache_bytes = {cache_bytes:,}", remedy=f"a block of {BLOCK} tokens needs {of_block:,}"
        )
    return Budget(left // of_block, snapshots)
