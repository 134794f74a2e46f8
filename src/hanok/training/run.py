"""`train`: from token shards and a model (new, or a directory) to a finished model directory, resumable anywhere.

out/plan.json        what was decided at the beginning          out/metrics.jsonl   one line a step
out/checkpoints/     resumable and loadable                     out/report.html     curves and settings
out/model/           the result                         out/adapter/        with lora_rank: the adapters, in PEFT's files
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from hanok.artefacts import Artefact, open_artefact, sole_user
from hanok.artefacts.shards import Shards, open_shards
from hanok.errors import ConfigError
from hanok.models.checkpoint import load_model
from hanok.models.config import ModelConfig
from hanok.models.decoder import Decoder
from hanok.reporting import log
from hanok.tokens.tokenizer import Tokenizer
from hanok.training.config import TrainConfig
from hanok.training.loop import Surroundings, Trainer
from hanok.training.objective import Objective
from hanok.training.objectives.next_token import NextToken
from hanok.training.objectives.rounded import Rounded, as_the_engine
from hanok.training.plan import Plan, use_threads
from hanok.training.report import write_report
from hanok.training.sampler import Sampler
from hanok.training.stage import files_of, plan_of, write_model
from hanok.training.stop import stop_on_signals
from hanok.training.team import Team, join_team
from hanok.training.validation import Validation, choose_held_out


def train(
    config: TrainConfig,
    *,
    shards: Path,
    out: Path,
    model: ModelConfig | None = None,
    init_from: Path | None = None,
    resume: bool = True,
) -> Artefact:
    """Pre-train or fine-tune, and return the finished model.

    Args:
        shards: token shards; their tokeniser goes into every checkpoint.
        out: the stage's directory; the model appears under `out/model`.
        model: configuration of a new model; or `init_from`: a model directory to go on from.
        resume: go on from what an interrupted run left in `out`; otherwise `out` must be new.

    Raises:
        Interrupted: stopped by a signal or a full disk, resumable.
        ConfigError, InputError, ArtefactError: settings and inputs that do not fit each other, or are damaged.
    """
    if (model is None) == (init_from is None):
        raise ConfigError("give either a model configuration or a model directory to start from")
    with join_team() as team:
        return _train(config, team, shards=shards, out=out, model=model, init_from=init_from, resume=resume)


def _train(
    config: TrainConfig, team: Team, *, shards: Path, out: Path, model: ModelConfig | None, init_from: Path | None,
    resume: bool,
) -> Artefact:  # fmt: skip
    parents = {"shards": open_artefact(shards)}
    if init_from is not None:
        parents["model"] = open_artefact(init_from)
    identity = {
        "config": asdict(config),
        "model": asdict(model) if model is not None else None,
        **{name: parent.hash for name, parent in parents.items()},
    }
    out.mkdir(parents=True, exist_ok=True)
    if not resume and any(out.iterdir()):
        raise ConfigError(f"{out} is not empty", remedy="resume, or give another output directory")
    with sole_user(out, "training") if team.first else nullcontext():
        plan = team.agree(plan_of(config, identity, out, processes=team.size) if team.first else None)
        if plan is None:
            return open_artefact(out / "model", kind="model")
        use_threads(plan.threads)
        team.settle_on(plan.device)
        if team.first:
            log.info("%s; %s; %d threads", plan.device_reason, plan.precision_reason, plan.threads)
        trainer = _prepare(
            config, plan, team, shards=shards, out=out, model=model, init_from=init_from, parents=parents
        )
        with stop_on_signals() as stop:
            trainer.resume()
            trainer.run(stop)
            return _finish(trainer, shards=shards, out=out, parents=parents)


def _prepare(
    config: TrainConfig, plan: Plan, team: Team, *, shards: Path, out: Path, model: ModelConfig | None,
    init_from: Path | None, parents: Mapping[str, Artefact],
) -> Trainer:  # fmt: skip
    if not team.alone and (config.lora_rank or config.compile or config.quantise != "none"):
        raise ConfigError(
            "adapters, compiled training and rounded weights go in one process",
            remedy="run without torchrun, or without them",
        )
    opened = open_shards(shards, verify=False)  # its manifest was compared when it was opened as a parent
    torch.manual_seed(config.seed)  # for layers that draw in training; kept in every checkpoint
    decoder = _make_decoder(config, opened, model=model, init_from=init_from)
    decoder.set_compute_dtype(plan.dtype)
    write_model, read_model = files_of(config, decoder, tokenizer_dir=shards, init_from=init_from)
    decoder.to(team.device)  # drawn on the CPU: a new model is the same everywhere
    team.shard(decoder)
    sampler = Sampler(config, opened.splits)
    for name, count in sampler.documents_left_out.items():
        log.warning("%s: %d conversations longer than max_seq_len = %d tokens are left out",
                    name, count, config.max_seq_len)  # fmt: skip
    if config.compile:
        decoder.compile(dynamic=True)
    objective: Objective[Any] = NextToken(
        dtype=plan.dtype,
        mtp_weight=config.mtp_weight,
        validation=Validation(
            choose_held_out(config, opened.splits),
            special_ids=list(Tokenizer.load(shards).special.values()),
            max_tokens=config.micro_batch_tokens,
        ),
    )
    if config.quantise != "none":
        objective = Rounded(inner=objective, rounding=as_the_engine(8 if config.quantise == "int8" else 4))
    return Trainer(
        config,
        plan,
        decoder=decoder,
        batches=sampler,
        objective=objective,
        surroundings=Surroundings(
            out=out,
            parents=parents,
            write_model=write_model,
            read_model=read_model,
            team=team,
        ),
    )


def _make_decoder(
    config: TrainConfig, shards: Shards, *, model: ModelConfig | None, init_from: Path | None
) -> Decoder:
    if init_from is not None:
        shards.require_tokenizer(Tokenizer.load(init_from).hash)
        decoder = load_model(init_from, dtype=torch.float32)
    else:
        assert model is not None
        sized = replace(model, vocab_size=model.vocab_size or shards.vocab_size)
        decoder = Decoder(sized, generator=torch.Generator().manual_seed(config.seed))
    settings = decoder.config
    if settings.vocab_size < shards.vocab_size:
        raise ConfigError(
            f"the model knows {settings.vocab_size} tokens, the shards use {shards.vocab_size}",
            remedy=f"set the model's vocab_size to {shards.vocab_size}, or to 0 to take it from the shards",
        )
    if config.max_seq_len > settings.max_context:
        raise ConfigError(
            f"max_seq_len = {config.max_seq_len} is longer than the model's context of "
            f"{settings.max_context} tokens",
            remedy="lower max_seq_len or raise the model's max_context",
        )
    return decoder


def _finish(trainer: Trainer[Any], *, shards: Path, out: Path, parents: Mapping[str, Artefact]) -> Artefact:
    """Write the model (the average, if one is kept; adapters beside it and merged in) and the report."""
    team = trainer.team
    with trainer.average.applied() if trainer.average is not None else nullcontext():
        model = team.whole_model(trainer.decoder)
        team.done_by_first(lambda: _write_result(trainer, model, shards=shards, out=out, parents=parents))
    return open_artefact(out / "model", kind="model")


def _write_result(
    trainer: Trainer[Any], model: Decoder, *, shards: Path, out: Path, parents: Mapping[str, Artefact]
) -> None:
    summary = write_report(trainer.metrics.rows(), trainer, out)
    write_model(trainer, model, tokenizer_dir=shards, out=out, parents=parents, summary=summary)
