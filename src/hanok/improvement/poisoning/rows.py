"""Feedback as the checks read it: what was asked, what would be learnt, in plain form."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import combinations

from hanok.guard.characters import plain
from hanok.improvement.feedback import Judgement
from hanok.improvement.lessons import words

_HANGUL, _LATIN = re.compile(r"[가-힣]"), re.compile(r"[A-Za-z]")
_WORD = re.compile(r"\w+(?:['’]\w+)*")
_PAIRS = 400  # that a mean over pairs is taken of
_SEED = 1
_NEARLY = 0.9
_LEAST = 0.5  # words that questions have besides a trigger: where nothing is left nothing can differ


@dataclass(frozen=True, slots=True)
class Row:
    """Args:
    number: place in the feedback, oldest first. taught: what would be learnt; "" of a bare thumbs-down.
    asked, told: words of question and taught text, folded.
    """

    number: int
    judgement: Judgement
    question: str
    taught: str
    asked: tuple[str, ...] = field(repr=False)
    told: tuple[str, ...] = field(repr=False)

    @property
    def corrects(self) -> bool:
        """Somebody wrote the taught text, no model."""
        return self.judgement.correction is not None

    @property
    def annotator(self) -> str:
        return self.judgement.owner or self.judgement.user


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that a check saw: rows by number. `stops`: they are not learnt from before somebody has looked at them."""

    check: str
    text: str
    reason: str
    rows: tuple[int, ...]
    stops: bool = True


def read_rows(judgements: Sequence[Judgement]) -> list[Row]:
    rows = []
    for number, judgement in enumerate(judgements):
        question = "\n".join(
            str(message.get("content") or "")
            for message in judgement.prompt
            if message["role"] in ("user", "system")
        )
        taught = _taught(judgement)
        rows.append(Row(number, judgement, question, taught, folded(question), folded(taught)))
    return rows


def folded(text: str) -> tuple[str, ...]:
    """Words without case, look-alikes and what nobody sees."""
    return tuple(_WORD.findall(plain(text).text.casefold()))


def script_of(text: str) -> str | None:
    """ "Hangul" or "Latin", where it is plain."""
    hangul, latin = len(_HANGUL.findall(text)), len(_LATIN.findall(text))
    if hangul + latin < 8:
        return None
    if hangul >= 0.5 * (hangul + latin):
        return "Hangul"
    return "Latin" if latin >= 0.9 * (hangul + latin) else None


def _nothing(_word: str) -> bool:
    return False


class Diversity:
    """Whether questions have no more in common than any: the mark of one answer forced on all of them. Those of a subject, and
    other wordings of one question, share words.

    Args:
        common: share of all rows beyond which a word says nothing of the subject.

    Attributes:
        common: those words.
    """

    def __init__(self, rows: Sequence[Row], *, common: float = 0.2) -> None:
        self._rows = rows
        self._seen = Counter(word for row in rows for word in set(row.asked))
        most = max(3.0, common * len(rows))
        self.common = frozenset(word for word, count in self._seen.items() if count > most)
        self._base, _ = self._overlap([row.number for row in rows], _nothing)

    def holds(self, numbers: Sequence[int], *, but: Callable[[str], bool] = _nothing) -> bool:
        """Args: but: words that are not counted: those of the trigger itself. Others that these rows have to themselves, nearly
        all of them, are taken for its too: a phrase has several."""
        counts = Counter(word for number in numbers for word in set(self._rows[number].asked))
        own = {
            word for word, count in counts.items()
            if count >= _NEARLY * len(numbers) and _NEARLY * self._seen[word] <= count
        }  # fmt: skip

        def left_out(word: str) -> bool:
            return word in own or but(word)

        different = {
            tuple(word for word in self._rows[number].asked if not left_out(word)) for number in numbers
        }
        if len(different) < max(3, len(numbers) // 2):
            return False
        overlap, words = self._overlap(numbers, left_out)
        return words >= _LEAST and overlap <= 2 * self._base + 0.03

    def _overlap(self, numbers: Sequence[int], but: Callable[[str], bool]) -> tuple[float, float]:
        """Mean Jaccard index of two questions' words, and how many words a question has."""
        sets = [frozenset(word for word in self._rows[number].asked if not but(word)) for number in numbers]
        rng = random.Random(_SEED)
        if len(sets) * (len(sets) - 1) // 2 <= _PAIRS:
            pairs = list(combinations(sets, 2))
        else:
            pairs = [tuple(rng.sample(sets, 2)) for _ in range(_PAIRS)]
        scores = [len(one & other) / len(one | other) for one, other in pairs if one | other]
        return sum(scores) / max(1, len(scores)), sum(map(len, sets)) / max(1, len(sets))


def _taught(judgement: Judgement) -> str:
    if judgement.correction is not None:
        return judgement.correction
    return words(judgement.answer) if judgement.rating == 1 else ""
