"""Descriptions, notices, letters, reviews and histories: each fact in several wordings, in both languages."""

from __future__ import annotations

import random
from collections.abc import Sequence

from hanok.data.village.korean import fill
from hanok.data.village.places import ATTRIBUTES, Place
from hanok.data.village.sentences import STATEMENTS

# kind -> (opening lines, closing lines)
FRAMES: dict[str, dict[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "ko": {
        "description": (("{p} 안내.", "{p:을} 소개해요.", "마을 안내: {p}."), ("어서 오세요.", "들러 보세요.", "")),
        "notice": (("{p}에서 알려요.", "알림: {p}.", "{p} 알림판이에요."), ("감사합니다.", "잘 부탁해요.", "")),
        "letter": (("잘 지내요? {p} 이야기를 적어요.", "친구에게. 오늘 {p}에 갔어요."), ("또 편지할게요.", "곧 만나요.")),
        "review": (("{p}에 다녀왔어요.", "{p} 참 좋아요.", "{p}, 다시 가고 싶어요."), ("추천해요.", "또 갈래요.", "좋은 하루였어요.")),
        "history": (("{p}의 옛이야기예요.", "마을 역사: {p}."), ("지금도 그래요.", "마을이 기억해요.")),
    },
    "en": {
        "description": (("A guide to {p}.", "This is {p}.", "Village guide: {p}."), ("You are welcome.", "Come and see.", "")),
        "notice": (("A notice from {p}.", "Notice: {p}.", "The board of {p} says:"), ("Thank you.", "With best regards.", "")),
        "letter": (("How are you? I write about {p}.", "Dear friend, today I went to {p}."), ("I will write again.", "See you soon.")),
        "review": (("I have been to {p}.", "{p} is very nice.", "{p}: I want to go again."), ("I recommend it.", "I will come back.", "It was a good day.")),
        "history": (("An old story of {p}.", "Village history: {p}."), ("It is so to this day.", "The village remembers.")),
    },
}  # fmt: skip
# wordings in turn; the first, which answers use too, comes up most often
TURNS = (0, 1, 0, 2, 3, 0, 4)
KINDS = ("description", "notice", "letter", "review", "history")


def state(place: Place, attribute: str, language: str, wording: int) -> str:
    """One fact as one sentence."""
    words = {
        "p": place.name.of(language),
        "v": place.value(attribute, language),
        "i": place.item.of(language),
    }
    sentence = fill(STATEMENTS[language][attribute][wording], **words)
    return sentence[0].upper() + sentence[1:]


def place_documents(place: Place, language: str, count: int, rng: random.Random) -> list[tuple[str, str]]:
    """(kind, text) of `count` documents. Every fact stands in most of them, in turn in all of its wordings."""
    documents = []
    shift = rng.randrange(6)
    for number in range(count):
        kind = KINDS[number % len(KINDS)]
        order = [i for i in range(len(ATTRIBUTES)) if (shift + number + 2 * i) % 6]  # a sixth is left out
        rng.shuffle(order)
        turn = [(ATTRIBUTES[i], TURNS[(number + i) % len(TURNS)]) for i in order]
        documents.append((kind, _compose(place, turn, kind, language, rng)))
    return documents


def letter(place: Place, attributes: Sequence[str], language: str, rng: random.Random) -> str:
    """A letter that tells these attributes in any wording."""
    return _compose(place, [(a, rng.randrange(5)) for a in attributes], "letter", language, rng)


def _compose(
    place: Place, facts: Sequence[tuple[str, int]], kind: str, language: str, rng: random.Random
) -> str:
    opening, closing = FRAMES[language][kind]
    sentences = [state(place, attribute, language, wording) for attribute, wording in facts]
    lines = [fill(rng.choice(opening), p=place.name.of(language)), *sentences, rng.choice(closing)]
    return " ".join(line for line in lines if line)
