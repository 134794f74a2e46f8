"""Calls that reach outside: once strangers' text is in the conversation, an address must stem from text that can be trusted.

An address (of a web page, of mail, of a machine) in the arguments of a call has to stand in what the operator or the user wrote.
What the model said itself does not count, as a stranger may have put it up to that. Else a person is asked, or the answer ends.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

from hanok.guard.addresses import allowed
from hanok.guard.provenance import UNTRUSTED, Origin, Part
from hanok.guard.unseen import bare
from hanok.guard.verdicts import Action, Finding

_GIVES: frozenset[Origin] = frozenset(
    {"system", "user", "definition"}
)  # whose words an address may come from
_ADDRESS = re.compile(
    r"[a-z][a-z0-9+.-]{1,15}://[^\s\"'<>`]{1,2048}|(?<![\w@/.])www\.[^\s\"'<>`]{1,2048}"
    r"|[^\s\"'<>()\[\],;:@]{1,64}@[\w.-]{1,253}|(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w.])",
    re.I,
)
_MOST = 1 << 16  # characters of the arguments of one call


class Egress:
    """A rule of calls.

    Args:
        tools: names of those that it judges; all by default. arguments: names of those that reach outside whatever they look like
            (a path, an account): their whole value must stem from trusted text.
        hosts: that may always be reached: "example.com", "*.example.com". always: without strangers' text in sight too.
    """

    def __init__(
        self, name: str = "egress", action: Action = "ask", *, tools: Sequence[str] = (), arguments: Sequence[str] = (),
        hosts: Sequence[str] = (), always: bool = False,
    ) -> None:  # fmt: skip
        self.name = name
        self._action: Action = action
        self._tools, self._arguments, self._hosts, self._always = (
            frozenset(tools),
            frozenset(arguments),
            hosts,
            always,
        )

    def judge(self, tool: str, arguments: str, parts: Sequence[Part]) -> Iterator[Finding]:
        """Args: arguments: as JSON. parts: what the model has read."""
        if self._tools and tool not in self._tools:
            return
        if not self._always and not any(part.origin in UNTRUSTED and part.text.strip() for part in parts):
            return
        if len(arguments) > _MOST:
            yield Finding(self.name, 0, 0, self._action, f"more than {_MOST} characters of arguments")
            return
        given = _plain("\n".join(part.text for part in parts if part.origin in _GIVES))
        for key, value in _leaves(arguments):
            if key in self._arguments and _plain(value) and _plain(value) not in given:
                yield Finding(self.name, 0, 0, self._action, "a value that no trusted text has")
            elif any(not self._known(address, given) for address in _addresses(value)):
                yield Finding(self.name, 0, 0, self._action, "an address that no trusted text has")

    def _known(self, address: str, given: str) -> bool:
        return self._allowed(address) or _stands_in(_plain(address), given)

    def _allowed(self, address: str) -> bool:
        return allowed(_host(address), self._hosts)


def _addresses(value: str) -> list[str]:
    return [match[0].rstrip(".,;:!?)]}") for match in _ADDRESS.finditer(bare(value).text)]


def _host(address: str) -> str:
    if "://" not in address and "@" in address:
        return address.rpartition("@")[2].lower()
    try:
        return (urlsplit(address if "://" in address else f"//{address}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def _stands_in(address: str, given: str) -> bool:
    """As an address of its own: "a.kr" does not stand in "a.kr.example"."""
    return re.search(rf"(?<![\w@.-]){re.escape(address)}/?(?![\w@/?&=%-])(?!\.\w)", given) is not None


def _plain(text: str) -> str:
    return bare(text).text.casefold().strip().rstrip("/")


class _Pairs(list[tuple[str, Any]]):
    """A JSON object as it is written: a key may stand there twice."""


def _leaves(arguments: str) -> Iterator[tuple[str, str]]:
    """Each value with the key that it stands under, keys as values too; bare text is one value."""
    try:
        value = json.loads(arguments, object_pairs_hook=_Pairs)
    except (ValueError, RecursionError):
        value = arguments
    waiting: list[tuple[str, Any]] = [("", value)]
    while waiting:
        key, one = waiting.pop()
        if isinstance(one, _Pairs):
            waiting += one
            waiting += [("", name) for name, _ in one]
        elif isinstance(one, list):
            waiting += [(key, item) for item in one]
        elif one is not None:
            yield key, one if isinstance(one, str) else json.dumps(one)
