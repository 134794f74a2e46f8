"""Any classifier behind an address as a rule: of what comes in, each text of users and strangers; of an answer, window by window,
each held back until the classifier has spoken.
"""

from __future__ import annotations

import re
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from hanok.guard.careful import Clock
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


class External:
    """A rule, for input and for output.

    Args:
        categories: names to what is done about them; "allow" for nothing. Those that are not named, `action`.
        window: characters of an answer that are judged together; None for all of it at once.
        origins: of the parts that it reads.
    """

    stages = ("answer",)  # calls are judged whole, and a changed answer has been judged

    def __init__(
        self, remote: Remote, origins: frozenset[str], *, name: str = "external", action: Action = "flag",
        categories: Mapping[str, Action] | None = None, window: int | None = WINDOW, question: str = "", kept: Kept | None = None,
    ) -> None:  # fmt: skip
        self.name, self._remote, self._origins, self._window = name, remote, origins, window
        self._action: Action = action
        self._categories = categories or {}
        self._question = question[-_QUESTION:]
        self._kept = kept or Kept()

    def about(self, parts: Sequence[Part]) -> External:
        """The same for the answer to what was read."""
        last = next((part for part in reversed(parts) if part.origin == "user"), None)
        return External(
            self._remote, self._origins, name=self.name, action=self._action, categories=self._categories, window=self._window,
            question="" if last is None else last.text, kept=self._kept,
        )  # fmt: skip

    def read(self, parts: Sequence[Part], clock: Clock) -> Iterator[Located]:
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
            placed, self._asked([one[2] for one in placed]), strict=True
        ):
            for one in self._findings(asked, found):
                yield Located(number, replace(one, start=start, end=start + one.end))
            clock.check()

    def begin(self, before: str) -> Windowed:
        least = 0 if self._window is None else self._window // 2
        return Windowed(self._answered, least=least, most=self._window, before=before)

    def judge(self, tool: str, arguments: str, parts: Sequence[Part]) -> Iterator[Finding]:
        """A call as a whole. What would be taken out of a text ends the answer here, as nothing can be taken out of a call."""
        for one in self.about(parts)._judged(Asked(f"{tool}({arguments})", "output", "assistant")):
            yield Finding(one.rule, 0, 0, "block" if one.action == "redact" else one.action, one.reason)

    def _answered(self, before: str, text: str) -> Iterator[Finding]:
        return self._judged(Asked(text, "output", "assistant", before, self._question))

    def _judged(self, asked: Asked) -> Iterator[Finding]:
        for found in self._asked([asked]):
            yield from self._findings(asked, found)

    def _asked(self, every: Sequence[Asked]) -> Iterator[dict[str, float]]:
        """What is known is not asked, and blank text is harmless."""
        known = [self._kept.get(asked) if asked.text.strip() else {} for asked in every]
        answers = self._remote.ask_all(
            asked for asked, found in zip(every, known, strict=True) if found is None
        )
        for asked, found in zip(every, known, strict=True):
            if found is None:
                found = next(answers)
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


class Kept:
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
