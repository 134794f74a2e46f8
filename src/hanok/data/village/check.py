"""Answers checked by program: every value of the asked type that the answer names must be the expected one.

So an answer that lists several owners, or a price that merely contains the right digits, is wrong.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hanok.data.village.places import DAYS, GIVEN, KINDS, STREETS, SURNAMES


def _any_of(names: Iterable[str]) -> re.Pattern[str]:
    """Whole English words; in Korean, where particles follow, nothing before. Longer names first."""
    parts = [
        rf"\b{re.escape(name)}\b" if name.isascii() else rf"(?<![가-힣]){re.escape(name)}"
        for name in sorted({name.lower() for name in names}, key=lambda name: (-len(name), name))
    ]
    return re.compile("|".join(parts))


_NAMES = {
    "owner": _any_of(
        [s + g for s in SURNAMES for g in GIVEN]
        + [f"{s} {g}" for s in SURNAMES.values() for g in GIVEN.values()]
    ),
    "item": _any_of(name for *_, items in KINDS for item in items for name in item),
    "street": _any_of(name for pair in STREETS for name in pair),
    "closed": _any_of(name for pair in DAYS for name in pair),
}
_ABSTAIN = re.compile(r"몰라요|모릅니다|알 수 없|모르겠|do not know|don't know|not in this village")


def abstained(text: str) -> bool:
    """Whether the answer says that it does not know."""
    return _ABSTAIN.search(text.lower()) is not None


def check(question: Mapping[str, Any], text: str, tool_calls: Sequence[Mapping[str, Any]] = ()) -> bool:
    """Whether an answer is right.

    Args:
        question: a row of `questions.jsonl`. text: the assistant's answer (after its tool calls, if it made any).
        tool_calls: the calls that it made, in OpenAI's form.
    """
    kind, expected = question["kind"], str(question["answer"])
    if kind == "abstention":
        return abstained(text) and not re.search(r"\d", text)
    if kind == "tool" and not any(_same_call(call, question["call"]) for call in tool_calls):
        return False
    if abstained(text):
        return False
    type_ = question["type"]
    if type_ == "number":
        numbers = re.findall(r"\d+", _plain(text))
        return bool(numbers) and numbers[-1] == expected
    if type_ == "place":
        return _last_named(text, question["choices"]) == expected
    return values_of(type_, text) == values_of(type_, expected) != frozenset()


def values_of(type_: str, text: str) -> frozenset[str]:
    """All values of one type that a text names, in canonical form."""
    plain = _plain(text)
    if type_ in _NAMES:
        return frozenset(_NAMES[type_].findall(plain))
    if type_ in ("open", "close", "hours"):
        return frozenset(_hours(plain))
    if type_ == "price":
        return frozenset(re.findall(r"(?<!\d)(\d+) ?(?:원|won\b)", plain))
    if type_ == "year":
        return frozenset(re.findall(r"(?<!\d)(\d{4})(?!\d)", plain))
    assert type_ == "phone", type_
    return frozenset(re.findall(r"\d{3}-\d{3,4}-\d{4}(?!\d)", plain))


def _plain(text: str) -> str:
    return re.sub(r"(?<=\d),(?=\d{3})", "", text.lower())


def _hours(text: str) -> list[str]:
    korean = [(h, half == "오후") for half, h in re.findall(r"(오전|오후) ?(\d{1,2})시", text)]
    english = [(h, half == "pm") for h, half in re.findall(r"(\d{1,2}) ?(am|pm)\b", text)]
    return [str(int(h) % 12 + 12 * late) for h, late in korean + english]


def _last_named(text: str, choices: Sequence[str]) -> str | None:
    found = {choice: text.rfind(choice) for choice in choices}
    best = max(found, key=lambda choice: found[choice])
    return best if found[best] >= 0 else None


def _same_call(made: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    function = made["function"]
    try:
        arguments = json.loads(function["arguments"])
    except ValueError:
        return False
    tidy = (
        {key: str(value).replace(" ", "") for key, value in arguments.items()}
        if isinstance(arguments, dict)
        else {}
    )
    expected = {key: str(value).replace(" ", "") for key, value in wanted["arguments"].items()}
    return function["name"] == wanted["name"] and tidy == expected
