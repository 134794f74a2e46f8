"""Rows: JSON Lines, JSON, CSV, TSV and Parquet; each row is a document, a conversation, or a question with its answer."""

from __future__ import annotations

import csv
import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from typing import IO, Any

from hanok.data.config import SourceConfig
from hanok.data.readers.chats import read_export
from hanok.data.readers.records import Record, Records, Skipped, UnreadableError, conversation

_TEXT, _MESSAGES = ("text", "content", "document", "body"), ("messages", "conversations", "conversation")
csv.field_size_limit(1 << 30)


def read_jsonl(stream: IO[str], config: SourceConfig) -> Records:
    def rows() -> Iterator[Any]:
        for number, line in enumerate(stream, 1):
            if line.strip():
                try:
                    yield json.loads(line)
                except ValueError as error:
                    yield Skipped(f"line {number} is not JSON ({error})")

    return _records(rows(), config)


def read_json(stream: IO[str], config: SourceConfig, name: str) -> Records:
    """A list of rows, one row, or an object whose values are rows; ChatGPT's export too."""
    try:
        data = json.load(stream)
    except ValueError as error:
        raise UnreadableError(f"{name} is not JSON ({error})", remedy="") from error
    if isinstance(data, list) and data and isinstance(data[0], Mapping) and "mapping" in data[0]:
        return read_export(data)
    if isinstance(data, Mapping):
        of_rows = data and all(isinstance(value, Mapping) for value in data.values())
        data = list(data.values()) if of_rows and not _fields_in(data, config) else [data]
    return _records(data if isinstance(data, list) else [data], config)


def read_csv(stream: IO[str], config: SourceConfig, delimiter: str) -> Records:
    return _records(csv.DictReader(stream, delimiter=delimiter), config)


def read_parquet(stream: IO[bytes], config: SourceConfig, name: str) -> Records:
    """In batches; a member of an archive goes through a temporary file, as the format is read from its end."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with tempfile.TemporaryFile() as file:
        if not stream.seekable():
            shutil.copyfileobj(stream, file)
            stream = file
        try:
            parquet = pq.ParquetFile(stream)
            rows = (row for batch in parquet.iter_batches(batch_size=1000) for row in batch.to_pylist())
            yield from _records(rows, config)
        except pa.ArrowException as error:
            raise UnreadableError(f"{name} is no readable Parquet file ({error})", remedy="") from error


def _records(rows: Iterable[Any], config: SourceConfig) -> Records:
    if not config.join_lines:
        for row in rows:
            yield row if isinstance(row, Skipped) else _record(row, config)
        return
    joined: Record | None = None
    for row in rows:
        record = row if isinstance(row, Skipped) else _record(row, config)
        if isinstance(row, Skipped) or isinstance(record, Skipped) or record.text is None:
            yield record
            continue
        key = str(_get(row, config.join_lines))
        if joined is not None and joined.group == key:
            joined.text = f"{joined.text}\n{record.text}"
            continue
        if joined is not None:
            yield joined
        record.group = key
        joined = record
    if joined is not None:
        yield joined


def _record(row: Any, config: SourceConfig) -> Record | Skipped:
    if isinstance(row, str):
        return Record(text=row) if row.strip() else Skipped("empty text")
    if not isinstance(row, Mapping):
        return Skipped(f"a row is {type(row).__name__}, not an object")
    record = Record(
        id=_string(row, config.id_field), group=_string(row, config.group_field),
        lang=_string(row, config.lang_field) or None,
    )  # fmt: skip
    if config.question_field:
        turns = (_get(row, config.question_field), _get(row, config.answer_field))
        if not all(isinstance(turn, str) and turn.strip() for turn in turns):
            return Skipped(f"no text in {config.question_field} or {config.answer_field}")
        record.messages = [
            {"role": r, "content": t} for r, t in zip(("user", "assistant"), turns, strict=True)
        ]
        return record
    field = config.messages_field or next((name for name in _MESSAGES if isinstance(row.get(name), list)), "")
    if field and not config.text_field:
        messages = conversation(_get(row, field))
        if isinstance(messages, str):
            return Skipped(messages)
        record.messages = messages
        if row.get("tools"):
            record.meta["tools"] = row["tools"]
        return record
    field = config.text_field or next((name for name in _TEXT if name in row), "")
    if not field:
        known = ", ".join(str(key) for key in list(row)[:8])
        return Skipped(f"no text column among {known}: set text_field, messages_field or question_field")
    text = _get(row, field)
    if not isinstance(text, str) or not text.strip():
        return Skipped(f"no text in {field}")
    record.text = text
    if isinstance(title := row.get("title"), str):
        record.meta["title"] = title
    return record


def _fields_in(row: Mapping[str, Any], config: SourceConfig) -> bool:
    named = (config.text_field, config.messages_field, config.question_field)
    return any(name and _get(row, name) is not None for name in named)


def _get(row: Mapping[str, Any], field: str) -> Any:
    """row["a.b"], else row["a"]["b"]."""
    if field in row:
        return row[field]
    value: Any = row
    for part in field.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _string(row: Mapping[str, Any], field: str) -> str:
    value = _get(row, field) if field else None
    return "" if value is None else str(value)
