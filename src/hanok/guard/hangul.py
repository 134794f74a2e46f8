"""Korean letters however they are written: apart, in half width, conjoining, tensed, or as syllables that look alike.

composed     letters that stand apart become syllables, as an input method would join them
letters      syllables taken apart again, tense and aspirated consonants as plain ones: what n-grams are taken over
look_alikes  syllables of the joke spelling that swaps what looks alike (멍멍이 as 댕댕이) as what they stand for
"""

from __future__ import annotations

import re

import numpy as np

_LEADS = "ㄱㄲㄴㄷㄸㄹㅁㅂㅃㅅㅆㅇㅈㅉㅊㅋㅌㅍㅎ"
_VOWELS = "ㅏㅐㅑㅒㅓㅔㅕㅖㅗㅘㅙㅚㅛㅜㅝㅞㅟㅠㅡㅢㅣ"
_TAILS = "\x00ㄱㄲㄳㄴㄵㄶㄷㄹㄺㄻㄼㄽㄾㄿㅀㅁㅂㅄㅅㅆㅇㅈㅊㅋㅌㅍㅎ"
_TAIL_PAIRS = {
    "ㄱㅅ": "ㄳ", "ㄴㅈ": "ㄵ", "ㄴㅎ": "ㄶ", "ㄹㄱ": "ㄺ", "ㄹㅁ": "ㄻ", "ㄹㅂ": "ㄼ", "ㄹㅅ": "ㄽ", "ㄹㅌ": "ㄾ", "ㄹㅍ": "ㄿ",
    "ㄹㅎ": "ㅀ", "ㅂㅅ": "ㅄ",
}  # fmt: skip
_VOWEL_PAIRS = {
    "ㅗㅏ": "ㅘ", "ㅗㅐ": "ㅙ", "ㅗㅣ": "ㅚ", "ㅜㅓ": "ㅝ", "ㅜㅔ": "ㅞ", "ㅜㅣ": "ㅟ", "ㅡㅣ": "ㅢ",
}  # fmt: skip
_CONJOINING = {
    **{chr(0x1100 + i): letter for i, letter in enumerate(_LEADS)},
    **{chr(0x1161 + i): letter for i, letter in enumerate(_VOWELS)},
    **{chr(0x11A7 + i): letter for i, letter in enumerate(_TAILS) if i},
}
_HALF_WIDTH = {
    **dict(zip(map(chr, range(0xFFA1, 0xFFBF)), "ㄱㄲㄳㄴㄵㄶㄷㄸㄹㄺㄻㄼㄽㄾㄿㅀㅁㅂㅃㅄㅅㅆㅇㅈㅉㅊㅋㅌㅍㅎ", strict=True)),
    **dict(zip(map(chr, (*range(0xFFC2, 0xFFC8), *range(0xFFCA, 0xFFD0), *range(0xFFD2, 0xFFD8), *range(0xFFDA, 0xFFDD))),
               _VOWELS, strict=True)),
}  # fmt: skip
_APART = str.maketrans({**_CONJOINING, **_HALF_WIDTH})
_LETTERS = re.compile("[가-힣]?[ㄱ-ㅣ]+")  # with the syllable before them, which a consonant may belong to
_FOLD = str.maketrans("ㄲㅋㄸㅌㅃㅍㅆㅉㅊ", "ㄱㄱㄷㄷㅂㅂㅅㅈㅈ")
_LOOKS = str.maketrans("댕귄팡띵먕믱뢔괘폰괌", "멍권광명멱맹뢰패혼관")
_BASE = 0xAC00


def composed(text: str) -> str:
    """Letters that stand apart, of any width, as syllables; ㅋㅋ and ㅠㅠ, which make none, stay."""
    text = text.translate(_APART)
    return _LETTERS.sub(lambda match: _join(match[0]), text)


def look_alikes(text: str) -> str:
    return text.translate(_LOOKS)


def has_hangul(text: str) -> bool:
    return any("가" <= character <= "힣" or "ㄱ" <= character <= "ㅣ" for character in text)


def letters(codes: np.ndarray) -> np.ndarray:
    """Code points [N] uint32 to those of single letters [M], consonants folded to plain ones; other characters stay."""
    syllables = (codes >= _BASE) & (codes < _BASE + 11172)
    if syllables.any():
        number = np.where(syllables, codes - _BASE, 0).astype(np.int64)
        parts = np.stack(
            [
                np.where(syllables, _LEAD_CODES[number // 588], codes),
                np.where(syllables, _VOWEL_CODES[number // 28 % 21], 0),
                np.where(syllables, _TAIL_CODES[number % 28], 0),
            ],
            axis=1,
        ).reshape(-1)
        codes = parts[parts != 0]
    single = (codes >= 0x3131) & (codes <= 0x3163)
    return np.where(single, _PLAIN[np.where(single, codes - 0x3131, 0)], codes).astype(np.uint32)


def _join(run: str) -> str:
    """What a two-set keyboard makes of the letters: a consonant before a vowel begins a syllable, others close the last one."""
    first = run[0]
    written = list(_parts(first) + run[1:]) if "가" <= first <= "힣" else list(run)
    made: list[str] = []
    place = 0
    while place < len(written):
        lead = written[place]
        if lead not in _LEADS or place + 1 >= len(written) or written[place + 1] not in _VOWELS:
            made.append(lead)
            place += 1
            continue
        vowel, place = written[place + 1], place + 2
        if place < len(written) and vowel + written[place] in _VOWEL_PAIRS:
            vowel, place = _VOWEL_PAIRS[vowel + written[place]], place + 1
        tail = "\x00"
        if _closes(written, place):
            tail, place = written[place], place + 1
            if _closes(written, place) and tail + written[place] in _TAIL_PAIRS:
                tail, place = _TAIL_PAIRS[tail + written[place]], place + 1
        made.append(chr(_BASE + (_LEADS.index(lead) * 21 + _VOWELS.index(vowel)) * 28 + _TAILS.index(tail)))
    return "".join(made)


def _closes(written: list[str], place: int) -> bool:
    """Whether the letter here closes the syllable before it: a consonant that no vowel follows."""
    if place >= len(written) or written[place] not in _TAILS:
        return False
    return place + 1 >= len(written) or written[place + 1] not in _VOWELS


def _parts(syllable: str) -> str:
    number = ord(syllable) - _BASE
    tail = _TAILS[number % 28]
    pairs = {joined: apart for apart, joined in _TAIL_PAIRS.items()}
    return (
        _LEADS[number // 588] + _VOWELS[number // 28 % 21] + ("" if tail == "\x00" else pairs.get(tail, tail))
    )


def _codes(letters: str) -> np.ndarray:
    return np.array([ord(letter) for letter in letters], dtype=np.uint32)


_LEAD_CODES, _VOWEL_CODES, _TAIL_CODES = _codes(_LEADS), _codes(_VOWELS), _codes(_TAILS)
_PLAIN = _codes("".join(map(chr, range(0x3131, 0x3164))).translate(_FOLD))
