"""What a tenant's rules make of a text, on its way to a model and as a model's answer: for whoever writes a policy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from hanok.guard.provenance import Origin, Part
from hanok.guard.rulebook import Rulebook
from hanok.guard.verdicts import Finding, strictest


def try_out(
    book: Rulebook, text: str, *, origin: Origin = "user", hidden: str = "", read: Sequence[Part] = ()
) -> dict[str, Any]:
    """Both directions: the action, the text that is left, and findings with their spans of the text as it was given.

    Args:
        origin: who wrote it. hidden: the system prompt that an answer must not give away. read: what else the model has read.
    """
    taken, one = book.take_in([Part(text, origin, "text")]), book.watch(hidden, read)()
    released = [one.push(text), one.finish()]
    found = [finding for part in released for finding in part.findings]
    return {
        "input": _side(taken.action, taken.parts[0].text, (each.finding for each in taken.found)),
        "output": _side(
            "block" if released[-1].blocked else strictest(found), "".join(part.text for part in released), found
        ),
    }  # fmt: skip


def _side(action: str, text: str, findings: Iterable[Finding]) -> dict[str, Any]:
    told = [
        {"rule": one.rule, "action": one.action, "reason": one.reason, "span": [one.start, one.end]}
        for one in findings
    ]
    return {"action": action, "text": text, "findings": told}
