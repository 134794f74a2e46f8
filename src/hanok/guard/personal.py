"""Personal data in an answer, as `hanok.data.pii` finds it in a corpus."""

from __future__ import annotations

import re
from collections.abc import Iterator

from hanok.data.pii import find, placeholder
from hanok.guard.begun import REACH, run_from
from hanok.guard.verdicts import Action, Finding

_NUMBER = re.compile(r"[\d+(][\d +().·/–—‐‑-]*\Z")
_BEGUN = re.compile(r"[\d+(\[A-Z][\dA-Z .·()/–—‐‑:-]{5,60}|\S*@\S*")
_MAIL = re.compile(
    r"[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9.À-ɏ가-힣-]{0,255}\Z"
)  # its host may have letters of other scripts
_LONGEST_NUMBER = 128  # with what stands between its parts
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
        near = max(0, len(text) - 2 * REACH)
        mail = _MAIL.search(text, near) if text.find("@", near) >= 0 else None
        match = _NUMBER.search(text, max(0, len(text) - _LONGEST_NUMBER))
        start = min(len(text) if one is None else one.start() for one in (match, mail))
        for begun in _BEGUN.finditer(text, max(0, len(text) - AFTER - 64)):
            if begun.end() + AFTER > len(text) and any(c.isdigit() or c == "@" for c in begun[0]):
                return min(start, begun.start())
        return start

    def open_within(self, text: str) -> int:
        return min(self.open_from(text), run_from(text))
