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
from collections.abc import Iterator, Sequence

from hanok.guard.decoders import rot13
from hanok.guard.verdicts import Action, Finding
from hanok.guard.views import normal

RUN = 8  # words
_NEAR = 1024  # characters at the end in which a run or a spelt-out canary can have begun
_BETWEEN = frozenset(".-_*·|/,~")
_SIGNS = re.compile(r"[\s.\-_*·|/,~]")
_WORD = re.compile(r"\w+")
_LAST_WORD = re.compile(r"\w+\Z")


def new_canary() -> str:
    """96 bits, as a word that no text has by chance."""
    return f"cx{random_source.token_hex(12)}"


class HiddenText:
    """A rule. Texts shorter than `run` words are no secret. `canaries`: words that nobody is to read."""

    opening = 4

    def __init__(
        self, hidden: str, *, canaries: Sequence[str] = (), action: Action = "block", run: int = RUN, name: str = "hidden-text"
    ) -> None:  # fmt: skip
        self.name = name
        self.action: Action = action
        self._run = run
        words = [match[0] for match in _WORD.finditer(normal(hidden))]
        self._runs = {tuple(words[place : place + run]) for place in range(len(words) - run + 1)}
        self._longest = 2 * max(map(len, words), default=0)  # its normal form may be shorter
        self._starts = {run_words[:place] for run_words in self._runs for place in range(2, run)}
        self._canaries = tuple(
            form.lower()
            for word in canaries
            for form in (word, word[::-1], rot13(word), *_base64_forms(word))
        )

    def find(self, text: str) -> Iterator[Finding]:
        bare = _joined(text.lower())
        if any(form in bare for form in self._canaries):
            yield Finding(self.name, 0, len(text), self.action, "canary")
        words = list(_WORD.finditer(text))
        plain = [_plain(match[0]) for match in words]
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
        return min(self._run_from(text, len(text)), self._canary_from(text))

    def open_within(self, text: str) -> int:
        """A word that has not ended may go on with the run before it, unless it is longer than any that is hidden."""
        last = _LAST_WORD.search(text)
        end = len(text) if last is None or len(last[0]) > self._longest else last.start()
        return min(self._run_from(text, end), self._canary_from(text))

    def _run_from(self, text: str, end: int) -> int:
        words = list(_WORD.finditer(text, max(0, len(text) - _NEAR), end))
        for count in range(min(self._run - 1, len(words)), 1, -1):
            if tuple(_plain(match[0]) for match in words[-count:]) in self._starts:
                return words[-count].start()
        return len(text)

    def _canary_from(self, text: str) -> int:
        if not self._canaries:
            return len(text)
        near = max(0, len(text) - _NEAR)
        letters = [
            (near + place, c.lower())
            for place, c in enumerate(text[near:])
            if c not in _BETWEEN and not c.isspace()
        ][-64:]
        bare = "".join(c for _, c in letters)
        for begin in range(len(bare)):
            rest = bare[begin:]
            if any(form.startswith(rest) for form in self._canaries):
                return letters[begin][0]
        return len(text)


def _joined(text: str) -> str:
    return _SIGNS.sub("", text)


def _plain(word: str) -> str:
    return word.lower() if word.isascii() and "_" not in word else normal(word)


def _base64_forms(word: str) -> Iterator[str]:
    """What it looks like in base64 wherever it stands in the three-byte rhythm."""
    for shift in range(3):
        coded = base64.b64encode(b" " * shift + word.encode()).decode().rstrip("=")
        yield coded[(shift * 8 + 5) // 6 : -1]
