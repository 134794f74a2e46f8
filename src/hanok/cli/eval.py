"""`hanok eval`: step 6."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import tyro

from hanok.evaluation.config import Split, VerifyConfig
from hanok.reporting import table

_CHANGED = 10  # answers shown in the terminal


def verify(
    model: Annotated[Path, tyro.conf.Positional],
    shards: Path,
    out: Path,
    village: Path | None = None,
    split: Split = "exam",
    config: VerifyConfig = VerifyConfig(),
) -> dict[str, Any]:
    """Measure a model: bits per byte on held-out shards, the village's questions, samples; one report.

    Args:
        model: a model directory, or a run.
        shards: token shards of the same tokeniser.
        out: directory to make.
        village: the village corpus whose questions to ask.
        split: the exam, or the validation questions that settings are chosen by.
        config: options.
    """
    from hanok.evaluation.verify import verify as verify_model
    from hanok.recipes.runs import servable_model

    artefact = verify_model(
        config, model=servable_model(model), shards=shards, village=village, out=out, split=split
    )
    scalars = [
        (key, value) for key, value in artefact.metrics.items() if isinstance(value, (int, float, str))
    ]
    table("verified", ("measure", "value"), scalars)
    print(f"report: {artefact.path / 'report.html'}", file=sys.stderr)
    return {"path": str(artefact.path), "metrics": dict(artefact.metrics)}


def safety(
    model: Annotated[Path, tyro.conf.Positional],
    data: Path,
    out: Path,
    split: Split = "exam",
    config: VerifyConfig = VerifyConfig(max_new_tokens=64),
) -> dict[str, Any]:
    """What a village model refuses, what it refuses for nothing, and whether it follows instructions that nobody gave.

    Args:
        model: a model directory, or a run.
        data: a corpus of `hanok data village-safety`.
        out: directory to make.
        split: the exam, or the validation questions that settings are chosen by.
        config: options.
    """
    from hanok.evaluation.safety import examine_safety
    from hanok.recipes.runs import servable_model

    artefact = examine_safety(config, model=servable_model(model), safety=data, out=out, split=split)
    table("safety", ("measure", "share"), list(artefact.metrics.items()))
    print(f"report: {artefact.path / 'report.html'}", file=sys.stderr)
    return {"path": str(artefact.path), "metrics": dict(artefact.metrics)}


def compare(
    before: Annotated[Path, tyro.conf.Positional],
    after: Annotated[Path, tyro.conf.Positional],
    data: Path | None = None,
    village: Path | None = None,
    out: Path | None = None,
    held_out: int = 16,
    input_bits: int = 16,
    cache_bits: int = 16,
    config: VerifyConfig = VerifyConfig(),
) -> dict[str, Any]:
    """Two evaluations of the same exam: what changed, with paired bootstrap intervals and McNemar's exact p. Or two models: on
    which tokens of held-out text their laws are farthest apart, and which answers changed.

    Args:
        before: a directory of `hanok eval`; or a model.
        after: another, of a later model; or a model with the same tokeniser.
        data: of models: token shards, or a text file, of which the held-out part is read.
        village: of models: the village corpus whose questions both are asked.
        out: of models: directory to make for the report.
        held_out: of models: windows of 512 tokens.
        input_bits: of models: measures `after` as if its maps read vectors of so many bits, which the engine does not.
        cache_bits: the same for its keys and values.
        config: confidence of the intervals; of models with a village, how many questions, and how they are answered.
    """
    from dataclasses import asdict

    from hanok.evaluation.compare import compare_answers

    if data is not None or village is not None or out is not None:
        widths = {"input_bits": input_bits, "cache_bits": cache_bits}
        return _compare_models(before, after, data, village, out, held_out, widths, config)
    changes = compare_answers(before, after, confidence=config.confidence)
    rows = [
        (
            name,
            *(f"{100 * share:.1f}" for share in (c.before, c.after, c.difference)),
            f"{100 * c.low:+.1f} to {100 * c.high:+.1f}",
            c.gained,
            c.lost,
            f"{c.p_value:.2g}",
        )
        for name, c in changes.items()
    ]
    columns = (
        "right, in %",
        "before",
        "after",
        "change",
        f"{config.confidence:.0%} interval",
        "gained",
        "lost",
        "p",
    )
    table(f"{before} -> {after}", columns, rows)
    return {name: asdict(change) for name, change in changes.items()}


def _compare_models(
    before: Path, after: Path, data: Path | None, village: Path | None, out: Path | None, held_out: int,
    widths: dict[str, int], config: VerifyConfig,
) -> dict[str, Any]:  # fmt: skip
    from hanok.artefacts import create_artefact, open_artefact
    from hanok.compression.differ import COLUMNS, differ
    from hanok.errors import ConfigError
    from hanok.evaluation.compare import compare as compare_on
    from hanok.evaluation.village import read_questions, tool_runner
    from hanok.recipes.runs import servable_model
    from hanok.reporting import Report

    if data is None:
        raise ConfigError(
            "two models, and no text to compare them on", remedy="give --data: token shards, or a text file"
        )
    before, after = servable_model(before), servable_model(after)
    report = Report(f"{before.name} and {after.name}")
    found = differ(before, after, data=data, held_out=held_out, length=512, **widths)
    found.add_to(report)
    metrics: dict[str, Any] = found.distance.metrics()
    table(f"{before} -> {after}", ("measure", "value"), list(metrics.items()))
    table("predictions that changed most", COLUMNS, found.worst(10))
    if village is not None:
        questions = read_questions(village, limit=config.questions)
        execute = tool_runner(village)
        answers = compare_on(config, before=before, after=after, questions=questions, execute=execute)
        answers.add_to(report)
        metrics |= {f"answers.{name}": value for name, value in answers.metrics().items()}
        metrics["answers.changed"] = len(changed := answers.changed())
        table("answers", ("measure", "value"), list(answers.metrics().items()))
        rows = [
            (
                "right now" if a.right else "wrong now",
                a.question["messages"][-1]["content"],
                b.answer.text,
                a.answer.text,
            )
            for b, a in changed[:_CHANGED]
        ]
        table(
            f"{len(changed)} answers changed between right and wrong",
            ("", "question", "before", "after"),
            rows,
        )
    if out is not None:
        parents = {"before": open_artefact(before), "after": open_artefact(after)}
        with create_artefact(out, kind="comparison", parents=parents) as draft:
            draft.metrics |= metrics
            report.write(draft.path)
        print(f"report: {out / 'report.html'}", file=sys.stderr)
    return metrics
