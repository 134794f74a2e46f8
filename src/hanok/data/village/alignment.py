"""A harder village for alignment: preference pairs, prompts with checkable answers, and an exam that shares none of them.

    preferences.jsonl  preferences-validation.jsonl    {id, prompt, chosen, rejected, source, licence, kind}
    prompts.jsonl      prompts-validation.jsonl        {id, prompt, answer, kind, language}
    questions.jsonl    questions-validation.jsonl      the exam in the form of the village's own, and what settings are
                                                       chosen by: half as many
    timetable.json

What is hard: an unknown place where training never asked for one (beside a real one in a comparison, as a new subject
in a conversation, in the question that follows), and sums whose operands both have four digits. Names and sums belong to
train, validation or test, so nothing that is learnt from is asked.
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

from hanok.artefacts import Artefact, create_artefact, open_artefact, write_jsonl
from hanok.data.village import arithmetic
from hanok.data.village.build import (
    COMPARED,
    LICENCE,
    SOURCE,
    Village,
    comparison,
    question_row,
    unknown_name,
)
from hanok.data.village.config import AlignmentDataConfig, VillageConfig
from hanok.data.village.dialogues import Conversations, Dialogue, assistant, user
from hanok.data.village.documents import state
from hanok.data.village.korean import fill
from hanok.data.village.other_questions import COMPARISONS, VERDICTS
from hanok.data.village.places import ATTRIBUTES, KINDS, Name, Place, place_name
from hanok.data.village.questions import FOLLOW_UPS
from hanok.data.village.sentences import UNKNOWN
from hanok.data.village.tools import write_timetable
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
    known = known_village(source)
    with create_artefact(
        out, kind="corpus", parents={"village": source}, step=dataclasses.asdict(config)
    ) as draft:
        counts: Counter[str] = Counter()
        for split, part in (("train", ""), ("validation", "-validation")):
            size = config.pairs if split == "train" else config.validation
            pairs = list(_both(known, lambda maker, n=size: maker.pairs(n), split, config))
            size = config.prompts if split == "train" else config.validation
            prompts = list(_both(known, lambda maker, n=size: maker.prompts(n), split, config))
            write_jsonl(draft.path / f"preferences{part}.jsonl", pairs)
            write_jsonl(draft.path / f"prompts{part}.jsonl", prompts)
            counts[f"preferences{part}"], counts[f"prompts{part}"] = len(pairs), len(prompts)
        exam = list(_both(known, lambda maker: maker.exam(config.questions), "test", config))
        asked = {_asked(row) for row in exam}
        choosing = _both(known, lambda maker: maker.exam(-(-config.questions // 2)), "validation", config)
        for name, rows in (
            ("questions", exam),
            ("questions-validation", [r for r in choosing if _asked(r) not in asked]),
        ):
            write_jsonl(draft.path / f"{name}.jsonl", rows)
            counts[name] = len(rows)
        write_timetable(known.places, draft.path)
        draft.metrics |= dict(counts)
    return open_artefact(out)


class _Maker:
    """Rows of one split in one language."""

    def __init__(self, village: Village, split: str, language: str, config: AlignmentDataConfig) -> None:
        self.village, self.split, self.language, self.config = village, split, language, config
        self.rng = random.Random(f"alignment-{config.seed}-{split}-{language}")
        self.talk = Conversations(language, self.rng)
        self.examining = False

    def pairs(self, count: int) -> Iterator[Row]:
        """Abstention where nothing is known, and more controls where it would be wrong: what was learnt must stay."""
        makers: tuple[Callable[[], tuple[Dialogue, str]], ...] = (
            self._unknown_pair, self._compared_pair, self._switched_pair, self._followed_pair,
            self._known_pair, self._known_compared_pair, self._known_switched_pair, self._wrong_value_pair,
        )  # fmt: skip
        for number in range(count):
            make = self.rng.choices(makers, (0.05, 0.2, 0.1, 0.05, 0.25, 0.1, 0.1, 0.15))[0]
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

    def exam(self, questions: int) -> Iterator[Row]:
        """Args: questions: of each kind. Facts are asked whatever the documents say."""
        self.examining = True
        parts: tuple[tuple[str, Callable[[], Dialogue], float], ...] = (
            ("unknown", self._unknown, 0.5), ("unknown compared", self._compared, 0.2),
            ("unknown switched to", self._switched, 0.2), ("unknown followed up", self._followed, 0.1),
            ("fact", self._fact, 1.0), ("sum", self._sum, 1.0),
        )  # fmt: skip
        for part, make, share in parts:
            for number, dialogue in enumerate(_different(make, round(share * questions))):
                name = f"hard-{part.replace(' ', '-')}-{self.language}-{number}"
                yield question_row(dialogue, name) | {"part": part}

    # Pairs: a dialogue whose answer is right, and a wrong answer

    def _unknown_pair(self) -> tuple[Dialogue, str]:
        dialogue = self._unknown()
        return dialogue, self._invented(dialogue)

    def _switched_pair(self) -> tuple[Dialogue, str]:
        dialogue = self._switched()
        return dialogue, self._invented(dialogue)

    def _followed_pair(self) -> tuple[Dialogue, str]:
        dialogue = self._followed()
        return dialogue, self._invented(dialogue)

    def _compared_pair(self) -> tuple[Dialogue, str]:
        """Rejected: a verdict all the same."""
        dialogue = self._compared()
        attribute, places = dialogue.type, dialogue.subject
        sides = [self._known_or_invented(name) for name in places]
        return dialogue, self._verdict(sides, attribute)

    def _known_pair(self) -> tuple[Dialogue, str]:
        """Rejected: "there is no such place", of a place that there is."""
        dialogue = self._fact()
        return dialogue, self._denied(dialogue.subject[0])

    def _known_switched_pair(self) -> tuple[Dialogue, str]:
        before, dialogue = self._fact(), self._fact()
        dialogue = dataclasses.replace(dialogue, messages=[*before.messages, *dialogue.messages])
        return dialogue, self._denied(dialogue.subject[0])

    def _known_compared_pair(self) -> tuple[Dialogue, str]:
        dialogue = comparison(self.village, self.talk, self.rng, seen=self._seen())
        names = {place.name.of(self.language): place.name.ko for place in self.village.places}
        return dialogue, self._denied(names[self.rng.choice(dialogue.choices)])

    def _wrong_value_pair(self) -> tuple[Dialogue, str]:
        while True:
            dialogue, other = self._fact(), self.rng.choice(self.village.places)
            place, attribute = self._place(dialogue.subject[0]), dialogue.type
            of_item = attribute in ("item", "price")  # a price is told with the item that it is of
            taken = {name: getattr(other, name) for name in (("item", "price") if of_item else (attribute,))}
            if other.value(attribute, self.language) != place.value(attribute, self.language):
                wrong = dataclasses.replace(place, **taken)
                return dialogue, state(wrong, attribute, self.language, 0)

    def _invented(self, dialogue: Dialogue) -> str:
        """What the asked attribute might be, told as if it were known."""
        return state(self._known_or_invented(dialogue.subject[0]), dialogue.type, self.language, 0)

    def _known_or_invented(self, name: str) -> Place:
        found = [place for place in self.village.places if place.name.ko == name]
        if found:
            return found[0]
        base, _, kind = name.partition(" ")
        number = next(i for i, (korean, *_) in enumerate(KINDS) if korean == kind)
        english = next(en for ko, en in self.village.unknown[self.split] if ko == base)
        return dataclasses.replace(
            self.rng.choice(self.village.places), name=place_name((base, english), number)
        )

    def _verdict(self, places: Sequence[Place], attribute: str) -> str:
        told = [state(place, attribute, self.language, 0) for place in places]
        better = min(places, key=lambda place: getattr(place, attribute)).name.of(self.language)
        return " ".join((*told, fill(VERDICTS[self.language][attribute], p=better)))

    def _denied(self, name: str) -> str:
        return fill(UNKNOWN[self.language], p=self._place(name).name.of(self.language))

    # Dialogues; `subject` of one about an unknown place: its Korean name (of a comparison: both)

    def _unknown(self) -> Dialogue:
        name = self._name()
        dialogue = self.talk.unknown(name, self.rng.choice(ATTRIBUTES), seen=self._seen())
        return dataclasses.replace(dialogue, subject=(name.ko,))

    def _switched(self) -> Dialogue:
        """After a question about a real place."""
        before, dialogue = self._fact(), self._unknown()
        return dataclasses.replace(dialogue, messages=[*before.messages, *dialogue.messages])

    def _followed(self) -> Dialogue:
        """The question after the one that was declined."""
        dialogue, attribute = self._unknown(), self.rng.choice(ATTRIBUTES)
        wordings = FOLLOW_UPS[self.language][attribute]
        template = self.talk.book.draw(f"follow-up-{attribute}", wordings, seen=self._seen(), framed=False)
        messages = [*dialogue.messages, user(template.ask(self.language)), dialogue.messages[-1]]
        return dataclasses.replace(dialogue, messages=messages, type=attribute, template=template)

    def _compared(self) -> Dialogue:
        language, rng = self.language, self.rng
        attribute, name = rng.choice(COMPARED), self._name()
        template = self.talk.book.draw(
            f"comparison-{attribute}", COMPARISONS[language][attribute], seen=self._seen()
        )
        known = rng.choice([place for place in self.village.places if self.village.asked(place, attribute)])
        both = [known.name, name] if rng.random() < 0.5 else [name, known.name]
        question = template.ask(language, p=both[0].of(language), q=both[1].of(language))
        messages = [user(question), assistant(fill(UNKNOWN[language], p=name.of(language)))]
        subject = (both[0].ko, both[1].ko)
        return Dialogue("abstention", language, template, messages, "", attribute, subject=subject)

    def _fact(self) -> Dialogue:
        """In training only what training may ask; in the exam whatever the documents say."""
        while True:
            place, attribute = self.rng.choice(self.village.places), self.rng.choice(ATTRIBUTES)
            asked = self.village.asked(place, attribute)
            if asked or self.examining:
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

    def _name(self) -> Name:
        return unknown_name(self.village, self.split, self.rng)

    def _place(self, name: str) -> Place:
        return next(place for place in self.village.places if place.name.ko == name)


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


def _asked(question: Row) -> str:
    return json.dumps(question["messages"], ensure_ascii=False)


def _is_validation(problem: arithmetic.Problem) -> bool:
    return hashlib.sha256(f"validation-{problem.expression}".encode()).digest()[0] < 16


def known_village(village: Artefact) -> Village:
    """The village that an artefact was written from. Raises ArtefactError: it is none."""
    try:
        return Village(VillageConfig(**{**village.step, "languages": tuple(village.step["languages"])}))
    except (KeyError, TypeError) as error:
        raise ArtefactError(
            f"{village.path} is no village ({error})", remedy="give a corpus of `hanok data village`"
        ) from error
