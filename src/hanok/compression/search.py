"""From a budget to a plan: methods are tried, the cost of four bits is measured group by group, and eight bits go where they help
most. What was tried lies in a folder beside the result (`.OUT.tries`), so that a stopped command does not try again.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from hanok.artefacts import open_artefact, write_json
from hanok.compression.compress import texts_of
from hanok.compression.page import Tried
from hanok.compression.sensitivity import (
    ENDS,
    NARROW,
    SCALE,
    WIDE,
    Unit,
    allot,
    sensitivities,
    shared_bits,
)
from hanok.compression.settings import CompressConfig, Method, Plan
from hanok.compression.texts import Texts
from hanok.compression.trial import layer_by_layer, opened
from hanok.errors import ConfigError
from hanok.models.checkpoint import load_config, load_model
from hanok.reporting import log

Weights = Literal["bf16", "int8", "int4"]
_BYTES = {"b": 1, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "kb": 10**3, "mb": 10**6, "gb": 10**9}


@dataclass(frozen=True, slots=True)
class Found:
    """widths: of maps that are wider than the rest. notes: for the report."""

    method: Method
    config: CompressConfig
    widths: Mapping[str, int]
    tried: list[Tried]
    notes: list[str]


def search(
    methods: tuple[Method, ...], config: CompressConfig, bits: float, *, model: Path, data: Path, out: Path
) -> Found:  # fmt: skip
    """The plan with the least KL that was found at `bits` a weight, embedding, head and scales counted.

    Args:
        methods: to be tried at four bits; the best is taken.

    Raises:
        ConfigError: as `allot`.
    """
    if load_config(model).moe is not None:
        raise ConfigError(
            "a budget for a model with experts", remedy="leave the budget out: four bits everywhere"
        )
    texts = texts_of(config, model, data)
    shared = shared_bits(config)
    if bits >= WIDE + shared:
        note = f"{bits:.2f} bits a weight have room for eight everywhere"
        return Found(methods[0], replace(config, bits=WIDE, head_bits=WIDE), {}, [], [note])
    tries = _Tries(out.with_name(f".{out.name}.tries"), model, texts, config)
    units = tries.units()
    widths = allot(units, bits, shared)
    narrow = replace(config, bits=NARROW, head_bits=NARROW)
    tried = [tries.measure("rtn 8", Plan("rtn", replace(config, bits=WIDE, head_bits=WIDE)))]
    by_method = {method: tries.measure(f"{method} 4", Plan(method, narrow)) for method in methods}
    tried += by_method.values()
    best = min(methods, key=lambda method: by_method[method].kl)
    finer = replace(narrow, head_bits=WIDE)
    if widths[ENDS] == WIDE or len(methods) > 1:
        tried.append(tries.measure(f"{best} 4, embedding and head 8", Plan(best, finer)))
    log.info("the least KL at four bits: %s", best)
    wide = {name: width for name, width in widths.items() if width == WIDE and name != ENDS}
    chosen = replace(narrow, head_bits=widths[ENDS])
    shutil.rmtree(tries.folder)
    worst = sorted(units, key=lambda unit: -unit.kl)[:8]
    notes = [
        f"asked for {bits:.2f} bits a weight; {len(wide)} maps, "
        f"{'and' if widths[ENDS] == WIDE else 'but not'} embedding and head, have eight",
        "dearest at four bits (KL alone): " + ", ".join(f"{unit.names[0]} {unit.kl:.2g}" for unit in worst),
    ]
    return Found(best, chosen, wide, tried, notes)


def bits_of_target(text: str) -> float:
    """ "4.5 bits" or "4.5". Raises ConfigError."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(?:bits?)?\s*", text)
    if found is None:
        raise ConfigError(f"target = {text}", remedy='give bits a weight, for example "5 bits"')
    return float(found[1])


def bytes_of(text: str) -> int:
    """ "2GiB", "400 MB". Raises ConfigError."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]+)\s*", text)
    if found is None or found[2].lower() not in _BYTES:
        raise ConfigError(f"fit = {text}", remedy='give a size, for example "2GiB"')
    return int(float(found[1]) * _BYTES[found[2].lower()])


def rate_of(text: str) -> float:
    """ "30tok/s" or "30". Raises ConfigError."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(?:tok(?:ens)?/s)?\s*", text)
    if found is None or float(found[1]) <= 0:
        raise ConfigError(f"speed = {text}", remedy='give tokens a second, for example "30tok/s"')
    return float(found[1])


def bits_that_fit(model: Path, size: int) -> float:
    """Bits a weight of a matrix, so that weights take `size` bytes; what is no matrix is counted in full."""
    decoder = load_model(model, dtype="stored")
    matrices = sum(p.numel() for p in decoder.parameters() if p.dim() > 1)
    rest = sum(4 * p.numel() for p in decoder.parameters() if p.dim() < 2)
    return 8 * (size - rest) / matrices


def bits_that_run(model: Path, rate: float, speed: Callable[[Path, Weights], float]) -> float:
    """The most bits a weight with which the model decodes `rate` tokens a second here: the time of a token between that at eight
    and that at four bits goes with the bytes.

    Raises:
        ConfigError: four bits are too slow.
    """
    wide = speed(model, "int8")
    if wide >= rate:
        return WIDE + SCALE
    narrow = speed(model, "int4")
    if narrow < rate:
        raise ConfigError(
            f"at four bits the model decodes {narrow:.1f} tokens a second here, less than {rate:g}",
            remedy="take a smaller model: hanok compress --shrink, or hanok align distill",
        )
    share = (1 / rate - 1 / narrow) / (1 / wide - 1 / narrow)
    log.info("here: %.1f tokens a second at eight bits, %.1f at four", wide, narrow)
    return NARROW + SCALE + (WIDE - NARROW) * share


class _Tries:
    """Settings measured on the held-out windows; the numbers are kept in `folder`."""

    def __init__(self, folder: Path, model: Path, texts: Texts, config: CompressConfig) -> None:
        self.folder, self._model, self._texts, self._config = folder, model, texts, config
        job = json.loads(
            json.dumps({"model": open_artefact(model).hash, "data": texts.hash, **dataclasses.asdict(config)})
        )
        file = folder / "job.json"
        if not file.is_file() or json.loads(file.read_text(encoding="utf-8")) != job:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            write_json(file, job)

    def units(self) -> list[Unit]:
        file = self.folder / "units.json"
        if not file.is_file():
            windows = self._texts.held_out[: max(1, self._config.layer_windows)]
            found = sensitivities(opened(self._model), windows, self._config)
            write_json(file, [dataclasses.asdict(unit) for unit in found])
        rows = json.loads(file.read_text(encoding="utf-8"))
        return [Unit(tuple(row["names"]), row["weights"], row["kl"]) for row in rows]

    def measure(self, name: str, plan: Plan) -> Tried:
        slug = re.sub(r"\W+", "-", name)
        file, work = self.folder / f"{slug}.json", self.folder / slug
        if not file.is_file():
            log.info("trying %s", name)
            work.mkdir(exist_ok=True)
            distance = layer_by_layer(plan, self._model, self._texts, work)
            shutil.rmtree(work)
            bits = mean_bits(self.units(), plan)
            write_json(
                file, {"name": name, "bits": bits, "kl": distance.kl, "perplexity": distance.perplexity_after}
            )
        return Tried(**json.loads(file.read_text(encoding="utf-8")))


def mean_bits(units: list[Unit], plan: Plan) -> float:
    """Of a weight, scales and zero points counted."""
    shared = shared_bits(plan.config)
    held = sum(
        unit.weights
        * (plan.head_bits + SCALE if unit.names[0] == ENDS else plan.bits(unit.names[0]) + shared)
        for unit in units
    )
    return held / sum(unit.weights for unit in units)
