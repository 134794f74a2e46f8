"""Tokens to calibrate on and others to measure on: windows of token shards, or of one text file.

Shards: `text-train` and `text-validation`. A file: its first nine tenths and its last.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hanok.artefacts.shards import TokenSplit, open_shards
from hanok.errors import ConfigError, InputError
from hanok.tokens.tokenizer import Tokenizer

_HELD_OUT_SEED = 1  # figures of several seeds are of the same text


@dataclass(frozen=True, slots=True)
class Texts:
    """Windows of token ids, each within one document; `hash` names where they come from."""

    calibration: list[np.ndarray]
    held_out: list[np.ndarray]
    hash: str


def read_texts(data: Path, model: Path, *, samples: int, held_out: int, length: int, seed: int) -> Texts:
    """Args:
        data: a shards directory, or a UTF-8 text file.
        model: whose tokeniser it is.
        seed: of which windows to calibrate on; those to measure on are the same for every seed.

    Raises:
        InputError: no such data, or no text in it. ArtefactError: shards of another tokeniser, or damaged ones.
    """
    if length < 2 or samples < 1 or held_out < 1:
        raise ConfigError(
            f"{samples} and {held_out} windows of {length} tokens", remedy="give at least 1, 1 and 2"
        )
    tokenizer = Tokenizer.load(model)
    if data.is_dir():
        shards = open_shards(data)
        shards.require_tokenizer(tokenizer.hash)
        parts = [_windows(shards.splits.get(name), length) for name in ("text-train", "text-validation")]
        found = shards.hash
    elif data.is_file():
        text = _read(data)
        parts = _of_text(text, tokenizer, length)
        found = hashlib.sha256(f"{tokenizer.hash}\n{text}".encode()).hexdigest()
    else:
        raise InputError(f"nothing at {data}", remedy="give token shards or a text file")
    if not all(parts):
        raise InputError(f"{data} holds too little text", remedy="give more of it")
    return Texts(_drawn(parts[0], samples, seed), _drawn(parts[1], held_out, _HELD_OUT_SEED), found)


def _windows(split: TokenSplit | None, length: int) -> list[np.ndarray]:
    if split is None:
        return []
    return [
        part for n in range(split.num_documents) for part in _cut(split.document(n)[0], length)
    ]  # views of the mapped file


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{file} is not UTF-8 text ({error})", remedy="give a text file or shards"
        ) from error


def _of_text(text: str, tokenizer: Tokenizer, length: int) -> list[list[np.ndarray]]:
    border = len(text) * 9 // 10
    return [_cut(np.array(tokenizer.encode(part)), length) for part in (text[:border], text[border:])]


def _cut(ids: np.ndarray, length: int) -> list[np.ndarray]:
    parts = [ids[start : start + length] for start in range(0, len(ids), length)]
    return [part for part in parts if len(part) >= 2]


def _drawn(windows: list[np.ndarray], count: int, seed: int) -> list[np.ndarray]:
    order = np.random.default_rng(seed).permutation(len(windows))[:count]
    return [np.asarray(windows[n]) for n in order]
