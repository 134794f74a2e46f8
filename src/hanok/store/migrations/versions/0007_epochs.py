"""Version 7: how often a caller was cleared of copying a model, so that every server sees that it was."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0007", "0006"


def upgrade() -> None:
    op.add_column("extraction", sa.Column("epoch", sa.Integer, nullable=False, server_default="0"))
    op.execute("UPDATE schema_version SET version = 7")
