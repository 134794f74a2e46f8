"""A text judged by a tenant's rules with no model behind them, in categories as OpenAI's moderation has them.

Each category of a harm classifier is one, with the classifier's probability; every other rule is one under its own name, and
has found something or not. What a silent rule only flags is not told.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from hanok.guard.harm import Harm
from hanok.guard.provenance import Part
from hanok.guard.rulebook import Context, Rulebook
from hanok.guard.verdicts import Action, Finding, strictest


@dataclass(frozen=True, slots=True)
class Judged:
    """By category: whether the policy minds the text, and how much it is of that kind, 0 to 1."""

    categories: Mapping[str, bool]
    scores: Mapping[str, float]

    @property
    def flagged(self) -> bool:
        return any(self.categories.values())


def judge(book: Rulebook, text: str) -> Judged:
    """As something that a user says and as something that a model says. Work for a thread: at most the sum of the rules'
    budgets, and of rules that ask another server its answer."""
    categories, scores = dict[str, bool](), dict[str, float]()
    for name, minds, score in (*_found(book, text), *_harms(book, text)):
        categories[name] = categories.get(name, False) or minds
        scores[name] = max(scores.get(name, 0.0), score)
    return Judged(categories, scores)


def _found(book: Rulebook, text: str) -> Iterator[tuple[str, bool, float]]:
    """Rules that find something or not, each where it looks first: at what comes in."""
    readers = [one for one in book.readers if not isinstance(one.rule, Harm)]
    first = {one.rule.name for one in book.readers}
    outputs = [
        one
        for one in book.outputs
        if one.rule.name not in first and not isinstance(one.make(Context()), Harm)
    ]
    rest = replace(book, readers=tuple(readers), outputs=tuple(outputs))
    answer = rest.watch()()
    released = [answer.push(text), answer.finish()]
    findings: dict[str, list[Finding]] = {
        name: [] for name in (*(one.rule.name for one in readers), *(one.rule.name for one in outputs))
    }
    for one in (
        *(located.finding for located in rest.take_in([Part(text, "user", "input")]).found),
        *(finding for part in released for finding in part.findings),
    ):
        findings.setdefault(one.rule, []).append(one)
    for name, found in findings.items():
        action = strictest(found)
        if book.tells(name, "flag" if action == "allow" else action):
            yield name, action != "allow", float(action != "allow")


def _harms(book: Rulebook, text: str) -> Iterator[tuple[str, bool, float]]:
    rules: dict[str, Harm] = {one.rule.name: one.rule for one in book.readers if isinstance(one.rule, Harm)}
    rules |= {one.rule.name: made for one in book.outputs if isinstance(made := one.make(Context()), Harm)}
    for rule in rules.values():
        for category, probability, action in rule.categories(text):
            told: Action = "flag" if action == "allow" else action
            if book.tells(rule.name, told):
                yield category, action != "allow", probability
