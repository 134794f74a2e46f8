"""Limits and accounts of keys, people and tenants: implements `hanok.server.exchange.Admission`.

Before an answer begins, what it may use at most is taken from every meter of its key and its tenant, all or nothing; when it has
ended, what it did not use goes back. So an answer never runs on what is not there.
"""

from __future__ import annotations

import asyncio
import datetime
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hanok.reporting import log
from hanok.server.admission.ledger import Errand, Ledger
from hanok.server.admission.prices import Price, Prices
from hanok.server.errors import ApiError
from hanok.server.exchange import Exchange, Lease, Outcome
from hanok.server.principal import Principal
from hanok.store.allowances import Kind, Short, Want

_KINDS: Mapping[str, Kind] = {
    "requests_per_minute": "minute",
    "prompt_tokens_per_minute": "minute",
    "completion_tokens_per_minute": "minute",
    "concurrency": "places",
    "daily_budget": "day",
    "monthly_budget": "month",
}
_BUDGETS = ("daily_budget", "monthly_budget")


@dataclass(frozen=True, slots=True)
class Limit:
    """One line of what somebody is held to."""

    of: str  # "key" or "tenant"
    name: str
    want: Want


class Limited:
    """One for each process. `prices` may be replaced: an answer costs what it did when it began."""

    def __init__(self, ledger: Ledger, prices: Prices | None = None) -> None:
        self.ledger, self.prices = ledger, prices or Prices()

    async def admit(self, exchange: Exchange) -> Lease:
        """Raises ApiError 429 with Retry-After, or 503 if the store does not answer."""
        principal, price = exchange.principal, self.prices.of(exchange.model)
        limits = [one for one in _limits(principal, _costs(exchange, price)) if one.want.need > 0]
        if limits:
            _check_fit(limits)
            await self._take(limits)
        return _Lease(self.ledger, price, exchange, limits)

    def describe(self, principal: Principal) -> list[dict[str, Any]]:
        """Its limits, and what is left of them. It asks the store: not for the event loop."""
        limits = list(_limits(principal, dict.fromkeys(_KINDS, 0.0)))
        found = self.ledger.look([limit.want for limit in limits]) if limits else []
        return [
            {"of": limit.of, "limit": limit.name, "value": limit.want.cap, "remaining": left, "reset": reset}
            for limit, (left, reset) in zip(limits, found, strict=True)
        ]

    async def _take(self, limits: list[Limit]) -> None:
        asked = self.ledger.take([limit.want for limit in limits])
        if asked is None:
            return
        if isinstance(asked, Errand):
            asked = await self._wait(asked, limits)
            if asked is None:
                return
        limit = next(one for one in limits if one.want.meter == asked.want.meter)
        raise _too_much(limit, asked.wait, _headers(self.ledger, limits))

    async def _wait(self, errand: Errand, limits: list[Limit]) -> Short | None:
        try:
            answer = await asyncio.shield(asyncio.wrap_future(errand.done))
        except asyncio.CancelledError:  # the client went away: whatever comes is given back
            wants = [limit.want for limit in limits]
            errand.done.add_done_callback(lambda done: _give_back(self.ledger, errand, wants))
            raise
        except Exception as error:
            self.ledger.undo(errand)
            log.error("the store cannot be asked what may be used", exc_info=error)
            raise ApiError(503, "the store does not answer; try again", code="store_unavailable") from error
        if isinstance(answer, Short):
            self.ledger.undo(errand, answer)
            return answer
        return None


class _Lease:
    def __init__(self, ledger: Ledger, price: Price, exchange: Exchange, limits: list[Limit]) -> None:
        self._ledger, self._price, self._exchange, self._limits = ledger, price, exchange, limits

    def headers(self) -> Mapping[str, str]:
        return _headers(self._ledger, self._limits)

    async def settle(self, outcome: Outcome) -> None:
        exchange = self._exchange
        cost = self._price.of(
            prompt=exchange.prompt_tokens, cached=min(outcome.cached_tokens, exchange.prompt_tokens),
            completion=outcome.completion_tokens,
        )  # fmt: skip
        used = {
            "completion_tokens_per_minute": float(outcome.completion_tokens), "concurrency": 0.0,
            "daily_budget": cost, "monthly_budget": cost,
        }  # fmt: skip
        back = [
            _with_need(limit.want, limit.want.need - used[limit.name])
            for limit in self._limits
            if limit.name in used
        ]
        self._ledger.give_back([want for want in back if want.need])
        day = datetime.datetime.fromtimestamp(self._ledger.now(), datetime.UTC).strftime("%Y-%m-%d")
        principal = exchange.principal
        self._ledger.use(
            (day, principal.tenant, principal.id, exchange.model),
            {
                "requests": 1, "errors": outcome.reason == "error", "prompt_tokens": exchange.prompt_tokens,
                "cached_tokens": outcome.cached_tokens, "completion_tokens": outcome.completion_tokens, "cost": cost,
            },
        )  # fmt: skip


def _costs(exchange: Exchange, price: Price) -> dict[str, float]:
    """The most that it can use."""
    money = price.of(prompt=exchange.prompt_tokens, completion=exchange.max_tokens)
    return {
        "requests_per_minute": 1.0, "prompt_tokens_per_minute": float(exchange.prompt_tokens),
        "completion_tokens_per_minute": float(exchange.max_tokens), "concurrency": 1.0,
        "daily_budget": money, "monthly_budget": money,
    }  # fmt: skip


def _limits(principal: Principal, costs: Mapping[str, float]) -> Iterator[Limit]:
    owners = (("key", principal.id, principal.limits), ("tenant", principal.tenant, principal.tenant_limits))
    for of, owner, limits in owners:
        for name, cap in limits.items():
            need = costs[name]
            if name == "completion_tokens_per_minute":
                need = min(
                    need, cap
                )  # an answer without a limit of its own may run, and pays for the rest behind
            yield Limit(of, name, Want(f"{of}:{owner}:{name}", _KINDS[name], cap, need))


def _check_fit(limits: list[Limit]) -> None:
    """Raises ApiError 429 for what can never fit."""
    for limit in limits:
        if limit.want.need > limit.want.cap:
            remedy = "lower max_tokens" if limit.name in _BUDGETS else "send less at a time"
            raise ApiError(
                429, f"{limit.name} of this {limit.of} is {limit.want.cap:g}, and this request may take {limit.want.need:g}: "
                f"{remedy}", code="insufficient_quota" if limit.name in _BUDGETS else "rate_limit_exceeded",
                headers={"Retry-After": "60"},
            )  # fmt: skip


def _too_much(limit: Limit, wait: float, headers: Mapping[str, str]) -> ApiError:
    seconds = max(1, math.ceil(wait))
    return ApiError(
        429, f"{limit.name} of this {limit.of} is used up ({limit.want.cap:g}); try again in {seconds} seconds",
        code="insufficient_quota" if limit.name in _BUDGETS else "rate_limit_exceeded",
        headers={**headers, "Retry-After": str(seconds)},
    )  # fmt: skip


def _headers(ledger: Ledger, limits: list[Limit]) -> dict[str, str]:
    """OpenAI's and the IETF's, of the tighter of key and tenant."""
    headers: dict[str, str] = {}
    for word, names in (
        ("requests", ("requests_per_minute",)),
        ("tokens", ("prompt_tokens_per_minute", "completion_tokens_per_minute")),
    ):
        known = [(*ledger.left(limit.want), limit.want.cap) for limit in limits if limit.name in names]
        if not known:
            continue
        left, reset, cap = min(known)
        headers[f"x-ratelimit-limit-{word}"] = f"{cap:.0f}"
        headers[f"x-ratelimit-remaining-{word}"] = f"{math.floor(left)}"
        headers[f"x-ratelimit-reset-{word}"] = f"{reset:.3f}s"
        if word == "requests":
            headers["RateLimit-Policy"] = f'"requests";q={cap:.0f};w=60'
            headers["RateLimit"] = f'"requests";r={math.floor(left)};t={math.ceil(reset)}'
    return headers


def _with_need(want: Want, need: float) -> Want:
    return Want(want.meter, want.kind, want.cap, need)


def _give_back(ledger: Ledger, errand: Errand, wants: list[Want]) -> None:
    if errand.done.exception() is not None or isinstance(errand.done.result(), Short):
        ledger.undo(errand)
    else:
        ledger.give_back(wants)
