"""The disguises of `hanok.data.village.obfuscate` and some more, to train a detector with and to test it: each keeps a text
readable for people (or, encoded, for a model)."""

from __future__ import annotations

import codecs
import random
from collections.abc import Callable, Mapping

from hanok.data.village.obfuscate import obfuscated

ENGLISH = (
    "zero-width", "tag", "homoglyph", "full-width", "dotted", "spacing", "no-spaces", "leet", "rot13", "base64",
)  # fmt: skip
KOREAN = (
    "zero-width",
    "full-width",
    "dotted",
    "spacing",
    "no-spaces",
    "jamo",
    "half-width",
    "tensed",
    "base64",
)
_TENSE = str.maketrans("ㄱㄷㅂㅅㅈ", "ㄲㄸㅃㅆㅉ")
_LEADS = "ㄱㄲㄴㄷㄸㄹㅁㅂㅃㅅㅆㅇㅈㅉㅊㅋㅌㅍㅎ"


def disguised(text: str, way: str, rng: random.Random) -> str:
    make = _MAKERS.get(way)
    return obfuscated(text, way, rng) if make is None else make(text, rng)


def _tag(text: str, _rng: random.Random) -> str:
    """Behind an innocent sign; there are tags for ASCII alone."""
    return "🙂" + "".join(chr(0xE0000 + ord(c)) if " " <= c <= "~" else c for c in text)


def _full_width(text: str, _rng: random.Random) -> str:
    return "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text)


def _dotted(text: str, _rng: random.Random) -> str:
    return " ".join(".".join(word) for word in text.split(" "))


def _no_spaces(text: str, _rng: random.Random) -> str:
    return text.replace(" ", "")


def _rot13(text: str, _rng: random.Random) -> str:
    return codecs.encode(text, "rot13")


def _half_width(text: str, rng: random.Random) -> str:
    return "".join(_HALF.get(letter, letter) for letter in obfuscated(text, "jamo", rng))


def _tensed(text: str, _rng: random.Random) -> str:
    return "".join(map(_tense, text))


def _tense(letter: str) -> str:
    number = ord(letter) - 0xAC00
    if not 0 <= number < 11172:
        return letter
    lead = _LEADS.index(_LEADS[number // 588].translate(_TENSE))
    return chr(0xAC00 + lead * 588 + number % 588)


_HALF = {
    **dict(zip("ㄱㄲㄳㄴㄵㄶㄷㄸㄹㄺㄻㄼㄽㄾㄿㅀㅁㅂㅃㅄㅅㅆㅇㅈㅉㅊㅋㅌㅍㅎ", map(chr, range(0xFFA1, 0xFFBF)), strict=True)),
    **dict(zip("ㅏㅐㅑㅒㅓㅔㅕㅖㅗㅘㅙㅚㅛㅜㅝㅞㅟㅠㅡㅢㅣ",
               map(chr, (*range(0xFFC2, 0xFFC8), *range(0xFFCA, 0xFFD0), *range(0xFFD2, 0xFFD8), *range(0xFFDA, 0xFFDD))),
               strict=True)),
}  # fmt: skip
_MAKERS: Mapping[str, Callable[[str, random.Random], str]] = {
    "tag": _tag, "full-width": _full_width, "dotted": _dotted, "no-spaces": _no_spaces, "rot13": _rot13,
    "half-width": _half_width, "tensed": _tensed,
}  # fmt: skip
