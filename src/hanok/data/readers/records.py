"""What a reader yields, and how it says that something cannot be read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from hanok.errors import InputError

ROLES = {"system", "user", "assistant", "tool"}
_SPEAKERS = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
}


@dataclass(slots=True, kw_only=True)
class Record:
    """One document before it has a name: `text` or `messages`, and what the file says about it."""

    text: str | None = None
    messages: list[dict[str, Any]] | None = None
    id: str = ""
    group: str = ""
    lang: str | None = None
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True, frozen=True)
class Skipped:
    """A part of a file that is left out, and why."""

    reason: str


Records = Iterator[Record | Skipped]


class UnreadableError(InputError):
    """A file that no document can be had from; the message says why."""


def conversation(value: Any) -> list[dict[str, Any]] | str:
    """Messages in OpenAI's form from OpenAI's or ShareGPT's, or what is wrong with them.

    OpenAI: [{"role": "user", "content": "..."}]. ShareGPT: [{"from": "human", "value": "..."}].
    """
    if not isinstance(value, list) or not value:
        return "a conversation must be a list of messages"
    messages = []
    for number, turn in enumerate(value, 1):
        if not isinstance(turn, Mapping):
            return f"message {number} is not an object"
        speaker = turn.get("role", turn.get("from"))
        role = _SPEAKERS.get(str(speaker), str(speaker))
        if role not in ROLES:
            return f'message {number} has the role "{speaker}"'
        content = turn.get("content", turn.get("value"))
        if isinstance(content, list):  # parts; text alone is taken
            content = "".join(part.get("text", "") for part in content if isinstance(part, Mapping))
        calls = turn.get("tool_calls")
        if content is None and not calls:
            return f"message {number} has no content"
        if content is not None and not isinstance(content, str):
            return f"the content of message {number} is not text"
        message: dict[str, Any] = {"role": role, "content": content or ""}
        if calls:
            message["tool_calls"] = calls
        if turn.get("tool_call_id"):
            message["tool_call_id"] = turn["tool_call_id"]
        messages.append(message)
    return messages
