"""Where an address in a text leads, read as a browser or a renderer of Markdown reads it, with its tricks undone."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["host", "active", "other", "relative"]
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]{0,31}):", re.I)
_NETWORK = frozenset({"http", "https", "ftp", "ws", "wss", "file", "smb"})
_ACTIVE = frozenset({"javascript", "vbscript", "livescript", "data", "blob", "filesystem", "view-source"})
_CONTROLS = "".join(map(chr, range(33)))
_DROPPED = dict.fromkeys(map(ord, "\t\r\n"))  # browsers leave them out wherever they stand
_ESCAPE = re.compile(r"\\(?=[!-.:-@\]-`{-~])")  # of Markdown; one before "/" or "\" is a "/" to a browser


@dataclass(frozen=True, slots=True)
class Address:
    """`kind`: "host" leads to a machine by name, "active" is a program or a document of its own (javascript:, data:), "other" is
    for some program (mailto:), "relative" stays where the text is shown. `host`: lower case; empty if it cannot be told.
    `rest`: what stands behind it; of other kinds, all."""

    kind: Kind
    host: str = ""
    port: str = ""
    rest: str = ""


def leads_to(address: str) -> Address:
    """Entities, escapes, blanks, backslashes and missing slashes as a browser takes them: "https:\\evil.kr" leads to evil.kr."""
    plain = _ESCAPE.sub("", html.unescape(address)).strip(_CONTROLS).translate(_DROPPED).replace("\\", "/")
    scheme = _SCHEME.match(plain)
    name = scheme[1].lower() if scheme else ""
    if name in _ACTIVE:
        return Address("active", rest=plain)
    if scheme and name in _NETWORK:
        return _at_host(plain[scheme.end() :].lstrip("/"))
    if scheme:
        return Address("other", rest=plain)
    if plain.startswith("//"):
        return _at_host(plain.lstrip("/"))
    return _at_host(plain) if plain[:4].lower() == "www." else Address("relative", rest=plain)


def allowed(host: str, hosts: Sequence[str], port: str = "") -> bool:
    """Whether a list such as ("example.com", "*.example.org", "example.net:8080") has it."""
    names = (host, f"{host}:{port}") if port else (host,)
    return any(
        name == one or (one.startswith("*.") and name.endswith(one[1:])) for one in hosts for name in names
    )


def _at_host(text: str) -> Address:
    place = re.search(r"[/?#]", text)
    end = place.start() if place else len(text)
    authority, rest = text[:end], text[end:]
    if "@" in authority:  # a name before the host is there to deceive
        return Address("host", "", "", f"{authority}{rest}")
    host, _, port = authority.partition(":")
    return Address("host", host.rstrip(".").lower(), port, rest)
