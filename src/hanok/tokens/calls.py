"""What an assistant said, taken apart: content and tool calls (Hermes form, as the chat template writes them)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

from hanok.tokens.control import (
    END_OF_TEXT,
    IM_END,
    IM_START,
    THINK,
    THINK_END,
    TOOL_CALL,
    TOOL_CALL_END,
)

_ENDS = {END_OF_TEXT, IM_END, IM_START}


def assistant_parts(segments: Iterable[tuple[str, bool]]) -> tuple[str, list[dict[str, Any]]]:
    """Content and OpenAI tool calls.

    Args:
        segments: (text, is it a control token?) in order. Everything after the end of the turn is ignored.

    A call that is no JSON object with a name stays in the content as it was written, tags included.
    Reasoning between `<think>` and `</think>` is left out.
    """
    content, calls = "", []
    inside, held = "", ""
    for text, control in segments:
        if control and text in _ENDS:
            break
        if control and text in (TOOL_CALL, THINK):
            content += _unfinished(inside, held, calls)
            inside, held = text, ""
        elif control and text == THINK_END:
            inside, held, content = "", "", content if inside == THINK else ""
        elif control and text == TOOL_CALL_END and inside == TOOL_CALL:
            call = _call(held, len(calls))
            if call is None:
                content += TOOL_CALL + held + TOOL_CALL_END
            else:
                calls.append(call)
            inside, held = "", ""
        elif control:
            continue
        elif inside:
            held += text
        else:
            content += text
    content += _unfinished(inside, held, calls)
    return content.strip("\n") if calls or content.startswith("\n") else content, calls


def _unfinished(inside: str, held: str, calls: list[dict[str, Any]]) -> str:
    """A call whose end tag never came counts if it is whole all the same."""
    if inside != TOOL_CALL:
        return ""
    call = _call(held, len(calls))
    if call is None:
        return TOOL_CALL + held
    calls.append(call)
    return ""


def _call(text: str, place: int) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):  # nested too deep to be read
        return None
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return None
    arguments = value.get("arguments", {})
    written = arguments if isinstance(arguments, str) else _json(arguments, text)
    digest = hashlib.sha256(f"{place}:{value['name']}:{written}".encode()).hexdigest()
    return {
        "id": f"call_{digest[:16]}",
        "type": "function",
        "function": {"name": value["name"], "arguments": written},
    }


def _json(arguments: Any, text: str) -> str:
    """The arguments as JSON; in their own characters where a number among them (1e999) is too large for a float."""
    try:
        return json.dumps(arguments, ensure_ascii=False, allow_nan=False)
    except ValueError:
        return _member(text, "arguments")


def _member(text: str, name: str) -> str:
    """The last member of that name of the JSON object `text`, as it is written."""
    read, found = json.JSONDecoder().raw_decode, ""
    place = text.index("{")
    while text[place] != "}":
        key, place = read(text, _after_blanks(text, place + 1))
        start = _after_blanks(text, text.index(":", place) + 1)
        _, place = read(text, start)
        found = text[start:place] if key == name else found
        place = _after_blanks(text, place)
    return found


def _after_blanks(text: str, place: int) -> int:
    while text[place] in " \t\r\n":
        place += 1
    return place
