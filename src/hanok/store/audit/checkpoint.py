"""What a log was at one moment, signed: a checkpoint in the form of C2SP's tlog-checkpoint inside a signed note.

    hanok-audit-3f...            origin: which log
    1000                         rows
    jZk...=                      root of their Merkle tree
    time 1763775600.125

    — hanok-audit-3f... Az3g...  Ed25519 over the lines above, with four bytes that name the key

Others can check it with any reader of signed notes, and a witness can sign it too.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from hanok.errors import InputError

_ED25519 = b"\x01"
_NOTE = re.compile(r"(?P<text>(?:[^\n]+\n){3,}?)\n(?P<signatures>(?:— [^\n ]+ [^\n ]+\n)+)")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    origin: str
    size: int
    root: bytes
    time: float

    def text(self) -> str:
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\ntime {self.time:.3f}\n"


@dataclass(frozen=True, slots=True)
class Verifier:
    """The public half of a signing key, and its name."""

    name: str
    public: bytes

    @property
    def key_id(self) -> bytes:
        return hashlib.sha256(self.name.encode() + b"\n" + _ED25519 + self.public).digest()[:4]

    def __str__(self) -> str:
        return f"{self.name}+{self.key_id.hex()}+{base64.b64encode(_ED25519 + self.public).decode()}"

    @classmethod
    def parse(cls, text: str) -> Verifier:
        """Raises InputError for what is no public key of a note."""
        try:
            name, key_id, key = text.strip().split("+", 2)
            raw = base64.b64decode(key, validate=True)
            verifier = cls(name, raw[1:])
            if raw[:1] != _ED25519 or len(raw) != 33 or verifier.key_id.hex() != key_id:
                raise ValueError(key_id)
        except (ValueError, binascii.Error) as error:
            raise InputError(
                f'"{text.strip()[:100]}" is no public key of an audit',
                remedy="give the line that `hanok audit keys` prints",
            ) from error
        return verifier

    def opened(self, note: str) -> Checkpoint:
        """What the note says. Raises InputError unless this key has signed it."""
        match = _NOTE.fullmatch(note)
        if match is None:
            raise InputError("this is no signed note")
        for line in match["signatures"].splitlines():
            _, name, packed = line.split(" ")
            try:
                raw = base64.b64decode(packed, validate=True)
            except binascii.Error:
                continue
            if name == self.name and raw[:4] == self.key_id:
                try:
                    Ed25519PublicKey.from_public_bytes(self.public).verify(raw[4:], match["text"].encode())
                except InvalidSignature as error:
                    raise InputError("the signature of a checkpoint is wrong") from error
                return _parse(match["text"])
        raise InputError(f"a checkpoint that {self.name} has not signed")


@dataclass(frozen=True, slots=True)
class Signer:
    name: str
    key: Ed25519PrivateKey

    @property
    def verifier(self) -> Verifier:
        return Verifier(self.name, self.key.public_key().public_bytes_raw())

    def sign(self, checkpoint: Checkpoint) -> str:
        text = checkpoint.text()
        signature = base64.b64encode(self.verifier.key_id + self.key.sign(text.encode())).decode()
        return f"{text}\n— {self.name} {signature}\n"


def notes_in(text: str) -> Iterator[str]:
    """One after another, with an empty line between; what is cut short at the end is left out."""
    for match in _NOTE.finditer(text):
        yield match[0].lstrip("\n")


def _parse(text: str) -> Checkpoint:
    lines = text.splitlines()
    try:
        time = next((float(line[5:]) for line in lines[3:] if line.startswith("time ")), 0.0)
        checkpoint = Checkpoint(lines[0], int(lines[1]), base64.b64decode(lines[2], validate=True), time)
        if checkpoint.size < 0 or len(checkpoint.root) != 32:
            raise ValueError(lines[1])
    except (ValueError, binascii.Error) as error:
        raise InputError("a signed note that is no checkpoint") from error
    return checkpoint
