"""Whether an improvement is one: the lessons were learnt, and nothing else got worse beyond the tolerance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hanok.evaluation.compare import Comparison
from hanok.improvement.config import ImproveConfig
from hanok.improvement.examine import Examination
from hanok.improvement.lessons import Lesson
from hanok.improvement.rounds import Round, most_bits


@dataclass(frozen=True, kw_only=True, slots=True)
class Findings:
    """Both models on the same questions."""

    lessons: Sequence[Lesson]
    before: Examination
    after: Examination
    rounds: Sequence[Round]
    others: Comparison | None
    paraphrases: Comparison | None

    def count(self, kind: str) -> tuple[int, int, int]:
        """Lessons of a kind, and how many of them were answered as taught before and after."""
        chosen = [place for place, lesson in enumerate(self.lessons) if lesson.kind == kind]
        before, after = (sum(found.learnt[place] for place in chosen) for found in (self.before, self.after))
        return len(chosen), before, after

    def metrics(self) -> dict[str, Any]:
        values: dict[str, Any] = {"rounds": len(self.rounds)}
        for name, kind in (("corrections", "correction"), ("liked", "liked")):
            count, before, after = self.count(kind)
            if count:
                values |= {name: count, f"{name}.before": before, f"{name}.after": after}
        for name, comparison in (("others", self.others), ("paraphrases", self.paraphrases)):
            if comparison is not None:
                change = comparison.overall
                values |= {
                    f"{name}.questions": len(comparison.after),
                    f"{name}.before": change.before,
                    f"{name}.after": change.after,
                }
        for name, bits in self.before.bits.items():
            values |= {
                f"bits_per_byte.{name}.before": bits,
                f"bits_per_byte.{name}.after": self.after.bits[name],
            }
        return values


@dataclass(frozen=True, slots=True)
class Verdict:
    """`reasons` say what spoke for it, or against."""

    accepted: bool
    reasons: list[str]

    def metrics(self) -> dict[str, Any]:
        return {"accepted": self.accepted, "reasons": self.reasons}


def judge(config: ImproveConfig, findings: Findings) -> Verdict:
    """Accepted if nothing speaks against it."""
    against = list(_against(config, findings))
    return Verdict(False, against) if against else Verdict(True, _in_favour(findings))


def _against(config: ImproveConfig, findings: Findings) -> list[str]:
    reasons: list[str] = []
    corrections, before, after = findings.count("correction")
    liked, liked_before, liked_after = findings.count("liked")
    if corrections and after <= before:
        reasons.append(
            f"{after} of {corrections} corrected answers are given, as many as before ({before}) or fewer"
        )
    if liked_after < liked_before:
        reasons.append(f"{liked_after} of {liked} liked answers are given, {liked_before} were before")
    if findings.others is not None and findings.others.overall.difference < -config.tolerance:
        change = findings.others.overall
        reasons.append(
            f"other questions: {change.after:.1%} right after {change.before:.1%}, a loss beyond {config.tolerance:.1%}"
        )
    for name, bits in findings.before.bits.items():
        new = findings.after.bits[name]
        most = most_bits(config, bits)
        if new > most:
            reasons.append(
                f"{name} validation: {new:.4f} bits per byte after {bits:.4f}, more than {most:.4f} is too much"
            )
    return reasons


def _in_favour(findings: Findings) -> list[str]:
    reasons: list[str] = []
    for kind, title in (("correction", "corrected"), ("liked", "liked")):
        count, before, after = findings.count(kind)
        if count:
            reasons.append(f"{after} of {count} {title} answers are given ({before} before)")
    if findings.others is not None:
        change = findings.others.overall
        reasons.append(
            f"{change.after:.1%} of {len(findings.others.after)} other questions right ({change.before:.1%} before)"
        )
    for name, bits in findings.before.bits.items():
        reasons.append(f"{name} validation {findings.after.bits[name]:.4f} bits per byte ({bits:.4f} before)")
    return reasons
