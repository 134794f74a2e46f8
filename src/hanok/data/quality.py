"""Rules that a text must pass, each with a name, a threshold and its source; a conversation has rules of its own.

Gopher: Rae et al. 2021 (arXiv 2112.11446), table A1. C4: Raffel et al. 2020 (arXiv 1910.10683), section 2.2. The Korean rules are
this project's: thresholds chosen so that Wikipedia, novels and reviews pass and their damaged forms do not.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

_STOP_WORDS = frozenset(("the", "be", "to", "of", "and", "that", "have", "with"))
_PARTICLE = re.compile(
    r"(?:[가-힣](?:은|는|이|가|을|를|의|에|에서|에게|로|으로|와|과|도|만|까지|부터|다|고|며|면|서|지|요|죠|니다|까|네|게|던|한|된|할|인)"
    r")[.,!?”’)\"']*$"
)
_ENDING = re.compile(r"(?:다|요|죠|까|니|네|음|임|함|자|라|오|군|걸|데|지)[.!?…”’\"'」』)]|[.!?…](?:\s|$)")
_JAMO = re.compile(r"[\u3131-\u318e]")
_RUN = re.compile(r"(\S)\1{9,}")
_RESIDUE = re.compile(r"\{\{|\}\}|\[\[|\]\]|^\|[-}]|<ref|<br ?/?>|&nbsp;|style=\"", re.M)
_BOILERPLATE = re.compile(
    r"enable javascript|javascript is disabled|cookie policy|쿠키 정책|자바스크립트를 (?:켜|활성화)", re.I
)
_BULLET = re.compile(r"^\s*(?:[-*•·▪◦●○■□▶☞]|\d{1,3}[.)])\s")
_ELLIPSIS = re.compile(r"(?:…|\.\.\.)\s*$")
_WORD = re.compile(r"\w")


class Measures:
    """Lines, words and ratios of one text, each worked out once."""

    def __init__(self, text: str, language: str) -> None:
        self.text, self.language = text, language

    @cached_property
    def lines(self) -> list[str]:
        return [line for line in self.text.split("\n") if line.strip()]

    @cached_property
    def words(self) -> list[str]:
        return self.text.split()

    @cached_property
    def mean_word_length(self) -> float:
        return sum(map(len, self.words)) / max(1, len(self.words))

    @cached_property
    def word_share(self) -> float:
        """Of the words, those with a letter or a digit."""
        return sum(1 for word in self.words if _WORD.search(word)) / max(1, len(self.words))

    def share_of_lines(self, pattern: re.Pattern[str]) -> float:
        return sum(1 for line in self.lines if pattern.search(line)) / max(1, len(self.lines))

    def per_character(self, pattern: re.Pattern[str]) -> float:
        """Share of the characters that lie in matches."""
        return sum(len(match[0]) for match in pattern.finditer(self.text)) / max(1, len(self.text))

    def repeated(self, parts: Sequence[str]) -> float:
        """Share of the characters that lie in parts that were there before."""
        counts = Counter(parts)
        total = sum(map(len, parts))
        return sum(len(part) * (count - 1) for part, count in counts.items()) / max(1, total)

    def top_n_gram(self, n: int) -> float:
        """Share of the characters that the most frequent n-gram of words covers."""
        if len(self.words) < 50:
            return 0.0
        grams = Counter(zip(*(self.words[i:] for i in range(n)), strict=False))
        gram, count = grams.most_common(1)[0]
        return count * sum(map(len, gram)) / max(1, sum(map(len, self.words))) if count > 1 else 0.0

    def duplicate_n_grams(self, n: int) -> float:
        """Share of the characters in n-grams of words that occur more than once, overlaps counted once."""
        words = self.words
        if len(words) < 50:
            return 0.0
        grams = list(zip(*(words[i:] for i in range(n)), strict=False))
        counts = Counter(grams)
        if len(counts) == len(grams):
            return 0.0
        covered = bytearray(len(words))
        for place, gram in enumerate(grams):
            if counts[gram] > 1:
                covered[place : place + n] = b"\1" * n
        repeated = sum(len(word) for word, inside in zip(words, covered, strict=True) if inside)
        return repeated / max(1, sum(map(len, words)))


@dataclass(frozen=True, slots=True)
class Rule:
    """A text is rejected when its measure lies below `least` or above `most`."""

    name: str
    source: str
    measure: Callable[[Measures], float]
    least: float = float("-inf")
    most: float = float("inf")
    languages: tuple[str, ...] = ()

    def threshold(self) -> str:
        return f"at least {self.least:g}" if self.least > float("-inf") else f"at most {self.most:g}"


def _long(least: int, measure: Callable[[Measures], float], otherwise: float) -> Callable[[Measures], float]:
    """Only of texts with so many words; shorter ones pass."""
    return lambda m: measure(m) if len(m.words) >= least else otherwise


def _symbols(m: Measures) -> float:
    return (m.text.count("#") + m.text.count("…") + m.text.count("...")) / max(1, len(m.words))


def _stop_words(m: Measures) -> float:
    return sum(word.lower() in _STOP_WORDS for word in m.words)


def _with_particle(m: Measures) -> float:
    return sum(1 for word in m.words if _PARTICLE.search(word)) / len(m.words)


def _short_lines(m: Measures) -> float:
    return sum(len(line) < 10 for line in m.lines) / max(1, len(m.lines))


def _residue(m: Measures) -> float:
    """In a thousand characters."""
    return 1000 * len(_RESIDUE.findall(m.text)) / max(1, len(m.text))


_KO, _EN = ("ko",), ("en",)
RULES: tuple[Rule, ...] = (
    Rule("long_words", "Gopher", _long(10, lambda m: m.mean_word_length, 5), most=12, languages=_EN),
    Rule("short_words", "Gopher", _long(10, lambda m: m.mean_word_length, 5), least=2.5, languages=_EN),
    Rule("long_eojeol", "Korean", _long(10, lambda m: m.mean_word_length, 3), most=15, languages=_KO),
    Rule("spaced_syllables", "Korean", _long(10, lambda m: m.mean_word_length, 3), least=1.5, languages=_KO),
    Rule("symbols", "Gopher", _long(50, _symbols, 0), most=0.25),
    Rule("words_with_letters", "Gopher", _long(10, lambda m: m.word_share, 1), least=0.7),
    Rule("bullet_lines", "Gopher", _long(50, lambda m: m.share_of_lines(_BULLET), 0), most=0.9),
    Rule("ellipsis_lines", "Gopher", _long(50, lambda m: m.share_of_lines(_ELLIPSIS), 0), most=0.3),
    Rule("stop_words", "Gopher", _long(50, _stop_words, 9), least=2, languages=_EN),
    Rule("repeated_lines", "Gopher", lambda m: m.repeated(m.lines), most=0.3),
    Rule("repeated_paragraphs", "Gopher", lambda m: m.repeated(m.text.split("\n\n")), most=0.3),
    Rule("top_2_gram", "Gopher", lambda m: m.top_n_gram(2), most=0.2),
    Rule("top_3_gram", "Gopher", lambda m: m.top_n_gram(3), most=0.18),
    Rule("duplicate_5_grams", "Gopher", lambda m: m.duplicate_n_grams(5), most=0.3),
    Rule("duplicate_10_grams", "Gopher", lambda m: m.duplicate_n_grams(10), most=0.2),
    Rule("lorem_ipsum", "C4", lambda m: m.text.lower().count("lorem ipsum"), most=0),
    Rule("boilerplate", "C4", lambda m: m.share_of_lines(_BOILERPLATE), most=0.2),
    Rule(
        "replacement_characters", "Korean", lambda m: m.text.count("\ufffd") / max(1, len(m.text)), most=0.002
    ),
    Rule("jamo_chatter", "Korean", lambda m: m.per_character(_JAMO), most=0.2, languages=_KO),
    Rule("repeated_syllable", "Korean", lambda m: m.per_character(_RUN), most=0.2),
    Rule("particles", "Korean", _long(20, _with_particle, 1), least=0.12, languages=_KO),
    Rule(
        "sentence_endings",
        "Korean",
        _long(60, lambda m: len(_ENDING.findall(m.text)), 9),
        least=1,
        languages=_KO,
    ),
    Rule("markup_residue", "Korean", _residue, most=5),
    Rule("list_debris", "Korean", _long(50, _short_lines, 0), most=0.8),
)


@dataclass(frozen=True, slots=True)
class Rejected:
    """Why a document goes, and what was measured against what."""

    rule: str
    value: float
    threshold: str


def judge(text: str, language: str, *, min_characters: int) -> Rejected | None:
    """The first rule that a text breaks."""
    if len(text) < min_characters:
        return Rejected("too_short", len(text), f"at least {min_characters}")
    measures = Measures(text, language)
    for rule in RULES:
        if rule.languages and language not in rule.languages:
            continue
        value = rule.measure(measures)
        if not rule.least <= value <= rule.most:
            return Rejected(rule.name, value, rule.threshold())
    return None


def judge_conversation(messages: Sequence[Mapping[str, Any]]) -> Rejected | None:
    """An answer must be there and say something; nobody answers before somebody asks."""
    roles = [message["role"] for message in messages]
    if "assistant" not in roles:
        return Rejected("no_answer", 0, "at least 1")
    if roles.index("assistant") < (roles.index("user") if "user" in roles else len(roles)):
        return Rejected("answer_before_question", 1, "at most 0")
    for message in messages:
        content = message.get("content") or ""
        if (
            not _WORD.search(content)
            and not message.get("tool_calls")
            and message["role"] in ("user", "assistant")
        ):
            return Rejected(f"empty_{message['role']}_turn", len(content), "at least 1")
    return None
