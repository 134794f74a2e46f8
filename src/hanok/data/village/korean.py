"""Korean particles by the final consonant of the word before them."""

from __future__ import annotations

_DIGIT_READINGS = "영일이삼사오육칠팔구"
PAIRS = {
    "은": ("은", "는"),
    "이": ("이", "가"),
    "을": ("을", "를"),
    "과": ("과", "와"),
    "으로": ("으로", "로"),
    "이에요": ("이에요", "예요"),
    "이다": ("이다", "다"),
    "이라는": ("이라는", "라는"),
    "이고": ("이고", "고"),
    "이랑": ("이랑", "랑"),
}


def final_consonant(word: str) -> int:
    """Index of the last syllable's final consonant, 0 for none; digits as they are read aloud."""
    last = word.rstrip(")\"' ")[-1:]
    if last.isdigit():
        last = _DIGIT_READINGS[int(last)]
    return (ord(last) - 0xAC00) % 28 if "가" <= last <= "힣" else 0


def josa(word: str, particle: str) -> str:
    """`word` with the right form of `particle` (named by its form after a consonant)."""
    after_consonant, after_vowel = PAIRS[particle]
    final = final_consonant(word)
    if particle == "으로" and final == 8:  # ㄹ counts as a vowel here
        final = 0
    return word + (after_consonant if final else after_vowel)


def fill(template: str, **words: str) -> str:
    """Fill `{name}` and `{name:은}` (the word with its particle)."""
    from string import Formatter

    parts = []
    for literal, name, particle, _ in Formatter().parse(template):
        parts.append(literal)
        if name is not None:
            parts.append(josa(words[name], particle) if particle else words[name])
    return "".join(parts)
