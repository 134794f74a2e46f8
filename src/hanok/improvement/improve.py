"""Step 8: feedback becomes data, data become a better model, or the old one stays.

run/improve-001/review/       what reviewers decided, and the report of the poisoning checks
                feedback/     corpus of the lessons, preferences.jsonl, judgements.jsonl (the snapshot), refused.jsonl
                shards/       lessons, replay, validation
                rounds.json   what each round came to; round-NN/ holds its training log and report
                model/        the new model; improvement.json says whether it is served, and why
                report.html   both models on the same questions; answers.jsonl lists all their answers
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hanok.artefacts import (
    MANIFEST,
    Artefact,
    append_jsonl,
    create_artefact,
    open_artefact,
    sole_user,
    write_json,
)
from hanok.artefacts.shards import open_shards
from hanok.artefacts.signing import Trusted
from hanok.errors import ConfigError, InputError
from hanok.improvement.accepted import PATTERN, RESULT, Improvement, current_model, improvements, model_hash
from hanok.improvement.config import ImproveConfig
from hanok.improvement.examine import compare_examinations, examine, open_village
from hanok.improvement.export import export_lessons
from hanok.improvement.feedback import Judgement, Refused, digest, read_feedback
from hanok.improvement.lessons import Lesson, Lessons, draw_lessons
from hanok.improvement.page import write_page
from hanok.improvement.poisoning.surprise import surprise_of
from hanok.improvement.reviewed import Queue, Reviewed, changed_since, review
from hanok.improvement.rounds import clear_rounds, learn
from hanok.improvement.shards import fitting, write_lesson_shards
from hanok.improvement.standing import Change, check_untainted, read_standings, told
from hanok.improvement.verdict import Findings, judge
from hanok.models.checkpoint import load_config
from hanok.reporting import log
from hanok.store.database import feedback_file
from hanok.store.review.queue import Reviews
from hanok.tokens.tokenizer import Tokenizer

Since = Callable[[], list[Change] | None]


def improve(
    run: Path,
    *,
    feedback: Path | None = None,
    out: Path | None = None,
    config: ImproveConfig = ImproveConfig(),
    queue: Queue = Reviews,
    trusted: Trusted | None = None,
) -> Artefact:
    """Learn from feedback on a run's model. Returns the new model, accepted or not (`metrics["accepted"]`).

    The same command goes on where a stopped one was; with nothing new to learn it returns what is there.

    Args:
        feedback: a database or a JSONL file; default: what the run's own server kept.
        out: the directory to make; default: the run's next `improve-NNN`. Only those are served with the run.
        queue: makes the review queue of a store.
        trusted: whose signature the model that is learnt from must have; None: none.

    Raises:
        InputError: no run, no feedback, none that teaches anything, or some that looks planted and waits for a reviewer.
        ArtefactError: damaged inputs, or a model without that signature. Interrupted: by a signal, resumable.
    """
    if not (run / "run.json").is_file() or not (run / "shards").is_dir():
        raise InputError(f"no finished run at {run}", remedy="give a folder that `hanok run` made")
    source = feedback or feedback_file(run / "model")
    base = open_artefact(current_model(run))
    if trusted is not None:
        trusted.check(base.path)
    root = model_hash(run / "model")
    read, unreadable = read_feedback(source)
    beside, surprise = feedback_file(run / "model"), surprise_of(base.path)
    reviewed = review(read, config, source=source, beside=beside, queue=queue, surprise=surprise)
    same = _same_as_before(run, base.hash, digest(reviewed.judgements), config)
    if same is not None and out is None:
        log.info("nothing new to learn since %s", same.path.name)
        return open_artefact(same.model)
    out = out or _next(run)
    out.mkdir(parents=True, exist_ok=True)
    with sole_user(out, "improving"):
        identity = {"config": asdict(config), "root": root}

        def since() -> list[Change] | None:
            before = read_standings(out / "review")
            if before is None:
                return None
            beside = feedback_file(run / "model")
            return changed_since(before, config, source=source, beside=beside, queue=queue)

        _clear_if_other(out, base.hash, identity, since)
        return _improve(
            config,
            run=run,
            out=out,
            base=base,
            identity=identity,
            reviewed=reviewed,
            unreadable=unreadable,
            since=since,
        )


def _improve(
    config: ImproveConfig, *, run: Path, out: Path, base: Artefact, identity: dict[str, Any],
    reviewed: Reviewed, unreadable: Sequence[Refused], since: Since,
) -> Artefact:  # fmt: skip
    """Args: since: what reviewers decided otherwise than when the rows were read."""
    judgements = reviewed.judgements
    tokenizer = Tokenizer.load(base.path)
    context = load_config(base.path).max_context
    max_seq_len = min(config.max_seq_len or context, context)
    if (out / "feedback").is_dir():
        judgements, _ = read_feedback(out / "feedback" / "judgements.jsonl")
    drawn = draw_lessons(judgements)
    lessons, unfit = fitting(drawn.lessons, tokenizer, max_seq_len=max_seq_len)
    refused = [*unreadable, *reviewed.refused, *drawn.refused, *unfit]
    if not lessons:
        reasons = "; ".join(f"{one.row}: {one.reason}" for one in refused[:5]) or "it is empty"
        raise InputError(
            f"nothing to learn from {len(judgements) + len(unreadable) + len(reviewed.refused)} rows of feedback ({reasons})",
            remedy="correct an answer, or like one",
        )
    preferences = _between(drawn.preferences, lessons)
    if config.objective != "sft" and not preferences:
        raise InputError(
            f"objective = {config.objective}: no disliked or corrected answer stands against one to prefer",
            remedy='correct an answer, or use objective = "sft"',
        )
    corpus = export_lessons(
        Lessons(lessons, preferences, refused),
        reviewed,
        config,
        out=out,
        parents={"model": base},
        step=identity,
    )
    log.info("%d lessons, %d preference pairs, %d rows refused", len(lessons), len(preferences), len(refused))
    shards = _write_shards(
        config, lessons, tokenizer=tokenizer, run=run, corpus=corpus, max_seq_len=max_seq_len, out=out
    )
    if not (out / "model").is_dir():
        opened = open_shards(shards.path, verify=False)
        village = open_village(run / "village", lessons, limit=config.questions)
        before = examine(config, base.path, lessons, opened, village)
        best, rounds = learn(
            config,
            base=base.path,
            before=before,
            lessons=lessons,
            shards=opened,
            preferences=corpus.path / "preferences.jsonl",
            max_seq_len=max_seq_len,
            out=out,
        )
        after = examine(config, best, lessons, opened, village)
        check_untainted(since() or ())
        findings = Findings(
            lessons=lessons, before=before, after=after, rounds=rounds,
            others=compare_examinations(config, before.others, after.others),
            paraphrases=compare_examinations(config, before.paraphrases, after.paraphrases),
        )  # fmt: skip
        verdict = judge(config, findings)
        write_page(config, findings, verdict, preferences=preferences, refused=refused, directory=out)
        parents = {"model": base, "feedback": corpus, "shards": shards}
        _publish(
            best,
            out / "model",
            parents=parents,
            identity=identity,
            metrics=findings.metrics() | verdict.metrics(),
        )
    model = open_artefact(out / "model", kind="model")
    _finish(run, out, model, base=base, identity=identity, judgements=judgements)
    return model


def _between(preferences: Sequence[dict[str, Any]], lessons: Sequence[Lesson]) -> list[dict[str, Any]]:
    """The pairs of these lessons: one that was refused teaches nothing by a pair either."""
    kept = {lesson.id for lesson in lessons}
    return [pair for pair in preferences if pair["lesson"] in kept]


def _write_shards(
    config: ImproveConfig, lessons: Sequence[Lesson], *, tokenizer: Tokenizer, run: Path, corpus: Artefact,
    max_seq_len: int, out: Path,
) -> Artefact:  # fmt: skip
    if (out / "shards").is_dir():
        return open_artefact(out / "shards", kind="shards")
    run_shards = open_shards(run / "shards")
    parents = {"feedback": corpus, "shards": open_artefact(run / "shards", verify=False)}
    return write_lesson_shards(
        config, lessons, tokenizer=tokenizer, run_shards=run_shards, parents=parents, max_seq_len=max_seq_len,
        out=out / "shards",
    )  # fmt: skip


def _publish(
    best: Path, out: Path, *, parents: dict[str, Artefact], identity: dict[str, Any], metrics: dict[str, Any]
) -> None:
    """The best round's model as a child of the model that was improved and of the feedback."""
    with create_artefact(out, kind="model", parents=parents, step={"improve": identity}) as draft:
        for file in best.iterdir():
            if file.name != MANIFEST:
                shutil.copy2(file, draft.path)
        draft.metrics |= metrics


def _finish(
    run: Path,
    out: Path,
    model: Artefact,
    *,
    base: Artefact,
    identity: dict[str, Any],
    judgements: Sequence[Judgement],
) -> None:
    metrics = {name: value for name, value in model.metrics.items() if name != "reasons"}
    result = {
        "format": 1, "accepted": model.metrics["accepted"], "reasons": model.metrics["reasons"], "model": model.hash,
        "base": base.hash, **identity, "judgements": digest(judgements), "metrics": metrics,
    }  # fmt: skip
    write_json(out / RESULT, result)
    append_jsonl(run / "metrics.jsonl", {"stage": out.name, **metrics})
    clear_rounds(out)


def _same_as_before(run: Path, base: str, judgements: str, config: ImproveConfig) -> Improvement | None:
    """The newest improvement, if it came of the same feedback and settings, and of this model or to it."""
    finished = improvements(run)
    if not finished:
        return None
    result = finished[-1].result
    same = result["judgements"] == judgements and result["config"] == asdict(config)
    return finished[-1] if same and base in (result["base"], result["model"]) else None


def _next(run: Path) -> Path:
    """The newest `improve-NNN` if it is unfinished, else one more."""
    taken = sorted(run.glob(PATTERN))
    if taken and not (taken[-1] / RESULT).is_file():
        log.info("going on with %s", taken[-1].name)
        return taken[-1]
    number = 1 + max((int(re.sub(r"\D", "", folder.name)) for folder in taken), default=0)
    return run / f"improve-{number:03d}"


def _clear_if_other(out: Path, base: str, identity: dict[str, Any], since: Since) -> None:
    """Start anew where an unfinished attempt had other settings, another model or other decisions of reviewers; refuse to touch
    anything else."""
    if (out / RESULT).is_file():
        raise ConfigError(f"{out} holds a finished improvement", remedy="give another --out, or leave it out")
    if (out / "feedback").is_dir():
        corpus = open_artefact(out / "feedback", kind="corpus")
        if corpus.parents["model"] != base or corpus.step != json.loads(json.dumps(identity)):
            log.info("%s: its settings or its model changed, making it anew", out.name)
        elif (found := since()) is None:
            log.warning("%s: it does not say what reviewers had decided, making it anew", out.name)
        elif found:
            log.warning("%s: reviewers decided since (%s), making it anew", out.name, told(found))
        else:
            return
        for path in out.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
        (out / "rounds.json").unlink(missing_ok=True)
        return
    if (
        out / "review"
    ).is_dir():  # written before the feedback that it belongs to, where a run was killed between the two
        shutil.rmtree(out / "review")
    if any(path.name != ".lock" and not path.name.endswith(".tmp") for path in out.iterdir()):
        raise ConfigError(f"{out} is not empty", remedy="give another --out, or leave it out")
