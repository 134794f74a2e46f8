"""Version 4: where the servers of a store keep its audit, so that commands find it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0004", "0003"


def upgrade() -> None:
    op.create_table(
        "audit_place",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("folder", sa.Text, nullable=False),
        sa.Column("store", sa.Text, nullable=False),
    )
    op.execute("UPDATE schema_version SET version = 4")
