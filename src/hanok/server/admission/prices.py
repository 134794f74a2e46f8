"""What answers cost: money for a million tokens, by model, from a TOML file.

[default]                 # of models that are not named; without it they cost nothing
prompt = 0.10
completion = 0.40
[legal]
prompt = 0.20
cached = 0.05             # of prompt tokens that were read before; as `prompt` if not said
completion = 0.80
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hanok.errors import ConfigError, did_you_mean

_NAMES = ("prompt", "cached", "completion")


@dataclass(frozen=True, slots=True)
class Price:
    prompt: float = 0.0
    cached: float = 0.0
    completion: float = 0.0

    def of(self, *, prompt: int, cached: int = 0, completion: int = 0) -> float:
        """`cached` of the prompt's tokens were read before."""
        return ((prompt - cached) * self.prompt + cached * self.cached + completion * self.completion) / 1e6


@dataclass(frozen=True)
class Prices:
    models: Mapping[str, Price] = field(default_factory=dict)
    default: Price = Price()

    def of(self, model: str) -> Price:
        return self.models.get(model, self.default)


def prices_in(file: Path | None) -> Prices:
    """Where there is none, nothing costs anything. Raises ConfigError as `read_prices` does."""
    return Prices() if file is None else read_prices(file)


def read_prices(file: Path) -> Prices:
    """Raises ConfigError for a file that is none, an unknown key or a price below nothing."""
    try:
        tables = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"prices {file} ({error})", remedy="give a TOML file with a table for each model"
        ) from error
    models = {name: _price(table, f"{file}, [{name}]") for name, table in tables.items()}
    return Prices(models, models.pop("default", Price()))


def _price(table: object, where: str) -> Price:
    if not isinstance(table, dict):
        raise ConfigError(f"{where}: not a table", remedy="write [model] and prompt = 0.1 below it")
    for name, value in table.items():
        if name not in _NAMES:
            raise ConfigError(f'{where}: unknown key "{name}"', remedy=did_you_mean(name, _NAMES))
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
            raise ConfigError(f"{where}: {name} = {value!r}", remedy="it must be a number, 0 or more")
    prompt = table.get("prompt", 0.0)
    return Price(prompt, table.get("cached", prompt), table.get("completion", 0.0))
