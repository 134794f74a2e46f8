"""Caps on log-probabilities: exact numbers of many tokens, or of steered ones, give the model's last layer away (Carlini et al.,
"Stealing Part of a Production Language Model", arXiv 2403.06634)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from hanok.engine.api import Delta, SamplingParams
from hanok.guard.protection import Protection
from hanok.server.errors import ApiError

_LISTS = ("logprobs", "prompt_logprobs")
_TOPS = ("top_logprobs", "prompt_top_logprobs")


class Caps:
    """Args: protection_of: of a tenant; by default nothing is capped. told: of each refusal, with what was asked for."""

    def __init__(
        self, protection_of: Callable[[str], Protection] = lambda _tenant: Protection(),
        told: Callable[[Mapping[str, Any]], None] = lambda _facts: None,
    ) -> None:  # fmt: skip
        self._protection_of, self._told = protection_of, told

    def check(self, params: SamplingParams, tenant: str) -> None:
        """Raises ApiError 400: it asks for more than the policy allows."""
        caps = self._protection_of(tenant).logprobs
        asked = [number for number in (params.logprobs, params.prompt_logprobs) if number is not None]
        if caps.most is not None and asked and max(asked) > caps.most:
            self._told({"asked": max(asked), "most": caps.most})
            raise ApiError(
                400, f"{max(asked)} alternatives of a token: this service tells {caps.most} at most", param="top_logprobs",
                code="logprobs_capped",
            )  # fmt: skip
        if not caps.with_logit_bias and asked and params.logit_bias:
            self._told({"asked": max(asked), "logit_bias": len(params.logit_bias)})
            raise ApiError(
                400, "log-probabilities together with logit_bias: ask for one of them", param="logit_bias", code="logprobs_capped"
            )  # fmt: skip

    def rounding(self, tenant: str) -> Callable[[Delta], Delta]:
        """What is done to every piece of an answer."""
        decimals = self._protection_of(tenant).logprobs.decimals
        return _as_it_is if decimals is None else partial(_rounded, decimals=decimals)


def _as_it_is(delta: Delta) -> Delta:
    return delta


def _rounded(delta: Delta, *, decimals: int) -> Delta:
    changes: dict[str, Any] = {}
    for name in _LISTS:
        if (values := getattr(delta, name)) is not None:
            changes[name] = tuple(_number(value, decimals) for value in values)
    for name in _TOPS:
        if (values := getattr(delta, name)) is not None:
            changes[name] = tuple(None if one is None else _table(one, decimals) for one in values)
    if delta.stop_logprob is not None:
        changes["stop_logprob"] = round(delta.stop_logprob, decimals)
    if delta.stop_top is not None:
        changes["stop_top"] = _table(delta.stop_top, decimals)
    return replace(delta, **changes) if changes else delta


def _number(value: float | None, decimals: int) -> float | None:
    return None if value is None else round(value, decimals)


def _table(values: Mapping[int, float], decimals: int) -> Mapping[int, float]:
    return {token: round(value, decimals) for token, value in values.items()}
