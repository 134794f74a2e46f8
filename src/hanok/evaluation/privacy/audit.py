"""`hanok audit privacy`: what a model gives away of its training texts, against bars, with a control that must be found.

results.json    the numbers           report.html, report.json   the page
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hanok.artefacts import Artefact, create_artefact, open_artefact, sha256_file, write_json
from hanok.artefacts.shards import Shards, open_shards
from hanok.data.canaries import Canary, read_canaries
from hanok.errors import ConfigError
from hanok.evaluation.privacy.config import PrivacyConfig
from hanok.evaluation.privacy.control import Control, run_control
from hanok.evaluation.privacy.exposure import Exposure, exposure, texts_of
from hanok.evaluation.privacy.scores import Sample, familiarity, scores
from hanok.evaluation.privacy.separation import Separation, separate
from hanok.models.checkpoint import load_model
from hanok.models.decoder import Decoder
from hanok.tokens.tokenizer import Tokenizer

Verdict = Literal["passed", "failed", "incomplete", "broken"]


@dataclass(frozen=True, slots=True)
class Findings:
    """`raw`: scores of members and others by attack, for the plots. `canaries`: with what each gave. `reasons`: bars that were
    missed. `unjudged`: bars that could not be held against anything."""

    attacks: Mapping[str, Separation]
    raw: Mapping[str, tuple[list[float], list[float]]]
    canaries: Sequence[tuple[Canary, Exposure]]
    control: Control
    reasons: list[str] = field(default_factory=list)
    unjudged: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> Verdict:
        if not self.control.found:
            return "broken"
        if self.reasons:
            return "failed"
        return "incomplete" if self.unjudged else "passed"

    @property
    def judged(self) -> list[str]:
        """What the verdict is about."""
        return ["membership"] + (["exposure"] if self.canaries and not self.unjudged else [])

    def exposures(self) -> dict[int, list[float]]:
        """Bits by how often a canary was put in."""
        found: dict[int, list[float]] = {}
        for canary, one in self.canaries:
            found.setdefault(canary.repetitions, []).append(one.bits)
        return dict(sorted(found.items()))


def audit_privacy(
    config: PrivacyConfig,
    *,
    model: Path,
    shards: Path,
    reference: Path | None,
    canaries: Path | None,
    out: Path,
) -> tuple[Artefact, Findings]:
    """Kind "evaluation".

    Args:
        model: a model directory. shards: what it was trained on, with splits that it was not.
        reference: a model of the same tokeniser that saw none of them. canaries: the corpus that they were put into, or its
            file of them.

    Raises:
        ArtefactError: a damaged directory, no canaries where some should be, or shards of another tokeniser.
        ConfigError: too few texts.
    """
    from hanok.evaluation.privacy.page import write_page

    parents = {"model": open_artefact(model), "shards": open_artefact(shards, kind="shards")}
    if reference is not None:
        parents["reference"] = open_artefact(reference)
    opened, tokenizer = open_shards(shards, verify=False), Tokenizer.load(model)  # verified as a parent
    opened.require_tokenizer(tokenizer.hash)
    if reference is not None:
        opened.require_tokenizer(Tokenizer.load(reference).hash)
    step = dataclasses.asdict(config)
    planted = [] if canaries is None else read_canaries(canaries)
    if canaries is not None and canaries.is_dir():
        parents["canaries"] = open_artefact(canaries, kind="corpus")
    elif canaries is not None:
        step["canaries"] = sha256_file(canaries)
    with create_artefact(out, kind="evaluation", parents=parents, step=step) as draft:
        findings = examine(
            config,
            load_model(model),
            tokenizer,
            opened,
            None if reference is None else load_model(reference),
            planted,
        )
        write_json(draft.path / "results.json", plain(findings))
        write_page(findings, config, draft.path)
        draft.metrics |= metrics(findings)
    return open_artefact(out, kind="evaluation"), findings


def examine(
    config: PrivacyConfig, decoder: Decoder, tokenizer: Tokenizer, shards: Shards, reference: Decoder | None,
    canaries: Sequence[Canary],
) -> Findings:  # fmt: skip
    """All measurements and what they come to; nothing written."""
    members = samples(shards, [config.members], tokenizer, config)
    others = samples(shards, config.others, tokenizer, config)
    count = min(len(members), len(others))
    members, others = members[:count], others[:count]
    raw = _scored(decoder, reference, members, others)
    attacks = {name: separate(*sides, confidence=config.confidence) for name, sides in raw.items()}
    asked = [(one, _exposed(decoder, tokenizer, one, config)) for one in canaries]
    control = run_control(members, others, tokenizer, seed=config.seed)
    findings = Findings(attacks, raw, asked, control)
    findings.reasons.extend(_reasons(findings, config))
    findings.unjudged.extend(_unjudged(findings))
    findings.warnings.extend(_warnings(findings, count))
    return findings


def samples(
    shards: Shards, names: Sequence[str], tokenizer: Tokenizer, config: PrivacyConfig
) -> list[Sample]:
    """Drawn from these splits in a random order, each cut to the same length."""
    missing = [name for name in names if name not in shards.splits]
    if missing:
        raise ConfigError(
            f'{shards.path} has no split "{missing[0]}"', remedy=f"it has {', '.join(shards.splits)}"
        )
    places = [
        (name, document)
        for name in names
        for document, length in enumerate(shards.splits[name].lengths.tolist())
        if length >= config.least
    ]
    random.Random(config.seed).shuffle(places)
    found: list[Sample] = []
    for name, document in places:
        tokens, mask = shards.splits[name].document(document)
        ids = np.asarray(tokens[: config.length], dtype=np.int64)
        counted = tokenizer.byte_lengths[ids] > 0
        if mask is not None:
            counted &= np.asarray(mask[: config.length], dtype=bool)
        if counted[1:].sum() >= config.least // 2:
            found.append(Sample(ids.tolist(), counted, tokenizer.decode(ids[counted].tolist())))
        if len(found) == config.texts:
            break
    if len(found) < 20:
        raise ConfigError(
            f"{len(found)} texts of {config.least} tokens or more in {', '.join(names)}",
            remedy="20 are the least",
        )
    return found


def _scored(
    decoder: Decoder, reference: Decoder | None, members: Sequence[Sample], others: Sequence[Sample]
) -> dict[str, tuple[list[float], list[float]]]:
    sides = [
        [
            scores(one, familiarity(decoder, one), None if reference is None else familiarity(reference, one))
            for one in some
        ]
        for some in (members, others)
    ]
    return {name: ([one[name] for one in sides[0]], [one[name] for one in sides[1]]) for name in sides[0][0]}


def _exposed(decoder: Decoder, tokenizer: Tokenizer, canary: Canary, config: PrivacyConfig) -> Exposure:
    texts = tokenizer.encode_batch(texts_of(canary, config.alternatives, seed=config.seed))
    return exposure(decoder, [[tokenizer.bos_id, *ids] for ids in texts], canary)


def _reasons(findings: Findings, config: PrivacyConfig) -> list[str]:
    """Which bars were missed."""
    reasons = [
        f"{name}: AUC {one.auc:.3f}, its interval goes up to {one.high:.3f}; {config.most_auc:g} is the bar"
        for name, one in findings.attacks.items()
        if name != "blind" and one.high > config.most_auc
    ]
    bits = findings.exposures()
    if not _unjudged(findings) and bits:
        more = float(np.mean(bits[1]) - np.mean(bits[0]))
        if more > config.most_exposure:
            reasons.append(
                f"canaries put in once are exposed by {more:.1f} bits more than those never put in; "
                f"{config.most_exposure:g} is the bar"
            )
    return reasons


def _unjudged(findings: Findings) -> list[str]:
    """The bar of exposure compares canaries put in once with those never put in, and needs both."""
    bits = findings.exposures()
    missing = [words for count, words in ((0, "never put in"), (1, "put in once")) if count not in bits]
    if not bits or not missing:
        return []
    return [f"exposure was not judged: among the canaries none was {' and none '.join(missing)}"]


def _warnings(findings: Findings, count: int) -> list[str]:
    """What the reader must know to believe the numbers."""
    found = []
    blind = findings.attacks["blind"]
    if not blind.low <= 0.5 <= blind.high:
        found.append(
            f"members and others differ without any model (blind AUC {blind.auc:.3f}, {blind.low:.3f} to {blind.high:.3f}): "
            "the other figures are not of memory alone"
        )
    if count < 100:
        found.append(
            f"{count} texts of each side: a false-positive rate of 1 % is that of the single best of the others"
        )
    if not findings.canaries:
        found.append("no canaries were put in: what single sentences leave behind was not measured")
    return found


def metrics(findings: Findings) -> dict[str, Any]:
    """Flat, for the manifest and the audit's entry."""
    values: dict[str, Any] = {"verdict": findings.verdict, "judged": ", ".join(findings.judged)}
    for name, one in findings.attacks.items():
        values |= {
            f"auc.{name}": round(one.auc, 4),
            f"auc_high.{name}": round(one.high, 4),
            f"tpr.{name}": one.tpr.value,
        }
    for repetitions, bits in findings.exposures().items():
        values[f"exposure.{repetitions}"] = round(float(np.mean(bits)), 2)
    best = max(one.auc for name, one in findings.control.attacks.items() if name != "blind")
    return values | {
        "control.auc": round(best, 4),
        "control.exposure": round(findings.control.canary.bits, 2),
    }


def plain(findings: Findings) -> dict[str, Any]:
    """As JSON."""

    def attacks(some: Mapping[str, Separation]) -> dict[str, Any]:
        return {name: dataclasses.asdict(one) | {"tpr_value": one.tpr.value} for name, one in some.items()}

    return {
        "verdict": findings.verdict, "judged": findings.judged, "reasons": findings.reasons, "unjudged": findings.unjudged,
        "warnings": findings.warnings,
        "attacks": attacks(findings.attacks),
        "canaries": [
            {"id": one.id, "language": one.language, "repetitions": one.repetitions, **dataclasses.asdict(found)}
            for one, found in findings.canaries
        ],
        "control": {
            "found": findings.control.found, "attacks": attacks(findings.control.attacks),
            "canary": dataclasses.asdict(findings.control.canary), "steps": findings.control.steps,
            "loss": findings.control.loss,
        },
    }  # fmt: skip
