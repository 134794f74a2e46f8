"""One piece of work for the model, as those see it who count, limit and log."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from hanok.server.principal import Principal


@dataclass(frozen=True, kw_only=True, slots=True)
class Exchange:
    """What is known when it begins. `started`: seconds of the monotonic clock; `max_tokens` of all samples together;
    `watermark`: the key that marks the answer, where it may be marked."""

    id: str
    route: str
    principal: Principal
    model: str
    model_hash: str
    prompt_tokens: int
    max_tokens: int
    streamed: bool = False
    watermark: str = ""
    started: float = field(default_factory=time.monotonic)


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How it ended. `reason`: a finish reason of the engine, "cancelled" if the client went away, "error" if it failed."""

    reason: str
    completion_tokens: int
    cached_tokens: int
    first_token_seconds: float | None
    seconds: float


class Observer(Protocol):
    """Told of each exchange, on the server's event loop: must not block."""

    def begun(self, exchange: Exchange) -> None: ...
    def ended(self, exchange: Exchange, outcome: Outcome) -> None: ...


class Lease(Protocol):
    """Permission for one exchange."""

    def headers(self) -> Mapping[str, str]:
        """What its answer tells of the limits, as they are now."""
        ...

    async def settle(self, outcome: Outcome) -> None:
        """Give back what was reserved and not used. Called once, whatever happened."""
        ...


class Admission(Protocol):
    """Who may do how much."""

    async def admit(self, exchange: Exchange) -> Lease:
        """Raises ApiError (429 with Retry-After, 403) if it may not begin now."""
        ...

    def describe(self, principal: Principal) -> Sequence[Mapping[str, Any]]:
        """The limits that somebody is held to: `of` ("key" or "tenant"), `limit`, `value`, `remaining`, `reset` (seconds).

        It asks the store: not for the event loop."""
        ...


class Unlimited:
    """Everybody may, as often as the engine has room."""

    async def admit(self, exchange: Exchange) -> Lease:
        return self

    def headers(self) -> Mapping[str, str]:
        return {}

    async def settle(self, outcome: Outcome) -> None:
        pass

    def describe(self, principal: Principal) -> Sequence[Mapping[str, Any]]:
        return ()
