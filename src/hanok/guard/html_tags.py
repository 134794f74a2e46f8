"""What HTML in an answer would run, fetch or send: tags that do so by their name, and attributes with addresses or programs.

A tag is whatever some parser might take for one: quotes that hide a tag from one parser open it to another, so all readings are
followed at once. "a < b" is none, as nothing but a letter may stand behind the sign.
"""

from __future__ import annotations

import bisect
import html
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from hanok.guard.code_blocks import Stretch, inside

What = Literal["fetched", "scripts", "forms", "links"]
HOLD = 1024  # characters that a tag or a bracket may stay open
LONGEST = 4096  # of an address
_NAME = re.compile(r"<([a-zA-Z][a-zA-Z0-9:-]{0,31})")
_NAMED: dict[str, What] = {
    **dict.fromkeys(("script", "svg", "object", "applet", "template", "xml", "xss", "portal", "foreignobject"), "scripts"),
    **dict.fromkeys(("form", "isindex"), "forms"),
    **dict.fromkeys(("meta", "link", "base", "style", "frameset"), "fetched"),
}  # fmt: skip
# names that no comparison has, whose tag may fetch or run something
_FETCHES = frozenset(
    {"img", "image", "iframe", "frame", "fencedframe", "embed", "input", "button", "video", "audio", "source", "track", "picture",
     "body", "table", "thead", "tbody", "tr", "td", "th", "area", "div", "span", "details", "marquee", "bgsound", "math",
     "select", "textarea"}
)  # fmt: skip
_ATTRIBUTES: dict[str, What] = {
    **dict.fromkeys(
        ("src", "srcset", "imagesrcset", "poster", "background", "data", "lowsrc", "dynsrc", "ping", "xlink:href", "manifest",
         "archive", "code", "codebase", "classid", "icon", "profile", "style", "content"),
        "fetched",
    ),
    **dict.fromkeys(("action", "formaction"), "forms"),
    **dict.fromkeys(("href", "cite", "longdesc", "usemap"), "links"),
    "srcdoc": "scripts",
}  # fmt: skip
_EVENTS = (
    "abort|activate|after[a-z]+|animation[a-z]+|auxclick|before[a-z]+|begin|blur|bounce|can[a-z]+|change|click|close|command|context[a-z]+"
    "|copy|cue[a-z]+|cut|dblclick|drag[a-z]*|drop|duration[a-z]+|emptied|end(?:ed)?|error|finish|focus[a-z]*|form[a-z]+|fullscreen[a-z]+"
    "|gotpointer[a-z]+|hash[a-z]+|input|invalid|key[a-z]+|language[a-z]+|load[a-z]*|lostpointer[a-z]+|message[a-z]*|mouse[a-z]+|offline"
    "|online|page[a-z]+|paste|pause|play[a-z]*|pointer[a-z]+|pop[a-z]+|progress|ratechange|rejection[a-z]+|repeat|reset|resize|scroll[a-z]*"
    "|search|security[a-z]+|seek[a-z]+|select[a-z]*|show|slot[a-z]+|stalled|start|storage|submit|suspend|time[a-z]+|toggle|touch[a-z]+"
    "|transition[a-z]+|unhandled[a-z]+|unload|volume[a-z]+|waiting|webkit[a-z]+|wheel"
)
_ATTRIBUTE = re.compile(
    rf"(?<=[\s\"'/])(?:(?P<event>on(?:{_EVENTS}))|(?P<name>{'|'.join(sorted(_ATTRIBUTES, key=len, reverse=True))}))"
    rf"\s{{0,64}}=\s{{0,64}}(?P<value>\"[^\"]{{0,{LONGEST}}}\"?|'[^']{{0,{LONGEST}}}'?|[^\s>\"'][^\s>]{{0,{LONGEST}}}|\Z)",
    re.I,
)
_CSS = re.compile(
    r"(?:url|src)\(\s*[\"']?([^\"')]*)|@import\s+[\"']?([^\"';\s]*)|image(?:-set)?\(\s*[\"']?([^\"')]*)", re.I
)
_CSS_TRICK = re.compile(r"\\|expression|behaviou?r|-moz-binding|/\*", re.I)
_REFRESH = re.compile(r"url\s*=\s*[\"']?([^\"'\s]*)", re.I)
_SIGN = re.compile(r"<(?=[a-zA-Z/!?])|>|=\s{0,64}[\"']|[\"']")


@dataclass(frozen=True, slots=True)
class Piece:
    """[start, end) does something, unless its addresses may; `instead` stands there when it must not.

    `addresses`: None if it needs none to be minded. `opener`: what goes with it. `closed`: no next character can change it.
    `label`, `role`: of a definition that references name, or of an image that names one.
    """

    what: What
    start: int
    end: int
    instead: str = ""
    addresses: tuple[str, ...] | None = None
    opener: Stretch | None = None
    closed: bool = True
    label: str = ""
    role: Literal["", "definition", "image"] = ""


def html_pieces(text: str, code: list[Stretch]) -> Iterator[Piece]:
    """Those outside of code."""
    if "<" not in text:
        return
    for match in _NAME.finditer(text):
        if inside(match.start(), code):
            continue
        what = _NAMED.get(match[1].lower())
        if what:
            yield Piece(what, match.start(), match.start() + 1, "&lt;", closed=match.end() < len(text))
    tags = _open_stretches(text, code)
    starts = [start for start, _ in tags]

    def tag_at(place: int) -> Stretch | None:
        number = bisect.bisect_right(starts, place) - 1
        return tags[number] if number >= 0 and place < tags[number][1] and not inside(place, code) else None

    place = 0
    while (match := _ATTRIBUTE.search(text, place)) is not None:
        if tag_at(match.start()) is not None:
            yield _attribute(text, match)
        value = match["value"]
        nested = value[:1] in ("'", '"') and "<" in value  # a tag to whoever takes the quote for none
        place = match.start("value") + 1 if nested else max(match.end(), place + 1)
    for match in _known_tags(text):  # longer than anybody can wait for
        tag = tag_at(match.start())
        if tag is not None and tag[1] - match.start() > HOLD:
            yield Piece("fetched", match.start(), match.start() + 1, "&lt;")


def tag_open_from(text: str, code: list[Stretch]) -> int:
    """Where a tag begins that is not closed, whose name may do something; the length if nowhere."""
    last = text.rfind("<")
    if last < 0:
        return len(text)
    tags = _open_stretches(text, code)
    if tags and tags[-1][1] == len(text):
        for match in _known_tags(text, max(tags[-1][0], len(text) - HOLD)):
            if not inside(match.start(), code):
                return match.start()
    begun = last + 1 == len(text) or _NAME.fullmatch(text, last) is not None
    return last if begun and not inside(last, code) else len(text)


def _known_tags(text: str, start: int = 0) -> Iterator[re.Match[str]]:
    for match in _NAME.finditer(text, start):
        if match[1].lower() in _FETCHES or match[1].lower() in _NAMED:
            yield match


def _open_stretches(text: str, code: list[Stretch]) -> list[Stretch]:
    """Where a tag is open in some reading; the end is behind it, or the text's."""
    live: dict[str, int] = {}  # by the quote that is open; the latest start
    found: list[Stretch] = []
    begun = -1
    for match in _SIGN.finditer(text):
        if inside(match.start(), code):
            continue
        sign, before = match[0][-1], bool(live)
        if sign == "<":
            live[""] = match.start()
        elif sign == ">":
            live.pop("", None)
        elif live:
            live = _moved(live, {"": sign, sign: ""} if len(match[0]) > 1 else {sign: ""})
        live = {quote: start for quote, start in live.items() if match.start() - start <= HOLD + LONGEST}
        if live and not before:
            begun = match.start()
        elif before and not live:
            found.append((begun, match.end()))
    if live:
        found.append((begun, len(text)))
    return found


def _moved(live: dict[str, int], moves: dict[str, str]) -> dict[str, int]:
    after: dict[str, int] = {}
    for quote, start in live.items():
        new = moves.get(quote, quote)
        after[new] = max(start, after.get(new, start))
    return after


def _attribute(text: str, match: re.Match[str]) -> Piece:
    closed = match.end() < len(text)
    if match["event"]:
        return Piece("scripts", match.start(), match.end(), closed=closed)
    name = match["name"].lower()
    value = match["value"].strip("\"'")
    return Piece(
        _ATTRIBUTES[name], match.start(), match.end(), addresses=_addresses(name, value), closed=closed
    )


def _addresses(name: str, value: str) -> tuple[str, ...] | None:
    if name == "srcdoc":
        return None
    if name in ("srcset", "imagesrcset"):
        return tuple(one for one in re.split(r"[\s,]+", value) if one)
    if name == "content":
        return tuple(_REFRESH.findall(html.unescape(value)))
    if name == "style":
        return css_addresses(html.unescape(value))
    return (value,)


def css_addresses(style: str) -> tuple[str, ...] | None:
    """None: it has what no honest style of one element has."""
    if _CSS_TRICK.search(style):
        return None
    return tuple(one for found in _CSS.findall(style) for one in found if one)
