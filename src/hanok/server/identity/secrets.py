"""Secrets of the server and of its keys.

A key is `hk_<public id>_<secret>`: 256 random bits need no slow hash, so what is kept is HMAC-SHA-256 under the pepper
(2 microseconds, where argon2id would take a tenth of a second of every request). Without the pepper the table of keys
neither admits nor helps to guess.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from pathlib import Path

from hanok.artefacts.files import write_once
from hanok.errors import ConfigError

PREFIX = "hk"
_PUBLIC_BYTES, _SECRET_BYTES = 8, 32
_KEY = re.compile(rf"{PREFIX}_([0-9a-f]{{{2 * _PUBLIC_BYTES}}})_")


def new_key() -> tuple[str, str]:
    """Public id and the whole key."""
    public = secrets.token_hex(_PUBLIC_BYTES)
    return public, f"{PREFIX}_{public}_{secrets.token_urlsafe(_SECRET_BYTES)}"


def public_id(key: str) -> str | None:
    """None if it cannot be a key of ours."""
    found = _KEY.match(key)
    return found[1] if found is not None and len(key) <= 200 and key.isascii() else None


def key_digest(pepper: bytes, key: str) -> str:
    return hmac.digest(pepper, key.encode(), "sha256").hex()


def same(one: str, other: str) -> bool:
    """In a time that does not depend on where they differ."""
    return hmac.compare_digest(one.encode(), other.encode())


def token_digest(token: str) -> str:
    """Of a cookie: random, so no pepper is needed."""
    return hashlib.sha256(token.encode()).hexdigest()


def cache_salt(server_key: bytes, tenant: str, domain: str) -> str:
    """What the engine keeps a tenant's prefixes apart by. Nobody outside can name another's."""
    tenant_bytes = tenant.encode()
    message = len(tenant_bytes).to_bytes(4, "big") + tenant_bytes + domain.encode()
    return hmac.digest(server_key, message, "sha256").hex()


def pepper_file(store: Path | None) -> Path:
    """Beside a store in a file. Raises ConfigError for another."""
    if store is None:
        raise ConfigError(
            "keys in PostgreSQL need a pepper that all servers share",
            remedy="set HANOK_PEPPER to 32 or more random characters, as of `openssl rand -hex 32`",
        )
    return store.with_name(store.name + ".pepper")


def load_pepper(store: Path | None, environment: Mapping[str, str], *, create: bool) -> bytes:
    """HANOK_PEPPER, else the file beside the store, made where it is missing and may be.

    Raises:
        ConfigError: too short a pepper, a file that others may read, or none where there must be one.
    """
    given = environment.get("HANOK_PEPPER")
    if given is not None:
        if len(given) < 32:
            raise ConfigError(f"HANOK_PEPPER has {len(given)} characters", remedy="it must have 32 or more")
        return given.encode()
    path = pepper_file(store)
    if not path.exists() and create:
        write_once(path, secrets.token_hex(32) + "\n")
    try:
        mode, text = path.stat().st_mode & 0o777, path.read_text(encoding="ascii").strip()
    except OSError as error:
        raise ConfigError(
            f"the pepper {path} cannot be read ({error.strerror}), and without it no key can be checked",
            remedy="restore it from your backup, or set HANOK_PEPPER, or make new keys",
        ) from error
    if mode & 0o077:
        raise ConfigError(f"{path} has mode {mode:03o}: others may read it", remedy=f"chmod 600 {path}")
    if len(text) < 32:
        raise ConfigError(f"{path} has {len(text)} characters", remedy="restore it from your backup")
    return text.encode()
