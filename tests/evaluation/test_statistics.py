"""Intervals against published numbers, and the paired comparison against cases that can be worked out."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanok.artefacts import create_artefact
from hanok.errors import InputError
from hanok.evaluation.compare import compare_answers
from hanok.evaluation.statistics import paired_change, sign_test, wilson


def test_wilson_against_newcombe() -> None:
    """Newcombe (1998), table I, method 3: 81/263, 15/148, 0/20, 1/29."""
    published = (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    )
    for right, count, low, high in published:
        share = wilson(right, count)
        assert (share.low, share.high) == pytest.approx((low, high), abs=6e-5)


@given(count=st.integers(1, 500), share=st.floats(0, 1))
def test_wilson_holds_the_share_and_mirrors(count: int, share: float) -> None:
    right = round(share * count)
    interval, mirrored = wilson(right, count), wilson(count - right, count)
    assert 0 <= interval.low <= interval.value <= interval.high <= 1
    assert interval.low == pytest.approx(1 - mirrored.high)
    assert wilson(right, count, 0.99).low <= interval.low


def test_wilson_of_nothing() -> None:
    nothing = wilson(0, 0)
    assert (nothing.low, nothing.high) == (0.0, 1.0)
    assert math.isnan(nothing.value)


def test_sign_test() -> None:
    assert sign_test(0, 0) == 1.0
    assert sign_test(5, 5) == 1.0
    assert sign_test(6, 0) == pytest.approx(2 / 64)
    assert sign_test(1, 8) == pytest.approx(2 * (1 + 9) / 512)


def test_paired_change() -> None:
    before, after = [False] * 30 + [True] * 70, [True] * 25 + [False] * 10 + [True] * 65
    change = paired_change(before, after)
    assert (change.gained, change.lost) == (25, 5)
    assert change.difference == pytest.approx(0.20)
    assert change.low < 0.20 < change.high
    assert change.low > 0
    assert change == paired_change(before, after)
    assert change.p_value == pytest.approx(sign_test(25, 5))
    backwards = paired_change(after, before)
    assert backwards.difference == pytest.approx(-0.20)


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    """200 experiments of 150 questions where after is better by 0.1 on average."""
    rng, covered = random.Random(7), 0
    for _ in range(200):
        pairs = [rng.choices(((0, 1), (1, 0), (1, 1)), (0.3, 0.2, 0.5))[0] for _ in range(150)]
        change = paired_change([bool(b) for b, _ in pairs], [bool(a) for _, a in pairs], resamples=300)
        covered += change.low <= 0.1 <= change.high
    assert 0.89 <= covered / 200 <= 0.99


def test_two_evaluations_are_compared_question_by_question(tmp_path: Path) -> None:
    def evaluation(name: str, right: dict[str, bool]) -> Path:
        rows = [
            {"id": i, "kind": "fact", "part": "hard" if i > "b" else "fact", "right": r}
            for i, r in right.items()
        ]
        with create_artefact(tmp_path / name, kind="evaluation") as draft:
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (draft.path / "answers.jsonl").write_text(text, encoding="utf-8")
        return tmp_path / name

    before = evaluation("before", {"a": True, "b": False, "c": False, "d": False})
    after = evaluation("after", {"d": True, "c": False, "b": True, "a": False})
    found = compare_answers(before, after)
    assert {name: (c.gained, c.lost, c.difference) for name, c in found.items()} == {
        "all": (2, 1, 0.25), "fact": (2, 1, 0.25), "  hard": (1, 0, 0.5),
    }  # fmt: skip
    with pytest.raises(InputError, match="different questions"):
        compare_answers(before, evaluation("other", {"a": True}))
