"""`hanok align dpo|ipo|kto|orpo|simpo|cpo|reward`: preferences from a file into a better model, or into a reward model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import torch

from hanok.artefacts import Artefact
from hanok.errors import ConfigError, InputError
from hanok.reporting import log
from hanok.tokens.tokenizer import Tokenizer
from hanok.training.align.batches import Rows
from hanok.training.align.config import AlignConfig
from hanok.training.align.examples import Judged, Pair
from hanok.training.align.methods import PAIR_METHODS
from hanok.training.align.preference import WITH_REFERENCE, KTOObjective, PairObjective
from hanok.training.align.preferences import read_judged, read_pairs
from hanok.training.align.reference import with_reference
from hanok.training.align.reward_model import HEAD, RewardHead, RewardObjective
from hanok.training.align.stage import Prepared, Start, run_stage
from hanok.training.permutation import Permutation

Row = TypeVar("Row", Pair, Judged)


class _Read(Protocol[Row]):
    def __call__(self, file: Path, tokenizer: Tokenizer, *, max_seq_len: int) -> list[Row]: ...


def align_on_preferences(
    method: str, config: AlignConfig, *, model: Path, data: Path, out: Path, validation: Path | None = None,
    rehearsal: Path | None = None,
) -> Artefact:  # fmt: skip
    """The finished model under `out/model`; for `reward` with `reward_head.safetensors` beside its weights.

    Args:
        data: preferences (`preferences.py` says in which form). validation: more of them, not trained on;
            default: `config.held_out` of the data. rehearsal: token shards from before, learnt along in every step.

    Raises:
        Interrupted: stopped, resumable. ConfigError, InputError, ArtefactError: what does not fit, or is damaged.
    """
    if method not in PAIR_METHODS:
        raise ConfigError(f'method = "{method}"', remedy=f"with preferences: {', '.join(PAIR_METHODS)}")
    config = config.of_method(method, rehearses=rehearsal is not None)
    if method == "reward" and config.blend < 1:
        raise ConfigError(
            "blend of a reward model", remedy="its head belongs to the trained weights: leave out --blend"
        )
    files = {"data": data} | ({} if validation is None else {"validation": validation})

    def prepare(start: Start) -> Prepared:
        if method == "kto":
            return _kto(config, start, *_rows(read_judged, config, start, data, validation))
        rows, held_out = _rows(read_pairs, config, start, data, validation)
        return _pairs(method, config, start, rows, held_out)

    return run_stage(
        method, config, model=model, out=out, files=files, settings={}, prepare=prepare, rehearsal=rehearsal
    )


def _pairs(
    method: str, config: AlignConfig, start: Start, rows: list[Pair], held_out: list[Pair]
) -> Prepared:
    if method == "reward":
        drawn = torch.Generator().manual_seed(config.seed)
        head = RewardHead(start.decoder.config.hidden_size, generator=drawn, likelihood=config.likelihood)
        objective = RewardObjective(config=config, head=head, held_out=held_out)
        batches = _batches(rows, config)
        return Prepared(objective=objective, batches=batches, save_heads=lambda path: head.save(path / HEAD))
    if method in WITH_REFERENCE:
        rows, held_out = _referenced(rows, held_out, config, start)
    policy = PairObjective(
        method=method, config=config, dtype=start.plan.dtype, held_out=held_out,
        reference_by_adapters=config.lora_rank > 0,
    )  # fmt: skip
    return Prepared(objective=policy, batches=_batches(rows, config))


def _kto(config: AlignConfig, start: Start, rows: list[Judged], held_out: list[Judged]) -> Prepared:
    rows, held_out = _referenced(rows, held_out, config, start)
    objective = KTOObjective(
        config=config, dtype=start.plan.dtype, held_out=held_out, reference_by_adapters=config.lora_rank > 0
    )
    return Prepared(objective=objective, batches=_batches(rows, config))


def _referenced(
    rows: list[Row], held_out: list[Row], config: AlignConfig, start: Start
) -> tuple[list[Row], list[Row]]:
    """With the starting model's log-probabilities, unless adapters that are switched off give them."""
    if config.lora_rank:
        return rows, held_out
    settings = {
        "held_out": f"{config.held_out} of the prompts", "max_seq_len": str(config.max_seq_len), "seed": str(config.seed),
        "precision": start.plan.precision,
    }  # fmt: skip
    found = with_reference(
        {"train": rows, "validation": held_out}, start.decoder, start.out, identity={**start.identity, **settings},
        parents=start.parents, dtype=start.plan.dtype, max_tokens=config.micro_batch_tokens,
    )  # fmt: skip
    return found["train"], found["validation"]


def _rows(
    read: _Read[Row], config: AlignConfig, start: Start, data: Path, validation: Path | None
) -> tuple[list[Row], list[Row]]:
    """Rows to learn from and rows to validate on."""
    rows = read(data, start.tokenizer, max_seq_len=config.max_seq_len)
    if validation is not None:
        return rows, read(validation, start.tokenizer, max_seq_len=config.max_seq_len)
    kept, held = split_by_prompt(rows, share=config.held_out, seed=config.seed)
    log.info("%d rows to learn from, %d held out", len(kept), len(held))
    return kept, held


def split_by_prompt(rows: Sequence[Row], *, share: float, seed: int) -> tuple[list[Row], list[Row]]:
    """Rows kept and rows held out. Those of one prompt stay together, or the answers held out would be known.

    Raises:
        InputError: nothing is kept.
    """
    number: dict[bytes, int] = {}
    prompts = [number.setdefault(_prompt_of(row), len(number)) for row in rows]
    count = round(share * len(number))
    if count == len(number):
        raise InputError(f"all of {len(number)} prompts are held out", remedy="lower held_out")
    order = Permutation(len(number), f"held-out/{seed}")(np.arange(len(number)))
    chosen = set(order[:count].tolist())
    kept = [row for row, prompt in zip(rows, prompts, strict=True) if prompt not in chosen]
    held = [row for row, prompt in zip(rows, prompts, strict=True) if prompt in chosen]
    return kept, held


def _prompt_of(row: Pair | Judged) -> bytes:
    """The ids before the first that counts."""
    sequence = row.sequences[0]
    return sequence.ids[: int(sequence.mask.argmax()) + 1].tobytes()


def _batches(rows: Sequence[Row], config: AlignConfig) -> Rows[Row]:
    """Epochs end the run, unless steps or minutes are what it was given."""
    timed = config.max_steps is not None or config.max_minutes is not None
    return Rows(
        rows, per_step=config.pairs_per_step, epochs=None if timed else config.epochs, seed=config.seed
    )
