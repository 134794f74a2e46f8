"""Tables of documents, on the same database as `hanok.store`, whose migrations make them. Times are seconds of the Unix epoch.

document_files          a file of a tenant: its bytes once, whatever collections it is in
document_texts          the texts that were read from it: one, or one a row of JSONL and Parquet
document_passages       where each passage of a text begins and ends, and what it is found by
document_vectors        a passage's vector by one embedder
document_collections    named sets of files ("vector stores" in OpenAI's API); `version` counts their changes
document_members        which files are in a collection
document_origins        the file in a folder that a member was read from
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Integer,
    LargeBinary,
    String,
    Table,
    Text,
    UniqueConstraint,
)  # fmt: skip

from hanok.store.schema import metadata


def _file_id(**options: bool) -> Column[str]:
    return Column("file_id", String(64), ForeignKey("document_files.id", ondelete="CASCADE"), **options)  # type: ignore[arg-type]


def _collection_id() -> Column[str]:
    key = ForeignKey("document_collections.id", ondelete="CASCADE")
    return Column("collection_id", String(64), key, primary_key=True)


files = Table(
    "document_files",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("tenant", String(200), nullable=False),
    Column("name", String(255), nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("bytes", Integer, nullable=False),
    Column("passages", Integer, nullable=False),
    Column("purpose", String(64), nullable=False),
    Column("created", Float, nullable=False),
    Column("content", LargeBinary, nullable=False),
    UniqueConstraint("tenant", "sha256"),
)

texts = Table(
    "document_texts",
    metadata,
    _file_id(primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("title", Text, nullable=False),
    Column("text", Text, nullable=False),
)

passages = Table(
    "document_passages",
    metadata,
    _file_id(primary_key=True),
    Column("number", Integer, primary_key=True),  # within the file, from 0
    Column("text", Integer, nullable=False),  # the number of its text
    Column("start", Integer, nullable=False),  # characters of the text
    Column("end", Integer, nullable=False),
    Column("heading", Text, nullable=False),
    Column("codes", LargeBinary, nullable=False),  # uint32, little endian: `words.counted`
    Column("often", LargeBinary, nullable=False),  # uint8
    Column("words_version", Integer, nullable=False),
)

vectors = Table(
    "document_vectors",
    metadata,
    _file_id(primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("embedder", String(200), primary_key=True),
    Column("vector", LargeBinary, nullable=False),  # float16, little endian, of length 1
)

collections = Table(
    "document_collections",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("tenant", String(200), nullable=False, index=True),
    Column("name", String(255), nullable=False),
    Column("created", Float, nullable=False),
    Column("active", Float, nullable=False),
    Column("version", Integer, nullable=False),
    Column("metadata", JSON, nullable=False),
)

members = Table(
    "document_members",
    metadata,
    _collection_id(),
    _file_id(primary_key=True, index=True),
    Column("created", Float, nullable=False),
    Column("attributes", JSON, nullable=False),
    Column("by_hand", Boolean, nullable=False),  # else it goes when the folder's file goes
)

origins = Table(
    "document_origins",
    metadata,
    _collection_id(),
    Column("folder", String(1024), primary_key=True),
    Column("path", String(1024), primary_key=True),  # relative to the folder
    _file_id(nullable=False, index=True),
)
