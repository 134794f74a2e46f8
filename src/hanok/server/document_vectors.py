"""Vectors of passages by the served model, in the place of those of spelling: the mean of its last hidden vectors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from hanok.documents.records import Embedder
from hanok.server.models import Models, Served
from hanok.server.principal import LOCAL
from hanok.server.prompts import encode_text


class ModelEmbedding:
    """An `Embedding` by the default model as it is when asked: loaded if need be, and another once it was replaced."""

    def __init__(self, models: Models) -> None:
        self._models = models

    @contextmanager
    def now(self) -> Iterator[Embedder]:
        """Raises what loading the model raises."""
        with self._models.use_in_thread(self._models.default_name, LOCAL) as served:
            yield embedder_of(served)


def embedder_of(served: Served) -> Embedder:
    """A text longer than the model's context is known by its beginning."""
    engine = served.engine

    def embed(texts: Sequence[str]) -> np.ndarray:
        vectors_TD = np.zeros((len(texts), engine.config.hidden_size), np.float32)
        for vector_D, text in zip(vectors_TD, texts, strict=True):
            ids = encode_text(engine.tokenizer, text)[: engine.max_context]
            vector_D[:] = engine.embed(ids, -1, adapter=served.adapter_name).mean(0).numpy()
        return vectors_TD

    return Embedder(f"model-{served.hash[:32]}", embed)
