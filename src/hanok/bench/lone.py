"""One request at a time on the native engine's scheduler, without a tokeniser, a thread or a server around it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from hanok.engine.api import Request, SamplingParams
from hanok.engine.blocks import BLOCK
from hanok.engine.generation import Generation
from hanok.engine.native import NativeDecoder
from hanok.engine.paged import PagedScheduler
from hanok.kernels.packed import Kind
from hanok.models.checkpoint import load_model


@dataclass(frozen=True, slots=True)
class Answer:
    """Args: first, rest: seconds to the first token, and from there to the last. cached: prompt tokens found in the cache."""

    ids: tuple[int, ...]
    first: float
    rest: float
    cached: int

    @property
    def rate(self) -> float:
        """Tokens a second behind the first."""
        return (len(self.ids) - 1) / self.rest


def load_native(
    directory: Path, kind: Kind, *, tokens: int, snapshots: int = 0, kind_of: type[NativeDecoder] = NativeDecoder,
) -> NativeDecoder:  # fmt: skip
    """Args: tokens: room of the cache."""
    with torch.inference_mode():
        return kind_of(
            load_model(directory, dtype="stored"), kind=kind, blocks=-(-tokens // BLOCK), threads=torch.get_num_threads(),
            slots=1, snapshots=snapshots,
        )  # fmt: skip


def ask(scheduler: PagedScheduler, prompt: Sequence[int], tokens: int) -> Answer:
    """A greedy answer of so many tokens."""
    times: list[float] = []
    failures: list[Exception] = []
    generation = Generation(
        request=Request(id="one", prompt_ids=prompt, params=SamplingParams(temperature=0.0)), arrival=0, seed=0,
        stop_ids=frozenset(), limit=tokens, listener=lambda delta: times.append(time.perf_counter()),
        failed=failures.append, stops=None,
    )  # fmt: skip
    started = time.perf_counter()
    scheduler.add(generation)
    with torch.inference_mode():
        while scheduler.has_work():
            scheduler.step()
    if failures:
        raise failures[0]
    return Answer(tuple(generation.ids), times[0] - started, times[-1] - times[0], generation.cached)
