"""The tables that hold what a tenant's people wrote, and how much of it there is."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import text

from hanok.store.database import Store

TABLES = (
    "requests",
    "feedback",
    "review_items",
    "conversations",
    "presets",
    "responses",
    "document_files",
    "document_collections",
)


def rows_of(store: Store, tenant: str, tables: Sequence[str] = TABLES) -> int:
    with store.read() as connection:
        return sum(
            connection.execute(text(f"SELECT count(*) FROM {table} WHERE tenant = :tenant"), {"tenant": tenant}).scalar_one()
            for table in tables
        )  # fmt: skip
