"""Right or wrong against a known answer: words, numbers, patterns; Korean and English."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from fractions import Fraction

from hanok.errors import ConfigError
from hanok.training.rewards.base import Columns, Prompt, RewardFunction

_BOXED = re.compile(r"\\boxed\{((?:[^{}]|\{[^{}]*\})*)\}")
_MARKED = re.compile(
    r"(?:####|\b(?:the\s+)?(?:final\s+)?answer(?:\s+is\b\s*:?|\s*:)|(?:최종\s*)?(?:정답|답)(?:은|\s*:))\s*(.+)",
    re.IGNORECASE,
)
_ARTICLES = re.compile(r"\b(?:a|an|the)\s+")
_COPULA = re.compile(r"(?<=[가-힣0-9a-z])(?:입니다|이에요|예요|이다|이야|임)$")
_SPACES = re.compile(r"\s+")
_NUMBER = re.compile(
    r"-?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:\s*/\s*\d[\d,]*)?(?:\s*[조억만천](?:\s*\d[\d,]*(?:\.\d+)?)?)*"
)
_UNITS = {"조": 10**12, "억": 10**8, "만": 10**4}


def exact_answer(column: str = "answer") -> RewardFunction:
    """1 if the final answer is the expected one, else 0.

    Spelling that carries no meaning is set aside on both sides (`normalised`). The column holds a text, a number, or a
    list of accepted answers.
    """

    def reward(prompt: Prompt, completion: str, columns: Columns) -> float:
        given = normalised(final_answer(completion))
        return float(any(given == normalised(str(answer)) for answer in _expected(columns, column)))

    return reward


def numeric_answer(column: str = "answer", *, tolerance: float = 1e-6) -> RewardFunction:
    """1 if the last number of the final answer is the expected one, else 0.

    Args:
        tolerance: relative, for what is no whole number on either side; whole numbers must be equal.
    """

    def reward(prompt: Prompt, completion: str, columns: Columns) -> float:
        given = last_number(final_answer(completion))
        accepted = [last_number(str(answer)) for answer in _expected(columns, column)]
        if None in accepted:
            raise ConfigError(f"column {column!r} holds {columns[column]!r}", remedy="it must hold a number")
        return float(
            given is not None and any(_equal(given, x, tolerance) for x in accepted if x is not None)
        )

    return reward


def matches(pattern: str, *, flags: int = re.DOTALL) -> RewardFunction:
    """1 if the whole completion matches a regular expression, else 0."""
    try:
        compiled = re.compile(pattern, flags)
    except re.error as error:
        raise ConfigError(
            f"pattern {pattern!r}: {error}", remedy="write it as for Python's re module"
        ) from error

    def reward(prompt: Prompt, completion: str, columns: Columns) -> float:
        return float(compiled.fullmatch(completion) is not None)

    return reward


def after_reasoning(text: str) -> str:
    """What follows <think>...</think>; nothing if the reasoning does not end."""
    return text.rpartition("</think>")[2].partition("<think>")[0]


def final_answer(text: str) -> str:
    r"""What a solution says in the end.

    The last <answer>...</answer>, else the last \boxed{...}, else what follows the last mark, else the last line.

    Marks: `####`, "answer:", "the answer is", "정답은", "답:". Reasoning (`after_reasoning`) does not count.
    """
    text = after_reasoning(text)
    end = text.rfind("</answer>")
    if end >= 0 and (start := text.rfind("<answer>", 0, end)) >= 0:
        return text[start + len("<answer>") : end].strip()
    if boxed := _BOXED.findall(text):
        return boxed[-1].strip()
    if marked := _MARKED.findall(text):
        return marked[-1].strip()
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else ""


def normalised(text: str) -> str:
    """NFKC, lower case, single spaces, no outer punctuation, no English articles, no Korean copula at the end."""
    text = _SPACES.sub(" ", unicodedata.normalize("NFKC", text)).strip().lower()
    text = _ARTICLES.sub("", _strip_punctuation(text))
    return _strip_punctuation(_COPULA.sub("", text))


def last_number(text: str) -> Fraction | None:
    """The last number of a text, exactly: 1,234.5; 3/4; 12%; 1만 2천; 3억 5000만. None where there is none."""
    text = unicodedata.normalize("NFKC", text).replace("⁄", "/").replace("−", "-")
    found = list(_NUMBER.finditer(text))
    if not found:
        return None
    try:
        number = _read_number(found[-1].group())
    except ValueError:  # 1만 1만, or more digits than any answer has
        return None
    percent = text[found[-1].end() :].lstrip().startswith(("%", "퍼센트"))
    return number / 100 if percent and number is not None else number


def _read_number(text: str) -> Fraction | None:
    text = text.replace(",", "").replace(" ", "")
    sign, text = (-1, text[1:]) if text.startswith("-") else (1, text)
    if "/" in text:
        above, below = text.split("/")
        return sign * Fraction(above) / Fraction(below) if int(below) else None
    total = Fraction(0)
    for unit, size in _UNITS.items():
        if unit in text:
            before, text = text.split(unit, 1)
            total += _below_ten_thousand(before) * size
    return sign * (total + _below_ten_thousand(text))


def _below_ten_thousand(text: str) -> Fraction:
    if "천" not in text:
        return Fraction(text or 0)
    thousands, rest = text.split("천", 1)
    return Fraction(thousands or 1) * 1000 + Fraction(rest or 0)


def _equal(a: Fraction, b: Fraction, tolerance: float) -> bool:
    if a.denominator == b.denominator == 1:
        return a == b
    return abs(a - b) <= tolerance * max(abs(a), abs(b), Fraction(1))


def _strip_punctuation(text: str) -> str:
    start, end = 0, len(text)
    while start < end and _is_punctuation(text[start]):
        start += 1
    while end > start and _is_punctuation(text[end - 1]):
        end -= 1
    return text[start:end].strip()


def _is_punctuation(character: str) -> bool:
    return unicodedata.category(character)[0] in "PZ" and character not in "-%"


def _expected(columns: Columns, column: str) -> Sequence[object]:
    if column not in columns:
        raise ConfigError(
            f"no column {column!r} to compare with (there are {', '.join(sorted(columns)) or 'none'})",
            remedy="name the column that holds the answer",
        )
    value = columns[column]
    return value if isinstance(value, (list, tuple)) else [value]
