"""What a text is found by: the stems of its words, and for Hangul the pairs of neighbouring syllables of the stem too.

Korean words carry particles and endings ("대통령은", "대통령이었던"), so whole words seldom meet; their pairs of syllables do,
without a dictionary. A term begins with the letter of its kind: `w` stem, `p` pair.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping

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
    return Counter(_terms(text))


def _terms(text: str) -> Iterator[str]:
    text = unicodedata.normalize("NFKC", text).casefold()
    behind = -1  # end of the run before: a particle may follow a number or a Latin word without a space
    for match in _RUN.finditer(text):
        run = match[0]
        if match.lastgroup == "hangul":
            if not (match.start() == behind and run in _PARTICLES):
                noun = without_particle(run)
                yield f"w{noun}"
                yield from _pairs(noun)
            continue
        behind = match.end()
        if match.lastgroup == "word":
            yield f"w{stem(run)}"
        elif match.lastgroup == "number":
            yield f"w{run.replace(',', '')}"
        else:
            yield from _pairs(run) if len(run) > 1 else (f"w{run}",)


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
    return frozenset(zlib.crc32(term.encode()) for word in _COMMON.split() for term in terms(word))


def coded(counts: Mapping[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """Terms as 32-bit numbers, ascending, and how often each occurs (at most `MOST_OFTEN`).

    Two terms in four thousand million share a number; a passage found by such a chance scores as by one common word.
    """
    codes_N = np.fromiter((zlib.crc32(term.encode()) for term in counts), np.uint32, len(counts))
    codes_T, places_N = np.unique(codes_N, return_inverse=True)
    often_T = np.bincount(places_N, np.fromiter(counts.values(), np.float64, len(counts)), len(codes_T))
    return codes_T, np.minimum(often_T, MOST_OFTEN).astype(np.uint8)
