"""What the studies of reasoning count by: the law of the rounds, exponents, costs of a trace by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from hanok.bench import delethink, parity, scaling
from hanok.engine.thinking import Delethink


def test_rounds_until_half_of_the_answers_are_long() -> None:
    assert parity.law(0.25) == pytest.approx(0.4)
    assert [parity.rounds_of(share) for share in (0.15, 0.25, 0.4, 0.6)] == [3, 2, 1, 0]


def test_exponents_are_slopes_of_logarithms() -> None:
    rows = [{"way": "a", "length": n, "attended": 7 * n**1.5} for n in (10, 100, 1000)]
    assert delethink.exponent(
        [*rows, {"way": "b", "length": 1, "attended": 9}], "a", "attended"
    ) == pytest.approx(1.5)


def test_costs_of_a_trace_are_those_of_its_chunks(tmp_path: Path) -> None:
    whole, parts = delethink.costs(tmp_path, (300,))
    held = delethink.PROMPT + 300 - 1
    assert (whole["peak tokens"], whole["attended"]) == (held, held * (held + 1) // 2)
    block = 64 * 2 * 2 * 64 * 2  # tokens, keys and values, layers, width, bytes
    assert whole["peak cache bytes"] == -(-held // 64) * block
    assert parts["peak tokens"] == delethink.PROMPT + delethink.COST.chunk - 1
    assert parts["peak cache bytes"] == -(-parts["peak tokens"] // 64) * block
    assert parts["attended"] < whole["attended"]


def test_both_ways_of_practice_may_write_as_much() -> None:
    plan = Delethink(chunk=delethink.CHUNK, carry=delethink.CARRY, chunks=delethink.CHUNKS, head=0)
    assert plan.budget == delethink.LONGEST
    assert (
        3 * delethink.LEDGER.practice_pages[1] + 3 <= delethink.LONGEST
    )  # the working, a line, the sum, the end


def test_the_runs_differ() -> None:
    names = [one.name for one in scaling.RUNS]
    assert len(set(names)) == len(names) >= 6
