"""What the routes work with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from hanok.documents.library import Library
from hanok.server.admission.queue import PromptQueue
from hanok.server.document_vectors import model_embedder
from hanok.server.exchange import Admission, Observer, Unlimited
from hanok.server.identity.directory import Directory
from hanok.server.identity.oidc import Oidc
from hanok.server.identity.people import People
from hanok.server.models import Models
from hanok.server.operations.service import Operations
from hanok.store.database import Store


@dataclass(frozen=True, kw_only=True)
class Services:
    """Made once, by whoever starts the server.

    Args:
        store: for answers and feedback. examples: language to questions that the empty page offers.
        queue: of prompts that wait to be read.
        directory: who may come in. people: signing in and out. oidc: through whom too.
        on_tenant_deleted: each is told a tenant's name, forgets what it keeps of it beside the store, and says how many of what.
        run: the folder of the run that the model belongs to, whose reports the console shows.
    """

    models: Models
    store: Store
    directory: Directory
    people: People
    oidc: Oidc | None = None
    on_tenant_deleted: Sequence[Callable[[str], Mapping[str, int]]] = ()
    admission: Admission = field(default_factory=Unlimited)
    queue: PromptQueue = field(default_factory=PromptQueue)
    observers: Sequence[Observer] = ()
    examples: Mapping[str, Sequence[str]] = field(default_factory=dict)
    run: Path | None = None
    operations: Operations = field(default_factory=Operations)

    @cached_property
    def documents(self) -> Library:
        """Of all tenants, in the same database."""
        if self.operations.settings.document_vectors == "model":
            return Library(self.store, embedder=model_embedder(self.models))
        return Library(self.store)
