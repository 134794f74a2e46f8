"""Writing token shards: a split and a tokeniser become memory-mapped tokens (layout: `hanok.artefacts.shards`)."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from hanok.artefacts import Artefact, create_artefact, open_artefact, write_json
from hanok.artefacts.shards import DTYPES, FORMAT, INDEX, OFFSETS
from hanok.data.config_tokens import ShardsConfig
from hanok.data.corpus import count_documents, iter_tables
from hanok.errors import InputError
from hanok.reporting import Report, progress
from hanok.reporting.console import Progress
from hanok.tokens.tokenizer import Conversation, Tokenizer

PARTS = ("train", "validation", "test")


def write_shards(
    config: ShardsConfig,
    split: Path,
    tokenizer: Path,
    out: Path,
    *,
    replay: Path | None = None,
    parts: Sequence[str] = PARTS,
) -> Artefact:
    """Encode every document of a split as text-train, chat-train, text-validation and so on.

    Args:
        replay: a second split, as text-replay-train and so on: what a model is to keep while it learns the first.
        parts: of the split to encode.

    Raises:
        InputError: a conversation that the chat template refuses, with the document's id; a train part without tokens.
        ArtefactError: a damaged split or tokeniser.
    """
    parents = {"split": open_artefact(split, kind="split"), "tokenizer": open_artefact(tokenizer)}
    corpora = {"": split}
    if replay is not None:
        parents["replay"] = open_artefact(replay, kind="split")
        corpora["replay-"] = replay
    encoder = Tokenizer.load(tokenizer)
    with create_artefact(out, kind="shards", parents=parents, step=dataclasses.asdict(config)) as draft:
        splits: dict[str, dict[str, Any]] = {}
        places = [(mark, corpus / part, part) for mark, corpus in corpora.items() for part in parts]
        with progress("shards", sum(count_documents(place) for _, place, _ in places), "documents") as bar:
            for mark, place, part in places:
                with ExitStack() as stack:
                    writers = {
                        kind: stack.enter_context(SplitWriter(draft.path, f"{kind}-{mark}{part}", encoder))
                        for kind in ("text", "chat")
                    }
                    for batch in _batches(place, config.batch_bytes):
                        _encode(batch, encoder, writers, bar)
                splits |= {writer.name: writer.record() for writer in writers.values()}
        if not splits[f"text-{parts[0]}"]["tokens"] + splits[f"chat-{parts[0]}"]["tokens"]:
            raise InputError(
                f"{split / parts[0]} holds no documents", remedy="collect some, or lower the fractions"
            )
        write_index(draft.path, encoder, splits)
        tokens, size = (sum(record[key] for record in splits.values()) for key in ("tokens", "bytes"))
        draft.metrics |= {"tokens": tokens, "bytes": size, "bytes_per_token": round(size / tokens, 4)}
        draft.metrics |= {f"{name}.tokens": record["tokens"] for name, record in splits.items()}
        _report(splits, encoder, draft.path)
    return open_artefact(out, kind="shards")


class SplitWriter:
    """The files of one split, appended to document by document."""

    def __init__(self, directory: Path, name: str, tokenizer: Tokenizer) -> None:
        self.name, self._dtype = name, DTYPES[_dtype(tokenizer)]
        self._byte_lengths = tokenizer.byte_lengths
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


def write_index(directory: Path, tokenizer: Tokenizer, splits: Mapping[str, Mapping[str, Any]]) -> None:
    """What makes files of `SplitWriter` into shards: the tokeniser's files, and `shards.json` with their records."""
    tokenizer.save(directory)
    index = {
        "format": FORMAT, "vocab_size": tokenizer.vocab_size, "dtype": _dtype(tokenizer),
        "tokenizer_hash": tokenizer.hash, "splits": splits,
    }  # fmt: skip
    write_json(directory / INDEX, index)


def _dtype(tokenizer: Tokenizer) -> str:
    return "uint16" if tokenizer.vocab_size <= 65_536 else "uint32"


Row = dict[str, Any]


def _batches(part: Path, batch_bytes: int) -> Iterator[list[Row]]:
    """Rows {id, text, messages, meta} of about `batch_bytes` together."""
    batch: list[Row] = []
    size = 0
    for table in iter_tables(part, columns=("id", "text", "messages", "meta")):
        for row in table.to_pylist():
            batch.append(row)
            size += 3 * _size(row)
            if size >= batch_bytes:
                yield batch
                batch, size = [], 0
    if batch:
        yield batch


def _size(row: Row) -> int:
    return len(row["text"] if row["text"] is not None else row["messages"])


def _encode(batch: Sequence[Row], encoder: Tokenizer, writers: dict[str, SplitWriter], bar: Progress) -> None:
    texts = [row["text"] for row in batch if row["text"] is not None]
    ends = encoder.bos_id, encoder.eos_id
    for ids in encoder.encode_batch(texts):
        writers["text"].write([ends[0], *ids, ends[1]])
    chats = [row for row in batch if row["text"] is None]
    if chats:
        for ids, mask in _encode_chats(chats, encoder):
            writers["chat"].write([ends[0], *ids], [False, *mask])
    bar.advance(len(batch))


def _encode_chats(rows: Sequence[Row], encoder: Tokenizer) -> list[Any]:
    """A document's tools, if any, are `meta.tools`."""
    chats = [
        Conversation(json.loads(row["messages"]), json.loads(row["meta"] or "{}").get("tools"))
        for row in rows
    ]
    try:
        return encoder.encode_chats(chats)
    except InputError:
        for row, chat in zip(rows, chats, strict=True):  # find the one at fault, to name it
            try:
                encoder.encode_chat(chat.messages, tools=chat.tools)
            except InputError as error:
                raise InputError(f"document {row['id']}: {error.message}", remedy=error.remedy) from error
        raise


def _report(splits: dict[str, dict[str, Any]], encoder: Tokenizer, out: Path) -> None:
    report = Report("Token shards")
    report.add_table(
        "Splits",
        ("split", "documents", "tokens", "bytes", "bytes per token", "tokens learnt"),
        [
            (
                name,
                record["documents"],
                record["tokens"],
                record["bytes"],
                record["bytes"] / max(record["tokens"], 1),
                record.get("learnt", record["tokens"]),
            )
            for name, record in splits.items()
        ],
    )
    report.add_text("Tokeniser", f"{encoder.vocab_size} ids, hash {encoder.hash}")
    report.write(out)
