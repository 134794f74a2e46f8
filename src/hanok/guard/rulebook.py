"""A policy put to work: the rules of each tenant, made once when a policy is taken up."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from hanok.guard.careful import Careful
from hanok.guard.carried import LEAST, Private
from hanok.guard.egress import Egress
from hanok.guard.external import External
from hanok.guard.fetch import Fetcher
from hanok.guard.files import Files
from hanok.guard.filter import Following, Kept, OutputFilter, OutputRule
from hanok.guard.harm import Harm
from hanok.guard.injection import Detect
from hanok.guard.intake import InputRule, Intake, Reader, Scan, take_in
from hanok.guard.leaks import HiddenText
from hanok.guard.limits import ManyShot, Repetition, Size
from hanok.guard.linear import LinearDetector
from hanok.guard.markup import Markup
from hanok.guard.outside import external
from hanok.guard.personal import PersonalData
from hanok.guard.phrases import Phrases
from hanok.guard.policy import Policy, Rule, read_policy
from hanok.guard.probe import Vectors
from hanok.guard.protection import Protection
from hanok.guard.provenance import ORIGINS, UNTRUSTED, Part
from hanok.guard.second_look import SecondLook
from hanok.guard.secrets import Secrets
from hanok.guard.unseen import Unseen
from hanok.guard.verdicts import Action, Finding

Calls = Callable[[str, str, Sequence[Part]], Iterable[Finding]]
_APART = frozenset({"egress", "spotlight", "fetch", "probe"})  # kinds that are no rules of text
BRIEF, BRIEF_JUDGED = (
    2048,
    256,
)  # characters that rules read in about a millisecond, alone and with a classifier
_EVERY = frozenset(ORIGINS)
STRANGE = frozenset({"user", "assistant", "tool", "document"})  # what a detector of orders reads unless told


@dataclass(frozen=True)
class Context:
    """What a model was told. `hidden`: what it must not say at all: its system prompt. `read`: all of it."""

    hidden: str = ""
    read: Sequence[Part] = ()


@dataclass(frozen=True)
class Output:
    """One rule of output. `make` is told what its answer must not give away."""

    rule: Rule
    make: Callable[[Context], OutputRule | Following]


@dataclass(frozen=True)
class Probing:
    """One rule of input that is made for each request. `make` is given the hidden vectors of the model that will read it."""

    rule: Rule
    make: Callable[[Vectors | None], InputRule]


@dataclass(frozen=True)
class CallRule:
    """One rule of calls. `judge`: a tool, arguments as JSON, and what the model has read."""

    rule: Rule
    judge: Calls


@dataclass(frozen=True)
class Rulebook:
    """What one tenant is held to. `spotlight`: strangers' text is marked. `fetcher`: for addresses that models, documents and
    users give; None: such addresses are not asked for. `silent`: rules that do not say what they only flag."""

    readers: tuple[Reader, ...] = ()
    outputs: tuple[Output, ...] = ()
    calls: tuple[CallRule, ...] = ()
    spotlight: bool = False
    fetcher: Fetcher | None = None
    probes: tuple[Probing, ...] = ()
    silent: frozenset[str] = frozenset()

    def tells(self, rule: str, action: str) -> bool:
        """Whether whoever asked hears of it."""
        return action != "flag" or rule not in self.silent

    @property
    def reads(self) -> bool:
        """Wants to know what the model reads."""
        remembers = any(one.rule.kind in ("markup", "external") for one in self.outputs)
        return bool(self.readers or self.calls or self.spotlight or self.probes or remembers)

    @property
    def asks_before(self) -> bool:
        """Some rule of input waits for another server."""
        return any(isinstance(one.rule, External) for one in self.readers)

    def reads_at_once(self, parts: Sequence[Part]) -> bool:
        """Whether `take_in` of these takes less than to hand them to a thread and to get the interpreter back."""
        waits = self.asks_before or bool(self.probes)
        most = BRIEF_JUDGED if any(isinstance(one.rule, Detect | Harm) for one in self.readers) else BRIEF
        return not waits and sum(len(part.text) for part in parts) <= most

    @property
    def asks_behind(self) -> bool:
        """Some rule of output does."""
        return any(one.rule.kind == "external" for one in self.outputs)

    @property
    def watches(self) -> bool:
        """Wants to know what the model writes."""
        return bool(self.outputs or self.calls)

    def take_in(self, parts: Sequence[Part], vectors: Vectors | None = None) -> Intake:
        """Work for a thread: at most the sum of the rules' budgets, in processor time.

        Args:
            vectors: of the model that is to read it, for probes.
        """
        probes = (Reader(one.make(vectors), one.rule.fail, one.rule.budget) for one in self.probes)
        return take_in(parts, [*self.readers, *probes])

    def watch(self, hidden: str = "", read: Sequence[Part] = ()) -> Callable[..., OutputFilter]:
        """Makes a filter for each channel of an answer. Args: hidden: text that must not come back out. read: by the model."""
        context = Context(hidden, read)
        kept = [Kept(one.make(context), one.rule.fail, one.rule.budget) for one in self.outputs]
        return partial(OutputFilter, kept)

    def judge(self, tool: str, arguments: str, parts: Sequence[Part]) -> list[Finding]:
        """Of a call that the model makes. Args: arguments: as JSON. parts: what the model has read."""
        found: list[Finding] = []
        for one in self.calls:
            care = Careful(one.rule.name, one.rule.fail, one.rule.budget)
            found += care.run(lambda _clock, one=one: list(one.judge(tool, arguments, parts))) or ()
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

    def protection_of(self, tenant: str) -> Protection:
        return self.policy.protection_of(tenant)

    def take(self, new: Guard) -> bool:
        """Do what another does from now on; whether its policy is another one."""
        before = self.policy.hash
        self.policy, self._house, self._tenants = new.policy, new._house, new._tenants
        return self.policy.hash != before


def _made(policy: Policy) -> tuple[Rulebook, Mapping[str, Rulebook]]:
    files = Files(policy.source)
    tenants = {name: _rulebook(rules, files) for name, rules in policy.tenants.items()}
    return _rulebook(policy.rules, files), tenants


def _rulebook(rules: Sequence[Rule], files: Files) -> Rulebook:
    texts = [rule for rule in rules if rule.kind not in _APART]
    shared = {rule.name: made for rule in texts if (made := _both_ways(rule, files)) is not None}
    readers = [
        Reader(shared.get(rule.name) or _reader(rule, files), rule.fail, rule.budget)
        for rule in texts
        if "input" in rule.on
    ]
    outputs = [Output(rule, _maker(rule, shared)) for rule in texts if "output" in rule.on]
    judges: list[tuple[Rule, Calls]] = [
        (rule, Egress(rule.name, rule.action, **rule.options).judge)
        for rule in rules
        if rule.kind == "egress"
    ]
    judges += [
        (one.rule, made.judge) for one in outputs if isinstance(made := shared.get(one.rule.name), External)
    ]
    spotlight = any(rule.kind == "spotlight" for rule in rules)
    fetcher = next((Fetcher(**rule.options) for rule in rules if rule.kind == "fetch"), None)
    probes = tuple(Probing(rule, _prober(rule, files)) for rule in rules if rule.kind == "probe")
    silent = frozenset(rule.name for rule in rules if not rule.tell)
    calls = tuple(CallRule(*one) for one in judges)
    return Rulebook(tuple(readers), tuple(outputs), calls, spotlight, fetcher, probes, silent)


def _both_ways(rule: Rule, files: Files) -> External | Harm | None:
    """One rule that looks at what comes in and at what goes out."""
    options = dict(rule.options)
    origins = options.pop("origins", None) or STRANGE
    if rule.kind == "harm":
        classifier = files.harm(rule, options.pop("file"))
        for key in ("actions", "thresholds"):
            files.known(rule, key, options.get(key, ()), classifier.categories)
        return Harm(classifier, origins, name=rule.name, action=rule.action, **options)
    return external(rule, options, origins, files.source) if rule.kind == "external" else None


def usual_origins(detector: LinearDetector) -> frozenset[str]:
    """Whose text it reads unless told. To one of documents every request of a user would be an order."""
    return UNTRUSTED if detector.lines else STRANGE


def _reader(rule: Rule, files: Files) -> InputRule:
    options = dict(rule.options)
    origins = options.pop("origins", None)
    if rule.kind == "size":
        return Size(rule.name, rule.action, **options)
    if rule.kind == "repetition":
        return Repetition(rule.name, rule.action, **options)
    if rule.kind == "many-shot":
        return ManyShot(rule.name, rule.action, **options)
    if rule.kind == "detector":
        loaded = files.detector(rule, "file", options.pop("file"))
        return Detect(loaded, origins or usual_origins(loaded), name=rule.name, action=rule.action, **options)
    return Scan(_text_rule(rule, Context()), origins or _EVERY)


def _prober(rule: Rule, files: Files) -> Callable[[Vectors | None], InputRule]:
    options = dict(rule.options)
    origins = options.pop("origins", UNTRUSTED)
    first = files.detector(rule, "first", options.pop("first"))
    probe = files.probe(rule, options.pop("file"))
    return lambda vectors: SecondLook(
        probe, first, vectors, origins, name=rule.name, action=rule.action, **options
    )


def _maker(rule: Rule, shared: Mapping[str, External | Harm]) -> Callable[[Context], OutputRule | Following]:
    known = shared.get(rule.name)
    if isinstance(known, External):
        return lambda context: known.about(context.read)
    if known is not None:
        return lambda _context: known
    if rule.kind in ("hidden-text", "markup"):
        return partial(_text_rule, rule)
    made = _text_rule(rule, Context())
    return lambda _context: made


def _text_rule(rule: Rule, context: Context) -> Any:
    options = {name: value for name, value in rule.options.items() if name != "origins"}
    if rule.kind == "secrets":
        return Secrets(rule.action, name=rule.name)
    if rule.kind == "personal-data":
        return PersonalData(rule.action, name=rule.name, **options)
    if rule.kind == "unseen":
        return Unseen(rule.name, rule.action)
    if rule.kind == "phrases":
        return Phrases(name=rule.name, action=rule.action, **options)
    if rule.kind == "markup":
        private = Private(context.read, hidden=context.hidden, least=options.pop("carried", LEAST))
        return Markup(rule.name, rule.action, private=private, **options)
    assert rule.kind == "hidden-text", rule.kind
    return HiddenText(context.hidden, name=rule.name, action=rule.action, **options)
