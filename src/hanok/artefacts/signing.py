"""Signatures of directories: whose they are, and whether every file is still what was signed.

`model.sig` is a Sigstore bundle as OpenSSF Model Signing 1.0 writes it: an in-toto statement with the SHA-256 of every file, in
a DSSE envelope. The key is Ed25519, in PEM files as `openssl genpkey -algorithm ed25519` makes them. Logs are signed like all
other files. Links are neither signed nor followed: what they lead to may change without the directory.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from hanok.artefacts.files import sha256_file, write_json, write_once
from hanok.errors import ArtefactError, ConfigError, SignatureError

SIGNATURE = "model.sig"
_BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_PAYLOAD, _STATEMENT = "application/vnd.in-toto+json", "https://in-toto.io/Statement/v1"
_PREDICATE = "https://model_signing/signature/v1.0"
_SERIALIZATION = {
    "method": "files",
    "hash_type": "sha256",
    "allow_symlinks": False,
    "ignore_paths": [SIGNATURE],
}
_NAMED = 5  # files that a message names of each kind
_SETTLED = 2.0  # seconds since files were written after which their times tell the next change apart
_Stamps = tuple[tuple[str, int, int, int], ...]
"""Name, size, time of the last change in nanoseconds, and inode of all files of a directory."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """Of whoever signs. `id`: SHA-256 of its PEM form, which bundles name it by."""

    key: Ed25519PublicKey

    @property
    def pem(self) -> bytes:
        return self.key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    @property
    def id(self) -> str:
        return hashlib.sha256(self.pem).hexdigest()


@dataclass(frozen=True, slots=True)
class Signed:
    """A directory that is what this key has signed. `name`: that it had then. `digest`: of all files together."""

    key_id: str
    name: str
    digest: str
    files: int


@dataclass(frozen=True, slots=True)
class Trusted:
    """Keys by one of which whatever is opened must be signed. Several readers may share one.

    What was refused is not hashed again as long as its files have the same sizes, times and inodes; what is to be loaded is
    hashed each time.
    """

    keys: tuple[PublicKey, ...]
    _refused: dict[tuple[Path, Path], tuple[_Stamps, str, str]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @classmethod
    def of(cls, files: Sequence[Path]) -> Trusted | None:
        """None of no files: nothing has to be signed. Raises ConfigError: one holds no public key."""
        return cls(tuple(map(load_public, files))) if files else None

    def check(self, directory: Path, *, signature: Path | None = None) -> Signed:
        """Args: signature: where it lies, if not in the directory.

        Raises:
            SignatureError: unsigned, signed by another key, or not what was signed, with the names of the files.
            ArtefactError: no directory.
        """
        if not directory.is_dir():
            raise ArtefactError(f"no directory at {directory}", remedy="check the path")
        place = signature or directory / SIGNATURE
        stamps = _stamps(directory, place)
        self._refuse_again(directory, place, stamps)
        began = time.time()
        try:
            return self._checked(directory, place)
        except SignatureError as error:
            if all(changed / 1e9 < began - _SETTLED for _name, _size, changed, _inode in stamps):
                self._refused[directory.absolute(), place.absolute()] = (stamps, error.why, error.remedy)
            raise

    def check_all(self, directories: Sequence[Path]) -> list[Signed]:
        """As `check` each; where one was refused before and is as it was then, none is hashed."""
        for directory in directories:
            if directory.is_dir():
                place = directory / SIGNATURE
                self._refuse_again(directory, place, _stamps(directory, place))
        return [self.check(directory) for directory in directories]

    def _refuse_again(self, directory: Path, place: Path, stamps: _Stamps) -> None:
        """Raises SignatureError for what was refused as it is."""
        before = self._refused.get((directory.absolute(), place.absolute()))
        if before is not None and before[0] == stamps:
            raise SignatureError(directory, before[1], remedy=before[2])

    def _checked(self, directory: Path, place: Path) -> Signed:
        key, payload = self._opened(_bundle(place, directory), directory)
        name, digest, expected = _resources(payload, directory)
        problems = _differences(directory, expected)
        if problems:
            raise SignatureError(
                directory,
                f"is not what key {key.id[:16]} signed: {'; '.join(problems)}",
                remedy="get it anew from who signed it, or have it signed again if the change is theirs",
            )
        return Signed(key.id, name, digest, len(expected))

    def _opened(self, bundle: Mapping[str, Any], directory: Path) -> tuple[PublicKey, bytes]:
        """The key that has signed, and what."""
        try:
            envelope = bundle["dsseEnvelope"]
            kind, payload = envelope["payloadType"], base64.b64decode(envelope["payload"], validate=True)
            marks = [base64.b64decode(one["sig"], validate=True) for one in envelope["signatures"]]
            named = (
                str(bundle["verificationMaterial"].get("publicKey", {}).get("hint", "")) or "without a name"
            )
        except (LookupError, TypeError, AttributeError, ValueError, binascii.Error) as error:
            raise _unreadable(directory, error) from error
        if kind != _PAYLOAD:
            raise _unreadable(directory, ValueError(f"payload {kind!r}"))
        for key in self.keys:
            if any(_verifies(key, mark, payload) for mark in marks):
                return key, payload
        trusted = ", ".join(key.id[:16] for key in self.keys)
        raise SignatureError(
            directory,
            f"is signed by key {named[:16]}, which is not trusted here, or its signature was changed",
            remedy=f"trusted is {trusted}: get the public key of who signed it from them, not from where the model came from",
        )


def make_key(path: Path) -> PublicKey:
    """A new private key at `path`, which only its owner may read, and its public half beside it as `.pub`.

    Raises:
        ConfigError: one of them is there already.
    """
    public = path.with_suffix(".pub")
    for file in (path, public):
        if file.exists() or path == public:
            raise ConfigError(
                f"{file} is there already", remedy="choose another name: a key is never written over"
            )
    path.parent.mkdir(parents=True, exist_ok=True)
    key = Ed25519PrivateKey.generate()
    write_once(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode("ascii"))
    made = PublicKey(key.public_key())
    write_once(public, made.pem.decode("ascii"), mode=0o644)
    return made


def load_private(path: Path) -> Ed25519PrivateKey:
    """Raises ConfigError: no such key, or others may read it."""
    text = _key_file(path)
    if path.stat().st_mode & 0o077:
        raise ConfigError(f"others may read {path}", remedy=f"chmod 600 {path}")
    try:
        key = load_pem_private_key(text, None)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{path} holds no private key without a passphrase", remedy=_KEYS) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"{path} holds another kind of key than Ed25519", remedy=_KEYS)
    return key


def load_public(path: Path) -> PublicKey:
    """Raises ConfigError: no such key."""
    text = _key_file(path)
    if b"PRIVATE KEY" in text:
        raise ConfigError(f"{path} holds a private key", remedy="give the public one, the .pub file")
    try:
        key = load_pem_public_key(text)
    except ValueError as error:
        raise ConfigError(f"{path} holds no public key", remedy=_KEYS) from error
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigError(f"{path} holds another kind of key than Ed25519", remedy=_KEYS)
    return PublicKey(key)


def sign(directory: Path, key: Ed25519PrivateKey, *, signature: Path | None = None) -> Signed:
    """Write the signature of all files as they are; one that is there already is replaced.

    Args:
        signature: where to, if not into the directory.

    Raises:
        SignatureError: there are links, or nothing to sign. ConfigError: another name than `model.sig` in the directory itself.
    """
    inside = directory.resolve()
    if (
        signature is not None
        and signature.resolve() != inside / SIGNATURE
        and inside in signature.resolve().parents
    ):
        raise ConfigError(
            f"{signature} lies in what it signs", remedy=f"leave --signature out: it is {SIGNATURE} then"
        )
    digests, links = _present(directory)
    if links or not digests:
        what = f"holds links: {_listed(links)}" if links else "holds no files"
        raise SignatureError(
            directory, what, remedy="sign a directory of plain files (cp -rL makes one of links)"
        )
    public, name = PublicKey(key.public_key()), directory.resolve().name
    statement = {
        "_type": _STATEMENT, "subject": [{"name": name, "digest": {"sha256": _together(digests)}}],
        "predicateType": _PREDICATE,
        "predicate": {
            "serialization": _SERIALIZATION,
            "resources": [{"name": one, "algorithm": "sha256", "digest": digests[one]} for one in sorted(digests)],
        },
    }  # fmt: skip
    payload = json.dumps(statement).encode("ascii")
    envelope = {
        "payload": base64.b64encode(payload).decode(), "payloadType": _PAYLOAD,
        "signatures": [{"sig": base64.b64encode(key.sign(_authenticated(payload))).decode(), "keyid": ""}],
    }  # fmt: skip
    material = {"publicKey": {"hint": public.id}, "tlogEntries": []}
    write_json(
        signature or directory / SIGNATURE,
        {"mediaType": _BUNDLE, "verificationMaterial": material, "dsseEnvelope": envelope},
    )
    return Signed(public.id, name, _together(digests), len(digests))


_KEYS = "`hanok model keygen` makes a pair"


def _key_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror})", remedy=_KEYS) from error


def _bundle(place: Path, directory: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(place.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SignatureError(
            directory,
            f"is not signed: there is no {place.name}",
            remedy="get its signature from who made it; `hanok model sign` signs what you made yourself",
        ) from error
    except (OSError, ValueError) as error:
        raise _unreadable(directory, error) from error
    if not isinstance(found, dict):
        raise _unreadable(directory, ValueError("no object"))
    return found


def _unreadable(directory: Path, why: Exception) -> SignatureError:
    return SignatureError(
        directory,
        f"has a signature that cannot be read ({why})",
        remedy="get it anew from who signed the model",
    )


def _verifies(key: PublicKey, mark: bytes, payload: bytes) -> bool:
    try:
        key.key.verify(mark, _authenticated(payload))
    except InvalidSignature:
        return False
    return True


def _authenticated(payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding."""
    return b"DSSEv1 %d %b %d %b" % (len(_PAYLOAD), _PAYLOAD.encode(), len(payload), payload)


def _resources(payload: bytes, directory: Path) -> tuple[str, str, dict[str, str]]:
    """Name, digest of all, and file name to hash. Who signed says so; it must still be a list of files in this directory."""
    try:
        statement = json.loads(payload)
        subject, predicate = statement["subject"][0], statement["predicate"]
        kinds = (statement["_type"], statement["predicateType"])
        how = {
            name: predicate["serialization"].get(name) for name in ("method", "hash_type", "allow_symlinks")
        }
        found = {str(one["name"]): str(one["digest"]) for one in predicate["resources"]}
        name, together = str(subject["name"]), _together(found)
        problems = {
            f"a statement about {kinds[1]}": kinds != (_STATEMENT, _PREDICATE),
            f"files listed in another way: {how}": how != {name: _SERIALIZATION[name] for name in how},
            "names outside of the directory": any(_outside(name) for name in found),
            "a sum that is wrong": together != subject["digest"]["sha256"],
        }
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise _unreadable(directory, error) from error
    wrong = next((words for words, holds in problems.items() if holds), None)
    if wrong is not None:
        raise _unreadable(directory, ValueError(wrong))
    return name, together, found


def _outside(name: str) -> bool:
    return PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts


def _differences(directory: Path, expected: Mapping[str, str]) -> list[str]:
    """What is not as it was signed, in words: every file that was changed, added or taken away, and every link."""
    present, links = _present(directory)
    kinds = {
        "changed": [name for name in present if name in expected and present[name] != expected[name]],
        "added": [name for name in present if name not in expected],
        "missing": [name for name in expected if name not in present and name not in links],
        "a link": links,
    }
    return [f"{kind}: {_listed(names)}" for kind, names in kinds.items() if names]


def _present(directory: Path) -> tuple[dict[str, str], list[str]]:
    """Hashes of the plain files but the signature, by name; and the names of what is neither file nor folder."""
    digests: dict[str, str] = {}
    links: list[str] = []
    for name, path in _walk(directory):
        if path.is_symlink() or not path.is_file():
            links.append(name)
        elif name != SIGNATURE:
            digests[name] = sha256_file(path)
    return dict(sorted(digests.items())), sorted(links)


def _stamps(directory: Path, place: Path) -> _Stamps:
    """Of all that a verdict depends on; what is gone meanwhile has none."""
    found: list[tuple[str, int, int, int]] = []
    for name, path in [*_walk(directory), ("", place)]:
        with contextlib.suppress(OSError):
            facts = path.lstat()
            found.append((name, facts.st_size, facts.st_mtime_ns, facts.st_ino))
    return tuple(sorted(found))


def _walk(directory: Path) -> Iterator[tuple[str, Path]]:
    """Everything but folders; links to folders are not followed."""
    for folder, folders, files in os.walk(directory):
        linked = [name for name in folders if (Path(folder) / name).is_symlink()]
        for name in (*files, *linked):
            path = Path(folder) / name
            yield path.relative_to(directory).as_posix(), path


def _together(digests: Mapping[str, str]) -> str:
    """Of all hashes in the order of the names."""
    return hashlib.sha256(b"".join(bytes.fromhex(digests[name]) for name in sorted(digests))).hexdigest()


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_NAMED])
    return shown + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
