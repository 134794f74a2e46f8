"""`hanok guard`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from hanok.errors import InputError
from hanok.reporting import table

if TYPE_CHECKING:
    from hanok.guard.training import Judged


def train(
    rows: Path, out: Path, name: str = "injection", task: str | None = None, sets: tuple[str, ...] = (), lines: bool = False,
    false_alarms: float = 0.02, seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Train a detector of text that wants to give orders, and set its threshold on benign rows that it was not trained on.

    Args:
        rows: JSON lines of {text, label 0|1, group, set?, language?}.
        out: directory for NAME.safetensors.
        name: of the detector.
        task: only rows of this "task".
        sets: only rows of these sets.
        lines: rows are documents of third parties, judged line by line.
        false_alarms: share of benign rows that may be flagged; measured by five folds over groups.
        seed: of the disguises that training adds.
    """
    from hanok.guard.training import cross_validate, fit, read_rows, threshold_for

    read = read_rows(rows, sets=frozenset(sets), task=task)
    judged = list(cross_validate(read, seed=seed, lines=lines))
    threshold = threshold_for([one.score for one in judged if not one.row.label], false_alarms)
    detector = replace(fit(name, read, seed=seed, lines=lines), threshold=threshold)
    detector.save(out)
    table(
        f"{name}: rows that it did not see, {false_alarms:.1%} false alarms",
        _KEYS,
        _lines_of(judged, threshold),
    )
    return {"detector": str(out / f"{name}.safetensors"), "threshold": threshold, "rows": len(read)}


def cross_test(
    rows: Path, task: str | None = None, sets: tuple[str, ...] = (), untrained: tuple[str, ...] = (), lines: bool = False,
    false_alarms: float = 0.02, on: tuple[str, ...] = (), disguises: bool = True, seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """What a detector would catch: five folds over groups, by set, language, register and disguise.

    Args:
        rows: as `hanok guard train` takes them.
        task: only rows of this "task".
        sets: only rows of these sets.
        untrained: sets to judge and not to train on.
        lines: rows are documents of third parties, judged line by line.
        false_alarms: of the benign rows of the sets named in --on, those that may be flagged set the threshold.
        on: sets whose benign rows set the threshold, in each language on its own; all by default.
        disguises: judge rows in disguise too.
        seed: of the disguises.
    """
    from hanok.guard.disguises import ENGLISH, KOREAN
    from hanok.guard.training import cross_validate, read_rows, threshold_for

    read = read_rows(rows, sets=frozenset(sets), task=task)
    found: dict[str, Any] = {}
    by_language: dict[str, list[Judged]] = defaultdict(list)
    ways = sorted({*ENGLISH, *KOREAN}) if disguises else ()
    for one in cross_validate(read, seed=seed, lines=lines, untrained=frozenset(untrained), disguises=ways):
        fitting = KOREAN if one.row.language == "ko" else ENGLISH
        if one.disguise == "none" or one.disguise in fitting:
            by_language[one.row.language].append(one)
    for language, judged in sorted(by_language.items()):
        benign = [
            one.score for one in judged
            if not one.row.label and one.disguise == "none" and (not on or one.row.set in on)
        ]  # fmt: skip
        threshold = threshold_for(benign, false_alarms)
        listed = _lines_of(judged, threshold)
        table(f"{language or 'all'}: threshold {threshold:.3f}", _KEYS, listed)
        found[language or "all"] = {
            "threshold": threshold,
            "rows": [dict(zip(_KEYS, line, strict=True)) for line in listed],
        }
    return found


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
_KEYS = ("set", "language", "register", "label", "disguise", "rows", "flagged")


def _lines_of(judged: Sequence[Judged], threshold: float) -> list[tuple[str, ...]]:
    groups: dict[tuple[str, ...], list[bool]] = defaultdict(list)
    for one in judged:
        row = one.row
        register = row.register if not row.label and one.disguise == "none" else ""
        label = "attack" if row.label else "benign"
        groups[row.set, row.language, register, label, one.disguise].append(one.score > threshold)
    return [
        (*key, str(len(hits)), f"{100 * sum(hits) / len(hits):.1f} %") for key, hits in sorted(groups.items())
    ]
