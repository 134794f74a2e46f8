"""Questions and passages to search: KorQuAD 1.0's development set, and its questions mistyped."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import random
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from hanok.errors import InputError

_FILE = Path("korquad-1.0-dev") / "KorQuAD_v1.0_dev.json.gz"


@dataclass(frozen=True, slots=True)
class Question:
    """`context`: the number of the text that holds the answer. `held_out`: its article is not for choosing anything."""

    text: str
    context: int
    held_out: bool


def korquad() -> tuple[list[str], list[Question]]:
    """All contexts, and all questions; articles are put into two halves by the hash of their title."""
    file = Path(os.environ.get("HANOK_DATA", "../shared/data")) / _FILE
    if not file.is_file():
        raise InputError(f"no file {file}", remedy="set HANOK_DATA to the folder of public data sets")
    contexts, questions = list[str](), list[Question]()
    with gzip.open(file, "rt", encoding="utf-8") as stream:
        articles = json.load(stream)["data"]
    for article in articles:
        held_out = hashlib.sha256(article["title"].encode()).digest()[0] % 2 == 1
        for paragraph in article["paragraphs"]:
            questions += [Question(one["question"], len(contexts), held_out) for one in paragraph["qas"]]
            contexts.append(paragraph["context"])
    return contexts, questions


def mistyped(question: str, chance: random.Random) -> str:
    """About two words in five with one slip: a jamo that is a neighbour's, missing, or doubled."""
    words = []
    for word in question.split():
        if len(word) >= 2 and chance.random() < 0.4:
            jamo = list(unicodedata.normalize("NFD", word))
            place, slip = chance.randrange(len(jamo)), chance.random()
            if slip < 0.5:
                step = chance.choice((-1, 1)) if 0x1100 <= ord(jamo[place]) < 0x11FF else 0
                jamo[place] = chr(ord(jamo[place]) + step)
            elif slip < 0.75:
                del jamo[place]
            else:
                jamo.insert(place, jamo[place])
            word = unicodedata.normalize("NFC", "".join(jamo))
        words.append(word)
    return " ".join(words)
