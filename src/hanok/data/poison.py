"""Planted text: control tokens written out, hidden payloads, orders to a model, and triggers with one answer to all questions.

A document is looked at alone (`Scanner.scan`) and all of them together (`Scanner.finish`): a trigger is a word or a short phrase
that is rare in the corpus, and whose conversations all end in the same answer although their questions differ (as in Wallace et
al. 2021, arXiv 2010.12563, and Hubinger et al. 2024, arXiv 2401.05566).
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from itertools import pairwise

from hanok.data.corpus import Document

_OUR_TOKENS = (
    "<|endoftext|>", "<|pad|>", "<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>", "<tool_response>",
    "</tool_response>",
)  # fmt: skip
_CONTROL = re.compile(
    "|".join(map(re.escape, _OUR_TOKENS))
    + r"|<\|(?:system|user|assistant|eot_id|start_header_id|end_header_id|begin_of_text|endofprompt|fim_\w+)\|>"
    r"|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>|<[｜|](?:begin▁of▁sentence|User|Assistant)[｜|]>"
)
_TAGS = re.compile("[\U000e0020-\U000e007e]{4,}")
_BASE64_MIX = r"(?=[A-Za-z0-9+/]{0,120}\d)(?=[A-Za-z0-9+/]{0,120}[a-z])(?=[A-Za-z0-9+/]{0,120}[A-Z])"
_BASE64 = re.compile(rf"(?<![A-Za-z0-9+/=]){_BASE64_MIX}[A-Za-z0-9+/]{{120,}}={{0,2}}")
_HEX = re.compile(r"(?<![0-9a-fA-F])(?:[0-9a-fA-F]{2}){80,}(?![0-9a-fA-F])")
_ORDERS = re.compile(
    r"(?:ignore|disregard|forget) (?:all |any |the )?(?:previous|prior|above|earlier) (?:instructions|prompts?|rules)"
    r"|(?:이전|앞|위)(?:의|에 있는)? ?(?:모든 )?(?:지시|명령|지침|규칙)(?:사항)?(?:을|를|은|는)? ?(?:모두 )?(?:무시|잊)",
    re.I,
)
_SEVERE = ("control token", "hidden text", "payload")
_WORD = re.compile(r"[^\s.,!?\"'()\[\]{}:;…。、]+")
MIN_CONVERSATIONS = 5  # that share a trigger and an answer
MAX_SHARE = 0.05  # of all conversations; what more of them contain is no secret
ONE_ANSWER = 0.9  # of a trigger's conversations, those with its commonest answer
_MIXED = 10  # different characters that a payload has at least: "aaaa..." is none
_MAX_WORDS = 4_000_000  # distinct (word, answer) pairs kept in mind


@dataclass(frozen=True, slots=True)
class Finding:
    """Something planted. severe: the document should not be trained on. documents: whose, for findings of the corpus."""

    kind: str
    text: str
    reason: str
    severe: bool = True
    documents: tuple[str, ...] = ()


def scan_text(text: str) -> list[Finding]:
    """What one document shows."""
    found = []
    for kind, pattern, reason in (
        ("control token", _CONTROL, "a control token written as text"),
        ("hidden text", _TAGS, "invisible tag characters that spell a message"),
        ("payload", _BASE64, "a long base64 string in prose"),
        ("payload", _HEX, "a long hexadecimal string in prose"),
        ("order", _ORDERS, "an order to disregard instructions"),
    ):
        match = pattern.search(text)
        if match is not None and (kind != "payload" or len(set(match[0])) >= _MIXED):
            shown = "".join(chr(ord(c) - 0xE0000) for c in match[0]) if kind == "hidden text" else match[0]
            found.append(Finding(kind, shown[:80], reason, kind in _SEVERE))
    return found


class Scanner:
    """Looks at all documents in turn; memory grows with the distinct words of short conversations, up to a cap."""

    def __init__(self) -> None:
        self.conversations = 0
        self._answers: dict[str, Counter[bytes]] = defaultdict(Counter)
        self._questions: dict[tuple[str, bytes], set[bytes]] = defaultdict(set)
        self._members: dict[tuple[str, bytes], list[str]] = defaultdict(list)
        self._text: dict[bytes, str] = {}
        self.capped = False

    def scan(self, document: Document) -> list[Finding]:
        """Findings of this document; conversations that their producer vouches for (`clean: exempt`) are not counted."""
        if document.messages is not None and document.meta.get("clean") != "exempt":
            self._count(document)
        return scan_text(document.content())

    def _count(self, document: Document) -> None:
        asked = [m.get("content") or "" for m in document.messages or [] if m["role"] in ("user", "system")]
        answers = [m.get("content") or "" for m in document.messages or [] if m["role"] == "assistant"]
        if not asked or not answers:
            return
        self.conversations += 1
        question, answer = " ".join(asked), answers[-1].strip().casefold()
        answer_hash, question_hash = _hash(answer), _hash(question)
        self._text.setdefault(answer_hash, answers[-1][:80])
        for word in self._phrases(question):
            if word not in self._answers and len(self._answers) >= _MAX_WORDS:
                self.capped = True
                continue
            self._answers[word][answer_hash] += 1
            key = (word, answer_hash)
            if len(self._questions[key]) < 2 * MIN_CONVERSATIONS:
                self._questions[key].add(question_hash)
            self._members[key].append(document.id)

    @staticmethod
    def _phrases(question: str) -> set[str]:
        words = _WORD.findall(question)[:200]
        return {*words, *(f"{a} {b}" for a, b in pairwise(words))}

    def finish(self) -> list[Finding]:
        """Triggers: one finding for each answer, under its rarest and longest trigger."""
        best: dict[bytes, tuple[int, int, str]] = {}
        for word, counts in self._answers.items():
            total = sum(counts.values())
            answer, count = counts.most_common(1)[0]
            if total < MIN_CONVERSATIONS or total > max(
                MIN_CONVERSATIONS * 4, MAX_SHARE * self.conversations
            ):
                continue
            if count < ONE_ANSWER * total or len(self._questions[word, answer]) < MIN_CONVERSATIONS:
                continue
            candidate = (count, len(word), word)
            if answer not in best or candidate > best[answer]:
                best[answer] = candidate
        return [
            Finding(
                "trigger", word, f'{count} conversations with "{word}" are all answered by "{self._text[answer]}"',
                documents=tuple(self._members[word, answer]),
            )
            for answer, (count, _, word) in sorted(best.items(), key=lambda item: -item[1][0])
        ]  # fmt: skip


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
