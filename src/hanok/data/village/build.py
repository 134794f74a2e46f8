"""Writes the village: a corpus artefact with documents and dialogues of all three splits, and `questions.jsonl`."""

from __future__ import annotations

import dataclasses
import json
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hanok.artefacts import Artefact, create_artefact, open_artefact, write_jsonl
from hanok.data.corpus import CorpusWriter, Document
from hanok.data.village import arithmetic
from hanok.data.village.config import VillageConfig
from hanok.data.village.dialogues import Conversations, Dialogue
from hanok.data.village.documents import place_documents
from hanok.data.village.places import ATTRIBUTES, KINDS, Name, Place, all_names, make_places, place_name
from hanok.data.village.tools import write_timetable
from hanok.reporting import Report

SOURCE, LICENCE = "hanok-village", "Apache-2.0"
OPERATIONS = ("+", "-", "*", "between")
HELD_OUT_DOCUMENTS = 0.3  # a place, language and split: one document more, for bits per byte
COMPARED = ("year", "price", "open")
# share of config.test_questions that each part gets, per language: (kind, seen template, pair) -> share
PARTS = {
    ("fact", True, "trained"): 0.5, ("fact", False, "trained"): 1.25, ("fact", True, "documents-only"): 0.5,
    ("fact", False, "documents-only"): 0.5, ("abstention", True, None): 0.4, ("abstention", False, None): 0.6,
    ("arithmetic", True, None): 0.4, ("arithmetic", False, None): 0.6, ("comparison", True, None): 0.2,
    ("comparison", False, None): 0.3, ("follow-up", True, None): 0.2, ("follow-up", False, None): 0.3,
    ("tool", True, None): 0.1, ("tool", False, None): 0.15,
}  # fmt: skip


class Village:
    """Everything that the seed decides: places, unknown names, and the pairs that are only in documents."""

    def __init__(self, config: VillageConfig) -> None:
        self.config = config
        rng = random.Random(f"village-{config.seed}")
        names = all_names(rng)
        self.places = make_places(config.places, names, rng)
        rest = names[config.places :]
        cut = len(rest) * 6 // 10
        self.unknown = {"train": rest[:cut], "validation": rest[cut : cut + 30], "test": rest[cut + 30 :]}
        pairs = [(place.name.ko, attribute) for place in self.places for attribute in ATTRIBUTES]
        self.documents_only = set(rng.sample(pairs, round(len(pairs) * config.documents_only)))
        # the answer about a price names the item, so an item that is never asked takes its price along
        self.documents_only |= {
            (place, "price") for place, attribute in self.documents_only if attribute == "item"
        }

    def asked(self, place: Place, attribute: str) -> bool:
        """Whether training asks this pair."""
        return (place.name.ko, attribute) not in self.documents_only


def write_village(config: VillageConfig, out: Path) -> Artefact:
    """Kind "corpus"; `questions.jsonl` (test), `questions-validation.jsonl` and `timetable.json` lie beside.

    Each corpus row fixes its split; dialogues and documents are exempt from cleaning (templated by design) and from
    redaction (the village's own telephone numbers).
    """
    village = Village(config)
    with create_artefact(out, kind="corpus", step=dataclasses.asdict(config)) as draft:
        counts: Counter[tuple[str, str]] = Counter()
        with CorpusWriter(draft.path) as writer:
            for document in _documents(village):
                writer.write(document)
                counts[document.meta["kind"], document.meta["split"]] += 1
            for language in config.languages:
                for number, dialogue in enumerate(training_dialogues(village, language)):
                    writer.write(_row(dialogue, "train", f"{language}-{number}"))
                    counts[dialogue.kind, "train"] += 1
            for split, per_part in (
                ("validation", config.validation_questions),
                ("test", config.test_questions),
            ):
                rows = _write_questions(village, split, per_part, draft.path, writer)
                for row in rows:
                    counts[row["kind"], split] += 1
        write_timetable(village.places, draft.path)
        draft.metrics |= {
            "places": len(village.places), "documents": writer.documents, "characters": writer.characters,
            "test_questions": sum(n for (_, split), n in counts.items() if split == "test" and _ in _QUESTION_KINDS),
        }  # fmt: skip
        _report(village, counts, draft.path)
    return open_artefact(out)


_QUESTION_KINDS = {kind for kind, _, _ in PARTS}


def training_dialogues(village: Village, language: str) -> Iterator[Dialogue]:
    """All of one language, in random order."""
    config = village.config
    rng = random.Random(f"train-{config.seed}-{language}")
    talk = Conversations(language, rng)
    made: list[Dialogue] = []
    for place in village.places:
        for attribute in ATTRIBUTES:
            if village.asked(place, attribute):
                made += [talk.fact(place, attribute, seen=True) for _ in range(config.asks_per_fact)]
    made += [_sum(talk, rng, held_out=False, seen=True) for _ in range(config.arithmetic)]
    made += [
        talk.unknown(unknown_name(village, "train", rng), rng.choice(ATTRIBUTES), seen=True)
        for _ in range(config.abstentions)
    ]
    made += [comparison(village, talk, rng, seen=True) for _ in range(config.comparisons)]
    made += [_follow_up(village, talk, rng, seen=True) for _ in range(config.follow_ups)]
    made += [_tool(village, talk, rng, held_out=False, seen=True) for _ in range(config.tool_calls)]
    made += [_letter(village, talk, rng) for _ in range(config.letters)]
    made += [talk.small_talk() for _ in range(config.small_talk)]
    rng.shuffle(made)
    yield from made


def held_out_dialogues(village: Village, language: str, split: str, per_part: int) -> Iterator[Dialogue]:
    """Questions of validation or test, all different."""
    rng = random.Random(f"{split}-{village.config.seed}-{language}")
    talk = Conversations(language, rng)
    for (kind, seen, pair), share in PARTS.items():
        wanted, asked = round(per_part * share), set()
        for _ in range(20 * wanted):
            if len(asked) == wanted:
                break
            dialogue = _held_out(village, talk, rng, kind, seen, pair, split)
            key = json.dumps(dialogue.messages[:-1], ensure_ascii=False)
            if key not in asked:
                asked.add(key)
                yield dialogue


def _held_out(
    village: Village,
    talk: Conversations,
    rng: random.Random,
    kind: str,
    seen: bool,
    pair: str | None,
    split: str,
) -> Dialogue:
    if kind == "fact":
        pairs = [
            (place, attribute)
            for place in village.places
            for attribute in ATTRIBUTES
            if village.asked(place, attribute) == (pair == "trained")
        ]
        place, attribute = (
            rng.choice(pairs) if pairs else (rng.choice(village.places), rng.choice(ATTRIBUTES))
        )
        return talk.fact(place, attribute, seen=seen, pair=pair or "trained")
    if kind == "abstention":
        return talk.unknown(unknown_name(village, split, rng), rng.choice(ATTRIBUTES), seen=seen)
    if kind == "arithmetic":
        return _sum(talk, rng, held_out=True, seen=seen)
    if kind == "comparison":
        return comparison(village, talk, rng, seen=seen)
    if kind == "follow-up":
        return _follow_up(village, talk, rng, seen=seen)
    return _tool(village, talk, rng, held_out=True, seen=seen)


def _sum(talk: Conversations, rng: random.Random, *, held_out: bool, seen: bool) -> Dialogue:
    operation = rng.choices(OPERATIONS, (3, 3, 3, 1))[0]
    while True:
        problem = arithmetic.random_problem(operation, rng)
        if arithmetic.in_test(problem) == held_out:
            return talk.sum(problem, operation, seen=seen)


def comparison(village: Village, talk: Conversations, rng: random.Random, *, seen: bool) -> Dialogue:
    attribute = rng.choice(COMPARED)
    while True:
        a, b = rng.sample(village.places, 2)
        differ = getattr(a, attribute) != getattr(b, attribute)
        if differ and village.asked(a, attribute) and village.asked(b, attribute):
            return talk.comparison(a, b, attribute, seen=seen)


def _follow_up(village: Village, talk: Conversations, rng: random.Random, *, seen: bool) -> Dialogue:
    while True:
        place, (first, second) = rng.choice(village.places), rng.sample(ATTRIBUTES, 2)
        if village.asked(place, first) and village.asked(place, second):
            return talk.follow_up(place, first, second, seen=seen)


def _letter(village: Village, talk: Conversations, rng: random.Random) -> Dialogue:
    """Tells nothing that only documents tell."""
    place = rng.choice(village.places)
    known = [attribute for attribute in ATTRIBUTES if village.asked(place, attribute)]
    return talk.letter(place, rng.sample(known, min(4, len(known))))


def _tool(
    village: Village, talk: Conversations, rng: random.Random, *, held_out: bool, seen: bool
) -> Dialogue:
    if rng.random() < 0.5:
        while True:
            problem = arithmetic.random_problem(rng.choice("+-*"), rng)
            if arithmetic.in_test(problem) == held_out:
                return talk.calculator(problem, seen=seen)
    open_to_all = [p for p in village.places if village.asked(p, "open") and village.asked(p, "close")]
    return talk.opening_hours(rng.choice(open_to_all), seen=seen)


def unknown_name(village: Village, split: str, rng: random.Random) -> Name:
    """A name that no place has, of those kept for the split."""
    return place_name(rng.choice(village.unknown[split]), rng.randrange(len(KINDS)))


def _documents(village: Village) -> Iterator[Document]:
    config = village.config
    for language in config.languages:
        rng = random.Random(f"documents-{config.seed}-{language}")
        for place in village.places:
            splits = ["train"] * config.documents_per_place
            splits += [split for split in ("validation", "test") if rng.random() < HELD_OUT_DOCUMENTS]
            texts = place_documents(place, language, len(splits), rng)
            for number, (split, (kind, text)) in enumerate(zip(splits, texts, strict=True)):
                yield Document(
                    id=f"{place.name.of(language)}-{number}", source=SOURCE, licence=LICENCE, text=text, lang=language,
                    meta={"kind": kind, "split": split, "pii": "exempt", "clean": "exempt"},
                )  # fmt: skip


def _row(dialogue: Dialogue, split: str, number: str) -> Document:
    messages = dialogue.messages
    meta: dict[str, Any] = {
        "kind": dialogue.kind, "template": dialogue.template.id, "split": split, "pii": "exempt", "clean": "exempt",
    }  # fmt: skip
    if dialogue.tools:
        meta["tools"] = dialogue.tools
    return Document(
        id=f"{split}-{dialogue.kind}-{number}", source=SOURCE, licence=LICENCE, messages=messages,
        lang=dialogue.language, meta=meta,
    )  # fmt: skip


def _write_questions(
    village: Village, split: str, per_part: int, directory: Path, writer: CorpusWriter
) -> list[dict[str, Any]]:
    rows = []
    for language in village.config.languages:
        for number, dialogue in enumerate(held_out_dialogues(village, language, split, per_part)):
            document = _row(dialogue, split, f"{language}-{number}")
            writer.write(document)
            rows.append(question_row(dialogue, document.id))
    name = "questions.jsonl" if split == "test" else "questions-validation.jsonl"
    write_jsonl(directory / name, rows)
    return rows


def question_row(dialogue: Dialogue, id_: str) -> dict[str, Any]:
    """What is asked (the conversation up to the gold answer or tool call) and how the answer is judged."""
    gold = (
        next(i for i in reversed(range(len(dialogue.messages))) if dialogue.messages[i]["role"] == "user") + 1
    )
    return {
        "id": id_, "kind": dialogue.kind, "language": dialogue.language, "template": dialogue.template.id,
        "seen_template": dialogue.template.seen, "pair": dialogue.pair, "type": dialogue.type,
        "messages": dialogue.messages[:gold], "tools": dialogue.tools, "answer": dialogue.answer,
        "choices": list(dialogue.choices), "subject": list(dialogue.subject),
        "call": dialogue.call, "gold": dialogue.messages[-1]["content"],
    }  # fmt: skip


def _report(village: Village, counts: Counter[tuple[str, str]], directory: Path) -> None:
    report = Report("The village")
    kinds = sorted({kind for kind, _ in counts})
    rows = [(kind, *(counts[kind, split] for split in ("train", "validation", "test"))) for kind in kinds]
    report.add_table("Documents and dialogues", ("kind", "train", "validation", "test"), rows)
    columns = ("name", "owner", "opens", "closes", "closed on", "sells", "price", "since", "street", "phone")
    places = [
        (p.name.of(language), *(p.value(attribute, language) for attribute in ATTRIBUTES))
        for language in village.config.languages
        for p in village.places[:8]
    ]  # fmt: skip
    report.add_table("Some places", columns, places)
    rng = random.Random("examples")
    examples = []
    for language in village.config.languages:
        dialogues = {d.kind: d for d in held_out_dialogues(village, language, "test", 8)}
        for kind, dialogue in dialogues.items():
            text = "\n".join(
                f"{m['role']}: {m.get('content') or m.get('tool_calls')}" for m in dialogue.messages
            )
            examples.append((f"{kind}, {language}", text))
        place = rng.choice(village.places)
        examples += [(f"{kind}, {language}", text) for kind, text in place_documents(place, language, 2, rng)]
    report.add_examples("Examples", examples)
    report.write(directory)
