"""`train_heads`: from a model directory and token shards to the same model with decoding heads beside it.

out/plan.json        what was decided at the beginning          out/metrics.jsonl   one line a step
out/checkpoints/     resumable: heads and optimiser             out/report.html     curves and settings
out/model/           the model's files as they were, and `decoding_heads.safetensors`
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from hanok.artefacts import MANIFEST, Artefact, create_artefact, open_artefact, sole_user
from hanok.artefacts.shards import open_shards
from hanok.errors import ConfigError
from hanok.models.checkpoint import load_model
from hanok.models.checkpoint.decoding import HEADS_FILE, backbone_hash, load_heads, save_heads
from hanok.models.decoder import Decoder
from hanok.models.decoding import DecodingHeads
from hanok.reporting import log
from hanok.tokens.tokenizer import Tokenizer
from hanok.training.checkpoint import disk_full_is_resumable
from hanok.training.config import TrainConfig
from hanok.training.decoding.config import DecodingConfig
from hanok.training.decoding.objective import LearnedDecoding
from hanok.training.loop import Surroundings, Trainer
from hanok.training.plan import Plan, use_threads
from hanok.training.report import write_report
from hanok.training.sampler import Sampler
from hanok.training.stage import plan_of
from hanok.training.stop import stop_on_signals
from hanok.training.validation import choose_held_out

MakeTrainer = Callable[[Plan, Decoder, DecodingHeads, Surroundings], Trainer[Any]]


def train_heads(config: DecodingConfig, *, model: Path, shards: Path, out: Path) -> Artefact:
    """Train decoding heads for a model, or go on training those that it has; resumes what an earlier start left in `out`.

    Returns:
        the finished model directory.

    Raises:
        Interrupted: stopped by a signal or a full disk, resumable.
        ConfigError, InputError, ArtefactError, CheckpointError: settings and inputs that do not fit, or are damaged.
    """
    opened = open_shards(shards, verify=False)
    training = config.training()

    def make(plan: Plan, decoder: Decoder, heads: DecodingHeads, around: Surroundings) -> Trainer[Any]:
        opened.require_tokenizer(Tokenizer.load(model).hash)
        objective = LearnedDecoding(
            module=heads, alpha=config.alpha, easy_drop=config.easy_drop, weighed=config.weigh_by_confidence,
            held_out=choose_held_out(training, opened.splits), max_tokens=config.micro_batch_tokens,
        )  # fmt: skip
        return Trainer(
            training, plan, decoder=decoder, objective=objective, batches=Sampler(training, opened.splits),
            surroundings=around,
        )  # fmt: skip

    return run_on_heads(
        training, asdict(config), model=model, out=out, parents={"shards": open_artefact(shards)}, make=make
    )


def run_on_heads(
    training: TrainConfig, settings: dict[str, Any], *, model: Path, out: Path, parents: Mapping[str, Artefact],
    make: MakeTrainer,
) -> Artefact:  # fmt: skip
    """A resumable run that trains nothing but the heads of `model` (new ones where it has none)."""
    parents = {**parents, "model": open_artefact(model)}
    identity = {"config": settings, **{name: parent.hash for name, parent in parents.items()}}
    out.mkdir(parents=True, exist_ok=True)
    with sole_user(out, "training"):
        plan = plan_of(training, identity, out)
        if plan is None:
            return open_artefact(out / "model", kind="model")
        use_threads(plan.threads)
        log.info("%s; %d threads", plan.precision_reason, plan.threads)
        torch.manual_seed(training.seed)  # easy tokens are dropped by it; kept in every checkpoint
        decoder = load_model(model, dtype=torch.float32).requires_grad_(False)
        decoder.set_compute_dtype(plan.dtype)
        if training.max_seq_len > decoder.config.max_context:
            raise ConfigError(
                f"max_seq_len = {training.max_seq_len} is longer than the model's context of "
                f"{decoder.config.max_context} tokens",
                remedy="lower max_seq_len",
            )
        heads, backbone = _start(model, decoder, seed=training.seed), backbone_hash(model)
        around = Surroundings(
            out=out,
            parents=parents,
            write_model=lambda _, directory: save_heads(heads, directory, backbone=backbone),
            read_model=lambda _: None,  # the loop itself keeps and restores heads
        )
        trainer = make(plan, decoder, heads, around)
        with stop_on_signals() as stop:
            trainer.resume()
            trainer.run(stop)
            _write_result(trainer, heads, model=model, backbone=backbone, out=out, parents=parents)
    return open_artefact(out / "model", kind="model")


def _start(model: Path, decoder: Decoder, *, seed: int) -> DecodingHeads:
    width = decoder.config.hidden_size
    heads = load_heads(model, width=width)
    if heads is None:
        heads = DecodingHeads(width, generator=torch.Generator().manual_seed(seed))
    return heads.requires_grad_(True)


def _write_result(
    trainer: Trainer[Any], heads: DecodingHeads, *, model: Path, backbone: str, out: Path, parents: Mapping[str, Artefact]
) -> None:  # fmt: skip
    summary = write_report(trainer.metrics.rows(), trainer, out)
    summary["trained_parameters"] = sum(parameter.numel() for parameter in heads.parameters())
    step = {"training": trainer.plan.identity}
    with (
        disk_full_is_resumable(out / "model"),
        create_artefact(out / "model", kind="model", parents=parents, step=step, overwrite=True) as draft,
    ):
        shutil.copytree(
            model,
            draft.path,
            dirs_exist_ok=True,
            ignore=shutil.ignore_patterns(MANIFEST, HEADS_FILE, ".lock"),
        )
        save_heads(heads, draft.path, backbone=backbone)
        draft.metrics.update(summary)
