"""`hanok guard`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from hanok.errors import InputError
from hanok.reporting import table


def train(
    rows: Path, out: Path, name: str = "injection", task: str | None = None, sets: tuple[str, ...] = (), lines: bool = False,
    documents: tuple[str, ...] = (), ordinary: tuple[Path, ...] = (), false_alarms: float = 0.045, seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Train a detector of text that wants to give orders, and set its threshold on benign rows that it was not trained on.

    Args:
        rows: JSON lines of {text, label 0|1, group, set?, language?, register?}.
        out: directory for NAME.safetensors.
        name: of the detector.
        task: only rows of this "task".
        sets: only rows of these sets.
        lines: all rows are documents of third parties; the detector judges line by line.
        documents: sets that are; the detector judges line by line, and the rows of the others teach it what orders look like.
        ordinary: files of text that gives no orders to a model, for a detector of documents: lines, or JSON lines with "text".
        false_alarms: chance at which a benign row of any set, language and register may be flagged; by five folds over groups.
        seed: of the disguises that training adds.
    """
    from hanok.cli.guard_test import KEYS, shares
    from hanok.guard.lessons import Lesson, Reader, unlike
    from hanok.guard.planted import planted_lines
    from hanok.guard.training import (
        check_sets,
        cross_validate,
        fit,
        read_lines,
        read_rows,
        threshold_for_each,
    )

    read = read_rows(rows, sets=frozenset(sets), task=task)
    check_sets(read, documents)
    by_line = lines or bool(documents)
    if ordinary and not by_line:
        raise InputError("--ordinary is for a detector of documents", remedy="add --lines or --documents")
    judged_rows = [row for row in read if not documents or row.set in documents]
    orders = [Lesson(row.text, 1, "orders") for row in read if documents and row.set not in documents]
    plain, reader = read_lines(ordinary), Reader(seed)
    others = [*unlike(orders, planted_lines(judged_rows), reader), *plain] if by_line else []
    judged = list(cross_validate(judged_rows, lines=by_line, beside=others, reader=reader))
    threshold = threshold_for_each(judged, false_alarms)
    trained = fit(name, judged_rows, lines=by_line, beside=[*orders, *plain], reader=reader)
    replace(trained, threshold=threshold).save(out)
    title = f"{name}: rows that it did not see, {false_alarms:.1%} false alarms in any register"
    table(title, KEYS, shares((one, threshold) for one in judged))
    return {"detector": str(out / f"{name}.safetensors"), "threshold": threshold, "rows": len(read)}


def train_harm(
    rows: Path,
    out: Path,
    name: str = "harm",
    false_alarms: float = 0.02,
    penalty: float = 1e-5,
    seed: int = 0,
) -> dict[str, Any]:
    """Train a classifier of kinds of harm, and set a threshold for each of them on rows that it was not trained on.

    Args:
        rows: JSON lines of {text, categories: [names], group?, annotated?: [names that were looked for]}.
        out: directory for NAME.safetensors.
        name: of the file.
        false_alarms: of the rows without a category, the share that may be flagged for it; measured by five folds over groups.
        penalty: on the squares of the weights.
        seed: of the disguises that training adds.
    """
    from hanok.guard import harm_training as harm

    read = harm.read_harm_rows(rows)
    categories = harm.categories_of(read)
    judged = list(harm.cross_validate_harm(read, categories, seed=seed, penalty=penalty))
    thresholds = harm.thresholds_for(judged, categories, false_alarms)
    lines = harm.recalls(judged, categories, thresholds)
    _harm_table(f"{name}: rows that it did not see, {false_alarms:.1%} false alarms", lines)
    trained = harm.fit_harm(read, categories, seed=seed, penalty=penalty)
    trained.with_thresholds(thresholds).save(out / f"{name}.safetensors")
    return {"classifier": str(out / f"{name}.safetensors"), "rows": len(read), "categories": lines}


def cross_test_harm(
    rows: Path, false_alarms: tuple[float, ...] = (0.01, 0.02, 0.05), penalty: float = 1e-5, seed: int = 0
) -> dict[str, Any]:
    """What a classifier of harm would catch: five folds over groups, by category and share of false alarms.

    Args:
        rows: as `hanok guard train-harm` takes them.
        false_alarms: shares of the rows without a category that may be flagged for it.
        penalty: on the squares of the weights.
        seed: of the disguises that training adds.
    """
    from hanok.guard import harm_training as harm

    read = harm.read_harm_rows(rows)
    categories = harm.categories_of(read)
    judged = list(harm.cross_validate_harm(read, categories, seed=seed, penalty=penalty))
    found: dict[str, Any] = {"rows": len(read)}
    for share in false_alarms:
        lines = harm.recalls(judged, categories, harm.thresholds_for(judged, categories, share))
        _harm_table(f"{share:.1%} false alarms", lines)
        found[f"{share:g}"] = lines
    return found


def calibrate(detector: Path, benign: Path, false_alarms: float = 0.02) -> dict[str, Any]:
    """Set the threshold of a detector, or each one of a classifier of harm, by one's own traffic.

    Args:
        detector: NAME.safetensors.
        benign: JSON lines with a "text" each, or plain lines, of what ordinary users write.
        false_alarms: share of them that may be flagged.
    """
    from hanok.artefacts.files import read_jsonl
    from hanok.guard.harm import is_harm
    from hanok.guard.linear import LinearDetector
    from hanok.guard.training import threshold_for

    if benign.suffix == ".jsonl":
        texts = [str(row["text"]) for row in read_jsonl(benign) if "text" in row]
    else:
        texts = [line for line in benign.read_text(encoding="utf-8").splitlines() if line.strip()]
    if len(texts) * false_alarms < 1:
        raise InputError(
            f"{len(texts)} texts say nothing about a rate of {false_alarms:g}",
            remedy=f"give {round(1 / false_alarms)} or more",
        )
    if is_harm(detector):
        return _calibrate_harm(detector, texts, false_alarms)
    old = LinearDetector.load(detector)
    threshold = threshold_for([old.judge(text).score for text in texts], false_alarms)
    replace(old, threshold=threshold).save(detector.parent)
    return {"detector": str(detector), "texts": len(texts), "before": old.threshold, "threshold": threshold}


def explain(detector: Path, text: Annotated[str, tyro.conf.Positional]) -> dict[str, Any]:
    """Which words of a text raise a detector's score.

    Args:
        detector: NAME.safetensors.
        text: to look at.
    """
    from hanok.guard.explain import explain as explain_text
    from hanok.guard.linear import LinearDetector

    loaded = LinearDetector.load(detector)
    way, reading, parts = explain_text(loaded, text)
    hit = loaded.judge(text)
    table(f"read as {way}", ("word", "worth"), [(part.word, f"{part.worth:+.3f}") for part in parts[:12]])
    return {
        "flagged": hit.score > loaded.threshold, "score": hit.score, "threshold": loaded.threshold, "way": way,
        "reading": reading,
        "words": [{"word": part.word, "worth": part.worth} for part in parts],
    }  # fmt: skip


def try_out(
    text: Annotated[str, tyro.conf.Positional], policy: str = "default", tenant: str = "default", origin: str = "user",
    hidden: str = "", documents: tuple[str, ...] = (), question: str = "",
) -> dict[str, Any]:  # fmt: skip
    """What a policy makes of a text: on its way to a model, and as a model's answer.

    Args:
        text: to try.
        policy: TOML file, or "default".
        tenant: whose rules.
        origin: who wrote it: system, user, assistant, tool, document or definition.
        hidden: the system prompt that an answer must not give away.
        documents: other text that the model has read, which no address in an answer may carry away.
        question: what the answer is to answer.
    """
    from hanok.errors import did_you_mean
    from hanok.guard.provenance import ORIGINS, Origin, Part
    from hanok.guard.rulebook import Guard
    from hanok.guard.trial import try_out as try_text

    known: dict[str, Origin] = {one: one for one in ORIGINS}
    if origin not in known:
        raise InputError(f'no origin "{origin}"', remedy=did_you_mean(origin, ORIGINS))
    read = [Part(one, "document", f"documents.{number}") for number, one in enumerate(documents)]
    read.append(Part(question, "user", "question"))
    result = try_text(Guard.open(policy).of(tenant), text, origin=known[origin], hidden=hidden, read=read)
    for side, found in result.items():
        for one in found["findings"]:
            one["place"] = "{}-{}".format(*one.pop("span"))
        lines = [tuple(one[name] for name in _FOUND) for one in found["findings"]]
        table(f"{side}: {found['action']}", _FOUND, lines)
    return result


def _calibrate_harm(file: Path, texts: Sequence[str], false_alarms: float) -> dict[str, Any]:
    from hanok.guard.harm import HarmClassifier
    from hanok.guard.training import threshold_for

    old = HarmClassifier.load(file)
    scores = [old.judge(text) for text in texts]
    new = [
        threshold_for([float(one[place]) for one in scores], false_alarms)
        for place in range(len(old.categories))
    ]
    old.with_thresholds(new).save(file)
    before, after = (dict(zip(old.categories, one, strict=True)) for one in (old.thresholds.tolist(), new))
    return {"classifier": str(file), "texts": len(texts), "before": before, "thresholds": after}


def _harm_table(title: str, lines: Sequence[dict[str, Any]]) -> None:
    table(title, _HARM_KEYS, [
        (one["category"], str(one["rows"]), str(one["others"]), f"{one['threshold']:.3f}", f"{one['recall']:.1%}",
         f"{one['false_alarms']:.1%}", f"{one['auc']:.3f}")
        for one in lines
    ])  # fmt: skip


_HARM_KEYS = ("category", "rows", "others", "threshold", "recall", "false alarms", "AUC")
_FOUND = ("rule", "action", "place", "reason")
