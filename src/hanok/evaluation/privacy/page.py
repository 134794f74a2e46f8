"""The page of an audit of privacy: verdict, attacks with their intervals, canaries by repetition, the control, ROC curves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hanok.evaluation.privacy.control import LEAST_AUC, LEAST_BITS
from hanok.evaluation.privacy.separation import Separation, roc
from hanok.reporting import Report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from hanok.evaluation.privacy.audit import Findings, PrivacyConfig

_ATTACK = ("attack", "AUC", "from", "to", "found at 1 % false", "at least", "at most")
_BROKEN = "The control was not found: a model that knows its texts by heart must be, so this audit says nothing about the model."


def write_page(findings: Findings, config: PrivacyConfig, directory: Path) -> None:
    report = Report("What the model gives away of its training")
    words = [
        f"{findings.verdict.upper()} (judged: {', '.join(findings.judged)})",
        *([_BROKEN] if findings.verdict == "broken" else (*findings.reasons, *findings.unjudged)),
        *findings.warnings,
    ]
    report.add_text("Verdict", "\n".join(words))
    percent = f"{config.confidence:.0%}"
    count = len(next(iter(findings.raw.values()))[0])
    report.add_table(
        f"Membership: {count} texts of each side ({percent} intervals)",
        _ATTACK,
        _rows(findings.attacks),
    )
    report.add_plot("ROC", _roc_plot(findings))
    if findings.canaries:
        report.add_table(
            "Canaries: bits of exposure by how often they were put in", ("put in", "canaries", "mean", "least", "most", "of"),
            [
                (repetitions, len(bits), round(float(np.mean(bits)), 2), round(min(bits), 2), round(max(bits), 2),
                 round(findings.canaries[0][1].most, 1))
                for repetitions, bits in findings.exposures().items()
            ],
        )  # fmt: skip
    control = findings.control
    report.add_table(
        f"Control: a tiny model that knows its texts by heart (AUC {LEAST_AUC:g} and {LEAST_BITS:g} bits must be found)",
        _ATTACK, _rows(control.attacks),
    )  # fmt: skip
    report.add_text(
        "The control's canary",
        f"{control.canary.bits:.1f} of {control.canary.most:.1f} bits after {control.steps} steps (loss {control.loss:.3f})",
    )
    told = {"verdict": findings.verdict, "judged": findings.judged, "reasons": findings.reasons}
    report.add_json(told | {"unjudged": findings.unjudged, "warnings": findings.warnings})
    report.write(directory)


def _rows(attacks: Mapping[str, Separation]) -> list[tuple[Any, ...]]:
    return [
        (
            name,
            *(
                round(value, 4)
                for value in (one.auc, one.low, one.high, one.tpr.value, one.tpr.low, one.tpr.high)
            ),
        )
        for name, one in attacks.items()
    ]


def _roc_plot(findings: Findings) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 5))
    axes = figure.subplots()
    for name, (members, others) in findings.raw.items():
        axes.plot(*roc(members, others), label=f"{name} {findings.attacks[name].auc:.3f}", linewidth=1.2)
    axes.plot([0, 1], [0, 1], color="#999", linewidth=0.8, linestyle="--")
    axes.set(xlabel="of texts that it was not trained on", ylabel="of texts that it was trained on")
    axes.legend(fontsize=8)
    return figure
