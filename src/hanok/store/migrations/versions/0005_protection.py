"""Version 5: keys of the watermark."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0005", "0004"


def upgrade() -> None:
    op.create_table(
        "watermark_keys",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("nonce", sa.String(64), nullable=False),
        sa.Column("gamma", sa.Double, nullable=False),
        sa.Column("width", sa.Integer, nullable=False),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("retired", sa.Double),
    )
    op.execute("UPDATE schema_version SET version = 5")
