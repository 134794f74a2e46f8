"""Which answers get guesses in a step, from whom and how many; and what became of them.

Guesses that are not tried cost no row of the model but are still watched: the tokens that come tell whether they would have
held. So an answer that begins to copy its prompt is noticed, and one that does not costs little.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import NamedTuple

from torch import Tensor

from hanok.engine.generation import Generation
from hanok.engine.running import Part, Running
from hanok.engine.speculation.draft import DraftModel
from hanok.engine.speculation.lookup import PromptLookup
from hanok.engine.speculation.own import KEEP, OwnHeads
from hanok.engine.speculation.pace import Acceptance, Offer, Pace

LIMIT = 15  # guesses for one answer in one step
PLAIN_EVERY = 48  # steps with guesses, after which one goes without: its time is what they are compared with
_WATCHED = 4  # guesses that are only watched, of a draft: each costs a step of it


class Source(NamedTuple):
    """Where guesses come from: a draft, of a model or of heads, or the text; those of longer matches are better ones."""

    draft: bool
    match: int = 0


class _Watched(NamedTuple):
    source: Source
    length: int  # of the text before `tokens`, those that are still to come
    tokens: Sequence[int]


@dataclass(slots=True, eq=False)
class _Track:
    """Of one answer; by whether a draft is the source.

    Args:
        resting: steps until the draft is asked again, if it did not pay. tried: source of the guesses under way.
    """

    rates: dict[Source, Acceptance] = field(default_factory=dict)
    watched: dict[bool, _Watched] = field(default_factory=dict)
    resting: int = 0
    tried: Source | None = None


class _Candidate(NamedTuple):
    running: Running
    source: Source
    tokens: Sequence[int]  # of the text itself; a draft is asked once it is known how many
    limit: int


class Speculator:
    """Args:
    lookup: guesses from the text. draft: from a smaller model, or from the model's own heads.
    clock: seconds; decides how many guesses are made, never what is answered.
    """

    def __init__(
        self, *, lookup: PromptLookup | None, draft: DraftModel | OwnHeads | None, pace: Pace,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:  # fmt: skip
        self._lookup, self._draft, self._pace, self._clock = lookup, draft, pace, clock
        self._tracks: dict[Running, _Track] = {}
        self._everyone: dict[Source, Acceptance] = {}
        self._overheads: deque[float] = deque([0.0], maxlen=9)
        self._deep: deque[float] = deque([0.0], maxlen=9)
        self._tries = self._rest = 0

    def awake(self) -> bool:
        """Whether to guess in this step: not in each, where no guess paid and even thinking about it takes time."""
        self._rest = max(0, self._rest - 1)
        return not self._rest

    def skip(self, steps: int) -> None:
        """So many steps went by without being asked."""
        self._rest = max(0, self._rest - steps)

    def drafts(
        self, limits: Mapping[Running, int], rows: int, streams: int, *, since: float
    ) -> dict[Running, Sequence[int]]:  # fmt: skip
        """Guesses to try.

        Args:
            limits: how many each answer could use. rows, streams: of the step without guesses. since: when guessing began.
        """
        if self._tries >= PLAIN_EVERY:
            self._tries = 0
            return {}
        guesses, asking = self._guesses(limits, rows, streams)
        self._overheads.append(self._clock() - since - asking)
        self._tries += bool(guesses)
        if not guesses:
            self._rest = 1 + self._pace.rest(rows, median(self._overheads))
        return guesses

    def _guesses(
        self, limits: Mapping[Running, int], rows: int, streams: int
    ) -> tuple[dict[Running, Sequence[int]], float]:
        """And the seconds that the draft took."""
        candidates = [c for running, limit in limits.items() if (c := self._candidate(running, limit))]
        if not candidates:
            return {}, 0.0
        offers = [
            Offer(
                self._rate(c.running, c.source), c.limit if c.source.draft else len(c.tokens), c.source.draft
            )
            for c in candidates
        ]
        overhead, deep = median(self._overheads), median(self._deep)
        lengths = self._pace.lengths(offers, rows, streams=streams, overhead=overhead, deep=deep)
        asking = self._clock()
        asked = self._ask([(c, n) for c, n in zip(candidates, lengths, strict=True) if c.source.draft])
        asking = self._clock() - asking
        tried: dict[Running, Sequence[int]] = {}
        for candidate, length in zip(candidates, lengths, strict=True):
            tokens = asked.get(candidate.running, ()) if candidate.source.draft else candidate.tokens
            if length and tokens:
                tried[candidate.running] = tokens[:length]
                self._tracks[candidate.running].tried = candidate.source
            else:
                self._watch(candidate, tokens, self._pace.rest(rows, deep * _WATCHED))
        return tried, asking

    def verified(self, running: Running, drafted: int, accepted: int) -> None:
        """What became of guesses that were tried."""
        track = self._tracks[running]
        assert track.tried is not None
        for acceptance in self._acceptances(track, track.tried):
            acceptance.add(accepted, failed=accepted < drafted)

    def follows(self, part: Part) -> bool:
        """Whether the heads want the hidden vectors of these rows: of a long prompt, the last ones alone."""
        return (
            isinstance(self._draft, OwnHeads)
            and may_guess(part.running.generation)
            and part.running.length - part.end < KEEP
        )

    def observe(self, running: Running, start: int, hidden_nD: Tensor) -> None:
        """The model's hidden vectors behind places of a text, from `start` on."""
        assert isinstance(self._draft, OwnHeads)
        self._draft.observe(running, start, hidden_nD)

    def refill(self) -> None:
        """The model's weights changed."""
        if isinstance(self._draft, OwnHeads):
            self._draft.refill()

    def stepped(self, rows: int, seconds: float) -> None:
        """A step of answers alone took so long, beside the time for guessing."""
        self._pace.times.add(rows, seconds)

    def release(self, running: Running) -> None:
        self._tracks.pop(running, None)
        if self._lookup is not None:
            self._lookup.release(running)
        if self._draft is not None:
            self._draft.release(running)

    def _candidate(self, running: Running, limit: int) -> _Candidate | None:
        """The better of what is to be had for an answer."""
        track = self._tracks.setdefault(running, _Track())
        self._settle(running, track)
        found = None
        if self._lookup is not None:
            found = self._lookup.propose(running, limit)
        asks = self._draft is not None and not track.resting
        track.resting = max(0, track.resting - 1)
        from_draft = _Candidate(running, Source(True), (), limit)
        if found is None:
            return from_draft if asks else None
        from_text = _Candidate(running, Source(False, found.match), _before_end(running, found.tokens), limit)
        if asks and self._rate(running, from_draft.source) > self._rate(running, from_text.source):
            return from_draft
        return from_text

    def _ask(self, wishes: Sequence[tuple[_Candidate, int]]) -> dict[Running, list[int]]:
        if not wishes or self._draft is None:
            return {}
        limits = {c.running: length or min(c.limit, _WATCHED) for c, length in wishes}
        started = self._clock()
        guesses = self._draft.propose(limits)
        depth = max(map(len, guesses.values()), default=0)
        if depth:
            self._deep.append((self._clock() - started) / depth)
        return guesses

    def _watch(self, candidate: _Candidate, tokens: Sequence[int], rest: int) -> None:
        track = self._tracks[candidate.running]
        if candidate.source.draft:
            track.resting = rest
        if tokens:
            watched = _Watched(candidate.source, candidate.running.length, tokens)
            track.watched[candidate.source.draft] = watched

    def _settle(self, running: Running, track: _Track) -> None:
        """Compare what was watched with what came."""
        for draft, (source, length, tokens) in list(track.watched.items()):
            came = running.tokens(length, running.length)[: len(tokens)]
            held = same_beginning(tokens, came)
            for acceptance in self._acceptances(track, source):
                acceptance.add(held, failed=held < len(came))
            if held < len(came) or held == len(tokens):
                del track.watched[draft]
            else:
                track.watched[draft] = _Watched(source, length + held, tokens[held:])

    def _rate(self, running: Running, source: Source) -> float:
        return self._acceptances(self._tracks[running], source)[0].rate

    def _acceptances(self, track: _Track, source: Source) -> tuple[Acceptance, Acceptance]:
        """Of this answer and of all; a new answer begins with what is known of all."""
        everyone = self._everyone.setdefault(source, Acceptance())
        mine = track.rates.get(source)
        if mine is None:
            mine = track.rates[source] = Acceptance(everyone.rate)
        return mine, everyone


def may_guess(generation: Generation) -> bool:
    """Not at answers that follow a grammar, whose state would have to go back too, nor where decoding heads choose by a law of
    each position."""
    return generation.matcher is None and not generation.learned


def same_beginning(guesses: Sequence[int], tokens: Sequence[int]) -> int:
    """How many of the first tokens are alike."""
    pairs = enumerate(zip(guesses, tokens, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(guesses), len(tokens)))


def _before_end(running: Running, tokens: list[int]) -> list[int]:
    """A guess that the answer ends needs no row: if it holds, nothing follows."""
    stops = running.generation.stop_ids
    return tokens[: next((place for place, token in enumerate(tokens) if token in stops), len(tokens))]
