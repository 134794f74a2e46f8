"""One of several processes under Ray that are one server: what Ray makes in each of them.

All keep the same store and write into the same audit. What one takes up while it runs, settings, prices or a policy, the others
take up within a second or two; what changes the models in memory is refused, as it would change one of them alone.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from hanok.guard.rulebook import Guard
from hanok.server.admission.admission import Limited
from hanok.server.app import check_first, create_app, first_spec, services_of
from hanok.server.auditing.open import end_audit, open_audit, settings_facts
from hanok.server.identity.directory import Entry
from hanok.server.identity.people import open_people
from hanok.server.operations.config import ServeSettings
from hanok.server.operations.logs import install_logging
from hanok.server.operations.service import Operations
from hanok.server.operations.together import Together
from hanok.server.operations.traces import open_traces
from hanok.store.connection import Place
from hanok.store.database import Store

RUNNING = 128  # answers that decode together in a replica, as `LocalEngine` has it


@dataclass(frozen=True, kw_only=True)
class Replica:
    """What each of them is told; it travels to their processes.

    Args:
        name: of the model in the API; None: by its directory. entry: who may come in. options: for `LocalEngine`.
        source: the settings anew. mark: the file by which they hear of each other (`operations/together.py`).
        folder: that files in the settings are named from.
    """

    model_dir: Path
    store: Place
    mark: Path
    folder: Path = field(default_factory=Path.cwd)
    name: str | None = None
    host: str = "127.0.0.1"
    entry: Entry = field(default_factory=Entry)
    settings: ServeSettings = field(default_factory=ServeSettings)
    source: Callable[[], ServeSettings] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def application(self) -> FastAPI:
        """Called in each replica's process, which it belongs to."""
        os.chdir(self.folder)
        install_logging(self.settings.log_format, self.settings.log_level)
        return self.build()

    def build(self) -> FastAPI:
        """What it has opened is closed when the application ends.

        Raises:
            ConfigError, InputError: as `open_audit` does: no replica answers without the audit.
            SignatureError: not what one of the keys has signed.
        """
        settings = self.settings
        guard, store = Guard.open(settings.guard), Store(self.store)
        people = open_people(store, host=self.host, entry=self.entry)
        trail = people.directory.trail
        trail.log = open_audit(settings, self.store)
        traces = open_traces(settings.traces, share=settings.trace_share) if settings.traces else None
        operations = Operations(settings, source=self.source, traces=traces, together=Together(self.mark))
        options = {"max_running": RUNNING, "max_waiting": self.entry.max_queue, **self.options}
        adapters = options.pop("adapters", {})
        spec = first_spec(self.model_dir, options, adapters, settings)
        signed_by = check_first(trail, spec)
        engine = spec.open()
        services = services_of(
            engine, self.model_dir, store, operations=operations, people=people, name=self.name, guard=guard,
            signed_by=signed_by,
        )  # fmt: skip
        assert isinstance(services.admission, Limited)
        closing = (
            services.admission.ledger.flush, services.models.close, partial(end_audit, trail), store.close
        )  # fmt: skip
        operations.at_last += [partial(asyncio.to_thread, close) for close in closing]
        app = create_app(services)
        facts = settings_facts(settings, self.model_dir, services.models.default.hash, guard)
        trail.sure(
            "server.start",
            actor="server",
            facts={**facts, "signed_by": signed_by, "replicas": settings.replicas},
        )
        return app
