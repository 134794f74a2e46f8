"""Saved conversations as files: the path that is shown, as JSON lines in the shared message format or as Markdown."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from hanok.server.protection.transparency import mark_of
from hanok.store.conversations import Saved


def as_jsonl(row: Saved) -> str:
    """One line; a corrected answer carries its `correction`."""
    messages = [_plain(message) for message in shown_path(row)]
    if row.body.get("system"):
        messages.insert(0, {"role": "system", "content": row.body["system"]})
    line = {"id": row.id, "title": row.title, "created": row.created, "messages": messages, **_mark(row)}
    return json.dumps(line, ensure_ascii=False) + "\n"


def as_markdown(row: Saved) -> str:
    """To read."""
    mark = _mark(row)
    head = [f"# {row.title}", *([_visible(mark), f"<!-- {_comment(mark)} -->"] if mark else [])]
    return "\n\n".join([*head, *_paragraphs(row)]) + "\n\n"


def _mark(row: Saved) -> dict[str, Any]:
    """That a generative AI wrote a part of it, for programs; nothing if none did."""
    written = [one for one in shown_path(row) if one["role"] == "assistant"]
    return mark_of(str(one.get("model") or "?") for one in written) if written else {}


def _visible(mark: dict[str, Any]) -> str:
    """The same for people."""
    models, label = ", ".join(mark["models"]), mark["label"]
    korean = f"> 🤖 {label['ko']}: 이 대화의 답변은 생성형 인공지능이 만들었습니다 ({models})."
    english = f"> {label['en']}: the answers in this conversation were made by generative AI ({models})."
    return f"{korean}\\\n{english}"


def _comment(mark: dict[str, Any]) -> str:
    """No name of a model can end a comment of Markdown."""
    return json.dumps(mark, ensure_ascii=True).replace("-", "\\u002d")


def _paragraphs(row: Saved) -> Iterator[str]:
    if row.body.get("system"):
        yield "> " + row.body["system"].replace("\n", "\n> ")
    for message in shown_path(row):
        yield f"**{message['role']}**"
        for call in message.get("tool_calls", ()):
            yield f"`{call['name']}({call['arguments']})`"
        if message.get("content"):
            yield message["content"]
        if message.get("correction"):
            yield "> " + message["correction"].replace("\n", "\n> ")


def shown_path(row: Saved) -> list[dict[str, Any]]:
    """From the first message to the leaf."""
    known = {message["id"]: message for message in row.body["messages"]}
    path, place = [], row.body.get("leaf")
    while place is not None:
        path.append(known[place])
        place = known[place].get("parent")
    return path[::-1]


def _plain(message: dict[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = {"role": message["role"], "content": message.get("content", "")}
    if message.get("tool_calls"):
        plain["tool_calls"] = [
            {"id": call["id"], "type": "function", "function": {"name": call["name"], "arguments": call["arguments"]}}
            for call in message["tool_calls"]
        ]  # fmt: skip
    if message.get("tool_call_id"):
        plain["tool_call_id"] = message["tool_call_id"]
    if message.get("correction"):
        plain["correction"] = message["correction"]
    return plain
