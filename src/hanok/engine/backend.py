"""What an engine runs on: the native kernels, or the model's layers in PyTorch, on a device or on the CPU; who schedules it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from hanok.engine.blocks import BLOCK
from hanok.engine.budget import MAX_SNAPSHOTS, SNAPSHOT_SHARE, Budget, divide
from hanok.engine.coverage import WIDTHS, CacheKind, block_bytes, state_bytes, why_not_native
from hanok.engine.device.choice import choose_device, room_on
from hanok.engine.device.decoder import DeviceDecoder, computing_type
from hanok.engine.device.weights import DeviceKind, Placed
from hanok.engine.images import images_of
from hanok.engine.learned import LearnedLaws
from hanok.engine.native import NativeDecoder
from hanok.engine.paged import PagedScheduler
from hanok.engine.paged_model import PagedModel
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
_ROOM = 0.7  # of a GPU's free memory once the weights are there: the rest is for what a step computes


@dataclass(frozen=True, kw_only=True, slots=True)
class BackendOptions:
    """What it is built from, again after a sleep. Fields as the arguments of `LocalEngine`.

    Args:
        vocabulary: ids from here on are never chosen.
        team: of processes that run the model together, this one leads.
        device: None for the CPU by the native kernels or PyTorch's layers with a cache of their own.
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
    device: torch.device | None = None
    keep_images: bool = True


@dataclass(frozen=True, slots=True)
class Backend:
    """`decoder` has the weights as they are stored; `paged` runs them, or None: the decoder itself does. has_heads: decoding
    heads lie beside it."""

    decoder: Decoder
    paged: PagedModel | None
    scheduler: Scheduler | PagedScheduler
    max_context: int
    has_heads: bool


def build_backend(options: BackendOptions) -> Backend:
    """Read the weights and make cache and scheduler.

    Raises:
        ConfigError: a cache that holds no block; a draft model that does not fit.
    """
    weights, config = options.weights, options.config
    if options.device is not None:
        return _on_device(options, options.device)
    laws = _laws(options, fast=weights != "float32")
    if weights == "float32":
        team, directory = options.team, options.model_dir
        decoder = load_model(directory).requires_grad_(False) if team is None else lead(directory, team)
        scheduler = Scheduler(
            decoder, max_running=options.max_running, vocabulary=options.vocabulary, laws=laws
        )
        release_memory()
        return Backend(decoder, None, scheduler, config.max_context, laws is not None)
    decoder = load_model(options.model_dir, dtype="stored").requires_grad_(False)
    budget = divide(config, options.cache_bytes, options.max_running, options.cache_type)
    threads = torch.get_num_threads()
    kind, finer = WIDTHS[weights]
    ends = _ends(kind, options.model_dir)
    images = images_of(options.model_dir, kind, finer=finer, ends=ends) if options.keep_images else None
    native = NativeDecoder(
        decoder, kind=kind, finer=finer, blocks=budget.blocks, threads=threads, slots=options.max_running,
        spares=0 if options.speculation == "off" else GUESSED, snapshots=budget.snapshots,
        images=images, cache=options.cache_type, ends=ends,
    )  # fmt: skip
    speculator = new_speculator(
        native, decoder, options.tokenizer, options.speculation, options.draft_dir, threads=threads,
        keep_images=options.keep_images,
    )  # fmt: skip
    give_back(stored_parts(decoder))
    scheduler = PagedScheduler(
        native,
        max_running=options.max_running,
        vocabulary=options.vocabulary,
        speculator=speculator,
        laws=laws,
    )
    return Backend(
        decoder, native, scheduler, min(config.max_context, budget.blocks * BLOCK), laws is not None
    )


def _on_device(options: BackendOptions, device: torch.device) -> Backend:
    """PyTorch's layers over blocks there; the decoder itself stays a mapped file."""
    assert options.weights != "int4+"
    kind: DeviceKind = options.weights
    decoder = load_model(options.model_dir, dtype="stored").requires_grad_(False)
    ends = load_head_bits(options.model_dir) if kind == "int4" else None
    placed = Placed(decoder, device, kind, computing_type(kind), ends=ends)
    budget = _device_budget(options, device)
    model = DeviceDecoder(
        decoder, device=device, kind=kind, blocks=budget.blocks, slots=options.max_running,
        snapshots=budget.snapshots, placed=placed,
    )  # fmt: skip
    give_back(stored_parts(decoder))
    laws = _laws(options, fast=False, device=device)
    scheduler = PagedScheduler(
        model, max_running=options.max_running, vocabulary=options.vocabulary, laws=laws
    )
    context = min(options.config.max_context, budget.blocks * BLOCK)
    return Backend(decoder, model, scheduler, context, laws is not None)


def _device_budget(options: BackendOptions, device: torch.device) -> Budget:
    """As on the CPU; on a GPU, unless told, what the running texts can fill, at most a share of what is free."""
    config, number = options.config, "float32" if options.weights == "float32" else "bf16"
    cache_bytes = options.cache_bytes
    if cache_bytes is None and (room := room_on(device, _ROOM)) is not None:
        blocks = -(-config.max_context // BLOCK) * options.max_running
        needed = block_bytes(config, number) * blocks + state_bytes(config) * MAX_SNAPSHOTS
        cache_bytes = min(room, int(needed / (1 - SNAPSHOT_SHARE)))
    return divide(config, cache_bytes, options.max_running, number)


def _laws(options: BackendOptions, *, fast: bool, device: torch.device | None = None) -> LearnedLaws | None:
    heads = load_heads(options.model_dir, width=options.config.hidden_size)
    if heads is None:
        return None
    return LearnedLaws(heads if device is None else heads.to(device), fast=fast)


def _ends(kind: Kind, directory: Path) -> Kind | None:
    """Embedding and head of a model of four bits may be finer than that (`hanok compress`)."""
    return "int8" if kind == "int4" and load_head_bits(directory) == 8 else None


def choose_place(
    setting: str, *, weights: Weights, cache_type: CacheKind, speculation: Speculation, draft_dir: Path | None,
    team: Team | None,
) -> torch.device | None:  # fmt: skip
    """The device that a setting means (`hanok.engine.device.choice`); None: the CPU, by the native kernels or PyTorch's layers
    with a cache of their own, which "auto" also means where these settings ask for what runs there alone.

    Raises:
        ConfigError: a device that is not there, or on which these settings do not run.
    """
    device = choose_device(setting)
    if device is None:
        return None
    refused = {
        "several processes share the model": team is not None,
        "five bits (weights = int4+) are for the native kernels": weights == "int4+",
        f"a cache of {cache_type} is for the native kernels": cache_type != "bf16",
        "guesses (speculation) are for the native kernels": draft_dir is not None
        or speculation in ("lookup", "own"),
    }
    why = next((why for why, holds in refused.items() if holds), None)
    if why is None:
        return device
    if setting != "auto":
        raise ConfigError(f'device = "{setting}": {why}', remedy="choose device = cpu, or leave that away")
    log.info("running on the CPU: %s", why)
    return None


def choose_weights(
    weights: Weights, cache_type: CacheKind, config: ModelConfig, model_dir: Path, team: Team | None = None,
    device: torch.device | None = None,
) -> RunningWeights:  # fmt: skip
    """What "auto" means for a model here.

    Raises:
        ConfigError: a kind that the native kernels do not run this model with, or a cache that PyTorch's layers have not.
    """
    if device is not None:
        return _stored_width(model_dir) if weights == "auto" else weights
    why = why_not_native(config) if team is None else "several processes share it"
    if weights not in ("auto", "float32"):
        if why is not None:
            raise ConfigError(
                f"weights = {weights}: the native kernels do not run this model, {why}", remedy="use float32"
            )
        return weights
    if weights == "auto" and why is None:
        return _stored_width(model_dir)
    if weights == "auto":
        log.info("running in PyTorch, float32: %s", why)
    if cache_type != "bf16":
        raise ConfigError(
            f"cache_type = {cache_type}: the cache of PyTorch's layers is float32",
            remedy="take weights that run on the native kernels, or leave cache_type out",
        )
    return "float32"


def _stored_width(model_dir: Path) -> RunningWeights:
    bits = load_stored_bits(model_dir)
    return "bf16" if bits is None else "int4" if bits == 4 else "int8"
