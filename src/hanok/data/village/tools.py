"""The two tools of the village: a calculator and a look-up of opening hours."""

from __future__ import annotations

import ast
import json
import operator
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hanok.data.village.places import Place, hour

TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "calculate",
            "parameters": {"type": "object", "properties": {"expression": {"type": "string"}}, "required": ["expression"]},
        },
    },
    {
        "type": "function",
        "function": {
            "name": "hours",
            "parameters": {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]},
        },
    },
]  # fmt: skip
_OPERATORS: Mapping[type, Callable[[int, int], int]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
}  # fmt: skip


def calculate(expression: str) -> str:
    """Whole numbers with + - *; anything else is an error in words, which the model gets to read."""
    try:
        return str(_value(ast.parse(expression, mode="eval").body))
    except (SyntaxError, ValueError):
        return "error"


def hours(place: str, timetable: Mapping[str, Sequence[int]]) -> str:
    """The place's opening and closing time in the language of its name."""
    if place not in timetable:
        return "none"
    opens, closes = timetable[place]
    language = "en" if place.isascii() else "ko"
    return f"{hour(opens, language)} - {hour(closes, language)}"


def timetable(places: Sequence[Place]) -> dict[str, tuple[int, int]]:
    return {name: (p.open, p.close) for p in places for name in (p.name.ko, p.name.en)}


def write_timetable(places: Sequence[Place], folder: Path) -> None:
    """timetable.json, which answers the look-ups of whoever asks the folder's questions."""
    table = {name: list(hours) for name, hours in timetable(places).items()}
    (folder / "timetable.json").write_text(json.dumps(table, ensure_ascii=False), encoding="utf-8")


def execute(call: Mapping[str, Any], table: Mapping[str, Sequence[int]]) -> str:
    """Run one of a message's `tool_calls`."""
    function = call["function"]
    try:
        arguments = json.loads(function["arguments"])
        if function["name"] == "calculate":
            return calculate(str(arguments["expression"]))
        if function["name"] == "hours":
            return hours(str(arguments["place"]), table)
    except (ValueError, KeyError, TypeError):
        return "error"
    return "error"


def tool_call(name: str, **arguments: str) -> dict[str, Any]:
    function = {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)}
    return {"id": "call_0", "type": "function", "function": function}


def _value(node: ast.expr) -> int:
    if isinstance(node, ast.Constant) and type(node.value) is int and abs(node.value) < 10**12:
        return node.value
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_value(node.left), _value(node.right))
    raise ValueError("not a sum")
