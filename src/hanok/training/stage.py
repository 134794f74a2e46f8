"""What every training stage does with its directory: its plan, the files of its checkpoints, its result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from hanok.artefacts import Artefact, create_artefact
from hanok.errors import ConfigError
from hanok.models.checkpoint import load_model, save_model
from hanok.models.decoder import Decoder
from hanok.models.lora import LoraConfig, Merged, add_adapter, restore_adapter, save_adapter
from hanok.training.checkpoint import disk_full_is_resumable
from hanok.training.config import TrainConfig
from hanok.training.loop import Trainer
from hanok.training.plan import Plan, new_plan, read_plan
from hanok.training.team import fill_all


def plan_of(config: TrainConfig, identity: dict[str, Any], out: Path, *, processes: int = 1) -> Plan | None:
    """The plan of the run that began in `out`, or a new one; None if that run is done."""
    plan = read_plan(out, identity)
    if plan is not None and (out / "model").exists():
        return None
    if plan is None:
        plan = new_plan(config, identity, processes=processes)
        with disk_full_is_resumable(out):
            plan.write(out)
    return plan


def files_of(
    config: TrainConfig, decoder: Decoder, *, tokenizer_dir: Path, init_from: Path | None
) -> tuple[Callable[[Decoder, Path], None], Callable[[Path], None]]:
    """How checkpoints hold what is trained: the whole model, or adapters put on it here."""
    if not config.lora_rank:
        return (
            lambda whole, directory: save_model(whole, directory, tokenizer_dir=tokenizer_dir),
            lambda path: _refill(decoder, load_model(path, dtype=torch.float32)),
        )
    if init_from is None:
        raise ConfigError(
            "lora_rank without a model to start from", remedy="give --init-from, or lora_rank = 0"
        )
    lora = lora_config(config)
    add_adapter(decoder, lora, generator=torch.Generator().manual_seed(config.seed))
    return (
        lambda whole, directory: save_adapter(whole, lora, directory, base=str(init_from)),
        lambda path: restore_adapter(decoder, path),
    )


def lora_config(config: TrainConfig) -> LoraConfig:
    """The adapters that a training configuration asks for."""
    return LoraConfig(
        rank=config.lora_rank, alpha=config.lora_alpha or 2.0 * config.lora_rank, targets=config.lora_targets,
        dropout=config.lora_dropout, dora=config.lora_dora,
    )  # fmt: skip


def _refill(decoder: Decoder, stored: Decoder) -> None:
    fill_all(decoder.state_dict(), stored.state_dict())


def write_model(
    trainer: Trainer[Any], model: Decoder, *, tokenizer_dir: Path, out: Path, parents: Mapping[str, Artefact],
    summary: Mapping[str, Any], write_more: Callable[[Path], None] = lambda _: None,
) -> None:  # fmt: skip
    """The finished model under `out/model`, adapters beside it and merged in.

    Args:
        model: the trainer's decoder with all its rows. write_more: other files of the directory.
    """
    with (
        disk_full_is_resumable(out / "model"),
        create_artefact(
            out / "model",
            kind="model",
            parents=parents,
            step={"training": trainer.plan.identity},
            overwrite=True,
        ) as draft,
    ):
        if trainer.config.lora_rank:
            _write_adapter(trainer, out, parents=parents)
            Merged(model).keep()
        save_model(model, draft.path, tokenizer_dir=tokenizer_dir)
        write_more(draft.path)
        draft.metrics.update(summary)


def _write_adapter(trainer: Trainer[Any], out: Path, *, parents: Mapping[str, Artefact]) -> None:
    step = {"training": trainer.plan.identity}
    with create_artefact(
        out / "adapter", kind="adapter", parents=parents, step=step, overwrite=True
    ) as draft:
        save_adapter(
            trainer.decoder, lora_config(trainer.config), draft.path, base=str(parents["model"].path)
        )
