"""How far a plan takes a model, without a model directory of the result: for searches and tables of many plans."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch

from hanok.compression.compress import decompressed
from hanok.compression.layers import compress_layers
from hanok.compression.measure import Distance, Walked, compare
from hanok.compression.settings import Plan
from hanok.compression.texts import Texts
from hanok.models.checkpoint import load_model
from hanok.models.decoder import Decoder


def layer_by_layer(
    plan: Plan, model: Path, texts: Texts, work: Path, *, original: Walked | None = None,
    around: Callable[[Decoder], AbstractContextManager[None]] | None = None,
) -> Distance:  # fmt: skip
    """On the held-out windows.

    Args:
        work: a folder for the layers' files; goes on with those of the same plan that it holds.
        original: what is compared with, walked before; default: `model`.
        around: is open while the made model is measured.
    """
    made = made_of(plan, model, texts, work)
    with around(made) if around is not None else nullcontext():
        return compare(original or opened(model), made, texts.held_out, head_bits=plan.head_bits, keep=False)


def made_of(plan: Plan, model: Path, texts: Texts, work: Path) -> Decoder:
    """The model that the plan makes, in memory; `work` as above."""
    compress_layers(plan, model, texts, work)
    return decompressed(plan, model, work)


def opened(model: Path) -> Decoder:
    """Its weights as they are stored, computing in float32."""
    decoder = load_model(model, dtype="stored").requires_grad_(False)
    decoder.set_compute_dtype(torch.float32)
    return decoder
