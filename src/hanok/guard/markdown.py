"""What Markdown in an answer would fetch or link to: images and links, by address or by reference, addresses that are links by
themselves, and what LaTeX includes.

An image is fetched as soon as it is shown; a link waits for a click. Where the beginning of either is out of sight, it counts as
an image. (CommonMark 0.31, 4.7, 6.3 to 6.5; GitHub's autolinks.)
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from hanok.guard.code_blocks import Stretch, inside
from hanok.guard.html_tags import HOLD, LONGEST, Piece

_REMOVED = "(…)"
_MARK = re.compile(r"!?\[|\]|\n[ \t]*\n")
_BLANK = re.compile(r"\s*")
_QUOTED = re.compile(r"[\s>]*")
_PREFIX = re.compile(r"[\s>*+\d.)-]*")
_POINTED = re.compile(r"<([^<>\n]*)>?")
_RUN = re.compile(r"\S*")
_PAREN = re.compile(r"\\.|[()]", re.S)
_TITLE = re.compile(r"\s*(?:\s(?:\"[^\"]{0,1024}\"|'[^']{0,1024}'|\([^()]{0,1024}\))\s*)?\)")
_NO_TITLE = re.compile(r"\s+[^\s\"'(]|\S")
_REFERENCE = re.compile(r"\[([^\[\]]{0,999})\]")
_REFERENCE_BEGUN = re.compile(r"\[[^\[\]]{0,999}\Z")
_AUTOLINK = re.compile(r"<([a-zA-Z][a-zA-Z0-9+.-]{1,31}:[^\s<>]*)(>?)")
_BARE = re.compile(r"(?<![\w@])(?:(?:https?|ftp)://|www\.)[^\s<>\"'`|\])]+", re.I)
_TEX = re.compile(
    r"\\(?P<name>includegraphics|href|url)\s{0,8}(?:\[[^\[\]{}]{0,256}\])?\s{0,8}\{(?P<address>[^{}\s]*)(?P<end>\}?)"
)


@dataclass(frozen=True, slots=True)
class Markdown:
    pieces: list[Piece] = field(default_factory=list)
    open_from: int = 0


def read_markdown(text: str, code: list[Stretch], *, last: bool) -> Markdown:
    """Args: last: no more comes."""
    pieces, opened = _bracketed(text, code, last=last)
    for match in _AUTOLINK.finditer(text):
        if not inside(match.start(), code):
            pieces.append(_standing(match, 1, closed=bool(match[2])))
    for match in _TEX.finditer(text):
        if not inside(match.start(), code):
            what = "fetched" if match["name"] == "includegraphics" else "links"
            pieces.append(
                Piece(what, match.start("address"), match.end("address"), "…", (match["address"],), closed=bool(match["end"]))
            )  # fmt: skip
    return Markdown(pieces, opened)


def bare_links(text: str, code: list[Stretch]) -> Iterator[Piece]:
    """Addresses that renderers make links of."""
    for match in _BARE.finditer(text):
        if not inside(match.start(), code):
            yield _standing(match, 0, closed=match.end() < len(text))


def _standing(match: re.Match[str], group: int, *, closed: bool) -> Piece:
    return Piece("links", match.start(), match.end(), _REMOVED, (match[group],), closed=closed)


def _bracketed(text: str, code: list[Stretch], *, last: bool) -> tuple[list[Piece], int]:
    """All that has a bracket, and where one begins whose end is not there yet."""
    pieces: list[Piece] = []
    stack: list[Stretch] = []
    opened, place = len(text), 0
    while (match := _MARK.search(text, place)) is not None:
        place = match.end()
        if inside(match.start(), code):
            continue
        if match[0] == "]":
            opener = stack.pop() if stack else None
            piece = _closing(text, match.end(), opener, last=last)
            if isinstance(piece, Piece):
                pieces.append(piece)
                place = max(place, piece.end) if piece.role == "" else place
            elif piece is None and len(text) - match.start() <= LONGEST:
                opened = min(opened, match.start() if opener is None else opener[0])
        elif match[0].endswith("["):
            stack.append(match.span())
        else:
            stack.clear()  # no bracket goes on behind an empty line
    waiting = [start for start, _ in stack if len(text) - start <= HOLD]
    return pieces, min([opened, *waiting])


def _closing(text: str, end: int, opener: Stretch | None, *, last: bool) -> Piece | bool | None:
    """The piece that this bracket ends; None: the next characters tell; False: nothing."""
    sign = text[end : end + 1]
    if not sign and not last:
        return None
    image = opener is None or text[opener[0]] == "!"
    label = text[opener[1] : end - 1] if opener is not None else ""
    if sign == "(":
        address, after, closed = _destination(text, end + 1)
        image = image or "\\[" in label or "\\]" in label or text[opener[0] - 1 : opener[0]] == "\\"  # type: ignore[index]
        return Piece(
            "fetched" if image else "links", end - 1, after, f" {_REMOVED}", (address,), opener, closed or last
        )  # fmt: skip
    if sign == ":" and opener is not None and _begins_line(text, opener[0]):
        start = _QUOTED.match(text, end + 1).end()  # type: ignore[union-attr]
        address, after = _until_blank(text, start)
        closed = after < len(text) or last
        return Piece(
            "links", end - 1, after, f"] {_REMOVED}", (address,), closed=closed, label=_plain(label), role="definition"
        )  # fmt: skip
    if not image or opener is None:
        return False
    if sign == "[":
        reference = _REFERENCE.match(text, end)
        if reference is None:
            return None if _REFERENCE_BEGUN.match(text, end) and not last else False
        label = reference[1] or label
    return Piece("fetched", opener[0], opener[1], "! [", None, label=_plain(label), role="image")


def _destination(text: str, start: int) -> tuple[str, int, bool]:
    """The address between the brackets, where it ends with its title, and whether that is certain."""
    begin = _BLANK.match(text, start).end()  # type: ignore[union-attr]
    if text[begin : begin + 1] == "<":
        pointed = _POINTED.match(text, begin)
        assert pointed is not None
        address, after = pointed[1], pointed.end()
    else:
        run = _RUN.match(text, begin)[0]  # type: ignore[index]
        depth = 0
        for match in _PAREN.finditer(run):
            depth += {"(": 1, ")": -1}.get(match[0], 0)
            if depth < 0:
                return run[: match.start()], begin + match.end(), True
        address, after = run, begin + len(run)
    title = _TITLE.match(text, after)
    if title is not None:
        return address, title.end(), True
    return address, after, len(text) - start > LONGEST or _NO_TITLE.match(text, after) is not None


def _begins_line(text: str, place: int) -> bool:
    """Nothing stands before it but signs of quotes and lists."""
    start = text.rfind("\n", 0, place) + 1
    return place - start <= HOLD and _PREFIX.fullmatch(text, start, place) is not None


def _until_blank(text: str, start: int) -> tuple[str, int]:
    if text[start : start + 1] == "<":
        pointed = _POINTED.match(text, start)
        assert pointed is not None
        return pointed[1], pointed.end()
    run = _RUN.match(text, start)
    assert run is not None
    return run[0], run.end()


def _plain(label: str) -> str:
    """As references are compared."""
    return " ".join(label.split()).casefold()
