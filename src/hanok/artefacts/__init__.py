"""The courtyard: directories with hashes, lineage and atomic appearance. Below everything."""

from hanok.artefacts.directory import (
    MANIFEST,
    Artefact,
    Draft,
    create_artefact,
    open_artefact,
    remove_orphans,
)
from hanok.artefacts.files import (
    append_jsonl,
    fsync_dir,
    fsync_file,
    read_jsonl,
    sha256_file,
    sole_user,
    write_atomic,
    write_json,
    write_jsonl,
)
from hanok.artefacts.withdrawn import Withdrawal, readmit, withdraw, withdrawal

__all__ = [
    "MANIFEST",
    "Artefact",
    "Draft",
    "Withdrawal",
    "append_jsonl",
    "create_artefact",
    "fsync_dir",
    "fsync_file",
    "open_artefact",
    "read_jsonl",
    "readmit",
    "remove_orphans",
    "sha256_file",
    "sole_user",
    "withdraw",
    "withdrawal",
    "write_atomic",
    "write_json",
    "write_jsonl",
]
