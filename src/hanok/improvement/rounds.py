"""Learning in rounds: a few steps, then an examination, until every lesson is answered as taught and nothing else suffers.

rounds.json lists what each round came to; a round that is in it is not trained again. Its model lies in round-NN/; with "sft+dpo"
round-NN-sft/ holds what the preferences start from. The reference of DPO is the model that its round starts from.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from hanok.artefacts import open_artefact, write_json
from hanok.artefacts.shards import Shards
from hanok.improvement.config import ImproveConfig
from hanok.improvement.examine import Examination, examine
from hanok.improvement.lessons import Lesson
from hanok.improvement.shards import LESSONS, REPLAYS
from hanok.reporting import log
from hanok.training.align.config import AlignConfig
from hanok.training.align.run import align_on_preferences
from hanok.training.config import TrainConfig
from hanok.training.run import train


@dataclass(frozen=True, kw_only=True, slots=True)
class Round:
    """One round: `learnt` lessons of all, bits per byte by split, and whether these stayed within the tolerance."""

    number: int
    learnt: int
    bits: Mapping[str, float]
    in_tolerance: bool


def learn(
    config: ImproveConfig, *, base: Path, before: Examination, lessons: Sequence[Lesson], shards: Shards,
    preferences: Path, max_seq_len: int, out: Path,
) -> tuple[Path, list[Round]]:  # fmt: skip
    """The best model within the tolerance (else the last one), and all rounds.

    Args:
        preferences: a file of pairs, for objectives with dpo.

    Raises:
        Interrupted: by a signal; what was trained is kept.
    """
    rounds = _read(out)
    while not _finished(config, rounds, len(lessons)):
        number = len(rounds) + 1
        start = _place(out, number - 1) / "model" if rounds else base
        model = _train_round(
            config,
            number,
            start=start,
            shards=shards,
            preferences=preferences,
            max_seq_len=max_seq_len,
            out=out,
        )
        found = examine(config, model, lessons, shards)
        rounds.append(
            Round(
                number=number, learnt=sum(found.learnt), bits=found.bits,
                in_tolerance=within(config, before.bits, found.bits),
            )
        )  # fmt: skip
        write_json(out / "rounds.json", [asdict(one) for one in rounds])
        log.info("round %d: %d of %d lessons learnt", number, sum(found.learnt), len(lessons))
    best = max(rounds, key=lambda one: (one.in_tolerance, one.learnt, -one.number))
    return _place(out, best.number) / "model", rounds


def _train_round(
    config: ImproveConfig, number: int, *, start: Path, shards: Shards, preferences: Path, max_seq_len: int, out: Path
) -> Path:  # fmt: skip
    """Its model. What is finished already is not trained again."""
    place = _place(out, number)
    if config.objective != "dpo":
        told = place if config.objective == "sft" else place.with_name(f"{place.name}-sft")
        settings = _train_config(config, shards, number, max_seq_len)
        start = train(settings, shards=shards.path, out=told, init_from=start).path
        shutil.rmtree(told / "checkpoints", ignore_errors=True)
    if config.objective != "sft":
        settings = _align_config(config, number, max_seq_len)
        start = align_on_preferences("dpo", settings, model=start, data=preferences, out=place).path
        for name in ("checkpoints", "reference"):
            shutil.rmtree(place / name, ignore_errors=True)
    return start


def within(config: ImproveConfig, before: Mapping[str, float], after: Mapping[str, float]) -> bool:
    """Whether no split's bits per byte rose by more than the tolerance."""
    return all(after[name] <= most_bits(config, bits) for name, bits in before.items())


def most_bits(config: ImproveConfig, before: float) -> float:
    return before * (1 + config.bits_tolerance) + config.bits_slack


def clear_rounds(out: Path) -> None:
    """Free the disk of what only a resumed run would need; logs and reports stay."""
    for folder in out.glob("round-*"):
        for name in ("model", "checkpoints", "reference"):
            shutil.rmtree(folder / name, ignore_errors=True)


def _finished(config: ImproveConfig, rounds: Sequence[Round], lessons: int) -> bool:
    if not rounds:
        return False
    last = rounds[-1]
    return (last.learnt == lessons and last.in_tolerance) or len(rounds) >= config.rounds


def _train_config(config: ImproveConfig, shards: Shards, number: int, max_seq_len: int) -> TrainConfig:
    mixture = {LESSONS: 1.0 - config.replay}
    mixture |= {
        name: config.replay for name in REPLAYS if name in shards.splits and shards.splits[name].num_documents
    }
    tokens = max(config.tokens_per_step, max_seq_len)
    return TrainConfig(
        max_steps=config.steps, mixture=mixture, chat_loss="assistant", max_seq_len=max_seq_len, tokens_per_step=tokens,
        micro_batch_tokens=max(min(tokens, 8192), max_seq_len), muon_lr=config.muon_lr, adamw_lr=config.adamw_lr,
        warmup_steps=min(2, config.steps - 1), weight_decay=0.0, seed=config.seed * 1000 + number, threads=config.threads,
        keep_checkpoints=1,
    )  # fmt: skip


def _align_config(config: ImproveConfig, number: int, max_seq_len: int) -> AlignConfig:
    return AlignConfig(
        max_steps=config.steps, seed=config.seed * 1000 + number, muon_lr=config.preference_lr * config.muon_lr,
        adamw_lr=config.preference_lr * config.adamw_lr, warmup_steps=min(2, config.steps - 1), threads=config.threads,
        max_seq_len=max_seq_len, micro_batch_tokens=max(8192, max_seq_len), pairs_per_step=config.pairs_per_step,
        beta=config.beta, nll_weight=config.nll_weight, held_out=0.0, keep_checkpoints=1,
    )  # fmt: skip


def _place(out: Path, number: int) -> Path:
    return out / f"round-{number:02d}"


def _read(out: Path) -> list[Round]:
    """Rounds that were examined and whose last model is still whole."""
    file = out / "rounds.json"
    if not file.is_file():
        return []
    rounds = [Round(**row) for row in json.loads(file.read_text(encoding="utf-8"))]
    for one in rounds:
        open_artefact(_place(out, one.number) / "model", kind="model")
    return rounds
