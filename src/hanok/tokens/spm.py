"""SentencePiece's `tokenizer.model` as `tokenizer.json`: BPE over characters that falls back on bytes, text taken as it is.

The file is a protocol buffer (`sentencepiece_model.proto`): a list of fields, each a number and a value. Of it are read the
pieces with their scores, and the settings that decide how text is cut. A merge joins two pieces to a third; SentencePiece
takes the one with the highest score first, so merges are listed in that order.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from hanok.errors import ArtefactError

_SPACE = "\u2581"
_NORMAL, _UNKNOWN, _CONTROL, _USER, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_BPE = 2
_OTHERS = {1: "unigram", 3: "word", 4: "char"}


@dataclass(frozen=True, slots=True)
class Piece:
    text: str
    score: float
    kind: int


def tokenizer_files(content: bytes, *, name: str) -> dict[str, str]:
    """`tokenizer.json` and the names of the control tokens, as `tokenizer_config.json`. `name`: of the file, for errors.

    Raises:
        ArtefactError: a damaged file, or a kind of model that `tokenizer.json` would not express exactly.
    """
    try:
        model = _fields(content)
        pieces = [_piece(_fields(part)) for part in model.get(1, [])]
        trainer = _fields(model.get(2, [b""])[-1])
        normaliser = _fields(model.get(3, [b""])[-1])
        ids = [pieces.index(next(p for p in pieces if p.kind == _UNKNOWN))]
        ids += [
            _signed(trainer.get(number, [default])[-1]) for number, default in ((41, 1), (42, 2), (43, -1))
        ]
        roles = dict(zip(("unk_token", "bos_token", "eos_token", "pad_token"), ids, strict=True))
        config = {role: pieces[number].text for role, number in roles.items() if number >= 0}
    except (ValueError, IndexError, TypeError, StopIteration, struct.error) as error:
        raise ArtefactError(
            f"{name} is no SentencePiece model, or is damaged", remedy="copy it again"
        ) from error
    why = _refusal(pieces, trainer, normaliser)
    if why is not None:
        raise ArtefactError(
            f"{name}: {why}, which tokenizer.json would not hold exactly",
            remedy="take a copy of the model that has a tokenizer.json",
        )
    prefix = bool(normaliser.get(3, [1])[-1])
    return {
        "tokenizer.json": json.dumps(_tokenizer(pieces, config["unk_token"], prefix), ensure_ascii=False),
        "tokenizer_config.json": json.dumps(config, ensure_ascii=False),
    }


def _refusal(
    pieces: list[Piece], trainer: dict[int, list[Any]], normaliser: dict[int, list[Any]]
) -> str | None:
    kind = trainer.get(3, [1])[-1]
    if kind != _BPE:
        return f"it is of type {_OTHERS.get(kind, kind)}"
    if not trainer.get(35, [0])[-1] or sum(p.kind == _BYTE for p in pieces) != 256:
        return "it does not fall back on bytes"
    if normaliser.get(2, [b""])[-1]:
        return "it rewrites characters"
    if normaliser.get(4, [1])[-1]:
        return "it drops white space"
    if not normaliser.get(5, [1])[-1] or trainer.get(24, [0])[-1]:
        return "it marks white space in another way"
    if any(p.kind == _USER for p in pieces):
        return "it has tokens of its user's"
    if len({p.text for p in pieces}) != len(pieces):
        return "it has a piece twice"
    return None


def _tokenizer(pieces: list[Piece], unknown: str, prefix: bool) -> dict[str, Any]:
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    back = {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "}
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    added = [
        {
            "id": number, "content": piece.text, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": False, "special": True,
        }
        for number, piece in enumerate(pieces)
        if piece.kind in (_UNKNOWN, _CONTROL)
    ]  # fmt: skip
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
        "normalizer": {
            "type": "Sequence", "normalizers": [*([{"type": "Prepend", "prepend": _SPACE}] if prefix else []), replace],
        },
        "pre_tokenizer": None, "post_processor": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [back, {"type": "ByteFallback"}, {"type": "Fuse"}, *([strip] if prefix else [])],
        },
        "model": {
            "type": "BPE", "dropout": None, "unk_token": unknown, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True, "ignore_merges": False,
            "vocab": {piece.text: number for number, piece in enumerate(pieces)}, "merges": _merges(pieces),
        },
    }  # fmt: skip


def _merges(pieces: list[Piece]) -> list[list[str]]:
    number = {piece.text: n for n, piece in enumerate(pieces) if piece.kind == _NORMAL}
    found = []
    for piece in pieces:
        if piece.kind != _NORMAL:
            continue
        for cut in range(1, len(piece.text)):
            left, right = piece.text[:cut], piece.text[cut:]
            if left in number and right in number:
                found.append((-piece.score, number[left], number[right], left, right))
    return [[left, right] for *_, left, right in sorted(found)]


def _piece(fields: dict[int, list[Any]]) -> Piece:
    score = struct.unpack("<f", fields[2][-1])[0] if 2 in fields else 0.0
    return Piece(fields[1][-1].decode("utf-8"), score, fields.get(3, [_NORMAL])[-1])


def _fields(content: bytes) -> dict[int, list[Any]]:
    """Number to values: integers, or bytes not yet looked into. Raises ValueError or IndexError for anything else."""
    found: dict[int, list[Any]] = {}
    for number, value in _walk(content):
        found.setdefault(number, []).append(value)
    return found


def _walk(content: bytes) -> Iterator[tuple[int, Any]]:
    place = 0
    while place < len(content):
        key, place = _varint(content, place)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, place = _varint(content, place)
        else:
            if kind == _BYTES:
                size, place = _varint(content, place)
            elif kind in (_FIXED32, _FIXED64):
                size = 4 if kind == _FIXED32 else 8
            else:
                raise ValueError(f"a field of type {kind}")
            value, place = content[place : place + size], place + size
            if len(value) < size:
                raise ValueError("cut short")
        yield number, value


def _varint(content: bytes, place: int) -> tuple[int, int]:
    """Seven bits a byte, the lowest first; the eighth says that more follow."""
    value = 0
    for shift in range(0, 70, 7):
        byte = content[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
    raise ValueError("a number without end")


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value
