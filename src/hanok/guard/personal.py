"""Personal data in an answer, as `hanok.data.pii` finds it in a corpus."""

from __future__ import annotations

import re
from collections.abc import Iterator

from hanok.data.pii import find, placeholder
from hanok.guard.verdicts import Action, Finding

_NUMBER = re.compile(r"[\d+(][\d +().·/–—‐‑-]*\Z")
_BEGUN = re.compile(r"[\d+(\[A-Z][\dA-Z .·()/–—‐‑:-]{5,60}|\S*@\S*")
AFTER = 24  # characters behind a number that may say what it is
_HANGUL = re.compile("[가-힣]")


class PersonalData:
    """A rule. `kinds`: those of `hanok.data.pii.KINDS` that count; all by default."""

    def __init__(
        self, action: Action = "redact", kinds: frozenset[str] | None = None, *, name: str = "personal-data"
    ) -> None:
        self.name = name
        self.action: Action = action
        self._kinds = kinds

    def find(self, text: str) -> Iterator[Finding]:
        korean = _HANGUL.search(text) is not None
        for one in find(text):
            if self._kinds is None or one.kind in self._kinds:
                yield Finding(
                    self.name, one.start, one.end, self.action, one.kind, placeholder(one.kind, korean=korean)
                )

    def open_from(self, text: str) -> int:
        """A number that may go on, or whose meaning the next words may tell."""
        match = _NUMBER.search(text)
        start = len(text) if match is None else match.start()
        for begun in _BEGUN.finditer(text, max(0, len(text) - AFTER - 64)):
            if begun.end() + AFTER > len(text) and any(c.isdigit() or c == "@" for c in begun[0]):
                return min(start, begun.start())
        return start
