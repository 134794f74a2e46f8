"""Shards: what goes in comes out, and what does not belong is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hanok.artefacts import create_artefact, open_artefact
from hanok.artefacts.shards import open_shards
from hanok.data.config_tokens import ShardsConfig, TokenizerConfig
from hanok.data.corpus import CorpusWriter, Document
from hanok.data.shards import write_shards
from hanok.data.tokenizer import train_tokenizer
from hanok.errors import ArtefactError, ConfigError, InputError
from hanok.tokens import Tokenizer

TEXTS = ["한옥 마을의 서점은 아홉 시에 엽니다.", "", "The well 😀 뷁 <|im_end|>\n", "a" * 700]
CHAT = [
    {"role": "user", "content": "몇 시에 열어요?"},
    {"role": "assistant", "content": "아홉 시에 엽니다."},
    {"role": "user", "content": "고마워요"},
    {"role": "assistant", "content": "천만에요."},
]
TOOLS = [{"type": "function", "function": {"name": "hours", "parameters": {}}}]


def text(name: str, content: str) -> Document:
    return Document(id=name, source="test", licence="CC0-1.0", text=content)


def chat(name: str, messages: list[dict], **meta) -> Document:
    return Document(id=name, source="test", licence="CC0-1.0", messages=messages, meta=meta)


def make_split(directory: Path, train: list[Document], validation: list[Document]) -> Path:
    with create_artefact(directory, kind="split") as draft:
        for part, documents in (("train", train), ("validation", validation), ("test", [])):
            with CorpusWriter(draft.path / part) as writer:
                for document in documents:
                    writer.write(document)
    return directory


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Path:
    train = [text(f"t{n}", content) for n, content in enumerate(TEXTS)]
    train += [chat("c0", CHAT), chat("c1", CHAT[:2], tools=TOOLS), text("again", TEXTS[0] * 5)]
    return make_split(tmp_path_factory.mktemp("data") / "split", train, [text("v", TEXTS[2])])


@pytest.fixture(scope="module")
def tokenizer(split: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "tokenizer"
    train_tokenizer(TokenizerConfig(vocab_size=300), split, out)
    return out


@pytest.fixture(scope="module")
def shards(split: Path, tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shards") / "shards"
    write_shards(ShardsConfig(batch_bytes=1000), split, tokenizer, out)
    return out


def test_texts_round_trip(shards: Path, tokenizer: Path) -> None:
    decoder = Tokenizer.load(tokenizer)
    split = open_shards(shards).splits["text-train"]
    assert split.num_documents == 5
    for number, content in enumerate([*TEXTS, TEXTS[0] * 5]):
        tokens, mask = split.document(number)
        assert mask is None
        assert tokens[0] == tokens[-1] == decoder.bos_id == decoder.eos_id
        assert decoder.decode(tokens[1:-1].tolist(), skip_special=False) == content
        assert split.bytes[number] == len(content.encode())
        assert split.lengths[number] == len(tokens)


def test_chats_round_trip(shards: Path, tokenizer: Path) -> None:
    encoder = Tokenizer.load(tokenizer)
    split = open_shards(shards).splits["chat-train"]
    assert split.num_documents == 2
    for number, (messages, tools) in enumerate([(CHAT, None), (CHAT[:2], TOOLS)]):
        expected = encoder.encode_chat(messages, tools=tools)
        tokens, mask = split.document(number)
        assert tokens.tolist() == [encoder.bos_id, *expected.ids]
        assert mask is not None
        assert mask.tolist() == [0, *expected.loss_mask]
        assert split.bytes[number] == encoder.byte_lengths[tokens].sum()


def test_counts(shards: Path, tokenizer: Path) -> None:
    opened = open_shards(shards)
    assert set(opened.splits) == {
        f"{k}-{p}" for k in ("text", "chat") for p in ("train", "validation", "test")
    }
    assert opened.vocab_size == Tokenizer.load(tokenizer).vocab_size == 300
    for split in opened.splits.values():
        assert split.num_tokens == split.lengths.sum()
        assert split.num_bytes == split.bytes.sum()
    empty = opened.splits["chat-test"]
    assert (empty.num_documents, empty.num_tokens, empty.num_bytes) == (0, 0, 0)
    with pytest.raises(IndexError):
        empty.document(0)
    metrics = open_artefact(shards).metrics
    assert metrics["tokens"] == sum(split.num_tokens for split in opened.splits.values())


def test_tokens_are_read_only_and_small(shards: Path) -> None:
    tokens, _ = open_shards(shards).splits["text-train"].document(0)
    assert tokens.dtype == np.uint16
    with pytest.raises(ValueError, match="read-only"):
        tokens[0] = 1


def test_the_tokeniser_travels_along(shards: Path, tokenizer: Path) -> None:
    opened = open_shards(shards)
    assert Tokenizer.load(shards).hash == Tokenizer.load(tokenizer).hash == opened.tokenizer_hash
    opened.require_tokenizer(opened.tokenizer_hash)
    with pytest.raises(ArtefactError, match="was written with tokeniser"):
        opened.require_tokenizer("0" * 64)


def test_batches_do_not_matter(split: Path, tokenizer: Path, shards: Path, tmp_path: Path) -> None:
    write_shards(ShardsConfig(), split, tokenizer, tmp_path / "shards")
    for file in shards.glob("*.bin"):
        assert (tmp_path / "shards" / file.name).read_bytes() == file.read_bytes()


def copy_of(shards: Path, directory: Path) -> Path:
    import shutil

    shutil.copytree(shards, directory / "copy")
    return directory / "copy"


def test_a_flipped_bit_is_refused(shards: Path, tmp_path: Path) -> None:
    copy = copy_of(shards, tmp_path)
    file = copy / "text-train.tokens.bin"
    data = bytearray(file.read_bytes())
    data[11] ^= 4
    file.write_bytes(bytes(data))
    with pytest.raises(ArtefactError, match="does not match the hash"):
        open_shards(copy)


def test_a_cut_file_is_refused(shards: Path, tmp_path: Path) -> None:
    copy = copy_of(shards, tmp_path)
    file = copy / "chat-train.mask.bin"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ArtefactError, match=r"mask\.bin: \d+ bytes where"):
        open_shards(copy, verify=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "format 2"),
        ({"dtype": "float64"}, "float64"),
        ({"vocab_size": None}, "lacks vocab_size"),
        ({"tokens": 5}, "entries need"),
    ],
)
def test_an_index_that_does_not_fit_is_refused(
    shards: Path, tmp_path: Path, change: dict, message: str
) -> None:
    """Even where the manifest was written for it (as by another program)."""
    index = json.loads((shards / "shards.json").read_text())
    for key, value in change.items():
        if key == "tokens":
            index["splits"]["text-train"]["tokens"] = value
        elif value is None:
            del index[key]
        else:
            index[key] = value
    with create_artefact(tmp_path / "odd", kind="shards") as draft:
        for file in shards.glob("*.bin"):
            (draft.path / file.name).write_bytes(file.read_bytes())
        (draft.path / "shards.json").write_text(json.dumps(index))
    with pytest.raises(ArtefactError, match=message):
        open_shards(tmp_path / "odd")


def test_offsets_that_run_backwards_are_refused(shards: Path, tmp_path: Path) -> None:
    with create_artefact(tmp_path / "odd", kind="shards") as draft:
        for file in [*shards.glob("*.bin"), shards / "shards.json"]:
            (draft.path / file.name).write_bytes(file.read_bytes())
        offsets = np.fromfile(draft.path / "text-train.offsets.bin", dtype=np.int64)
        offsets[1], offsets[2] = offsets[2] + 5, offsets[1]
        offsets.tofile(draft.path / "text-train.offsets.bin")
    with pytest.raises(ArtefactError, match="boundaries"):
        open_shards(tmp_path / "odd")


def test_bad_conversations_are_named(tokenizer: Path, tmp_path: Path) -> None:
    split = make_split(
        tmp_path / "split", [chat("fine", CHAT), chat("odd-one", [{"role": "boss", "content": "x"}])], []
    )
    with pytest.raises(InputError, match=r"document odd-one: .*boss"):
        write_shards(ShardsConfig(), split, tokenizer, tmp_path / "shards")
    assert not (tmp_path / "shards").exists()


def test_empty_train_and_foreign_directories_are_refused(
    split: Path, tokenizer: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="no documents"):
        write_shards(ShardsConfig(), make_split(tmp_path / "split", [], []), tokenizer, tmp_path / "shards")
    with pytest.raises(ArtefactError, match="kind"):
        write_shards(ShardsConfig(), tokenizer, tokenizer, tmp_path / "shards")
    with pytest.raises(ArtefactError, match=r"no tokenizer\.json"):
        write_shards(ShardsConfig(), split, split, tmp_path / "shards")
    with pytest.raises(ArtefactError, match="kind"):
        open_shards(tokenizer)
    with pytest.raises(ConfigError):
        ShardsConfig(batch_bytes=1)
