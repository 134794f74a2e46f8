"""Where a request really comes from, when it comes through reverse proxies that we were told to trust.

Anybody may write X-Forwarded-For. A proxy appends the address that it saw, so the list is read from its end: as long as an
entry was written by a proxy that is trusted, the one before it is looked at; the first that is none of them is the client. From
anybody else both headers say nothing.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from starlette.types import Scope

from hanok.errors import ConfigError

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def parse_networks(words: Sequence[str]) -> tuple[Network, ...]:
    """Addresses or networks. Raises ConfigError."""
    try:
        return tuple(ipaddress.ip_network(word) for word in words)
    except ValueError as error:
        raise ConfigError(f"trusted_proxy: {error}", remedy="as 192.0.2.7 or 192.0.2.0/24") from error


def parse_address(text: str) -> Address | None:
    """An IPv4 address that is written as one of IPv6 is what it is. None for what is no address."""
    try:
        parsed = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(parsed, "ipv4_mapped", None) or parsed


def within(address: Address | None, networks: Sequence[Network]) -> bool:
    return address is not None and any(address in network for network in networks)


def look_through(scope: Scope, trusted: Sequence[Network]) -> None:
    """Puts the client's address and scheme in the place of the proxy's."""
    peer = scope["client"][0] if scope.get("client") else ""
    if not trusted or not within(parse_address(peer), trusted):
        return
    hops = _entries(scope, b"x-forwarded-for")
    if hops:
        client = _client(hops, trusted)
        scope["client"] = None if client is None else (str(client), 0)
    schemes = _entries(scope, b"x-forwarded-proto")
    if schemes and schemes[-1].lower() in ("http", "https"):
        scope["scheme"] = schemes[-1].lower()


def _client(hops: Sequence[str], trusted: Sequence[Network]) -> Address | None:
    """None if a trusted proxy did not say whom it saw ("unknown")."""
    found: Address | None = None
    for hop in reversed(hops):
        found = parse_address(_without_port(hop))
        if not within(found, trusted):
            break
    return found


def _entries(scope: Scope, name: bytes) -> list[str]:
    """Of a list that may be spread over several headers."""
    values = [value.decode("latin-1") for one, value in scope["headers"] if one.lower() == name]
    return [part.strip() for part in ",".join(values).split(",") if part.strip()]


def _without_port(text: str) -> str:
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0] if text.count(":") == 1 else text
