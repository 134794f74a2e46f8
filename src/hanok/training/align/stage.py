"""One alignment stage, whichever its objective: from a model directory to a better one, resumable anywhere.

out/plan.json        what was decided at the beginning          out/metrics.jsonl   one line a step
out/checkpoints/     resumable and loadable                     out/report.html     curves and settings
out/model/           the result                                 out/adapter/        with lora_rank, in PEFT's files
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from hanok.artefacts import Artefact, open_artefact, sha256_file, sole_user
from hanok.artefacts.shards import open_shards
from hanok.errors import ConfigError, InputError
from hanok.models.checkpoint import load_model
from hanok.models.decoder import Decoder
from hanok.reporting import Report, log
from hanok.tokens.tokenizer import Tokenizer
from hanok.training.align.config import AlignConfig
from hanok.training.align.rehearsal import Rehearsing, WithRehearsal, sampler_of
from hanok.training.align.report import write_report
from hanok.training.average import blend_
from hanok.training.distil.config import DistilConfig
from hanok.training.loop import Surroundings, Trainer
from hanok.training.objective import Batches, Objective
from hanok.training.plan import Plan, use_threads
from hanok.training.stage import files_of, plan_of, write_model
from hanok.training.stop import stop_on_signals
from hanok.training.team import Team, join_team


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """What a method finds when it prepares: the model as it starts (with fresh adapters, if it has any)."""

    decoder: Decoder
    tokenizer: Tokenizer
    plan: Plan
    out: Path
    parents: Mapping[str, Artefact]
    identity: Mapping[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """Args:
    save_heads: writes what is trained beside the decoder into the result's directory. add_to_page: more for the report.
    """

    objective: Objective[Any]
    batches: Batches[Any]
    save_heads: Callable[[Path], None] = lambda _: None
    add_to_page: Callable[[Report], None] = lambda _: None


def run_stage(
    method: str, config: AlignConfig | DistilConfig, *, model: Path, out: Path, files: Mapping[str, Path],
    settings: Mapping[str, Any], prepare: Callable[[Start], Prepared], more: Mapping[str, Artefact] | None = None,
    rehearsal: Path | None = None,
) -> Artefact:  # fmt: skip
    """The finished model.

    Args:
        files: role -> file that the run learns from; their hashes belong to its identity, and so do `settings`.
        more: role -> artefact beside the model that the run learns from.
        rehearsal: token shards from before, learnt along in every step (`rehearsal.py`).

    Raises:
        Interrupted: stopped, resumable. ConfigError, InputError, ArtefactError: what does not fit, or is damaged.
    """
    parents = {"model": open_artefact(model), **(more or {})}
    if rehearsal is not None:
        parents["rehearsal"] = open_artefact(rehearsal, kind="shards")
    hashes = {"method": method, **{role: parent.hash for role, parent in parents.items()}}
    for role, file in files.items():
        if not file.is_file():
            raise InputError(f"no file {file}", remedy=f"give a JSONL file as --{role}")
        hashes[role] = sha256_file(file)
    identity = {**hashes, "config": asdict(config), "settings": dict(settings)}
    training = config.training()
    out.mkdir(parents=True, exist_ok=True)
    with join_team() as team, sole_user(out, "training"):
        if not team.alone:
            raise ConfigError("alignment runs in one process", remedy="run it without torchrun")
        plan = plan_of(training, identity, out)
        if plan is None:
            return open_artefact(out / "model", kind="model")
        use_threads(plan.threads)
        log.info("%s: %s; %d threads", method, plan.precision_reason, plan.threads)
        torch.manual_seed(config.seed)
        decoder = _load(config, model)
        decoder.set_compute_dtype(plan.dtype)
        write, read = files_of(training, decoder, tokenizer_dir=model, init_from=model)
        start = Start(
            decoder=decoder, tokenizer=Tokenizer.load(model), plan=plan, out=out, parents=parents, identity=hashes
        )  # fmt: skip
        prepared = prepare(start)
        if rehearsal is not None:
            assert isinstance(config, AlignConfig)
            prepared = _rehearsing(config, prepared, rehearsal, start)
        around = Surroundings(out=out, parents=parents, write_model=write, read_model=read, team=Team())
        trainer = Trainer(
            training, plan, decoder=decoder, objective=prepared.objective, batches=prepared.batches, surroundings=around
        )  # fmt: skip
        with stop_on_signals() as stop:
            trainer.resume()
            trainer.run(stop)
        summary = write_report(method, config, trainer, add=prepared.add_to_page)
        if isinstance(config, AlignConfig) and config.blend < 1:
            log.info(
                "the result lies %g of the way from the starting weights; figures so far are of the trained ones",
                config.blend,
            )
            blend_(decoder, _load(config, model), config.blend)
        write_model(
            trainer, decoder, tokenizer_dir=model, out=out, parents=parents, summary=summary,
            write_more=prepared.save_heads,
        )  # fmt: skip
    return open_artefact(out / "model", kind="model")


def _rehearsing(config: AlignConfig, prepared: Prepared, shards: Path, start: Start) -> Prepared:
    opened = open_shards(shards, verify=False)  # its manifest was compared when it was opened as a parent
    opened.require_tokenizer(start.tokenizer.hash)
    objective = Rehearsing(inner=prepared.objective, weight=config.rehearsal_weight, dtype=start.plan.dtype)
    return replace(
        prepared, objective=objective, batches=WithRehearsal(prepared.batches, sampler_of(config, opened))
    )


def _load(config: AlignConfig | DistilConfig, model: Path) -> Decoder:
    decoder = load_model(model, dtype=torch.float32)
    if config.max_seq_len > decoder.config.max_context:
        raise ConfigError(
            f"max_seq_len = {config.max_seq_len} is longer than the model's context of "
            f"{decoder.config.max_context} tokens",
            remedy="lower max_seq_len",
        )
    return decoder
