"""The harder village's exam before and after: what the studies of alignment share."""

from __future__ import annotations

from pathlib import Path

from hanok.evaluation.compare import compare_answers
from hanok.evaluation.config import Split, VerifyConfig
from hanok.evaluation.statistics import Change
from hanok.evaluation.verify import verify

KINDS = {"arithmetic": "sums", "fact": "facts", "abstention": "abstentions"}


def exam(model: Path, shards: Path, hard: Path, out: Path, split: Split = "exam") -> Path:
    """Asked once: what lies there already is taken."""
    if not out.exists():
        verify(
            VerifyConfig(bits_tokens=20_000), model=model, shards=shards, village=hard, out=out, split=split
        )
    return out


def changes(before: Path, after: Path) -> dict[str, Change]:
    """By kind of question, with the 95 % interval of the paired bootstrap."""
    found = compare_answers(before, after)
    return {name: found[kind] for kind, name in KINDS.items()}


def points(change: Change) -> str:
    return f"{100 * change.difference:+.1f} ({100 * change.low:+.1f} to {100 * change.high:+.1f})"
