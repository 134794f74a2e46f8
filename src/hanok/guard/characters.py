"""Characters that people do not see or take for others: what a detector reads instead of them.

The text that the model gets is another matter: `hanok.guard.unseen` takes away only what nobody can have meant.

    A1  zero-width characters, selectors, fillers        removed
    A2  tag characters (U+E0020..7E), unseen ASCII        removed, and their text given beside
    A3  bidirectional controls                            removed
    A4  look-alikes from Greek and Cyrillic               Latin, in words where they stand in for it
    A8  Korean letters apart, of any width               syllables
    A5  full-width, circled, mathematical letters         NFKC
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from hanok.guard.hangul import composed

_BIDI = frozenset(map(chr, (0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))))
_FILLERS = frozenset(map(chr, (0x115F, 0x1160, 0x3164, 0xFFA0)))  # blanks that count as Hangul letters
_ZERO_WIDTH = frozenset(
    map(chr, (0xAD, 0x34F, 0x17B4, 0x17B5, 0x180B, 0x180C, 0x180D, 0x180E, 0x200B, 0x200C, 0x200D, 0xFEFF,
              *range(0x2060, 0x2066), *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)))
)  # fmt: skip
_TAGS = frozenset(map(chr, range(0xE0000, 0xE0080)))
UNSEEN = _BIDI | _FILLERS | _ZERO_WIDTH | _TAGS
COVERT = _BIDI | _FILLERS | _TAGS  # no honest text needs these
_WITHOUT = dict.fromkeys(map(ord, UNSEEN))
_TAG_RUN = re.compile("[\U000e0020-\U000e007e]+")
FLAG = re.compile(
    "\U0001f3f4[\U000e0030-\U000e007a]{1,8}\U000e007f"
)  # of England and its like: the one honest use
_WORD = re.compile(r"\w+")
_FOREIGN = re.compile("[\u0370-\u052f]")
_LOOK_ALIKES = str.maketrans(
    dict(
        zip(
            "асеорхуіјѕԁһԛԝкмтвнгпиАВСЕНІЈКМОРЅТХУαβεικνορτυχωΑΒΕΖΗΙΚΜΝΟΡΤΥΧ",
            "aceopxyijsdhqwkmtbhrnuABCEHIJKMOPSTXYaBeikvoptuxwABEZHIKMNOPTYX",
            strict=True,
        )
    )
)
_SHAPED = frozenset(map(chr, _LOOK_ALIKES)) - set(
    "кмтвнгпиβκ"
)  # those that pass for a Latin letter on their own


@dataclass(frozen=True, slots=True)
class Plain:
    """`hidden`: what the tag characters spelled. `removed`: how many characters of each kind nobody saw."""

    text: str
    hidden: str = ""
    removed: int = 0
    bidi: int = 0


def plain(text: str) -> Plain:
    """The form that detectors read: nothing unseen, NFKC, Latin where look-alikes stand in for it."""
    hidden, removed, bidi = "", 0, 0
    if not UNSEEN.isdisjoint(text):
        text = FLAG.sub("\U0001f3f4", text)
        hidden = "".join(_untagged(run) for run in _TAG_RUN.findall(text))
        bidi = sum(character in _BIDI for character in text)
        shown = text.translate(_WITHOUT)
        removed, text = len(text) - len(shown), shown
    if not text.isascii():
        text = composed(text)  # first: NFKC turns letters that stand apart into others
        text = unicodedata.normalize("NFKC", text)
        if _FOREIGN.search(text):
            text = latin(text)
    return Plain(text, hidden, removed, bidi)


def latin(text: str) -> str:
    """Look-alikes as Latin letters, in words that mix scripts, and in words of nothing else where the text has no other word of
    that script: a sentence in Russian or Greek stays."""
    words = _WORD.findall(text)
    native = any(
        _FOREIGN.search(word)
        and not _mixed(word)
        and any(c not in _SHAPED and _FOREIGN.match(c) for c in word)
        for word in words
    )

    def mend(match: re.Match[str]) -> str:
        word = match[0]
        if not _FOREIGN.search(word):
            return word
        if _mixed(word) or (not native and all(c in _SHAPED or not _FOREIGN.match(c) for c in word)):
            return word.translate(_LOOK_ALIKES)
        return word

    return _WORD.sub(mend, text)


def _mixed(word: str) -> bool:
    return any("a" <= c.lower() <= "z" for c in word) and _FOREIGN.search(word) is not None


def _untagged(run: str) -> str:
    return "".join(chr(ord(character) - 0xE0000) for character in run)
