"""What two models' answers come to while one is on trial: counted as they end, compared with intervals."""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from hanok.evaluation.statistics import Difference, Share, median, median_difference, newcombe, wilson
from hanok.guard.verdicts import VerdictEvent
from hanok.server.exchange import Exchange, Outcome

ArmName = Literal["current", "canary"]
ARMS: tuple[ArmName, ...] = ("current", "canary")
_KEPT = 500  # times of an arm: an even sample of all (Vitter 1985, algorithm R)
_REMEMBERED = 4096  # requests whose arm is known when a verdict comes
_TIMES = ("milliseconds", "first_token_milliseconds")
_SHARES = ("errors", "flagged", "blocked")


@dataclass(slots=True)
class Arm:
    """Args: ended: requests that were answered or failed; those whose client went away count for nothing.
    flagged, blocked: requests in whose answer the guard found something, or that it ended. times: seen of each kind."""

    ended: int = 0
    errors: int = 0
    flagged: int = 0
    blocked: int = 0
    milliseconds: list[float] = field(default_factory=list)
    first_token_milliseconds: list[float] = field(default_factory=list)
    times: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_TIMES, 0))

    def keep(self, name: str, value: float, rng: random.Random) -> None:
        held: list[float] = getattr(self, name)
        seen = self.times[name] = self.times[name] + 1
        if len(held) < _KEPT:
            held.append(value)
        elif (place := rng.randrange(seen)) < _KEPT:
            held[place] = value


@dataclass(slots=True)
class _Asked:
    """A request of an arm. `told`: what the guard said of its answer."""

    arm: ArmName
    told: set[str] = field(default_factory=set)
    ended: bool = False


class Arms:
    """Args: hashes: of each arm's weights. counts: as `plain` gave them, to go on from."""

    def __init__(self, hashes: Mapping[ArmName, str], counts: Mapping[str, Any]) -> None:
        self._of: dict[str, ArmName] = {hashes[name]: name for name in ARMS}
        self.arms: dict[ArmName, Arm] = {name: Arm(**counts.get(name, {})) for name in ARMS}
        self.changed = False
        self._rng = random.Random(1)
        self._requests: OrderedDict[str, _Asked] = OrderedDict()

    def begun(self, exchange: Exchange) -> None:
        name = self._of.get(exchange.model_hash)
        if name is not None:
            self._requests[exchange.id] = _Asked(name)
            while len(self._requests) > _REMEMBERED:
                self._requests.popitem(last=False)

    def ended(self, exchange: Exchange, outcome: Outcome) -> None:
        name = self._of.get(exchange.model_hash)
        known = self._requests.get(exchange.id)
        if name is None or outcome.reason == "cancelled":
            self._requests.pop(exchange.id, None)
            return
        arm, self.changed = self.arms[name], True
        arm.ended += 1
        if known is not None:
            known.ended = True
            for kind in known.told:
                setattr(arm, kind, getattr(arm, kind) + 1)
        if outcome.reason == "error":
            arm.errors += 1
            return
        arm.keep("milliseconds", 1000 * outcome.seconds, self._rng)
        if outcome.first_token_seconds is not None:
            arm.keep("first_token_milliseconds", 1000 * outcome.first_token_seconds, self._rng)

    def verdict(self, event: VerdictEvent) -> None:
        """Of what a model wrote; what comes in is not its doing."""
        known = self._requests.get(event.request_id)
        if event.direction != "output" or known is None:
            return
        arm = self.arms[known.arm]
        for kind in ("flagged", *(("blocked",) if event.action == "block" else ())):
            if kind not in known.told:
                known.told.add(kind)
                if known.ended:  # what comes behind the end of an answer; else they count when it ends
                    self.changed = True
                    setattr(arm, kind, getattr(arm, kind) + 1)

    def plain(self) -> dict[str, Any]:
        return {name: asdict(arm) for name, arm in self.arms.items()}

    def fails(self, *, least: int, confidence: float = 0.9999) -> str | None:
        """Why the canary is to be taken back: its answers fail, and not by chance more often than the current model's. Asked
        behind every request, it wants much confidence."""
        current, canary = self.arms["current"], self.arms["canary"]
        if canary.errors < least:
            return None
        difference = newcombe(
            wilson(current.errors, current.ended, confidence), wilson(canary.errors, canary.ended, confidence)
        )
        worse = difference.clear and (difference.value or 0) > 0
        if worse or (difference.value is None and 2 * canary.errors > canary.ended):
            return f"{canary.errors} of {canary.ended} answers failed; {current.errors} of {current.ended} before it"
        return None


def compare(counts: Mapping[str, Any], ratings: Mapping[ArmName, tuple[int, int]]) -> dict[str, Any]:
    """Args:
    counts: as `Arms.plain` gives them. ratings: likes, and all of them.
    """
    arms = {name: Arm(**counts.get(name, {})) for name in ARMS}
    shares = {name: _shares(arms[name], ratings[name]) for name in ARMS}
    differences: dict[str, Difference] = {
        what: newcombe(shares["current"][what], shares["canary"][what]) for what in ("liked", *_SHARES)
    }
    for what in _TIMES:
        differences[what] = median_difference(getattr(arms["current"], what), getattr(arms["canary"], what))
    return {
        "arms": {name: _arm_object(arms[name], shares[name]) for name in ARMS},
        "differences": {what: {**asdict(one), "clear": one.clear} for what, one in differences.items()},
    }


def _shares(arm: Arm, ratings: tuple[int, int]) -> dict[str, Share]:
    return {"liked": wilson(*ratings), **{what: wilson(getattr(arm, what), arm.ended) for what in _SHARES}}


def _arm_object(arm: Arm, shares: Mapping[str, Share]) -> dict[str, Any]:
    return {
        "requests": arm.ended, "ratings": shares["liked"].count,
        **{what: _share_object(one) for what, one in shares.items()},
        **{what: asdict(median(getattr(arm, what))) for what in _TIMES},
    }  # fmt: skip


def _share_object(one: Share) -> dict[str, Any]:
    """JSON has no NaN."""
    return {**asdict(one), "value": one.value if one.count else None}
