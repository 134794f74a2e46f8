"""Tables of an audit.

They have no migrations: with SQLite they lie in a file of their own, so that their many commits never wait for the service's,
and a backup that is put back there cannot roll the audit back; rows that were hashed are never rewritten for a new version, so a
later format would be another log. In PostgreSQL they lie beside the service's tables.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    Engine,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    insert,
    select,
    text,
)  # fmt: skip

from hanok.errors import InputError
from hanok.store.connection import writing

FORMAT = 1
_LOCK = 0x41554449  # a number of our own among PostgreSQL's advisory locks
metadata = MetaData()
_Number = BigInteger().with_variant(Integer, "sqlite")  # there only INTEGER is the table's own order

# one row: where the log ends. What is here can be found again from the entries; `audit verify` does.
head = Table(
    "audit_head",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("format", Integer, nullable=False),
    Column("verifier", Text, nullable=False),  # public key; its name is the origin
    Column("size", BigInteger, nullable=False),
    Column("last_hash", LargeBinary, nullable=False),
    Column("peaks", LargeBinary, nullable=False),  # of the Merkle tree's frontier, 32 bytes each
    Column("signed", BigInteger, nullable=False),  # rows in the last checkpoint
    Column("signed_at", Double, nullable=False),
)

# `row` is what counts; the other columns repeat what lists are filtered by, and verification compares them
entries = Table(
    "audit_entries",
    metadata,
    Column("sequence", _Number, primary_key=True, autoincrement=False),
    Column("time", Double, nullable=False),
    Column("kind", String(64), nullable=False),
    Column("tenant", String(400), nullable=False),
    Column("actor", String(400), nullable=False),
    Column("row", Text, nullable=False),
    Index("ix_audit_kind", "kind", "sequence"),
    Index("ix_audit_tenant", "tenant", "sequence"),
    Index("ix_audit_actor", "actor", "sequence"),
)

contents = Table(
    "audit_contents",
    metadata,
    Column("sequence", _Number, primary_key=True, autoincrement=False),
    Column("time", Double, nullable=False, index=True),
    Column("subject", String(64), nullable=False, index=True),
    Column("nonce", LargeBinary, nullable=False),
    Column("ciphertext", LargeBinary, nullable=False),
)

# the key of one subject; without `wrapped` it was destroyed, or never made before it was to be forgotten
subjects = Table(
    "audit_subjects",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("tenant", String(400), nullable=False),
    Column("name", String(400), nullable=False),
    Column("wrapped", LargeBinary),
    Column("created", Double, nullable=False),
    Column("destroyed", Double),
    Index("ix_audit_subject", "tenant", "name"),
)

checkpoints = Table(
    "audit_checkpoints",
    metadata,
    Column("size", _Number, primary_key=True, autoincrement=False),
    Column("note", Text, nullable=False),
)


def make_tables(engine: Engine, verifier: str, beginning: bytes) -> None:
    """And the head of an empty log. Args: beginning: what row 0 will name as the hash before it."""
    with writing(engine).begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        metadata.create_all(connection)
        if connection.execute(select(head.c.id)).first() is None:
            start = {"id": 1, "format": FORMAT, "verifier": verifier, "last_hash": beginning, "peaks": b""}
            connection.execute(insert(head), {**start, "size": 0, "signed": 0, "signed_at": 0.0})


def check_format(found: int) -> None:
    if found != FORMAT:
        raise InputError(
            f"an audit of format {found}, this version of hanok knows {FORMAT}", remedy="upgrade hanok"
        )
