"""What the routes work with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from hanok.documents.library import Library
from hanok.server.document_vectors import model_embedder
from hanok.server.exchange import Admission, Observer, Unlimited
from hanok.server.models import Models
from hanok.server.operations.service import Operations
from hanok.store.database import Store


@dataclass(frozen=True, kw_only=True)
class Services:
    """Made once, by whoever starts the server.

    Args:
        store: for answers and feedback. examples: language to questions that the empty page offers.
    """

    models: Models
    store: Store
    admission: Admission = field(default_factory=Unlimited)
    observers: Sequence[Observer] = ()
    examples: Mapping[str, Sequence[str]] = field(default_factory=dict)
    operations: Operations = field(default_factory=Operations)

    @cached_property
    def documents(self) -> Library:
        """Of all tenants, in the same database."""
        if self.operations.settings.document_vectors == "model":
            return Library(self.store, embedder=model_embedder(self.models))
        return Library(self.store)
