"""Which database a command means: `--store`, else HANOK_STORE, else the one of the model that is served."""

from __future__ import annotations

import os
from pathlib import Path

from hanok.store.connection import Place
from hanok.store.database import Store, feedback_file


def store_place(store: str | None, model: Path | None = None) -> Place:
    """A file, or a URL."""
    named = store or os.environ.get("HANOK_STORE")
    if named:
        return named if "://" in named else Path(named)
    from hanok.recipes.runs import servable_model

    return feedback_file(servable_model(model or Path("runs/quickstart")))


def open_store(store: str | None, model: Path | None) -> Store:
    return Store(store_place(store, model))
