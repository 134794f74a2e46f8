"""Step 6: what a finished model can do, on one page.

answers.jsonl   every question, what was expected, what the model said, and whether that was right
results.json    the numbers           report.html, report.json   the page
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hanok.artefacts import Artefact, create_artefact, open_artefact, write_json
from hanok.artefacts.shards import Shards, open_shards
from hanok.engine.generator import LocalEngine
from hanok.evaluation.ask import Generates, ask
from hanok.evaluation.bits import Bits, held_out_bits
from hanok.evaluation.config import Split, VerifyConfig
from hanok.evaluation.continuations import Continuation, continue_held_out
from hanok.evaluation.page import write_page
from hanok.evaluation.village import Line, Marked, headlines, mark, read_questions, tool_runner
from hanok.models.checkpoint import load_model
from hanok.tokens.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True, slots=True)
class Findings:
    """What verify measured; `lines` and `marked` are empty without a village."""

    bits: dict[str, Bits]
    lines: list[Line]
    marked: list[Marked]
    continuations: list[Continuation]
    seconds: dict[str, float]

    def metrics(self) -> dict[str, Any]:
        """Flat, for the manifest: bits_per_byte.text, village.unseen_templates.ko, ..."""
        values: dict[str, Any] = {f"bits_per_byte.{name}": bits.per_byte for name, bits in self.bits.items()}
        for line in self.lines:
            values[f"village.{line.name}"] = line.share.value
        if self.marked:
            values["village.questions"] = len(self.marked)
        return values | {f"time.{name}": round(value, 2) for name, value in self.seconds.items()}


def verify(
    config: VerifyConfig, *, model: Path, shards: Path, village: Path | None, out: Path, split: Split = "exam"
) -> Artefact:
    """Kind "evaluation".

    Args:
        model: a model directory. shards: token shards of the same tokeniser, with test splits.
        village: the corpus whose questions to ask, or None. split: "exam", or "validation" to choose settings by.

    Raises:
        ArtefactError: a damaged directory, or shards of another tokeniser.
    """
    parents = {"model": open_artefact(model), "shards": open_artefact(shards, kind="shards")}
    if village is not None:
        parents["village"] = open_artefact(village, kind="corpus")
    opened = open_shards(shards, verify=False)  # verified as a parent
    tokenizer = Tokenizer.load(model)
    opened.require_tokenizer(tokenizer.hash)
    step = {**dataclasses.asdict(config), "split": split}
    with create_artefact(out, kind="evaluation", parents=parents, step=step) as draft:
        findings = measure(
            config, LocalEngine(model), tokenizer, model=model, shards=opened, village=village, split=split
        )
        _write_answers(findings.marked, draft.path / "answers.jsonl")
        write_json(draft.path / "results.json", results(findings))
        write_page(findings, config, draft.path)
        draft.metrics |= findings.metrics()
    return open_artefact(out, kind="evaluation")


def measure(
    config: VerifyConfig,
    engine: Generates,
    tokenizer: Tokenizer,
    *,
    model: Path,
    shards: Shards,
    village: Path | None,
    split: Split = "exam",
) -> Findings:
    """All measurements, nothing written."""
    seconds: dict[str, float] = {}
    start = time.monotonic()
    decoder, bits = load_model(model), {}
    for name, held_out in shards.splits.items():
        if name.endswith("-test") and held_out.num_documents:
            bits[name.removesuffix("-test")] = held_out_bits(
                decoder, held_out, byte_lengths=tokenizer.byte_lengths, max_tokens=config.bits_tokens,
                batch_tokens=config.batch_tokens,
            )  # fmt: skip
    seconds["bits_per_byte"] = time.monotonic() - start
    start = time.monotonic()
    marked: list[Marked] = []
    if village is not None:
        questions = read_questions(village, limit=config.questions, split=split)
        marked = mark(questions, ask(engine, tokenizer, questions, config, tool_runner(village)))
        seconds["questions"] = time.monotonic() - start
    continuations = continue_held_out(engine, tokenizer, shards, config, context=decoder.config.max_context)
    return Findings(bits, headlines(marked, config.confidence), marked, continuations, seconds)


def results(findings: Findings) -> dict[str, Any]:
    """The numbers with their intervals, as JSON; without the clock, so that it is the same every time."""
    return {
        "bits_per_byte": {
            name: dataclasses.asdict(bits) | {"bits_per_byte": bits.per_byte}
            for name, bits in findings.bits.items()
        },
        "village": {
            line.name: dataclasses.asdict(line.share) | {"value": line.share.value} for line in findings.lines
        },
    }


def _write_answers(marked: Sequence[Marked], file: Path) -> None:
    with file.open("w", encoding="utf-8") as lines:
        for row in marked:
            record = dict(row.question) | {
                "said": row.answer.text, "called": row.answer.tool_calls, "right": row.right,
                "abstained": row.abstained, "tokens": row.answer.tokens, "finish_reason": row.answer.finish_reason,
            }  # fmt: skip
            lines.write(json.dumps(record, ensure_ascii=False) + "\n")
