"""Any classifier behind an address as a rule: of what comes in, each text of users and strangers; of an answer, window by window,
each held back until the classifier has spoken.
"""

from __future__ import annotations

import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from hanok.guard.careful import Clock, Unfit
from hanok.guard.intake import Located
from hanok.guard.provenance import Part
from hanok.guard.remote import Asked, Remote
from hanok.guard.verdicts import Action, Finding, strictest
from hanok.guard.windows import OVERLAP, Windowed, windows

WINDOW = 600  # characters
_PIECE = 4000  # of a text that comes in
_QUESTION = 4000
_NAME = re.compile(r"[^\w /.:-]")
_MOST_KEPT, _KEPT_SECONDS = 2048, 300.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Most:
    """What all that a request has a model read, and each answer, may cost: calls of the classifier, and seconds of waiting for it
    after which nothing more is asked. Beyond it the rule has failed, and its fail mode decides."""

    calls: int = 500
    seconds: float = 30.0
    clock: Callable[[], float] = time.monotonic


class External:
    """A rule, for input and for output.

    Args:
        categories: names to what is done about them; "allow" for nothing. Those that are not named, `action`.
        window: characters of an answer that are judged together; None for all of it at once.
        origins: of the parts that it reads. most: calls and seconds.
    """

    stages = ("answer",)  # calls are judged whole, and a changed answer has been judged

    def __init__(
        self, remote: Remote, origins: frozenset[str], *, name: str = "external", action: Action = "flag",
        categories: Mapping[str, Action] | None = None, window: int | None = WINDOW, question: str = "",
        kept: Remembered | None = None, most: Most = Most(),
    ) -> None:  # fmt: skip
        self.name, self._remote, self._origins, self._window = name, remote, origins, window
        self._action: Action = action
        self._categories = categories or {}
        self._question = question[-_QUESTION:]
        self._kept, self._most = kept or Remembered(), most

    def about(self, parts: Sequence[Part]) -> External:
        """The same for the answer to what was read."""
        last = next((part for part in reversed(parts) if part.origin == "user"), None)
        return External(
            self._remote, self._origins, name=self.name, action=self._action, categories=self._categories, window=self._window,
            question="" if last is None else last.text, kept=self._kept, most=self._most,
        )  # fmt: skip

    def read(self, parts: Sequence[Part], clock: Clock) -> Iterator[Located]:
        """Raises Unfit: there is more of it than may be asked about; what was found before counts."""
        placed = [
            (
                number,
                start,
                Asked(part.text[start:end], "input", part.origin, part.text[max(0, start - OVERLAP) : start]),
            )
            for number, part in enumerate(parts)
            if part.origin in self._origins
            for start, end in windows(part.text, _PIECE // 2, _PIECE)
        ]
        for (number, start, asked), found in zip(
            placed, self._asked([one[2] for one in placed], _Allowance(self._most)), strict=True
        ):
            for one in self._findings(asked, found):
                yield Located(number, replace(one, start=start, end=start + one.end))
            clock.check()

    def begin(self, before: str) -> Windowed:
        least = 0 if self._window is None else self._window // 2
        judge = partial(self._answered, _Allowance(self._most))
        return Windowed(judge, least=least, most=self._window, before=before)

    def judge(self, tool: str, arguments: str, parts: Sequence[Part]) -> Iterator[Finding]:
        """A call as a whole. What would be taken out of a text ends the answer here, as nothing can be taken out of a call."""
        asked = Asked(f"{tool}({arguments})", "output", "assistant")
        for one in self.about(parts)._judged(asked, _Allowance(self._most)):
            yield Finding(one.rule, 0, 0, "block" if one.action == "redact" else one.action, one.reason)

    def _answered(self, allowance: _Allowance, before: str, text: str) -> Iterator[Finding]:
        return self._judged(Asked(text, "output", "assistant", before, self._question), allowance)

    def _judged(self, asked: Asked, allowance: _Allowance) -> Iterator[Finding]:
        for found in self._asked([asked], allowance):
            yield from self._findings(asked, found)

    def _asked(self, every: Sequence[Asked], allowance: _Allowance) -> Iterator[dict[str, float]]:
        """What is known is not asked, and blank text is harmless. Raises Unfit behind the last that may be asked."""
        known = [self._kept.get(asked) if asked.text.strip() else {} for asked in every]
        unknown = (asked for asked, found in zip(every, known, strict=True) if found is None)
        with allowance:
            answers = self._remote.ask_all(allowance.within(unknown))
            for asked, found in zip(every, known, strict=True):
                if found is None:
                    found = next(answers, None)
                    if found is None:
                        raise Unfit(allowance.exceeded)
                    self._kept.put(asked, found)
                yield found

    def _findings(self, asked: Asked, found: Mapping[str, float]) -> Iterator[Finding]:
        minded = {
            name: Finding(self.name, 0, 0, action)
            for name in found
            if (action := self._categories.get(name, self._action)) != "allow"
        }
        if minded:
            names = ", ".join(
                f"{_NAME.sub('', name)[:64]} {found[name]:.2f}".strip() for name in list(minded)[:4]
            )
            yield Finding(
                self.name, 0, len(asked.text), strictest(list(minded.values())), f"found {names}", "[…]"
            )


class _Allowance:
    """What is left of `Most`; time counts inside of its `with` alone."""

    def __init__(self, most: Most) -> None:
        self._most, self._calls, self._seconds, self._began = most, 0, 0.0, 0.0
        self.exceeded = ""

    def within(self, every: Iterable[Asked]) -> Iterator[Asked]:
        """Of these as many as may still be asked."""
        for asked in every:
            if self._calls >= self._most.calls:
                self.exceeded = f"more than {self._most.calls} calls for one text"
            elif self._seconds + self._most.clock() - self._began >= self._most.seconds:
                self.exceeded = f"one text took longer than {self._most.seconds:g} s"
            if self.exceeded:
                return
            self._calls += 1
            yield asked

    def __enter__(self) -> None:
        self._began = self._most.clock()

    def __exit__(self, *_error: object) -> None:
        self._seconds += self._most.clock() - self._began


class Remembered:
    """Verdicts of the last minutes: a conversation is read again with each of its turns."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[Asked, tuple[float, dict[str, float]]] = OrderedDict()

    def get(self, asked: Asked) -> dict[str, float] | None:
        with self._lock:
            at, found = self._known.get(asked, (float("-inf"), None))
            return found if time.monotonic() - at < _KEPT_SECONDS else None

    def put(self, asked: Asked, found: dict[str, float]) -> None:
        with self._lock:
            self._known[asked] = (time.monotonic(), found)
            self._known.move_to_end(asked)
            while len(self._known) > _MOST_KEPT:
                self._known.popitem(last=False)
