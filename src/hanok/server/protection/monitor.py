"""The monitor of extraction: each request for a model is looked at, scores are kept in the store, the policy's ladder is climbed.

What a step means for whoever is on it, each with those before: `log` nothing (the audit and the log tell of every step), `quota`
a share of the requests is told to come back, `no_logprobs` log-probabilities are refused, `review` the same until a reviewer
has cleared them.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from hanok.engine.api import Request
from hanok.guard.extraction import Signs, Sketch, at_least, next_score, step_of
from hanok.guard.protection import ExtractionPolicy
from hanok.guard.rulebook import Guard
from hanok.reporting import log
from hanok.server.auditing.trail import Trail
from hanok.server.errors import ApiError
from hanok.server.principal import Principal
from hanok.store.database import Store
from hanok.store.extraction import COUNTS, WINDOWS, Caller, ExtractionTable, News

FLUSH_SECONDS = 10.0
COME_BACK = 5  # seconds
_REMEMBERED = 2000  # callers
_BUCKET = min(span for span, _ in WINDOWS.values())


@dataclass(slots=True)
class _Watched:
    """A caller, and what the store does not have yet. `credit`: of requests that may go on under the quota."""

    caller: Caller
    sketch: Sketch = field(default_factory=Sketch)
    score: float = 0.0
    step: str = ""
    updated: float = 0.0
    gained: float = 0.0
    credit: float = 1.0
    counts: dict[int, dict[str, int]] = field(default_factory=dict)


class Monitor:
    """One for each process. Args: clock: seconds of the Unix epoch."""

    def __init__(
        self, store: Store, guard: Guard, trail: Trail, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._table, self._guard, self._trail, self._clock = ExtractionTable(store), guard, trail, clock
        self._watched: dict[Caller, _Watched] = {}
        self._writing = threading.Lock()  # to the store
        self._lock = threading.Lock()  # of what is watched; held for moments, as the event loop takes it too
        self._flushed = clock()
        self._flushing: asyncio.Task[None] | None = None

    async def admit(self, principal: Principal, request: Request) -> None:
        """Look at a request before it runs.

        Raises:
            ApiError: 429 (its caller is on the step `quota`), 403 (log-probabilities are no longer given to them).
        """
        policy = self._guard.protection_of(principal.tenant).extraction
        if not policy.enabled or principal.kind == "local":
            return
        caller = Caller(owner=principal.id, tenant=principal.tenant)
        watched = self._watched.get(caller) or await asyncio.to_thread(self._load, caller)
        self._look(watched, request, policy)
        if self._clock() - self._flushed > FLUSH_SECONDS and (
            self._flushing is None or self._flushing.done()
        ):
            self._flushing = asyncio.create_task(asyncio.to_thread(self.flush))
        self._hold_back(watched, request, policy)

    def flush(self) -> None:
        """Write down what is new, and forget the callers that have been away longest."""
        with self._writing:
            self._flushed = self._clock()
            for watched in [one for one in list(self._watched.values()) if one.counts]:
                news = self._news(watched)
                try:
                    score = self._table.add(news, self._clock())
                except SQLAlchemyError as error:
                    log.error("the monitor of extraction cannot write", exc_info=error)
                    self._keep(watched, news)
                    return
                if score is not None:  # others may have added to it
                    with self._lock:
                        watched.score = score + watched.gained
            longest_away = sorted(self._watched.values(), key=lambda one: one.updated)
            for watched in longest_away[: max(0, len(longest_away) - _REMEMBERED)]:
                self._watched.pop(watched.caller, None)

    def _news(self, watched: _Watched) -> News:
        """What the store does not have yet; from now on it is as if it had."""
        with self._lock:
            counts, gained = watched.counts, watched.gained
            watched.counts, watched.gained = {}, 0.0
            return News(
                caller=watched.caller, gained=gained, step=watched.step, updated=watched.updated,
                sketch=watched.sketch.packed(), counts=counts,
            )  # fmt: skip

    def _keep(self, watched: _Watched, news: News) -> None:
        """What could not be written is new still."""
        with self._lock:
            watched.gained += news.gained
            for start, lost in news.counts.items():
                counts = watched.counts.setdefault(start, {})
                for what, number in lost.items():
                    counts[what] = counts.get(what, 0) + number

    def list(self, *, tenant: str | None) -> list[dict[str, Any]]:
        """Who is suspected, the most first, with their windows. It asks the store: not for the event loop."""
        self.flush()
        return [
            {
                "id": one.owner, "tenant": one.tenant, "score": round(one.score, 1), "step": one.step, "updated": one.updated,
                "windows": self.windows(Caller(owner=one.owner, tenant=one.tenant)),
            }
            for one in self._table.all(tenant=tenant, least=1.0)
        ]  # fmt: skip

    def windows(self, caller: Caller) -> dict[str, dict[str, float]]:
        """Of the last hour, day and 30 days: requests, and shares of them."""
        return {name: _shares(counts) for name, counts in self._table.windows(caller, self._clock()).items()}

    def clear(self, caller: Caller) -> bool:
        """A reviewer has looked: begin anew. False if there was nothing."""
        with self._writing:
            known = self._watched.pop(caller, None)
            return self._table.clear(caller) or known is not None

    def _load(self, caller: Caller) -> _Watched:
        loaded = _Watched(caller)
        try:
            known = self._table.find(caller)
        except SQLAlchemyError as error:  # the answer does not wait for it
            log.error("the monitor of extraction cannot read: it begins anew", exc_info=error)
            return loaded
        if known is not None:
            loaded.sketch, loaded.score = Sketch.unpacked(known.sketch), known.score
            loaded.step, loaded.updated = known.step, known.updated
        return self._watched.setdefault(caller, loaded)

    def _look(self, watched: _Watched, request: Request, policy: ExtractionPolicy) -> None:
        now = self._clock()
        with self._lock:
            step = self._add(watched, request, policy, now)
        if step != watched.step:
            self._tell(watched, step)

    @staticmethod
    def _add(watched: _Watched, request: Request, policy: ExtractionPolicy, now: float) -> str:
        """The step that the caller is on now."""
        params = request.params
        signs = watched.sketch.look(
            request.prompt_ids, logprobs=params.logprobs is not None or params.prompt_logprobs is not None,
            samples=max(params.n, params.best_of or 1) > 1, greedy=not params.temperature,
        )  # fmt: skip
        score = next_score(watched.score, signs, seconds=now - (watched.updated or now))
        watched.gained += score - watched.score
        watched.score, watched.updated = score, now
        _count(watched, signs, int(now // _BUCKET * _BUCKET))
        return "review" if watched.step == "review" else step_of(score, policy)  # until somebody has looked

    def _tell(self, watched: _Watched, step: str) -> None:
        facts = {"step": step or "none", "before": watched.step or "none", "score": round(watched.score, 1)}
        watched.step = step
        log.warning(
            "extraction: %s of %s is now on the step %s",
            watched.caller.owner,
            watched.caller.tenant,
            facts["step"],
        )
        self._trail.tell(
            "extraction.step",
            actor="server",
            target=watched.caller.owner,
            tenant=watched.caller.tenant,
            facts=facts,
        )

    def _hold_back(self, watched: _Watched, request: Request, policy: ExtractionPolicy) -> None:
        params = request.params
        asks = params.logprobs is not None or params.prompt_logprobs is not None
        if asks and at_least(watched.step, "no_logprobs"):
            raise ApiError(
                403, "log-probabilities are no longer given to this caller: too many requests look like copying the model",
                param="logprobs", code="logprobs_withdrawn",
            )  # fmt: skip
        if not at_least(watched.step, "quota"):
            return
        watched.credit = min(1.0, watched.credit + policy.quota_share)
        if watched.credit < 1.0:
            raise ApiError(
                429, "too many requests of this caller look like copying the model", code="extraction_quota",
                headers={"Retry-After": str(COME_BACK)},
            )  # fmt: skip
        watched.credit -= 1.0


def _count(watched: _Watched, signs: Signs, bucket: int) -> None:
    counts = watched.counts.setdefault(bucket, dict.fromkeys(COUNTS, 0))
    values = (True, signs.fresh, signs.new_cell, signs.alike, signs.logprobs, signs.samples, signs.greedy)
    for name, value in zip(COUNTS, values, strict=True):
        counts[name] += value


def _shares(counts: dict[str, int]) -> dict[str, float]:
    requests = counts["requests"]
    return {"requests": requests} | {
        name: round(counts[name] / requests, 4) if requests else 0.0 for name in COUNTS[1:]
    }
