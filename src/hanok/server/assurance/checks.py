"""How the state of a requirement is read: from the settings of a server, its policy, its audit; or from how the product is built,
which its tests hold."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from hanok.guard.harm import HarmClassifier
from hanok.guard.linear import LinearDetector
from hanok.guard.policy import Policy, Rule
from hanok.guard.provenance import UNTRUSTED
from hanok.guard.rulebook import STRANGE, usual_origins
from hanok.guard.verdicts import Direction
from hanok.server.operations.config import ServeSettings

State = Literal["met", "not met", "not applicable", "for the operator"]
STATES: tuple[State, ...] = ("met", "not met", "not applicable", "for the operator")
MOST_WRONG = 0.1  # of a family's attacks: beyond that nobody may say that they are withstood
_HARMS = ("violence", "self-harm", "hate", "sexual")
_RECENT = 35 * 86_400.0  # seconds: an attack run older than this says nothing of today


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a report is made from.

    Args:
        settings: of `hanok serve`. policy: of its guard. tenant: whose rules.
        audit: whether the log is whole; None: there is none. entries: how many there are of each kind.
        attacked: the newest run of `hanok guard attack`, with its time. private: the newest of `hanok audit privacy`.
        now: seconds of the Unix epoch.
    """

    settings: ServeSettings
    policy: Policy
    tenant: str = "default"
    audit: bool | None = None
    entries: Mapping[str, int] = field(default_factory=dict)
    attacked: Mapping[str, Any] | None = None
    private: Mapping[str, Any] | None = None
    now: float = field(default_factory=time.time)


@dataclass(frozen=True, slots=True)
class Judged:
    state: State
    why: str


Check = Callable[[Facts], Judged]


@dataclass(frozen=True, slots=True)
class Control:
    """A requirement: its id, its level, what it asks in our words, and what answers for it (tests, faults, commands)."""

    id: str
    level: int
    asks: str
    answers: str
    check: Check


def built(why: str) -> Check:
    """So by construction, whatever the settings are; the tests that are named hold it."""
    return lambda _facts: Judged("met", why)


def missing(why: str) -> Check:
    return lambda _facts: Judged("not met", why)


def outside(why: str) -> Check:
    return lambda _facts: Judged("not applicable", why)


def operators(why: str) -> Check:
    """A matter of the operator's organisation, which this program cannot see."""
    return lambda _facts: Judged("for the operator", why)


def rule(*kinds: str, on: str = "", stops: bool = False) -> Check:
    """The policy has a rule of one of these kinds. Args: on: "input" or "output". stops: it must do more than flag."""

    def check(facts: Facts) -> Judged:
        among = [
            one
            for one in facts.policy.of(facts.tenant)
            if one.kind in kinds and (not on or on in one.on)
        ]  # fmt: skip
        strong = [one for one in among if not stops or one.action not in ("flag", "allow")]
        if strong:
            return Judged("met", ", ".join(f"rule {one.name}: {one.action}" for one in strong))
        wanted = " or ".join(kinds)
        if among:
            return Judged("not met", f"rule {among[0].name} only flags")
        where = f" on {on}" if on else ""
        return Judged("not met", f"the policy has no rule of kind {wanted}{where}")

    return check


def screened(facts: Facts) -> Judged:
    """A rule that stops orders reads all that comes from elsewhere: of users, tools and documents."""
    found = rule("detector", "probe", "external", on="input", stops=True)(facts)
    if found.state != "met":
        return found
    read: set[str] = set()
    for one in _stopping(facts, ("detector", "probe", "external"), "input"):
        read |= set(one.options.get("origins") or _usual(one))
    unread = sorted({"user", "tool", "document"} - read)
    return Judged("not met", f"nothing screens what comes from: {', '.join(unread)}") if unread else found


def _usual(one: Rule) -> frozenset[str]:
    if one.kind == "detector":
        return usual_origins(LinearDetector.load(one.options["file"]))
    return UNTRUSTED if one.kind == "probe" else STRANGE


def harms(facts: Facts) -> Judged:
    """What comes in is judged for the kinds of harm that are asked for; what another server judges, this one cannot see."""
    found = rule("harm", "external", on="input", stops=True)(facts)
    if found.state != "met":
        return found
    rules = _stopping(facts, ("harm", "external"), "input")
    kinds = [
        kind
        for one in rules
        if one.kind == "harm"
        for kind in HarmClassifier.load(one.options["file"]).categories
    ]
    lacking = [kind for kind in _HARMS if not any(kind in one.lower() for one in kinds)]
    if not lacking:
        return found
    if any(one.kind == "external" for one in rules):
        return Judged(
            "for the operator",
            "another server judges: whether for violence, self-harm, hate and sexual content",
        )
    return Judged("not met", f"nothing is judged for: {', '.join(lacking)}")


def unfetched(facts: Facts) -> Judged:
    """Answers are rid of what a reader's machine would fetch when it shows them."""
    found = rule("markup", on="output", stops=True)(facts)
    finds = [one.options.get("finds") for one in _stopping(facts, ("markup",), "output")]
    if found.state == "met" and not any(one is None or "fetched" in one for one in finds):
        return Judged("not met", "the rule of kind markup leaves what is fetched when it is shown")
    return found


def _stopping(facts: Facts, kinds: Sequence[str], on: Direction) -> list[Rule]:
    return [
        one
        for one in facts.policy.of(facts.tenant)
        if one.kind in kinds and on in one.on and one.action not in ("flag", "allow")
    ]  # fmt: skip


def table(name: str) -> Check:
    """A table of the policy beside its rules is switched on: "watermark" or "extraction"."""

    def check(facts: Facts) -> Judged:
        met = getattr(facts.policy.protection_of(facts.tenant), name).enabled
        return Judged("met" if met else "not met", f"[{name}] enabled = {_shown(met)}")

    return check


def setting(name: str, holds: Callable[[Any], bool], *, wants: str) -> Check:
    def check(facts: Facts) -> Judged:
        value = getattr(facts.settings, name)
        met = holds(value)
        return Judged(
            "met" if met else "not met", f"{name} = {_shown(value)}" + ("" if met else f", should be {wants}")
        )

    return check


def signed(facts: Facts) -> Judged:
    """The server loads nothing that a trusted key has not signed."""
    count = len(facts.settings.require_signature)
    if not count:
        return Judged("not met", "require_signature = (), should be the public keys of who signs the models")
    return Judged("met", f"models, drafts and adapters must be signed by one of {count} trusted keys")


def audited(*kinds: str) -> Check:
    """The audit is kept and whole, and holds such entries once there are any to hold."""

    def check(facts: Facts) -> Judged:
        if not facts.settings.audit:
            return Judged("not met", "audit = false")
        if facts.audit is None:
            return Judged("not met", "there is no audit yet")
        if not facts.audit:
            return Judged("not met", "the audit is damaged: hanok audit verify")
        counted = {
            kind: sum(_of(kind, one) * count for one, count in facts.entries.items()) for kind in kinds
        }
        return Judged(
            "met", "audit whole; entries: " + ", ".join(f"{kind} {count}" for kind, count in counted.items())
        )

    return check


def private(facts: Facts) -> Judged:
    """The newest audit of privacy passed; which model's it was is said, as it may have been another's."""
    if facts.private is None:
        return Judged("not met", "no result of hanok audit privacy in the audit")
    found = facts.private["facts"]
    of = f"of model {str(facts.private.get('target', ''))[:16]}"
    if found["verdict"] != "passed":
        return Judged("not met", f"hanok audit privacy {of}: {found['verdict']}")
    return Judged("met", f"hanok audit privacy {of} passed: {found.get('judged', 'membership')}")


def capped(facts: Facts) -> Judged:
    """The policy caps log-probabilities."""
    caps = facts.policy.protection_of(facts.tenant).logprobs
    met = caps.most is not None or caps.decimals is not None
    return Judged("met" if met else "not met", f"[logprobs] most = {caps.most}, decimals = {caps.decimals}")


def held_back(facts: Facts) -> Judged:
    """Whoever seems to copy the model is held back, and not noted alone."""
    extraction = facts.policy.protection_of(facts.tenant).extraction
    steps = [name for name in ("quota", "no_logprobs", "review") if getattr(extraction, name) < math.inf]
    if not extraction.enabled or not steps:
        return Judged(
            "not met", f"[extraction] enabled = {_shown(extraction.enabled)}, without a step that holds back"
        )
    return Judged("met", f"[extraction] steps: {', '.join(steps)}")


def withstood(*families: str) -> Check:
    """In the last run of attacks few of these families worked, whatever the run before it found."""

    def check(facts: Facts) -> Judged:
        run = attacked(facts)
        if run.state != "met" or facts.attacked is None:
            return run
        counts = {name: facts.attacked["facts"]["families"].get(name, {}) for name in families}
        for name, one in counts.items():
            if not one.get("tried"):
                return Judged("not met", f"no attack of the family {name} was answered in the last run")
            if one["wrong"] > MOST_WRONG * one["tried"]:
                return Judged(
                    "not met",
                    f"{one['wrong']} of {one['tried']} attacks of the family {name} worked in the last run",
                )
        told = ", ".join(f"{name} {one['wrong']} of {one['tried']}" for name, one in counts.items())
        return Judged("met", f"worked in the last run: {told}")

    return check


def attacked(facts: Facts) -> Judged:
    """A run of attacks within the last weeks, in which nothing was worse than before. Says nothing of how many worked."""
    if facts.attacked is None:
        return Judged("not met", "no run of hanok guard attack in the audit")
    age = facts.now - facts.attacked["time"]
    if age > _RECENT:
        return Judged("not met", f"the last run of hanok guard attack is {age / 86_400:.0f} days old")
    worse = facts.attacked["facts"].get("worse", [])
    if worse:
        return Judged("not met", f"worse than the run before: {', '.join(worse)}")
    wrong = ", ".join(
        f"{name} {one['wrong']} of {one['tried']}"
        for name, one in facts.attacked["facts"]["families"].items()
    )
    return Judged("met", f"went wrong in the last run: {wrong}")


def all_of(*checks: Check) -> Check:
    """The first that is not met, or all of them."""

    def check(facts: Facts) -> Judged:
        judged = [one(facts) for one in checks]
        short = next((one for one in judged if one.state != "met"), None)
        return short or Judged("met", "; ".join(one.why for one in judged))

    return check


def _of(kind: str, one: str) -> bool:
    return one == kind or one.startswith(f"{kind}.")


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
