"""`hanok audit`: works on the log itself, whether a server runs or not, and on a copy of it anywhere."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from hanok.errors import AuditError, ConfigError, InputError
from hanok.reporting import table

if TYPE_CHECKING:
    from hanok.store.audit.checkpoint import Verifier
    from hanok.store.audit.place import AuditPlace

Files = Annotated[tuple[Path, ...], tyro.conf.UseAppendAction]


def verify(
    proof: Path | None = None, checkpoint: Files = (), key: Path | None = None, audit_dir: Path | None = None,
    store: str | None = None, served: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Look at every row of the log, every link and checkpoint; exit code 1 if something is not what was written.

    Args:
        proof: check this file from `hanok audit prove` instead; it needs the public key and nothing else.
        checkpoint: a copy of the checkpoints that was kept elsewhere (the file of --audit-mirror); several times for several.
        key: file with the public key, kept elsewhere; default: the one in the audit's folder, which proves less.
        audit_dir: folder of the audit; default: beside the store.
        store: the database, a file or postgresql://USER@HOST/NAME; default: that of the served model.
        served: the model or run whose audit is meant; default runs/quickstart.
    """
    from hanok.store.audit.keys import load_verifier
    from hanok.store.audit.proofs import check_proof
    from hanok.store.audit.reader import Reader
    from hanok.store.audit.verify import verify as look

    if proof is not None:
        known = load_verifier(key or place_of_audit(audit_dir, store, served).folder)
        shown = check_proof(_json(proof), known)
        table(f"{proof} holds", ("", ""), [[name, str(value)] for name, value in shown.items()])
        return shown
    place = place_of_audit(audit_dir, store, served)
    outside = [path for path in (place.notes, *_mirrors(checkpoint)) if path.exists() or path in checkpoint]
    with Reader(place) as reader:
        report = look(reader, load_verifier(key or place.folder), outside=outside).plain()
    rows = [[name.replace("_", " "), str(value)] for name, value in report.items() if value is not None]
    table("audit", ("", ""), rows)
    if not report["ok"]:
        where = "" if report["first_bad"] is None else f"from entry {report['first_bad']} on: "
        raise AuditError(
            f"the audit cannot be believed {where}{report['problem']}",
            remedy="keep this copy as it is, and compare it with a backup",
            report=report,
        )
    if not _mirrors(checkpoint):
        print(
            "no checkpoints from elsewhere were compared: a history that was written anew with the key of this machine "
            "would not show (--checkpoint)",
            file=sys.stderr,
        )  # fmt: skip
    return report


def prove(
    entry: int | None = None, since: Path | None = None, out: Path | None = None, audit_dir: Path | None = None,
    store: str | None = None, served: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Prove that an entry is in the log, or that the log still begins with what an older checkpoint was signed for.

    Args:
        entry: sequence number.
        since: file with the older checkpoint (its first, if there are several).
        out: file for the proof; default: standard output.
        audit_dir: folder of the audit; default: beside the store.
        store: the database, a file or postgresql://USER@HOST/NAME; default: that of the served model.
        served: the model or run whose audit is meant; default runs/quickstart.
    """
    from hanok.store.audit.checkpoint import notes_in
    from hanok.store.audit.proofs import prove_entry, prove_growth
    from hanok.store.audit.reader import Reader

    place = place_of_audit(audit_dir, store, served)
    if (entry is None) == (since is None):
        raise InputError("what is to be proved?", remedy="give --entry or --since")
    with Reader(place) as reader:
        if entry is not None:
            proof = prove_entry(reader, _own(place), entry)
        else:
            assert since is not None
            older = next(notes_in(_text(since)), None)
            if older is None:
                raise InputError(f"{since} has no checkpoint")
            proof = prove_growth(reader, _own(place), older)
    if out is None:
        print(json.dumps(proof, indent=1))
    else:
        out.write_text(json.dumps(proof, indent=1) + "\n", encoding="utf-8")
        print(f"{out}: check it with `hanok audit verify --proof {out} --key FILE`", file=sys.stderr)
    return proof


def export(
    out: Path | None = None, content: bool = False, start: int = 0, audit_dir: Path | None = None, store: str | None = None,
    served: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Entries as JSON lines.

    Args:
        out: file; default: standard output.
        content: open what is sealed, with the master key of the audit's folder. Exporting content is an entry of the audit.
        start: first sequence number.
        audit_dir: folder of the audit; default: beside the store.
        store: the database, a file or postgresql://USER@HOST/NAME; default: that of the served model.
        served: the model or run whose audit is meant; default runs/quickstart.
    """
    from hanok.store.audit.entry import Entry
    from hanok.store.audit.export import export as write
    from hanok.store.audit.keys import load_master
    from hanok.store.audit.log import AuditLog
    from hanok.store.audit.reader import Reader
    from hanok.store.audit.sealing import Vault

    place = place_of_audit(audit_dir, store, served)
    with Reader(place) as reader:
        vault = None
        if content:
            vault = Vault(load_master(place.folder), _own(place).name)
            with AuditLog(place) as log:
                log.append(
                    Entry(kind="audit.exported", actor=me(), facts={"content": True, "start": start})
                ).result()
        if out is None:
            return {"entries": write(reader, sys.stdout, vault=vault, start=start)}
        descriptor = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            count = write(reader, file, vault=vault, start=start)
    print(f"{count} entries in {out}", file=sys.stderr)
    return {"entries": count}


def checkpoint(
    mirror: Path | None = None,
    audit_dir: Path | None = None,
    store: str | None = None,
    served: Path | None = None,
) -> dict[str, Any]:
    """Sign what is in the log now; a running server does so by itself.

    Args:
        mirror: file that it is appended to as well.
        audit_dir: folder of the audit; default: beside the store.
        store: the database, a file or postgresql://USER@HOST/NAME; default: that of the served model.
        served: the model or run whose audit is meant; default runs/quickstart.
    """
    from dataclasses import replace

    from hanok.store.audit.log import AuditLog

    place = existing_place(audit_dir, store, served)
    with AuditLog(replace(place, mirror=mirror or place.mirror)) as log:
        note = log.checkpoint().result()
    print(note, end="")
    return {"checkpoint": note}


def forget(
    subject: Annotated[str, tyro.conf.Positional] = "", tenant: str = "default", yes: bool = False,
    audit_dir: Path | None = None, store: str | None = None, served: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Destroy the keys of what was kept of somebody who was deleted. `users delete` and `tenants delete` do so by themselves;
    this catches up where the audit could not be written then. May be repeated.

    Args:
        subject: id of the person or the key; none: all of the tenant.
        tenant: that they belonged to.
        yes: do it: nothing brings the content back, and no content of them is kept any more.
        audit_dir: folder of the audit; default: beside the store.
        store: the database, a file or postgresql://USER@HOST/NAME; default: that of the served model.
        served: the model or run whose audit is meant; default runs/quickstart.
    """
    from hanok.server.auditing.trail import Trail

    if not subject and tenant == "default":
        raise ConfigError(
            "all of the house's own tenant cannot be forgotten", remedy="name whom, or a --tenant"
        )
    if not yes:
        raise ConfigError(f'forgetting "{subject or tenant}" cannot be undone', remedy="add --yes")
    found = Trail(existing_place(audit_dir, store, served)).forget(tenant, subject or None)
    print(f"{found['audit_keys']} keys are destroyed", file=sys.stderr)
    return {"tenant": tenant, "subject": subject or None, **found}


def keys(
    audit_dir: Path | None = None, store: str | None = None, served: Path | None = None
) -> dict[str, Any]:
    """Where the keys of the log lie, and the line that others check it with.

    Args:
        audit_dir: folder of the audit; default: beside the store.
        store: the database, a file or postgresql://USER@HOST/NAME; default: that of the served model.
        served: the model or run whose audit is meant; default runs/quickstart.
    """
    from hanok.store.audit.keys import MASTER, SIGNING, VERIFIER
    from hanok.store.audit.reader import Reader
    from hanok.store.audit.writer import live_subjects

    place = existing_place(audit_dir, store, served)
    verifier = _own(place)
    with Reader(place) as reader, reader.connection() as connection:
        living, destroyed = live_subjects(connection)
    found = {
        "origin": verifier.name, "public_key": str(verifier), "subjects": living, "subjects_forgotten": destroyed,
        "files": {name: str(place.folder / name) for name in (SIGNING, VERIFIER, MASTER) if (place.folder / name).exists()},
    }  # fmt: skip
    table(
        "audit",
        ("", ""),
        [[name.replace("_", " "), str(value)] for name, value in found.items() if name != "files"],
    )
    return found


# ---- where --------------------------------------------------------------------------------------------------------------


def place_of_audit(audit_dir: Path | None, store: str | None, served: Path | None) -> AuditPlace:
    from hanok.cli.places import store_place
    from hanok.store.audit.known import recorded_place
    from hanok.store.audit.place import AuditPlace, audit_place
    from hanok.store.connection import is_url
    from hanok.store.database import Store

    audit_dir = audit_dir or (
        Path(os.environ["HANOK_SERVE_AUDIT_DIR"]) if "HANOK_SERVE_AUDIT_DIR" in os.environ else None
    )
    if audit_dir is not None and not (store or os.environ.get("HANOK_STORE") or served):
        return AuditPlace(audit_dir / "log.sqlite", audit_dir)
    found = store_place(store, served)
    if audit_dir is None and (is_url(found) or Path(found).exists()):
        with Store(found) as opened:
            recorded = recorded_place(opened)
        if recorded is not None:
            return recorded
    return audit_place(found, folder=audit_dir)


def existing_place(audit_dir: Path | None, store: str | None, served: Path | None) -> AuditPlace:
    place = place_of_audit(audit_dir, store, served)
    if not place.exists:
        raise InputError(f"there is no audit in {place.folder}", remedy="`hanok serve` begins one")
    return place


def _own(place: AuditPlace) -> Verifier:
    from hanok.store.audit.keys import load_verifier

    return load_verifier(place.folder)


def _mirrors(given: tuple[Path, ...]) -> tuple[Path, ...]:
    """Those given, and the one of the server's settings."""
    own = os.environ.get("HANOK_SERVE_AUDIT_MIRROR")
    return (*given, Path(own)) if own and Path(own) not in given else given


def me() -> str:
    import getpass

    return f"command line: {getpass.getuser()}"


def _json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(_text(path)))
    except (ValueError, TypeError) as error:
        raise InputError(f"{path} is no proof", remedy="`hanok audit prove` makes them") from error


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({error})") from error
