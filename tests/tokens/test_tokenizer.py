"""Text to ids and back: identity, streams, byte lengths, and no control token from content."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanok.errors import ArtefactError, InputError
from hanok.tokens import Tokenizer
from hanok.tokens.control import CONTROL_TOKENS
from hanok.tokens.pieces import Pieces

texts = st.text() | st.lists(
    st.sampled_from(
        [
            *CONTROL_TOKENS,
            "한옥",
            "뷁",
            " ",
            "\n",
            "😀",
            "12",
            "it's",
            "ㅋㅋ",
            "é",
            "漢",
            "\x00",
            "가",
            "👩‍👩‍👧",
            "🇰🇷",
            "\u1112\u1161\u11ab",
        ]
    )
).map("".join)


@given(texts)
def test_decode_inverts_encode(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode(ids, skip_special=False) == text


@given(texts)
def test_content_never_yields_control_ids(tokenizer: Tokenizer, text: str) -> None:
    assert not set(tokenizer.encode(text)) & set(tokenizer.special.values())


@given(texts)
def test_byte_lengths_add_up(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.byte_lengths[tokenizer.encode(text)].sum() == len(text.encode())


@given(st.data())
def test_a_stream_says_what_decode_says(tokenizer: Tokenizer, data: st.DataObject) -> None:
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1)))
    for skip in (True, False):
        stream = tokenizer.stream_decoder(skip_special=skip)
        assert "".join([stream.push(n) for n in ids]) + stream.flush() == tokenizer.decode(
            ids, skip_special=skip
        )


@given(texts)
def test_a_stream_never_shows_half_a_character(tokenizer: Tokenizer, text: str) -> None:
    stream = tokenizer.stream_decoder()
    said = ""
    for token in tokenizer.encode(text):
        said += stream.push(token)
        assert text.startswith(said)
    assert said == text
    assert stream.flush() == ""


def test_unfinished_character_is_held_back_then_replaced(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("뷁")
    assert len(ids) > 1
    stream = tokenizer.stream_decoder()
    assert [stream.push(n) for n in ids[:-1]] == [""] * (len(ids) - 1)
    assert stream.flush() == "�"


@given(st.lists(texts, max_size=5))
def test_batches_equal_single_calls(tokenizer: Tokenizer, batch: list[str]) -> None:
    assert tokenizer.encode_batch(batch) == [tokenizer.encode(text) for text in batch]


def test_control_tokens_come_first(tokenizer: Tokenizer) -> None:
    assert tokenizer.special == {name: number for number, name in enumerate(CONTROL_TOKENS)}
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (0, 0, 1)
    assert tokenizer.stop_ids == (3, 0)
    assert tokenizer.byte_lengths[:10].tolist() == [0] * 10


def test_digits_are_single(tokenizer: Tokenizer) -> None:
    assert [tokenizer.decode([n]) for n in tokenizer.encode("3500원")] == ["3", "5", "0", "0", "원"]


def test_half_a_surrogate_pair_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(InputError, match="surrogate"):
        tokenizer.encode("\ud800")
    with pytest.raises(InputError, match="surrogate"):
        tokenizer.encode_chat([{"role": "user", "content": "\ud800"}])


def test_save_and_load_keep_every_id(tokenizer: Tokenizer, tokenizer_directory: Path, tmp_path: Path) -> None:
    loaded = Tokenizer.load(tokenizer_directory)
    assert loaded.hash == tokenizer.hash
    assert loaded.encode("한옥 tea") == tokenizer.encode("한옥 tea")
    loaded.save(tmp_path / "again")
    for file in tokenizer_directory.iterdir():
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes()


def test_merges_may_be_lines_of_text(tokenizer: Tokenizer) -> None:
    files = tokenizer.files
    model = json.loads(files["tokenizer.json"])
    model["model"]["merges"] = ["#version: 0.2", *(" ".join(pair) for pair in model["model"]["merges"])]
    older = Tokenizer(files | {"tokenizer.json": json.dumps(model)})
    text = "한옥 마을의 tea house, 3,500원"
    assert older.encode(text) == tokenizer.encode(text)


def test_a_large_vocabulary_takes_little_room() -> None:
    """131,072 pieces of six bytes at most, with where they begin, in less than twelve bytes each."""
    names = [f"{number:06x}" for number in range(1 << 17)]
    pieces = Pieces("".join(names).encode(), [len(name) for name in names])
    assert list(pieces) == [name.encode() for name in names]
    tracemalloc.start()
    kept = Pieces("".join(names).encode(), [len(name) for name in names])
    size = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert size < 12 * len(kept)


def test_pieces_are_a_sequence_of_bytes() -> None:
    pieces = Pieces(b"aabbb", [2, 0, 3])
    assert list(pieces) == [b"aa", b"", b"bbb"] == list(pieces[0:3])
    assert [pieces[2], pieces[1], len(pieces), list(pieces.lengths())] == [b"bbb", b"", 3, [2, 0, 3]]
    with pytest.raises(IndexError):
        pieces[3]
    with pytest.raises(IndexError):
        pieces[-1]
    longer = pieces.replaced({1: b"xy", 4: b"z"}, size=6)
    assert list(longer) == [b"aa", b"xy", b"bbb", b"", b"z", b""]
    assert list(longer.replaced({0: b"", 2: b"q"}, size=0)) == [b"", b"xy", b"q", b"", b"z", b""]


def test_hash_changes_with_ids_and_template(tokenizer: Tokenizer, tokenizer_directory: Path) -> None:
    files = {file.name: file.read_text() for file in tokenizer_directory.iterdir()}
    config = json.loads(files["tokenizer_config.json"])
    config["chat_template"] += "x"
    assert Tokenizer({**files, "tokenizer_config.json": json.dumps(config)}).hash != tokenizer.hash
    model = json.loads(files["tokenizer.json"])
    assert Tokenizer({**files, "tokenizer.json": json.dumps(model, indent=3)}).hash == tokenizer.hash
    model["model"]["merges"].pop()
    assert Tokenizer({**files, "tokenizer.json": json.dumps(model)}).hash != tokenizer.hash


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", "{", "damaged"),
        ("tokenizer.json", '{"added_tokens": []}', "damaged"),
        ("tokenizer_config.json", '{"eos_token": "<none>"}', "eos_token"),
        ("tokenizer.json", None, "no tokenizer.json"),
    ],
)
def test_damaged_directories_are_refused(
    tokenizer: Tokenizer, tmp_path: Path, name: str, content: str | None, message: str
) -> None:
    tokenizer.save(tmp_path)
    (tmp_path / name).unlink() if content is None else (tmp_path / name).write_text(content)
    with pytest.raises(ArtefactError, match=message):
        Tokenizer.load(tmp_path)


def test_other_kinds_of_tokenizer_are_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    model = json.loads((tmp_path / "tokenizer.json").read_text())
    model["model"]["vocab"]["▁the"] = max(model["model"]["vocab"].values()) + 1
    (tmp_path / "tokenizer.json").write_text(json.dumps(model))
    with pytest.raises(ArtefactError, match="byte-level"):
        Tokenizer.load(tmp_path)


@given(texts)
def test_transformers_reads_the_same_ids(
    tokenizer: Tokenizer, transformers_tokenizer: Any, text: str
) -> None:
    harmless = text.replace("<", "(")
    ids = tokenizer.encode(harmless)
    assert transformers_tokenizer(harmless, add_special_tokens=False).input_ids == ids
    assert transformers_tokenizer.decode(ids, skip_special_tokens=True) == harmless
