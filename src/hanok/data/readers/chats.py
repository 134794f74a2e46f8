"""Exported conversations: ChatGPT's conversations.json and KakaoTalk's text files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import IO, Any

from hanok.data.readers.records import Record, Records, Skipped, conversation

_PC_LINE = re.compile(
    r"^\[(?P<who>[^\]]{1,40})\] \[(?:오전|오후|AM|PM)? ?\d{1,2}:\d{2}(?: ?(?:AM|PM))?\] (?P<text>.*)$"
)
_PC_DAY = re.compile(r"^-{5,} ?(?P<day>\d{4}년 \d{1,2}월 \d{1,2}일[^-]*?) ?-{5,}$")
_PHONE_LINE = re.compile(
    r"^(?P<day>\d{4}(?:년 |[./-] ?)\d{1,2}(?:월 |[./-] ?)\d{1,2}(?:일|\.)?),? (?:오전|오후|AM|PM)? ?\d{1,2}:\d{2}"
    r"(?:, (?P<who>.{1,40}?) : (?P<text>.*))?$"
)


def looks_like_kakao(head: str) -> bool:
    lines = head.splitlines()[:40]
    return sum(bool(_PC_LINE.match(line) or _PHONE_LINE.match(line)) for line in lines) >= 2


def read_kakao(stream: IO[str]) -> Records:
    """One document a day: "name: text" lines, messages of several lines kept together."""
    day, lines = "", list[str]()
    talking = False
    for line in stream:
        line = line.rstrip("\r\n")
        new_day, match = _PC_DAY.match(line), _PC_LINE.match(line) or _PHONE_LINE.match(line)
        date = new_day["day"] if new_day else match.groupdict().get("day") if match else None
        if date and date != day:
            if lines:
                yield Record(text="\n".join(lines), meta={"day": day} if day else {})
            day, lines = date, []
        if match is not None:
            talking = match["who"] is not None
            if talking:
                lines.append(f"{match['who']}: {match['text']}")
        elif new_day is None and talking and lines and line.strip():
            lines[-1] += f"\n{line}"
    if lines:
        yield Record(text="\n".join(lines), meta={"day": day} if day else {})


def read_export(conversations: Iterable[Any]) -> Records:
    """ChatGPT's export: a tree of messages each; the branch that ends in `current_node` is taken."""
    for number, row in enumerate(conversations, 1):
        nodes = row.get("mapping") if isinstance(row, Mapping) else None
        if not isinstance(nodes, Mapping):
            yield Skipped(f"conversation {number} has no mapping of messages")
            continue
        turns: list[dict[str, str]] = []
        place, visited = row.get("current_node"), set()
        while place in nodes and place not in visited:
            visited.add(place)
            turn = _turn(nodes[place].get("message"))
            if turn is not None:
                turns.insert(0, turn)
            place = nodes[place].get("parent")
        messages = conversation(turns)
        if isinstance(messages, str):
            yield Skipped(f"conversation {number}: {messages}")
        else:
            meta = {"title": row["title"]} if isinstance(row.get("title"), str) else {}
            yield Record(messages=messages, id=str(row.get("conversation_id", row.get("id", ""))), meta=meta)


def _turn(message: Any) -> dict[str, str] | None:
    """A message with text by the user or the assistant."""
    if not isinstance(message, Mapping):
        return None
    role = (message.get("author") or {}).get("role")
    parts = (message.get("content") or {}).get("parts") or []
    text = "\n".join(part for part in parts if isinstance(part, str)).strip()
    return {"role": role, "content": text} if role in ("user", "assistant") and text else None
