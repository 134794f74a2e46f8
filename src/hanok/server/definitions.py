"""Definitions of tools as the guard changed them: words for people may be redacted, names and shapes may not.

They are read as one JSON text, as the model reads them. What came back must be the same but for descriptions and the like: a tool
under another name could not be called, and a schema with a hole in it is another schema.
"""

from __future__ import annotations

import json
from typing import Any

_WORDS = frozenset({"description", "title", "$comment", "examples", "default"})  # keys whose text may change


def as_text(tools: Any) -> str:
    return json.dumps(tools, ensure_ascii=False) if tools else ""


def reworded(tools: Any, text: str) -> Any | None:
    """The tools as `text` has them; None: more than words was changed."""
    try:
        new = json.loads(text)
    except (ValueError, RecursionError):
        return None
    waiting = [(tools, new, False)]
    while waiting:
        old, other, words = waiting.pop()
        if type(old) is not type(other):
            return None
        if isinstance(old, dict):
            if list(old) != list(other):
                return None
            waiting += [(old[key], other[key], words or key in _WORDS) for key in old]
        elif isinstance(old, list):
            if len(old) != len(other):
                return None
            waiting += [(*pair, words) for pair in zip(old, other, strict=True)]
        elif old != other and not (words and isinstance(old, str)):
            return None
    return new
