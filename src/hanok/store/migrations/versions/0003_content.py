"""Version 3: documents, conversations, presets and stored responses, which were made when they were first used; and the names
of tenants that were deleted, so that nothing is written for them any more.

What is there already stays as it is, but for rows of tenants and people that were deleted: some may have been written a moment
behind the deletion.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from alembic import op

from hanok.store.tenancy import infer_deleted

revision, down_revision = "0003", "0002"


def upgrade() -> None:
    there = {*sa.inspect(op.get_bind()).get_table_names()}
    for name, columns, indexes in (*_said(), *_documents()):
        if name not in there:
            op.create_table(name, *columns)
        known = {one["name"] for one in sa.inspect(op.get_bind()).get_indexes(name)}
        for index, columns_of in indexes.items():
            if index not in known:
                op.create_index(index, name, columns_of)
    _deleted()
    op.execute("UPDATE schema_version SET version = 3")


Parts = tuple[str, Sequence[Any], dict[str, list[str]]]  # name, columns, indexes


def _said() -> list[Parts]:
    def owned(name: str) -> Parts:
        columns = [
            sa.Column("tenant", sa.String(64), primary_key=True),
            sa.Column("owner", sa.String(64), primary_key=True),
            sa.Column("id", sa.String(64), primary_key=True),
            sa.Column("title", sa.Text, nullable=False),
            sa.Column("created", sa.Float, nullable=False),
            sa.Column("updated", sa.Float, nullable=False),
            sa.Column("version", sa.Integer, nullable=False),
            sa.Column("body", sa.JSON, nullable=False),
            sa.Column("words", sa.Text, nullable=False),
        ]
        return name, columns, {f"{name}_newest": ["tenant", "owner", "updated", "id"]}

    responses = [
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("tenant", sa.String(200), nullable=False),
        sa.Column("created", sa.Float, nullable=False),
        *(sa.Column(name, sa.JSON, nullable=False) for name in ("body", "input", "messages")),
    ]
    indexes = {f"ix_responses_{name}": [name] for name in ("tenant", "created")}
    return [owned("conversations"), owned("presets"), ("responses", responses, indexes)]


def _documents() -> list[Parts]:
    files = [
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("tenant", sa.String(200), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("bytes", sa.Integer, nullable=False),
        sa.Column("passages", sa.Integer, nullable=False),
        sa.Column("purpose", sa.String(64), nullable=False),
        sa.Column("created", sa.Float, nullable=False),
        sa.Column("content", sa.LargeBinary, nullable=False),
        sa.UniqueConstraint("tenant", "sha256"),
    ]
    texts = [
        _file_id(primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
    ]
    passages = [
        _file_id(primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        *(sa.Column(name, sa.Integer, nullable=False) for name in ("text", "start", "end")),
        sa.Column("heading", sa.Text, nullable=False),
        *(sa.Column(name, sa.LargeBinary, nullable=False) for name in ("codes", "often")),
        sa.Column("words_version", sa.Integer, nullable=False),
    ]
    vectors = [
        _file_id(primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("embedder", sa.String(200), primary_key=True),
        sa.Column("vector", sa.LargeBinary, nullable=False),
    ]
    collections = [
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("tenant", sa.String(200), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("created", sa.Float, nullable=False),
        sa.Column("active", sa.Float, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("metadata", sa.JSON, nullable=False),
    ]
    members = [
        _collection_id(),
        _file_id(primary_key=True),
        sa.Column("created", sa.Float, nullable=False),
        sa.Column("attributes", sa.JSON, nullable=False),
        sa.Column("by_hand", sa.Boolean, nullable=False),
    ]
    origins = [
        _collection_id(),
        sa.Column("folder", sa.String(1024), primary_key=True),
        sa.Column("path", sa.String(1024), primary_key=True),
        _file_id(nullable=False),
    ]
    return [
        ("document_files", files, {}),
        ("document_texts", texts, {}),
        ("document_passages", passages, {}),
        ("document_vectors", vectors, {}),
        ("document_collections", collections, {"ix_document_collections_tenant": ["tenant"]}),
        ("document_members", members, {"ix_document_members_file_id": ["file_id"]}),
        ("document_origins", origins, {"ix_document_origins_file_id": ["file_id"]}),
    ]


def _file_id(**options: Any) -> sa.Column[str]:
    key = sa.ForeignKey("document_files.id", ondelete="CASCADE")
    return sa.Column("file_id", sa.String(64), key, **options)


def _collection_id() -> sa.Column[str]:
    key = sa.ForeignKey("document_collections.id", ondelete="CASCADE")
    return sa.Column("collection_id", sa.String(64), key, primary_key=True)


def _deleted() -> None:
    op.create_table(
        "deleted_tenants",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("deleted", sa.Double, nullable=False),
    )
    infer_deleted(op.get_bind())
    for table in (
        "requests",
        "feedback",
        "conversations",
        "presets",
        "responses",
        "document_files",
        "document_collections",
    ):
        op.execute(f"DELETE FROM {table} WHERE tenant IN (SELECT id FROM deleted_tenants)")
    for table in ("conversations", "presets"):
        op.execute(
            f"DELETE FROM {table} WHERE substr(owner, 1, 2) = 'u_' AND owner NOT IN (SELECT id FROM users)"
        )
