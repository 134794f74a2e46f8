"""Which line of a policy says what is wrong: people who write TOML look for a line, not for a key."""

from __future__ import annotations

import re

_HEADER = re.compile(r"\s*\[\[?\s*([^\[\]]+?)\s*\]\]?\s*(?:#.*)?")
_KEY = re.compile(
    r"""\s*((?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*'))*)\s*="""
)
_PART = re.compile(r"""[A-Za-z0-9_-]+|"[^"]*"|'[^']*'""")
_TOLD = re.compile(r"\(at line (\d+), column \d+\)")


def line_of(text: str, key: str) -> int | None:
    """The line, from 1, on which a dotted key is given; else the table that it belongs to; None where that is not there.

    A key of a tenant's rule may be inherited: it is then sought in the house's rule.
    """
    lines = {one: line for line, one in reversed(_keys(text))}
    whole = [key, _inherited(key)]
    tables = [
        ".".join(parts[:count])
        for parts in (one.split(".") for one in whole)
        for count in range(len(parts) - 1, 1, -1)
    ]
    return next((lines[one] for one in (*whole, *tables) if one in lines), None)


def line_told(message: str, text: str) -> int:
    """Of an error of the reader of TOML, which names it; else the text breaks off at its end."""
    told = _TOLD.search(message)
    return int(told[1]) if told else max(1, len(text.splitlines()))


def _keys(text: str) -> list[tuple[int, str]]:
    """(line, dotted key) of every table and every key that begins a line."""
    found, table, quote = list[tuple[int, str]](), "", ""
    for number, line in enumerate(text.splitlines(), 1):
        if quote:  # inside of a text of several lines
            quote = "" if quote in line else quote
            continue
        if (header := _HEADER.fullmatch(line)) is not None:
            table = _plain(header[1])
            found.append((number, table))
        elif (key := _KEY.match(line)) is not None:
            found.append((number, f"{table}.{_plain(key[1])}" if table else _plain(key[1])))
            value = line[key.end() :]
            quote = next((one for one in ('"""', "'''") if value.count(one) == 1), "")
    return found


def _plain(dotted: str) -> str:
    return ".".join(part.strip("\"'") for part in _PART.findall(dotted))


def _inherited(key: str) -> str:
    parts = key.split(".", 2)
    return parts[2] if len(parts) == 3 and parts[0] == "tenants" else ""
