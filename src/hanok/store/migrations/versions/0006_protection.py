"""Version 6: keys of the watermark; who may be copying a model."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0006", "0005"


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
    op.create_table(
        "extraction",
        sa.Column("owner", sa.String(64), primary_key=True),
        sa.Column("tenant", sa.String(64), primary_key=True),
        sa.Column("score", sa.Double, nullable=False),
        sa.Column("step", sa.String(16), nullable=False),
        sa.Column("updated", sa.Double, nullable=False),
        sa.Column("sketch", sa.Text, nullable=False),
    )
    op.create_index("ix_extraction_tenant", "extraction", ["tenant"])
    op.create_table(
        "extraction_counts",
        sa.Column("owner", sa.String(64), primary_key=True),
        sa.Column("tenant", sa.String(64), primary_key=True),
        sa.Column("span", sa.Integer, primary_key=True),
        sa.Column("start", sa.BigInteger, primary_key=True),
        sa.Column("requests", sa.BigInteger, nullable=False),
        sa.Column("distinct_prompts", sa.BigInteger, nullable=False),
        sa.Column("new_cells", sa.BigInteger, nullable=False),
        sa.Column("alike", sa.BigInteger, nullable=False),
        sa.Column("logprobs", sa.BigInteger, nullable=False),
        sa.Column("samples", sa.BigInteger, nullable=False),
        sa.Column("greedy", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_extraction_counts_tenant", "extraction_counts", ["tenant"])
    op.execute("UPDATE schema_version SET version = 6")
