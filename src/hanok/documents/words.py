"""What a text is found by: the stems of its words, and for Hangul the pairs of neighbouring syllables of the stem too.

Korean words carry particles and endings ("대통령은", "대통령이었던"), so whole words seldom meet; their pairs of syllables do,
without a dictionary. A term begins with the letter of its kind: `w` stem, `p` pair.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Collection, Iterator
from functools import lru_cache
from itertools import chain

import numpy as np

VERSION = 1  # of the rules below: terms stored under another version are made anew
MOST_OFTEN = 255

_HAN = "\u3400-\u4dbf\u4e00-\u9fff\u3041-\u30ff"
_RUN = re.compile(
    rf"(?P<hangul>[가-힣]+)|(?P<number>\d+(?:[.,]\d+)*)|(?P<han>[{_HAN}]+)|(?P<word>[^\W\d_가-힣{_HAN}]+)"
)
# behind a noun, or the copula's forms; the longest that leaves two syllables is cut off
_PARTICLE_WORDS = (
    "은 는 이 가 을 를 의 에 로 와 과 도 만 랑 나 야 여 께 고 "
    "에서 에게 한테 으로 까지 부터 처럼 보다 마다 조차 마저 밖에 대로 만큼 라도 이나 이란 라는 이라 이다 이며 이고 하고 인가 "
    "에는 에도 에만 에의 로는 로도 로의 와의 과의 께서 이랑 든지 로서 로써 라고 인지 였던 였다 이던 이자 이면 "
    "에서는 에서도 에서의 에게서 에게는 에게도 으로는 으로도 으로의 으로서 으로써 까지는 까지도 부터는 부터의 "
    "이라는 이라고 이었던 이었다 입니다 인가요 이지만"
)
_PARTICLES = frozenset(_PARTICLE_WORDS.split())
_LONGEST = max(map(len, _PARTICLES))
_ENDINGS = (
    ("ies", "y"),
    ("sses", "ss"),
    ("ing", ""),
    ("ied", "y"),
    ("ed", ""),
    ("es", ""),
    ("ly", ""),
    ("s", ""),
)


_COMMON = (
    "a an and are as at be been but by can could did do does for from had has have he her his how i if in is it its me my "
    "no not of on or our she should so some such than that the their them then there these they this those to was we were "
    "what when where which who whom whose why will with would you your "
    "언제 어디 누구 누가 무엇 무슨 뭐 왜 어떤 어떻게 얼마 얼마나 몇 그 이 저 것 수 등 및 더 또 또는 그리고 "
    "있나요 있는 있다 하는 하나요 되나요 인가요"
)


def terms(text: str) -> Counter[str]:
    """How often each term occurs."""
    return Counter(chain.from_iterable(_terms_of(kind, run) for kind, run in _runs(text)))


def codes(text: str) -> Counter[int]:
    """The same, terms being 32-bit numbers.

    Two terms in four thousand million share a number; a passage found by such a chance scores as by one common word.
    """
    return Counter(chain.from_iterable(_codes_of(kind, run) for kind, run in _runs(text)))


def said(text: str, letters: Collection[str]) -> set[int]:
    """The numbers of the terms that occur in words with any of these letters (`surfaces`)."""
    found: set[int] = set()
    for kind, run in _runs(text):
        if any(one in run for one in letters):
            found.update(_codes_of(kind, run))
    return found


def surfaces(text: str) -> dict[int, str]:
    """Of each term's number, letters that a `folded` text has wherever the term occurs in it."""
    return {code: letters for kind, run in _runs(text) for code, letters in _surfaces_of(kind, run)}


@lru_cache(1 << 10)
def _surfaces_of(kind: str, run: str) -> tuple[tuple[int, str], ...]:
    return tuple((code_of(term), _surface(kind, term)) for term in _terms_of(kind, run))


def _surface(kind: str, term: str) -> str:
    if kind == "number":
        return term[1]  # there may be commas behind it
    if kind == "word" and len(term) > 2 and term[-1] == "y":
        return term[1:-1]  # it may have been "ies"
    return term[1:]


def folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


def _runs(text: str) -> Iterator[tuple[str, str]]:
    """Stretches of one kind: hangul, number, han or word."""
    text = folded(text)
    behind = -1  # end of the run before: a particle may follow a number or a Latin word without a space
    for match in _RUN.finditer(text):
        kind, run = str(match.lastgroup), match[0]
        if kind != "hangul":
            behind = match.end()
        elif run in _PARTICLES and match.start() == behind:
            continue
        yield kind, run


def _terms_of(kind: str, run: str) -> tuple[str, ...]:
    if kind == "hangul":
        noun = without_particle(run)
        return (f"w{noun}", *_pairs(noun))
    if kind == "word":
        return (f"w{stem(run)}",)
    if kind == "number":
        return (f"w{run.replace(',', '')}",)
    return tuple(_pairs(run)) if len(run) > 1 else (f"w{run}",)


@lru_cache(1 << 15)  # most words of a text are words of the one before
def _codes_of(kind: str, run: str) -> tuple[int, ...]:
    return tuple(code_of(term) for term in _terms_of(kind, run))


def code_of(term: str) -> int:
    return zlib.crc32(term.encode())


def _pairs(run: str) -> Iterator[str]:
    for place in range(len(run) - 1):
        yield f"p{run[place : place + 2]}"


def without_particle(word: str) -> str:
    """A word of Hangul without the particle at its end if two syllables are left; else the word itself."""
    for length in range(min(_LONGEST, len(word) - 2), 0, -1):
        if word[-length:] in _PARTICLES:
            return word[:-length]
    return word


def stem(word: str) -> str:
    """A Latin word in lower case without the commonest English endings: "houses", "housed" and "housing" are one."""
    if len(word) <= 3 or not word.isascii():
        return word
    for ending, rest in _ENDINGS:
        if (
            word.endswith(ending)
            and len(word) - len(ending) >= 3
            and not (ending == "s" and word[-2] in "su")
        ):
            word = word[: -len(ending)] + rest
            break
    return word[:-1] if len(word) > 3 and word.endswith("e") else word


def common_codes() -> frozenset[int]:
    """Of words that stand in every other text, whatever it is about."""
    return frozenset(code for word in _COMMON.split() for code in codes(word))


def counted(text: str) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of its terms, ascending, and how often each occurs (at most `MOST_OFTEN`)."""
    found = codes(text)
    numbers = sorted(found)
    return np.array(numbers, np.uint32), np.array([min(found[one], MOST_OFTEN) for one in numbers], np.uint8)
