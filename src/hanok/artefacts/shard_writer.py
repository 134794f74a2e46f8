"""Writing the files of token shards, document by document (layout: `hanok.artefacts.shards`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np

from hanok.artefacts.files import write_json
from hanok.artefacts.shards import DTYPES, FORMAT, INDEX, OFFSETS


class Vocabulary(Protocol):
    """What shards need to know of their tokeniser."""

    byte_lengths: np.ndarray
    vocab_size: int

    @cached_property
    def hash(self) -> str: ...

    def save(self, directory: Path) -> None: ...


class SplitWriter:
    """The files of one split, appended to document by document."""

    def __init__(self, directory: Path, name: str, vocabulary: Vocabulary) -> None:
        self.name, self._dtype = name, DTYPES[_dtype(vocabulary)]
        self._byte_lengths = vocabulary.byte_lengths
        self._lengths: list[int] = []
        self._sizes: list[int] = []
        self.learnt = 0
        endings = ("tokens", "mask") if name.startswith("chat") else ("tokens",)
        self.files = [f"{name}.{ending}.bin" for ending in (*endings, "offsets", "bytes")]
        self._directory = directory
        self._open: dict[str, BinaryIO] = {}
        for ending in endings:
            self._open[ending] = (directory / f"{name}.{ending}.bin").open("wb")

    def __enter__(self) -> SplitWriter:
        return self

    def __exit__(self, *_error: object) -> None:
        for file in self._open.values():
            file.close()
        offsets = np.concatenate([[0], np.cumsum(self._lengths, dtype=np.int64)])
        offsets.astype(OFFSETS).tofile(self._directory / f"{self.name}.offsets.bin")
        np.array(self._sizes, dtype=OFFSETS).tofile(self._directory / f"{self.name}.bytes.bin")

    def write(self, ids: Sequence[int], mask: Sequence[bool] | None = None) -> None:
        tokens = np.array(ids, dtype=self._dtype)
        self._open["tokens"].write(tokens.tobytes())
        if mask is not None:
            learnt = np.array(mask, dtype=np.uint8)
            self.learnt += int(learnt.sum())
            self._open["mask"].write(learnt.tobytes())
        self._lengths.append(len(tokens))
        self._sizes.append(int(self._byte_lengths[tokens].sum()))

    def record(self) -> dict[str, Any]:
        counts = {"documents": len(self._lengths), "tokens": sum(self._lengths), "bytes": sum(self._sizes)}
        return counts | ({"learnt": self.learnt} if "mask" in self._open else {}) | {"files": self.files}


def write_index(directory: Path, vocabulary: Vocabulary, splits: Mapping[str, Mapping[str, Any]]) -> None:
    """What makes files of `SplitWriter` into shards: the tokeniser's files, and `shards.json` with their records."""
    vocabulary.save(directory)
    index = {
        "format": FORMAT, "vocab_size": vocabulary.vocab_size, "dtype": _dtype(vocabulary),
        "tokenizer_hash": vocabulary.hash, "splits": splits,
    }  # fmt: skip
    write_json(directory / INDEX, index)


def _dtype(vocabulary: Vocabulary) -> str:
    return "uint16" if vocabulary.vocab_size <= 65_536 else "uint32"
