"""What reviewers let in when the rows were read, so that an improvement that goes on, or ends, sees what they decided since.

review/rows.jsonl has a line for each row that was read: {"row", "digest", "feedback", "poison"}. `feedback` and `poison` are what
its two reviews came to: "take", "leave", or "correct:" and the hash of the correction.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from hanok.artefacts import read_jsonl
from hanok.errors import InputError
from hanok.store.review.items import Item

ROWS = "rows.jsonl"


@dataclass(frozen=True, slots=True)
class Standing:
    """Of one row. Args: digest: of what is learnt from it, which a release as not planted holds for; "" where nothing is."""

    row: str
    digest: str
    feedback: str
    poison: str

    @property
    def taken(self) -> bool:
        return "leave" not in (self.feedback, self.poison)


@dataclass(frozen=True, slots=True)
class Change:
    """`now`: None if the row was deleted."""

    before: Standing
    now: Standing | None

    def __str__(self) -> str:
        now = "deleted" if self.now is None else _words(self.now)
        return f"{self.before.row} was {_words(self.before)} and is {now}"


def feedback_outcome(item: Item | None, *, required: bool) -> str:
    """Args: required: what no reviewer has decided is left out."""
    if item is None or item.state != "decided":
        waits = required or (item is not None and item.state == "appealed")
        return "leave" if waits else "take"
    return _decided(item)


def poison_outcome(item: Item | None) -> str:
    return "take" if item is None or item.state != "decided" else _decided(item)


def changes(before: Sequence[Standing], now: Mapping[str, Standing]) -> list[Change]:
    """Rows that would not be learnt from as they were. Args: now: by row; those that are missing are gone."""
    return [Change(one, now.get(one.row)) for one in before if now.get(one.row) != one]


def read_standings(review: Path) -> list[Standing] | None:
    """Of a review/ directory; None where it says nothing of single rows."""
    file = review / ROWS
    return [Standing(**row) for row in read_jsonl(file)] if file.is_file() else None


def rows_of(standings: Sequence[Standing]) -> list[dict[str, str]]:
    return [asdict(one) for one in standings]


def told(found: Sequence[Change]) -> str:
    """The first few."""
    return "; ".join(map(str, found[:3])) + (f"; and {len(found) - 3} more" if len(found) > 3 else "")


def check_untainted(found: Sequence[Change]) -> None:
    """Raises InputError: something that was learnt has been rejected, corrected or deleted since."""
    wrong = [one for one in found if one.before.taken]
    if wrong:
        raise InputError(
            f"reviewers decided otherwise while this was learnt ({told(wrong)}): the model is not kept",
            remedy="run the same command again, which begins anew without these rows",
        )


def _decided(item: Item) -> str:
    if item.outcome == "reject":
        return "leave"
    if item.outcome != "correct":
        return "take"
    return f"correct:{hashlib.sha256((item.correction or '').strip().encode()).hexdigest()[:16]}"


def _words(one: Standing) -> str:
    if not one.taken:
        return "left out"
    return "corrected" if "correct" in f"{one.feedback} {one.poison}" else "let in"
