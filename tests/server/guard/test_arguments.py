"""Arguments of calls: read as they are written, in bounded depth and without a filter for each number."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hanok.guard.filter import OutputFilter
from hanok.guard.personal import PersonalData
from hanok.guard.secrets import Secrets
from hanok.server.arguments import Arguments

KEY = "AKIAQWERTYUIOPASDF27"


def read(written: str) -> tuple[str, Arguments, int]:
    """What is shown, who read it, and how many filters that took."""
    made: list[OutputFilter] = []

    def make(**more: Any) -> OutputFilter:
        made.append(OutputFilter([Secrets(), PersonalData()], **more))
        return made[-1]

    reader = Arguments(make)
    return reader.arguments(written), reader, len(made)


@pytest.mark.parametrize(
    "written",
    [f'{{"a": "{KEY}", "a": "x"}}', f'{{"a": "x", "a": "{KEY}"}}', f'{{"{KEY}": 1, "b": {{"c": 1, "c": 2}}}}',
     f'{{"a": {{"b": "{KEY}"}}, "a": {{"b": 1}}}}'],
)  # fmt: skip
def test_a_key_that_stands_there_twice_is_two_values(written: str) -> None:
    shown, reader, _ = read(written)
    assert KEY not in shown
    json.loads(shown)
    assert [one.rule for one in reader.found] == ["secrets"]


def test_what_is_clean_stays_as_it_was_written() -> None:
    written = '{"a":  1, "a": 1e3, "b": [true, null, "tea"]}'
    shown, reader, _ = read(written)
    assert (shown, reader.found, reader.blocked) == (written, [], False)


@pytest.mark.parametrize("depth", [65, 600, 100_000])
@pytest.mark.parametrize(("opened", "closed"), [("[", "]"), ('{"a":', "}")])
def test_arguments_nested_too_deep_are_blocked(depth: int, opened: str, closed: str) -> None:
    shown, reader, _ = read(opened * depth + f'"{KEY}"' + closed * depth)
    assert (shown, reader.blocked) == ("", True)
    assert [(one.rule, one.action) for one in reader.found] == [("arguments", "block")]
    shown, reader, _ = read(opened * 60 + "1" + closed * 60)
    assert not reader.blocked


def test_thousands_of_numbers_take_few_filters() -> None:
    values = list(range(5000))
    _, reader, filters = read(json.dumps({"values": values}))
    assert reader.found == []
    assert filters < 200
    shown, reader, filters = read(
        json.dumps({"values": [*values, 4111111111111111], "password": "x9!Kq2Lm8#Zr"})
    )
    assert json.loads(shown) == {"values": [*values, "[CARD]"], "password": "[SECRET]"}
    assert filters < 300
