"""Reward models of the village: from 2,000 pairs of which a tenth is labelled the wrong way round, how many clean pairs that
were held out does each order right?

    start         none is trained: the fine-tuned model's own mean log-probability of the answer
    last-token    the score is read at the last token
    likelihood    and from the mean and the least log-probability of the answer, too

Settings are chosen on one set of held-out pairs (`--choose`) and reported on another; neither has a prompt that training or
the other has. Every model goes on where it was stopped, so the whole may be run in pieces.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from hanok.artefacts import Artefact, create_artefact, open_artefact, write_jsonl
from hanok.bench.outcome import Rows
from hanok.bench.stopped import stoppable
from hanok.bench.study import study_parser
from hanok.data.village.alignment import write_alignment
from hanok.data.village.config import AlignmentDataConfig
from hanok.evaluation.statistics import Share, wilson
from hanok.models.checkpoint import load_model
from hanok.recipes.runs import servable_model
from hanok.reporting import table
from hanok.tokens.tokenizer import Tokenizer
from hanok.training.align.config import AlignConfig
from hanok.training.align.examples import Pair
from hanok.training.align.preferences import read_pairs
from hanok.training.align.reward_model import RewardModel
from hanok.training.align.run import align_on_preferences
from hanok.training.align.scoring import summed_logprobs

PAIRS, FLIPPED, FLIPPING_SEED = 2000, 0.1, 11
HELD_OUT = ("choosing", "reported")
CHOOSING, REPORTED = 250, 1150  # pairs a language, before prompts that occur elsewhere are left out
TRAINING = AlignConfig(epochs=3.0, validate_every=1_000_000)
WAYS: Mapping[str, Mapping[str, Any]] = {
    "last-token": {"muon_lr": 1.2e-3, "adamw_lr": 4e-4},
    "likelihood": {"muon_lr": 4e-4, "adamw_lr": 1.2e-4, "likelihood": True},
}
CHOICES: Mapping[str, Mapping[str, Any]] = {
    **WAYS,
    "last-token-slower": {"muon_lr": 4e-4, "adamw_lr": 1.2e-4},
    "last-token-longer": {"muon_lr": 1.2e-3, "adamw_lr": 4e-4, "epochs": 6.0},
    "likelihood-faster": {"muon_lr": 1.2e-3, "adamw_lr": 4e-4, "likelihood": True},
    "likelihood-longer": {"muon_lr": 4e-4, "adamw_lr": 1.2e-4, "likelihood": True, "epochs": 6.0},
}
Row = dict[str, Any]


def write_data(
    village: Path, out: Path, *, pairs: int = PAIRS, sizes: Sequence[int] = (CHOOSING, REPORTED)
) -> Artefact:
    """`train.jsonl` with its flipped labels, `choosing.jsonl` and `reported.jsonl` without.

    Args:
        pairs: to learn from, in all languages together. sizes: of the other two, a language.
    """
    source = open_artefact(village, kind="corpus")
    small = AlignmentDataConfig(
        pairs=pairs // len(source.step["languages"]), prompts=1, validation=1, questions=1
    )
    with (
        tempfile.TemporaryDirectory() as drawn,
        create_artefact(out, kind="preferences", parents={"village": source}) as draft,
    ):
        write_alignment(small, village, Path(drawn, "train"))
        train = _read(Path(drawn, "train", "preferences.jsonl"))
        write_jsonl(draft.path / "train.jsonl", flipped(train, FLIPPED, seed=FLIPPING_SEED))
        known = {_asked(row) for row in train}
        for seed, (name, size) in enumerate(zip(HELD_OUT, sizes, strict=True), 2):
            write_alignment(replace(small, seed=seed, validation=size), village, Path(drawn, name))
            rows = apart_from(known, _read(Path(drawn, name, "preferences-validation.jsonl")))
            write_jsonl(draft.path / f"{name}.jsonl", rows)
            draft.metrics[name] = len(rows)
    return open_artefact(out)


def flipped(rows: Sequence[Row], share: float, *, seed: int) -> list[Row]:
    """That share of the rows, drawn, with chosen and rejected exchanged."""
    turned = set(random.Random(seed).sample(range(len(rows)), round(share * len(rows))))
    return [
        {**row, "chosen": row["rejected"], "rejected": row["chosen"]} if number in turned else row
        for number, row in enumerate(rows)
    ]


def apart_from(known: set[str], rows: Sequence[Row]) -> list[Row]:
    """Rows whose prompt is not known, one of each prompt; their prompts are known from then on."""
    kept = []
    for row in rows:
        if _asked(row) not in known:
            known.add(_asked(row))
            kept.append(row)
    return kept


def ordered(scores: Sequence[float], rows: Sequence[Row]) -> dict[str, Share]:
    """Pairs ordered right, of all and of each kind. `scores`: of chosen and rejected, side by side."""
    groups: dict[str, list[bool]] = defaultdict(list)
    for chosen, rejected, row in zip(scores[::2], scores[1::2], rows, strict=True):
        for name in ("all", row["kind"]):
            groups[name].append(chosen > rejected)
    return {name: wilson(sum(right), len(right)) for name, right in groups.items()}


def run(
    *, model: Path, village: Path, folder: Path, seeds: Sequence[int], ways: Mapping[str, Mapping[str, Any]],
    held_out: str, threads: int = 0,
) -> Rows:  # fmt: skip
    """Args: held_out: which of `HELD_OUT` is ordered."""
    data = folder / "data"
    if not data.exists():
        write_data(village, data)
    file = data / f"{held_out}.jsonl"
    rows = [{"way": "start", "seed": None, **_measured(_likelihood(model), model, file)}]
    for seed in seeds:
        for name, changes in ways.items():
            config = replace(TRAINING, seed=seed, threads=threads, **changes)
            trained = align_on_preferences(
                "reward", config, model=model, data=data / "train.jsonl",
                out=folder / f"{name}-seed{seed}", validation=data / "choosing.jsonl",
            ).path  # fmt: skip
            rows.append({"way": name, "seed": seed, **_measured(_scores(trained), model, file)})
    columns = list(dict.fromkeys(column for row in rows for column in row))
    table(
        f"pairs ordered right ({held_out})",
        columns,
        [[row.get(column) for column in columns] for row in rows],
    )
    return rows


def _measured(score: Callable[[Sequence[Pair]], list[float]], model: Path, file: Path) -> dict[str, str]:
    rows = _read(file)
    pairs = read_pairs(file, Tokenizer.load(model), max_seq_len=TRAINING.max_seq_len)
    assert len(pairs) == len(rows), "no pair of the village's is left out"
    return {name: _told(share) for name, share in ordered(score(pairs), rows).items()}


def _likelihood(model: Path) -> Callable[[Sequence[Pair]], list[float]]:
    def mean(pairs: Sequence[Pair]) -> list[float]:
        decoder = load_model(model, dtype=torch.float32)
        sides = [side for pair in pairs for side in pair.sequences]
        summed = summed_logprobs(decoder, sides, dtype=torch.float32, max_tokens=TRAINING.micro_batch_tokens)
        return [total / int(side.mask.sum()) for total, side in zip(summed, sides, strict=True)]

    return mean


def _scores(model: Path) -> Callable[[Sequence[Pair]], list[float]]:
    return lambda pairs: RewardModel(model).score([side for pair in pairs for side in pair.sequences])


def _told(share: Share) -> str:
    return f"{100 * share.value:.1f} % ({100 * share.low:.1f} to {100 * share.high:.1f}) of {share.count}"


def _read(file: Path) -> list[Row]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def _asked(row: Row) -> str:
    return json.dumps(row["prompt"], ensure_ascii=False)


@stoppable
def main() -> None:
    parser = study_parser(
        __doc__, Path("runs/bench/reward-models"), CHOICES, choose="seed 0, more settings, and the choosing pairs alone"
    )  # fmt: skip
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()
    names = options.ways or (CHOICES if options.choose else WAYS)
    rows = run(
        model=servable_model(options.run), village=options.run / "village", folder=options.folder, threads=options.threads,
        seeds=[0] if options.choose else options.seeds, ways={name: CHOICES[name] for name in names},
        held_out=HELD_OUT[0] if options.choose else HELD_OUT[1],
    )  # fmt: skip
    if options.json:
        json.dump(rows, sys.stdout, indent=1)
