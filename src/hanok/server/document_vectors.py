"""Vectors of passages by the served model, in the place of those of spelling: the mean of its last hidden vectors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hanok.documents.records import Embedder
from hanok.server.models import Models
from hanok.server.prompts import encode_text


def model_embedder(models: Models) -> Embedder:
    """Of the default model, as it is now. A text longer than its context is known by its beginning."""
    served = models.default
    engine = served.engine

    def embed(texts: Sequence[str]) -> np.ndarray:
        vectors_TD = np.zeros((len(texts), engine.config.hidden_size), np.float32)
        for vector_D, text in zip(vectors_TD, texts, strict=True):
            ids = encode_text(engine.tokenizer, text)[: engine.max_context]
            vector_D[:] = engine.embed(ids, -1, adapter=served.adapter_name).mean(0).numpy()
        return vectors_TD

    return Embedder(f"model-{served.hash[:32]}", embed)
