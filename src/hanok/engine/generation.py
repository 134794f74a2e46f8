"""One request on its way through the engine."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hanok.engine.adapters import Adapter, lows_of
from hanok.engine.api import Completion, Delta, FinishReason, Request, SamplingParams, Usage
from hanok.engine.echo import PromptEcho
from hanok.engine.grammar import Grammars, Mask, Matcher
from hanok.engine.marking import Marker
from hanok.engine.metrics import Counters
from hanok.engine.sampler import Choice, Draw, Memory, new_memory
from hanok.engine.text import StopCutter
from hanok.engine.words import BannedWords
from hanok.errors import HanokError, StructureError
from hanok.tokens.tokenizer import Tokenizer

if TYPE_CHECKING:
    from hanok.models.linear import LowRank
    from hanok.models.state import DecoderState


@dataclass(slots=True, eq=False)
class Generation:
    """Args:
    listener: told every delta, in the engine's thread, or, with `last_only`, the last. failed: told of an error that ended the
        request.
    limit: completion tokens at most. cached: prompt tokens that were read before.
    prefilled: prompt tokens that the state has seen. state: while prefilling.
    learned: whether the model's decoding heads choose (temperature, top_p). law: theirs for the next token, set before it is
        drawn. laws: of `ids`.
    matcher: of a structured answer; it moves with `ids`, so that a prompt that is read again changes nothing.
    memory: of the sampler, follows every id. words: that are banned. echo: collects the prompt's own logprobs.
    marker: of an answer that is watermarked; told of every id.
    adapter: of the request; held until it ends, whoever unloads it.
    arrived: seconds of the monotonic clock. admitted: it has had a place.
    """

    request: Request
    arrival: int
    seed: int
    stop_ids: frozenset[int]
    limit: int
    listener: Callable[[Delta], None]
    failed: Callable[[Exception], None]
    stops: _StopStrings | None
    adapter: Adapter | None = None
    prefilled: int = 0
    state: DecoderState | None = None
    memory: Memory | None = None
    words: BannedWords | None = None
    marker: Marker | None = None
    echo: PromptEcho | None = None
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    tops: list[dict[int, float]] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    ended_by: Choice | None = None
    cancelled: bool = False
    cached: int = 0
    matcher: Matcher | None = None
    stuck: StructureError | None = None
    learned: bool = False
    law: tuple[float, float] | None = None
    laws: list[tuple[float, float]] = field(default_factory=list)
    arrived: float = field(default_factory=time.monotonic)
    admitted: bool = False
    last_only: bool = False

    def admit(self, counters: Counters) -> None:
        """It has a place; how long it took counts the first time."""
        if not self.admitted:
            self.admitted = True
            counters.waits.append(time.monotonic() - self.arrived)

    @property
    def order(self) -> tuple[int, int]:
        """Lower runs first."""
        return self.request.priority, self.arrival

    @property
    def lows(self) -> Mapping[str, LowRank] | None:
        """Its adapter, for PyTorch's layers."""
        return lows_of(self.adapter)

    @property
    def draw(self) -> Draw:
        return self.draw_after(())

    def draw_after(self, guesses: Sequence[int]) -> Draw:
        """What decides the token behind so many guesses, should they hold."""
        ids = [*self.ids, *guesses] if guesses else self.ids
        banned = self.words.after(ids) if self.words is not None else ()
        if len(ids) < self.request.params.min_tokens:
            banned = (*banned, *self.stop_ids)
        return Draw(
            self.request.params, self.seed, self.request.sample_index, self.request.prompt_ids, ids, banned, self.memory,
            self._allowed(may_end=len(ids) >= self.request.params.min_tokens),
            None if self.marker is None else self.marker.mark(guesses), self.law,
        )  # fmt: skip

    def _allowed(self, *, may_end: bool) -> Mask | None:
        if self.matcher is None:
            return None
        try:
            return self.matcher.allowed(may_end=may_end)
        except StructureError as error:  # this request's alone: whoever else is in the batch draws on
            self.stuck = error
            return None

    @property
    def goes_by_itself(self) -> bool:
        """Whether nothing but its logits and params decides any of the next tokens."""
        return (
            self.memory is not None
            and self.matcher is None
            and self.words is None
            and self.marker is None
            and self.echo is None
            and len(self.ids) >= self.request.params.min_tokens
        )

    def is_over(self) -> bool:
        """Whether to stop before the next step: cancelled, or past its deadline."""
        deadline = self.request.deadline
        return self.cancelled or (deadline is not None and time.monotonic() >= deadline)

    def take(self, choice: Choice | HanokError) -> bool:
        """Append a token, decide whether it is the last, and tell the listener. True: the request is over."""
        if self.stuck is not None:
            return self._fail(self.stuck)
        if isinstance(choice, HanokError):
            return self._fail(choice)
        if choice.token in self.stop_ids:
            self.ended_by = choice
            self.finish("stop")
            return True
        try:
            complete = self.matcher is not None and self.matcher.advance(choice.token)
        except StructureError as error:
            return self._fail(error)
        self.ids.append(choice.token)
        if self.memory is not None:
            self.memory.follow(self.ids)
        if self.marker is not None:
            self.marker.push(choice.token)
        if self.law is not None:
            self.laws.append(self.law)
        with_logprobs = choice.logprob is not None
        if choice.logprob is not None:
            self.logprobs.append(choice.logprob)
            self.tops.append(dict(choice.top or {}))
        stopped = self.stops is not None and self.stops.completed_by(choice.token, counted=self._counted)
        if stopped or complete:
            self.finish_reason = "stop"
        elif len(self.ids) >= self.limit:
            self.finish_reason = "length"
        if self.last_only and self.finish_reason is None:
            return False
        self.listener(
            Delta(
                ids=(choice.token,),
                logprobs=(self.logprobs[-1],) if with_logprobs else None,
                top_logprobs=(self.tops[-1],) if with_logprobs else None,
                finish_reason=self.finish_reason,
                usage=self.usage if self.finish_reason else None,
                decoding=None if self.law is None else (self.law,),
                **self._of_prompt(first=len(self.ids) == 1),
            )
        )
        return self.finish_reason is not None

    def finish(self, reason: FinishReason) -> None:
        self.finish_reason = reason
        ended = self.ended_by
        self.listener(
            Delta(
                ids=(), finish_reason=reason, usage=self.usage, **self._of_prompt(first=not self.ids),
                stop_id=None if ended is None else ended.token, stop_logprob=None if ended is None else ended.logprob,
                stop_top=None if ended is None else ended.top,
            )
        )  # fmt: skip

    def _of_prompt(self, *, first: bool) -> dict[str, Any]:
        """What the first delta says of the prompt; nothing if it was never read to its end."""
        if not first or self.echo is None or not self.echo.complete:
            return {}
        return {"prompt_logprobs": self.echo.logprobs, "prompt_top_logprobs": self.echo.tops}

    def _fail(self, error: HanokError) -> bool:
        self.finish_reason = "error"
        self.failed(error)
        return True

    @property
    def usage(self) -> Usage:
        return Usage(
            prompt_tokens=len(self.request.prompt_ids), completion_tokens=len(self.ids), cached_tokens=self.cached
        )  # fmt: skip

    @property
    def completion(self) -> Completion:
        assert self.finish_reason is not None
        reported = self.request.params.logprobs is not None
        return Completion(
            ids=tuple(self.ids), finish_reason=self.finish_reason, usage=self.usage,
            logprobs=tuple(self.logprobs) if reported else None,
            top_logprobs=tuple(self.tops) if reported else None,
            prompt_logprobs=None if self.echo is None else self.echo.logprobs,
            prompt_top_logprobs=None if self.echo is None else self.echo.tops,
            stop_id=None if self.ended_by is None else self.ended_by.token,
            stop_logprob=None if self.ended_by is None else self.ended_by.logprob,
            decoding=tuple(self.laws) if self.learned else None,
        )  # fmt: skip

    @property
    def _counted(self) -> bool:
        return len(self.ids) >= self.request.params.min_tokens


class _StopStrings:
    """Watches the text of an answer for its stop strings."""

    def __init__(self, tokenizer: Tokenizer, stop: tuple[str, ...]) -> None:
        self._decoder = tokenizer.stream_decoder()
        self._cutter = StopCutter(stop)

    def completed_by(self, token: int, *, counted: bool) -> bool:
        """`counted`: the answer is long enough for a stop string to end it."""
        self._cutter.push(self._decoder.push(token))
        return self._cutter.stopped and counted


def new_generation(
    request: Request, *, arrival: int, tokenizer: Tokenizer, context: int,
    listener: Callable[[Delta], None], failed: Callable[[Exception], None],
    grammars: Grammars | None = None, has_heads: bool = False, adapter: Adapter | None = None, last_only: bool = False,
) -> Generation:  # fmt: skip
    """Args: has_heads: whether the model has decoding heads. last_only: of `Generation`."""
    params = request.params
    room = context - len(request.prompt_ids) + 1  # the last token is never fed back
    ends = () if params.ignore_eos else tokenizer.stop_ids
    stop_ids = frozenset((*ends, *params.stop_ids))
    return Generation(
        request=request,
        arrival=arrival,
        seed=secrets.randbits(63) if params.seed is None else params.seed,
        stop_ids=stop_ids,
        limit=min(room, params.max_tokens or room),
        listener=listener,
        failed=failed,
        adapter=adapter,
        memory=new_memory(params, request.prompt_ids, ends=stop_ids),
        words=BannedWords(tokenizer, params.bad_words) if params.bad_words else None,
        echo=None
        if params.prompt_logprobs is None
        else PromptEcho(request.prompt_ids, params.prompt_logprobs),
        stops=_StopStrings(tokenizer, params.stop) if params.stop else None,
        matcher=_matcher(params, stop_ids, grammars),
        marker=_marker(params, tokenizer),
        learned=has_heads and params.left_to_heads,
        last_only=last_only,
    )


def _marker(params: SamplingParams, tokenizer: Tokenizer) -> Marker | None:
    if params.watermark is None or params.structure is not None or not params.temperature:
        return None
    return Marker(params.watermark, tokenizer)


def _matcher(params: SamplingParams, stop_ids: frozenset[int], grammars: Grammars | None) -> Matcher | None:
    if params.structure is None:
        return None
    assert grammars is not None
    return grammars.matcher(params.structure, stop_ids)
