"""What the guard found, as entries: which rule, what it did and where; never a word of the text."""

from __future__ import annotations

from collections.abc import Callable

from hanok.guard.verdicts import VerdictEvent
from hanok.server.auditing.trail import Trail


def verdict_writer(trail: Trail) -> Callable[[VerdictEvent], None]:
    """A listener; does not wait."""

    def write(found: VerdictEvent) -> None:
        facts = {
            "rule": found.rule, "action": found.action, "direction": found.direction, "where": found.where,
            "span": None if found.span is None else list(found.span), "reason": found.reason, "count": found.count,
            "model": found.model, "told": found.told,
        }  # fmt: skip
        trail.tell("verdict", actor=found.key_id, tenant=found.tenant, target=found.request_id, facts=facts)

    return write
