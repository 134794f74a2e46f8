"""Thinking in chunks (Delethink, arXiv 2510.06557): a long trace with a state of fixed size, above any engine.

    chunk 1      question                    -> at most C tokens
    chunk l      question, carry of m tokens -> at most C - m tokens        until a stop, I chunks at most

carry = the first `head` and the last m - `head` tokens of (carry before, new tokens): the "progressive" rule of the authors'
training environment. Every chunk is a request of its own, so what a trace holds never exceeds the question and C tokens, and
the work of a token does not grow with the tokens before it. C chunk, m carry, I chunks.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from hanok.engine.api import Completion, Delta, Engine, Request, SamplingParams, Usage
from hanok.errors import ConfigError

_HEAD = 100  # of the paper, whose carry is 4,096
_UNUSABLE = (
    "stop", "bad_words", "structure", "best_of", "prompt_logprobs", "min_tokens", "repetition_penalty",
    "presence_penalty", "frequency_penalty",
)  # fmt: skip  # they look at an answer as a whole


@dataclass(frozen=True, kw_only=True, slots=True)
class Delethink:
    """Args:
    chunk: tokens that a trace may hold beside its question. carry: of them that the next chunk begins with; default: half.
    chunks: at most. head: the part of the carry that is the trace's beginning (its plan); default: a quarter of the carry,
        100 at most.
    """

    chunk: int = 8192
    carry: int | None = None
    chunks: int = 5
    head: int | None = None

    def __post_init__(self) -> None:
        _require(self.chunks >= 1, f"chunks = {self.chunks}", "at least 1")
        _require(self.chunk >= 2, f"chunk = {self.chunk}", "at least 2 tokens")
        _require(
            0 < self.kept < self.chunk,
            f"carry = {self.kept} with chunk = {self.chunk}",
            "at least one token, and fewer than a chunk",
        )
        _require(
            0 <= self.beginning < self.kept,
            f"head = {self.beginning} with carry = {self.kept}",
            "0 or more, and less than the carry",
        )

    @property
    def kept(self) -> int:
        """m."""
        return self.chunk // 2 if self.carry is None else self.carry

    @property
    def beginning(self) -> int:
        return min(_HEAD, self.kept // 4) if self.head is None else self.head

    @property
    def budget(self) -> int:
        """The longest trace: C + (I - 1)(C - m)."""
        return self.chunk + (self.chunks - 1) * (self.chunk - self.kept)

    def carried(self, before: Sequence[int], new: Sequence[int]) -> tuple[int, ...]:
        """What the next chunk begins with, behind the question."""
        ids = (*before, *new)
        if len(ids) <= self.kept:
            return ids
        return (*ids[: self.beginning], *ids[len(ids) - (self.kept - self.beginning) :])


@dataclass(frozen=True, slots=True)
class Chunk:
    """Args: prompt_ids: question and carry. completion: what was written then."""

    prompt_ids: tuple[int, ...]
    completion: Completion

    @property
    def drawn_ids(self) -> tuple[int, ...]:
        """With the id that ended it."""
        stop = self.completion.stop_id
        return self.completion.ids if stop is None else (*self.completion.ids, stop)

    @property
    def context(self) -> int:
        """Tokens that the model held in the end: the last one drawn is never read."""
        return len(self.prompt_ids) + max(len(self.drawn_ids) - 1, 0)

    @property
    def attended(self) -> int:
        """Sum over the tokens that were read, of those that each looked at; without those found in a cache."""
        cached = self.completion.usage.cached_tokens
        return (self.context * (self.context + 1) - cached * (cached + 1)) // 2


@dataclass(frozen=True, slots=True)
class Trace:
    """The chunks of one answer in order."""

    chunks: tuple[Chunk, ...]

    @property
    def peak_context(self) -> int:
        """The most tokens that were held at once: what memory is needed for."""
        return max(chunk.context for chunk in self.chunks)

    @property
    def attended(self) -> int:
        return sum(chunk.attended for chunk in self.chunks)

    @property
    def completion(self) -> Completion:
        """The whole trace as if it had been written at once."""
        first, last = self.chunks[0], self.chunks[-1].completion
        parts = [chunk.completion for chunk in self.chunks]
        return Completion(
            ids=tuple(i for part in parts for i in part.ids), finish_reason=last.finish_reason,
            usage=Usage(
                prompt_tokens=len(first.prompt_ids), completion_tokens=sum(p.usage.completion_tokens for p in parts),
                cached_tokens=first.completion.usage.cached_tokens,
            ),
            logprobs=None if last.logprobs is None else tuple(x for part in parts for x in part.logprobs or ()),
            top_logprobs=None if last.top_logprobs is None else tuple(x for p in parts for x in p.top_logprobs or ()),
            stop_id=last.stop_id, stop_logprob=last.stop_logprob,
            decoding=None if last.decoding is None else tuple(x for part in parts for x in part.decoding or ()),
        )  # fmt: skip


def think(engine: Engine, requests: Sequence[Request], plan: Delethink) -> list[Trace]:
    """The traces of all requests, in their order; those that go on are written together, chunk by chunk.

    Raises:
        ConfigError: parameters that look at an answer as a whole, or a chunk that does not fit behind a question.
    """
    for request in requests:
        _check(request.params)
    traces: list[list[Chunk]] = [[] for _ in requests]
    open_ = list(range(len(requests)))
    while open_:
        asked = [_next(requests[place], traces[place], plan) for place in open_]
        for place, request, completion in zip(open_, asked, engine.generate(asked), strict=True):
            _fits(request, completion)
            traces[place].append(Chunk(tuple(request.prompt_ids), completion))
        open_ = [place for place in open_ if _goes_on(requests[place], traces[place], plan)]
    return [Trace(tuple(chunks)) for chunks in traces]


async def stream_thinking(
    engine: Engine, request: Request, plan: Delethink, written: list[Chunk]
) -> AsyncIterator[Delta]:
    """Deltas of the whole trace; its chunks are added to `written` (empty at first) as they end."""
    _check(request.params)
    while not written or _goes_on(request, written, plan):
        asked = _next(request, written, plan)
        ids: list[int] = []
        async with aclosing(engine.stream(asked)) as deltas:  # type: ignore[type-var]
            async for delta in deltas:
                ids += delta.ids
                if delta.finish_reason is None:
                    yield delta
                    continue
                assert delta.usage is not None
                done = Completion(ids=tuple(ids), finish_reason=delta.finish_reason, usage=delta.usage)
                _fits(asked, done)
                written.append(Chunk(tuple(asked.prompt_ids), done))
                if _goes_on(request, written, plan):
                    delta = dataclasses.replace(delta, finish_reason=None, usage=None)
                yield delta


def _next(request: Request, written: Sequence[Chunk], plan: Delethink) -> Request:
    """The request of the next chunk. The first is the plain one but for its length."""
    carry: tuple[int, ...] = ()
    for chunk in written:
        carry = plan.carried(carry, chunk.completion.ids)
    params = dataclasses.replace(
        request.params,
        max_tokens=min(plan.chunk - len(carry), _left(request, written)),
        seed=_seed(request.params.seed, len(written)),
    )
    return dataclasses.replace(
        request, id=f"{request.id}/{len(written)}", prompt_ids=(*request.prompt_ids, *carry), params=params
    )


def _goes_on(request: Request, written: Sequence[Chunk], plan: Delethink) -> bool:
    return (
        written[-1].completion.finish_reason == "length"
        and len(written) < plan.chunks
        and _left(request, written) > 0
    )


def _left(request: Request, written: Sequence[Chunk]) -> int:
    """Tokens that the request's own limit allows yet."""
    limit = request.params.max_tokens
    done = sum(len(chunk.completion.ids) for chunk in written)
    return 2**62 if limit is None else limit - done


def _seed(seed: int | None, number: int) -> int | None:
    """Another one for each chunk: places are counted from the question's start, so they occur again."""
    if seed is None or number == 0:
        return seed
    return int.from_bytes(hashlib.sha256(f"{seed}/{number}".encode()).digest()[:7], "big")


def _fits(request: Request, completion: Completion) -> None:
    limit = request.params.max_tokens
    assert limit is not None
    if completion.finish_reason == "length" and len(completion.ids) < limit:
        raise ConfigError(
            f"a chunk ended after {len(completion.ids)} of {limit} tokens: the model's context is full",
            remedy="lower the chunk, or shorten the question",
        )


def _check(params: SamplingParams) -> None:
    plain = SamplingParams()
    for name in _UNUSABLE:
        if getattr(params, name) != getattr(plain, name):
            raise ConfigError(
                f"{name} = {getattr(params, name)!r} with thinking in chunks",
                remedy="it looks at an answer as a whole: leave it out",
            )
    if params.n > 1:
        raise ConfigError(f"n = {params.n} with thinking in chunks", remedy="one request a sample")


def _require(condition: bool, message: str, rule: str) -> None:
    if not condition:
        raise ConfigError(message, remedy=f"it must be {rule}")
