"""Groups stay together and stay put; what is held out is not in train."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanok.artefacts import create_artefact, open_artefact
from hanok.data.config_tokens import SplitConfig
from hanok.data.corpus import CorpusWriter, Document, read_corpus
from hanok.data.split import PARTS, hashed_part, split
from hanok.errors import ArtefactError, ConfigError, InputError

WORDS = [
    f"{a}{b}"
    for a in ("달", "별", "물", "산", "꽃", "눈", "bird", "lake")
    for b in ("빛", "길", "터", "집", "ing", "s")
]


def words(seed: int, count: int = 60) -> str:
    chooser = random.Random(seed)
    return " ".join(chooser.choice(WORDS) + str(chooser.randrange(100)) for _ in range(count))


def document(name: str, text: str, *, group: str = "", **meta: str) -> Document:
    return Document(id=name, source="test", licence="CC0-1.0", text=text, group=group, meta=dict(meta))


def chat(name: str, question: str, answer: str, *, group: str = "", **meta: str) -> Document:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return Document(
        id=name, source="test", licence="CC0-1.0", messages=messages, group=group, meta=dict(meta)
    )


def make_corpus(directory: Path, documents: list[Document]) -> Path:
    with create_artefact(directory, kind="corpus") as draft, CorpusWriter(draft.path) as writer:
        for one in documents:
            writer.write(one)
    return directory


def parts_of(out: Path) -> dict[str, str]:
    return {one.id: part for part in PARTS for one in read_corpus(out / part)}


def run(tmp_path: Path, documents: list[Document], **options) -> dict[str, str]:
    corpus = make_corpus(tmp_path / "corpus", documents)
    split(SplitConfig(**options), corpus, tmp_path / "split")
    return parts_of(tmp_path / "split")


def background(count: int = 30) -> list[Document]:
    return [document(f"b{n}", words(n)) for n in range(count)]


def test_groups_stay_together_and_nothing_is_lost(tmp_path: Path) -> None:
    documents = [document(f"d{n}", words(n), group=f"g{n // 4}") for n in range(200)]
    parts = run(tmp_path, documents, validation=0.2, test=0.2)
    assert len(parts) == 200
    assert set(parts.values()) == set(PARTS)
    for group in range(50):
        assert len({parts[f"d{n}"] for n in range(4 * group, 4 * group + 4)}) == 1


def test_adding_documents_moves_none(tmp_path: Path) -> None:
    documents = [document(f"d{n}", words(n)) for n in range(120)]
    few = run(tmp_path / "few", documents[:60], validation=0.1, test=0.1)
    many = run(tmp_path / "many", documents, validation=0.1, test=0.1)
    assert all(many[name] == part for name, part in few.items())


@given(st.text(), st.integers(0, 3))
def test_shares_nest(group: str, seed: int) -> None:
    """A larger share keeps what the smaller one held out for the test."""
    small = hashed_part(group, SplitConfig(test=0.1, validation=0.1, seed=seed))
    large = hashed_part(group, SplitConfig(test=0.3, validation=0.1, seed=seed))
    assert small != "test" or large == "test"


def test_shares_and_seed() -> None:
    def drawn(seed: int) -> list[str]:
        return [hashed_part(f"g{n}", SplitConfig(validation=0.05, test=0.1, seed=seed)) for n in range(4000)]

    first, second = drawn(1), drawn(2)
    assert first != second
    assert abs(first.count("test") / 4000 - 0.1) < 0.02
    assert abs(first.count("validation") / 4000 - 0.05) < 0.015


def test_fixed_parts_are_honoured_and_take_their_group_along(tmp_path: Path) -> None:
    documents = [
        *background(),
        document("t", words(900), group="a", split="test"),
        document("u", words(901), group="a"),
        document("v", words(902), split="validation"),
        document("w", words(903), split="train"),
    ]
    parts = run(tmp_path, documents, validation=0.0, test=0.0)
    assert (parts["t"], parts["u"], parts["v"], parts["w"]) == ("test", "test", "validation", "train")
    assert all(parts[one.id] == "train" for one in background())


def test_a_group_fixed_in_two_parts_is_refused(tmp_path: Path) -> None:
    documents = [document("a", "x", group="g", split="test"), document("b", "y", group="g", split="train")]
    with pytest.raises(InputError, match="group 'g' is fixed in test"):
        run(tmp_path, documents)
    with pytest.raises(InputError, match=r"meta\.split = 'dev'"):
        run(tmp_path / "second", [document("a", "x", split="dev")])


def test_small_corpora_still_get_every_part(tmp_path: Path) -> None:
    parts = run(tmp_path, background(3))
    assert sorted(parts.values()) == sorted(PARTS)
    with pytest.raises(InputError, match="too few"):
        run(tmp_path / "two", background(2))


def test_empty_or_foreign_input_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no documents"):
        run(tmp_path, [])
    with create_artefact(tmp_path / "other", kind="model"):
        pass
    with pytest.raises(ArtefactError, match="kind"):
        split(SplitConfig(), tmp_path / "other", tmp_path / "out")


def test_planted_leaks_are_taken_out(tmp_path: Path) -> None:
    secret = words(1000, 80)
    inside = secret.split()
    documents = [
        *background(),
        document("held", secret, split="test"),
        document("copy", secret, split="train"),
        document("shouted", secret.upper() + " end", split="train"),
        document("thirteen", " ".join([words(201), *inside[20:33], words(202)]), split="train"),
        document("commas", words(203) + " " + ", ".join(inside[40:53]) + ". " + words(204), split="train"),
        document("twelve", " ".join([words(205), *(w[:1] for w in inside[:12]), words(206)]), split="train"),
        document("fifty", "x" * 30 + secret[100:150] + "y" * 30, split="train"),
        document("forty-nine", "x" * 30 + secret[100:149] + "\x00" + "y" * 30, split="train"),
        chat("chat", "what is it?", " ".join(inside[10:30]), split="train"),
    ]
    parts = run(tmp_path, documents)
    leaked = {"copy", "shouted", "thirteen", "commas", "fifty", "chat"}
    assert {one.id for one in documents} - set(parts) == leaked
    report = json.loads((tmp_path / "split" / "report.json").read_text())
    shown = {example["label"].split()[0]: example["text"] for example in report["Examples of overlaps"]}
    assert set(shown) == leaked
    assert shown["thirteen"].split() == inside[20:33]
    assert shown["fifty"] == secret[100:150]
    assert open_artefact(tmp_path / "split").metrics["leaks_removed"] == len(leaked)


def test_without_decontamination_leaks_stay(tmp_path: Path) -> None:
    documents = [
        *background(),
        document("held", words(207), split="test"),
        document("copy", words(207), split="train"),
    ]
    assert run(tmp_path, documents, decontaminate=False)["copy"] == "train"


def test_shared_scaffold_is_no_leak(tmp_path: Path) -> None:
    """A licence line in every document, and one real copy among them."""
    licence = "이 글은 누구나 자유롭게 옮겨 쓰고 고쳐 쓸 수 있으며 출처를 밝히는 것만이 유일한 조건임을 알립니다 감사합니다"
    documents = [
        document(f"d{n}", f"{words(300 + n)}\n{licence}", split="test" if n < 5 else "train")
        for n in range(40)
    ]
    documents.append(document("copy", words(250) + words(303), split="train"))
    parts = run(tmp_path, documents)
    assert {one.id for one in documents} - set(parts) == {"copy"}


def test_by_design_dialogues_only_lose_identical_twins(tmp_path: Path) -> None:
    answer = words(220, 30)
    documents = [
        *background(),
        chat("asked", "When?", answer, split="test", clean="exempt"),
        chat("same fact", "At what time, please?", answer, split="train", clean="exempt"),
        chat("twin", "When?", answer, split="train", clean="exempt"),
        document("letter", f"Dear all, {answer}", split="train"),
        document("held page", words(221), split="test"),
        chat("quotes the page", "Read!", words(221), split="train", clean="exempt"),
        document("copies the page", "So: " + words(221), split="train"),
    ]
    parts = run(tmp_path, documents)
    assert {one.id for one in documents} - set(parts) == {"twin", "copies the page"}


@pytest.mark.parametrize("form", ["jsonl", "json", "parquet", "txt"])
def test_named_evaluation_sets(tmp_path: Path, form: str) -> None:
    secret = words(230)
    rows = [{"question": "short", "choices": [{"text": secret}]}, {"question": "short", "choices": []}]
    folder = tmp_path / "sets"
    folder.mkdir()
    file = folder / f"exam.{form}"
    if form == "jsonl":
        file.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    elif form == "json":
        file.write_text(json.dumps(rows))
    elif form == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table({"question": ["short", secret]}), file)
    else:
        file.write_text(f"first line\n{secret}\n")
    documents = [
        *background(),
        document("copy", f"{words(231)} {secret}"),
        chat("by design", "?", secret, clean="exempt"),
    ]
    for place in (file, folder):
        parts = run(
            tmp_path / f"run-{place.name}", documents, evaluation=(str(place),), validation=0.0, test=0.0
        )
        assert {one.id for one in documents} - set(parts) == {"copy", "by design"}


def test_evaluation_sets_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "image.png").write_bytes(b"\x89PNG")
    (tmp_path / "bad.jsonl").write_text("{")
    corpus = make_corpus(tmp_path / "corpus", background())
    for name, kind, message in (
        ("absent.jsonl", ConfigError, "no such file"),
        ("empty", ConfigError, "no .jsonl"),
        ("image.png", ConfigError, "not one of"),
        ("bad.jsonl", InputError, "cannot be read"),
    ):
        with pytest.raises(kind, match=message):
            split(SplitConfig(evaluation=(str(tmp_path / name),)), corpus, tmp_path / "split")
        assert not (tmp_path / "split").exists()


@pytest.mark.parametrize(
    "options",
    [
        {"validation": -0.1},
        {"test": 1.0},
        {"validation": 0.6, "test": 0.5},
        {"words": 1},
        {"characters": 5},
        {"scaffold_groups": 1},
    ],
)
def test_settings_are_checked(options: dict) -> None:
    with pytest.raises(ConfigError):
        SplitConfig(**options)
