"""One line of the audit, and the bytes that its hashes are taken of.

A row is canonical JSON: keys sorted, no blanks, ASCII alone (so that any text, lone surrogates too, has one form). It holds the
hash of the row before it, and of its sealed content, never the content:

    row hash  = SHA-256("hanok audit row 1\\n" || row)
    previous  = the row hash before; of row 0 SHA-256("hanok audit origin 1\\n" || origin)
    sealed    = SHA-256("hanok audit content 1\\n" || nonce || ciphertext)

The Merkle tree's leaves are of the same bytes (`merkle.py`), in a domain of their own.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hanok.errors import ConfigError

HASH_BYTES = 32
_KIND = re.compile(r"[a-z]+(\.[a-z_]+)*")
# what the audit says of itself
FORGOTTEN, EXPIRED, LOST = "audit.subject_forgotten", "audit.content_expired", "audit.entries_lost"

CONTENT_LEFT_OUT = "content_left_out"  # a fact of an entry whose content there was no room for


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """Args:
    kind: as "request" or "key.revoke". actor: public id of who did it. target: id of what it was done to.
    request: id of the HTTP request that it belongs to.
    facts: numbers and names that may be read for ever, so no personal data: those go into `content`.
    content: what is sealed under the key of `subject` (by default the actor), and can be forgotten.
    time: seconds of the Unix epoch; 0: when it is written.
    """

    kind: str
    actor: str = ""
    tenant: str = "default"
    target: str = ""
    request: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    content: Mapping[str, Any] | None = None
    subject: str = ""
    time: float = 0.0

    def __post_init__(self) -> None:
        if not _KIND.fullmatch(self.kind) or len(self.kind) > 64:
            raise ConfigError(f'an entry of the kind "{self.kind[:80]}"', remedy='as "key.create"')
        for name in ("actor", "tenant", "target", "request", "subject"):
            value = getattr(self, name)
            if len(value) > 400 or not value.isprintable():  # databases have no NUL and no lone surrogates
                raise ConfigError(
                    f"{name} of an entry is {value[:80]!r}", remedy="400 printable letters at most"
                )

    @property
    def whose(self) -> str:
        return self.subject or self.actor


def canonical(value: Mapping[str, Any]) -> bytes:
    """Raises ValueError or TypeError for what JSON has no form for (NaN, objects)."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    ).encode()


def weigh(content: Any) -> int:
    """Bytes in memory, about: what can be long is counted exactly."""
    if isinstance(content, Mapping):
        return sum(weigh(key) + weigh(value) for key, value in content.items())
    if isinstance(content, (list, tuple)):
        return sum(map(weigh, content))
    return sys.getsizeof(content)


def row_of(
    entry: Entry, *, sequence: int, time: float, previous: bytes, subject: str, sealed: bytes | None
) -> bytes:
    """Args: subject: the public name of the key that the content is sealed with; "" where there is none."""
    return canonical(
        {
            "sequence": sequence, "time": round(time, 3), "kind": entry.kind, "actor": entry.actor, "tenant": entry.tenant,
            "target": entry.target, "request": entry.request, "facts": entry.facts, "subject": subject,
            "sealed": None if sealed is None else sealed.hex(), "previous": previous.hex(),
        }
    )  # fmt: skip


def row_hash(row: bytes) -> bytes:
    return hashlib.sha256(b"hanok audit row 1\n" + row).digest()


def origin_hash(origin: str) -> bytes:
    """What row 0 names as the hash before it."""
    return hashlib.sha256(b"hanok audit origin 1\n" + origin.encode()).digest()


def sealed_hash(nonce: bytes, ciphertext: bytes) -> bytes:
    return hashlib.sha256(b"hanok audit content 1\n" + nonce + ciphertext).digest()
