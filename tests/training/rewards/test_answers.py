"""Answers in words, numbers and shapes."""

from __future__ import annotations

import gzip
import json
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from hanok.errors import ConfigError
from hanok.training.rewards.answers import (
    exact_answer,
    final_answer,
    last_number,
    matches,
    normalised,
    numeric_answer,
)
from hanok.training.rewards.code import last_program
from hanok.training.rewards.models import read_verdict
from hanok.training.rewards.shape import characters_between, overlong, tags


def given(reward: Any, completion: str, **columns: Any) -> float | None:
    return reward("prompt", completion, columns)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("3 + 4 = 7\n#### 7", "7"),
        ("So it is \\boxed{\\frac{1}{2}} and \\boxed{x^{2}}.", "x^{2}"),
        ("Let me see.\nThe answer is Seoul.", "Seoul."),
        ("Final answer: 12 apples", "12 apples"),
        ("계산하면 정답은 42입니다.", "42입니다."),
        ("풀이...\n답: 부산", "부산"),
        ("<think>the answer is 3</think><answer>4</answer>", "4"),
        ("<think>The answer is 3</think>4", "4"),
        ("the template opened it: 3</think>\n\n\\boxed{5}", "5"),
        ("<think>the answer is 3, or", ""),
        ("one\ntwo\n\n", "two"),
        ("", ""),
    ],
)
def test_final_answer(text: str, answer: str) -> None:
    assert final_answer(text) == answer


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("  The Seoul. ", "seoul"),
        ("서울입니다.", "서울"),
        ("ＡＢＣ　１２３", "abc 123"),
        ("「세종대왕」", "세종대왕"),
        ("An apple\n a day", "apple day"),
        ("42입니다", "42"),
    ],
)
def test_spelling_without_meaning(one: str, other: str) -> None:
    assert normalised(one) == normalised(other)


@pytest.mark.parametrize(("one", "other"), [("-5", "5"), ("이다", ""), ("12%", "12"), ("서울 시", "서울시")])
def test_spelling_with_meaning(one: str, other: str) -> None:
    assert normalised(one) != normalised(other)


def test_exact() -> None:
    reward = exact_answer()
    assert given(reward, "수도는 어디일까요?\n정답은 서울입니다.", answer="서울") == 1.0
    assert given(reward, "The answer is Busan.", answer="Seoul") == 0.0
    assert given(reward, "답: NYC", answer=["New York", "nyc"]) == 1.0
    assert given(reward, "#### 7", answer=7) == 1.0
    with pytest.raises(ConfigError, match="no column 'answer'"):
        given(reward, "x", reply="x")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1,234.5 won", Fraction(2469, 2)),
        ("between 3 and -4", Fraction(-4)),
        ("3/4", Fraction(3, 4)),
        ("12.5%", Fraction(1, 8)),
        ("1만 2천", Fraction(12_000)),
        ("3억 5000만 원", Fraction(350_000_000)),
        ("1조 2,000억", Fraction(1_200_000_000_000)),
        ("2천5백이 아니라 3천", Fraction(3000)),
        ("−１２", Fraction(-12)),
        (".5", Fraction(1, 2)),
        ("1/0", None),
        ("1만 2만", None),
        ("9" * 5000, None),
        ("none at all", None),
    ],
)
def test_numbers(text: str, number: Fraction | None) -> None:
    assert last_number(text) == number


def test_numeric() -> None:
    reward = numeric_answer()
    assert given(reward, "#### 1,000", answer="1000") == 1.0
    assert given(reward, "약 1만 원이니까 답: 10000원", answer="1만") == 1.0
    assert given(reward, "Answer: 0.3333333", answer="1/3") == 1.0
    assert given(reward, "Answer: 0.333", answer="1/3") == 0.0
    assert given(reward, "Answer: 10000001", answer="10000000") == 0.0  # whole numbers are equal or not
    assert given(reward, "I do not know", answer="3") == 0.0
    with pytest.raises(ConfigError, match="must hold a number"):
        given(reward, "3", answer="three")


@pytest.mark.data
def test_solutions_of_gsm8k(shared_data: Path) -> None:
    """Every published solution is right for its own problem, and for another one only where the numbers are equal."""
    with gzip.open(shared_data / "gsm8k" / "train.jsonl.gz", "rt") as file:
        solutions = [json.loads(line)["answer"] for line in file]
    assert len(solutions) == 7473
    reward, truths = numeric_answer(), [solution.rsplit("#### ", 1)[1] for solution in solutions]
    assert all(given(reward, s, answer=t) == 1.0 for s, t in zip(solutions, truths, strict=True))
    others = truths[1:] + truths[:1]
    equal = [
        float(a.replace(",", "")) == float(b.replace(",", "")) for a, b in zip(truths, others, strict=True)
    ]
    assert [given(reward, s, answer=t) == 1.0 for s, t in zip(solutions, others, strict=True)] == equal


@pytest.mark.parametrize(
    "unit",
    [
        "<answer>",
        "\\boxed{",
        "1,",
        "1/",
        "만 1",
        "answer: ",
        "<think>",
        "```python\n",
        "\n*",
        "Score: ",
        "-1 ",
    ],
)
def test_long_answers_take_no_long_time(unit: str) -> None:
    """What a policy repeats until its budget ends is read in one pass."""
    text = unit * (200_000 // len(unit))
    start = time.process_time()
    for reward in (exact_answer(), numeric_answer(), tags()):
        given(reward, text, answer="1")
    last_program(text)
    read_verdict(text)
    assert time.process_time() - start < 2.0


def test_patterns() -> None:
    reward = matches(r"\{.*\}")
    assert given(reward, '{"a":\n 1}') == 1.0
    assert given(reward, 'x {"a": 1}') == 0.0
    with pytest.raises(ConfigError, match="pattern"):
        matches("(")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("<think>hm</think>\n<answer>4</answer>", 1.0),
        ("<think>hm</think> so <answer>4</answer>", 0.0),
        ("<answer>4</answer><think>hm</think>", 0.0),
        ("<think>a</think><think>b</think><answer>4</answer>", 0.0),
        ("<think>a<answer>4</answer>", 0.0),
        ("4", 0.0),
    ],
)
def test_tags(text: str, value: float) -> None:
    assert given(tags(), text) == value


def test_lengths() -> None:
    assert [given(characters_between(2, 3), "가" * n) for n in range(5)] == [0, 0, 1, 1, 0]
    shaped = overlong(100, 20)
    values = [given(shaped, "", completion_tokens=n) for n in (10, 80, 90, 100, 101, 500)]
    assert values == pytest.approx([0, 0, -0.5, -1, -1, -1])
    with pytest.raises(ConfigError, match="count their tokens"):
        given(shaped, "")
