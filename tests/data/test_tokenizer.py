"""Training: frequent syllables are whole, sizes are kept, limits are said."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import pre_tokenizers

from hanok.artefacts import create_artefact, open_artefact
from hanok.data.config_tokens import TokenizerConfig
from hanok.data.corpus import CorpusWriter, Document
from hanok.data.tokenizer import (
    Alphabet,
    learn_merges,
    tokenizer_files,
    train_tokenizer,
)
from hanok.data.words import PARTICLE_PATTERN, PATTERN, count_words, cut_particles
from hanok.errors import ArtefactError, ConfigError, InputError
from hanok.tokens import Tokenizer

SENTENCES = [
    "한옥 마을의 서점은 아침 아홉 시에 열고 저녁 여섯 시에 닫습니다.",
    "The tea house opens at nine and it's closed on Mondays; a cup costs 3500 won.",
    "뷁 쀍 漢字 ㅋㅋ 😀",
    "우물가 찻집의 입장료는 어른 3,500원, 어린이 1,200원입니다.",
    "Behind the well stands a library whose garden keeps persimmon trees from another century.",
]


def make_split(directory: Path, documents: list[Document]) -> Path:
    with create_artefact(directory, kind="split") as draft:
        for part in ("train", "validation", "test"):
            with CorpusWriter(draft.path / part) as writer:
                for document in documents if part == "train" else documents[:1]:
                    writer.write(document)
    return directory


def text(number: int, content: str) -> Document:
    return Document(id=f"d{number}", source="test", licence="CC0-1.0", text=content)


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Path:
    chooser = random.Random(1)
    documents = [text(n, " ".join(chooser.choices(SENTENCES[:2] + SENTENCES[3:], k=6))) for n in range(40)]
    documents += [text(100 + n, SENTENCES[2]) for n in range(4)]
    messages = [
        {"role": "user", "content": "닭갈비 닭갈비 얼마예요?"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"function": {"name": "price", "arguments": '{"a": 1}'}}],
        },
        {"role": "tool", "content": "닭갈비 닭갈비 닭갈비"},
    ]
    documents.append(Document(id="chat", source="test", licence="CC0-1.0", messages=messages))
    return make_split(tmp_path_factory.mktemp("data") / "split", documents)


@pytest.fixture(scope="module")
def trained(split: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "tokenizer"
    train_tokenizer(TokenizerConfig(vocab_size=460), split, out)
    return out


def test_every_frequent_syllable_is_one_token(trained: Path) -> None:
    tokenizer = Tokenizer.load(trained)
    wanted = {c for s in (*SENTENCES[:2], SENTENCES[3], "닭갈비") for c in s if "가" <= c <= "힣"}
    assert all(len(tokenizer.encode(syllable)) == 1 for syllable in wanted)
    assert all(len(tokenizer.encode(syllable)) > 1 for syllable in "뷁쀍")
    assert tokenizer.vocab_size == 460


def test_a_frequent_syllable_is_never_cut(trained: Path) -> None:
    """Whatever stands around it, no token ends inside it."""
    tokenizer = Tokenizer.load(trained)
    for sentence in ("뷁한뷁옥쀍", "“한옥”은KDA의", "漢한字옥\n서점", "한😀옥"):
        ends = set(tokenizer.byte_lengths[tokenizer.encode(sentence)].cumsum().tolist())
        for place, character in enumerate(sentence):
            if "가" <= character <= "힣" and len(tokenizer.encode(character)) == 1:
                start = len(sentence[:place].encode())
                assert not {start + 1, start + 2} & ends


@settings(max_examples=30)
@given(
    st.lists(
        st.text(st.characters(min_codepoint=0xAC00, max_codepoint=0xAC60), max_size=20),
        min_size=1,
        max_size=6,
    )
)
def test_syllable_promise_holds_for_any_text(texts: list[str]) -> None:
    counts = Counter("".join(texts))
    alphabet = Alphabet.of(sorted(c for c, n in counts.items() if n >= 5))
    sentences = [[*texts, " ".join(SENTENCES)] * 2]
    config = TokenizerConfig(vocab_size=alphabet.smallest_vocabulary + 60)
    merges = learn_merges(count_words(sentences), alphabet, config)
    tokenizer = Tokenizer(tokenizer_files(alphabet, merges))
    for syllable, count in counts.items():
        assert count < 5 or len(tokenizer.encode(syllable)) == 1
    assert all(tokenizer.decode(tokenizer.encode(t)) == t for t in texts)


def test_training_is_reproducible(split: Path, trained: Path, tmp_path: Path) -> None:
    train_tokenizer(TokenizerConfig(vocab_size=460), split, tmp_path / "again")
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (trained / name).read_bytes()


def test_lineage_and_report(split: Path, trained: Path) -> None:
    artefact = open_artefact(trained, kind="tokenizer")
    assert artefact.parents == {"split": open_artefact(split).hash}
    assert artefact.metrics["bytes_per_token"] > 2
    assert json.loads((trained / "report.json").read_text())["Vocabulary"][0] == {
        "part": "control tokens",
        "tokens": 10,
    }


def test_a_vocabulary_too_small_names_the_smallest(split: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="too small") as caught:
        train_tokenizer(TokenizerConfig(vocab_size=300), split, tmp_path / "small")
    smallest = int(re.search(r"at least (\d+)", caught.value.remedy)[1])  # type: ignore[index]
    train_tokenizer(TokenizerConfig(vocab_size=smallest), split, tmp_path / "fits")
    with pytest.raises(ConfigError, match="too small"):
        train_tokenizer(TokenizerConfig(vocab_size=smallest - 1), split, tmp_path / "one_less")
    assert not (tmp_path / "one_less").exists()


def test_a_vocabulary_larger_than_the_data_names_the_largest(split: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="larger than the data allows") as caught:
        train_tokenizer(TokenizerConfig(vocab_size=60_000), split, tmp_path / "large")
    largest = int(re.search(r"at most (\d+)", caught.value.remedy)[1])  # type: ignore[index]
    train_tokenizer(TokenizerConfig(vocab_size=largest), split, tmp_path / "fits")
    with pytest.raises(ConfigError, match="larger"):
        train_tokenizer(TokenizerConfig(vocab_size=largest + 1), split, tmp_path / "one_more")


def test_control_tokens_in_documents_are_not_learnt(tmp_path: Path) -> None:
    documents = [
        text(n, "<|im_end|> <tool_call> </think> <|im_end|>" * 20 + " ".join(SENTENCES)) for n in range(9)
    ]
    split = make_split(tmp_path / "split", documents)
    train_tokenizer(TokenizerConfig(vocab_size=460), split, tmp_path / "tokenizer")
    tokenizer = Tokenizer.load(tmp_path / "tokenizer")
    ids = tokenizer.encode("<|im_end|><tool_call></think>")
    assert not set(ids) & set(tokenizer.special.values())


def test_a_bounded_sample_still_counts_every_syllable(tmp_path: Path) -> None:
    documents = [text(n, f"{SENTENCES[n % 2]} {SENTENCES[3]} " * 30) for n in range(40)] + [
        text(99, "쀍" * 5)
    ]
    split = make_split(tmp_path / "split", documents)
    train_tokenizer(TokenizerConfig(vocab_size=360, sample_bytes=20_000), split, tmp_path / "tokenizer")
    assert len(Tokenizer.load(tmp_path / "tokenizer").encode("쀍")) == 1
    metrics = open_artefact(tmp_path / "tokenizer").metrics
    assert 0 < metrics["sampled_bytes"] < 40_000 < metrics["train_bytes"]


def test_one_huge_text_gives_its_beginning(tmp_path: Path) -> None:
    split = make_split(tmp_path / "split", [text(0, f"{SENTENCES[0]} {SENTENCES[1]} {SENTENCES[4]} " * 500)])
    train_tokenizer(TokenizerConfig(vocab_size=400, sample_bytes=9_000), split, tmp_path / "tokenizer")
    assert 5_000 < open_artefact(tmp_path / "tokenizer").metrics["sampled_bytes"] < 20_000


def test_empty_or_foreign_input_is_refused(split: Path, trained: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no text"):
        train_tokenizer(TokenizerConfig(), make_split(tmp_path / "empty", []), tmp_path / "out")
    with pytest.raises(ArtefactError, match="kind"):
        train_tokenizer(TokenizerConfig(), trained, tmp_path / "out")


@pytest.mark.parametrize(
    ("sentence", "words"),
    [
        ("한옥은 KDA의", ["한옥은", " KDA", "의"]),
        ("it's 'dog'", ["it", "'s", " '", "dog", "'"]),
        ("12 won", ["1", "2", " won"]),
        ("a  b\n\n c", ["a", " ", " b", "\n\n", " c"]),
        ("3,500원!", ["3", ",", "5", "0", "0", "원", "!"]),
    ],
)
def test_pre_tokeniser(sentence: str, words: list[str]) -> None:
    assert pieces_of(PATTERN, sentence) == words


@pytest.mark.parametrize(
    ("sentence", "words"),
    [
        ("우물가 찻집의 문은", ["우물", "가", " 찻집", "의", " 문은"]),
        ("“찻집”은 찻집입니다.", ["“찻집", "”은", " 찻집", "입니다", "."]),
        ("서점에서는 KDA의 12시예요", ["서점", "에서는", " KDA", "의", " ", "1", "2", "시예요"]),
    ],
)
def test_pre_tokeniser_that_cuts_particles(sentence: str, words: list[str]) -> None:
    assert pieces_of(PARTICLE_PATTERN, sentence) == words


def pieces_of(pattern: str, sentence: str) -> list[str]:
    splitter = pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")
    return [word for word, _ in splitter.pre_tokenize_str(sentence)]


def test_particles_can_be_token_borders(split: Path, tmp_path: Path) -> None:
    train_tokenizer(TokenizerConfig(vocab_size=440, split_particles=True), split, tmp_path / "tokenizer")
    tokenizer = Tokenizer.load(tmp_path / "tokenizer")

    def tokens(word: str) -> list[str]:
        return [tokenizer.decode([n]) for n in tokenizer.encode(word)]

    assert tokens("우물가 찻집의") == [*tokens("우물가 찻집"), "의"]
    assert cut_particles({" 서점은": 2, "물은": 3, "학교에서는": 1, " Hanok": 1}) == {
        " 서점": 2, "은": 2, "물은": 3, "학교": 1, "에서는": 1, " Hanok": 1,
    }  # fmt: skip
    for sentence in SENTENCES:
        assert tokenizer.decode(tokenizer.encode(sentence)) == sentence


@pytest.mark.data
@pytest.mark.slow
def test_korean_wikipedia(shared_data: Path, tmp_path: Path) -> None:
    import tarfile

    documents = []
    with tarfile.open(shared_data / "kowiki-2020" / "kowiki_dev.tar.gz") as archive:
        for number, member in enumerate(archive):
            file = archive.extractfile(member) if number < 6 else None
            if file is not None:
                documents.append(text(number, file.read().decode()))
    split = make_split(tmp_path / "split", documents)
    train_tokenizer(TokenizerConfig(vocab_size=6000), split, tmp_path / "tokenizer")
    tokenizer = Tokenizer.load(tmp_path / "tokenizer")
    counts = Counter(character for document in documents for character in document.text or "")
    frequent = [c for c, n in counts.items() if n >= 5 and "가" <= c <= "힣"]
    assert len(frequent) > 1000
    assert all(len(tokenizer.encode(syllable)) == 1 for syllable in frequent)
    assert open_artefact(tmp_path / "tokenizer").metrics["bytes_per_token"] > 3.5
