"""`hanok compress`: step 7, a smaller model."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from hanok.compression.settings import CompressConfig, Method
from hanok.errors import ConfigError
from hanok.reporting import table

if TYPE_CHECKING:
    from hanok.artefacts import Artefact
    from hanok.compression.search import Weights
    from hanok.compression.structured import Part

_TOKENS = 48  # of a measured answer


def compress(
    model: Annotated[Path, tyro.conf.Positional],
    data: Path,
    out: Path,
    method: Method | Literal["auto"] = "auto",
    target: str | None = None,
    fit: str | None = None,
    speed: str | None = None,
    measure_speed: bool = False,
    shrink: Literal["none", "channels", "heads", "experts", "layers"] = "none",
    share: float = 0.3,
    tune: int = 0,
    tune_lr: float = 3e-4,
    config: CompressConfig = CompressConfig(),
) -> dict[str, Any]:
    """Quantise the linear maps of a model's layers, and measure what that does to it.

    Args:
        model: a model directory, or a run.
        data: token shards of the model's tokeniser, or a text file: to calibrate on, and held out to measure on.
        out: directory to make; must not exist. A stopped command goes on where it was.
        method: rtn rounds to the nearest; hqq fits scales without data; gptq and awq look at activations; none only prunes;
            auto is gptq, or with a target the best of all four.
        target: bits a weight, for example "5 bits": four or eight for each group of maps, chosen by what four cost there.
        fit: the same, so that the weights take so much memory, for example 2GiB.
        speed: the same, so that this machine decodes so fast, for example 30tok/s.
        shrink: instead of rounding, take whole parts out of the layers: a smaller plain model, which may be compressed again.
        share: of the layers' parameters that go then, about.
        tune: steps of learning the original's law afterwards (token shards only); behind a quantiser with rounded weights.
        tune_lr: learning rate of matrices in these steps.
        measure_speed: decode with both models on this machine, for the report.
        config: bits, groups, pruning, rotation, amount of text.
    """
    from hanok.compression.compress import compress as make
    from hanok.compression.page import Context
    from hanok.compression.search import search
    from hanok.recipes.runs import servable_model

    source = servable_model(model)
    if shrink != "none":
        return _shrunk(shrink, share, config, tune, tune_lr, model=source, data=data, out=out)
    bits = _wanted_bits(source, target, fit, speed)
    measured = _decode_speed if measure_speed or speed is not None else None
    if bits is None:
        chosen, widths, context = "gptq" if method == "auto" else method, {}, Context(speed=measured)
    else:
        if out.exists():
            raise ConfigError(f"{out} is there already", remedy="choose another name, or delete it")
        if method == "none":
            raise ConfigError("a budget, and a method that only prunes", remedy="choose a quantiser")
        methods: tuple[Method, ...] = ("rtn", "hqq", "gptq", "awq") if method == "auto" else (method,)
        found = search(methods, config, bits, model=source, data=data, out=out)
        chosen, config, widths = found.method, found.config, found.widths
        context = Context(tried=found.tried, speed=measured, notes=found.notes)
    if tune:
        from hanok.compression.tune import compress_and_tune

        artefact = compress_and_tune(
            chosen, config, steps=tune, learning_rate=tune_lr, model=source, data=data, out=out, widths=widths,
            context=context,
        )  # fmt: skip
    else:
        artefact = make(chosen, config, model=source, data=data, out=out, widths=widths, context=context)
    return _told(chosen, artefact)


def _shrunk(
    part: Part, share: float, config: CompressConfig, steps: int, rate: float, *, model: Path, data: Path, out: Path
) -> dict[str, Any]:  # fmt: skip
    from hanok.compression.structured import shrink
    from hanok.compression.tune import shrink_and_recover

    if not steps:
        return _told(f"without {part}", shrink(part, share, config, model=model, data=data, out=out))
    made = shrink_and_recover(
        part, share, config, steps=steps, learning_rate=rate, model=model, data=data, out=out
    )
    return _told(f"without {part}", made)


def _told(what: str, artefact: Artefact) -> dict[str, Any]:
    out = artefact.path
    table(f"{what}: {out}", ("measure", "value"), list(artefact.metrics.items()))
    print(f"report: {out / 'report.html'}\nnext: hanok chat {out}", file=sys.stderr)
    return {"path": str(out), "metrics": dict(artefact.metrics)}


def _wanted_bits(model: Path, target: str | None, fit: str | None, speed: str | None) -> float | None:
    from hanok.compression.search import bits_of_target, bits_that_fit, bits_that_run, bytes_of, rate_of

    if sum(one is not None for one in (target, fit, speed)) > 1:
        raise ConfigError("several budgets", remedy="give one of --target, --fit and --speed")
    if target is not None:
        return bits_of_target(target)
    if fit is not None:
        return bits_that_fit(model, bytes_of(fit))
    return None if speed is None else bits_that_run(model, rate_of(speed), _decode_speed)


def _decode_speed(model: Path, weights: Weights | Literal["auto"] = "auto") -> float:
    """Tokens a second of one greedy answer behind a short prompt; the median of three, after one that does not count."""
    from hanok.engine.api import Request, SamplingParams
    from hanok.engine.generator import LocalEngine

    engine = LocalEngine(model, weights=weights, speculation="off")
    try:
        times = []
        for number in range(4):
            params = SamplingParams(max_tokens=_TOKENS, temperature=0.0, ignore_eos=True)
            started = time.perf_counter()
            engine.generate([Request(id=str(number), prompt_ids=(1, 2, 3, 4), params=params)])
            times.append(time.perf_counter() - started)
    finally:
        engine.close()
    return _TOKENS / sorted(times[1:])[1]
