"""`tokenizer.model` without a tokenizer.json: the ids that SentencePiece gives, or one clear refusal."""

from __future__ import annotations

import io
import json
import random
import struct
from pathlib import Path

import pytest

from hanok.engine.text import AnswerStream, continued
from hanok.errors import ArtefactError
from hanok.tokens.tokenizer import Tokenizer

SPACE = "\u2581"
MERGES = [
    "th",
    SPACE + "t",
    "the",
    SPACE + "the",
    "ou",
    "se",
    "ouse",
    "hou",
    SPACE + "h",
    SPACE * 2,
    "기와",
    SPACE + "기와",
]
CHARACTERS = [SPACE, *"thousecrab기와.!"]
# what sentencepiece 0.2.2 makes of the model that `model_file` writes
GOLDEN = {
    "the house": [262, 267, 265],
    " the  gate": [271, 262, 268, 106, 280, 272, 277],
    "기와집 the\n": [270, 239, 170, 148, 262, 13],
    "<s>the</s>": [271, 63, 276, 65, 261, 63, 50, 276, 65],
    "": [],
    "  ": [268, 271],
    "touthe": [260, 263, 261],
}  # fmt: skip


def field(number: int, value: int | bytes | float) -> bytes:
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    if isinstance(value, int):
        return varint(number << 3) + varint(value % (1 << 64))
    return varint(number << 3 | 2) + varint(len(value)) + value


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def model_file(*, kind: int = 2, settings: bytes = b"", extra: tuple[tuple[str, int], ...] = ()) -> bytes:
    pieces = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3)]
    pieces += [(f"<0x{n:02X}>", 0.0, 6) for n in range(256)]
    pieces += [(text, -float(rank), 1) for rank, text in enumerate([*MERGES, *CHARACTERS])]
    pieces += [(text, 0.0, kind) for text, kind in extra]
    trainer = field(3, kind) + field(35, 1) + field(43, -1)
    normaliser = field(1, b"identity") + field(3, 1) + field(4, 0) + settings
    body = [field(1, field(1, text.encode()) + field(2, score) + field(3, k)) for text, score, k in pieces]
    return b"".join(body) + field(2, trainer) + field(3, normaliser)


def write(folder: Path, content: bytes) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.model").write_bytes(content)
    return folder


def test_ids_text_and_roles(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(write(tmp_path, model_file()))
    assert {text: tokenizer.encode(text) for text in GOLDEN} == GOLDEN
    for text in GOLDEN:
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.vocab_size) == (
        1,
        2,
        259 + len(MERGES + CHARACTERS),
    )
    tokenizer.save(tmp_path / "again")
    assert Tokenizer.load(tmp_path / "again").hash == tokenizer.hash
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"pad_token": "</s>"}))
    assert Tokenizer.load(tmp_path).pad_id == 2


def test_without_a_space_before_the_text(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(write(tmp_path, model_file(settings=field(3, 0))))
    assert tokenizer.encode("the the") == [261, 262]
    assert tokenizer.decode([261, 262]) == "the the"


def test_what_goes_on_from_a_text_has_its_own_spaces(tmp_path: Path) -> None:
    """No space is put before what goes on behind another text, where only the first gets one, and none is taken from it."""
    Tokenizer.load(write(tmp_path, model_file())).save(tmp_path)
    file = tmp_path / "tokenizer.json"
    spaces = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "first", "split": False}
    file.write_text(json.dumps(json.loads(file.read_text()) | {"normalizer": None, "pre_tokenizer": spaces}))
    tokenizer = Tokenizer.load(tmp_path)
    assert continued(tokenizer, [1], "the") == [1, 261]
    assert tokenizer.encode("the") == [262]  # with the space that a text has at its very beginning
    assert AnswerStream(tokenizer, begun=True).push([262]) == " the"
    assert AnswerStream(tokenizer).push([262]) == "the"


@pytest.mark.parametrize(("content", "why"), [
    (model_file(kind=1), "unigram"), (model_file(settings=field(4, 1)), "white space"),
    (model_file(settings=field(2, b"map")), "rewrites"), (model_file(extra=(("<tool>", 4),)), "its user's"),
    (model_file(extra=(("the", 1),)), "twice"), (b"", "no SentencePiece"), (model_file()[:-3], "no SentencePiece"),
    (b"\xff" * 40, "no SentencePiece"), (b"#!/bin/sh\nrm -rf /\n", "no SentencePiece"),
    (model_file(settings=field(5, 0)), "marks white space"),
])  # fmt: skip
def test_what_is_refused(content: bytes, why: str, tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match=why) as caught:
        Tokenizer.load(write(tmp_path, content))
    assert caught.value.remedy


def texts(rng: random.Random) -> list[str]:
    words = "the house has a gate and a roof of tiles 기와 마루 온돌 대문 opens at nine 안녕하세요 <s> ▁ é 🏠".split()  # noqa: SIM905
    spaces = [" ", " ", " ", "  ", "\n", "\t", ""]
    return [
        "".join(rng.choice(words) + rng.choice(spaces) for _ in range(rng.randint(1, 14))) for _ in range(200)
    ]


@pytest.mark.parametrize("prefix", [True, False])
def test_against_sentencepiece(tmp_path: Path, prefix: bool) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    rng = random.Random(0)
    lines = texts(rng)
    made = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=made, vocab_size=420, model_type="bpe", byte_fallback=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False, add_dummy_prefix=prefix,
        split_digits=True, allow_whitespace_only_pieces=True, minloglevel=2, hard_vocab_limit=False,
    )  # fmt: skip
    theirs = sentencepiece.SentencePieceProcessor(model_proto=made.getvalue())
    ours = Tokenizer.load(write(tmp_path / "model", made.getvalue()))
    assert ours.vocab_size == theirs.vocab_size()
    for text in [*lines, *texts(rng), *GOLDEN]:
        ids = theirs.encode(text)
        assert ours.encode(text) == ids, text
    golden = sentencepiece.SentencePieceProcessor(model_proto=model_file())
    assert {text: golden.encode(text) for text in GOLDEN} == GOLDEN
