"""Text as it should have been: NFC, mojibake repaired, nothing invisible, tidy line ends."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

import ftfy

# UTF-8 read as a one-byte encoding: a lead byte's letter with a continuation byte's sign behind it
_MOJIBAKE = re.compile(
    r"[\u00c2-\u00f4][\u0080-\u00bf\u0152\u0153\u0160\u0161\u0178\u017d\u017e\u0192\u02c6\u02dc\u2013-\u203a\u20ac\u2122]"
)
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\x80-\x9f]")
_JOINERS = "\u200c\u200d"
_VARIANTS = "\ufe00-\ufe0f"
_HIDDEN = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    "\u3164\ufeff\uffa0\ufff9-\ufffb"
)
_TAGS = "\U000e0000-\U000e007f"
_INVISIBLE = re.compile(f"[{_HIDDEN}{_TAGS}]")
_MAYBE = re.compile(f"[{_JOINERS}{_VARIANTS}]")
_ANY_INVISIBLE = re.compile(f"[{_HIDDEN}{_TAGS}{_JOINERS}{_VARIANTS}]")
_LINE_SEPARATORS = {0x2028: "\n", 0x2029: "\n"}
_TRAILING = re.compile(r"[ \t\u3000\u00a0]+(?=\n|$)")
_BLANK_LINES = re.compile(r"\n{3,}")


def normalise(text: str) -> tuple[str, Counter[str]]:
    """The repaired text, and how many of each repair: mojibake, NFC, control and invisible characters."""
    repairs: Counter[str] = Counter()
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if _MOJIBAKE.search(text):
        fixed = ftfy.fix_encoding(text)
        if fixed != text:
            repairs["mojibake"] += 1
            text = fixed
    if not text.isascii():
        if not unicodedata.is_normalized("NFC", text):
            repairs["composed (NFC)"] += 1
            text = unicodedata.normalize("NFC", text)
        if _ANY_INVISIBLE.search(text):
            text, count = _without_invisible(text)
            if count:
                repairs["invisible characters"] += count
    if _CONTROL.search(text):
        text, count = _CONTROL.subn("", text)
        repairs["control characters"] += count
    text = _BLANK_LINES.sub("\n\n", _TRAILING.sub("", text)).strip("\n")
    return text, repairs


def _without_invisible(text: str) -> tuple[str, int]:
    """Joiners stay inside emoji and in scripts that are written with them; variation selectors stay behind symbols."""
    text, count = _INVISIBLE.subn("", text.translate(_LINE_SEPARATORS))
    if not _MAYBE.search(text):
        return text, count
    kept = []
    for place, character in enumerate(text):
        if _MAYBE.match(character):
            before = text[place - 1] if place else ""
            after = text[place + 1] if place + 1 < len(text) else ""
            if not _wanted(character, before, after):
                count += 1
                continue
        kept.append(character)
    return "".join(kept), count


def _wanted(character: str, before: str, after: str) -> bool:
    if not before:
        return False
    if "\ufe00" <= character <= "\ufe0f":
        return unicodedata.category(before) in ("So", "Sm", "Po", "Nd") or _is_han(before)
    if unicodedata.category(before) in ("So", "Sk") or before == "\ufe0f":
        return character == "\u200d" and bool(after) and unicodedata.category(after) in ("So", "Sm")
    return _joins(before)


def _joins(character: str) -> bool:
    """Arabic, the scripts of India and their neighbours: a joiner there changes the shape of a letter."""
    return (
        "\u0600" <= character <= "\u08ff"
        or "\u0900" <= character <= "\u0dff"
        or "\u1000" <= character <= "\u109f"
    )


def _is_han(character: str) -> bool:
    return "\u3400" <= character <= "\u9fff" or "\U00020000" <= character <= "\U0003ffff"
