"""Tables; those of documents, conversations and responses lie beside what works with them and join this `metadata`.

Times are seconds of the Unix epoch; JSON columns hold the shared row formats; money is in units of the price list.

A change here needs a step in `migrations/versions` with the next number; a test compares the two.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)  # fmt: skip

SCHEMA_VERSION = 8
DEFAULT_TENANT = "default"
metadata = MetaData()

schema_version = Table("schema_version", metadata, Column("version", Integer, primary_key=True))

# ---- answers and what people thought of them ----------------------------------------------------------------------

requests = Table(
    "requests",
    metadata,
    Column("request_id", String(64), primary_key=True),
    Column("created", Float, nullable=False, index=True),
    Column("model_hash", String(64), nullable=False),
    Column("messages", JSON, nullable=False),
    Column("tools", JSON),
    Column("answer", JSON, nullable=False),  # one assistant message a sample
    Column("tenant", String(64), nullable=False, server_default=DEFAULT_TENANT),
    Column("owner", String(64), nullable=False, server_default=""),  # the person or key that asked
    Index("ix_requests_tenant", "tenant"),
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
    Column("tenant", String(64), nullable=False, server_default=DEFAULT_TENANT),
    Column("owner", String(64), nullable=False, server_default=""),  # the person or key that gave it
    Index("ix_feedback_tenant", "tenant"),
)

# ---- what reviewers make of it (`hanok.store.review`) ---------------------------------------------------------------

review_items = Table(
    "review_items",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("created", Double, nullable=False),
    Column("updated", Double, nullable=False),
    Column("tenant", String(64), nullable=False),
    Column(
        "owner", String(64), nullable=False
    ),  # the person or key whose feedback or request it is; goes with them
    Column("kind", String(16), nullable=False),
    Column("source", String(64), nullable=False),  # id of the feedback or the request, or the digest of a row
    Column("request_id", String(64), nullable=False),
    Column(
        "http_id", String(64), nullable=False
    ),  # of the HTTP request, where a refused one has no answer's id
    Column("model_hash", String(64), nullable=False),
    Column("batch", String(64), nullable=False, index=True),  # of a poisoning check
    Column("title", String(200), nullable=False),
    Column("body", JSON, nullable=False),  # findings; of a stopped row the row itself
    Column("required", Integer, nullable=False),  # people who must agree
    Column("state", String(16), nullable=False),  # open, appealed or decided; assigned while `lease` runs
    Column("round", Integer, nullable=False),  # one more with each appeal
    Column("disputed", Boolean, nullable=False),
    Column("reviewer", String(64)),
    Column("lease", Double),
    Column("outcome", String(16)),
    Column("correction", Text),
    UniqueConstraint("tenant", "kind", "source", name="uq_review_items_source"),
    Index("ix_review_items_queue", "tenant", "state", "created", "id"),
    Index("ix_review_items_owner", "owner"),
)

review_decisions = Table(
    "review_decisions",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("item", String(64), ForeignKey("review_items.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("created", Double, nullable=False),
    Column("round", Integer, nullable=False),
    Column("reviewer", String(64), nullable=False),
    Column("senior", Boolean, nullable=False),  # an administrator
    Column("verdict", String(16), nullable=False),
    Column("correction", Text),
    Column("reason", Text, nullable=False),
    UniqueConstraint("item", "round", "reviewer", name="uq_review_decisions_reviewer"),
)

review_appeals = Table(
    "review_appeals",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("item", String(64), ForeignKey("review_items.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("created", Double, nullable=False),
    Column("round", Integer, nullable=False),
    Column("statement", Text, nullable=False),
)

# ---- models on trial beside another (`hanok.store.canaries`) --------------------------------------------------------

canaries = Table(
    "canaries",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("created", Double, nullable=False, index=True),
    Column("model", String(200), nullable=False),  # name in the API
    *(
        Column(f"{arm}_{what}", Text, nullable=False)
        for arm in ("current", "canary")
        for what in ("directory", "hash")
    ),
    Column("share", Double, nullable=False),
    Column("auto_rollback", Boolean, nullable=False),
    Column("state", String(16), nullable=False),  # running, promoted or rolled_back
    Column("ended", Double),
    Column("ended_by", String(64)),
    Column("why", Text),
    Column("counts", JSON, nullable=False),  # what both models' answers came to
)

# ---- who may use it -----------------------------------------------------------------------------------------------

tenants = Table(
    "tenants",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("name", String(200), nullable=False),
    Column("limits", JSON, nullable=False),
    Column("created", Double, nullable=False),
    Column("suspended", Double),
)

# none of these names is given again, and nothing is written for them (`hanok.store.tenancy`)
deleted_tenants = Table(
    "deleted_tenants",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("deleted", Double, nullable=False),
)

keys = Table(
    "keys",
    metadata,
    Column("id", String(32), primary_key=True),  # the public part
    Column("digest", String(64), nullable=False),  # HMAC-SHA-256 of the key under the pepper
    Column("name", String(200), nullable=False),
    Column("tenant", String(64), nullable=False, index=True),
    Column("role", String(16), nullable=False),
    Column("scopes", JSON),  # None: all
    Column("models", JSON),
    Column("origins", JSON),
    Column("networks", JSON),
    Column("priority", Integer, nullable=False),
    Column("limits", JSON, nullable=False),
    Column("created", Double, nullable=False),
    Column("created_by", String(64), nullable=False),
    Column("expires", Double),
    Column("revoked", Double),
    Column("last_used", Double),
)

users = Table(
    "users",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("name", String(200), nullable=False, unique=True),
    Column("tenant", String(64), nullable=False, index=True),
    Column("role", String(16), nullable=False),
    Column("password", String(200)),  # argon2id; None: signs in elsewhere
    Column("issuer", String(400)),
    Column("subject", String(255)),
    Column("limits", JSON, nullable=False),
    Column("created", Double, nullable=False),
    Column("disabled", Double),
    Column("last_login", Double),
    UniqueConstraint("issuer", "subject", name="uq_users_identity"),
)

sessions = Table(
    "sessions",
    metadata,
    Column("id", String(64), primary_key=True),  # SHA-256 of the cookie
    Column("user_id", String(32), nullable=False, index=True),
    Column("csrf", String(64), nullable=False),
    Column("created", Double, nullable=False),
    Column("expires", Double, nullable=False),
)

# one row: a number that every change of the tables above increases, by which all processes see that there was one
identity_version = Table(
    "identity_version", metadata, Column("id", Integer, primary_key=True), Column("version", BigInteger, nullable=False)
)  # fmt: skip

# one row, or none: the folder of the audit that the servers keep, and the file of the store when it was written (of a URL: "")
audit_place = Table(
    "audit_place",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("folder", Text, nullable=False),
    Column("store", Text, nullable=False),
)

# ---- how much -----------------------------------------------------------------------------------------------------

# "at": of a rate the theoretical arrival time of GCRA, of a budget what is spent in `period`, of the row "clock" the latest time
meters = Table(
    "meters",
    metadata,
    Column("id", String(160), primary_key=True),
    Column("at", Double, nullable=False),
    Column("period", String(10), nullable=False, server_default=""),
)

# answers under way, as places that a process holds until `expires`
places = Table(
    "places",
    metadata,
    Column("id", String(160), primary_key=True),
    Column("process", String(32), primary_key=True),
    Column("held", Integer, nullable=False),
    Column("expires", Double, nullable=False),
)

usage = Table(
    "usage",
    metadata,
    Column("day", String(10), primary_key=True),
    Column("tenant", String(64), primary_key=True),
    Column("key", String(64), primary_key=True),  # of a key or a person
    Column("model", String(200), primary_key=True),
    Column("requests", BigInteger, nullable=False),
    Column("errors", BigInteger, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("cost", Double, nullable=False),
)
