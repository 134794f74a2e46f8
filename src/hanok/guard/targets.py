"""Which addresses may be asked for by somebody else's word: the form of a URL, the list of hosts, whether an address is public.

Much depends on saying no to spellings: 2130706433, 0x7f.1, 0177.0.0.1, ①②⑦.0.0.1 and [::ffff:127.0.0.1] are all this machine to
some library. A host that ends in a number must be four plain decimals, letters beyond ASCII must be in their normal form, and an
IPv6 address must be one that the internet routes, without an IPv4 address inside it.
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from collections.abc import Sequence, Set
from dataclasses import dataclass
from urllib.parse import quote, urljoin, urlsplit

from hanok.guard.addresses import allowed

MOST = 2048  # characters of an address
PORTS = {"http": 80, "https": 443}

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
_NUMBER = re.compile(r"\d+|0x[0-9a-f]*")
_NOT_PUBLIC = tuple(
    map(
        ipaddress.ip_network,
        (
            "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
            "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15",
            "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/3",
            "168.63.129.16/32",  # a cloud's own service, reached from within its machines
            "2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20",
        ),
    )
)  # fmt: skip
_ROUTED = ipaddress.ip_network("2000::/3")
_ISATAP = (0x0000_5EFE, 0x0200_5EFE)


class Refused(Exception):  # noqa: N818 - a verdict
    """Why an address is not asked; for the log, not for whoever gave it."""


@dataclass(frozen=True, slots=True)
class Target:
    """`host`: in ASCII, lower case, an IPv6 address without brackets. `path`: with the query, percent-encoded."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.authority}{self.path}"


def target_of(url: str, *, hosts: Sequence[str] = (), ports: Set[int] = frozenset(PORTS.values())) -> Target:
    """Args: hosts: that may be asked, "example.com" or "*.example.com"; any if there are none.

    Raises:
        Refused: it is malformed, or not allowed.
    """
    if len(url) > MOST:
        raise Refused(f"an address of {len(url)} characters")
    if any(c.isspace() or c == "\\" or not c.isprintable() for c in url):
        raise Refused("blanks, backslashes or control characters in the address")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise Refused("a malformed address") from error
    if parts.scheme not in PORTS:
        raise Refused(f"scheme {parts.scheme[:20]!r}")
    if "@" in parts.netloc or "%" in parts.netloc:
        raise Refused("a name, a password or escapes before the path")
    if port is None and parts.netloc.endswith(":"):
        raise Refused("a port that is none")
    port = PORTS[parts.scheme] if port is None else port
    if port not in ports:
        raise Refused(f"port {port}")
    host = _host(parts.netloc, parts.hostname or "")
    if hosts and not allowed(host, hosts, str(port)):
        raise Refused(f"{host} is not on the list of hosts")
    path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
    query = f"?{quote(parts.query, safe=_QUERY)}" if parts.query else ""
    return Target(parts.scheme, host, port, path + query)


def next_target(
    old: Target, location: str, *, hosts: Sequence[str] = (), ports: Set[int] = frozenset(PORTS.values())
) -> Target:
    """Where a redirect leads, judged anew. Raises Refused; from https to http too."""
    try:
        new = target_of(urljoin(old.url, location), hosts=hosts, ports=ports)
    except ValueError as error:
        raise Refused("a malformed redirect") from error
    if old.scheme == "https" and new.scheme == "http":
        raise Refused("a redirect from https to http")
    return new


def why_not_public(address: IpAddress) -> str:
    """Empty where anybody on the internet can reach it under this address."""
    if address.version == 6:
        if address not in _ROUTED:
            return "not an address of the internet"
        if int(address) >> 32 & 0xFFFF_FFFF in _ISATAP:
            return "an IPv4 address within an IPv6 address"
    if not address.is_global or address.is_multicast or any(address in one for one in _NOT_PUBLIC):
        return "not a public address"
    return ""


_QUERY = "/?%:@!$&'()*+,;=~-._[]"


def _host(netloc: str, host: str) -> str:
    if netloc.startswith("["):
        try:
            return str(ipaddress.IPv6Address(host))
        except ValueError as error:
            raise Refused("a malformed IPv6 address") from error
    host = _ascii(host).removesuffix(".")
    labels = host.split(".")
    if len(host) > 253 or not all(map(_LABEL.fullmatch, labels)):
        raise Refused("a malformed host")
    if _NUMBER.fullmatch(labels[-1]):
        try:
            return str(ipaddress.IPv4Address(host))  # four decimals without leading zeros, nothing else
        except ValueError as error:
            raise Refused("a number in the place of a host") from error
    return host


def _ascii(host: str) -> str:
    """Punycode of a name in other letters that is in its normal form already (IDNA)."""
    if host.isascii():
        return host
    if unicodedata.normalize("NFKC", host) != host:
        raise Refused("letters that stand in for others in the host")
    try:
        coded = host.encode("idna")
        if coded.decode("idna") != host:
            raise Refused("letters that stand in for others in the host")
    except UnicodeError as error:
        raise Refused("a malformed host") from error
    return coded.decode("ascii")
