"""`hanok model ...`: step 4."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from hanok.data.config_tokens import ExtendConfig
from hanok.errors import ConfigError, InputError
from hanok.models.config import ModelConfig
from hanok.reporting import log, table

Model = Annotated[Path, tyro.conf.Positional]
Models = Annotated[tuple[Path, ...], tyro.conf.Positional]


def plan(config: ModelConfig = ModelConfig(), tokens: int = 5_000_000) -> dict[str, Any]:
    """Parameters, memory, training time and speed that a configuration needs on this machine.

    Args:
        config: size and architecture; a vocab_size of 0 is taken as 4096.
        tokens: training tokens to predict the time for.
    """
    from hanok.models import plan as planner

    if config.vocab_size == 0:
        config = dataclasses.replace(config, vocab_size=4096)
    result = planner.plan(config, planner.measure_machine(), training_tokens=tokens)
    rows = result.rows()
    table("plan", ("what", "value", "unit"), rows)
    return {name: {"value": value, "unit": unit} for name, value, unit in rows}


def inspect(path: Model) -> dict[str, Any]:
    """Family, layers, parameters, bytes, context, tokeniser and chat template of a model, without loading it.

    Args:
        path: a model directory or a GGUF file.
    """
    from hanok.models.inspect import inspect as look

    found = look(path)
    table(str(path), ("what", "value"), list(found.items()))
    return found


def convert(
    path: Model,
    out: Path,
    dtype: Literal["stored", "float32", "bfloat16", "float16", "q8_0"] = "stored",
    weights: Literal["stored", "int4", "int8"] = "stored",
    adapter: Path | None = None,
    tokenizer: Path | None = None,
) -> dict[str, Any]:
    """Write a model in another form: a directory of safetensors, or a GGUF file if `--out` ends in .gguf.

    Args:
        path: a model directory or a GGUF file.
        out: what to make; must not exist.
        dtype: of the weights; q8_0 only for GGUF.
        weights: int4 or int8 quantise the linear maps of the layers, in groups of 32; the rest is of type dtype.
        adapter: a LoRA adapter's directory to merge in first.
        tokenizer: take the tokeniser from here instead of from the model.
    """
    from hanok.models.convert import convert as write

    if out.exists():
        raise ConfigError(f"{out} is there already", remedy="choose another name, or delete it")
    found = write(path, out, dtype=dtype, weights=weights, adapter=adapter, tokenizer=tokenizer)
    log.info("wrote %s", out)
    return found


def export(path: Model, out: Path) -> dict[str, Any]:
    """Write a model directory that vLLM and transformers serve as Hanok does.

    Args:
        path: a model directory.
        out: directory to make; must not exist.
    """
    from hanok.models.export import export as write

    if out.exists():
        raise ConfigError(f"{out} is there already", remedy="choose another name, or delete it")
    found = write(path, out)
    log.info("wrote %s; next: vllm serve %s", out, out)
    return found


def merge(
    paths: Models,
    out: Path,
    method: Literal["linear", "slerp", "ties", "dare"] = "linear",
    weights: tuple[float, ...] = (),
    base: Path | None = None,
    density: float = 0.5,
    strength: float = 1.0,
    seed: int = 1,
) -> dict[str, Any]:
    """Merge models of one shape.

    Args:
        paths: model directories; the first one's configuration and tokeniser are taken.
        out: directory to make; must not exist.
        method: linear mean, arc between two (slerp), or sums of what each changed of a base (ties, dare).
        weights: one for each model; equal if not given.
        base: the model that all were tuned from (ties, dare).
        density: part of each change that is kept (ties, dare).
        strength: factor on the summed change (ties, dare).
        seed: of what dare drops.
    """
    from hanok.models.convert import merge_directories
    from hanok.models.merge import MergeConfig

    if out.exists():
        raise ConfigError(f"{out} is there already", remedy="choose another name, or delete it")
    config = MergeConfig(method=method, weights=weights, density=density, strength=strength, seed=seed)
    merge_directories(config, paths, out, base=base)
    return {"out": str(out), "method": method, "models": [str(path) for path in paths]}


def diff(first: Model, second: Model, show: int = 20) -> dict[str, Any]:
    """What two models of one shape differ in: settings, and how far each tensor moved.

    Args:
        first: a model directory.
        second: another.
        show: rows of the table; all are in --json.
    """
    from hanok.models.inspect import diff as compare

    if show < 1:
        raise InputError(f"show = {show}", remedy="it must be at least 1")
    settings, changes, equal = compare(first, second)
    if settings:
        table("settings that differ", ("setting", str(first), str(second)), settings)
    rows = [(c.name, c.relative, c.largest, c.cosine) for c in changes]
    title = f"{len(rows)} of {len(rows) + equal} tensors differ"
    table(title, ("tensor", "relative change", "largest", "cosine"), rows[:show])
    return {
        "settings": settings,
        "equal": equal,
        "changed": [dataclasses.asdict(change) for change in changes],
    }


def extend(path: Model, split: Path, out: Path, config: ExtendConfig = ExtendConfig()) -> dict[str, Any]:
    """Teach a model's tokeniser new tokens from your documents, and give the model rows for them.

    Args:
        path: a model directory with its tokeniser.
        split: a split from `hanok data split`; learnt from its train part, measured on its validation part.
        out: model directory to make; must not exist.
        config: how many tokens, and how frequent.
    """
    from hanok.recipes.base import prepare_base

    if out.exists():
        raise ConfigError(f"{out} is there already", remedy="choose another name, or delete it")
    made = prepare_base(path, split, out, extend=config)
    log.info(
        "next: hanok data shards %s --tokenizer %s --out SHARDS, then hanok train --init-from %s",
        split,
        out,
        out,
    )
    return {"out": str(out), **made.metrics}
