"""The keys of an audit, in files that only their owner may read, made when they are first needed.

`signing.key` signs checkpoints, `verifier.key` is its public half, `master.key` wraps the keys that content is sealed with. Who
has the first can write a false history, who has the last can read content: on a machine of its own, `verifier.key` and a
copy of the checkpoints are all that is needed to find out.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from hanok.artefacts.files import write_once
from hanok.errors import ConfigError
from hanok.store.audit.checkpoint import Signer, Verifier

SIGNING, VERIFIER, MASTER = "signing.key", "verifier.key", "master.key"
_HEAD = "HANOK-AUDIT-KEY"


@dataclass(frozen=True, slots=True)
class AuditKeys:
    signer: Signer
    master: bytes


def load_or_make(folder: Path) -> AuditKeys:
    """Raises ConfigError for a file that others may read, or that holds no key."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    name = f"hanok-audit-{secrets.token_hex(8)}"
    seed = base64.b64encode(Ed25519PrivateKey.generate().private_bytes_raw()).decode()
    write_once(folder / SIGNING, f"{_HEAD} {name} {seed}\n")
    write_once(folder / MASTER, base64.b64encode(secrets.token_bytes(32)).decode() + "\n")
    signer = load_signer(folder)
    if not (folder / VERIFIER).exists():
        write_once(folder / VERIFIER, f"{signer.verifier}\n", mode=0o644)
    return AuditKeys(signer, load_master(folder))


def load_signer(folder: Path) -> Signer:
    words = _read(folder / SIGNING).split()
    if len(words) != 3 or words[0] != _HEAD:
        raise ConfigError(f"{folder / SIGNING} holds no signing key", remedy="restore it from your backup")
    return Signer(words[1], Ed25519PrivateKey.from_private_bytes(_decoded(words[2], folder / SIGNING)))


def load_master(folder: Path) -> bytes:
    return _decoded(_read(folder / MASTER).strip(), folder / MASTER)


def load_verifier(place: Path) -> Verifier:
    """Of an audit's folder, or of a file with its line."""
    path = place / VERIFIER if place.is_dir() else place
    try:
        return Verifier.parse(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path} cannot be read ({error})", remedy="name the file that `hanok audit keys` speaks of"
        ) from error


def _read(path: Path) -> str:
    try:
        mode, text = path.stat().st_mode & 0o777, path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read ({error})", remedy="restore it from your backup") from error
    if mode & 0o077:
        raise ConfigError(f"{path} has mode {mode:03o}: others may read it", remedy=f"chmod 600 {path}")
    return text


def _decoded(text: str, path: Path) -> bytes:
    try:
        key = base64.b64decode(text, validate=True)
    except binascii.Error:
        key = b""
    if len(key) != 32:
        raise ConfigError(f"{path} holds no key of 32 bytes", remedy="restore it from your backup")
    return key
