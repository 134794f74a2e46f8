"""A list of phrases that may not pass, in any capitals and with any blanks between their words."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from hanok.guard.verdicts import Action, Finding

_BLANKS = re.compile(r"\s+")
_MOST_BLANKS = 8


class Phrases:
    """A rule. The reason names a phrase by its number in the policy, from 1."""

    def __init__(self, phrases: Sequence[str], name: str = "phrases", action: Action = "flag") -> None:
        self.name = name
        self.action: Action = action
        forms = [rf"\s{{1,{_MOST_BLANKS}}}".join(map(re.escape, phrase.split())) for phrase in phrases]
        self._pattern = re.compile(
            "|".join(f"(?P<p{number}>{form})" for number, form in enumerate(forms, 1)), re.I
        )
        self._heads = frozenset(
            head[:length] for phrase in phrases if (head := _flat(phrase)) for length in range(1, len(head))
        )
        self._longest = max(
            (len(head) + (_MOST_BLANKS - 1) * head.count(" ") for head in map(_flat, phrases)), default=0
        )

    def find(self, text: str) -> Iterator[Finding]:
        for match in self._pattern.finditer(text):
            assert match.lastgroup is not None
            yield Finding(
                self.name, match.start(), match.end(), self.action, f"phrase {match.lastgroup[1:]}", "[…]"
            )

    def open_from(self, text: str) -> int:
        """Where a phrase has begun that the end of the text cuts."""
        for start in range(max(0, len(text) - self._longest), len(text)):
            if not text[start].isspace() and _flat(text[start:]) in self._heads:
                return start
        return len(text)

    open_within = open_from


def _flat(text: str) -> str:
    """Blanks inside are one, those at the end too: a phrase may go on behind them."""
    return _BLANKS.sub(" ", text).casefold()
