"""`hanok review`: works on the store itself, whether a server runs or not, as whoever owns it; every step is in the audit."""

from __future__ import annotations

import getpass
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from hanok.cli.places import audit_of, open_store, store_place
from hanok.errors import ConfigError, InputError
from hanok.reporting import table

if TYPE_CHECKING:
    from hanok.server.principal import Principal
    from hanok.server.reviewing.desk import Desk
    from hanok.store.database import Store
    from hanok.store.review.queue import Reviews

Kind = Literal["feedback", "flag", "poison", "extraction"]
State = Literal["open", "assigned", "appealed", "decided"]
Name = Annotated[str, tyro.conf.Positional]
_SHOWN = 200


def list_reviews(
    state: State | None = None, kind: Kind | None = None, batch: str | None = None, tenant: str | None = None,
    store: str | None = None, served: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """What waits for a reviewer, oldest first, and how much there is of each kind.

    Args:
        state: open, assigned, appealed or decided; default all but what is decided.
        kind: feedback, flag (of the guard), poison (stopped by a check before training) or extraction (who may copy the model).
        batch: rows that one check stopped together.
        tenant: only its own.
        store: the database, a file or postgresql://USER@HOST/NAME; default: that of the served model.
        served: the model or run whose database is meant; default runs/quickstart.
    """
    states = (state,) if state is not None else ("open", "assigned", "appealed")
    with open_store(store, served) as opened:
        desk, me = _desk(opened)
        found = desk.page(me, tenant=tenant, states=states, kind=kind, batch=batch, limit=_SHOWN)
        summary = desk.summary(me, tenant)
    rows = [
        [one[name] for name in ("id", "kind", "state", "tenant", "batch", "title")] for one in found["data"]
    ]
    more = " (the first of them)" if found["has_more"] else ""
    table(f"{len(rows)} to review{more}", ("id", "kind", "state", "tenant", "batch", "title"), rows)
    return {"reviews": found["data"], "summary": summary}


def show(review: Name, store: str | None = None, served: Path | None = None) -> dict[str, Any]:
    """One of them: what was said, what a check or the guard found, what was decided.

    Args:
        review: its id.
        store: the database, a file or postgresql://USER@HOST/NAME; default: that of the served model.
        served: the model or run whose database is meant; default runs/quickstart.
    """
    with open_store(store, served) as opened:
        desk, me = _desk(opened)
        found = desk.detail(review, me)
    _print(found)
    return found


def decide(
    review: Annotated[str | None, tyro.conf.Positional] = None, verdict: Literal["accept", "correct", "reject"] = "accept",
    reason: str = "", correction: str | None = None, batch: str | None = None, store: str | None = None,
    served: Path | None = None, audit_dir: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Decide one, or all that a check stopped together.

    Of feedback accept means: learn from it; of a flag: the guard was right; of poison: it is none, release it;
    of extraction: it is one. To reject that takes the caller off the ladder.

    Args:
        review: its id.
        verdict: accept, correct (then learn the correction) or reject.
        reason: whoever's row it is may read it.
        correction: what the answer should be.
        batch: instead of one, all rows of this batch.
        store: the database, a file or postgresql://USER@HOST/NAME; default: that of the served model.
        served: the model or run whose database is meant; default runs/quickstart.
        audit_dir: folder of the audit; default: where the last server on this store kept it.
    """
    if (review is None) == (batch is None):
        raise ConfigError("what is to be decided?", remedy="name a review, or a --batch")
    if not reason.strip():
        raise InputError("a decision without a reason", remedy='give --reason "..."')
    with open_store(store, served) as opened:
        desk, me = _desk(opened, audit_dir)
        if batch is not None:
            if verdict == "correct":
                raise ConfigError("one correction for a whole batch", remedy="decide its rows one by one")
            done = desk.decide_batch(batch, me, verdict, reason)
            table(batch, ("decided", "left"), [[done["decided"], done["left"]]])
            return done
        assert review is not None
        found = desk.decide(review, me, verdict, reason, correction)
    _print(found)
    return found


def agreement(
    kind: Kind | None = None, tenant: str | None = None, store: str | None = None, served: Path | None = None
) -> dict[str, Any]:
    """How far reviewers agree beyond chance, where several decided the same.

    Args:
        kind: feedback, flag, poison or extraction; default all.
        tenant: only its own.
        store: the database, a file or postgresql://USER@HOST/NAME; default: that of the served model.
        served: the model or run whose database is meant; default runs/quickstart.
    """
    with open_store(store, served) as opened:
        desk, me = _desk(opened)
        found = desk.agreement(me, tenant, kind)
    columns = ("items", "observed", "kappa", "low", "high")
    table(
        f"{found['items']} decided by several; Krippendorff's alpha {_short(found['alpha']['value'])}",
        ("reviewers", *columns),
        [[" and ".join(pair["names"]), *(_short(pair[name]) for name in columns)] for pair in found["pairs"]],
    )
    return found


def export(
    out: Annotated[Path, tyro.conf.Positional], review: Literal["optional", "required"] = "required",
    poisoning: Literal["stop", "off"] = "stop", feedback: Path | None = None, store: str | None = None,
    served: Path | None = None, model: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Reviewed feedback as training data: a corpus of conversations and preference pairs, with who let each row in.

    Args:
        out: directory to make: review/ and feedback/.
        review: required takes only what a reviewer has accepted or corrected; optional takes what none has rejected.
        poisoning: stop refuses while rows look planted and no reviewer has decided them; off looks at nothing.
        feedback: a JSONL file instead of the store.
        store: the database, a file; default: that of the served model.
        served: the model or run whose database is meant; default runs/quickstart.
        model: the model or run that is to learn; the checks then also look at how much the taught texts surprise it.
    """
    from hanok.improvement.config import ImproveConfig
    from hanok.improvement.export import export as write
    from hanok.recipes.runs import servable_model

    place = store_place(store, served)
    if not isinstance(place, Path):
        raise ConfigError(
            "feedback in PostgreSQL cannot be exported yet", remedy="copy it: `hanok store backup`"
        )
    config = ImproveConfig(review=review, poisoning=poisoning)
    asked = None if model is None else servable_model(model)
    corpus = write(feedback or place, out, config=config, beside=place, queue=audited_queue, model=asked)
    table(f"{corpus.path}", ("what", "rows"), [[name, count] for name, count in corpus.metrics.items()])
    return {
        "path": str(corpus.path),
        "hash": corpus.hash,
        "parents": dict(corpus.parents),
        "metrics": dict(corpus.metrics),
    }


def audited_queue(store: Store, audit_dir: Path | None = None) -> Reviews:
    """The queue of a store, whose changes its audit is told of."""
    from hanok.server.auditing.reviews import AuditedReviews
    from hanok.server.auditing.trail import Trail

    return AuditedReviews(store, Trail(audit_of(store, audit_dir)))


def _desk(store: Store, audit_dir: Path | None = None) -> tuple[Desk, Principal]:
    from dataclasses import replace

    from hanok.server.principal import LOCAL
    from hanok.server.reviewing.desk import Desk
    from hanok.store.access import Access

    return Desk(audited_queue(store, audit_dir), Access(store)), replace(
        LOCAL, id=f"command line: {getpass.getuser()}"
    )


def _print(found: dict[str, Any]) -> None:
    table(
        found["id"],
        ("", ""),
        [[name, found[name]] for name in ("kind", "state", "tenant", "batch", "outcome")],
    )
    content = found["content"]
    for message in () if content is None else content["messages"]:
        print(f"{message['role']}: {message.get('content') or ''}", file=sys.stderr)
    for name in ("rating", "correction", "reason"):
        if content is not None and content[name] is not None:
            print(f"{name}: {content[name]}", file=sys.stderr)
    for one in found["findings"]:
        print(f"{one.get('check') or one.get('rule')}: {one['reason']}", file=sys.stderr)
    for one in found["appeals"]:
        print(f"appeal: {one['statement']}", file=sys.stderr)
    for one in found["decisions"]:
        print(f"{one['name']}: {one['verdict']}, {one['reason']}", file=sys.stderr)


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
