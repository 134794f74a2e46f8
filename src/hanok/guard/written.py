"""Rules written as TOML: what a tenant is held to, for its own administrators, who do not see the policy of the house."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hanok.guard.kinds import KINDS
from hanok.guard.policy import BUDGET_MS, FORMAT, Rule

_BARE = re.compile(r"[A-Za-z0-9_-]+")
HOUSE_ONLY = ("canaries",)  # options whose value is a secret of the house


def rules_text(rules: Sequence[Rule], *, folder: Path | None = None) -> str:
    """A policy of these rules alone. Args: folder: that files are named from."""
    tables = "\n\n".join("\n".join(_table(rule, folder)) for rule in rules)
    return f"format = {FORMAT}\n\n{tables}\n" if tables else f"format = {FORMAT}\n"


def _table(rule: Rule, folder: Path | None) -> Iterable[str]:
    kind = KINDS[rule.kind]
    yield f"[rules.{_name(rule.name)}]"
    if rule.kind != rule.name:
        yield f"kind = {_value(rule.kind)}"
    if rule.action != kind.actions[0]:
        yield f"action = {_value(rule.action)}"
    if rule.on != kind.used_on:
        yield f"on = {_value(rule.on)}"
    if rule.fail != kind.fail:
        yield f"fail = {_value(rule.fail)}"
    if rule.budget != BUDGET_MS / 1000:
        yield f"budget_ms = {1000 * rule.budget:g}"
    if not rule.tell:
        yield "tell = false"
    for name, value in rule.options.items():
        if name in HOUSE_ONLY:
            yield f"# {name}: set by the house"
        else:
            yield f"{name} = {_value(file_name(value, folder) if isinstance(value, Path) else value)}"


def file_name(file: Path, folder: Path | None) -> str:
    """As a policy in this folder names it."""
    return os.path.relpath(file.resolve(), (folder or Path()).resolve())


def _name(name: str) -> str:
    return name if _BARE.fullmatch(name) else _value(name)


def _value(value: Any) -> str:
    if isinstance(value, (frozenset, set)):
        value = sorted(value)
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{_name(name)} = {_value(one)}' for name, one in value.items())} }}"
    if isinstance(value, str):  # TOML has JSON's escapes, and wants DEL escaped too
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return json.dumps(value)
