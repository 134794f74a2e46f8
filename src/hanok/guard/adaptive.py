"""An attacker who sees the score: attacks that are caught as they stand, reworded step by step until they are not.

A detector that is measured on attacks written before it existed looks better than it is. This attacker knows nothing of the
weights and asks for scores, a fixed number of times, keeping whatever lowers them. Its moves leave the sense to a reader:

    padding   an honest sentence before, behind or between, three at most
    slips     two letters inside of a word swapped, in a third of the words at most
    breaks    a new line between two words, at most every third; for detectors that judge line by line
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

Move = Literal["padding", "slips", "breaks"]
MOVES: tuple[Move, ...] = ("padding", "slips", "breaks")
_MOST_PADDING = 3


@dataclass(frozen=True, slots=True)
class _Draft:
    """An attack in words, its padding, and where it was touched."""

    words: tuple[str, ...]
    padding: tuple[tuple[int, str], ...] = ()  # (in front of which word, sentence)
    slipped: frozenset[int] = frozenset()
    broken: frozenset[int] = frozenset()  # in front of which words

    def text(self) -> str:
        parts: list[str] = []
        for place in range(len(self.words) + 1):
            parts += [f" {sentence} " for at, sentence in self.padding if at == place]
            if place < len(self.words):
                gap = "" if not parts else "\n" if place in self.broken else " "
                parts += [gap, self.words[place]]
        return re.sub("  +", " ", "".join(parts)).strip()


@dataclass(frozen=True, slots=True)
class Evasion:
    """`queries`: scores that were asked for before one was low enough. `text`: that got through."""

    text: str
    queries: int


def evade(
    score: Callable[[str], float], attack: str, threshold: float, *, honest: Sequence[str], rng: random.Random,
    moves: Sequence[Move] = MOVES, queries: int = 100,
) -> Evasion | None:  # fmt: skip
    """The attack in words that score no more than the threshold, or None within that many queries.

    Args:
        score: of a text, as the detector judges it.
        honest: sentences to pad with.
    """
    draft = _Draft(tuple(attack.split()))
    lowest = score(draft.text())
    for asked in range(1, queries + 1):
        if lowest <= threshold:
            return Evasion(draft.text(), asked - 1)
        changed = _MAKERS[rng.choice(moves)](draft, honest, rng)
        if changed is None:
            continue
        if (found := score(changed.text())) < lowest:
            draft, lowest = changed, found
    return Evasion(draft.text(), queries) if lowest <= threshold else None


def _padded(draft: _Draft, honest: Sequence[str], rng: random.Random) -> _Draft | None:
    """One sentence more, or another one in its place. Between sentences of the attack, not within."""
    ends = [place + 1 for place, word in enumerate(draft.words) if word[-1] in ".!?。"]
    new = (rng.choice([0, *ends, len(draft.words)]), rng.choice(honest))
    kept = list(draft.padding)
    if len(kept) == _MOST_PADDING:
        kept.pop(rng.randrange(len(kept)))
    return replace(draft, padding=(*kept, new))


def _slip(draft: _Draft, _honest: Sequence[str], rng: random.Random) -> _Draft | None:
    long = [place for place, word in enumerate(draft.words) if len(word) > 3 and place not in draft.slipped]
    if not long or 3 * (len(draft.slipped) + 1) > len(draft.words):
        return None
    place = rng.choice(long)
    word = draft.words[place]
    first = rng.randrange(1, len(word) - 2)
    swapped = word[:first] + word[first + 1] + word[first] + word[first + 2 :]
    words = (*draft.words[:place], swapped, *draft.words[place + 1 :])
    return replace(draft, words=words, slipped=draft.slipped | {place})


def _break(draft: _Draft, _honest: Sequence[str], rng: random.Random) -> _Draft | None:
    if 3 * (len(draft.broken) + 1) > len(draft.words):
        return None
    place = rng.randrange(1, len(draft.words))
    return replace(draft, broken=draft.broken | {place})


_MAKERS: dict[Move, Callable[[_Draft, Sequence[str], random.Random], _Draft | None]] = {
    "padding": _padded, "slips": _slip, "breaks": _break,
}  # fmt: skip
