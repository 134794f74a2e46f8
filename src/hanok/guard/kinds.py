"""The kinds of rules that a policy may name, and what each may be told."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hanok.data.pii import KINDS as PERSONAL
from hanok.guard.careful import Fail
from hanok.guard.markup import FINDS
from hanok.guard.provenance import ORIGINS
from hanok.guard.remote import STYLES
from hanok.guard.verdicts import Action, Direction

Check = Callable[[Any, Path], Any]
"""A value and the folder of the policy's file to the value that is used; ValueError says what it must be."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """Args: on: the directions that it may look at. used_on: where it does so unless told. actions: the first is the default."""

    on: tuple[Direction, ...]
    used_on: tuple[Direction, ...]
    actions: tuple[Action, ...]
    fail: Fail = "flag"
    options: Mapping[str, Check] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    budget_ms: int | None = None  # another one than the policy's


def whole(least: int, most: int) -> Check:
    def check(value: Any, _folder: Path) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise ValueError(f"a whole number from {least} to {most}")
        return value

    return check


def number(value: Any, _folder: Path) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value:
        raise ValueError("a number")
    return float(value)


def band(value: Any, folder: Path) -> tuple[float, float]:
    if (
        not isinstance(value, list)
        or len(value) != 2
        or not number(value[0], folder) <= number(value[1], folder)
    ):
        raise ValueError("two numbers, the lower one first")
    return float(value[0]), float(value[1])


def words(value: Any, _folder: Path) -> tuple[str, ...]:
    if (
        not isinstance(value, list)
        or not value
        or not all(isinstance(one, str) and one.strip() for one in value)
    ):
        raise ValueError("a list of texts")
    return tuple(value)


def truth(value: Any, _folder: Path) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def canaries(value: Any, folder: Path) -> tuple[str, ...]:
    chosen = words(value, folder)
    if short := [one for one in chosen if len(re.sub(r"\W|_", "", one)) < 8]:
        raise ValueError(f"words of eight letters or more, not {', '.join(short)}")
    return chosen


def some_of(known: tuple[str, ...]) -> Check:
    def check(value: Any, folder: Path) -> frozenset[str]:
        chosen = words(value, folder)
        if unknown := [one for one in chosen if one not in known]:
            raise ValueError(f"some of {', '.join(known)}, not {', '.join(unknown)}")
        return frozenset(chosen)

    return check


def file(value: Any, folder: Path) -> Path:
    if not isinstance(value, str) or not value:
        raise ValueError("the name of a file")
    found = folder / value
    if not found.is_file():
        raise ValueError(f"a file that is there: {found} is not")
    return found


def hosts(value: Any, folder: Path) -> tuple[str, ...]:
    chosen = tuple(one.lower() for one in words(value, folder))
    if wrong := [one for one in chosen if not re.fullmatch(r"(?:\*\.)?[a-z0-9.-]+(?::\d{1,5})?", one)]:
        raise ValueError(f"names of hosts such as example.com or *.example.com, not {', '.join(wrong)}")
    return chosen


def between(least: float, most: float) -> Check:
    def check(value: Any, folder: Path) -> float:
        if not least <= (found := number(value, folder)) <= most:
            raise ValueError(f"a number from {least:g} to {most:g}")
        return found

    return check


def one_of(known: tuple[str, ...]) -> Check:
    def check(value: Any, _folder: Path) -> str:
        if value not in known:
            raise ValueError(f"one of {', '.join(known)}")
        return value

    return check


def text(value: Any, _folder: Path) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("a text")
    return value


def url(value: Any, _folder: Path) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"https?://[^\s/?#@]+(?:[/?][^\s@#]*)?", value):
        raise ValueError("an address such as http://127.0.0.1:8000/v1, without a name or a password in it")
    return value


def variable(value: Any, _folder: Path) -> str:
    """A key has no place in a file: the value is the environment's."""
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value):
        raise ValueError("the name of an environment variable that holds the key")
    if not os.environ.get(value):
        raise ValueError(f"the name of an environment variable that is set: {value} is not")
    return value


def each(check: Check) -> Check:
    """A table of names with a value each."""

    def checked(value: Any, folder: Path) -> dict[str, Any]:
        if not isinstance(value, dict) or not value:
            raise ValueError("a table of names")
        read: dict[str, Any] = {}
        for name, one in value.items():
            try:
                read[name] = check(one, folder)
            except ValueError as error:
                raise ValueError(f"{error} for {name}") from error
        return read

    return checked


def ports(value: Any, _folder: Path) -> frozenset[int]:
    if (
        not isinstance(value, list)
        or not value
        or not all(type(one) is int and 0 < one < 1 << 16 for one in value)
    ):
        raise ValueError("a list of ports such as [80, 443]")
    return frozenset(value)


_READ = {"origins": some_of(ORIGINS)}
_DONE = one_of(("allow", "flag", "redact", "block"))
_BOTH: tuple[Direction, ...] = ("input", "output")
_IN: tuple[Direction, ...] = ("input",)
_OUT: tuple[Direction, ...] = ("output",)

KINDS: Mapping[str, Kind] = {
    "secrets": Kind(on=_BOTH, used_on=_OUT, actions=("redact", "flag", "block"), fail="closed", options=_READ),
    "personal-data": Kind(
        on=_BOTH, used_on=_OUT, actions=("redact", "flag", "block"), options={**_READ, "kinds": some_of(PERSONAL)}
    ),
    "unseen": Kind(on=_BOTH, used_on=_BOTH, actions=("redact", "flag", "block"), options=_READ),
    "phrases": Kind(
        on=_BOTH, used_on=_BOTH, actions=("flag", "redact", "block"), options={**_READ, "phrases": words}, needs=("phrases",)
    ),
    "hidden-text": Kind(
        on=_OUT, used_on=_OUT, actions=("block", "flag", "redact"), fail="closed",
        options={"run": whole(4, 64), "canaries": canaries},
    ),
    "size": Kind(
        on=_IN, used_on=_IN, actions=("block", "flag"), fail="closed",
        options={
            "characters": whole(1, 1 << 30), "part_characters": whole(1, 1 << 30), "parts": whole(1, 1 << 20),
            "depth": whole(1, 10_000),
        },
    ),
    "repetition": Kind(on=_IN, used_on=_IN, actions=("flag", "block"), options={"characters": whole(200, 1 << 30)}),
    "many-shot": Kind(on=_IN, used_on=_IN, actions=("flag", "block"), options={"turns": whole(1, 1000)}),
    "egress": Kind(
        on=_OUT, used_on=_OUT, actions=("ask", "flag", "block"), fail="closed",
        options={"tools": words, "arguments": words, "hosts": hosts, "always": truth},
    ),
    "markup": Kind(
        on=_OUT, used_on=_OUT, actions=("redact", "flag", "block"), fail="closed",
        options={"hosts": hosts, "finds": some_of(FINDS), "carried": whole(8, 256), "code": truth},
    ),
    "external": Kind(
        on=_BOTH, used_on=_BOTH, actions=("flag", "redact", "block"),
        options={
            **_READ, "url": url, "style": one_of(STYLES), "model": text, "key_variable": variable, "timeout": between(0.05, 60),
            "concurrency": whole(1, 256), "threshold": between(0, 1), "categories": each(_DONE), "window": whole(100, 16_000),
            "whole": truth, "calls": whole(1, 100_000), "seconds": between(0.1, 600),
        },
        needs=("url",),
    ),
    "harm": Kind(
        on=_BOTH, used_on=_BOTH, actions=("flag", "redact", "block"),
        options={**_READ, "file": file, "actions": each(_DONE), "thresholds": each(number)}, needs=("file",),
    ),
    "spotlight": Kind(on=_IN, used_on=_IN, actions=("allow",)),
    "fetch": Kind(
        on=_OUT, used_on=_OUT, actions=("allow",),
        options={
            "hosts": hosts, "ports": ports, "seconds": whole(1, 600), "size": whole(1, 1 << 30), "redirects": whole(0, 10),
        },
    ),
    "detector": Kind(
        on=_IN, used_on=_IN, actions=("flag", "block"),
        options={**_READ, "file": file, "threshold": number}, needs=("file",),
    ),
    "probe": Kind(
        on=_IN, used_on=_IN, actions=("flag", "block"), budget_ms=2000,
        options={**_READ, "file": file, "first": file, "band": band, "threshold": number, "most": whole(1, 1000)},
        needs=("file", "first"),
    ),
}  # fmt: skip
