"""The monitor of extraction: each request for a model is looked at, scores are kept in the store, the policy's ladder is climbed.

What a step means for whoever is on it, each with those before: `log` nothing (the audit and the log tell of every step), `quota`
a share of the requests is told to come back, `no_logprobs` log-probabilities are refused, `review` the same until a reviewer
has cleared them: an item in the review queue asks for one.
"""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from hanok.engine.api import Request
from hanok.guard.extraction import Climb, Signs, Sketch, at_least, climb_of, step_of
from hanok.guard.protection import ExtractionPolicy
from hanok.guard.rulebook import Guard
from hanok.reporting import log
from hanok.server.auditing.trail import Trail
from hanok.server.errors import ApiError
from hanok.server.principal import Principal
from hanok.store.database import Store
from hanok.store.extraction import COUNTS, WINDOWS, Caller, ExtractionTable, Known, shares_of
from hanok.store.review.items import Item

FLUSH_SECONDS = 10.0
COME_BACK = 5  # seconds
_REMEMBERED = 2000  # callers
_BUCKET = min(span for span, _ in WINDOWS.values())


@dataclass(slots=True)
class _News:
    """What the store does not have yet."""

    sketch: Sketch = field(default_factory=Sketch)
    climb: Climb = field(default_factory=Climb)
    counts: dict[int, dict[str, int]] = field(default_factory=dict)

    def then(self, later: _News) -> _News:
        self.sketch.take_in(later.sketch)
        self.climb = self.climb.then(later.climb)
        for start, counts in later.counts.items():
            _add_counts(self.counts, start, counts)
        return self


@dataclass(slots=True)
class _Watched:
    """A caller: what the store had when it was `read` last, with the news. `credit`: of requests that may go on under the
    quota."""

    caller: Caller
    sketch: Sketch = field(default_factory=Sketch)
    score: float = 0.0
    step: str = ""
    updated: float = 0.0
    epoch: int = 0
    read: float = 0.0
    credit: float = 1.0
    news: _News = field(default_factory=_News)

    def take(self, known: Known, now: float) -> None:
        """What the store has now."""
        last = self.sketch.last
        self.sketch = Sketch.unpacked(known.sketch)
        self.sketch.take_in(self.news.sketch)
        self.sketch.last = last
        self.score, self.updated = self.news.climb.over(known.score, known.updated)
        self.step, self.epoch, self.read = known.step, known.epoch, now


class Monitor:
    """One for each process; several at one store put together what they see, at every change of a step and some seconds after
    anything else.

    Args:
        reviewers: people who must agree on what the last step puts into the review queue. clock: seconds of the Unix epoch.
    """

    def __init__(
        self, store: Store, guard: Guard, trail: Trail, *, reviewers: Callable[[], int] = lambda: 1,
        clock: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        self._table, self._guard, self._trail, self._clock = ExtractionTable(store), guard, trail, clock
        self._reviewers = reviewers
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
        watched = self._watched.get(caller)
        if watched is None or self._is_old(watched):
            watched = await asyncio.to_thread(self._load, caller)
        if self._look(watched, request, policy):
            await asyncio.to_thread(self._sync, watched)
        if self._clock() - self._flushed > FLUSH_SECONDS and (
            self._flushing is None or self._flushing.done()
        ):
            self._flushing = asyncio.create_task(asyncio.to_thread(self.flush))
        self._hold_back(watched, request, policy)

    def flush(self) -> None:
        """Write down what is new, and forget the callers that have been away longest."""
        with self._writing:
            self._flushed = self._clock()
            for watched in [one for one in list(self._watched.values()) if one.news.counts]:
                if not self._write(watched):
                    return
            longest_away = sorted(self._watched.values(), key=lambda one: one.updated)
            for watched in longest_away[: max(0, len(longest_away) - _REMEMBERED)]:
                self._watched.pop(watched.caller, None)

    def _sync(self, watched: _Watched) -> None:
        with self._writing:
            self._write(watched)

    def _write(self, watched: _Watched) -> bool:
        """Put its news together with what the store has; False if that cannot be written."""
        with self._lock:  # from now on it is as if the store had them
            news, watched.news = watched.news, _News()
        try:
            merge = partial(self._merged, watched, news)
            done = self._table.add(watched.caller, news.counts, merge, self._clock())
        except SQLAlchemyError as error:
            log.error("the monitor of extraction cannot write", exc_info=error)
            with self._lock:
                watched.news = news.then(watched.news)
            return False
        if done is None:  # deleted
            self._watched.pop(watched.caller, None)
            return True
        before, after = done
        with self._lock:
            watched.take(after, self._clock())
        if before.step != after.step:
            self._tell(before, after)
        return True

    def _merged(self, watched: _Watched, news: _News, known: Known) -> tuple[Known, Item | None]:
        """Of what the store knows and of news, and what a person is to look at. What was seen before the caller was cleared,
        here or elsewhere, counts no more."""
        if known.epoch != watched.epoch:
            return known, None
        policy = self._guard.protection_of(known.tenant).extraction
        sketch = Sketch.unpacked(known.sketch)
        sketch.take_in(news.sketch)
        score, updated = news.climb.over(known.score, known.updated)
        step = _next_step(known.step, score, policy)
        after = replace(known, score=score, step=step, updated=updated, sketch=sketch.packed())
        return after, self._item(after) if step == "review" != known.step else None

    def _item(self, one: Known) -> Item:
        finding = {"check": "extraction", "reason": f"score {one.score:.0f} when it got to the step review"}
        return Item(
            kind="extraction", source=f"ex-{uuid.uuid4().hex}", tenant=one.tenant, owner=one.owner, required=self._reviewers(),
            title="requests that look like copying the model", body={"findings": [finding]},
        )  # fmt: skip

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
        return {
            name: {"requests": counts["requests"], **shares_of(counts)}
            for name, counts in self._table.windows(caller, self._clock()).items()
        }

    def clear(self, caller: Caller) -> bool:
        """A reviewer has looked: begin anew. False if there was nothing."""
        with self._writing:
            known = self._watched.pop(caller, None)
            return self._table.clear(caller) or known is not None

    def forget(self, caller: Caller) -> None:
        """What is known of it is read anew."""
        with self._writing:
            self._watched.pop(caller, None)

    def _is_old(self, watched: _Watched) -> bool:
        """Others may have seen more of it since."""
        return not watched.news.counts and self._clock() - watched.read > FLUSH_SECONDS

    def _load(self, caller: Caller) -> _Watched:
        try:
            known = self._table.find(caller) or Known(owner=caller.owner, tenant=caller.tenant)
        except SQLAlchemyError as error:  # the answer does not wait for it
            log.error("the monitor of extraction cannot read", exc_info=error)
            watched = self._watched.setdefault(caller, _Watched(caller))
            watched.read = self._clock()  # nor do those behind it, each for itself
            return watched
        with self._lock:
            watched = self._watched.setdefault(caller, _Watched(caller))
            if not watched.news.counts:
                watched.take(known, self._clock())
        return watched

    def _look(self, watched: _Watched, request: Request, policy: ExtractionPolicy) -> bool:
        """Whether the caller is on another step now."""
        params, now = request.params, self._clock()
        with self._lock:
            signs = watched.sketch.look(
                request.prompt_ids, logprobs=params.logprobs is not None or params.prompt_logprobs is not None,
                samples=max(params.n, params.best_of or 1) > 1, greedy=not params.temperature, news=watched.news.sketch,
            )  # fmt: skip
            climb = climb_of(signs, now)
            watched.score, watched.updated = climb.over(watched.score, watched.updated or now)
            watched.news.climb = watched.news.climb.then(climb)
            bucket = int(now // _BUCKET * _BUCKET)
            _add_counts(watched.news.counts, bucket, dict(zip(COUNTS, _counted(signs), strict=True)))
            before, watched.step = watched.step, _next_step(watched.step, watched.score, policy)
        return watched.step != before

    def _tell(self, before: Known, after: Known) -> None:
        facts = {
            "step": after.step or "none", "before": before.step or "none", "score": round(after.score, 1)
        }  # fmt: skip
        log.warning("extraction: %s of %s is now on the step %s", after.owner, after.tenant, facts["step"])
        self._trail.tell(
            "extraction.step", actor="server", target=after.owner, tenant=after.tenant, facts=facts
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


def _next_step(step: str, score: float, policy: ExtractionPolicy) -> str:
    return "review" if step == "review" else step_of(score, policy)  # until somebody has looked


def _counted(signs: Signs) -> tuple[int, ...]:
    """In the order of `COUNTS`."""
    values = (True, signs.fresh, signs.new_cell, signs.alike, signs.logprobs, signs.samples, signs.greedy)
    return tuple(map(int, values))


def _add_counts(counts: dict[int, dict[str, int]], bucket: int, more: Mapping[str, int]) -> None:
    there = counts.setdefault(bucket, dict.fromkeys(COUNTS, 0))
    for name, value in more.items():
        there[name] += value
