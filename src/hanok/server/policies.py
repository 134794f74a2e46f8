"""The file that the guard's policy stands in: shown, and replaced as a whole by whoever has seen what stands there."""

from __future__ import annotations

import os
import stat
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hanok.artefacts import write_atomic
from hanok.guard.lines import line_of
from hanok.guard.policy import Policy, PolicyError, Rule, hash_of, parse_policy
from hanok.guard.rulebook import Guard
from hanok.guard.written import rules_text
from hanok.server.errors import ApiError

_NO_FILE = "this server was started without a policy file: give it one with --guard policy.toml"
OUTSIDE = (
    "file",
    "first",
    "url",
    "key_variable",
    "model",
)  # options of rules that name what lies outside of a policy


@dataclass(frozen=True)
class PolicyFile:
    """Args: path: None for a policy that stands in no file."""

    path: Path | None

    @classmethod
    def of(cls, policy: Policy) -> PolicyFile:
        return cls(None if policy.file is None else policy.file.resolve())

    @property
    def why_not(self) -> str | None:
        """Why it cannot be replaced."""
        if self.path is None:
            return _NO_FILE
        if not os.access(self.path, os.W_OK) or not os.access(self.path.parent, os.W_OK):
            return f"the server may not write {self.path.name} in its folder"
        return None

    def text(self) -> str | None:
        """What stands there now; None where nothing can be read."""
        try:
            return None if self.path is None else self.path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            return None

    def parsed(self, text: str) -> Policy:
        """As if it stood there. Raises PolicyError."""
        if self.path is None:
            return parse_policy(text)
        found = parse_policy(text, source=self.path.name, folder=self.path.parent)
        return replace(found, file=self.path)

    def replaced(self, text: str, *, seen: str) -> Guard:
        """Write it there, whole or not at all. Args: seen: hash of what stood there when it was edited.

        Raises:
            ApiError: 409, it cannot be written, or something else stands there meanwhile. ConfigError: it cannot be used.
        """
        if (why := self.why_not) is not None:
            raise ApiError(409, why, code="no_policy_file" if self.path is None else "not_writable")
        assert self.path is not None
        now = self.text()
        if now is None or hash_of(now) != seen:
            raise ApiError(
                409, f"{self.path.name} was changed meanwhile", param="hash", code="version_conflict",
                more={"hash": None if now is None else hash_of(now)},
            )  # fmt: skip
        guard = Guard(self.parsed(text))  # before anything is written
        write_atomic(self.path, text, mode=stat.S_IMODE(self.path.stat().st_mode))
        return guard


def described(policy: Policy, tenant: str, *, house: bool) -> dict[str, Any]:
    """For the console. Args: house: all of it may be seen."""
    file = PolicyFile.of(policy)
    told = {
        "object": "policy", "kind": policy.source if policy.source == "off" else "default" if file.path is None else "file",
        "source": None if file.path is None else file.path.name, "tenant": tenant, "tenants": [tenant],
        "rules": [_rule(one, policy) for one in policy.of(tenant)], "editable": False,
    }  # fmt: skip
    if not house:
        text = own_text(policy, tenant)
        return {
            **told,
            "text": text,
            "hash": hash_of(text),
            "why_not": "only the house's administrators change the policy",
        }
    on_disk = file.text()
    elsewhere = (
        None
        if on_disk is None or hash_of(on_disk) == policy.hash
        else {"text": on_disk, "hash": hash_of(on_disk)}
    )
    return {
        **told, "text": policy.text, "hash": policy.hash, "tenants": sorted(policy.tenants), "editable": file.why_not is None,
        "why_not": file.why_not, "on_disk": elsewhere,
    }  # fmt: skip


def own_text(policy: Policy, tenant: str) -> str:
    """The rules of one tenant, as a policy of their own."""
    return rules_text(policy.of(tenant), folder=None if policy.file is None else policy.file.parent)


def within(text: str, own: str) -> None:
    """Raises PolicyError where a text reaches for what the tenant's own rules do not (a file, another server, a key), or speaks
    of other tenants."""
    known = [reached for _, reached in _reached(own)]
    for name, reached in _reached(text):
        if reached not in known:
            key = f"rules.{name}.{next(iter(reached))}"
            remedy, line = "the house chooses what rules reach", line_of(text, key)
            raise PolicyError(f"policy: {key} is not one of yours", remedy=remedy, key=key, line=line)


def _reached(text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Of each rule that reaches for something outside of the policy: its name and what it reaches for. What is no TOML says
    nothing here."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    if "tenants" in raw:
        raise PolicyError(
            'policy: unknown key "tenants"', remedy="these are the rules of one tenant", key="tenants"
        )
    rules = raw.get("rules")
    for name, table in rules.items() if isinstance(rules, dict) else ():
        reached = {one: table[one] for one in OUTSIDE if one in table} if isinstance(table, Mapping) else {}
        if reached:
            yield name, reached


def _rule(rule: Rule, policy: Policy) -> dict[str, Any]:
    same = any(one == rule for one in policy.rules)
    return {
        "name": rule.name, "kind": rule.kind, "action": rule.action, "on": list(rule.on), "fail": rule.fail,
        "tell": rule.tell, "own": not same,
    }  # fmt: skip
