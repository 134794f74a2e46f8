"""Preferences of the harder village: how far do missed abstentions fall, and what is forgotten for it?

    dpo            all pairs once, then 70 % of the way from the starting weights to the trained ones
    rehearsed      the same with documents and chats from before learnt along in every step, and 75 % of the way

Settings are chosen with seed 0 on validation questions (`--choose`) and reported on the exam, which shares nothing with
them; facts are asked whatever the documents say, so facts that no conversation ever mentioned count, too. Every stage goes on
where it was stopped, so the whole may be run in pieces.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hanok.bench.outcome import Rows
from hanok.bench.stopped import stoppable
from hanok.bench.study import study_parser
from hanok.bench.village_exam import changes, exam, points
from hanok.data.village.alignment import write_alignment
from hanok.data.village.config import AlignmentDataConfig
from hanok.evaluation.config import Split
from hanok.recipes.runs import servable_model
from hanok.reporting import table
from hanok.training.align.config import AlignConfig
from hanok.training.align.run import align_on_preferences

TRAINING = AlignConfig(max_steps=122, nll_weight=1.0, muon_lr=4e-4, adamw_lr=1.2e-4)
Way = tuple[str, bool, Mapping[str, Any]]
"""A method, whether it rehearses, and settings beside `TRAINING`."""
WAYS: Mapping[str, Way] = {
    "dpo": ("dpo", False, {"blend": 0.7}),
    "rehearsed": ("dpo", True, {"blend": 0.75}),
}
CHOICES: Mapping[str, Way] = {
    **WAYS,
    "dpo-unblended": ("dpo", False, {}),
    "dpo-half": ("dpo", False, {"blend": 0.5}),
    "rehearsed-unblended": ("dpo", True, {}),
    "rehearsed-faster": ("dpo", True, {"blend": 0.75, "muon_lr": 8e-4, "adamw_lr": 2.4e-4}),
    "rehearsed-much": ("dpo", True, {"blend": 0.75, "rehearsal_tokens": 4096}),
    "per-token": ("dpo", False, {"dpo_loss": "per-token"}),
    "hinge": ("dpo", False, {"dpo_loss": "hinge"}),
    "robust": ("dpo", False, {"dpo_loss": "robust", "label_smoothing": 0.1}),
    "lora": ("dpo", False, {"lora_rank": 16, "muon_lr": 2e-3, "adamw_lr": 2e-3}),
}


def run(
    *, model: Path, shards: Path, village: Path, folder: Path, seeds: Sequence[int], ways: Mapping[str, Way], split: Split,
    data: AlignmentDataConfig = AlignmentDataConfig(), training: AlignConfig = TRAINING,
) -> Rows:  # fmt: skip
    """Rows {way, seed, missed, facts, sums}: abstentions missed in per cent, the others as changes in points."""
    hard = folder / "hard"
    if not hard.exists():
        write_alignment(data, village, hard)
    before = exam(model, shards, hard, folder / f"before-{split}", split)
    rows: Rows = []
    for seed in seeds:
        for name, (method, rehearses, settings) in ways.items():
            out = folder / f"{name}-seed{seed}"
            trained = align_on_preferences(
                method, replace(training, seed=seed, **settings), model=model, data=hard / "preferences.jsonl", out=out,
                validation=hard / "preferences-validation.jsonl", rehearsal=shards if rehearses else None,
            ).path  # fmt: skip
            found = changes(before, exam(trained, shards, hard, out / split, split))
            unknown = found["abstentions"]
            rows.append(
                {
                    "way": name, "seed": seed, "missed before": round(100 * (1 - unknown.before), 1),
                    "missed": round(100 * (1 - unknown.after), 1), "abstentions": points(unknown),
                    "facts": points(found["facts"]), "sums": points(found["sums"]),
                }
            )  # fmt: skip
    columns = list(rows[0])
    table(
        f"preferences: changes in points ({split})", columns,
        [[row[column] for column in columns] for row in rows],
    )  # fmt: skip
    return rows


@stoppable
def main() -> None:
    parser = study_parser(
        __doc__, Path("runs/bench/preferences"), CHOICES, choose="seed 0, validation questions, and more ways by default"
    )  # fmt: skip
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()
    names = options.ways or (CHOICES if options.choose else WAYS)
    rows = run(
        model=servable_model(options.run), shards=options.run / "shards", village=options.run / "village",
        folder=options.folder, seeds=[0] if options.choose else options.seeds, ways={name: CHOICES[name] for name in names},
        split="validation" if options.choose else "exam", training=replace(TRAINING, threads=options.threads),
    )  # fmt: skip
    if options.json:
        json.dump(rows, sys.stdout, indent=1)
