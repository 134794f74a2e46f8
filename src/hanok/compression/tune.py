"""Learning the original's law of the next token after it was made smaller.

Behind a quantiser the codes' numbers become weights, which are rounded in every step (quantisation-aware tuning) and to the
nearest at the end. Behind structured pruning the smaller model learns as it is.

.OUT.tune/start   the smaller model, plain        .OUT.tune/run   the learning, with its checkpoints and report
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor

from hanok.artefacts import Artefact, create_artefact, open_artefact
from hanok.artefacts.shards import open_shards
from hanok.compression.compress import compress, decompressed, texts_of
from hanok.compression.layers import compress_layers
from hanok.compression.page import Context
from hanok.compression.rtn import rtn
from hanok.compression.settings import CompressConfig, Method, Plan
from hanok.compression.structured import Part, cost, shrink, stored_type
from hanok.errors import ConfigError
from hanok.kernels.formats import GROUP, quantise
from hanok.models.checkpoint import load_model, save_model
from hanok.models.coded import FLOAT_MAPS
from hanok.reporting import Report, log
from hanok.training.align.stage import Prepared, Start, run_stage
from hanok.training.distil.config import DistilConfig
from hanok.training.distil.objective import Divergent, live_teacher
from hanok.training.distil.teacher import Teacher
from hanok.training.objectives.rounded import Rounded, Rounding
from hanok.training.sampler import Sampler
from hanok.training.validation import Validation, choose_held_out


def compress_and_tune(
    method: Method, config: CompressConfig, *, steps: int, learning_rate: float, model: Path, data: Path, out: Path,
    widths: Mapping[str, int] = {}, context: Context = Context(),
) -> Artefact:  # fmt: skip
    """`compress`, and `steps` of tuning before the result is written; its report compares with `model`.

    Args:
        data: token shards; their train splits are learnt from.

    Raises:
        Interrupted: stopped, resumable. ConfigError: a text file, or what tuning would undo.
    """
    _check_shards(data)
    if config.prune != "none" or method == "none":
        raise ConfigError("tuning would fill what was pruned", remedy="leave out --tune or --prune")
    if out.exists():
        raise ConfigError(f"{out} is there already", remedy="choose another name, or delete it")
    plan, work = Plan(method, config, widths), out.with_name(f".{out.name}.tune")
    step = {"method": method, "widths": dict(widths), **asdict(config)}
    start = _start(plan, model, data, work, step)
    tuned = _tuned(
        _rounding(plan), steps, learning_rate, seed=config.seed, model=model, start=start.path, data=data,
        out=work / "run",
    )  # fmt: skip
    notes = [f"{method}, then {steps} steps of tuning on rounded weights", *context.notes]
    after = replace(
        config, smooth=0.0, rotate=False, layer_windows=0 if config.rotate else config.layer_windows
    )
    artefact = compress(
        "rtn", after, model=tuned.path, data=data, out=out, widths=widths, reference=model,
        context=replace(context, notes=notes),
    )  # fmt: skip
    shutil.rmtree(work)
    return artefact


def shrink_and_recover(
    part: Part, share: float, config: CompressConfig, *, steps: int, learning_rate: float, model: Path, data: Path, out: Path
) -> Artefact:  # fmt: skip
    """`shrink`, and `steps` of learning from `model` before the result is written: what it learnt is kept where it is nearer to
    `model` on the windows of calibration than without (`steps_kept` of the metrics is 0 otherwise).

    Raises:
        Interrupted: stopped, resumable. ConfigError: a text file, or as `shrink`.
    """
    _check_shards(data)
    if out.exists():
        raise ConfigError(f"{out} is there already", remedy="choose another name, or delete it")
    work = out.with_name(f".{out.name}.tune")
    step = {"shrink": {"part": part, "share": share, "data": open_artefact(data).hash, "seed": config.seed}}
    if (work / "start").exists():
        found = open_artefact(work / "start", kind="model")
        if found.step != step or found.parents.get("source") != open_artefact(model).hash:
            shutil.rmtree(work)
    if not (work / "start").exists():
        work.mkdir(exist_ok=True)
        shrink(part, share, config, model=model, data=data, out=work / "start")
    start = open_artefact(work / "start", kind="model")
    tuned = _tuned(
        None, steps, learning_rate, seed=config.seed, model=model, start=start.path, data=data, out=work / "run"
    )  # fmt: skip
    texts = texts_of(config, model, data)
    without, behind = (cost(model, one.path, texts.calibration)["kl"] for one in (start, tuned))
    kept = steps if behind < without else 0
    if not kept:
        log.warning(
            "%d steps led away from the model (KL %.4f, without %.4f): left out", steps, behind, without
        )
    parents = {"source": open_artefact(model), "shards": open_artefact(data)}
    with create_artefact(out, kind="model", parents=parents, step=step | {"steps": steps}) as draft:
        best = tuned if kept else start
        save_model(load_model(best.path).to(stored_type(model)), draft.path, tokenizer_dir=model)
        before = dict(start.metrics)
        draft.metrics |= before | cost(model, draft.path, texts.held_out)
        draft.metrics |= {
            "perplexity_before_recovery": before["perplexity_after"], "kl_before_recovery": before["kl"], "steps_kept": kept,
        }  # fmt: skip
        report = Report(
            f"Without {share:.0%} of its layers' parameters ({part}), and {kept} steps of recovery"
        )
        report.add_table("What it cost", ("measure", "value"), list(draft.metrics.items()))
        report.write(draft.path)
    shutil.rmtree(work)
    return open_artefact(out, verify=False)


def _check_shards(data: Path) -> None:
    if not data.is_dir():
        raise ConfigError(
            f"tuning learns from token shards, and {data} is none", remedy="give a shards directory"
        )


def _start(plan: Plan, model: Path, data: Path, work: Path, step: dict[str, object]) -> Artefact:
    """The decompressed model as a directory."""
    parent, out = open_artefact(model), work / "start"
    if out.exists():
        found = open_artefact(out, kind="model")
        if found.step == step and found.parents == {"source": parent.hash}:
            return found
        shutil.rmtree(work)
    layers = work / "layers"
    shutil.rmtree(layers, ignore_errors=True)
    layers.mkdir(parents=True)
    compress_layers(plan, model, texts_of(plan.config, model, data), layers)
    with create_artefact(out, kind="model", parents={"source": parent}, step=step) as draft:
        save_model(decompressed(plan, model, layers).float(), draft.path, tokenizer_dir=model)
    shutil.rmtree(layers)
    return open_artefact(out, kind="model")


def _tuned(
    rounding: Rounding | None, steps: int, learning_rate: float, *, seed: int, model: Path, start: Path, data: Path,
    out: Path,
) -> Artefact:  # fmt: skip
    opened = open_shards(data, verify=False)
    names = [name for name in opened.splits if name.endswith("-train") and opened.splits[name].num_documents]
    context = load_model(start, dtype="stored").config.max_context
    distil = DistilConfig(
        max_steps=steps, mixture={name: float(opened.splits[name].num_tokens) for name in names}, seed=seed,
        muon_lr=learning_rate, adamw_lr=learning_rate / 3, warmup_steps=min(20, max(1, steps // 10)), decay_fraction=0.7,
        final_lr=0.0, precision="auto", max_seq_len=min(1024, context), learn_from="corpus",
    )  # fmt: skip

    def prepare(begin: Start) -> Prepared:
        training = distil.training()
        validation = Validation(
            choose_held_out(training, opened.splits), special_ids=list(begin.tokenizer.special.values()),
            max_tokens=distil.micro_batch_tokens,
        )  # fmt: skip
        teacher = Teacher.load(model, dtype=begin.plan.dtype)
        inner = Divergent(divergence=live_teacher(teacher, beta=0.0, temperature=1.0), validation=validation)
        objective = inner if rounding is None else Rounded(inner=inner, rounding=rounding)
        return Prepared(objective=objective, batches=Sampler(training, opened.splits))

    more = {"teacher": open_artefact(model), "shards": open_artefact(data, kind="shards")}
    return run_stage("tune", distil, model=start, out=out, files={}, settings={}, prepare=prepare, more=more)


def _rounding(plan: Plan) -> Rounding:
    """To the nearest, on the grids that the result will have."""
    config = plan.config

    def rounding(name: str, weight_NK: Tensor) -> Tensor | None:
        base = name.removesuffix(".weight")
        if not base.startswith("layers."):
            if plan.head_bits == 16:
                return None
            filled = F.pad(weight_NK, (0, -weight_NK.shape[1] % GROUP))
            return quantise(filled, plan.head_bits).dequantised()[:, : weight_NK.shape[1]]
        if base.rpartition(".")[2] in FLOAT_MAPS or not config.fills(weight_NK.shape[1]):
            return None
        group = config.group_of(weight_NK.shape[1])
        return rtn(weight_NK, plan.bits(base), group, symmetric=not config.zeros).values()

    return rounding
