"""The village for learned decoding: fresh conversations with a trained model's own village, and which of their positions
are free.

A position is free where the village itself could have gone on with another token: the next sentence of a letter, its
wording, its opening and closing. Everywhere else the text before decides the token, in an answer to a question always.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hanok.artefacts import create_artefact
from hanok.artefacts.shard_writer import SplitWriter, write_index
from hanok.data.village.build import Village
from hanok.data.village.config import VillageConfig
from hanok.data.village.dialogues import Conversations, Dialogue
from hanok.data.village.documents import FRAMES, state
from hanok.data.village.korean import fill
from hanok.data.village.other_questions import LETTERS
from hanok.data.village.places import ATTRIBUTES, Place
from hanok.tokens.tokenizer import Tokenizer

WORDINGS = 5


@dataclass(frozen=True, slots=True)
class Letter:
    """A letter of the village, in its pieces: opening, sentences about `attributes` in order, closing."""

    language: str
    place: Place
    prompt: str
    pieces: tuple[str, ...]
    attributes: tuple[str, ...]
    known: tuple[str, ...]

    @property
    def text(self) -> str:
        return " ".join(piece for piece in self.pieces if piece)

    @property
    def messages(self) -> list[dict[str, Any]]:
        return [{"role": "user", "content": self.prompt}, {"role": "assistant", "content": self.text}]


def letters(village: Village, language: str, count: int, seed: str) -> list[Letter]:
    """As the village's own training data has them, from another source of randomness."""
    rng = random.Random(f"letters-{seed}-{language}")
    found = []
    for _ in range(count):
        place = rng.choice(village.places)
        known = [attribute for attribute in ATTRIBUTES if village.asked(place, attribute)]
        chosen = rng.sample(known, min(4, len(known)))
        opening, closing = FRAMES[language]["letter"]
        name = place.name.of(language)
        pieces = [fill(rng.choice(opening), p=name)]
        pieces += [state(place, attribute, language, rng.randrange(WORDINGS)) for attribute in chosen]
        prompt = fill(rng.choice(LETTERS[language]), p=name)
        found.append(
            Letter(language, place, prompt, (*pieces, rng.choice(closing)), tuple(chosen), tuple(known))
        )
    return found


def facts(village: Village, language: str, count: int, seed: str) -> list[Dialogue]:
    """Questions with one answer, in wordings of the training data, about what it asks."""
    rng = random.Random(f"facts-{seed}-{language}")
    talk = Conversations(language, rng)
    pairs = [(p, a) for p in village.places for a in ATTRIBUTES if village.asked(p, a)]
    return [talk.fact(*rng.choice(pairs), seen=True) for _ in range(count)]


def village_of(directory: Path, settings: dict[str, Any]) -> Village:
    """The village that a corpus was written from. Args: settings: the `step` of its manifest."""
    names = {field.name for field in dataclasses.fields(VillageConfig)}
    values = {name: value for name, value in settings.items() if name in names}
    if not values:
        raise ValueError(f"{directory} does not say which village it holds")
    return Village(VillageConfig(**{**values, "languages": tuple(values["languages"])}))


def conversations(
    village: Village, seed: str, *, facts_each: int, letters_each: int
) -> list[list[dict[str, Any]]]:
    """Questions and letters of all languages, mixed."""
    found: list[list[dict[str, Any]]] = []
    for language in village.config.languages:
        found += [dialogue.messages for dialogue in facts(village, language, facts_each, seed)]
        found += [one.messages for one in letters(village, language, letters_each, seed)]
        rng = random.Random(f"talk-{seed}-{language}")
        talk = Conversations(language, rng)
        found += [talk.small_talk().messages for _ in range(letters_each // 10)]
    random.Random(f"mixed-{seed}").shuffle(found)
    return found


def write_chat_shards(
    parts: dict[str, Sequence[list[dict[str, Any]]]], tokenizer: Tokenizer, out: Path, *, step: dict[str, Any]
) -> None:
    """Token shards with the splits `parts` names (chat-train, chat-validation)."""
    with create_artefact(out, kind="shards", step=step) as draft:
        records = {}
        for name, chats in parts.items():
            with SplitWriter(draft.path, name, tokenizer) as writer:
                for messages in chats:
                    ids, mask = tokenizer.encode_chat(messages)
                    writer.write([tokenizer.bos_id, *ids], [False, *mask])
            records[name] = writer.record()
        write_index(draft.path, tokenizer, records)


def free_positions(letter: Letter, tokens: Sequence[str]) -> list[bool]:
    """Whether each token of the letter's text was free, token texts in order (they join to `letter.text`)."""
    assert "".join(tokens) == letter.text
    pieces = [
        letter.pieces[0],
        *(f" {piece}" for piece in letter.pieces[1:]),
    ]  # as tokens begin with their space
    alternatives = [
        [f" {one}" if number else one for one in some] for number, some in enumerate(_alternatives(letter))
    ]
    number = start = offset = 0
    found = []
    for token in tokens:
        if offset >= start + len(pieces[number]):
            start += len(pieces[number])
            number += 1
        written = letter.text[start:offset]
        rests = [one[len(written) :] for one in alternatives[number] if one.startswith(written)]
        found.append(any(rest[: len(token)] != token for rest in rests))
        offset += len(token)
    return found


def is_sound(letter: Letter, text: str) -> bool:
    """Whether a text is a letter of the village: an opening, true sentences about the place in its wordings, a closing."""
    opening, *sentences, closing = list(_alternatives(letter))
    parts = [*opening, *(sentences[0] if sentences else []), *closing]
    number = 0
    while text:
        found = max((part for part in parts if text.startswith(part)), key=len, default="")
        if not found or (number == 0) != (found in opening):
            return False
        text, number = text[len(found) :].lstrip(" "), number + 1
        if found in closing:
            return not text
    return False


def _alternatives(letter: Letter) -> Iterator[list[str]]:
    """What could have stood in the place of each piece, given those before it."""
    opening, closing = FRAMES[letter.language]["letter"]
    name = letter.place.name.of(letter.language)
    yield [fill(one, p=name) for one in opening]
    for number in range(len(letter.attributes)):
        left = [a for a in letter.known if a not in letter.attributes[:number]]
        yield [state(letter.place, a, letter.language, w) for a in left for w in range(WORDINGS)]
    yield list(closing)
