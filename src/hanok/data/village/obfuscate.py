"""Ways to write a text so that people still read it and programs do not; applied to harmful and to harmless requests alike.

zero-width   U+200B inside words               spacing      blanks between the letters of a word
jamo         Korean: letters written apart     leet         English: digits for letters
homoglyph    English: Cyrillic look-alikes; Korean: conjoining jamo, which look the same
base64       of the UTF-8 bytes
"""

from __future__ import annotations

import base64
import random
import unicodedata
from collections.abc import Callable, Mapping

_LEET = {"a": "4", "e": "3", "i": "1", "o": "0", "s": "5", "t": "7"}
_CYRILLIC = dict(zip("aceopxyisjh", "асеорхуіѕјһ", strict=True))
_LEADS = "ㄱㄲㄴㄷㄸㄹㅁㅂㅃㅅㅆㅇㅈㅉㅊㅋㅌㅍㅎ"
_VOWELS = "ㅏㅐㅑㅒㅓㅔㅕㅖㅗㅘㅙㅚㅛㅜㅝㅞㅟㅠㅡㅢㅣ"
_TAILS = " ㄱㄲㄳㄴㄵㄶㄷㄹㄺㄻㄼㄽㄾㄿㅀㅁㅂㅄㅅㅆㅇㅈㅊㅋㅌㅍㅎ"


def obfuscated(text: str, way: str, rng: random.Random) -> str:
    """`way`: one of `WAYS`, or "none"."""
    return text if way == "none" else _MAKERS[way](text, rng)


def _zero_width(text: str, rng: random.Random) -> str:
    """Between half of the letters of words, and at least once."""
    places = [i for i in range(1, len(text)) if text[i - 1].isalnum() and text[i].isalnum()]
    chosen = {i for i in places if rng.random() < 0.5} or set(places[:1])
    return "".join(("\u200b" if i in chosen else "") + letter for i, letter in enumerate(text))


def _spacing(text: str, rng: random.Random) -> str:
    return "  ".join(" ".join(word) for word in text.split(" "))


def _jamo(text: str, rng: random.Random) -> str:
    return "".join(map(_apart, text))


def _apart(letter: str) -> str:
    number = ord(letter) - 0xAC00
    if not 0 <= number < 11172:
        return letter
    lead, rest = divmod(number, 588)
    vowel, tail = divmod(rest, 28)
    return (_LEADS[lead] + _VOWELS[vowel] + _TAILS[tail]).rstrip()


def _leet(text: str, rng: random.Random) -> str:
    return "".join(_LEET.get(letter.lower(), letter) for letter in text)


def _homoglyph(text: str, rng: random.Random) -> str:
    return unicodedata.normalize("NFD", "".join(_CYRILLIC.get(letter, letter) for letter in text))


def _base64(text: str, rng: random.Random) -> str:
    return base64.b64encode(text.encode()).decode()


_MAKERS: Mapping[str, Callable[[str, random.Random], str]] = {
    "zero-width": _zero_width, "spacing": _spacing, "jamo": _jamo, "leet": _leet, "homoglyph": _homoglyph,
    "base64": _base64,
}  # fmt: skip
# of each language: what training may show, and what only the exam does
SEEN: Mapping[str, tuple[str, ...]] = {
    "ko": ("zero-width", "spacing", "jamo"), "en": ("zero-width", "spacing", "leet"),
}  # fmt: skip
HELD_OUT = ("homoglyph", "base64")


def ways(language: str) -> tuple[str, ...]:
    return (*SEEN[language], *HELD_OUT)
