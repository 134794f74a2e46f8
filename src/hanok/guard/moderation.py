"""A text judged by a tenant's rules with no model behind them, in categories as OpenAI's moderation has them.

Each category of a harm classifier is one, with the classifier's probability; every other rule is one under its own name, and
has found something or not. What a silent rule only flags is not told.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from hanok.guard.careful import Careful, Fail
from hanok.guard.harm import Harm
from hanok.guard.provenance import Part
from hanok.guard.rulebook import Context, Rulebook
from hanok.guard.verdicts import Action, Finding, strictest

_PIECE, _OVERLAP = 8_000, 400  # characters: what the rules' budgets, which are for a request, are enough for


@dataclass(frozen=True, slots=True)
class Judged:
    """By category: whether the policy minds the text, and how much it is of that kind, 0 to 1."""

    categories: Mapping[str, bool]
    scores: Mapping[str, float]

    @property
    def flagged(self) -> bool:
        return any(self.categories.values())


def judge(book: Rulebook, text: str) -> Judged:
    """As something that a user says and as something that a model says, piece by piece. Work for a thread: for each piece at most
    the sum of the rules' budgets, and of rules that ask another server its answer."""
    categories, scores = dict[str, bool](), dict[str, float]()
    for start in range(0, max(1, len(text) - _OVERLAP), _PIECE - _OVERLAP):
        piece = text[start : start + _PIECE]
        for name, minds, score in (*_found(book, piece), *_harms(book, piece)):
            categories[name] = categories.get(name, False) or minds
            scores[name] = max(scores.get(name, 0.0), score)
    return Judged(categories, scores)


def _found(book: Rulebook, text: str) -> Iterator[tuple[str, bool, float]]:
    """Rules that find something or not, each where it looks first: at what comes in."""
    readers = tuple(one for one in book.readers if not isinstance(one.rule, Harm))
    first = {one.rule.name for one in book.readers}
    findings: dict[str, list[Finding]] = {one.rule.name: [] for one in readers}
    for located in replace(book, readers=readers).take_in([Part(text, "user", "input")]).found:
        findings.setdefault(located.finding.rule, []).append(located.finding)
    for one in book.outputs:
        if one.rule.name not in first and not isinstance(one.make(Context()), Harm):
            findings[one.rule.name] = _answered(replace(book, outputs=(one,)), text)
    for name, found in findings.items():
        action = strictest(found)
        if book.tells(name, "flag" if action == "allow" else action):
            yield name, action != "allow", float(action != "allow")


def _answered(book: Rulebook, text: str) -> list[Finding]:
    """What the one rule of output finds in a whole answer: beside others it would be silent behind one that blocks."""
    answer = book.watch()()
    return [finding for part in (answer.push(text), answer.finish()) for finding in part.findings]


def _harms(book: Rulebook, text: str) -> Iterator[tuple[str, bool, float]]:
    rules: dict[str, tuple[Harm, Fail, float]] = {
        one.rule.name: (one.rule, one.fail, one.budget) for one in book.readers if isinstance(one.rule, Harm)
    }
    rules |= {
        one.rule.name: (made, one.rule.fail, one.rule.budget)
        for one in book.outputs
        if isinstance(made := one.make(Context()), Harm)
    }
    for name, (rule, fail, budget) in rules.items():
        care = Careful(name, fail, budget)
        judged = care.run(lambda _clock, rule=rule: list(rule.categories(text)))
        if judged is None and book.tells(name, "block" if fail == "closed" else "flag"):
            yield name, True, 1.0
        for category, probability, action in judged or ():
            told: Action = "flag" if action == "allow" else action
            if book.tells(name, told):
                yield category, action != "allow", probability
