"""What an engine runs on: the model's layers in PyTorch, or the native kernels with their cache; and who schedules it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from hanok.engine.blocks import BLOCK
from hanok.engine.budget import divide
from hanok.engine.coverage import WIDTHS, CacheKind, why_not_native
from hanok.engine.images import images_of
from hanok.engine.learned import LearnedLaws
from hanok.engine.native import NativeDecoder
from hanok.engine.paged import PagedScheduler
from hanok.engine.parallel.leader import lead
from hanok.engine.parallel.team import Team
from hanok.engine.scheduler import Scheduler
from hanok.engine.speculation.build import GUESSED, Speculation, new_speculator
from hanok.errors import ConfigError
from hanok.kernels.memory import give_back, release_memory
from hanok.kernels.packed import Kind
from hanok.models.checkpoint import load_head_bits, load_model, load_stored_bits
from hanok.models.checkpoint.decoding import load_heads
from hanok.models.coded import stored_parts
from hanok.models.config import ModelConfig
from hanok.models.decoder import Decoder
from hanok.reporting import log
from hanok.tokens.tokenizer import Tokenizer

Weights = Literal["auto", "float32", "bf16", "int8", "int4+", "int4"]
RunningWeights = Literal["float32", "bf16", "int8", "int4+", "int4"]


@dataclass(frozen=True, kw_only=True, slots=True)
class BackendOptions:
    """What it is built from, again after a sleep. Fields as the arguments of `LocalEngine`.

    Args:
        vocabulary: ids from here on are never chosen.
        team: of processes that run the model together, this one leads.
    """

    model_dir: Path
    config: ModelConfig
    weights: RunningWeights
    vocabulary: int
    max_running: int
    cache_bytes: int | None
    cache_type: CacheKind
    tokenizer: Tokenizer
    speculation: Speculation
    draft_dir: Path | None
    team: Team | None = None


@dataclass(frozen=True, slots=True)
class Backend:
    """`native` is None where PyTorch runs the model. has_heads: decoding heads lie beside it."""

    decoder: Decoder
    native: NativeDecoder | None
    scheduler: Scheduler | PagedScheduler
    max_context: int
    has_heads: bool


def build_backend(options: BackendOptions) -> Backend:
    """Read the weights and make cache and scheduler.

    Raises:
        ConfigError: a cache that holds no block; a draft model that does not fit.
    """
    weights, config = options.weights, options.config
    heads = load_heads(options.model_dir, width=config.hidden_size)
    laws = None if heads is None else LearnedLaws(heads, fast=weights != "float32")
    if weights == "float32":
        team, directory = options.team, options.model_dir
        decoder = load_model(directory).requires_grad_(False) if team is None else lead(directory, team)
        scheduler = Scheduler(
            decoder, max_running=options.max_running, vocabulary=options.vocabulary, laws=laws
        )
        release_memory()
        return Backend(decoder, None, scheduler, config.max_context, heads is not None)
    decoder = load_model(options.model_dir, dtype="stored").requires_grad_(False)
    budget = divide(config, options.cache_bytes, options.max_running, options.cache_type)
    threads = torch.get_num_threads()
    kind, finer = WIDTHS[weights]
    ends = _ends(kind, options.model_dir)
    native = NativeDecoder(
        decoder, kind=kind, finer=finer, blocks=budget.blocks, threads=threads, slots=options.max_running,
        spares=0 if options.speculation == "off" else GUESSED, snapshots=budget.snapshots,
        images=images_of(options.model_dir, kind, finer=finer, ends=ends), cache=options.cache_type, ends=ends,
    )  # fmt: skip
    speculator = new_speculator(
        native, decoder, options.tokenizer, options.speculation, options.draft_dir, threads=threads
    )
    give_back(stored_parts(decoder))
    scheduler = PagedScheduler(
        native,
        max_running=options.max_running,
        vocabulary=options.vocabulary,
        speculator=speculator,
        laws=laws,
    )
    return Backend(
        decoder, native, scheduler, min(config.max_context, budget.blocks * BLOCK), heads is not None
    )


def _ends(kind: Kind, directory: Path) -> Kind | None:
    """Embedding and head of a model of four bits may be finer than that (`hanok compress`)."""
    return "int8" if kind == "int4" and load_head_bits(directory) == 8 else None


def choose_weights(
    weights: Weights, cache_type: CacheKind, config: ModelConfig, model_dir: Path, team: Team | None = None
) -> RunningWeights:
    """What "auto" means for a model here.

    Raises:
        ConfigError: a kind that the native kernels do not run this model with, or a cache that PyTorch's layers have not.
    """
    why = why_not_native(config) if team is None else "several processes share it"
    if weights not in ("auto", "float32"):
        if why is not None:
            raise ConfigError(
                f"weights = {weights}: the native kernels do not run this model, {why}", remedy="use float32"
            )
        return weights
    if weights == "auto" and why is None:
        bits = load_stored_bits(model_dir)
        return "bf16" if bits is None else "int4" if bits == 4 else "int8"
    if weights == "auto":
        log.info("running in PyTorch, float32: %s", why)
    if cache_type != "bf16":
        raise ConfigError(
            f"cache_type = {cache_type}: the cache of PyTorch's layers is float32",
            remedy="take weights that run on the native kernels, or leave cache_type out",
        )
    return "float32"
