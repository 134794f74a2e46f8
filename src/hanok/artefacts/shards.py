"""Reading token shards: memory-mapped tokens with document boundaries.

`shards.json` = {format, vocab_size, dtype, tokenizer_hash, splits: {name: {documents, tokens, bytes, files}}}; for each
split NAME: `NAME.tokens.bin` (uint16 or uint32), `NAME.offsets.bin` (int64, documents + 1), `NAME.bytes.bin` (int64,
UTF-8 bytes of each document) and, for chats, `NAME.mask.bin` (uint8 a token: 1 = learnt). All little-endian.

A text document is stored as BOS + tokens + EOS, a chat as BOS + the ids of its template.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from hanok.artefacts.directory import open_artefact
from hanok.errors import ArtefactError

FORMAT = 1
INDEX = "shards.json"
DTYPES = {"uint16": np.dtype("<u2"), "uint32": np.dtype("<u4")}
OFFSETS = np.dtype("<i8")
_REMAKE = "delete the directory and write the shards again"


@dataclass(frozen=True)
class TokenSplit:
    """The documents of one split. Arrays are read-only views of the files."""

    name: str
    tokens: np.ndarray
    offsets: np.ndarray
    bytes: np.ndarray
    mask: np.ndarray | None

    @property
    def num_documents(self) -> int:
        return len(self.offsets) - 1

    @property
    def num_tokens(self) -> int:
        return len(self.tokens)

    @cached_property
    def num_bytes(self) -> int:
        return int(self.bytes.sum())

    @cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of each document, int64."""
        return np.diff(self.offsets)

    def document(self, index: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Tokens of a document, and which of them are learnt (None: all)."""
        if not 0 <= index < self.num_documents:
            raise IndexError(f"document {index} of {self.num_documents} in {self.name}")
        place = slice(int(self.offsets[index]), int(self.offsets[index + 1]))
        return self.tokens[place], None if self.mask is None else self.mask[place]


@dataclass(frozen=True, slots=True)
class Shards:
    """An opened shards artefact."""

    path: Path
    hash: str
    vocab_size: int
    tokenizer_hash: str
    splits: Mapping[str, TokenSplit]

    def require_tokenizer(self, tokenizer_hash: str) -> None:
        """Raises ArtefactError: these shards were made with another tokeniser."""
        if self.tokenizer_hash != tokenizer_hash:
            raise ArtefactError(
                f"{self.path} was written with tokeniser {self.tokenizer_hash[:12]}, not {tokenizer_hash[:12]}",
                remedy="write the shards again with this tokeniser, or give the model that belongs to them",
            )


def open_shards(path: Path, *, verify: bool = True) -> Shards:
    """Open a shards artefact and check its files.

    Args:
        verify: compare every file's SHA-256; without it presence, sizes and boundaries are checked.

    Raises:
        ArtefactError: missing, damaged, of another kind, or written by a newer version.
    """
    path = Path(path)
    artefact = open_artefact(path, kind="shards", verify=verify)
    index = _index(path / INDEX)
    dtype = DTYPES.get(index["dtype"])
    if dtype is None:
        raise ArtefactError(f"{path / INDEX}: dtype {index['dtype']!r}", remedy=f"known: {', '.join(DTYPES)}")
    return Shards(
        path=path,
        hash=artefact.hash,
        vocab_size=index["vocab_size"],
        tokenizer_hash=index["tokenizer_hash"],
        splits={name: _split(path, name, record, dtype) for name, record in index["splits"].items()},
    )


def _index(file: Path) -> dict[str, Any]:
    try:
        index = json.loads(file.read_text(encoding="utf-8"))
        version = int(index["format"])
        missing = {"vocab_size", "dtype", "tokenizer_hash", "splits"} - set(index)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtefactError(f"{file} is not readable ({error})", remedy=_REMAKE) from error
    if version > FORMAT:
        raise ArtefactError(
            f"{file} is of format {version}, this version reads up to {FORMAT}", remedy="upgrade hanok"
        )
    if missing:
        raise ArtefactError(f"{file} lacks {', '.join(sorted(missing))}", remedy=_REMAKE)
    return index


def _split(path: Path, name: str, record: Mapping[str, Any], dtype: np.dtype) -> TokenSplit:
    documents, tokens = int(record["documents"]), int(record["tokens"])
    masked = f"{name}.mask.bin" in record["files"]
    split = TokenSplit(
        name=name,
        tokens=_map(path / f"{name}.tokens.bin", dtype, tokens),
        offsets=_map(path / f"{name}.offsets.bin", OFFSETS, documents + 1),
        bytes=_map(path / f"{name}.bytes.bin", OFFSETS, documents),
        mask=_map(path / f"{name}.mask.bin", np.dtype("u1"), tokens) if masked else None,
    )
    offsets = split.offsets
    if offsets[0] != 0 or offsets[-1] != tokens or (np.diff(offsets) < 0).any():
        raise ArtefactError(
            f"{path / f'{name}.offsets.bin'}: boundaries do not fit {tokens} tokens", remedy=_REMAKE
        )
    return split


def _map(file: Path, dtype: np.dtype, count: int) -> np.ndarray:
    if not file.is_file():
        raise ArtefactError(f"{file} is missing", remedy=_REMAKE)
    size = file.stat().st_size
    if size != count * dtype.itemsize:
        raise ArtefactError(
            f"{file}: {size} bytes where {count} entries need {count * dtype.itemsize}", remedy=_REMAKE
        )
    if count == 0:  # an empty file cannot be mapped
        return np.empty(0, dtype=dtype)
    return np.memmap(file, dtype=dtype, mode="r", shape=(count,))
