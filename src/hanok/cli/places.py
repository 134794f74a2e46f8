"""Which database a command means: `--store`, else HANOK_STORE, else the one of the model that is served."""

from __future__ import annotations

import os
from pathlib import Path

from hanok.errors import ConfigError
from hanok.store.audit.known import place_of, recorded_place
from hanok.store.audit.place import AuditPlace
from hanok.store.connection import Place
from hanok.store.database import Store, feedback_file


def store_place(store: str | None, model: Path | None = None) -> Place:
    """A file, or a URL."""
    named = store or os.environ.get("HANOK_STORE")
    if named:
        return named if "://" in named else Path(named)
    from hanok.recipes.runs import servable_model

    return feedback_file(servable_model(model or Path("runs/quickstart")))


def open_store(store: str | None, model: Path | None) -> Store:
    return Store(store_place(store, model))


def audit_of(store: Store, audit_dir: Path | None = None) -> AuditPlace | None:
    """The audit that the servers of this store keep: the one named, else HANOK_SERVE_AUDIT_DIR, else where a server wrote down
    that it is, else beside the store. None if they keep none.

    Raises:
        ConfigError: it is not where it is said to be.
    """
    named = audit_dir
    if named is None and "HANOK_SERVE_AUDIT_DIR" in os.environ:
        named = Path(os.environ["HANOK_SERVE_AUDIT_DIR"])
    recorded = recorded_place(store) if audit_dir is None else None
    if named is None and recorded is None and store.path is None:
        return None
    audit = recorded if named is None and recorded is not None else place_of(store, named)
    try:
        if audit.exists:
            return audit
        why = "there is none"
    except OSError as error:
        why = error.strerror
    if audit_dir is None and recorded is None:  # no server has begun one yet
        return None
    raise ConfigError(
        f"nothing may be changed: the audit of {store.name} is to be in {audit.folder}, and cannot be opened ({why})",
        remedy="put it back, name its folder with --audit-dir, or start a server on this store, which begins one",
    )
