"""Version 5: the review queue, with the feedback that was there already, and models on trial; whose requests and feedback are."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from hanok.store.review.items import question_in, titled

revision, down_revision = "0005", "0004"


def upgrade() -> None:
    for table in ("requests", "feedback"):
        op.add_column(table, sa.Column("owner", sa.String(64), nullable=False, server_default=""))
    _items()
    _words()
    _canaries()
    _take_in_feedback()
    op.execute("UPDATE schema_version SET version = 5")


def _items() -> None:
    op.create_table(
        "review_items",
        sa.Column("id", sa.String(64), primary_key=True),
        *(sa.Column(name, sa.Double, nullable=False) for name in ("created", "updated")),
        *(sa.Column(name, sa.String(64), nullable=False) for name in ("tenant", "owner")),
        sa.Column("kind", sa.String(16), nullable=False),
        *(
            sa.Column(name, sa.String(64), nullable=False)
            for name in ("source", "request_id", "http_id", "model_hash", "batch")
        ),
        sa.Column("title", sa.String(200), nullable=False),
        sa.Column("body", sa.JSON, nullable=False),
        sa.Column("required", sa.Integer, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("round", sa.Integer, nullable=False),
        sa.Column("disputed", sa.Boolean, nullable=False),
        sa.Column("reviewer", sa.String(64)),
        sa.Column("lease", sa.Double),
        sa.Column("outcome", sa.String(16)),
        sa.Column("correction", sa.Text),
        sa.UniqueConstraint("tenant", "kind", "source", name="uq_review_items_source"),
    )
    op.create_index("ix_review_items_queue", "review_items", ["tenant", "state", "created", "id"])
    op.create_index("ix_review_items_owner", "review_items", ["owner"])
    op.create_index("ix_review_items_batch", "review_items", ["batch"])


def _words() -> None:
    op.create_table(
        "review_decisions",
        sa.Column("id", sa.String(64), primary_key=True),
        _item_id(),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("round", sa.Integer, nullable=False),
        sa.Column("reviewer", sa.String(64), nullable=False),
        sa.Column("senior", sa.Boolean, nullable=False),
        sa.Column("verdict", sa.String(16), nullable=False),
        sa.Column("correction", sa.Text),
        sa.Column("reason", sa.Text, nullable=False),
        sa.UniqueConstraint("item", "round", "reviewer", name="uq_review_decisions_reviewer"),
    )
    op.create_table(
        "review_appeals",
        sa.Column("id", sa.String(64), primary_key=True),
        _item_id(),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("round", sa.Integer, nullable=False),
        sa.Column("statement", sa.Text, nullable=False),
    )
    for table in ("review_decisions", "review_appeals"):
        op.create_index(f"ix_{table}_item", table, ["item"])


def _item_id() -> sa.Column[str]:
    return sa.Column(
        "item", sa.String(64), sa.ForeignKey("review_items.id", ondelete="CASCADE"), nullable=False
    )


def _canaries() -> None:
    op.create_table(
        "canaries",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("model", sa.String(200), nullable=False),
        *(
            sa.Column(name, sa.Text, nullable=False)
            for name in ("current_directory", "current_hash", "canary_directory", "canary_hash")
        ),
        sa.Column("share", sa.Double, nullable=False),
        sa.Column("auto_rollback", sa.Boolean, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("ended", sa.Double),
        sa.Column("ended_by", sa.String(64)),
        sa.Column("why", sa.Text),
        sa.Column("counts", sa.JSON, nullable=False),
    )
    op.create_index("ix_canaries_created", "canaries", ["created"])


def _take_in_feedback() -> None:
    """What was given before there was a queue waits in it."""
    names = ("id", "created", "request_id", "model_hash", "tenant", "messages")
    feedback = sa.table(
        "feedback", *(sa.column(name, sa.JSON if name == "messages" else None) for name in names)
    )
    items = sa.table("review_items", sa.column("body", sa.JSON), *(sa.column(name) for name in _COLUMNS))
    connection = op.get_bind()
    for row in connection.execute(sa.select(feedback)).mappings().all():
        item = {
            "id": f"rv-{row['id']}"[:64], "created": row["created"], "updated": row["created"], "tenant": row["tenant"],
            "owner": "", "kind": "feedback", "source": row["id"], "request_id": row["request_id"], "http_id": "",
            "model_hash": row["model_hash"], "batch": "", "title": titled(question_in(row["messages"])), "body": {},
            "required": 1, "state": "open", "round": 0, "disputed": False,
        }  # fmt: skip
        connection.execute(sa.insert(items).values(item))


_COLUMNS = (
    "id", "created", "updated", "tenant", "owner", "kind", "source", "request_id", "http_id", "model_hash", "batch", "title",
    "required", "state", "round", "disputed",
)  # fmt: skip
