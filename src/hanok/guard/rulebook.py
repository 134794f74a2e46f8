"""A policy put to work: the rules of each tenant, made once when a policy is taken up."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from hanok.errors import ConfigError, InputError
from hanok.guard.careful import Careful
from hanok.guard.egress import Egress
from hanok.guard.filter import Kept, OutputFilter, OutputRule
from hanok.guard.injection import Detect
from hanok.guard.intake import InputRule, Intake, Reader, Scan, take_in
from hanok.guard.leaks import HiddenText
from hanok.guard.limits import ManyShot, Repetition, Size
from hanok.guard.linear import LinearDetector
from hanok.guard.personal import PersonalData
from hanok.guard.phrases import Phrases
from hanok.guard.policy import Policy, Rule, read_policy
from hanok.guard.provenance import ORIGINS, Part
from hanok.guard.secrets import Secrets
from hanok.guard.unseen import Unseen
from hanok.guard.verdicts import Action, Finding

Detectors = dict[Path, LinearDetector]
_EVERY = frozenset(ORIGINS)
_STRANGE = frozenset({"user", "assistant", "tool", "document"})  # what a detector of orders reads unless told


@dataclass(frozen=True)
class Output:
    """One rule of output. `make` is told what is hidden from the reader of this answer: its system prompt."""

    rule: Rule
    make: Callable[[str], OutputRule]


@dataclass(frozen=True)
class CallRule:
    """One rule of calls."""

    rule: Rule
    egress: Egress


@dataclass(frozen=True)
class Rulebook:
    """What one tenant is held to. `spotlight`: strangers' text is marked. `silent`: rules that do not say what they only flag."""

    readers: tuple[Reader, ...] = ()
    outputs: tuple[Output, ...] = ()
    calls: tuple[CallRule, ...] = ()
    spotlight: bool = False
    silent: frozenset[str] = frozenset()

    @property
    def reads(self) -> bool:
        """Wants to know what the model reads."""
        return bool(self.readers or self.calls or self.spotlight)

    @property
    def watches(self) -> bool:
        """Wants to know what the model writes."""
        return bool(self.outputs or self.calls)

    def take_in(self, parts: Sequence[Part]) -> Intake:
        """Work for a thread: at most the sum of the rules' budgets, in processor time."""
        return take_in(parts, self.readers)

    def watch(self, hidden: str = "") -> Callable[..., OutputFilter]:
        """Makes a filter for each channel of an answer. Args: hidden: text that must not come back out."""
        kept = [Kept(one.make(hidden), one.rule.fail, one.rule.budget) for one in self.outputs]
        return partial(OutputFilter, kept)

    def judge(self, tool: str, arguments: str, parts: Sequence[Part]) -> list[Finding]:
        """Of a call that the model makes. Args: arguments: as JSON. parts: what the model has read."""
        found: list[Finding] = []
        for one in self.calls:
            care = Careful(one.rule.name, one.rule.fail, one.rule.budget)
            found += care.run(lambda _clock, one=one: list(one.egress.judge(tool, arguments, parts))) or ()
            if care.failure is not None:
                action: Action = "block" if care.fail == "closed" else "flag"
                found.append(Finding(care.name, 0, 0, action, care.failure))
        return found


class Guard:
    """The live policy. Reading goes on undisturbed while another is taken up; a bad one changes nothing."""

    def __init__(self, policy: Policy | None = None) -> None:
        self.policy = policy or Policy()
        self._house, self._tenants = _made(self.policy)

    @classmethod
    def open(cls, name: str) -> Guard:
        """Raises ConfigError: as `read_policy`, or a detector's file is none."""
        return cls(read_policy(name))

    def of(self, tenant: str) -> Rulebook:
        return self._tenants.get(tenant, self._house)

    def take(self, new: Guard) -> bool:
        """Do what another does from now on; whether its policy is another one."""
        before = self.policy.hash
        self.policy, self._house, self._tenants = new.policy, new._house, new._tenants
        return self.policy.hash != before


def _made(policy: Policy) -> tuple[Rulebook, Mapping[str, Rulebook]]:
    detectors: Detectors = {}
    tenants = {name: _rulebook(rules, policy.source, detectors) for name, rules in policy.tenants.items()}
    return _rulebook(policy.rules, policy.source, detectors), tenants


def _rulebook(rules: Sequence[Rule], source: str, detectors: Detectors) -> Rulebook:
    texts = [rule for rule in rules if rule.kind not in ("egress", "spotlight")]
    readers = [
        Reader(_reader(rule, source, detectors), rule.fail, rule.budget)
        for rule in texts
        if "input" in rule.on
    ]
    outputs = [Output(rule, _maker(rule)) for rule in texts if "output" in rule.on]
    calls = [
        CallRule(rule, Egress(rule.name, rule.action, **rule.options))
        for rule in rules
        if rule.kind == "egress"
    ]
    spotlight = any(rule.kind == "spotlight" for rule in rules)
    silent = frozenset(rule.name for rule in rules if not rule.tell)
    return Rulebook(tuple(readers), tuple(outputs), tuple(calls), spotlight, silent)


def _reader(rule: Rule, source: str, detectors: Detectors) -> InputRule:
    options = dict(rule.options)
    origins = options.pop("origins", None)
    if rule.kind == "size":
        return Size(rule.name, rule.action, **options)
    if rule.kind == "repetition":
        return Repetition(rule.name, rule.action, **options)
    if rule.kind == "many-shot":
        return ManyShot(rule.name, rule.action, **options)
    if rule.kind == "detector":
        file = options.pop("file")
        try:
            loaded = detectors.setdefault(file, detectors.get(file) or LinearDetector.load(file))
        except InputError as error:
            raise ConfigError(f"{source}: {rule.name}.file: {error.message}", remedy=error.remedy) from error
        return Detect(loaded, origins or _STRANGE, name=rule.name, action=rule.action, **options)
    return Scan(_text_rule(rule, ""), origins or _EVERY)


def _maker(rule: Rule) -> Callable[[str], OutputRule]:
    if rule.kind == "hidden-text":
        return partial(_text_rule, rule)
    made = _text_rule(rule, "")
    return lambda _hidden: made


def _text_rule(rule: Rule, hidden: str) -> Any:
    options = {name: value for name, value in rule.options.items() if name != "origins"}
    if rule.kind == "secrets":
        return Secrets(rule.action, name=rule.name)
    if rule.kind == "personal-data":
        return PersonalData(rule.action, name=rule.name, **options)
    if rule.kind == "unseen":
        return Unseen(rule.name, rule.action)
    if rule.kind == "phrases":
        return Phrases(name=rule.name, action=rule.action, **options)
    assert rule.kind == "hidden-text", rule.kind
    return HiddenText(hidden, name=rule.name, action=rule.action, **options)
