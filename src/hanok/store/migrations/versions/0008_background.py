"""Version 8: responses that are answered in the background, and whether their server still works on them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0008", "0007"


def upgrade() -> None:
    op.add_column("responses", sa.Column("beat", sa.Double))
    op.add_column("responses", sa.Column("cancelled", sa.Boolean, nullable=False, server_default=sa.false()))
    op.execute("UPDATE schema_version SET version = 8")
