"""Alembic's way in: the steps run on the connection, and inside the transaction, that `hanok.store.migrate` hands over."""

from __future__ import annotations

from alembic import context

from hanok.store.schema import metadata

# SQLite's tables can be made and changed in a transaction; alembic takes the careful view unless told
context.configure(
    connection=context.config.attributes["connection"], target_metadata=metadata, transactional_ddl=True
)
with context.begin_transaction():
    context.run_migrations()
