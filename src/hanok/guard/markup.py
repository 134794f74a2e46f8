"""Answers that do something when they are shown: images that are fetched, programs that run, forms, links, and addresses that
carry private text away (as EchoLeak did, CVE-2025-32711).

    fetched         whatever is fetched before anybody clicks: images, frames, styles, references that images use
    scripts         programs: their elements, handlers of events, javascript:, data:
    forms           what sends what is typed into it
    links           what waits for a click
    carried         one of the first three whose address carries private text (`hanok.guard.carried`), whoever its host is
    carried-links   a link whose address does

To redact is to make inert: the words of a link or of an image stay, the address goes. Code blocks and code spans are shown and
not rendered, so they are left alone unless `code` says that whoever shows the answer does not read Markdown.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from hanok.guard.addresses import Address, allowed, leads_to
from hanok.guard.carried import Private
from hanok.guard.code_blocks import Blocks, Stretch, code_stretches
from hanok.guard.html_tags import Piece, What, html_pieces, tag_open_from
from hanok.guard.markdown import bare_links, read_markdown
from hanok.guard.verdicts import Action, Finding

FINDS = ("fetched", "scripts", "forms", "links", "carried", "carried-links")
_REASONS = {
    "fetched": "fetched when it is shown", "scripts": "a program", "forms": "a form", "links": "a link to a host not allowed",
    "carried": "fetched from an address that carries private text", "carried-links": "a link that carries private text",
}  # fmt: skip
_TRIGGER = re.compile(r"[<\[\]]|://|www\.|\\(?:include|href|url)", re.I)
_NEW = re.compile(r"[<\[\]=:\\]|www\.", re.I)
_PAST = 256  # characters already decided that are still read
_LINE = 2048  # of a line: behind that its code spans are text
_PLAIN_SCHEMES = ("mailto:", "tel:", "sms:")
_MOST_KNOWN = 1024  # addresses whose fate is remembered


class Markup:
    """A rule of answers.

    Args:
        hosts: that may be fetched from and linked to: "example.com", "*.example.com". Without any, links to all are left alone.
        finds: some of FINDS; without it all, links only where there are hosts.
        code: read code as text too.
        private: what no address may carry.
    """

    opening = 4
    stages = ("answer", "again")  # nobody shows the arguments of a call

    def __init__(
        self, name: str = "markup", action: Action = "redact", *, hosts: Sequence[str] = (), finds: frozenset[str] | None = None,
        code: bool = False, private: Private | None = None,
    ) -> None:  # fmt: skip
        self.name, self.hosts, self.code = name, hosts, code
        self.action: Action = action
        self.finds = frozenset(FINDS if hosts else set(FINDS) - {"links"}) if finds is None else finds
        self.private = private or Private()

    def begin(self, before: str) -> _Reading:
        return _Reading(self, before)


class _Reading:
    """One channel: what was let go of and can still matter, and what references have been seen."""

    def __init__(self, rule: Markup, before: str) -> None:
        self._rule, self._past, self._whole = rule, before, not before
        self._blocks = Blocks()
        self._images: set[str] = set()  # labels that images refer to
        self._bad: set[str] = set()  # labels whose address no image may have
        self._fates: dict[tuple[str, What], str] = {}

    def read(self, text: str, *, last: bool) -> tuple[int, list[Finding]]:
        if not _NEW.search(text):  # what was begun before is held back with its own signs
            return len(text), []
        whole = self._past + text
        if not _TRIGGER.search(whole):
            return len(text), []
        shift = len(self._past)
        code = (
            [] if self._rule.code else list(code_stretches(whole, replace(self._blocks), whole=self._whole))
        )
        pieces, opened = _pieces(whole, code, last=last)
        found: list[Finding] = []
        for piece in pieces:
            if not piece.closed and not last:
                opened = min(opened, piece.start if piece.opener is None else piece.opener[0])
            fate = self._fate(piece, certain=piece.closed or last)
            if fate:
                found += self._findings(piece, fate, whole, shift)
        return max(0, opened - shift), found

    def passed(self, text: str) -> None:
        self._past += text
        if len(self._past) <= 2 * _PAST:
            return
        cut = self._past.rfind("\n", 0, len(self._past) - _PAST) + 1
        whole = True
        if not cut and len(self._past) > _LINE:
            cut, whole = len(self._past) - _PAST, False
        if cut:
            for _ in code_stretches(self._past[:cut], self._blocks, whole=self._whole):
                pass
            self._past, self._whole = self._past[cut:], whole

    def _fate(self, piece: Piece, *, certain: bool) -> str:
        """What it is found to be; empty for nothing."""
        if piece.role == "image":
            if certain:
                self._images.add(piece.label)
            return "fetched" if piece.label in self._bad else ""
        if piece.addresses is None:
            return piece.what if piece.what in self._rule.finds else ""
        fate = next(filter(None, (self._address(one, piece.what) for one in piece.addresses)), "")
        if piece.role == "definition" and certain and not fate:
            fetched = self._address(piece.addresses[0], "fetched")
            if fetched and piece.label in self._images:
                return fetched
            if fetched:
                self._bad.add(piece.label)
        return fate

    def _address(self, address: str, what: What) -> str:
        key = (address, what)
        if key not in self._fates:
            if len(self._fates) >= _MOST_KNOWN:
                self._fates.clear()
            self._fates[key] = self._judged(address, leads_to(address), what)
        return self._fates[key]

    def _judged(self, address: str, target: Address, what: What) -> str:
        finds, link = self._rule.finds, what == "links"
        if target.kind == "relative":
            return ""
        if target.kind == "active":
            return "scripts" if "scripts" in finds else ""
        carried = "carried-links" if link else "carried"
        if carried in finds and self._rule.private.carried_in(address):
            return carried
        strange = (
            not target.rest.lower().startswith(_PLAIN_SCHEMES)
            if target.kind == "other"
            else not allowed(target.host, self._rule.hosts, target.port)
        )
        return what if strange and what in finds else ""

    def _findings(self, piece: Piece, fate: str, text: str, shift: int) -> Iterator[Finding]:
        """In one go where the words between hold nothing else; else the two ends, and what is between them speaks for itself."""
        rule, start, instead = self._rule, piece.start, piece.instead
        if piece.opener is not None:
            begin, words = piece.opener
            if rule.action != "redact" or not _TRIGGER.search(text[words:start]):
                start, instead = begin, text[words:start] + instead
            elif words > shift:
                yield self._finding(begin, words, fate, "", shift)
        if piece.end > shift:
            yield self._finding(start, piece.end, fate, instead if start >= shift else piece.instead, shift)

    def _finding(self, start: int, end: int, fate: str, instead: str, shift: int) -> Finding:
        rule = self._rule
        return Finding(rule.name, max(0, start - shift), end - shift, rule.action, _REASONS[fate], instead)


def _pieces(text: str, code: list[Stretch], *, last: bool) -> tuple[list[Piece], int]:
    """All that does something, and from where on the next characters could change that."""
    markdown = read_markdown(text, code, last=last)
    pieces = [*markdown.pieces, *html_pieces(text, code)]
    pieces.sort(key=lambda piece: piece.start)
    behind, number = 0, 0
    for piece in bare_links(text, code):  # those that are part of no other
        while number < len(pieces) and pieces[number].start <= piece.start:
            behind = max(behind, pieces[number].end)
            number += 1
        if behind <= piece.start:
            pieces.append(piece)
    return pieces, min(markdown.open_from, tag_open_from(text, code))
