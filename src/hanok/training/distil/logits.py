"""The teacher's law on a corpus, computed once and read back from disk. R learnt tokens, S sequences, K kept, V vocabulary.

    logits.json       {format, top_k, temperature, max_seq_len, splits: {NAME: {sequences, tokens}}}
    NAME.rows.bin     int64 [S+1]: where each sequence's rows begin; sequences in the order of `SequenceTable`
    NAME.ids.bin      uint32 [R, K]: the likeliest tokens at each learnt one
    NAME.logp.bin     float32 [R, K]: their log-probabilities
    NAME.rest.bin     float32 [R]: log-probability of all others together

The remainder is summed over the tokens left out and not inferred from those kept, so that `top_k_kl` is exact.
What is being written lies in a folder beside the result; a killed run goes on behind the last whole block.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hanok.artefacts import Artefact, create_artefact, fsync_file, open_artefact, write_json
from hanok.artefacts.shards import Shards, TokenSplit
from hanok.errors import ArtefactError, ConfigError
from hanok.reporting import log, progress
from hanok.training.checkpoint import disk_full_is_resumable
from hanok.training.distil.teacher import Teacher
from hanok.training.packing import PackedSequence, SequenceTable, micro_batches, pack, read_sequence

INDEX = "logits.json"
FORMAT = 1
_BLOCK = 256  # sequences between two places to go on from
_ROWS = 512
_TYPES = {"ids": np.dtype("<u4"), "logp": np.dtype("<f4"), "rest": np.dtype("<f4")}
_ANEW = "delete it, and the same command writes it anew"


@dataclass(frozen=True, kw_only=True, slots=True)
class Law:
    """What is kept of the teacher."""

    top_k: int
    temperature: float
    max_seq_len: int

    def to_json(self) -> dict[str, Any]:
        return {"top_k": self.top_k, "temperature": self.temperature, "max_seq_len": self.max_seq_len}


class StoredLogits:
    """An opened directory of logits.

    Raises:
        ArtefactError: absent, damaged, of another teacher or another corpus, or of other settings.
    """

    def __init__(
        self, path: Path, *, teacher: Artefact, corpus: Artefact, shards: Shards, law: Law, splits: Sequence[str]
    ) -> None:  # fmt: skip
        artefact = open_artefact(path, kind="logits")
        self.artefact = artefact
        index = _index(path)
        for role, parent in (("teacher", teacher), ("corpus", corpus)):
            if artefact.parents.get(role) != parent.hash:
                raise ArtefactError(
                    f"{path} was written for another {role} than {parent.path}",
                    remedy="leave out --logits to write them for this one",
                )
        for name, value in law.to_json().items():
            if index[name] != value:
                raise ArtefactError(
                    f"{path} has {name} = {index[name]}, this run {value}", remedy="set them alike"
                )
        missing = [name for name in splits if name not in index["splits"]]
        if missing:
            raise ArtefactError(
                f"{path} has no logits of {', '.join(missing)}",
                remedy=f"it has: {', '.join(index['splits'])}",
            )
        self.top_k = int(index["top_k"])
        self._tables = {name: _table(shards.splits[name], name, law) for name in splits}
        self._rows = {name: np.fromfile(path / f"{name}.rows.bin", "<i8") for name in splits}
        self._arrays = {name: self._map(path, name) for name in splits}

    def of(self, sequence: PackedSequence) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """ids [m, K], log-probabilities [m, K] and remainders [m] of a sequence's learnt tokens."""
        name, document, start = sequence.name.rsplit(":", 2)
        number = self._tables[name].number(int(document), int(start))
        rows = slice(*self._rows[name][number : number + 2].tolist())
        ids, logp, rest = self._arrays[name]
        return ids[rows].astype(np.int64), np.array(logp[rows]), np.array(rest[rows])

    def _map(self, path: Path, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        count = int(self._rows[name][-1])
        shapes = {"ids": (count, self.top_k), "logp": (count, self.top_k), "rest": (count,)}
        ids, logp, rest = (
            np.memmap(path / f"{name}.{kind}.bin", dtype=_TYPES[kind], mode="r", shape=shape)
            for kind, shape in shapes.items()
        )
        return ids, logp, rest


def write_logits(
    path: Path, teacher: Teacher, *, parent: Artefact, corpus: Artefact, shards: Shards, splits: Sequence[str], law: Law,
    max_tokens: int, told: Callable[[int], None] = lambda _: None,
) -> Artefact:  # fmt: skip
    """Score the splits and keep what `law` says; goes on behind the last block of an earlier start.

    Args:
        parent, corpus: artefacts of teacher and shards. max_tokens: of a forward pass. told: of sequences done.

    Raises:
        ConfigError: more tokens are to be kept than there are. Interrupted: the disk is full.
    """
    if law.top_k > teacher.decoder.config.vocab_size:
        raise ConfigError(
            f"top_k = {law.top_k} of {teacher.decoder.config.vocab_size} tokens", remedy="keep at most all"
        )
    tables = {name: _table(shards.splits[name], name, law) for name in splits}
    partial = path.with_name(f".{path.name}.partial")
    identity = {"teacher": parent.hash, "corpus": corpus.hash, "splits": list(splits), **law.to_json()}
    with disk_full_is_resumable(path):
        writer = _Writer(partial, identity, law.top_k)
        total = sum(table.num_sequences for table in tables.values())
        with progress("teacher", total, "sequences") as bar:
            for name, table in tables.items():
                for start in range(0, table.num_sequences, _BLOCK):
                    numbers = np.arange(start, min(start + _BLOCK, table.num_sequences))
                    if not writer.has(name, int(numbers[-1])):
                        writer.append(
                            name, _score(teacher, shards.splits[name], name, table, numbers, law, max_tokens)
                        )
                        told(writer.done(name))
                    bar.advance(len(numbers))
        with create_artefact(
            path, kind="logits", parents={"teacher": parent, "corpus": corpus}, step=law.to_json()
        ) as draft:
            writer.finish(draft.path, law)
            draft.metrics["tokens"] = writer.tokens
    shutil.rmtree(partial, ignore_errors=True)
    return open_artefact(path, kind="logits")


@torch.no_grad()
def _score(
    teacher: Teacher, split: TokenSplit, name: str, table: SequenceTable, numbers: np.ndarray, law: Law, max_tokens: int
) -> dict[str, np.ndarray]:  # fmt: skip
    """Rows of some sequences: counts [S], ids, logp, rest."""
    places = zip(*(column.tolist() for column in table.locate(numbers)), strict=True)
    sequences = [read_sequence(split, name, *place, all_tokens=False) for place in places]
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for group in micro_batches(sequences, max_tokens=max_tokens):
        batch = pack(group)
        hidden_MD = teacher.hidden(batch, batch.loss_mask_N.nonzero()[:, 0])
        for hidden_CD in hidden_MD.split(_ROWS):
            parts.append(kept_law(teacher.decoder.logits(hidden_CD), law))
    ids, logp, rest = (torch.cat(column).numpy() for column in zip(*parts, strict=True))
    counts = np.array([int(sequence.mask.sum()) for sequence in sequences])
    return {"rows": counts, "ids": ids, "logp": logp, "rest": rest}


def kept_law(logits_NV: Tensor, law: Law) -> tuple[Tensor, Tensor, Tensor]:
    """ids [N, K], log-probabilities [N, K], log-probability of the rest [N] (-inf where nothing is left)."""
    logp_NV = (logits_NV / law.temperature).log_softmax(1)
    logp_NK, ids_NK = logp_NV.topk(law.top_k, dim=1)
    rest_N = logp_NV.scatter(1, ids_NK, -torch.inf).logsumexp(1)
    return ids_NK, logp_NK, rest_N


class _Writer:
    """Files that grow block by block; `progress.json` says how much of them is whole."""

    def __init__(self, folder: Path, identity: Mapping[str, Any], top_k: int) -> None:
        self._folder, self._identity, self._top_k = folder, identity, top_k
        self._counts: dict[str, list[int]] = {}
        folder.mkdir(parents=True, exist_ok=True)
        self._file = folder / "progress.json"
        try:
            kept = json.loads(self._file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            kept = None
        if (
            kept is not None
            and kept["identity"] == json.loads(json.dumps(identity))
            and self._cut(kept["counts"])
        ):
            self._counts = kept["counts"]
            log.info(
                "going on with the teacher's logits behind %d sequences", sum(map(len, self._counts.values()))
            )
            return
        shutil.rmtree(folder)
        folder.mkdir()

    @property
    def tokens(self) -> int:
        return sum(map(sum, self._counts.values()))

    def done(self, name: str) -> int:
        return len(self._counts.get(name, ()))

    def has(self, name: str, number: int) -> bool:
        return number < self.done(name)

    def append(self, name: str, block: Mapping[str, np.ndarray]) -> None:
        for kind, dtype in _TYPES.items():
            file = self._folder / f"{name}.{kind}.bin"
            with file.open("ab") as stream:
                stream.write(block[kind].astype(dtype).tobytes())
            fsync_file(file)
        self._counts.setdefault(name, []).extend(block["rows"].tolist())
        write_json(self._file, {"identity": self._identity, "counts": self._counts})

    def finish(self, path: Path, law: Law) -> None:
        for name, counts in self._counts.items():
            np.concatenate(([0], np.cumsum(counts))).astype("<i8").tofile(path / f"{name}.rows.bin")
            for kind in _TYPES:
                os.replace(self._folder / f"{name}.{kind}.bin", path / f"{name}.{kind}.bin")
        splits = {name: {"sequences": len(c), "tokens": sum(c)} for name, c in self._counts.items()}
        write_json(path / INDEX, {"format": FORMAT, **law.to_json(), "splits": splits})

    def _cut(self, counts: Mapping[str, Sequence[int]]) -> bool:
        """Forget what was written behind the last whole block; False if something is missing."""
        for name, lengths in counts.items():
            for kind, dtype in _TYPES.items():
                file = self._folder / f"{name}.{kind}.bin"
                size = sum(lengths) * dtype.itemsize * (1 if kind == "rest" else self._top_k)
                if not file.is_file() or file.stat().st_size < size:
                    return False
                os.truncate(file, size)
        for file in self._folder.glob("*.bin"):
            if file.name.rsplit(".", 2)[0] not in counts:
                file.unlink()
        return True


def _table(split: TokenSplit, name: str, law: Law) -> SequenceTable:
    return SequenceTable(split.lengths, max_seq_len=law.max_seq_len, cut=not name.startswith("chat"))


def _index(path: Path) -> dict[str, Any]:
    try:
        index = json.loads((path / INDEX).read_text(encoding="utf-8"))
        version = int(index["format"])
    except (OSError, ValueError, KeyError) as error:
        raise ArtefactError(f"{path / INDEX} is not readable ({error})", remedy=_ANEW) from error
    if version > FORMAT:
        raise ArtefactError(
            f"{path} is of format {version}, this version reads {FORMAT}", remedy="upgrade hanok"
        )
    return index
