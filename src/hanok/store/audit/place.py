"""Where an audit lies: its rows, the folder of its keys and checkpoints, and a second place for the checkpoints."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hanok.errors import ConfigError
from hanok.store.connection import Place, is_url

CHECKPOINTS = "checkpoints"


@dataclass(frozen=True, slots=True)
class AuditPlace:
    """Args: mirror: a file on another disk or machine that checkpoints are appended to as well."""

    log: Place
    folder: Path
    mirror: Path | None = None

    @property
    def notes(self) -> Path:
        return self.folder / CHECKPOINTS

    @property
    def exists(self) -> bool:
        """Whether there was an audit; of one in PostgreSQL the keys say so."""
        return self.folder.is_dir() and (is_url(self.log) or Path(self.log).exists())


def audit_place(store: Place, *, folder: Path | None = None, mirror: Path | None = None) -> AuditPlace:
    """Beside a store in a file; in a store in PostgreSQL, with its keys in `folder`.

    Raises:
        ConfigError: PostgreSQL without a folder.
    """
    if is_url(store):
        if folder is None:
            raise ConfigError(
                "an audit in PostgreSQL needs a folder for its keys and checkpoints",
                remedy="name one with --audit-dir (the same files for all servers), or --no-audit",
            )
        return AuditPlace(store, folder, mirror)
    path = Path(store)
    folder = folder or path.with_name(path.name + ".audit")
    return AuditPlace(folder / "log.sqlite", folder, mirror)
