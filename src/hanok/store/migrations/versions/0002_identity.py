"""Version 2: tenants, keys, people and their sessions; rates, budgets and usage."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0002", "0001"


def upgrade() -> None:
    for table in ("requests", "feedback"):
        op.add_column(table, sa.Column("tenant", sa.String(64), nullable=False, server_default="default"))
        op.create_index(f"ix_{table}_tenant", table, ["tenant"])
    _who()
    _how_much()
    op.execute("UPDATE schema_version SET version = 2")


def _who() -> None:
    op.create_table(
        "tenants",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("limits", sa.JSON, nullable=False),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("suspended", sa.Double),
    )
    op.create_table(
        "keys",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        *(sa.Column(name, sa.JSON) for name in ("scopes", "models", "origins", "networks")),
        sa.Column("priority", sa.Integer, nullable=False),
        sa.Column("limits", sa.JSON, nullable=False),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("created_by", sa.String(64), nullable=False),
        *(sa.Column(name, sa.Double) for name in ("expires", "revoked", "last_used")),
    )
    op.create_index("ix_keys_tenant", "keys", ["tenant"])
    op.create_table(
        "users",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("name", sa.String(200), nullable=False, unique=True),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("password", sa.String(200)),
        sa.Column("issuer", sa.String(400)),
        sa.Column("subject", sa.String(255)),
        sa.Column("limits", sa.JSON, nullable=False),
        sa.Column("created", sa.Double, nullable=False),
        *(sa.Column(name, sa.Double) for name in ("disabled", "last_login")),
        sa.UniqueConstraint("issuer", "subject", name="uq_users_identity"),
    )
    op.create_index("ix_users_tenant", "users", ["tenant"])
    op.create_table(
        "sessions",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("user_id", sa.String(32), nullable=False),
        sa.Column("csrf", sa.String(64), nullable=False),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("expires", sa.Double, nullable=False),
    )
    op.create_index("ix_sessions_user_id", "sessions", ["user_id"])
    op.create_table(
        "identity_version",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("version", sa.BigInteger, nullable=False),
    )
    op.execute("INSERT INTO identity_version (id, version) VALUES (1, 0)")


def _how_much() -> None:
    op.create_table(
        "meters",
        sa.Column("id", sa.String(160), primary_key=True),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("period", sa.String(10), nullable=False, server_default=""),
    )
    op.create_table(
        "places",
        sa.Column("id", sa.String(160), primary_key=True),
        sa.Column("process", sa.String(32), primary_key=True),
        sa.Column("held", sa.Integer, nullable=False),
        sa.Column("expires", sa.Double, nullable=False),
    )
    op.create_table(
        "usage",
        sa.Column("day", sa.String(10), primary_key=True),
        sa.Column("tenant", sa.String(64), primary_key=True),
        sa.Column("key", sa.String(64), primary_key=True),
        sa.Column("model", sa.String(200), primary_key=True),
        *(
            sa.Column(name, sa.BigInteger, nullable=False)
            for name in ("requests", "errors", "prompt_tokens", "cached_tokens", "completion_tokens")
        ),
        sa.Column("cost", sa.Double, nullable=False),
    )
