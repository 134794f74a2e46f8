"""The bytes of the native cache: blocks and snapshots together never take more."""

from __future__ import annotations

import pytest

from hanok.engine.budget import Budget, divide
from hanok.engine.support import block_bytes, state_bytes
from hanok.errors import ConfigError
from hanok.models.config import ModelConfig

SHAPE = {
    "vocab_size": 90,
    "hidden_size": 64,
    "num_heads": 4,
    "head_dim": 16,
    "max_context": 640,
    "num_layers": 4,
}
FULL = ModelConfig(**SHAPE, pattern=("gqa",))
HYBRID = ModelConfig(**SHAPE, pattern=("kda", "gqa"))
RECURRENT = ModelConfig(**SHAPE, pattern=("kda",))


def test_what_things_cost() -> None:
    assert block_bytes(FULL) == 4 * 2 * 4 * 16 * 64 * 2
    assert state_bytes(HYBRID) == 2 * 4 * (4 * 16 * 16 + 3 * 4 * 16 * 3)
    assert block_bytes(RECURRENT) == 0


@pytest.mark.parametrize("config", [FULL, HYBRID, RECURRENT])
@pytest.mark.parametrize("total", [None, 1 << 20, 5_000_000])
def test_the_parts_fit_the_whole(config: ModelConfig, total: int | None) -> None:
    budget = divide(config, total, 8)
    used = budget.blocks * block_bytes(config) + budget.snapshots * state_bytes(config)
    assert used <= (total or 2 << 30)
    assert budget.blocks > 0
    assert bool(budget.snapshots) == ("kda" in config.layers)


def test_no_room() -> None:
    with pytest.raises(ConfigError, match="needs"):
        divide(FULL, block_bytes(FULL) - 1, 8)
    assert divide(RECURRENT, 1, 8) == Budget(blocks=80, snapshots=0)
