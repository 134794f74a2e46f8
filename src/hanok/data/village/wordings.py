"""Ways to ask, made of frames and terms: training sees most of the pairs, the test split asks the others.

A held-out wording is new as a whole, but each of its words occurs in training. A model that starts from nothing cannot know a
word that it never read; it can know what "whereabouts" means in a sentence that it never read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from hanok.data.village.korean import josa

_EVERY = 5  # one pair in so many is held out


@dataclass(frozen=True, slots=True)
class Wordings:
    """`{p}` is the place, `{p:은}` the place with its particle; likewise other names that the asker fills in."""

    seen: tuple[str, ...]
    unseen: tuple[str, ...]

    def __add__(self, other: Wordings) -> Wordings:
        return Wordings(self.seen + other.seen, self.unseen + other.unseen)

    def all(self) -> tuple[str, ...]:
        """The seen ones first: what a template's number counts."""
        return self.seen + self.unseen


def held_out_last(wordings: Sequence[str], count: int) -> Wordings:
    """A plain list, whose last `count` are unseen."""
    known = len(wordings) - count
    return Wordings(tuple(wordings[:known]), tuple(wordings[known:]))


def cross(frames: Sequence[str], terms: Sequence[str], **fixed: str) -> Wordings:
    """Every frame with every term at its `{n}` (`{n:은}` with the particle). `fixed` fills other names at once."""
    seen, unseen = [], []
    for i, frame in enumerate(frames):
        for j, term in enumerate(terms):
            wording = frame
            for name, word in {**fixed, "n": term}.items():
                wording = _put(wording, name, word)
            (unseen if (i + 2 * j) % _EVERY == _EVERY - 1 else seen).append(wording)
    return Wordings(tuple(seen), tuple(unseen))


def _put(wording: str, name: str, word: str) -> str:
    def replaced(match: re.Match[str]) -> str:
        return josa(word, match[1]) if match[1] else word

    return re.sub(rf"\{{{name}(?::(\w+))?\}}", replaced, wording)
