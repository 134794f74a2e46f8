"""What the library hands out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from hanok.documents import spelling


@dataclass(frozen=True, kw_only=True, slots=True)
class File:
    """A file of a tenant. `passages`: how many it was cut into."""

    id: str
    name: str
    sha256: str
    bytes: int
    passages: int
    purpose: str
    created: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Collection:
    """A named set of files. `bytes`: of the files in it."""

    id: str
    name: str
    created: float
    active: float
    metadata: Mapping[str, str]
    files: int
    bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """A file in a collection, and what its owner said about it there (for filters)."""

    file: File
    created: float
    attributes: Mapping[str, str | float | bool]


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """A passage: `text` is `document[start:end]`, the document being text number `text_number` of the file."""

    file_id: str
    name: str
    number: int
    text_number: int
    start: int
    end: int
    heading: str
    text: str

    @property
    def provenance(self) -> dict[str, Any]:
        """Where these words come from, for whoever guards what a model reads."""
        return {"source": "document", "trusted": False, "document": self.file_id, "passage": self.number}


@dataclass(frozen=True, kw_only=True, slots=True)
class Hit:
    """A passage that a query found. `score` lies in [0, 1]; `words` and `vectors` are what it is blended of."""

    passage: Found
    score: float
    words: float
    vectors: float
    attributes: Mapping[str, str | float | bool]


@dataclass(frozen=True, slots=True)
class Results:
    """What a search found, the best first, and how likely it is that an answer is among it (`hanok.documents.support`)."""

    hits: tuple[Hit, ...]
    support: float


@dataclass(frozen=True, slots=True)
class Embedder:
    """Texts to vectors [T, D]; the name changes with anything that changes the vectors, which are kept under it."""

    name: str
    embed: Callable[[Sequence[str]], np.ndarray]

    @contextmanager
    def now(self) -> Iterator[Embedder]:
        """Itself: an `Embedding` that never changes."""
        yield self


class Embedding(Protocol):
    """Who embeds may change, as a served model does."""

    def now(self) -> AbstractContextManager[Embedder]:
        """The one to use, which stays usable as long as the block runs."""
        ...


SPELLING = Embedder(spelling.NAME, spelling.embed)
