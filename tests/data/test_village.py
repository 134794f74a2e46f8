"""The village: deterministic, split without overlap, in correct Korean, and with questions of every announced sort."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path

import pytest

from hanok.artefacts import open_artefact, read_jsonl
from hanok.data.corpus import Document, read_corpus
from hanok.data.village import arithmetic, other_questions, questions, sentences
from hanok.data.village.build import Village, training_dialogues, write_village
from hanok.data.village.check import check
from hanok.data.village.config import VillageConfig
from hanok.data.village.korean import PAIRS, fill, final_consonant, josa
from hanok.data.village.places import ATTRIBUTES, KINDS
from hanok.data.village.wordings import Wordings, cross
from hanok.errors import ConfigError


@pytest.fixture(scope="module")
def village(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default village."""
    return write_village(VillageConfig(), tmp_path_factory.mktemp("village") / "village").path


@pytest.fixture(scope="module")
def rows(village: Path) -> list[Document]:
    return list(read_corpus(village))


@pytest.fixture(scope="module")
def asked(village: Path) -> list[dict]:
    return list(read_jsonl(village / "questions.jsonl"))


def train(rows: list[Document]) -> list[Document]:
    return [row for row in rows if row.meta["split"] == "train"]


def user_texts(row: Document) -> list[str]:
    return [m["content"] for m in row.messages or [] if m["role"] == "user"]


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    small = {"places": 12, "arithmetic": 20, "abstentions": 20, "test_questions": 8}
    one, two, other = (
        write_village(VillageConfig(seed=seed, **small), tmp_path / name)  # type: ignore[arg-type]
        for seed, name in ((5, "a"), (5, "b"), (6, "c"))
    )
    assert one.hash == two.hash
    assert one.hash != other.hash


@pytest.mark.parametrize("places", [30, 120])
def test_other_sizes(places: int) -> None:
    village = Village(VillageConfig(places=places))
    assert len({place.name.ko for place in village.places}) == places
    assert len({place.name.en for place in village.places}) == places


def test_sizes(village: Path, rows: list[Document], asked: list[dict]) -> None:
    assert len(ATTRIBUTES) >= 8
    assert len(asked) >= 2000
    assert len({row["id"] for row in asked}) == len(asked)
    assert len({row.id for row in rows}) == len(rows)
    assert open_artefact(village, kind="corpus").metrics["test_questions"] == len(asked)
    cells = Counter((r["kind"], r["language"], r["seen_template"], r["pair"]) for r in asked)
    for language in ("ko", "en"):
        for seen in (True, False):
            assert cells["fact", language, seen, "documents-only"] >= 100
            assert cells["fact", language, seen, "trained"] >= 100
            for kind in ("abstention", "arithmetic", "tool"):
                assert cells[kind, language, seen, None] >= 20
            for kind in ("comparison", "follow-up"):
                assert cells[kind, language, seen, "trained"] >= 40


def test_every_kind_is_in_training(rows: list[Document]) -> None:
    kinds = Counter((row.meta["kind"], row.lang) for row in train(rows))
    for kind in (
        "description", "notice", "letter", "review", "history", "fact", "follow-up", "arithmetic", "comparison", "tool",
        "abstention", "small-talk",
    ):  # fmt: skip
        assert kinds[kind, "ko"] >= 50, kind
        assert kinds[kind, "en"] >= 50, kind


def test_rows_are_exempt_from_redaction_and_cleaning(rows: list[Document]) -> None:
    assert all(row.meta["pii"] == row.meta["clean"] == "exempt" for row in rows)


def test_templates(rows: list[Document], asked: list[dict]) -> None:
    """At least 20 a kind and language, at least 4 of them in the test split alone."""
    in_training = {row.meta["template"] for row in train(rows) if row.messages}
    used: dict[tuple[str, str], set[str]] = defaultdict(set)
    for row in rows:
        if row.messages and row.meta["kind"] not in ("letter", "small-talk"):
            used[row.meta["kind"], str(row.lang)].add(row.meta["template"])
    assert len(used) == 12
    for cell, templates in used.items():
        assert len(templates) >= 20, cell
        assert len(templates - in_training) >= 4, cell
    for row in asked:
        assert row["seen_template"] or row["template"] not in in_training, row


def all_wordings() -> list[Wordings]:
    books = [
        *questions.QUESTIONS.values(),
        *questions.FOLLOW_UPS.values(),
        *other_questions.COMPARISONS.values(),
    ]
    books += [*arithmetic.FRAMES.values(), other_questions.CALCULATE, other_questions.HOURS]
    return [wordings for book in books for wordings in book.values()]


def test_wordings_are_all_different() -> None:
    statements = [lists for by_attribute in sentences.STATEMENTS.values() for lists in by_attribute.values()]
    for wordings in (*(wordings.all() for wordings in all_wordings()), *statements):
        assert len(set(wordings)) == len(wordings), wordings


def test_held_out_wordings_are_new_as_a_whole_but_not_in_their_words() -> None:
    """Every frame and every term that a held-out pair is made of occurs in a pair that training sees."""
    for made in (cross(("{n} a", "{n} b", "c {n}"), ("x", "y", "z")), *all_wordings()):
        assert made.unseen
        assert not set(made.seen) & set(made.unseen)
        assert len(made.unseen) <= 0.3 * len(made.all())
    for book in (*questions.QUESTIONS.values(), *questions.FOLLOW_UPS.values()):
        for wordings in book.values():
            known = {word for wording in wordings.seen for word in words(wording)}
            for wording in wordings.unseen:
                assert words(wording) <= known, wording


def words(wording: str) -> set[str]:
    """Without their particles and case."""
    return {
        word.lower().rstrip(".,:?").removesuffix("요").removesuffix("은").removesuffix("는")
        for word in wording.split()
        if word[0] != "{"
    }


def test_documents_only_pairs_are_never_asked_in_training(asked: list[dict]) -> None:
    config = VillageConfig()
    village = Village(config)
    assert len(village.documents_only) >= 0.1 * len(village.places) * len(ATTRIBUTES)
    values = {
        (place.name.of(language), attribute): place.value(attribute, language)
        for place in village.places
        for attribute in ATTRIBUTES
        for language in config.languages
    }
    hidden = {
        (place.name.of(language), attribute)
        for place in village.places
        for attribute in ATTRIBUTES
        for language in config.languages
        if not village.asked(place, attribute)
    }
    for language in config.languages:
        names = [place.name.of(language) for place in village.places]
        for dialogue in training_dialogues(village, language):
            if dialogue.kind in ("arithmetic", "small-talk", "abstention"):
                continue
            text = " ".join(m["content"] for m in dialogue.messages if m["role"] in ("assistant", "tool"))
            mentioned = [name for name in names if name in text]
            for name in mentioned:
                for attribute in ("owner", "phone", "price", "year"):
                    if (name, attribute) in hidden and len(mentioned) == 1:
                        assert values[name, attribute] not in text, (dialogue.kind, text)
    documents_only = [row for row in asked if row["pair"] == "documents-only"]
    assert all((row["subject"][0], row["subject"][1]) in village.documents_only for row in documents_only)
    trained = [row for row in asked if row["kind"] == "fact" and row["pair"] == "trained"]
    assert not any((row["subject"][0], row["subject"][1]) in village.documents_only for row in trained)


def test_every_fact_stands_in_several_wordings_in_training_documents(rows: list[Document]) -> None:
    village = Village(VillageConfig())
    texts: dict[tuple[str, str], list[str]] = defaultdict(list)
    for row in train(rows):
        if row.text is not None:
            place, _, _ = row.id.rpartition("-")
            texts[place, str(row.lang)].append(row.text)
    for language, statements in sentences.STATEMENTS.items():
        for place in village.places:
            name = place.name.of(language)
            documents = texts[name, language]
            assert len(documents) >= 5
            for attribute in ATTRIBUTES:
                words = {"p": name, "v": place.value(attribute, language), "i": place.item.of(language)}
                stated = [fill(wording, **words) for wording in statements[attribute]]
                found = {s for s in stated for text in documents if s in text or s[0].upper() + s[1:] in text}
                assert len(found) >= 3, (name, attribute)


def test_unknown_places_are_not_real_and_not_shared_between_splits(
    rows: list[Document], asked: list[dict]
) -> None:
    village = Village(VillageConfig())
    pools = [{name for name, _ in pool} for pool in village.unknown.values()]
    real = {place.name.ko.split()[0] for place in village.places}
    assert all(len(pool) >= 30 and not pool & real for pool in pools)
    assert len(set().union(*pools)) == sum(map(len, pools))
    names = {place.name.ko for place in village.places} | {place.name.en for place in village.places}
    for row in asked:
        if row["kind"] == "abstention":
            assert not any(name in row["messages"][-1]["content"] for name in names)


def test_test_sums_are_not_trained(rows: list[Document], asked: list[dict]) -> None:
    def problem(text: str) -> str:
        return text.split(":")[0]

    trained = {
        problem(row.messages[-1]["content"])
        for row in train(rows)
        if row.meta["kind"] == "arithmetic" and row.messages
    }
    tested = {problem(row["gold"]) for row in asked if row["kind"] == "arithmetic"}
    assert len(tested) > 300
    assert not trained & tested
    operands = [
        int(n)
        for p in trained | tested
        for n in p.replace("+", " ").replace("-", " ").replace("*", " ").split()
    ]
    assert max(operands) <= 9999
    assert sum(n >= 1000 for n in operands) > len(operands) / 10


def test_gold_answers_pass_the_checker(rows: list[Document], asked: list[dict]) -> None:
    for row in asked:
        calls = []
        if row["call"]:
            arguments = json.dumps(row["call"]["arguments"], ensure_ascii=False)
            calls = [{"function": {"name": row["call"]["name"], "arguments": arguments}}]
        assert check(row, row["gold"], calls), row


def test_no_question_is_asked_word_for_word_in_two_splits(rows: list[Document]) -> None:
    unseen = {t for row in rows if row.meta["split"] == "test" and row.messages for t in user_texts(row)[-1:]}
    trained = {
        t for row in train(rows) if row.messages and len(user_texts(row)) == 1 for t in user_texts(row)
    }
    assert len(unseen & trained) < 0.1 * len(
        unseen
    )  # seen templates of trained pairs; the split stage drops these from train


def test_particles() -> None:
    assert josa("찻집", "은") == "찻집은"
    assert josa("떡가게", "은") == "떡가게는"
    assert josa("길", "으로") == "길로"
    assert josa("빵집", "으로") == "빵집으로"
    assert josa("7", "으로") == "7로"
    assert josa("3", "을") == "3을"
    assert josa("12", "이에요") == "12예요"
    assert josa("10", "이에요") == "10이에요"
    assert fill("{p:이}랑 {q:과}", p="국수", q="만두") == "국수가랑 만두와"


def test_korean_particles_throughout(rows: list[Document]) -> None:
    """No name is followed by the wrong form of a particle anywhere in the corpus."""
    village = Village(VillageConfig())
    names = {place.name.ko for place in village.places} | {place.owner.ko for place in village.places}
    wrong = {}
    for name in names:
        final = final_consonant(name)
        for after_consonant, after_vowel in PAIRS.values():
            if {after_consonant, after_vowel} <= {"은", "는", "이", "가", "을", "를", "과", "와"}:
                wrong[name + (after_vowel if final else after_consonant)] = name
    bad = 0
    for row in rows:
        if row.lang == "ko":
            words = row.content().replace(".", " ").replace(",", " ").replace("?", " ").split()
            bad += sum(f"{a} {b}" in wrong or b in wrong for a, b in pairwise(words))
    assert bad == 0
    assert {final_consonant(kind) > 0 for kind, *_ in KINDS} == {True}


def test_only_one_language() -> None:
    village = Village(VillageConfig(languages=("en",)))
    assert all(d.language == "en" for d in training_dialogues(village, "en"))


@pytest.mark.parametrize(
    "wrong",
    [{"places": 5}, {"languages": ()}, {"languages": ("fr",)}, {"documents_only": 1.0}, {"arithmetic": -1}],
)
def test_wrong_settings(wrong: dict) -> None:
    with pytest.raises(ConfigError):
        VillageConfig(**wrong)
