"""What the routes work with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from hanok.documents.library import Library
from hanok.guard.rulebook import Guard
from hanok.guard.verdicts import VerdictEvent
from hanok.server.admission.queue import PromptQueue
from hanok.server.exchange import Admission, Observer, Unlimited
from hanok.server.identity.directory import Directory
from hanok.server.identity.people import People
from hanok.server.models import Models
from hanok.server.operations.service import Operations
from hanok.server.waiting import Waiting
from hanok.store.database import Store

if TYPE_CHECKING:
    from hanok.server.identity.oidc import Oidc


@dataclass(frozen=True, kw_only=True)
class Services:
    """Made once, by whoever starts the server.

    Args:
        store: for answers and feedback. documents: of all tenants, in the same database.
        examples: language to questions that the empty page offers.
        queue: of prompts that wait to be read.
        directory: who may come in. people: signing in and out. oidc: through whom too.
        guard: the rules of what comes in and goes out. verdicts: all are told of each finding, on the event loop: must not block.
        waiting: where rules of the guard wait for other servers.
        run: the folder of the run that the model belongs to, whose reports the console shows.
    """

    models: Models
    store: Store
    documents: Library
    directory: Directory
    people: People
    oidc: Oidc | None = None
    admission: Admission = field(default_factory=Unlimited)
    queue: PromptQueue = field(default_factory=PromptQueue)
    observers: Sequence[Observer] = ()
    examples: Mapping[str, Sequence[str]] = field(default_factory=dict)
    run: Path | None = None
    operations: Operations = field(default_factory=Operations)
    guard: Guard = field(default_factory=Guard)
    verdicts: list[Callable[[VerdictEvent], None]] = field(default_factory=list)
    waiting: Waiting = field(default_factory=Waiting)
