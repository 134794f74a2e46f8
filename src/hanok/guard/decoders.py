"""Text that was written so that a model reads it and a filter does not: base64, hex, URL and HTML escapes, rot13, leet, spaced
letters. Every pattern is linear in the text, everything is bounded: a guard that can be kept busy is no guard.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import html
import re
from urllib.parse import unquote

import numpy as np

MOST_BYTES = 8192  # of a piece that is decoded
MOST_PIECES = 4  # of each kind
_BASE64 = re.compile(r"(?<![A-Za-z0-9+/_-])[A-Za-z0-9+/_-]{16,8192}={0,2}")
_HEX = re.compile(r"(?<![0-9A-Fa-f])(?:[0-9A-Fa-f]{2}[ :]?){12,4096}")
_PERCENT = re.compile(r"%[0-9A-Fa-f]{2}")
_ENTITY = re.compile(r"&(?:#\d{1,7}|#x[0-9A-Fa-f]{1,6}|[A-Za-z]{2,8});")
_ESCAPE = re.compile(r"\\u([0-9A-Fa-f]{4})|\\x([0-9A-Fa-f]{2})")
_SPACED = re.compile(r"(?<!\w)\w(?:([ .\-_*·|/,~])\w(?:\1\w)*)(?!\w)")
_LEET_WORD = re.compile(r"[A-Za-z0-9@$!|]*[A-Za-z][A-Za-z0-9@$!|]*")
_LEET = str.maketrans("0134578@$!|", "oleastbasii")
_LEET_I = {**_LEET, ord("1"): ord("i")}
_DIGIT = re.compile(r"[0134578@$!|]")
_READABLE = 0.95
_STRETCH = 24  # letters
_ENGLISH = np.log(  # how often a to z occur, in per cent
    [8.2, 1.5, 2.8, 4.3, 12.7, 2.2, 2.0, 6.1, 7.0, 0.15, 0.77, 4.0, 2.4, 6.7, 7.5, 1.9, 0.1, 6.0, 6.3, 9.1, 2.8, 0.98, 2.4, 0.15,
     2.0, 0.07]
)  # fmt: skip
_GAIN = np.roll(_ENGLISH, 13) - _ENGLISH


def decoded(text: str) -> tuple[str, list[str]]:
    """The text without the codes that could be read, and the texts that it carries, one layer deep; readable ones alone."""
    found: list[str] = []
    for pattern, read in ((_BASE64, _from_base64), (_HEX, _from_hex)):
        for code in _first(pattern, text):
            if (piece := read(code)) is not None:
                found.append(piece)
                text = text.replace(code, " ")
    if _PERCENT.search(text):
        found.append(unquote(text[:MOST_BYTES], errors="replace"))
    if _ENTITY.search(text):
        found.append(html.unescape(text[:MOST_BYTES]))
    if _ESCAPE.search(text):
        found.append(_ESCAPE.sub(lambda match: chr(int(match[1] or match[2], 16)), text[:MOST_BYTES]))
    return text, [piece for piece in found if piece != text]


def rot13(text: str) -> str:
    return codecs.encode(text, "rot13")


def looks_rotated(text: str) -> bool:
    """Whether some stretch of letters reads more like English when turned by thirteen."""
    codes = np.frombuffer(text.lower().encode("ascii", "ignore"), dtype=np.uint8)
    places = codes[(codes >= 97) & (codes <= 122)] - 97
    if len(places) < _STRETCH:
        return False
    gain = np.concatenate([[0.0], np.cumsum(_GAIN[places])])
    return bool((gain[_STRETCH:] - gain[:-_STRETCH]).max() > 0)


def unleeted(text: str) -> list[str]:
    """Digits and signs as the letters that they stand for, in words that have letters too; with 1 as l and, if there is one, as
    i. None without any."""
    if not _DIGIT.search(text):
        return []
    return [_translated(text, way) for way in ((_LEET, _LEET_I) if "1" in text else (_LEET,))]


def _translated(text: str, letters: dict[int, int]) -> str:
    return _LEET_WORD.sub(
        lambda match: match[0].translate(letters) if _DIGIT.search(match[0]) else match[0], text
    )


def unspaced(text: str) -> str:
    """Single letters with one sign between them, joined: "s.y.s.t.e.m" and "시 스 템"; at least three."""

    def join(match: re.Match[str]) -> str:
        run = match[0]
        return run[::2] if len(run) >= 5 else run

    return _SPACED.sub(join, re.sub(r"  +", "\n", text)) if _SPACED.search(text) else text


def _first(pattern: re.Pattern[str], text: str) -> list[str]:
    found: list[str] = []
    for match in pattern.finditer(text):
        found.append(match[0])
        if len(found) == MOST_PIECES:
            break
    return found


def _from_base64(piece: str) -> str | None:
    bare = piece.rstrip("=").replace("-", "+").replace("_", "/")
    if len(bare) % 4 == 1:
        bare = bare[:-1]
    try:
        return _text(base64.b64decode(bare + "=" * (-len(bare) % 4), validate=True))
    except (binascii.Error, ValueError):
        return None


def _from_hex(piece: str) -> str | None:
    bare = re.sub("[ :]", "", piece)
    return _text(bytes.fromhex(bare[: len(bare) // 2 * 2]))


def _text(raw: bytes) -> str | None:
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return None
    readable = sum(character.isprintable() or character in "\n\t\r" for character in text)
    return text if text and readable >= _READABLE * len(text) else None
