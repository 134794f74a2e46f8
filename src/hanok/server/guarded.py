"""The guard behind the model: an answer whose text, reasoning and calls have passed the tenant's rules, streamed or not.

`Guarded` stands where the reader of the tokens stood, so every route goes through it, and it takes one token at a time, so
it comes to the same whatever the pieces were. What is told of tokens (their log-probabilities, alternatives, decoding) waits
for the text that they made: `fates` says of how many that is decided, and which of them must not be shown.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from hanok.engine.text import StopCutter
from hanok.guard.filter import OutputFilter, Released
from hanok.guard.verdicts import Finding
from hanok.server.arguments import HIDES, Arguments, Make
from hanok.server.waiting import Waiting
from hanok.tokens.control import TOOL_CALL, TOOL_CALL_END
from hanok.tokens.tokenizer import Tokenizer

Places = Sequence[tuple[int, int]]
Tell = Callable[[Sequence[Finding], str, Places], None]
Judge = Callable[[str, str], Sequence[Finding]]
Written = Callable[[Sequence[int]], str]
_ALL = (0, 1 << 60)
_TAGS = re.compile("|".join(map(re.escape, (TOOL_CALL, TOOL_CALL_END))))


class Reader(Protocol):
    """Tokens of an answer to what it says, as `hanok.engine.text.AnswerStream` has it."""

    content: str
    reasoning: str
    calls: list[dict[str, Any]]

    @property
    def reasoning_tokens(self) -> int: ...
    @property
    def stopped_by(self) -> str | None: ...
    def push(self, ids: Iterable[int]) -> str: ...
    def finish(self) -> tuple[str, list[dict[str, Any]]]: ...


class PlainText:
    """A `Reader` of text alone."""

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str]) -> None:
        self._decoder, self._cutter = tokenizer.stream_decoder(), StopCutter(stop)
        self.content, self.reasoning, self.reasoning_tokens = "", "", 0
        self.calls: list[dict[str, Any]] = []

    @property
    def stopped_by(self) -> str | None:
        return self._cutter.found

    def push(self, ids: Iterable[int]) -> str:
        text = self._cutter.push("".join(map(self._decoder.push, ids)))
        self.content += text
        return text

    def finish(self) -> tuple[str, list[dict[str, Any]]]:
        text = self._cutter.push(self._decoder.flush()) + self._cutter.flush()
        self.content += text
        return text, []


@dataclass(slots=True)
class _Channel:
    """A filter, and which characters of what came into it are hidden. `before`: characters shown in its place before it."""

    filter: OutputFilter
    hidden: list[tuple[int, int]] = field(default_factory=list)
    over: bool = False
    before: int = 0

    def fate(self, start: int, end: int) -> bool | None:
        """Whether these characters may be told of; None: not decided."""
        if not self.over and self.filter.place < end:
            return None
        return not any(
            start < hidden_end and hidden_start < max(end, start + 1)
            for hidden_start, hidden_end in self.hidden
        )


@dataclass(frozen=True, slots=True)
class _Judged:
    """A call as it may be shown, and what was found in it."""

    shown: dict[str, Any]
    found: Sequence[Finding]
    blocked: bool

    @property
    def hides(self) -> bool:
        return self.blocked or any(one.action in HIDES for one in self.found)


class Guarded:
    """A `Reader` whose answer has passed the rules.

    Args:
        make: a new filter. tell: of findings, in what part of the answer, and where in what is shown of it; of none, at the end.
        judge: a call, by its name and arguments.
        before: text that the answer goes on from.
        stops: there are stop strings, for which the inner reader may hold back a part of what a token made.
        written: tokens as they were written, with control tokens; without it, those of calls are not shown.
        waiting: where `read` puts the work, as some rule waits for another server.
    """

    def __init__(
        self, inner: Reader, make: Make, tell: Tell, *, judge: Judge, before: str = "", stops: bool = False,
        written: Written | None = None, waiting: Waiting | None = None,
    ) -> None:  # fmt: skip
        self._waiting = waiting
        self._inner, self._make, self._tell, self._judge, self._stops = inner, make, tell, judge, stops
        self._written = written
        self._text, self._thoughts = _Channel(make(before=before)), _Channel(make())
        self._thought = 0  # characters of the inner reasoning that were read
        self._limbo: list[int] = []  # tokens that have made no text yet
        self._late: tuple[_Channel, int, int] | None = None  # tokens that may not have made all of theirs
        self._fates: deque[tuple[_Channel, int, int]] = deque()
        self._hid_call = False
        self.content, self.reasoning = "", ""
        self.calls: list[dict[str, Any]] = []
        self.blocked = False

    @property
    def waiting(self) -> Waiting | None:
        return self._waiting

    @property
    def reasoning_tokens(self) -> int:
        return self._inner.reasoning_tokens

    @property
    def stopped_by(self) -> str | None:
        return self._inner.stopped_by

    def push(self, ids: Iterable[int]) -> str:
        return "".join(map(self._push, ids))

    def finish(self) -> tuple[str, list[dict[str, Any]]]:
        rest = ""
        if not self.blocked:
            text, _ = self._inner.finish()
            rest = self._take(text) + self._flush()
        self._tell((), "", ())
        return rest, self.calls

    def fates(self) -> list[bool]:
        """Of the next tokens whose fate is decided: whether they may be shown."""
        decided: list[bool] = []
        while self._fates:
            channel, start, end = self._fates[0]
            fate = False if self.blocked and channel.fate(start, end) is None else channel.fate(start, end)
            if fate is None:
                break
            decided.append(fate)
            self._fates.popleft()
        return decided

    def _push(self, token: int) -> str:
        if self.blocked:
            return ""
        self._limbo.append(token)
        return self._take(self._inner.push([token]))

    def _take(self, text: str) -> str:
        calls = [self._judged(call) for call in self._inner.calls[len(self.calls) :]]
        self._hid_call |= any(call.hides for call in calls)  # before the fate of their tokens is settled
        if text and self._inner.calls:
            self._hid_call |= not self._all_read()
        thought = self._inner.reasoning[self._thought :]
        out = ""
        if thought:
            self._thought += len(thought)
            self._settle(self._thoughts, len(thought))
            self.reasoning += self._let(self._thoughts, self._thoughts.filter.push(thought), "reasoning")
        if text and not self.blocked:
            self._end_thoughts()
        if text and not self.blocked:
            self._settle(self._text, len(text))
            out = self._let(self._text, self._text.filter.push(text), "text")
        for call in calls if not self.blocked else ():
            out += self._end_text()
            if not self.blocked:
                self._call(call)
        self.content += out
        return out

    def _flush(self) -> str:
        """At the end: what was held back."""
        if not self.blocked:
            self._end_thoughts()
        out = self._end_text() if not self.blocked else ""
        self.content += out
        read = bool(self.calls) and self.stopped_by is None and self._all_read()
        self._settle(_Channel(self._make(), [] if read else [_ALL], over=True), 0)
        self._settle_late()
        return out

    def _all_read(self) -> bool:
        """Nothing that waits is to be hidden, as it was written: a parser of calls leaves out what stands there twice."""
        if self._written is None:
            return False
        reader = Arguments(self._make)
        for piece in _TAGS.split(self._written(self._limbo)):
            reader.arguments(piece)
        return not reader.blocked and all(one.action not in HIDES for one in reader.found)

    def _settle(self, channel: _Channel, added: int) -> None:
        """Tokens that waited have made these characters, or went before them."""
        self._settle_late()
        if self._hid_call or self.blocked:  # they may have written the call
            channel = _Channel(self._make(), [_ALL], over=True)
        start = channel.filter.scanned
        if self._stops and not channel.over:
            self._late = (channel, start, len(self._limbo))
        else:
            self._fates.extend([(channel, start, start + added)] * len(self._limbo))
        self._limbo.clear()

    def _settle_late(self) -> None:
        if self._late is not None:
            channel, start, count = self._late
            self._fates.extend([(channel, start, channel.filter.scanned)] * count)
            self._late = None

    def _end_thoughts(self) -> None:
        if self._thoughts.filter.scanned and not self._thoughts.over:
            done = self._thoughts.filter.finish()
            self._thoughts.over = True
            self.reasoning += self._let(self._thoughts, done, "reasoning")
            if not self.blocked:
                self._thoughts = _Channel(self._make(), before=len(self.reasoning))

    def _end_text(self) -> str:
        """Before a call, and at the end: what follows is another text that goes on from here."""
        if not self._text.filter.scanned or self._text.over:
            return ""
        before = self._text
        out = self._let(before, before.filter.finish(), "text")
        before.over = True
        if not self.blocked:
            shown = before.before + before.filter.released
            self._text = _Channel(self._make(before=before.filter.before), before=shown)
        return out

    def _judged(self, call: Mapping[str, Any]) -> _Judged:
        reader, function = Arguments(self._make), call["function"]
        name, arguments = reader.text(function["name"]), reader.arguments(function["arguments"])
        judged = self._judge(function["name"], function["arguments"])
        asked = next((one for one in judged if one.action == "ask"), None)
        approval = (
            {}
            if asked is None
            else {"approval": {"required": True, "rule": asked.rule, "reason": asked.reason}}
        )
        shown = {**call, "function": {**function, "name": name, "arguments": arguments}, **approval}
        blocked = reader.blocked or any(one.action == "block" for one in judged)
        return _Judged(shown, (*reader.found, *judged), blocked)

    def _call(self, call: _Judged) -> None:
        self.blocked |= call.blocked
        if call.found:
            self._tell(call.found, f"calls.{len(self.calls)}", ())
        if not self.blocked:
            self.calls.append(call.shown)

    def _let(self, channel: _Channel, released: Released, where: str) -> str:
        channel.hidden += [(one.start, one.end) for one in released.findings if one.action in HIDES]
        self.blocked |= released.blocked
        if released.findings:
            moved = [(channel.before + start, channel.before + end) for start, end in released.places]
            self._tell(released.findings, where, moved)
        return released.text


async def read(answer: Reader, ids: Iterable[int], *, last: bool = False) -> str:
    """Push the next tokens into an answer, and finish it behind the last, without keeping the event loop waiting."""

    waiting = answer.waiting if isinstance(answer, Guarded) else None
    if waiting is None:
        return _pushed(answer, ids, last)
    return await waiting.run(_pushed, answer, ids, last)


def _pushed(answer: Reader, ids: Iterable[int], last: bool) -> str:
    text = answer.push(ids)
    return text + answer.finish()[0] if last else text


class LastFilter:
    """Text that was changed after it had passed: what was taken out of it may have stood in the middle of a secret."""

    def __init__(self, one: OutputFilter, tell: Tell) -> None:
        self._filter, self._tell = one, tell
        self.hid = False  # something of the text

    @property
    def blocked(self) -> bool:
        return self._filter.blocked

    def push(self, text: str, *, last: bool) -> str:
        released = [self._filter.push(text), *([self._filter.finish()] if last else [])]
        for part in released:
            self.hid |= part.blocked or any(one.action in HIDES for one in part.findings)
            if part.findings:
                self._tell(part.findings, "text", part.places)
        if last:
            self._tell((), "", ())
        return "".join(part.text for part in released)
