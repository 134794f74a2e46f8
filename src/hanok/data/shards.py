"""Writing token shards: a split and a tokeniser become memory-mapped tokens (layout: `hanok.artefacts.shards`)."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from hanok.artefacts import Artefact, create_artefact, open_artefact
from hanok.artefacts.shard_writer import SplitWriter, write_index
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
