"""What the served model makes of a text on its way through its layers, handed over to the guard's probes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hanok.guard.probe import pooled
from hanok.server.models import Served
from hanok.server.prompts import encode_text


class ServedVectors:
    """`hanok.guard.probe.Vectors` of a served model, without its adapter. Work for a thread: it waits for the engine's turn."""

    def __init__(self, served: Served) -> None:
        self._engine, self.model = served.engine, served.base or served.hash

    def of(self, texts: Sequence[str], layers: Sequence[int]) -> np.ndarray:
        """[T, L, 2, D] float32. A text longer than the model's context is known by its beginning."""
        engine = self._engine
        ids = [encode_text(engine.tokenizer, text)[: engine.max_context] for text in texts]
        found = engine.embed_texts(ids, layers)
        return np.stack([[pooled(hidden_ND.numpy()) for hidden_ND in of_text] for of_text in found])
