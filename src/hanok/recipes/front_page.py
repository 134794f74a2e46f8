"""`runs/<name>/report.html`: the run's front page, with a link to each step's own report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from hanok.artefacts import Artefact
from hanok.recipes.align import COLUMNS, alignment_changes
from hanok.recipes.base import changes
from hanok.recipes.recipe import Recipe
from hanok.recipes.stages import RUN_FILE
from hanok.reporting import Report

TITLES = {
    "village": "collect: the embedded village",
    "collect": "collect",
    "clean": "clean",
    "split": "split",
    "tokenizer": "split: tokeniser",
    "shards": "split: token shards",
    "replay": "collect: general documents",
    "replay-clean": "clean: general documents",
    "replay-split": "split: general documents",
    "base": "configure: the model to start from",
    "before-shards": "verify: token shards as the model came",
    "before": "verify: the model as it came",
    "pretrain": "configure and train",
    "sft": "train: chats",
    "village-alignment": "collect: preferences and prompts about the village",
    "unaligned": "verify: before alignment",
    "aligned": "verify: after alignment",
    "verify": "verify",
}


def write_front_page(run: Path, recipe: Recipe, done: Mapping[str, Artefact]) -> None:
    """One page: result first, then each step with its time, hash and report."""
    stages = json.loads((run / RUN_FILE).read_text(encoding="utf-8"))["stages"]
    report = Report(f"Run {run.name}")
    if recipe.description:
        report.add_text("What this is", recipe.description)
    compared = changes(done)
    if compared:
        columns = ("bits per byte of", "before", "after", "relative change")
        report.add_table("Before and after", columns, compared)
    if aligned := alignment_changes(done):
        report.add_table("Before and after alignment, share of right answers", COLUMNS, aligned)
    headline = {k: v for k, v in done["verify"].metrics.items() if isinstance(v, (int, float))}
    report.add_table("Result", ("measure", "value"), list(headline.items()))
    rows = [
        (_title(name), float(stages[name]["seconds"]), artefact.kind, artefact.hash[:12])
        for name, artefact in done.items()
    ]
    report.add_table("Steps", ("step", "seconds", "artefact", "hash"), rows)
    links = [(_title(name), _report_of(run, artefact)) for name, artefact in done.items()]
    report.add_links("Reports", [(title, link) for title, link in links if link])
    report.add_json({"stages": stages})
    report.write(run)


def _title(stage: str) -> str:
    return (
        f"align: {stage.removeprefix('align-')}" if stage.startswith("align-") else TITLES.get(stage, stage)
    )


def _report_of(run: Path, artefact: Artefact) -> str | None:
    for folder in (artefact.path, artefact.path.parent):
        page = folder / "report.html"
        if page.is_file() and folder != run:
            return page.relative_to(run).as_posix()
    return None
