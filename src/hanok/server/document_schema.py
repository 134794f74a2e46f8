"""What the routes of documents accept and answer, as OpenAI's files and vector stores do.

Fields that would change what happens and are not supported are refused; others are ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, Field, field_validator

from hanok.documents.library import MOST_HITS
from hanok.documents.records import Collection, File, Found, Hit, Member, Results
from hanok.guard.fetch import Fetched
from hanok.server.errors import ApiError

Attributes = dict[str, str | float | bool]
Metadata = dict[str, str]
PURPOSES = ("assistants", "user_data")
T = TypeVar("T")


class Chunking(BaseModel):
    type: Literal["auto"]


class _Store(BaseModel):
    name: Annotated[str, Field(max_length=255)] | None = None
    metadata: Metadata | None = None
    expires_after: Any = None

    @field_validator("expires_after")
    @classmethod
    def _stays(cls, value: Any) -> None:
        if value is not None:
            raise ValueError("collections do not expire here; delete them")


class FetchFile(BaseModel):
    """Body of POST /v1/files/fetch. `name`: what it is called here; by default as the address ends."""

    url: Annotated[str, Field(max_length=2048)]
    name: Annotated[str, Field(max_length=200)] | None = None
    purpose: Literal["assistants", "user_data"] = "assistants"


class CreateStore(_Store):
    """Body of POST /v1/vector_stores."""

    file_ids: Annotated[list[str], Field(max_length=10_000)] = Field(default_factory=list)
    chunking_strategy: Chunking | None = None


class ChangeStore(_Store):
    """Body of POST /v1/vector_stores/{id}."""


class Attach(BaseModel):
    """Body of POST /v1/vector_stores/{id}/files."""

    file_id: str
    attributes: Attributes | None = None
    chunking_strategy: Chunking | None = None


class ChangeAttributes(BaseModel):
    """Body of POST /v1/vector_stores/{id}/files/{file}."""

    attributes: Attributes | None


class HybridWeights(BaseModel):
    embedding_weight: Annotated[float, Field(ge=0, le=1000)]
    text_weight: Annotated[float, Field(ge=0, le=1000)]

    @property
    def blend(self) -> float:
        total = self.embedding_weight + self.text_weight
        if total == 0:
            raise ApiError(400, "hybrid_search: both weights are 0", param="ranking_options.hybrid_search")
        return self.embedding_weight / total


class Ranking(BaseModel):
    ranker: str = "auto"
    score_threshold: Annotated[float, Field(ge=0, le=1)] = 0.0
    hybrid_search: HybridWeights | None = None


class Search(BaseModel):
    """Body of POST /v1/vector_stores/{id}/search. Several queries are one query of all their words."""

    query: str | Annotated[list[str], Field(min_length=1, max_length=16)]
    max_num_results: Annotated[int, Field(ge=1, le=MOST_HITS)] = 10
    filters: dict[str, Any] | None = None
    ranking_options: Ranking | None = None

    @property
    def text(self) -> str:
        return self.query if isinstance(self.query, str) else "\n".join(self.query)


class ChatDocuments(BaseModel):
    """Not OpenAI's: passages of these collections are put before the question, and the answer cites them."""

    vector_store_ids: Annotated[list[str], Field(min_length=1, max_length=16)]
    max_num_results: Annotated[int, Field(ge=1, le=MOST_HITS)] = 5
    filters: dict[str, Any] | None = None
    least_support: Annotated[float, Field(ge=0, le=1)] | None = None
    """Below it the answer is "I don't know", without the model; 0 always asks the model."""


def name_of(fetched: Fetched) -> str:
    """A file's name for what an address gave, with an ending that its reader goes by."""
    parts = urlsplit(fetched.url)
    name = unquote(parts.path).rstrip("/").rpartition("/")[2] or (parts.hostname or "page")
    page = "html" in fetched.type and not name.lower().endswith((".html", ".htm"))
    return f"{name}.html" if page else name


def file_object(file: File) -> dict[str, Any]:
    return {
        "id": file.id, "object": "file", "bytes": file.bytes, "created_at": int(file.created), "filename": file.name,
        "purpose": file.purpose, "status": "processed", "passages": file.passages, "sha256": file.sha256,
    }  # fmt: skip


def store_object(collection: Collection) -> dict[str, Any]:
    done = collection.files
    return {
        "id": collection.id, "object": "vector_store", "name": collection.name, "created_at": int(collection.created),
        "last_active_at": int(collection.active), "metadata": dict(collection.metadata), "status": "completed",
        "usage_bytes": collection.bytes,
        "file_counts": {"in_progress": 0, "completed": done, "failed": 0, "cancelled": 0, "total": done},
    }  # fmt: skip


def member_object(member: Member, store_id: str) -> dict[str, Any]:
    return {
        "id": member.file.id, "object": "vector_store.file", "created_at": int(member.created), "vector_store_id": store_id,
        "status": "completed", "last_error": None, "usage_bytes": member.file.bytes, "attributes": dict(member.attributes),
        "chunking_strategy": {"type": "other"},
    }  # fmt: skip


def results_object(query: str, results: Results) -> dict[str, Any]:
    """`support`: how likely it is that an answer is among them; not OpenAI's."""
    return {
        "object": "vector_store.search_results.page", "search_query": [query], "data": list(map(_hit, results.hits)),
        "has_more": False, "next_page": None, "support": round(results.support, 4),
    }  # fmt: skip


def _hit(hit: Hit) -> dict[str, Any]:
    passage = hit.passage
    return {
        "file_id": passage.file_id, "filename": passage.name, "score": hit.score, "attributes": dict(hit.attributes),
        "content": [{"type": "text", "text": passage.text}], "passage": passage.number, "text_number": passage.text_number,
        "start": passage.start, "end": passage.end, "heading": passage.heading, "provenance": passage.provenance,
    }  # fmt: skip


def passage_object(passage: Found) -> dict[str, Any]:
    return {
        "object": "file.passage", "file_id": passage.file_id, "filename": passage.name, "passage": passage.number,
        "text_number": passage.text_number, "start": passage.start, "end": passage.end, "heading": passage.heading,
        "text": passage.text, "provenance": passage.provenance,
    }  # fmt: skip


def page_of(
    items: Sequence[T], shown: Callable[[T], Mapping[str, Any]], *, limit: int, order: str, after: str | None
) -> dict[str, Any]:
    """A page of a list as OpenAI's clients walk it. Args: items: the newest first."""
    objects = [shown(item) for item in (items if order == "desc" else items[::-1])]
    if after is not None:
        place = next((n for n, one in enumerate(objects) if one["id"] == after), None)
        if place is None:
            raise ApiError(400, f'after = "{after[:80]}" is not in this list', param="after")
        objects = objects[place + 1 :]
    page = objects[:limit]
    return {
        "object": "list", "data": page, "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None, "has_more": len(objects) > limit,
    }  # fmt: skip
