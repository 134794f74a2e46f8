"""Tables. Times are seconds of the Unix epoch; JSON columns hold the shared row formats."""

from __future__ import annotations

from sqlalchemy import JSON, CheckConstraint, Column, Float, Integer, MetaData, String, Table, Text

SCHEMA_VERSION = 1
metadata = MetaData()

schema_version = Table("schema_version", metadata, Column("version", Integer, primary_key=True))

requests = Table(
    "requests",
    metadata,
    Column("request_id", String(64), primary_key=True),
    Column("created", Float, nullable=False, index=True),
    Column("model_hash", String(64), nullable=False),
    Column("messages", JSON, nullable=False),
    Column("tools", JSON),
    Column("answer", JSON, nullable=False),  # one assistant message a sample
)

feedback = Table(
    "feedback",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("created", Float, nullable=False),
    Column("request_id", String(64), nullable=False, index=True),
    Column("model_hash", String(64), nullable=False),
    Column("messages", JSON, nullable=False),  # the conversation with the rated answer as its last message
    Column("tools", JSON),
    Column("rating", Integer, CheckConstraint("rating IN (-1, 1)"), nullable=False),
    Column("correction", Text),
    Column("reason", Text),
    Column("user", String(200), nullable=False, default=""),
)
