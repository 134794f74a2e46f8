"""A harder village for alignment: preference pairs, prompts with checkable answers, and an exam that shares none of them.

    preferences.jsonl  preferences-validation.jsonl    {id, prompt, chosen, rejected, source, licence, kind}
    prompts.jsonl      prompts-validation.jsonl        {id, prompt, answer, kind, language}
    questions.jsonl    timetable.json                  the exam, in the form of the village's own

What is hard: a place that is almost a real one (its name with another kind of house: "Solhyang Bakery" where there is
only the Solhyang Tea House), and sums whose operands both have four digits. Names and sums belong to train, validation
or test by a hash of theirs, so nothing that is learnt from is asked.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hanok.artefacts import Artefact, create_artefact, open_artefact
from hanok.data.village import arithmetic
from hanok.data.village.build import LICENCE, SOURCE, Village, question_row, unknown_name
from hanok.data.village.config import AlignmentDataConfig, VillageConfig
from hanok.data.village.dialogues import Conversations, Dialogue, assistant
from hanok.data.village.documents import state
from hanok.data.village.korean import fill
from hanok.data.village.places import ATTRIBUTES, KINDS, Name, Place, place_name
from hanok.data.village.sentences import UNKNOWN
from hanok.data.village.tools import timetable
from hanok.errors import ArtefactError

Row = dict[str, Any]
OPERATIONS = ("+", "-", "*")


def write_alignment(config: AlignmentDataConfig, village: Path, out: Path) -> Artefact:
    """Kind "corpus", so that `hanok eval --village` asks its questions.

    Args:
        village: a corpus of `hanok data village`: its places are the ones that are asked about.

    Raises:
        ArtefactError: that directory is no village.
    """
    source = open_artefact(village, kind="corpus")
    known = Village(_config_of(source))
    with create_artefact(
        out, kind="corpus", parents={"village": source}, step=dataclasses.asdict(config)
    ) as draft:
        counts: Counter[str] = Counter()
        for split, part in (("train", ""), ("validation", "-validation")):
            size = config.pairs if split == "train" else config.validation
            pairs = list(_both(known, lambda maker, n=size: maker.pairs(n), split, config))
            size = config.prompts if split == "train" else config.validation
            prompts = list(_both(known, lambda maker, n=size: maker.prompts(n), split, config))
            _write(draft.path / f"preferences{part}.jsonl", pairs)
            _write(draft.path / f"prompts{part}.jsonl", prompts)
            counts[f"preferences{part}"], counts[f"prompts{part}"] = len(pairs), len(prompts)
        exam = list(_both(known, lambda maker: maker.exam(config), "test", config))
        _write(draft.path / "questions.jsonl", exam)
        counts["questions"] = len(exam)
        table = {name: list(hours) for name, hours in timetable(known.places).items()}
        (draft.path / "timetable.json").write_text(json.dumps(table, ensure_ascii=False), encoding="utf-8")
        draft.metrics |= dict(counts)
    return open_artefact(out)


class _Maker:
    """Rows of one split in one language."""

    def __init__(self, village: Village, split: str, language: str, config: AlignmentDataConfig) -> None:
        self.village, self.split, self.language, self.config = village, split, language, config
        self.rng = random.Random(f"alignment-{config.seed}-{split}-{language}")
        self.talk = Conversations(language, self.rng)
        self.near = [
            (place, kind)
            for place in village.places
            for kind in range(len(KINDS))
            if kind != place.kind and _split_of(_near(place, kind).ko) == split
        ]

    def pairs(self, count: int) -> Iterator[Row]:
        """Abstention where nothing is known, and as many controls where it would be wrong."""
        makers: tuple[Callable[[], tuple[Dialogue, str]], ...] = (
            self._near_pair, self._far_pair, self._known_pair, self._wrong_value_pair,
        )  # fmt: skip
        for number in range(count):
            make = self.rng.choices(makers, (0.4, 0.1, 0.35, 0.15))[0]
            dialogue, rejected = make()
            yield {
                "id": f"{self.split}-{dialogue.kind}-{self.language}-{number}",
                "prompt": dialogue.messages[:-1], "chosen": dialogue.messages[-1:], "rejected": [assistant(rejected)],
                "source": SOURCE, "licence": LICENCE, "kind": dialogue.kind, "language": self.language,
            }  # fmt: skip

    def prompts(self, count: int) -> Iterator[Row]:
        """Sums of long operands, all different."""
        for number, dialogue in enumerate(_different(self._sum, count)):
            yield {
                "id": f"{self.split}-arithmetic-{self.language}-{number}", "prompt": dialogue.messages[:-1],
                "answer": dialogue.answer, "kind": dialogue.kind, "language": self.language,
            }  # fmt: skip

    def exam(self, config: AlignmentDataConfig) -> Iterator[Row]:
        near = round(config.near_share * config.questions)
        parts: tuple[tuple[str, Callable[[], Dialogue], int], ...] = (
            ("near", lambda: self._unknown(self._near_name()[1], seen=self._seen()), near),
            ("far", lambda: self._unknown(self._far_name(), seen=self._seen()), config.questions - near),
            ("fact", self._fact, config.questions),
            ("sum", self._sum, config.questions),
        )
        for part, make, count in parts:
            for number, dialogue in enumerate(_different(make, count)):
                yield question_row(dialogue, f"hard-{part}-{self.language}-{number}") | {"part": part}

    # Pairs: a dialogue whose answer is right, and a wrong answer

    def _near_pair(self) -> tuple[Dialogue, str]:
        """Rejected: what is true of the real place, under either name."""
        place, name = self._near_name()
        dialogue = self._unknown(name, seen=True)
        told = place if self.rng.random() < 0.5 else dataclasses.replace(place, name=name)
        return dialogue, state(told, dialogue.type, self.language, 0)

    def _far_pair(self) -> tuple[Dialogue, str]:
        name = self._far_name()
        dialogue = self._unknown(name, seen=True)
        invented = dataclasses.replace(self.rng.choice(self.village.places), name=name)
        return dialogue, state(invented, dialogue.type, self.language, 0)

    def _known_pair(self) -> tuple[Dialogue, str]:
        """Rejected: "there is no such place", of a place that there is."""
        dialogue = self._fact()
        return dialogue, fill(UNKNOWN[self.language], p=self._place_of(dialogue).name.of(self.language))

    def _wrong_value_pair(self) -> tuple[Dialogue, str]:
        while True:
            dialogue, other = self._fact(), self.rng.choice(self.village.places)
            place, attribute = self._place_of(dialogue), dialogue.type
            swapped = {
                name: getattr(other, name) for name in ("item", "price") if attribute in ("item", "price")
            }
            swapped = swapped or {attribute: getattr(other, attribute)}
            wrong = state(dataclasses.replace(place, **swapped), attribute, self.language, 0)
            if other.value(attribute, self.language) != place.value(attribute, self.language):
                return dialogue, wrong

    # Dialogues

    def _unknown(self, name: Name, *, seen: bool) -> Dialogue:
        return self.talk.unknown(name, self.rng.choice(ATTRIBUTES), seen=seen)

    def _fact(self) -> Dialogue:
        """In training only what training may ask; in the exam whatever the documents say."""
        while True:
            place, attribute = self.rng.choice(self.village.places), self.rng.choice(ATTRIBUTES)
            asked = self.village.asked(place, attribute)
            if asked or self.split == "test":
                pair = "trained" if asked else "documents-only"
                return self.talk.fact(place, attribute, seen=self._seen(), pair=pair)

    def _sum(self) -> Dialogue:
        digits, rng = self.config.digits, self.rng
        low, high = 10 ** (digits - 1), 10**digits
        while True:
            operation, left, right = (
                rng.choice(OPERATIONS),
                rng.randrange(low, high),
                rng.randrange(low, high),
            )
            if operation == "+":
                problem = arithmetic.add(left, right)
            elif operation == "-":
                problem = arithmetic.subtract(max(left, right), min(left, right))
            else:
                problem = arithmetic.multiply(left, rng.randrange(2, 10))
            held_out = arithmetic.in_test(problem)
            if held_out == (self.split == "test") and (
                held_out or _is_validation(problem) == (self.split == "validation")
            ):
                return self.talk.sum(problem, operation, seen=self._seen())

    def _seen(self) -> bool:
        """Training asks in wordings that it has seen; the exam in others too."""
        return self.split == "train" or self.rng.random() < 0.4

    def _near_name(self) -> tuple[Place, Name]:
        place, kind = self.rng.choice(self.near)
        return place, _near(place, kind)

    def _far_name(self) -> Name:
        return unknown_name(self.village, self.split, self.rng)

    def _place_of(self, dialogue: Dialogue) -> Place:
        return next(place for place in self.village.places if place.name.ko == dialogue.subject[0])


def _both(
    village: Village, rows: Callable[[_Maker], Iterator[Row]], split: str, config: AlignmentDataConfig
) -> Iterator[Row]:
    for language in village.config.languages:
        yield from rows(_Maker(village, split, language, config))


def _different(make: Callable[[], Dialogue], count: int) -> Iterator[Dialogue]:
    """`count` dialogues with different questions; fewer where there are no more."""
    asked: set[str] = set()
    for _ in range(50 * count):
        if len(asked) == count:
            return
        dialogue = make()
        key = json.dumps(dialogue.messages[:-1], ensure_ascii=False)
        if key not in asked:
            asked.add(key)
            yield dialogue


def _near(place: Place, kind: int) -> Name:
    """The place's name with another kind of house."""
    return place_name((place.name.ko.split()[0], place.name.en.split()[0]), kind)


def _split_of(name: str) -> str:
    share = hashlib.sha256(f"near-{name}".encode()).digest()[0]
    return "test" if share < 102 else "validation" if share < 120 else "train"


def _is_validation(problem: arithmetic.Problem) -> bool:
    return hashlib.sha256(f"validation-{problem.expression}".encode()).digest()[0] < 16


def _config_of(village: Artefact) -> VillageConfig:
    try:
        return VillageConfig(**{**village.step, "languages": tuple(village.step["languages"])})
    except (KeyError, TypeError) as error:
        raise ArtefactError(
            f"{village.path} is no village ({error})", remedy="give a corpus of `hanok data village`"
        ) from error


def _write(file: Path, rows: Sequence[Row]) -> None:
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
