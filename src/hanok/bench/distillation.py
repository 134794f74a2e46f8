"""Distillation on the village: does a student learn more from its own answers than from the teacher's, in equal steps?

For each seed a student of a quarter of the teacher's parameters is drawn and fine-tuned on the teacher's answers (MiniLLM's
start). From that one start it learns on, in equal steps of about equally many tokens:

    samples      on more of the teacher's answers (next-token learning)
    logits       on the same answers, with the teacher's law at each token (forward KL over the kept tokens)
    mixed        half of the steps on its own answers, with the teacher's law at each token (GKD's lambda .5, forward KL)

All take prompts from the same documents and the same learning rates. Then the village's exam, and bits per byte of held-out
text and chats. Every stage goes on where it was stopped, so the whole may be run in pieces.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hanok.artefacts import Artefact, open_artefact
from hanok.bench.stopped import stoppable
from hanok.bench.study import study_parser
from hanok.evaluation.compare import compare_answers
from hanok.evaluation.config import Split, VerifyConfig
from hanok.evaluation.verify import verify
from hanok.reporting import table
from hanok.training.distil.config import DistilConfig, Shrink
from hanok.training.distil.run import distil, reads_samples

_MEASURES = {
    "text": "bits_per_byte.text", "chat": "bits_per_byte.chat", "village": "village.accuracy", "facts": "village.fact",
    "sums": "village.arithmetic", "questions": "village.questions",
}  # fmt: skip
_SHARE = 0.25
_OFFSET = 100  # the start's seed and its continuations' read the documents in different orders


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """Args: answers: of the teacher. start_steps, steps: before the ways part, and of each way."""

    answers: int = 12_288
    start_steps: int = 2000
    steps: int = 1000
    tokens_per_step: int = 2048
    threads: int = 0


def run(
    *, teacher: Path, shards: Path, village: Path, out: Path, seeds: Sequence[int], sizes: Sizes, ways: Mapping[str, Any],
    split: Split = "exam",
) -> list[dict[str, Any]]:  # fmt: skip
    """Args: ways: name -> (method, settings that are its own)."""
    rows: list[dict[str, Any]] = []
    for seed in seeds:
        folder = out / f"seed-{seed}"
        start = _start(teacher, shards, out, seed, sizes)
        found = {"start": _exam(start.path, shards, village, folder / "start", split)}
        for name, (method, changes) in ways.items():
            config = replace(_config(sizes), seed=seed + _OFFSET, max_steps=sizes.steps, **changes)
            model = distil(
                method, config, teacher=teacher, shards=shards, out=folder / name, student=start.path,
                samples=out / "samples" if reads_samples(method, config) else None,
            )  # fmt: skip
            found[name] = _exam(model.path, shards, village, folder / name, split)
        _tell(seed, found)
        rows += [{"seed": seed, "way": name, **_measured(exam)} for name, exam in found.items()]
    return rows


def _config(sizes: Sizes) -> DistilConfig:
    return DistilConfig(
        mixture={"chat-train": 0.85, "text-train": 0.15}, answers=sizes.answers, tokens_per_step=sizes.tokens_per_step,
        micro_batch_tokens=sizes.tokens_per_step, generator="bf16", muon_lr=2e-3, adamw_lr=8e-4, validate_every=1_000_000,
        checkpoint_every=50, threads=sizes.threads, samples_kept=2,
    )  # fmt: skip


def _start(teacher: Path, shards: Path, out: Path, seed: int, sizes: Sizes) -> Artefact:
    """The first start's teacher writes the answers; they serve all."""
    samples, folder = out / "samples", out / f"seed-{seed}" / "start"
    config = replace(
        _config(sizes), seed=seed, max_steps=sizes.start_steps, muon_lr=0.01, adamw_lr=0.004, final_lr=0.3
    )
    if not samples.exists():
        writing = out / "writing"
        distil(
            "offline", replace(config, seed=0, max_steps=1), teacher=teacher, shards=shards, out=writing,
            shrink=Shrink(share=_SHARE),
        )  # fmt: skip
        shutil.move(writing / "samples", samples)
    return distil(
        "offline", config, teacher=teacher, shards=shards, out=folder, samples=samples,
        shrink=Shrink(share=_SHARE),
    )  # fmt: skip


def _exam(model: Path, shards: Path, village: Path, folder: Path, split: Split) -> Artefact:
    path = folder / "exam"
    if path.exists():
        return open_artefact(path, kind="evaluation")
    return verify(VerifyConfig(), model=model, shards=shards, village=village, out=path, split=split)


def _measured(exam: Artefact) -> dict[str, float]:
    return {name: exam.metrics[key] for name, key in _MEASURES.items() if key in exam.metrics}


def _tell(seed: int, found: Mapping[str, Artefact]) -> None:
    """What was measured, and each way against the teacher's answers, question by question."""
    columns = list(_measured(found["start"]))
    table(
        f"seed {seed}", ("way", *columns),
        [(name, *(_measured(exam).get(column, "") for column in columns)) for name, exam in found.items()],
    )  # fmt: skip
    if "samples" not in found:
        return
    for name, exam in found.items():
        if name in ("start", "samples"):
            continue
        change = compare_answers(found["samples"].path, exam.path)["all"]
        print(
            f"seed {seed}, {name} - samples: {100 * change.difference:+.1f} points of all questions, 95 % interval "
            f"{100 * change.low:+.1f} to {100 * change.high:+.1f}",
            file=sys.stderr,
        )


_MORE = {"muon_lr": 5e-3, "adamw_lr": 2e-3}
_LESS = {"muon_lr": 1e-3, "adamw_lr": 4e-4}
_FORWARD: dict[str, Any] = {"on_policy": 0.5, "beta": 0.0}
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "samples": ("offline", {}),
    "logits": ("logits", {"learn_from": "samples", "top_k": 32}),
    "mixed": ("on-policy", _FORWARD),
}
CHOICES: dict[str, tuple[str, dict[str, Any]]] = {
    **WAYS,
    "samples-more": ("offline", _MORE),
    "samples-less": ("offline", _LESS),
    "mixed-more": ("on-policy", {**_FORWARD, **_MORE}),
    "mixed-less": ("on-policy", {**_FORWARD, **_LESS}),
    "mixed-gkd-more": ("on-policy", {"on_policy": 0.5, "beta": 0.5, **_MORE}),
    "own": ("on-policy", {"on_policy": 1.0, "beta": 0.0}),
    "own-more": ("on-policy", {"on_policy": 1.0, "beta": 0.0, **_MORE}),
    "own-gkd": ("on-policy", {"on_policy": 1.0, "beta": 0.5}),
    "own-gkd-more": ("on-policy", {"on_policy": 1.0, "beta": 0.5, **_MORE}),
    "own-reverse-more": ("on-policy", {"on_policy": 1.0, "beta": 1.0, **_MORE}),
}


@stoppable
def main() -> None:
    parser = study_parser(
        __doc__, Path("runs/bench/distillation"), CHOICES, choose="seed 0, more settings, and validation questions alone"
    )  # fmt: skip
    for name in ("answers", "start_steps", "steps", "tokens_per_step", "threads"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=getattr(Sizes(), name))
    options = parser.parse_args()
    names = options.ways or (CHOICES if options.choose else WAYS)
    rows = run(
        teacher=options.run / "model", shards=options.run / "shards", out=options.folder,
        village=options.run / "village", split="validation" if options.choose else "exam",
        seeds=[0] if options.choose else options.seeds, ways={name: CHOICES[name] for name in names},
        sizes=Sizes(**{name: getattr(options, name) for name in Sizes.__dataclass_fields__}),
    )  # fmt: skip
    if options.json:
        json.dump(rows, sys.stdout, indent=1)
