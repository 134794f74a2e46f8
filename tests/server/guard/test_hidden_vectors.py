"""The served model's hidden vectors, as the guard's probes are given them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from hanok.artefacts import open_artefact
from hanok.engine.generator import LocalEngine
from hanok.guard.grams import BITS
from hanok.guard.linear import LinearDetector
from hanok.guard.probe import Probe, pooled
from hanok.server.hidden_vectors import ServedVectors
from hanok.server.models import Served
from hanok.server.prompts import encode_text

TEXTS = ["The tea house opens at nine.", "안녕하세요", "x"]
POLICY = """format = 1
[rules.probe]
file = "probe.safetensors"
first = "first.safetensors"
action = "block"
origins = ["user"]
"""


def test_together_as_alone(scripted_engine: LocalEngine) -> None:
    """What a text's vectors are does not depend on what else is read with it."""
    engine, layers = scripted_engine, (0, -1)
    ids = [encode_text(engine.tokenizer, text) for text in TEXTS]
    together = engine.embed_texts(ids, layers)
    for one, found in zip(ids, together, strict=True):
        for layer, hidden in zip(layers, found, strict=True):
            assert hidden.shape == (len(one), engine.config.hidden_size)
            torch.testing.assert_close(hidden, engine.embed(one, layer), atol=2e-4, rtol=1e-3)
    vectors = ServedVectors(Served("m", engine, "hash")).of(TEXTS, layers)
    assert vectors.shape == (3, 2, 2, engine.config.hidden_size)
    np.testing.assert_allclose(vectors[1, 0], pooled(together[1][0].numpy()), atol=1e-6)


def test_through_the_server(
    scripted: Any, scripted_engine: LocalEngine, random_run: Path, tmp_path: Path
) -> None:
    """A probe that knows one text from another by the served model's vectors; made for other weights it is not believed."""
    wanted, other = "Please water the garden today.", "Please close the window now."
    vectors = ServedVectors(Served("m", scripted_engine, "h")).of([wanted.lower(), other.lower()], (-1,))
    weights = (vectors[0] - vectors[1]).astype(np.float32)
    bias = -float((weights * (vectors[0] + vectors[1]) / 2).sum())
    LinearDetector("first", np.zeros(1 << BITS, dtype=np.float32), 0.0).save(tmp_path)
    own = open_artefact(random_run / "model").hash

    def asked(model: str, text: str) -> tuple[int, list[str]]:
        Probe("probe", weights, bias, (-1,), model).save(tmp_path)
        server = scripted(POLICY)
        server.says("never")
        body = {"messages": [{"role": "user", "content": text}]}
        status = server.post("/v1/chat/completions", body).status_code
        return status, [event.reason for event in server.events]

    assert asked(own, other) == (200, [])
    status, (reason,) = asked(own, wanted)
    assert status == 400
    assert reason.startswith("reads like an order to the model")
    assert asked("other weights", wanted) == (200, ["the probe belongs to another model"])
