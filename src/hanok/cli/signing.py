"""`hanok model keygen`, `sign`, `verify-signature`: who published a model directory, and whether it is still the same."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from hanok.errors import ConfigError
from hanok.reporting import table

if TYPE_CHECKING:
    from hanok.artefacts.signing import Signed

Directory = Annotated[Path, tyro.conf.Positional]


def keygen(path: Annotated[Path, tyro.conf.Positional]) -> dict[str, Any]:
    """Make a key for signing, which only you may read, and its public half, which whoever uses your models needs.

    Args:
        path: file to make; the public half is beside it as .pub.
    """
    from hanok.artefacts.signing import make_key

    made = make_key(path)
    public = path.with_suffix(".pub")
    print(
        f"{path} signs, and stays with you; {public} goes to whoever checks, by another way than the models",
        file=sys.stderr,
    )
    return {"key": made.id, "private": str(path), "public": str(public)}


def sign(directory: Directory, key: Path, signature: Path | None = None) -> dict[str, Any]:
    """Sign every file of a directory as it is: a model, an adapter, a corpus. A signature that is there is replaced.

    Args:
        directory: a directory, or a run: then its servable model.
        key: file with the private key.
        signature: where to; default: model.sig in the directory.
    """
    from hanok.artefacts import open_artefact
    from hanok.artefacts.signing import load_private
    from hanok.artefacts.signing import sign as sign_directory

    place = _meant(directory)
    private = load_private(key)
    open_artefact(place)  # what was damaged since it was made is not signed
    done = sign_directory(place, private, signature=signature)
    return _told(f"{place} is signed", done)


def verify_signature(
    directory: Directory,
    key: Annotated[tuple[Path, ...], tyro.conf.UseAppendAction],
    signature: Path | None = None,
) -> dict[str, Any]:
    """Whether a directory is what was signed: no file changed, added or missing, no link, and a key that you trust.

    Args:
        directory: a directory, or a run: then its servable model.
        key: file with a public key; several times for several, any of which will do.
        signature: where it lies; default: model.sig in the directory.
    """
    from hanok.artefacts.signing import Trusted

    place, trusted = _meant(directory), Trusted.of(key)
    if trusted is None:
        raise ConfigError("no key", remedy="name the public key of whoever signed it: --key FILE")
    done = trusted.check(place, signature=signature)
    return _told(f"{place} is what was signed", done)


def _meant(directory: Path) -> Path:
    from hanok.recipes.runs import RUN_FILE, servable_model

    return servable_model(directory) if (directory / RUN_FILE).is_file() else directory


def _told(title: str, signed: Signed) -> dict[str, Any]:
    facts = {"key": signed.key_id, "name": signed.name, "digest": signed.digest, "files": signed.files}
    table(title, ("", ""), list(facts.items()))
    return facts
