"""Between feedback and training: what reviewers decided is done, and what the poisoning checks stop waits for them.

A rejected row is refused, a corrected one teaches the reviewer's text; an appeal holds a row back until it is decided. Rows that
look planted go into the review queue as one batch, and nothing is learnt from any feedback until somebody has released or
rejected each of them.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from hanok.artefacts import Artefact, create_artefact, open_artefact, write_jsonl
from hanok.errors import InputError
from hanok.improvement.config import ImproveConfig
from hanok.improvement.feedback import Judgement, Refused, is_sqlite, judgement_of
from hanok.improvement.poisoning.check import Checked, check_feedback, write_page
from hanok.improvement.poisoning.surprise import Surprise
from hanok.improvement.standing import (
    ROWS,
    Change,
    Standing,
    changes,
    feedback_outcome,
    poison_outcome,
    rows_of,
)
from hanok.reporting import log
from hanok.store.database import Feedback, Store
from hanok.store.review.items import Decision, Item, question_in
from hanok.store.review.queue import Reviews
from hanok.store.schema import DEFAULT_TENANT

Queue = Callable[[Store], Reviews]


@dataclass(frozen=True, kw_only=True, slots=True)
class Reviewed:
    """Args:
    judgements: what may be learnt from, as reviewers corrected it. refused: the rest, with reasons.
    decided: items behind them by feedback id or digest, and who decided what. standings: of all rows that were read.
    """

    judgements: Sequence[Judgement]
    refused: Sequence[Refused]
    checked: Checked
    decided: Sequence[Item] = ()
    decisions: Mapping[str, Sequence[Decision]] = field(default_factory=dict)
    standings: Sequence[Standing] = ()


def review(
    judgements: Sequence[Judgement], config: ImproveConfig, *, source: Path, beside: Path, queue: Queue = Reviews,
    surprise: Surprise | None = None,
) -> Reviewed:  # fmt: skip
    """Args:
    source: where the feedback comes from; its own queue is used if it is a store. beside: the store to use otherwise.
    surprise: of the model that is to learn, for the poisoning checks.

    Raises:
        InputError: rows look planted and wait for a reviewer now.
    """
    place = source if is_sqlite(source) else beside
    if place != source:  # what a file says of tenants and people is nobody's word
        judgements = [replace(one, tenant=DEFAULT_TENANT, owner="") for one in judgements]
    required = config.review == "required"
    with _opened(place, queue) as reviews:
        found = _found(judgements, reviews, check=place != source)
        kept, refused = _decided(found.rows, found.given, required=required)
        refused = [*found.refused, *refused]
        stops = {} if reviews is None else reviews.outcomes("poison", [one.digest for one in kept])
        standings = _standings(judgements, found, kept, stops, required=required)
        rejected = {digest for digest, item in stops.items() if item.outcome == "reject"}
        refused += [
            Refused(one.id, "rejected in review as planted") for one in kept if one.digest in rejected
        ]
        kept = [one for one in kept if one.digest not in rejected]
        checked = check_feedback(kept, surprise=surprise) if config.poisoning == "stop" else Checked([], [])
        waiting = [
            number
            for number in sorted(checked.stopped)
            if not _released(stops.get(checked.rows[number].judgement.digest))
        ]
        decided = [item for item in (*found.given.values(), *stops.values()) if item.state == "decided"]
        decisions = {} if reviews is None else reviews.decisions([item.id for item in decided])
    if waiting:
        with _opened(place, queue, make=True) as reviews:
            assert reviews is not None
            _stop(checked, waiting, found.given, reviews)
    return Reviewed(
        judgements=[_as_released(one, stops) for one in kept], refused=refused, checked=checked, decided=decided,
        decisions=decisions, standings=standings,
    )  # fmt: skip


def changed_since(
    before: Sequence[Standing], config: ImproveConfig, *, source: Path, beside: Path, queue: Queue = Reviews
) -> list[Change]:  # fmt: skip
    """What became of rows that were read earlier, as far as they would not be learnt from as they were. Rows of a file cannot be
    deleted."""
    stored = is_sqlite(source)
    required = config.review == "required"
    with _opened(source if stored else beside, queue) as reviews:
        given = {} if reviews is None else reviews.outcomes("feedback", [one.row for one in before])
        digests = [one.digest for one in before if one.digest]
        stops = {} if reviews is None else reviews.outcomes("poison", digests)
        there = {one.row for one in before}
        if reviews is not None and stored:
            there = {one.id for one in reviews.store.read_feedback()}
    now = {
        one.row: replace(
            one,
            feedback=feedback_outcome(given.get(one.row), required=required),
            poison=poison_outcome(stops.get(one.digest)),
        )
        for one in before
        if one.row in there
    }
    return changes(before, now)


def write_review(
    reviewed: Reviewed, config: ImproveConfig, out: Path, *, parents: Mapping[str, Artefact]
) -> Artefact:
    """Kind "review": decisions.jsonl, who decided what of which row, rows.jsonl (`standing.py`), and the report of the checks."""
    step = {"review": config.review, "poisoning": config.poisoning}
    with create_artefact(out, kind="review", parents=parents, step=step) as draft:
        rows = [_line(item, reviewed.decisions.get(item.id, ())) for item in reviewed.decided]
        write_jsonl(draft.path / "decisions.jsonl", sorted(rows, key=lambda row: row["item"]))
        write_jsonl(draft.path / ROWS, rows_of(reviewed.standings))
        write_page(reviewed.checked, draft.path)
        outcomes = Counter(item.outcome for item in reviewed.decided)
        draft.metrics |= {
            "decisions": len(rows),
            **{str(name): count for name, count in sorted(outcomes.items())},
        }
        draft.metrics |= reviewed.checked.metrics()
    return open_artefact(out, kind="review")


@dataclass(frozen=True, slots=True)
class _Found:
    """Rows that are what they say they are, with their items by id, and the others."""

    rows: Sequence[Judgement]
    given: Mapping[str, Item]
    refused: Sequence[Refused]


def _found(judgements: Sequence[Judgement], reviews: Reviews | None, *, check: bool) -> _Found:
    """Args: check: the rows are not the store's, so one that bears the id of a reviewed row must be that row, word for word."""
    given = {} if reviews is None else reviews.outcomes("feedback", [one.id for one in judgements])
    if reviews is None or not check:
        return _Found(judgements, given, ())
    stored = {one: reviews.store.find_feedback(one) for one in given}
    others = {
        one.id for one in judgements if one.id in given and not _is_same(one, given[one.id], stored[one.id])
    }
    return _Found(
        [one for one in judgements if one.id not in others],
        given,
        [Refused(name, "it is not the row that has this id in the store") for name in sorted(others)],
    )


def _is_same(one: Judgement, item: Item, stored: Feedback | None) -> bool:
    """Whether a row is the one that was given, or what reviewers made of that."""
    known = None if stored is None else judgement_of(stored)
    if not isinstance(known, Judgement):
        return False
    known = replace(known, tenant=one.tenant)
    return one.digest in (known.digest, _corrected(known, item).digest)


def _standings(
    judgements: Sequence[Judgement], found: _Found, kept: Sequence[Judgement], stops: Mapping[str, Item], *, required: bool
) -> list[Standing]:  # fmt: skip
    digests = {one.id: one.digest for one in kept}
    genuine = {one.id for one in found.rows}
    return [
        Standing(
            one.id,
            digests.get(one.id, ""),
            feedback_outcome(found.given.get(one.id), required=required),
            poison_outcome(stops.get(digests.get(one.id, ""))),
        )
        for one in judgements
        if one.id in genuine
    ]


def _decided(
    judgements: Sequence[Judgement], items: Mapping[str, Item], *, required: bool
) -> tuple[list[Judgement], list[Refused]]:
    kept: list[Judgement] = []
    refused: list[Refused] = []
    for one in judgements:
        item = items.get(one.id)
        if item is not None and item.state == "appealed":
            refused.append(Refused(one.id, "an appeal against its rejection is under way"))
        elif item is None or item.state != "decided":
            if required:
                refused.append(Refused(one.id, "no reviewer has decided it"))
            else:
                kept.append(one)
        elif item.outcome == "reject":
            refused.append(Refused(one.id, "rejected in review"))
        else:
            kept.append(_corrected(one, item))
    return kept, refused


def _corrected(one: Judgement, item: Item) -> Judgement:
    """As the reviewers left it."""
    if item.outcome != "correct" or item.correction is None:
        return one
    return replace(one, correction=item.correction.strip(), rating=-1)


def _released(item: Item | None) -> bool:
    return item is not None and item.state == "decided" and item.outcome != "reject"


def _as_released(one: Judgement, stops: Mapping[str, Item]) -> Judgement:
    item = stops.get(one.digest)
    return one if item is None or not _released(item) else _corrected(one, item)


def _stop(checked: Checked, waiting: Sequence[int], given: Mapping[str, Item], reviews: Reviews) -> None:
    """Raises InputError, always."""
    rows = [checked.rows[number] for number in waiting]
    batch = f"pb-{hashlib.sha256(''.join(row.judgement.digest for row in rows).encode()).hexdigest()[:24]}"
    items = []
    for row in rows:
        one, known = row.judgement, given.get(row.judgement.id)
        findings = [
            {"check": found.check, "reason": found.reason, "text": found.text}
            for found in checked.stopped[row.number]
        ]
        content = {
            "id": one.id,
            "messages": [*one.prompt, one.answer],
            "rating": one.rating,
            "correction": one.correction,
        }
        items.append(
            Item(
                kind="poison", source=one.digest, tenant=one.tenant, owner=one.owner, request_id=one.request_id[:64],
                model_hash=one.model_hash[:64], batch=batch, title=question_in(one.prompt),
                body={"findings": findings, "row": {**content, "reason": one.reason, "user": one.user}},
                required=1 if known is None else known.required,
            )
        )  # fmt: skip
    reviews.add(items)
    first = next(found for found in checked.findings if found.stops and set(found.rows) & set(waiting))
    log.info("poisoning checks: %s", checked.metrics())
    raise InputError(
        f"{len(waiting)} of {len(checked.rows)} rows of feedback look planted ({first.check}: {first.reason})",
        remedy=f"nothing is learnt before a reviewer has released or rejected them: `hanok review list --batch {batch} --store "
        f"{reviews.store.name}`, then run the same command again",
    )


@contextmanager
def _opened(place: Path, queue: Queue, *, make: bool = False) -> Iterator[Reviews | None]:
    """None where there is no store yet, unless it is to be made."""
    if not make and not place.is_file():
        yield None
        return
    with Store(place) as store:
        yield queue(store)


def _line(item: Item, decisions: Sequence[Decision]) -> dict[str, Any]:
    made = [
        {
            name: value
            for name, value in asdict(one).items()
            if name in ("reviewer", "verdict", "round", "senior", "created")
        }
        for one in decisions
    ]
    return {
        "item": item.id, "kind": item.kind, "source": item.source, "outcome": item.outcome, "correction": item.correction,
        "required": item.required, "decisions": made,
    }  # fmt: skip
