"""The rows of `compress_rows.py`: what is done to the model, and how far it is from the original then.

Codes are measured by the numbers that they stand for; peers by their own logits, or by their numbers in our layers. T tokens of
all windows, C predictions of a window, D width, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from hanok.artefacts import create_artefact, open_artefact
from hanok.bench.compress_peers import GPTQMODEL, WITHOUT_TEXT, Logits, gptqmodel, peer
from hanok.compression.compress import texts_of
from hanok.compression.fake import rounded_cache, rounded_inputs, turn_inner_inputs, turn_inner_weight
from hanok.compression.folds import apply_fold, folds_of
from hanok.compression.grid import Grid, encode
from hanok.compression.hqq import hqq
from hanok.compression.layers import takes_codes
from hanok.compression.measure import Head, Walked, compare, kl_of, walked
from hanok.compression.search import mean_bits
from hanok.compression.sensitivity import ENDS, WIDE, Unit, allot, sensitivities
from hanok.compression.settings import CompressConfig, Method, Plan
from hanok.compression.structured import shrink
from hanok.compression.trial import layer_by_layer, made_of, opened
from hanok.compression.tune import compress_and_tune, shrink_and_recover
from hanok.errors import ConfigError
from hanok.models.checkpoint import load_model, save_model
from hanok.models.decoder import Block, Decoder
from hanok.models.linear import Linear

BASE = CompressConfig(samples=16, length=512, held_out=16, head_bits=16, layer_windows=0)
OUTLIERS = 4  # channels behind each norm
TIMES = 32.0  # how much larger they become: a power of two, so no number is rounded
SENSITIVITY = 2  # windows that it is measured on
TUNING, RECOVERY, TUNING_RATE = 60, 60, 3e-4  # steps of 4,096 tokens
Metrics = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Bench:
    """The original in bfloat16, with and without outlier channels, shards of its tokeniser, and where rows are kept."""

    model: Path
    shards: Path
    folder: Path
    _walked: dict[Path, Walked] = field(default_factory=dict)
    _units: list[Unit] = field(default_factory=list)

    def original(self, model: Path | None = None) -> Walked:
        """This model, or another of the same function, on the held-out windows."""
        model = model or self.model
        if model not in self._walked:
            self._walked[model] = walked(opened(model), texts_of(BASE, model, self.shards).held_out)
        return self._walked[model]

    def units(self) -> list[Unit]:
        """What four bits cost each group of maps, as `hanok compress --target` measures it."""
        if not self._units:
            windows = texts_of(BASE, self.model, self.shards).held_out[:SENSITIVITY]
            self._units.extend(sensitivities(opened(self.model), windows, BASE))
        return self._units

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
    found = [compare(bench.original(), made, texts.held_out, head_bits=bits).metrics() for bits in heads]
    return [one | {"bits": _bits(made, plan, bits)} for one, bits in zip(found, heads, strict=True)]


def _bits(made: Decoder, plan: Plan, head_bits: int) -> float:
    """Of a weight of a matrix, as the engine holds them: a scale in 16 bits for 32 numbers that are rounded."""
    count = sum(p.numel() for p in made.parameters() if p.dim() > 1)
    inner = sum(p.numel() for p in made.layers.parameters() if p.dim() > 1)
    layers, ends = (
        bits + 0.5 if bits < 16 else 16
        for bits in (16 if plan.method == "none" else plan.config.words, head_bits)
    )
    return (layers * inner + ends * (count - inner)) / count


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


@torch.inference_mode()
def _peer(name: str, bench: Bench, seed: int) -> list[Metrics]:
    """Another program's four bits; its bits a weight are of all matrices, as ours are."""
    bits, logits = _found(name, bench, seed)
    windows = texts_of(BASE, bench.model, bench.shards).held_out
    original = bench.original()
    own = Head(original.decoder, 16)
    rows_TD = original.normed_TD.split([len(window) for window in windows])
    sums = torch.zeros(4, dtype=torch.float64)
    for window, x_CD in zip(windows, rows_TD, strict=True):
        before_CV, after_CV = own(x_CD[:-1]), logits(window.tolist())[:-1].log_softmax(-1)
        targets_C1 = torch.from_numpy(window[1:].astype(np.int64))[:, None]
        surprise = [-law_CV.gather(1, targets_C1).double().sum() for law_CV in (before_CV, after_CV)]
        differ = (before_CV.argmax(-1) != after_CV.argmax(-1)).double().sum()
        sums += torch.stack([*surprise, kl_of(before_CV, after_CV).double().sum(), differ])
    before, after, kl, differ = (sums / sum(len(window) - 1 for window in windows)).tolist()
    return [{
        "perplexity_before": math.exp(before), "perplexity_after": math.exp(after), "kl": kl, "likeliest_token_differs": differ,
        "bits": bits,
    }]  # fmt: skip


def _at_the_bits_of(name: str, bench: Bench, seed: int) -> list[Metrics]:
    """GPTQ with four and eight bits, so many of each that no more are used than by a peer."""
    bits, _ = _found(name, bench, seed)
    widths = allot(bench.units(), bits)
    wide = {key: width for key, width in widths.items() if width == WIDE and key != ENDS}
    plan = Plan("gptq", replace(BASE, seed=seed, head_bits=widths[ENDS]), wide)
    texts = texts_of(plan.config, bench.model, bench.shards)
    distance = layer_by_layer(plan, bench.model, texts, bench.work, original=bench.original())
    return [distance.metrics() | {"bits": mean_bits(bench.units(), plan)}]


def _tuned(method: Method, head_bits: Literal[4, 8], bench: Bench, seed: int) -> list[Metrics]:
    out = bench.folder / f"tuned-{method}-{head_bits}-seed{seed}"
    config = replace(BASE, head_bits=head_bits, seed=seed)
    if not out.exists():
        compress_and_tune(
            method,
            config,
            steps=TUNING,
            learning_rate=TUNING_RATE,
            model=bench.model,
            data=bench.shards,
            out=out,
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
            learning_rate=TUNING_RATE,
            model=bench.model,
            data=bench.shards,
            out=out,
        )
    elif not out.exists():
        shrink("channels", 0.3, config, model=bench.model, data=bench.shards, out=out)
    return [_kept(out)]


def _quantised(bits: int, *, group: int = 32, heads: Sequence[int] = (16,)) -> list[Case]:
    methods: tuple[Method, ...] = ("rtn", "hqq", "gptq", "awq")
    mark = {32: "", 0: "-row"}.get(group, f"-{group}")
    names = [f"{method}-{bits}{mark}" for method in methods]
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
    *_quantised(4, group=128),
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
    *(Case(f"peer {name}", partial(_peer, name), False) for name in WITHOUT_TEXT),
    Case(f"peer {GPTQMODEL}", partial(_peer, GPTQMODEL), True),
    *(
        Case(f"ours beside {name}", partial(_at_the_bits_of, name), True)
        for name in (*WITHOUT_TEXT, GPTQMODEL)
    ),
    Case("channels", partial(_shrunk, 0), True),
    Case("tuned-gptq-4", partial(_tuned, "gptq", 4), True),
    Case("channels-recovered", partial(_shrunk, RECOVERY), True),
)


def _found(name: str, bench: Bench, seed: int) -> tuple[float, Logits]:
    """Bits a weight of a peer, and its logits."""
    if name == GPTQMODEL:
        found = gptqmodel(bench.model, bench.shards, bench.folder, replace(BASE, seed=seed))
    else:
        found = peer(name, bench.model, bench.folder)
    if found is None:
        raise ConfigError(
            f"{name} is not installed", remedy="make peers, or install it; or leave the row out with --only"
        )
    return found


def _kept(directory: Path) -> Metrics:
    metrics = open_artefact(directory).metrics
    return {name: value for name, value in metrics.items() if isinstance(value, (int, float))}


def _each_block(decoder: Decoder, change: Callable[[Block], None]) -> None:
    for block in decoder.layers:
        assert isinstance(block, Block)
        change(block)
