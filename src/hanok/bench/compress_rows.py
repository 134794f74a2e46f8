"""What each method of `hanok compress` costs on one trained model: perplexity on held-out text and KL to the original, for
several seeds of calibration windows where there are some.

A row is kept in a file as soon as it is measured, so that the same command goes on where it was stopped. Codes are measured by
the numbers that they stand for. Of what a row means, see `CASES`; the tables are in docs/methods/compression.md.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hanok.artefacts import create_artefact, open_artefact, write_json
from hanok.bench.outcome import Rows, tell_steps
from hanok.compression.compress import texts_of
from hanok.compression.fake import rounded_cache, rounded_inputs, turn_inner_inputs, turn_inner_weight
from hanok.compression.folds import apply_fold, folds_of
from hanok.compression.grid import Grid, encode
from hanok.compression.hqq import hqq
from hanok.compression.layers import takes_codes
from hanok.compression.measure import Walked, compare, walked
from hanok.compression.settings import CompressConfig, Method, Plan
from hanok.compression.structured import shrink
from hanok.compression.trial import layer_by_layer, made_of, opened
from hanok.compression.tune import compress_and_tune, shrink_and_recover
from hanok.errors import ConfigError
from hanok.models.checkpoint import load_model, save_model
from hanok.models.decoder import Block, Decoder
from hanok.models.linear import Linear
from hanok.recipes.runs import servable_model
from hanok.reporting import log, table

BASE = CompressConfig(samples=16, length=512, held_out=16, head_bits=16, layer_windows=0)
OUTLIERS, TIMES = (
    4,
    32.0,
)  # channels behind each norm, and how much larger they become: a power of two, so no number is rounded
TUNING, RECOVERY = 60, 60  # steps of 4,096 tokens
Metrics = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Bench:
    """The original in bfloat16, with and without outlier channels, shards of its tokeniser, and where rows are kept."""

    model: Path
    shards: Path
    folder: Path
    _walked: dict[Path, Walked] = field(default_factory=dict)

    def original(self, model: Path | None = None) -> Walked:
        """This model, or another of the same function, on the held-out windows."""
        model = model or self.model
        if model not in self._walked:
            self._walked[model] = walked(opened(model), texts_of(BASE, model, self.shards).held_out)
        return self._walked[model]

    @property
    def work(self) -> Path:
        return self.folder / "work"

    def outliers(self) -> Path:
        """The same function with inputs of maps that have far outliers."""
        return self._variant("outliers", put_in_outliers)

    def turned(self, model: Path) -> Path:
        """Its `down_proj` for inputs that are turned when they are read (R4)."""
        return self._variant(
            f"{model.name}-turned", lambda decoder: _each_block(decoder, turn_inner_weight), model
        )

    def _variant(self, name: str, change: Callable[[Decoder], object], model: Path | None = None) -> Path:
        out = self.folder / name
        if not out.is_dir():
            decoder = load_model(model or self.model).requires_grad_(False)
            change(decoder)
            with create_artefact(
                out, kind="model", parents={"source": open_artefact(model or self.model)}
            ) as draft:
                save_model(decoder, draft.path, tokenizer_dir=self.model)
        return out


@dataclass(frozen=True, slots=True)
class Case:
    """One row or several, of one compressed model. seeded: whether it depends on the text that is calibrated or tuned on."""

    name: str
    measure: Callable[[Bench, int], Sequence[Metrics]]
    seeded: bool
    more: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name, *self.more)


@torch.no_grad()
def put_in_outliers(decoder: Decoder) -> None:
    """In each layer some channels behind both norms become larger, and their readers' columns smaller: the same function."""
    generator = torch.Generator().manual_seed(1)
    for block in decoder.layers:
        assert isinstance(block, Block)
        for fold in folds_of(block):
            if fold.source.endswith("layernorm"):
                scale_K = torch.ones(decoder.config.hidden_size)
                scale_K[torch.randperm(len(scale_K), generator=generator)[:OUTLIERS]] = 1 / TIMES
                apply_fold(block, fold, scale_K)


def _layers(
    method: Method, changes: Mapping[str, Any], heads: Sequence[int], bench: Bench, seed: int
) -> list[Metrics]:
    """Method and settings as `hanok compress` takes them, with embedding and head in each of these widths."""
    plan = Plan(method, replace(BASE, seed=seed, **changes))
    texts = texts_of(plan.config, bench.model, bench.shards)
    made = made_of(plan, bench.model, texts, bench.work)
    return [compare(bench.original(), made, texts.held_out, head_bits=bits).metrics() for bits in heads]


def _inputs(
    changes: Mapping[str, Any], outliers: bool, turn: bool, bench: Bench, seed: int, *, method: Method = "rtn", bits: int = 4
) -> list[Metrics]:  # fmt: skip
    """The same with vectors of `bits` (16: as they are) as inputs; embedding and head in eight bits."""
    model = bench.outliers() if outliers else bench.model
    plan = Plan(method, replace(BASE, seed=seed, head_bits=8 if bits < 16 else 16, **changes))

    def coarser(made: Decoder) -> Any:
        if turn:
            _each_block(made, turn_inner_inputs)
        return rounded_inputs(made, bits)

    texts = texts_of(plan.config, model, bench.shards)
    start = bench.turned(model) if turn else model
    around = coarser if bits < 16 else None
    original = bench.original(model)
    return [layer_by_layer(plan, start, texts, bench.work, original=original, around=around).metrics()]


def _cache(bits: int, bench: Bench, seed: int) -> list[Metrics]:
    texts, same = texts_of(BASE, bench.model, bench.shards), opened(bench.model)
    with rounded_cache(same, bits):
        return [compare(bench.original(), same, texts.held_out, keep=False).metrics()]


@torch.no_grad()
def _by_values(rounding: Callable[[Tensor], Tensor], bench: Bench, seed: int) -> list[Metrics]:
    """Maps rounded in memory, by what `hanok compress` does not write."""
    made, texts = opened(bench.model), texts_of(BASE, bench.model, bench.shards)
    for name, module in made.layers.named_modules():
        if isinstance(module, Linear) and takes_codes(name, module, BASE):
            module.weight = nn.Parameter(rounding(module.weight), requires_grad=False)
    return [compare(bench.original(), made, texts.held_out, keep=False).metrics()]


def fractional(weight_NK: Tensor, *, bits: int) -> Tensor:
    """HQQ as published: zero points that are no whole numbers, which no file here holds."""
    return hqq(weight_NK, bits, BASE.group, symmetric=False).values()


def by_the_largest(weight_NK: Tensor, *, bits: int, group: int) -> Tensor:
    """Rounding to the nearest as papers have it: the scale is the largest number of the group over 2^(b-1) - 1."""
    w_NGk = weight_NK.float().unflatten(1, (-1, group or weight_NK.shape[1]))
    top = (1 << (bits - 1)) - 1
    scales_NG = (w_NGk.abs().amax(-1) / top).half().float()
    return encode(weight_NK, Grid(scales_NG, torch.zeros_like(scales_NG), bits, symmetric=True)).values()


def _tuned(method: Method, head_bits: Literal[4, 8], bench: Bench, seed: int) -> list[Metrics]:
    out = bench.folder / f"tuned-{method}-{head_bits}-seed{seed}"
    config = replace(BASE, head_bits=head_bits, seed=seed)
    if not out.exists():
        compress_and_tune(
            method, config, steps=TUNING, learning_rate=3e-4, model=bench.model, data=bench.shards, out=out
        )
    return [_kept(out)]


def _shrunk(steps: int, bench: Bench, seed: int) -> list[Metrics]:
    out, config = bench.folder / f"channels-{steps}-seed{seed}", replace(BASE, seed=seed)
    if not out.exists() and steps:
        shrink_and_recover(
            "channels",
            0.3,
            config,
            steps=steps,
            learning_rate=2e-3,
            model=bench.model,
            data=bench.shards,
            out=out,
        )
    elif not out.exists():
        shrink("channels", 0.3, config, model=bench.model, data=bench.shards, out=out)
    return [_kept(out)]


def _quantised(bits: int, *, group: int = 32, heads: Sequence[int] = (16,)) -> list[Case]:
    methods: tuple[Method, ...] = ("rtn", "hqq", "gptq", "awq")
    names = [f"{method}-{bits}{'' if group else '-row'}" for method in methods]
    return [
        Case(
            name, partial(_layers, method, {"bits": bits, "group": group}, heads), method in ("gptq", "awq"),
            tuple(f"{name}-head{width}" for width in heads[1:]),
        )
        for name, method in zip(names, methods, strict=True)
    ]  # fmt: skip


def _pruned(sparsity: str, name: str) -> list[Case]:
    return [
        Case(
            f"{name}-{rule}",
            partial(_layers, "none", {"prune": rule, "sparsity": sparsity}, (16,)),
            rule != "magnitude",
        )
        for rule in ("magnitude", "wanda", "sparsegpt")
    ]


def _four_by_four(outliers: bool) -> list[Case]:
    mark = "-outliers" if outliers else ""
    return [
        Case(f"w4a4{mark}", partial(_inputs, {}, outliers, False), False),
        Case(f"w4a4{mark}-smooth", partial(_inputs, {"smooth": 0.5}, outliers, False), True),
        Case(f"w4a4{mark}-rotated", partial(_inputs, {"rotate": True}, outliers, False), True),
        Case(f"w4a4{mark}-rotated-r4", partial(_inputs, {"rotate": True}, outliers, True), True),
    ]


CASES: Sequence[Case] = (
    *_quantised(4, heads=(16, 8, 4)),
    *_quantised(3),
    *_pruned("0.5", "half"),
    *_pruned("2:4", "2of4"),
    *_four_by_four(False),
    *_four_by_four(True),
    Case("cache-8", partial(_cache, 8), False),
    Case("cache-4", partial(_cache, 4), False),
    *_quantised(4, group=0),
    *_quantised(3, group=0),
    *(
        Case(
            f"{method}-4-outliers", partial(_inputs, {}, True, False, method=method, bits=16), method != "rtn"
        )
        for method in ("rtn", "gptq", "awq")
    ),
    *(
        Case(f"hqq-{bits}-fractional", partial(_by_values, partial(fractional, bits=bits)), False)
        for bits in (4, 3)
    ),
    *(
        Case(
            f"rtn-{bits}{'' if group else '-row'}-largest",
            partial(_by_values, partial(by_the_largest, bits=bits, group=group)),
            False,
        )
        for group in (32, 0)
        for bits in (4, 3)
    ),
    Case("channels", partial(_shrunk, 0), True),
    Case("tuned-gptq-4", partial(_tuned, "gptq", 4), True),
    Case("channels-recovered", partial(_shrunk, RECOVERY), True),
)


def run(
    *, model: Path, shards: Path, folder: Path = Path("runs/bench/compress-rows"), only: Sequence[str] = ("*",),
    seeds: int = 3,
) -> Rows:  # fmt: skip
    """Rows {case, seeds, perplexity, kl, flipped: each the mean, the least and the largest}; those of `only` are measured, those
    that lie in the folder are all shown.

    Raises:
        ConfigError: rows of another model, or of other shards, lie in the folder.
    """
    bench = Bench(_in_bfloat16(model, folder), shards, folder)
    data = texts_of(BASE, bench.model, shards).hash
    _same_job({"model": open_artefact(bench.model).hash, "data": data}, folder)
    for seed in range(1, seeds + 1):
        for case in CASES:
            wanted = any(fnmatch(case.name, pattern) for pattern in only) and (seed == 1 or case.seeded)
            if wanted and not all(_file(folder, name, seed).is_file() for name in case.names):
                log.info("%s, seed %d", case.name, seed)
                _measured(case, bench, seed)
    names = [name for case in CASES for name in case.names]
    rows = [row for name in names if (row := _row(name, folder)) is not None]
    table(
        "perplexity against the original's, KL in nats a token, likeliest tokens that differ",
        ("case", "seeds", "perplexity, %", "KL", "differ, %"),
        [(r["case"], r["seeds"], *(_told(r[key], f) for key, f in (("perplexity", "+.2f"), ("kl", ".4f"), ("flipped", ".1f"))))
         for r in rows],
    )  # fmt: skip
    return rows


def _measured(case: Case, bench: Bench, seed: int) -> None:
    shutil.rmtree(bench.work, ignore_errors=True)
    bench.work.mkdir(parents=True)
    for name, found in zip(case.names, case.measure(bench, seed), strict=True):
        file = _file(bench.folder, name, seed)
        file.parent.mkdir(exist_ok=True)
        write_json(file, dict(found))
        after, before = found["perplexity_after"], found["perplexity_before"]
        log.info("%s: perplexity %+.2f %%, KL %.4f", name, 100 * (after / before - 1), found["kl"])
    shutil.rmtree(bench.work)


def _file(folder: Path, name: str, seed: int) -> Path:
    return folder / "rows" / f"{name}-seed{seed}.json"


def _row(name: str, folder: Path) -> dict[str, Any] | None:
    files = sorted((folder / "rows").glob(f"{name}-seed*.json"))
    found = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    if not found:
        return None
    values = {
        "perplexity": [100 * (one["perplexity_after"] / one["perplexity_before"] - 1) for one in found],
        "kl": [one["kl"] for one in found],
        "flipped": [100 * one["likeliest_token_differs"] for one in found],
    }
    return {"case": name, "seeds": len(found)} | {
        key: {"mean": mean(several), "least": min(several), "largest": max(several)}
        for key, several in values.items()
    }


def _told(value: Mapping[str, float], form: str) -> str:
    if value["least"] == value["largest"]:
        return f"{value['mean']:{form}}"
    return f"{value['mean']:{form}} ({value['least']:{form}} to {value['largest']:{form}})"


def _in_bfloat16(model: Path, folder: Path) -> Path:
    """What everything is compared with. Made anew where it is another model's."""
    source, stored = open_artefact(model), folder / "original"
    if stored.is_dir() and open_artefact(stored).parents != {"source": source.hash}:
        raise ConfigError(
            f"{folder} holds rows of another model", remedy="give another --folder, or delete that one"
        )
    if not stored.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        with create_artefact(stored, kind="model", parents={"source": source}) as draft:
            save_model(load_model(model).bfloat16(), draft.path, tokenizer_dir=model)
    return stored


def _same_job(job: Mapping[str, str], folder: Path) -> None:
    file = folder / "job.json"
    if not file.is_file():
        write_json(file, dict(job))
    elif json.loads(file.read_text(encoding="utf-8")) != job:
        raise ConfigError(
            f"{folder} holds rows of other data", remedy="give another --folder, or delete that one"
        )


def _kept(directory: Path) -> Metrics:
    metrics = open_artefact(directory).metrics
    return {name: value for name, value in metrics.items() if isinstance(value, (int, float))}


def _each_block(decoder: Decoder, change: Callable[[Block], None]) -> None:
    for block in decoder.layers:
        assert isinstance(block, Block)
        change(block)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", type=Path, required=True, help="a trained model directory of the Llama kind, or a run"
    )
    parser.add_argument("--shards", type=Path, required=True)
    parser.add_argument("--folder", type=Path, default=Path("runs/bench/compress-rows"))
    parser.add_argument("--only", nargs="+", default=["*"], help="names of rows, with * and ?")
    parser.add_argument("--seeds", type=int, default=3, help="of calibration windows")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    tell_steps()
    rows = run(
        model=servable_model(given.model),
        shards=given.shards,
        folder=given.folder,
        only=given.only,
        seeds=given.seeds,
    )
    if given.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
