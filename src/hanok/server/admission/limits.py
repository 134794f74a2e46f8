"""The limits of a key, a person or a tenant."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from hanok.errors import ConfigError, did_you_mean

# name -> the least that makes sense
LIMITS: Mapping[str, float] = {
    "requests_per_minute": 1,
    "prompt_tokens_per_minute": 1,
    "completion_tokens_per_minute": 1,
    "concurrency": 1,
    "daily_budget": 0,
    "monthly_budget": 0,
}


def check_limits(limits: Mapping[str, Any]) -> dict[str, float]:
    """Without those that are None. Raises ConfigError for an unknown one or one below the least."""
    checked: dict[str, float] = {}
    for name, value in limits.items():
        if name not in LIMITS:
            raise ConfigError(f'no limit "{name}"', remedy=did_you_mean(name, LIMITS))
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ConfigError(f"{name} = {value!r}", remedy="it must be a number")
        if value < LIMITS[name]:
            raise ConfigError(f"{name} = {value}", remedy=f"it must be {LIMITS[name]} or more")
        checked[name] = value
    return checked
