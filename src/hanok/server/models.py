"""The models behind the API: names to engines and their adapters."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hanok.engine.adapters import Adapter
from hanok.engine.generator import LocalEngine
from hanok.errors import ConfigError
from hanok.server.errors import ApiError
from hanok.server.principal import Principal
from hanok.store.database import run_folder


@dataclass(frozen=True, slots=True)
class Served:
    """What answers under a name: an engine, and the adapter of it if it is one. `hash`: of the weights that answer."""

    name: str
    engine: LocalEngine
    hash: str
    adapter: Adapter | None = None


class Models:
    """One engine and its adapters, each a model of its own."""

    def __init__(self, engine: LocalEngine, *, name: str, model_hash: str) -> None:
        self._engine, self._name, self._hash, self._created = engine, name, model_hash, int(time.time())

    @property
    def default(self) -> Served:
        """The model that the page talks to."""
        return Served(self._name, self._engine, self._hash)

    @property
    def engines(self) -> dict[str, LocalEngine]:
        """Model's name to engine, of those that are loaded."""
        return {self._name: self._engine}

    def hash_of(self, name: str) -> str:
        """Of the weights of a model that is loaded."""
        return self._hash

    def find(self, name: str, principal: Principal) -> Served:
        """Raises ApiError 404 if there is no such model, or none for this principal."""
        names = self.names(principal)
        if name not in names:
            served = ", ".join(f'"{one}"' for one in names)
            raise ApiError(
                404, f'no model "{name}" here; this server serves {served or "none that you may use"}',
                param="model", code="model_not_found",
            )  # fmt: skip
        if name == self._name:
            return self.default
        adapter = self._engine.adapters[name]
        return Served(name, self._engine, answerer_hash(self._hash, adapter), adapter)

    def names(self, principal: Principal) -> list[str]:
        every = [self._name, *(one for one in self._engine.adapters if one != self._name)]
        return [one for one in every if principal.models is None or one in principal.models]

    def describe(self, name: str) -> dict[str, Any]:
        """OpenAI's object, with the context's length; of an adapter, `parent` is the model that it belongs to."""
        return {
            "id": name, "object": "model", "created": self._created, "owned_by": "hanok",
            "context_length": self._engine.max_context, **({} if name == self._name else {"parent": self._name}),
        }  # fmt: skip


def model_name(model_dir: Path) -> str:
    """The run and what lies between it and the model: `runs/village/improve-001/model` is village-improve-001."""
    path = model_dir.absolute()
    run = run_folder(path)
    if run is not None:
        parts = (run.name, *path.relative_to(run).parts)
    else:
        parts = path.parts[-2:] if path.name == "model" else (path.name,)
    return "-".join(part for part in parts if part != "model")


def answerer_hash(model_hash: str, adapter: Adapter | None) -> str:
    """Whose answer it is: the model's own hash, or one of the model and the adapter's content."""
    return (
        model_hash if adapter is None else hashlib.sha256(f"{model_hash} {adapter.hash}".encode()).hexdigest()
    )


def check_names(model_dir: Path, adapters: Mapping[str, Path]) -> None:
    """Raises ConfigError if an adapter is called like the model."""
    if model_name(model_dir) in adapters:
        raise ConfigError(
            f'the model is called "{model_name(model_dir)}" too', remedy="give the adapter another name"
        )
