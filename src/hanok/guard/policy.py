"""The policy of a guard: a TOML file with the rules of the house, and what is different for a tenant.

    format = 1

    [rules.secrets]                 # the name of a kind, or any name with kind = "..."
    action = "redact"               # flag, redact or block, as the kind allows
    on = ["output"]
    fail = "closed"                 # or "flag": what happens when the rule itself fails
    budget_ms = 50                  # of processor time for one look
    tell = false                    # whoever asked does not hear what it only flags

    [tenants.acme.rules.secrets]    # only what differs; enabled = false takes a rule away
    action = "block"

Beside the rules stand the tables of `hanok.guard.protection`: watermark, logprobs, extraction.

Everything is checked when the file is read: a policy that cannot be used never replaces one that can.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

from hanok.errors import ConfigError, did_you_mean
from hanok.guard.careful import Fail
from hanok.guard.kinds import KINDS, Kind
from hanok.guard.lines import line_of, line_told
from hanok.guard.protection import TABLES, Protection, read_protection
from hanok.guard.verdicts import Action, Direction

FORMAT = 1
BUDGET_MS = 50  # processor time for one look
_COMMON = ("kind", "enabled", "action", "on", "fail", "budget_ms", "tell")


class PolicyError(ConfigError):
    """Args: key: dotted, of what is wrong. line: of the text, from 1; None where no line says it."""

    def __init__(self, message: str, *, remedy: str = "", key: str = "", line: int | None = None) -> None:
        super().__init__(message, remedy=remedy)
        self.key, self.line = key, line


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One rule as it is used. `options`: those of its kind that were given."""

    name: str
    kind: str
    action: Action
    on: tuple[Direction, ...]
    fail: Fail
    budget: float
    tell: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Args: protection, protections: of the house and of tenants, against theft. source: where it comes from, for messages.
    text: as it was written. hash: SHA-256 of that. file: that holds it."""

    rules: tuple[Rule, ...] = ()
    tenants: Mapping[str, tuple[Rule, ...]] = field(default_factory=dict)
    protection: Protection = field(default_factory=Protection)
    protections: Mapping[str, Protection] = field(default_factory=dict)
    source: str = "off"
    text: str = ""
    hash: str = ""
    file: Path | None = None

    def of(self, tenant: str) -> tuple[Rule, ...]:
        return self.tenants.get(tenant, self.rules)

    def protection_of(self, tenant: str) -> Protection:
        return self.protections.get(tenant, self.protection)


def read_policy(name: str) -> Policy:
    """Args: name: "off", "default" for the shipped one, or a file.

    Raises:
        ConfigError: says the file, the key and what it must be.
    """
    if name == "off":
        return Policy()
    if name == "default":
        text = resources.files("hanok.guard").joinpath("default.toml").read_text(encoding="utf-8")
        return parse_policy(text, source="the default policy")
    file = Path(name)
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"the guard's policy {file} cannot be read ({error.strerror})",
            remedy='name a file, "default" or "off"',
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"the guard's policy {file} is not UTF-8", remedy="save it as UTF-8") from error
    return replace(parse_policy(text, source=str(file), folder=file.parent), file=file.absolute())


def hash_of(text: str) -> str:
    """SHA-256 of a policy."""
    return hashlib.sha256(text.encode()).hexdigest()


def parse_policy(text: str, *, source: str = "policy", folder: Path = Path()) -> Policy:
    """Args: folder: what files are named from.

    Raises:
        PolicyError: as `read_policy`, with the line.
    """
    try:
        return _parsed(text, source, folder)
    except PolicyError as error:
        error.line = error.line or line_of(text, error.key)
        raise


def _parsed(text: str, source: str, folder: Path) -> Policy:
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        line = line_told(str(error), text)
        raise PolicyError(f"{source} is not TOML ({error})", remedy="mend it", line=line) from error
    reader = _Reader(source, folder)
    reader.only(raw, ("format", "rules", "tenants", *TABLES), "")
    if raw.get("format") != FORMAT:
        raise PolicyError(
            f"{source}: format = {raw.get('format')!r}", remedy=f"this version reads format = {FORMAT}", key="format"
        )  # fmt: skip
    house = reader.table(raw, "rules", "")
    rules = reader.rules(house, "rules.")  # before the tenants, who inherit what is wrong in them
    tenants = reader.table(raw, "tenants", "")
    found: dict[str, tuple[Rule, ...]] = {}
    protection, protections = read_protection(raw, reader), dict[str, Protection]()
    for name, own in tenants.items():
        where = f"tenants.{name}"
        own = reader.table(tenants, name, "tenants.")
        reader.only(own, ("rules", *TABLES), f"{where}.")
        protections[name] = read_protection(own, reader, f"{where}.", house=protection)
        changed = reader.table(own, "rules", f"{where}.")
        merged = {
            rule: {**reader.table(house, rule, "rules."), **reader.table(changed, rule, f"{where}.rules.")}
            for rule in [*house, *(one for one in changed if one not in house)]
        }
        found[name] = reader.rules(merged, f"{where}.rules.")
    return Policy(
        rules=rules, tenants=found, protection=protection, protections=protections, source=source, text=text, hash=hash_of(text),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Reader:
    """Names file and key in whatever it refuses."""

    source: str
    folder: Path

    def wrong(self, key: str, value: Any, rule: str) -> PolicyError:
        return PolicyError(f"{self.source}: {key} = {value!r}", remedy=f"it must be {rule}", key=key)

    def table(self, raw: Mapping[str, Any], name: str, where: str) -> Mapping[str, Any]:
        value = raw.get(name, {})
        if not isinstance(value, dict):
            raise self.wrong(f"{where}{name}", value, "a table")
        return value

    def only(self, raw: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
        for name in raw:
            if name not in known:
                key = f"{where}{name}"
                raise PolicyError(
                    f'{self.source}: unknown key "{key}"', remedy=did_you_mean(name, known), key=key
                )

    def rules(self, raw: Mapping[str, Any], where: str) -> tuple[Rule, ...]:
        read = [self._rule(name, self.table(raw, name, where), f"{where}{name}") for name in raw]
        return tuple(rule for rule, enabled in read if enabled)

    def _rule(self, name: str, raw: Mapping[str, Any], where: str) -> tuple[Rule, bool]:
        word = raw.get("kind", name)
        kind = KINDS.get(word) if isinstance(word, str) else None
        if kind is None:
            raise PolicyError(
                f'{self.source}: {where}: no kind of rule "{word}"', remedy=did_you_mean(str(word), KINDS), key=f"{where}.kind"
            )  # fmt: skip
        self.only(raw, (*_COMMON, *kind.options), f"{where}.")
        if missing := [one for one in kind.needs if one not in raw]:
            raise PolicyError(
                f"{self.source}: {where} needs {missing[0]}", remedy=f"give {where}.{missing[0]}", key=where
            )
        enabled, tell = self._truth(raw, "enabled", where), self._truth(raw, "tell", where)
        rule = Rule(
            name=name, kind=word, action=self._one(raw, "action", kind.actions, where), on=self._on(raw, kind, where),
            fail=self._one({"fail": kind.fail, **raw}, "fail", ("closed", "flag"), where),
            budget=self._budget(raw, kind, where), tell=tell, options=self._options(raw, kind, where),
        )  # fmt: skip
        return rule, enabled

    def _one(self, raw: Mapping[str, Any], key: str, known: tuple[Any, ...], where: str) -> Any:
        value = raw.get(key, known[0])
        if value not in known:
            raise self.wrong(f"{where}.{key}", value, f"one of {', '.join(known)}")
        return value

    def _truth(self, raw: Mapping[str, Any], key: str, where: str) -> bool:
        value = raw.get(key, True)
        if not isinstance(value, bool):
            raise self.wrong(f"{where}.{key}", value, "true or false")
        return value

    def _on(self, raw: Mapping[str, Any], kind: Kind, where: str) -> tuple[Direction, ...]:
        value = raw.get("on", list(kind.used_on))
        if not isinstance(value, list) or not value or not all(one in kind.on for one in value):
            raise self.wrong(f"{where}.on", value, f"some of {list(kind.on)}")
        return tuple(value)

    def _budget(self, raw: Mapping[str, Any], kind: Kind, where: str) -> float:
        value = raw.get("budget_ms", kind.budget_ms or BUDGET_MS)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 1 <= value <= 10_000:
            raise self.wrong(f"{where}.budget_ms", value, "from 1 to 10000")
        return value / 1000

    def _options(self, raw: Mapping[str, Any], kind: Kind, where: str) -> dict[str, Any]:
        read: dict[str, Any] = {}
        for name, check in kind.options.items():
            if name in raw:
                try:
                    read[name] = check(raw[name], self.folder)
                except ValueError as error:
                    raise self.wrong(f"{where}.{name}", raw[name], str(error)) from error
        return read
