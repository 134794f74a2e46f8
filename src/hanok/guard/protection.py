"""What a policy says beside its rules: the watermark, caps on log-probabilities, the monitor of extraction, what users are told.

[watermark]                     # all off unless they are named
enabled = true
gamma = 0.25                    # share of green tokens, in sixteenths
delta = 2.0                     # nats added to them
width = 2                       # tokens of a context

[logprobs]
most = 5                        # alternatives a token that may be asked for
decimals = 2
with_logit_bias = false         # both in one request are refused

[extraction]
enabled = true
log = 100.0                     # scores from which each step is taken, in their order
quota = 300.0                   # of its requests `quota_share` may go on, the others are told to come back
no_logprobs = 500.0
review = 1000.0
quota_share = 0.5

[transparency]                  # the notice is there without it too
notice_ko = "..."               # the operator's own words
notice_en = "..."
contact = "ai@example.org"

[tenants.acme.watermark]        # only what differs; gamma and width are the house's alone, as one key has one of each
enabled = false
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from hanok.errors import ConfigError
from hanok.guard.kinds import Check, number, truth, whole

TABLES = ("watermark", "logprobs", "extraction", "transparency")
_HOUSE_ALONE = {"watermark": ("gamma", "width")}


@dataclass(frozen=True, kw_only=True)
class WatermarkPolicy:
    """As `hanok.tokens.watermark.Watermark` has them."""

    enabled: bool = False
    gamma: float = 0.25
    delta: float = 2.0
    width: int = 2


@dataclass(frozen=True, kw_only=True)
class LogprobCaps:
    """Args: most: alternatives a token that may be asked for; None: any. decimals: that are told; None: all."""

    most: int | None = None
    decimals: int | None = None
    with_logit_bias: bool = True


@dataclass(frozen=True, kw_only=True)
class ExtractionPolicy:
    """Args: log, quota, no_logprobs, review: scores from which a step is taken; infinite: never. quota_share: of the requests of
    somebody on the step "quota" that may go on."""

    enabled: bool = False
    log: float = 100.0
    quota: float = math.inf
    no_logprobs: float = math.inf
    review: float = math.inf
    quota_share: float = 0.5


@dataclass(frozen=True, kw_only=True)
class TransparencyPolicy:
    """Args: notice_ko, notice_en: words of the operator's own in place of ours. contact: who answers questions about it."""

    notice_ko: str = ""
    notice_en: str = ""
    contact: str = ""


@dataclass(frozen=True, kw_only=True)
class Protection:
    """Of a tenant, or the house."""

    watermark: WatermarkPolicy = field(default_factory=WatermarkPolicy)
    logprobs: LogprobCaps = field(default_factory=LogprobCaps)
    extraction: ExtractionPolicy = field(default_factory=ExtractionPolicy)
    transparency: TransparencyPolicy = field(default_factory=TransparencyPolicy)


class TableReader(Protocol):
    """Names file and key in whatever it refuses, as the policy's own reader does."""

    def wrong(self, key: str, value: Any, rule: str) -> ConfigError: ...
    def table(self, raw: Mapping[str, Any], name: str, where: str) -> Mapping[str, Any]: ...
    def only(self, raw: Mapping[str, Any], known: tuple[str, ...], where: str) -> None: ...


def read_protection(
    raw: Mapping[str, Any], reader: TableReader, where: str = "", *, house: Protection | None = None
) -> Protection:
    """Args: raw: the policy, or the table of a tenant, whose `house` says what it does not.

    Raises:
        ConfigError: says the file, the key and what it must be.
    """
    base = house or Protection()
    tenant = house is not None
    read = {
        name: _read(raw, name, reader, where, getattr(base, name), tenant=tenant)
        for name in TABLES
        if name in raw
    }
    return replace(base, **read)


Table = TypeVar("Table", WatermarkPolicy, LogprobCaps, ExtractionPolicy, TransparencyPolicy)


def _read(
    raw: Mapping[str, Any], name: str, reader: TableReader, where: str, base: Table, *, tenant: bool
) -> Table:
    table = reader.table(raw, name, where)
    alone = _HOUSE_ALONE.get(name, ()) if tenant else ()
    known = tuple(one.name for one in fields(base) if one.name not in alone)
    reader.only(table, known, f"{where}{name}.")
    values: dict[str, Any] = {}
    for key, value in table.items():
        try:
            values[key] = _CHECKS[name, key](value, Path())
        except ValueError as error:
            raise reader.wrong(f"{where}{name}.{key}", value, str(error)) from error
    if name == "extraction":
        _check_order(values, base, reader, f"{where}{name}")
    return replace(base, **values)


def _check_order(values: Mapping[str, Any], base: Any, reader: TableReader, where: str) -> None:
    """A step that is not wanted is left out; the others come in their order."""
    steps = [
        (step, values.get(step, getattr(base, step))) for step in ("log", "quota", "no_logprobs", "review")
    ]
    wanted = [(step, score) for step, score in steps if math.isfinite(score)]
    for (_, low), (step, high) in itertools.pairwise(wanted):
        if high < low:
            raise reader.wrong(f"{where}.{step}", high, f"at least {low:g}, the step before it")


def _between(low: float, high: float, *, above: bool = False) -> Check:
    def check(value: Any, folder: Path) -> float:
        read = number(value, folder)
        if not low <= read <= high or (above and read == low):
            raise ValueError(f"{'above' if above else 'from'} {low:g} and at most {high:g}")
        return read

    return check


def _sixteenths(value: Any, folder: Path) -> float:
    read = number(value, folder)
    if read * 16 not in range(1, 16):
        raise ValueError("1/16, 2/16, ... or 15/16 (as 0.25)")
    return read


def _words(value: Any, _folder: Path) -> str:
    if not isinstance(value, str) or not 0 < len(value.strip()) <= 1000:
        raise ValueError("a text of at most 1000 characters")
    return value.strip()


_SCORE = _between(0.0, 1e6, above=True)
_CHECKS: Mapping[tuple[str, str], Callable[[Any, Path], Any]] = {
    ("watermark", "enabled"): truth, ("watermark", "gamma"): _sixteenths,
    ("watermark", "delta"): _between(0.0, 20.0, above=True), ("watermark", "width"): whole(1, 8),
    ("logprobs", "most"): whole(0, 256), ("logprobs", "decimals"): whole(0, 12), ("logprobs", "with_logit_bias"): truth,
    ("extraction", "enabled"): truth, ("extraction", "quota_share"): _between(0.0, 1.0, above=True),
    **{("transparency", name): _words for name in ("notice_ko", "notice_en", "contact")},
    **{("extraction", step): _SCORE for step in ("log", "quota", "no_logprobs", "review")},
}  # fmt: skip
