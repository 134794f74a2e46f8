"""The guard before the model: what a request would have it read is put to the tenant's rules; what they say is told to listeners.

Texts are read where they stand in the conversation, each with its origin; what a rule redacts is changed in what the model reads,
and nowhere else. The other side, what the model writes, is `hanok.server.guarded`.
"""

from __future__ import annotations

import asyncio
import contextvars
import copy
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from hanok.guard.intake import Intake
from hanok.guard.probe import Vectors
from hanok.guard.provenance import Origin, Part
from hanok.guard.rulebook import Rulebook
from hanok.guard.spotlight import new_word, spotlit
from hanok.guard.verdicts import Direction, Finding, VerdictEvent
from hanok.reporting import log
from hanok.server.definitions import as_text, reworded
from hanok.server.errors import CONTENT_BLOCKED, ApiError
from hanok.server.findings import Findings
from hanok.server.guarded import Guarded, LastFilter, Places, Reader, Tell, Written
from hanok.server.hidden_vectors import ServedVectors
from hanok.server.models import Served
from hanok.server.principal import Principal
from hanok.server.services import Services
from hanok.server.tally import Tally, Told, together

Message = Mapping[str, Any]
Path = tuple[str | int, ...]
_ORIGINS: Mapping[str, Origin] = {
    "system": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}


@dataclass(frozen=True, slots=True)
class Stretch:
    """[start, end) of the content of message number `message` comes from elsewhere than the message itself."""

    message: int
    start: int
    end: int
    origin: Origin = "document"


class Watch:
    """The guard of one request. It costs nothing where no rule is active."""

    def __init__(self, services: Services, principal: Principal, *, served: Served, request_id: str) -> None:
        self.book: Rulebook = services.guard.of(principal.tenant)
        self._services, self._principal, self._model, self._id = services, principal, served.name, request_id
        self._vectors = ServedVectors(served) if self.book.probes else None
        self._tally, self._findings = Tally(), Findings(self.book.tells)
        self._filtered_again = False  # what is answered is not what the readers said
        self._read: tuple[Part, ...] = ()  # what the model has read

    @property
    def reads(self) -> bool:
        return self.book.reads

    def report(self, choices: Mapping[int, int] | None = None) -> dict[str, Any]:
        """What whoever asked is told, as a field of the answer (`hanok.server.findings`)."""
        return self._findings.fields(choices)

    async def conversation(
        self,
        messages: list[dict[str, Any]],
        tools: Any = None,
        form: str = "",
        stretches: Sequence[Stretch] = (),
    ) -> tuple[list[dict[str, Any]], Any]:
        """The messages and the tools as the model may read them.

        Args:
            form: what the answer must be, as text. stretches: parts of messages that come from documents.

        Raises:
            ApiError: 400, a rule blocks it, or redacts what cannot be redacted: the form, or more of a tool than its words.
        """
        if not self.reads:
            return messages, tools
        placed = list(_texts(messages, stretches))
        parts = [part for _, part in placed]
        definitions = [("tools", as_text(tools)), ("format", form)]
        parts += [Part(text, "definition", where) for where, text in definitions if text]
        filled = {one.message for one in stretches}
        as_sent = {n for n, (path, _) in enumerate(placed) if path[1] == "content" and path[0] not in filled}
        taken = await self._take_in(parts, as_sent)
        self._read = read = taken.parts
        tools = _defined(taken, parts, tools)
        if self.book.spotlight:
            read = spotlit(read, new_word())
        if read == tuple(parts):
            return messages, tools
        changed = copy.deepcopy(messages)
        for path in dict.fromkeys(path for path, _ in placed):
            texts = [new.text for (place, _), new in zip(placed, read, strict=False) if place == path]
            _put(changed, path, "".join(texts))
        return changed, tools

    async def prompts(self, texts: Sequence[str]) -> list[str]:
        """The same of plain prompts."""
        if not self.reads:
            return list(texts)
        several = len(texts) > 1
        parts = [Part(text, "user", f"prompt.{n}" if several else "prompt") for n, text in enumerate(texts)]
        return [part.text for part in (await self._take_in(parts, range(len(parts)))).parts]

    def answers(
        self, inner: Sequence[Reader], *, hidden: str = "", before: str = "", stops: bool = False,
        written: Written | None = None, first: int = 0,
    ) -> list[Reader]:  # fmt: skip
        """Readers whose answers have passed the rules; as they were given where there are none.

        Args:
            hidden: what must not come back out. before, stops, written: as `Guarded` takes them. first: number of the first.
        """
        if not self.book.watches:
            return list(inner)
        make, several = self.book.watch(hidden, self._read), len(inner) > 1
        tells: list[Tell] = [
            partial(self._read_answer, first + place, f"{place}." if several else "")
            for place in range(len(inner))
        ]
        waiting = self._services.waiting if self.book.asks_behind else None
        if waiting is not None:  # the rules are in a thread then, and listeners are told on the event loop
            tells = [_told_on(asyncio.get_running_loop(), tell) for tell in tells]
        return [
            Guarded(
                one,
                make,
                tell,
                judge=self._judge,
                before=before,
                stops=stops,
                written=written,
                waiting=waiting,
            )
            for one, tell in zip(inner, tells, strict=True)
        ]

    def last(self, count: int, *, hidden: str = "") -> list[LastFilter]:
        """For what is still changed behind the readers, as many as there are answers; none where no rule looks at text. What
        judges whole windows has judged them."""
        if not self.book.outputs:
            return []
        self._filtered_again = True
        make = partial(self.book.watch(hidden, self._read), of="again")
        return [LastFilter(make(), partial(self._answered, number, "")) for number in range(count)]

    def _judge(self, tool: str, arguments: str) -> Sequence[Finding]:
        return self.book.judge(tool, arguments, self._read)

    def _read_answer(
        self, choice: int, sample: str, findings: Sequence[Finding], where: str, places: Places
    ) -> None:
        """As `_answered`, of what a reader said."""
        elsewhere = self._filtered_again and where == "text"
        self._answered(choice, sample, findings, where, () if elsewhere else places)

    def _answered(
        self, choice: int, sample: str, findings: Sequence[Finding], where: str, places: Places
    ) -> None:
        """None of them: the answer has ended. Args: places: of each in what is answered; none where it has none there."""
        for number, one in enumerate(findings):
            self._findings.add(one, "output", where, places[number] if places else None, choice=choice)
        self._tell(self._tally.add(findings, sample + where) if findings else self._tally.rest(), "output")

    def _tell(self, found: Iterable[Told], direction: Direction) -> None:
        """Everybody who listens."""
        for told in found:
            one = told.finding
            span = (one.start, one.end) if one.end > one.start else None
            event = VerdictEvent(
                request_id=self._id, tenant=self._principal.tenant, key_id=self._principal.id, model=self._model,
                rule=one.rule, action=one.action, direction=direction, where=told.where, span=span, reason=one.reason,
                count=told.count, told=self.book.tells(one.rule, one.action),
            )  # fmt: skip
            for listener in (self._services.operations.verdict, *self._services.verdicts):
                _told(listener, event)

    async def _take_in(self, parts: Sequence[Part], as_sent: Container[int | None]) -> Intake:
        """Args: as_sent: numbers of the parts whose places are those of what was sent."""
        work = partial(_taken_in, self.book, parts, self._vectors)
        if self.book.reads_at_once(parts):
            taken, told = work()
        else:
            run = self._services.waiting.run if self.book.asks_before else asyncio.to_thread
            taken, told = await run(work)
        self._tell(told, "input")
        for one in taken.found:
            part = None if one.part is None else parts[one.part]
            moved = one.finding if part is None else _moved(one.finding, part.start)
            placed = one.part in as_sent and moved.end > moved.start
            where, span = "" if part is None else part.where, (moved.start, moved.end) if placed else None
            self._findings.add(moved, "input", where, span)
        stop = next((one for one in taken.found if one.finding.action == "block"), None)
        if stop is not None:
            where = "" if stop.part is None else parts[stop.part].where
            raise ApiError(
                400, f'the guard\'s rule "{stop.finding.rule}" blocks this: {stop.finding.reason}',
                param=where or None, code=CONTENT_BLOCKED, more=self.report(),
            )  # fmt: skip
        return taken


def _taken_in(book: Rulebook, parts: Sequence[Part], vectors: Vectors | None) -> tuple[Intake, list[Told]]:
    """Work for a thread, if it is long."""
    taken = book.take_in(parts, vectors)
    return taken, together(
        (one.finding, "")
        if one.part is None
        else (_moved(one.finding, parts[one.part].start), parts[one.part].where)
        for one in taken.found
    )


def _texts(messages: Sequence[Message], stretches: Sequence[Stretch]) -> Iterable[tuple[Path, Part]]:
    """Each text with the path to it; the stretches of one content come one behind the other."""
    for number, message in enumerate(messages):
        origin, where = _ORIGINS[message["role"]], f"messages.{number}"
        content = str(message.get("content") or "")
        own = sorted((one for one in stretches if one.message == number), key=lambda one: one.start)
        place = 0
        for one in own:
            yield (number, "content"), Part(content[place : one.start], origin, where, place)
            yield (number, "content"), Part(content[one.start : one.end], one.origin, where, one.start)
            place = one.end
        yield (number, "content"), Part(content[place:], origin, where, place)
        if message.get("reasoning_content"):
            yield (number, "reasoning_content"), Part(message["reasoning_content"], origin, where)
        for call, made in enumerate(message.get("tool_calls") or ()):
            for name in ("name", "arguments"):
                path = (number, "tool_calls", call, "function", name)
                yield path, Part(str(made["function"].get(name) or ""), origin, where)


def _put(messages: list[dict[str, Any]], path: Path, text: str) -> None:
    place: Any = messages
    for step in path[:-1]:
        place = place[step]
    if place.get(path[-1]) or text:
        place[path[-1]] = text


def _defined(taken: Intake, parts: Sequence[Part], tools: Any) -> Any:
    """The tools with what was redacted in them. Raises ApiError: it cannot be."""
    for number, (old, new) in enumerate(zip(parts, taken.parts, strict=True)):
        if old.origin != "definition" or old.text == new.text:
            continue
        words = reworded(tools, new.text) if old.where == "tools" else None
        if words is None:
            redacts = (one.finding for one in taken.found if one.part == number)
            finding = next(one for one in redacts if one.action == "redact")
            raise ApiError(
                400,
                f'the guard\'s rule "{finding.rule}" redacts this, which only messages and descriptions allow: {finding.reason}',
                param=old.where, code=CONTENT_BLOCKED,
            )  # fmt: skip
        tools = words
    return tools


def _moved(one: Finding, shift: int) -> Finding:
    return Finding(one.rule, one.start + shift, one.end + shift, one.action, one.reason, one.instead)


def _told_on(loop: asyncio.AbstractEventLoop, tell: Tell) -> Tell:
    around = contextvars.copy_context()  # whose request it is

    def told(findings: Sequence[Finding], where: str, places: Places) -> None:
        loop.call_soon_threadsafe(tell, findings, where, places, context=around)

    return told


def _told(listener: Callable[[VerdictEvent], None], event: VerdictEvent) -> None:
    try:
        listener(event)
    except Exception as error:  # one listener's trouble is not the others'
        log.error("a listener to verdicts failed", exc_info=error)
