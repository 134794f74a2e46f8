"""Proofs to be checked with the public key alone: that an entry is in the log, that a newer log begins with an older one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from hanok.errors import AuditError, InputError, NotFoundError
from hanok.store.audit.checkpoint import Verifier
from hanok.store.audit.merkle import consistency_path, extends, includes, inclusion_path, leaf_hash, root_of
from hanok.store.audit.reader import Reader

INCLUSION, CONSISTENCY = "hanok audit inclusion 1", "hanok audit consistency 1"


def prove_entry(reader: Reader, verifier: Verifier, sequence: int) -> dict[str, Any]:
    """With the newest checkpoint.

    Raises:
        NotFoundError: no such entry, or no checkpoint that has it. AuditError: the log is not what was signed.
    """
    row, note = reader.row(sequence), reader.newest_note()
    size = 0 if note is None else verifier.opened(note).size
    if note is None or size <= sequence:
        raise NotFoundError(
            f"entry {sequence} is in no checkpoint yet", remedy="`hanok audit checkpoint` signs one"
        )
    path = inclusion_path(_leaves(reader, size), sequence)
    proof = {
        "proof": INCLUSION, "sequence": sequence, "row": row, "path": [step.hex() for step in path], "checkpoint": note,
        "verifier": str(verifier),
    }  # fmt: skip
    check_proof(proof, verifier)
    return proof


def prove_growth(reader: Reader, verifier: Verifier, older: str) -> dict[str, Any]:
    """That the log of the newest checkpoint begins with the one of an older checkpoint."""
    first, note = verifier.opened(older), reader.newest_note()
    size = 0 if note is None else verifier.opened(note).size
    if note is None or size < first.size:
        raise AuditError(f"the log has a checkpoint of {size} rows, and the one given has {first.size}")
    leaves = _leaves(reader, size)
    if first.size and root_of(leaves[: first.size]) != first.root:
        raise AuditError(
            f"the first {first.size} entries are not those that the given checkpoint was signed for"
        )
    path = consistency_path(leaves, first.size) if first.size else []
    proof = {
        "proof": CONSISTENCY, "older": older, "checkpoint": note, "path": [step.hex() for step in path],
        "verifier": str(verifier),
    }  # fmt: skip
    check_proof(proof, verifier)
    return proof


def check_proof(proof: Mapping[str, Any], verifier: Verifier) -> dict[str, Any]:
    """What it shows. Needs nothing but the proof and the public key.

    Raises:
        InputError: it is no proof. AuditError: it does not show what it says.
    """
    try:
        kind, path = proof["proof"], [bytes.fromhex(step) for step in proof["path"]]
        new = verifier.opened(proof["checkpoint"])
        if kind == INCLUSION:
            sequence, row = int(proof["sequence"]), str(proof["row"])
            holds = includes(row.encode(), sequence, size=new.size, root=new.root, path=path)
            if not holds or json.loads(row)["sequence"] != sequence:
                raise AuditError(f"the entry is not number {sequence} of the log of {verifier.name}")
            return {"holds": True, "sequence": sequence, "size": new.size, "entry": json.loads(row)}
        if kind != CONSISTENCY:
            raise InputError(f'a proof of the kind "{kind}"')
        old = verifier.opened(proof["older"])
        if old.size and not extends(old.size, old.root, new.size, new.root, path):
            raise AuditError(f"the log of {new.size} entries does not begin with that of {old.size}")
        return {"holds": True, "older": old.size, "size": new.size}
    except (KeyError, ValueError, TypeError) as error:
        raise InputError("this is no proof from an audit", remedy="`hanok audit prove` makes them") from error
    except InputError as error:
        raise AuditError(error.message) from error


def _leaves(reader: Reader, size: int) -> list[bytes]:
    return [leaf_hash(found.row.encode()) for piece in reader.pieces(size) for found in piece]
