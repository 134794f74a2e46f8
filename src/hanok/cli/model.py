"""`hanok model ...`: step 4."""

from __future__ import annotations

import dataclasses
from typing import Any

from hanok.models.config import ModelConfig
from hanok.reporting import table


def plan(config: ModelConfig = ModelConfig(), tokens: int = 5_000_000) -> dict[str, Any]:
    """Parameters, memory, training time and speed that a configuration needs on this machine.

    Args:
        config: size and architecture; a vocab_size of 0 is taken as 4096.
        tokens: training tokens to predict the time for.
    """
    from hanok.models import plan as planner

    if config.vocab_size == 0:
        config = dataclasses.replace(config, vocab_size=4096)
    result = planner.plan(config, planner.measure_machine(), training_tokens=tokens)
    rows = result.rows()
    table("plan", ("what", "value", "unit"), rows)
    return {name: {"value": value, "unit": unit} for name, value, unit in rows}
