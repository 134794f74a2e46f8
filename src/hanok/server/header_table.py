"""The headers of a request as a table, made once for all who look at them."""

from __future__ import annotations

from collections.abc import Collection

from starlette.types import Scope

from hanok.server.errors import ApiError

_KEY = "hanok.headers"  # of the scope


def headers_of(scope: Scope, *, once: Collection[bytes] = ()) -> dict[bytes, str]:
    """By name in small letters; of one that comes several times the last.

    Args:
        once: those that decide who may come in.

    Raises:
        ApiError: 400, one of these comes twice.
    """
    if _KEY in scope:
        return scope[_KEY]
    found: dict[bytes, str] = {}
    for raw, value in scope["headers"]:
        name = raw.lower()
        if name in found and name in once:
            raise ApiError(400, f"the header {name.decode()} comes twice", code="duplicate_header")
        found[name] = value.decode("latin-1")
    scope[_KEY] = found
    return found
