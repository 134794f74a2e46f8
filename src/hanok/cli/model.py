"""`hanok model ...`: step 4."""

from __future__ import annotations

from typing import Any

from hanok.models.config import ModelConfig
from hanok.reporting import table


def plan(config: ModelConfig = ModelConfig(), tokens: int = 5_000_000) -> dict[str, Any]:
    """Parameters, memory, training time and speed that a configuration needs on this machine.

    Args:
        config: size and architecture.
        tokens: training tokens to predict the time for.
    """
    from hanok.models.plan import measure_machine, plan as make_plan

    result = make_plan(config, measure_machine(), training_tokens=tokens)
    rows = result.rows()
    table("plan", ("what", "value", "unit"), rows)
    return {name: {"value": value, "unit": unit} for name, value, unit in rows}
