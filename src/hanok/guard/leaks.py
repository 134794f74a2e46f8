"""Hidden text that comes back out: the system prompt, or a canary put there to be found.

    canary       a random word in the hidden text; one is enough
    containment  a run of words that the hidden text has in that order

Both are looked for in the normal form of the answer (`hanok.guard.views`), the canary also backwards, without its blanks, in
base64 and turned by thirteen.
"""

from __future__ import annotations

import base64
import re
import secrets as random_source
from collections.abc import Iterator

from hanok.guard.decoders import rot13
from hanok.guard.verdicts import Action, Finding
from hanok.guard.views import normal

RUN = 8  # words
_WORD = re.compile(r"\w+")


def new_canary() -> str:
    """96 bits, as a word that no text has by chance."""
    return f"cx{random_source.token_hex(12)}"


class HiddenText:
    """A rule. Texts shorter than RUN words are no secret."""

    name = "hidden-text"

    def __init__(
        self, hidden: str, *, canary: str | None = None, action: Action = "block", run: int = RUN
    ) -> None:
        self.action: Action = action
        self._run = run
        words = [match[0] for match in _WORD.finditer(normal(hidden))]
        self._runs = {tuple(words[place : place + run]) for place in range(len(words) - run + 1)}
        self._starts = {run_words[:place] for run_words in self._runs for place in range(2, run)}
        self._canaries = () if canary is None else tuple(
            form.lower() for form in (canary, canary[::-1], rot13(canary), *_base64_forms(canary))
        )  # fmt: skip
        self._canary_head = 6

    def find(self, text: str) -> Iterator[Finding]:
        bare = re.sub(r"[\s.\-_*·|/,~]", "", text.lower())
        if any(form in bare for form in self._canaries):
            yield Finding(self.name, 0, len(text), self.action, "canary")
        words = list(_WORD.finditer(text))
        plain = [normal(match[0]) for match in words]
        for place in range(len(words) - self._run + 1):
            if tuple(plain[place : place + self._run]) in self._runs:
                yield Finding(
                    self.name,
                    words[place].start(),
                    words[place + self._run - 1].end(),
                    self.action,
                    "hidden text",
                )

    def open_from(self, text: str) -> int:
        """The start of a run that has begun (two words of it or more), or of a word that may become the canary."""
        words = list(_WORD.finditer(text))
        opened = len(text)
        for count in range(min(self._run - 1, len(words)), 1, -1):
            if tuple(normal(match[0]) for match in words[-count:]) in self._starts:
                opened = words[-count].start()
                break
        return min(opened, self._canary_from(text))

    def _canary_from(self, text: str) -> int:
        if not self._canaries:
            return len(text)
        letters = [(place, c) for place, c in enumerate(text.lower()) if not re.match(r"[\s.\-_*·|/,~]", c)][
            -64:
        ]
        bare = "".join(c for _, c in letters)
        for begin in range(len(bare)):
            rest = bare[begin:]
            if any(form.startswith(rest) for form in self._canaries):
                return letters[begin][0]
        return len(text)


def _base64_forms(word: str) -> Iterator[str]:
    """What it looks like in base64 wherever it stands in the three-byte rhythm."""
    for shift in range(3):
        coded = base64.b64encode(b" " * shift + word.encode()).decode().rstrip("=")
        yield coded[(shift * 8 + 5) // 6 : -1]
