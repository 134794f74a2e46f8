"""Reading what people thought of answers: from the database of a run, or from a JSONL file.

A row of the file: {"messages": [..., the judged answer], "rating": 1 | -1, "correction"?, "tools"?, "request_id"?,
"model_hash"?, "reason"?, "user"?}. A row that cannot be used is refused with its reason, never dropped in silence.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hanok.errors import InputError
from hanok.store.database import Feedback, Store
from hanok.tokens.template import check_messages

Message = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """One usable row.

    Args:
        prompt: the conversation before the answer. answer: the assistant's message that was judged.
        correction: what it should have said; None where only the rating was given.
        tenant, owner: whose it is, where it comes from a server's database.
    """

    id: str
    prompt: Sequence[Message]
    answer: Message
    rating: int
    correction: str | None = None
    tools: Sequence[Any] | None = None
    request_id: str = ""
    model_hash: str = ""
    reason: str = ""
    user: str = ""
    tenant: str = "default"
    owner: str = ""

    @property
    def key(self) -> str:
        """Equal for judgements of answers to the same question."""
        content = [[_spoken(message) for message in self.prompt], self.tools or None]
        return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()

    @property
    def digest(self) -> str:
        """Of the row as it stands, word for word: what a release of it by a reviewer holds for."""
        content = [self.id, self.key, dict(self.answer), self.rating, self.correction, self.tenant]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Refused:
    """A row (its id, or its line) and why it teaches nothing."""

    row: str
    reason: str


def read_feedback(source: Path) -> tuple[list[Judgement], list[Refused]]:
    """All judgements, oldest first.

    Raises:
        InputError: no such file, or neither JSONL in UTF-8 nor a feedback database.
    """
    if not source.is_file():
        raise InputError(
            f"no feedback at {source}",
            remedy="judge or correct some answers on the chat page, or give a JSONL file with --feedback",
        )
    rows = _read_database(source) if is_sqlite(source) else _read_lines(source)
    judgements: list[Judgement] = []
    refused: list[Refused] = []
    for item in rows:
        (judgements if isinstance(item, Judgement) else refused).append(item)  # type: ignore[arg-type]
    return judgements, refused


def digest(judgements: Sequence[Judgement]) -> str:
    """Names a set of judgements, whatever their order."""
    lines = sorted(
        json.dumps([j.id, j.key, dict(j.answer), j.rating, j.correction], sort_keys=True) for j in judgements
    )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def is_sqlite(source: Path) -> bool:
    """Whether a file is a store rather than lines."""
    with source.open("rb") as file:
        return file.read(16) == b"SQLite format 3\0"


def _read_database(source: Path) -> Iterator[Judgement | Refused]:
    with Store(source) as store:
        for row in store.read_feedback():
            yield judgement_of(row)


def _read_lines(source: Path) -> Iterator[Judgement | Refused]:
    try:
        lines = source.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{source} is not UTF-8 ({error.reason})", remedy="convert it to UTF-8") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        name = f"{source.name}:{number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            yield Refused(name, f"not JSON ({error})")
            continue
        if not isinstance(row, dict):
            yield Refused(name, f"expected an object, found {type(row).__name__}")
            continue
        yield _judgement(str(row.get("id") or name), row)


def judgement_of(row: Feedback) -> Judgement | Refused:
    return _judgement(row.id, {name: getattr(row, name) for name in Feedback.__slots__})


def _judgement(name: str, row: Mapping[str, Any]) -> Judgement | Refused:
    try:
        return _parse(name, row)
    except InputError as error:
        return Refused(name, error.message)


def _parse(name: str, row: Mapping[str, Any]) -> Judgement:
    messages, rating, correction = row.get("messages"), row.get("rating"), row.get("correction")
    if not isinstance(messages, list) or len(messages) < 2:
        raise InputError("messages must hold a question and the answer to it")
    check_messages(messages)
    if messages[-1]["role"] != "assistant":
        raise InputError(f"the last message is the {messages[-1]['role']}'s, not the answer that was judged")
    if messages[-2]["role"] == "assistant":
        raise InputError("nothing was asked before the answer")
    if isinstance(rating, bool) or rating not in (1, -1):
        raise InputError(f"rating = {rating!r}: it must be 1 or -1")
    if correction is not None and not isinstance(correction, str):
        raise InputError(f"correction is {type(correction).__name__}, not a text")
    correction = (correction or "").strip() or None
    tools = row.get("tools")
    if tools is not None and not isinstance(tools, list):
        raise InputError(f"tools is {type(tools).__name__}, not a list")
    texts = {
        field: str(row.get(field) or "") for field in ("request_id", "model_hash", "reason", "user", "owner")
    }
    texts["tenant"] = str(row.get("tenant") or "default")
    return Judgement(
        id=name, prompt=messages[:-1], answer=messages[-1], rating=rating, correction=correction, tools=tools, **texts,
    )  # fmt: skip


def _spoken(message: Message) -> list[Any]:
    """What distinguishes a message; the ids of tool calls are drawn anew each time."""
    calls = [call.get("function", call) for call in message.get("tool_calls") or ()]
    return [message["role"], message.get("content") or "", calls]
