"""The readings of one text that a detector scores: it takes the worst of them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from hanok.guard.characters import plain
from hanok.guard.decoders import decoded, looks_rotated, rot13, unleeted, unspaced
from hanok.guard.hangul import has_hangul, look_alikes

MOST_VIEWS = 12
_SPACE = re.compile(r"\s+")


@dataclass(frozen=True, slots=True)
class View:
    """`way`: how it was got from the text: "plain", "tags", "reversed", "decoded", "rot13", "leet" or "look-alikes"."""

    way: str
    text: str


def normal(text: str) -> str:
    """Lower case, nothing unseen, letters joined, blanks single."""
    return _finish(plain(text).text)


def views(text: str, *, depth: int = 2) -> list[View]:
    """The plain reading first; at most MOST_VIEWS."""
    seen = plain(text)
    bare, carried = decoded(seen.text)
    first = _finish(bare)
    found = [View("plain", first)]

    def add(way: str, reading: str) -> None:
        reading = _finish(reading)
        if reading and all(reading != one.text for one in found) and len(found) < MOST_VIEWS:
            found.append(View(way, reading))

    if seen.hidden:
        add("tags", seen.hidden)
    if seen.bidi:
        add("reversed", seen.text[::-1])
    for layer in range(depth):
        carried = [plain(piece).text for piece in carried]
        for piece in carried:
            add("decoded", piece)
        carried = [piece for one in carried for piece in decoded(one)[1]] if layer + 1 < depth else []
    for reading in unleeted(bare):
        add("leet", reading)
    if looks_rotated(first):
        add("rot13", rot13(first))
    if has_hangul(first):
        add("look-alikes", look_alikes(first))
    return found


def _finish(text: str) -> str:
    return _SPACE.sub(" ", unspaced(text)).strip().lower()
