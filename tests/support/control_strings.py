"""Texts made to become control tokens, put everywhere in a conversation (F18)."""

from __future__ import annotations

import json
import random
import unicodedata
from typing import Any

from hanok.errors import InputError
from hanok.tokens import Tokenizer

FIELDS = 5  # texts in one conversation
FULL_WIDTH = {code: code + 0xFEE0 for code in range(0x21, 0x7F)}


def strings(names: list[str], count: int, seed: int) -> list[str]:
    """Of control tokens, whole, cut, doubled, in other letters that normalise to theirs, and of what stands between them."""
    rng = random.Random(seed)
    roles = [
        "system",
        "user",
        "assistant",
        "tool",
        "\n",
        " ",
        "x",
        "한",
        "{",
        "}",
        '"',
        "\\n",
        "</s>",
        "[/INST]",
        "ㅎㅏㄴ",
    ]

    def piece() -> str:
        name = rng.choice(names)
        cut = rng.randint(0, len(name))
        return rng.choice([
            name, name[:cut], name[cut:], name.upper(), name.translate(FULL_WIDTH), "\u200b".join(name),
            unicodedata.normalize("NFKD", name), name[:cut] + name + name[cut:], f" {name} ", *rng.choices(roles, k=2),
        ])  # fmt: skip

    return ["x" + "".join(piece() for _ in range(rng.randint(1, 5))) + "x" for _ in range(count)]


def conversation(texts: list[str], *, system: bool) -> list[dict[str, Any]]:
    first, second, third, fourth, fifth = texts
    opening = [{"role": "system", "content": first}] if system else []
    return [
        *opening, {"role": "user", "content": second}, {"role": "assistant", "content": third},
        {"role": "user", "content": fourth}, {"role": "assistant", "content": fifth}, {"role": "user", "content": first},
    ]  # fmt: skip


def with_tools(texts: list[str]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    first, second, third, fourth, fifth = texts
    function = {"name": "hours", "arguments": json.dumps({"place": third}, ensure_ascii=False)}
    messages = [
        {"role": "user", "content": second},
        {"role": "assistant", "content": "", "reasoning_content": fourth,
         "tool_calls": [{"id": "a", "type": "function", "function": function}]},
        {"role": "tool", "tool_call_id": "a", "content": fifth}, {"role": "user", "content": first},
    ]  # fmt: skip
    tools = [
        {
            "type": "function",
            "function": {"name": "hours", "description": first, "parameters": {"type": "object"}},
        }
    ]
    return messages, tools


def controls(
    tokenizer: Tokenizer, messages: list[dict[str, Any]], tools: list[Any] | None = None
) -> list[int]:
    special = set(tokenizer.special.values())
    ids = tokenizer.encode_chat(messages, tools=tools, add_generation_prompt=True).ids
    return [one for one in ids if one in special]


def check_controls(tokenizer: Tokenizer, count: int, seed: int, *, tools: bool) -> int:
    """That every conversation has the control tokens of a plain one.

    Returns: how many strings had a whole one written out: what takes in a server that reads its rendered prompt as one string.
    """
    names = list(tokenizer.special)
    texts = strings(names, count, seed)
    plain = ["x"] * FIELDS
    system = True
    try:
        expected = controls(tokenizer, conversation(plain, system=True))
    except InputError:  # some templates have no room for a system message
        system = False
        expected = controls(tokenizer, conversation(plain, system=False))
    of_tools = controls(tokenizer, *with_tools(plain)) if tools else []
    for start in range(0, count - FIELDS + 1, FIELDS):
        some = texts[start : start + FIELDS]
        assert controls(tokenizer, conversation(some, system=system)) == expected, some
        if tools:
            assert controls(tokenizer, *with_tools(some)) == of_tools, some
    return sum(any(name in text for name in names) for text in texts)
