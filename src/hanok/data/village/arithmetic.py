"""Sums on prices and hours with the steps written out, digit by digit from the right, so that each step is easy.

1234+5678: 4+8=12, 3+7+1=11, 2+6+1=9, 1+5=6 -> 6912
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass

from hanok.data.village.wordings import Wordings, cross


@dataclass(frozen=True, slots=True)
class Problem:
    """`expression` as a calculator takes it, `steps`, and the `result`."""

    operation: str
    left: int
    right: int
    steps: str
    result: int

    @property
    def expression(self) -> str:
        return f"{self.left}{self.operation}{self.right}"

    @property
    def worked(self) -> str:
        return f"{self.expression}: {self.steps} -> {self.result}"


def add(left: int, right: int) -> Problem:
    a, b, carry, steps = _digits(left, right), _digits(right, left), 0, []
    for x, y in zip(a, b, strict=True):
        total = x + y + carry
        steps.append(f"{x}+{y}{f'+{carry}' if carry else ''}={total}")
        carry = total // 10
    return Problem("+", left, right, ", ".join(steps), left + right)


def subtract(left: int, right: int) -> Problem:
    """left >= right; a borrowed ten is added to the upper digit, and taken from the next."""
    a, b, borrow, steps = _digits(left, right), _digits(right, left), 0, []
    for x, y in zip(a, b, strict=True):
        lack = x - y - borrow < 0
        upper = x + 10 if lack else x
        steps.append(f"{upper}-{y}{'-1' if borrow else ''}={upper - y - borrow}")
        borrow = int(lack)
    return Problem("-", left, right, ", ".join(steps), left - right)


def multiply(left: int, right: int) -> Problem:
    """`right` has one digit."""
    carry, steps = 0, []
    for x in _digits(left, 0):
        product = x * right + carry
        steps.append(f"{x}*{right}{f'+{carry}' if carry else ''}={product}")
        carry = product // 10
    return Problem("*", left, right, ", ".join(steps), left * right)


def between(opens: int, closes: int) -> Problem:
    """Hours from opening to closing, both on the 24-hour clock."""
    return Problem("-", closes, opens, f"{closes}-{opens}={closes - opens}", closes - opens)


def equations(problem: Problem) -> list[str]:
    """The single steps: "4+8=12" and so on."""
    return problem.steps.split(", ")


def random_problem(operation: str, rng: random.Random) -> Problem:
    """Operands up to four digits; all lengths occur."""
    if operation == "between":
        opens = rng.randrange(0, 20)
        return between(opens, rng.randrange(opens + 1, 25))
    left = _operand(rng)
    if operation == "*":
        return multiply(left, rng.randrange(2, 10))
    right = _operand(rng)
    return add(left, right) if operation == "+" else subtract(max(left, right), min(left, right))


def _operand(rng: random.Random) -> int:
    length = rng.choice((1, 2, 3, 3, 4, 4))
    return rng.randrange(10 ** (length - 1), 10**length)


def in_test(problem: Problem) -> bool:
    """Whether a problem belongs to the held-out part: decided by its numbers, so that no problem is in both."""
    digest = hashlib.sha256(f"{problem.operation}{problem.left},{problem.right}".encode()).digest()
    return digest[0] < 26  # about a tenth


def _digits(number: int, at_least_as_long_as: int) -> list[int]:
    width = max(len(str(number)), len(str(at_least_as_long_as)))
    return [int(c) for c in reversed(str(number).zfill(width))]


# operation -> (what is asked of, how it is asked)
_FRAMES: dict[str, dict[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "ko": {
        "+": (
            ("{a}원하고 {b}원을 더하면 {n}", "{a}에 {b:을} 더하면 {n}", "{a} 더하기 {b:은} {n}", "{a}+{b:은} {n}",
             "{a}원짜리와 {b}원짜리를 사면 {n}", "{a}원과 {b}원의 합은 {n}"),
            ("얼마예요?", "뭐예요?", "모두 얼마예요?", "얼마인지 알려 주세요."),
        ),
        "-": (
            ("{a}원에서 {b}원을 빼면 {n}", "{a}에서 {b:을} 빼면 {n}", "{a} 빼기 {b:은} {n}", "{a}-{b:은} {n}",
             "{a}원을 내고 {b}원짜리를 사면 거스름돈은 {n}", "{a}원과 {b}원의 차이는 {n}"),
            ("얼마예요?", "뭐예요?", "모두 얼마예요?", "얼마인지 알려 주세요."),
        ),
        "*": (
            ("{a}원짜리 {b}개는 {n}", "{a}에 {b:을} 곱하면 {n}", "{a} 곱하기 {b:은} {n}", "{a}*{b:은} {n}",
             "{a}원짜리를 {b}개 사면 {n}", "하나에 {a}원인데 {b}개면 {n}"),
            ("얼마예요?", "뭐예요?", "모두 얼마예요?", "얼마인지 알려 주세요."),
        ),
        "between": (
            ("{b}시부터 {a}시까지 {n}", "{b}시에 열고 {a}시에 닫으면 {n}", "{b}시에서 {a}시까지는 {n}",
             "{b}시에 와서 {a}시에 가면 {n}", "{b}시와 {a}시 사이는 {n}"),
            ("몇 시간이에요?", "모두 몇 시간이에요?", "몇 시간인지 알려 주세요.", "시간이 얼마예요?"),
        ),
    },
    "en": {
        "+": (
            ("{n} {a} won plus {b} won?", "{n} {a} plus {b}?", "{n} {a}+{b}?", "{n} the sum of {a} won and {b} won?",
             "{n} {b} added to {a}?", "{n} one for {a} won and one for {b} won?"),
            ("What is", "How much is", "Can you tell me", "Please work out"),
        ),
        "-": (
            ("{n} {a} won minus {b} won?", "{n} {a} minus {b}?", "{n} {a}-{b}?",
             "{n} the difference of {a} won and {b} won?", "{n} {a} less {b}?",
             "{n} my change from {a} won when I spend {b} won?"),
            ("What is", "How much is", "Can you tell me", "Please work out"),
        ),
        "*": (
            ("{n} the price of {b} at {a} won each?", "{n} {a} times {b}?", "{n} {a}*{b}?", "{n} {a} multiplied by {b}?",
             "{n} the product of {a} and {b}?", "{n} the sum if I buy {b} for {a} won each?"),
            ("What is", "How much is", "Can you tell me", "Please work out"),
        ),
        "between": (
            ("{n} from {b} to {a} o'clock?", "{n} if it opens at {b} and closes at {a}?", "{n} from {b} until {a}?",
             "{n} if I come at {b} and go at {a}?", "{n} between {b} and {a}?"),
            ("How many hours is it", "How long is it", "What is the time", "Please count the hours"),
        ),
    },
}  # fmt: skip
FRAMES: dict[str, dict[str, Wordings]] = {
    language: {operation: cross(frames, asking) for operation, (frames, asking) in operations.items()}
    for language, operations in _FRAMES.items()
}
ANSWERS = {"ko": "{worked}. 답은 {result:이에요}.", "en": "{worked}. The answer is {result}."}
