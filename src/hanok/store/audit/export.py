"""Entries as JSON lines: each the row as it was hashed (canonical JSON gives the same bytes), if wanted with its content."""

from __future__ import annotations

import json
from typing import TextIO

from hanok.errors import NotFoundError
from hanok.store.audit.reader import Reader
from hanok.store.audit.sealing import Vault


def export(reader: Reader, out: TextIO, *, vault: Vault | None = None, start: int = 0) -> int:
    """How many. Args: vault: opens content; what was forgotten or has expired comes as null with a reason."""
    count = 0
    for piece in reader.pieces(reader.head().size, start=start):
        for found in piece:
            row = json.loads(found.row)
            if vault is not None and row["sealed"] is not None:
                try:
                    with reader.connection() as connection:
                        row["content"] = vault.open(connection, found.sequence)
                except NotFoundError as error:
                    row["content"], row["content_gone"] = None, error.message
            out.write(json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n")
            count += 1
    return count
