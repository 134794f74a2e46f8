"""Characters that nobody sees: a rule that drops them, and the text without them, in which other rules look.

A secret with a zero-width blank in its middle is a secret for whoever copies it. So rules read `Bare.text`, and what they find
there is mapped back.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hanok.guard.characters import COVERT, FLAG, UNSEEN
from hanok.guard.verdicts import Action, Finding

_FLAG_BEGUN = re.compile("\U0001f3f4[\U000e0030-\U000e007a]{0,8}\\Z")


@dataclass(frozen=True, slots=True)
class Bare:
    """`places`: where each character of `text` stood, and the length of the whole behind them; None if nothing was taken out."""

    text: str
    places: Sequence[int] | None = None

    def start(self, place: int) -> int:
        return place if self.places is None else self.places[place]

    def end(self, place: int) -> int:
        return place if self.places is None or place == 0 else self.places[place - 1] + 1


def bare(text: str) -> Bare:
    """Without zero-width, tag and bidirectional characters."""
    if text.isascii() or UNSEEN.isdisjoint(text):
        return Bare(text)
    places = [place for place, character in enumerate(text) if character not in UNSEEN]
    return Bare("".join(text[place] for place in places), [*places, len(text)])


class Unseen:
    """A rule: tag characters, bidirectional controls, fillers. Joiners and selectors stay, as emoji and scripts need them, and so
    do the flags of England and its like."""

    raw = True
    opening = 64  # letters are seen

    def __init__(self, name: str = "unseen", action: Action = "redact") -> None:
        self.name = name
        self.action: Action = action

    def find(self, text: str) -> Iterator[Finding]:
        if text.isascii() or COVERT.isdisjoint(text):
            return
        flags = {place for match in FLAG.finditer(text) for place in range(*match.span())}
        start = None
        for place, character in enumerate(text):
            covert = character in COVERT and place not in flags
            if covert and start is None:
                start = place
            elif not covert and start is not None:
                yield self._finding(start, place)
                start = None
        if start is not None:
            yield self._finding(start, len(text))

    def open_from(self, text: str) -> int:
        match = _FLAG_BEGUN.search(text, max(0, len(text) - 10))
        return len(text) if match is None else match.start()

    open_within = open_from

    def _finding(self, start: int, end: int) -> Finding:
        return Finding(self.name, start, end, self.action, "unseen characters")
