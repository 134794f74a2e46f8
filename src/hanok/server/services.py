"""What the routes work with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hanok.server.exchange import Admission, Observer, Unlimited
from hanok.server.models import Models
from hanok.server.operations.service import Operations
from hanok.store.database import Store


@dataclass(frozen=True, kw_only=True)
class Services:
    """Made once, by whoever starts the server.

    Args:
        store: for answers and feedback. examples: language to questions that the empty page offers.
        run: the folder of the run that the model belongs to, whose reports the console shows.
    """

    models: Models
    store: Store
    admission: Admission = field(default_factory=Unlimited)
    observers: Sequence[Observer] = ()
    examples: Mapping[str, Sequence[str]] = field(default_factory=dict)
    run: Path | None = None
    operations: Operations = field(default_factory=Operations)
