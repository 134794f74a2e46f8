"""Whether somebody is copying a model by asking it: what single requests look like, added up by CUSUM (Page 1954).

Of each request six things are noted: whether its prompt is new and goes on from none before (a conversation does), whether it
lies in a region of texts where none of this caller's lay yet (12 bits of a SimHash, Charikar 2002), whether it is a template
filled in anew (near an earlier one without going on from it), and whether it asks for log-probabilities, for several samples,
or greedily. Each weighs by how much more often copiers do so than others (`_RATES`); together they are the probability s that
the request is a copier's, at prior odds of one to `_PRIOR`. The score is S <- max(0, S + s - `ALLOWANCE`): about how many such
requests there were beyond what honest traffic has. It halves in a week.

Who asks for plain text alone, with prompts as varied as a crowd's, looks like a crowd, and who fills in a template greedily looks
like a programme that sorts letters: neither is found.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields

import numpy as np
from numpy.typing import NDArray

from hanok.guard.protection import ExtractionPolicy

ALLOWANCE = 0.25
HALF_LIFE = 7 * 86_400.0  # seconds
STEPS = ("", "log", "quota", "no_logprobs", "review")
_PRIOR = 7.0
# share of a copier's requests, and of others'; what the ladder's thresholds were set with
_RATES: Mapping[str, tuple[float, float]] = {
    "fresh": (0.97, 0.60), "new_cell": (0.75, 0.45), "alike": (0.35, 0.10), "logprobs": (0.60, 0.02),
    "samples": (0.20, 0.03), "greedy": (0.70, 0.30),
}  # fmt: skip
_WEIGHTS = {
    name: (math.log(copier / other), math.log((1 - copier) / (1 - other)))
    for name, (copier, other) in _RATES.items()
}
_CELL_BITS = 12
_NEAR = (
    14  # bits of 64 in which two templates filled in differently differ at most; strangers differ in 32 +- 4
)
_RECENT, _KNOWN, _BEGINNINGS = (
    256,
    4096,
    64,
)  # hashes kept: of texts, of whole prompts, of prompts that may go on
_READ = 1024  # tokens of a prompt that are looked at, its last ones
_SHINGLE = 3


@dataclass(frozen=True, slots=True)
class Signs:
    """Of one request."""

    fresh: bool
    new_cell: bool
    alike: bool
    logprobs: bool
    samples: bool
    greedy: bool

    @property
    def suspicion(self) -> float:
        """The probability that it is a copier's."""
        log_odds = -math.log(_PRIOR)
        for one in fields(self):
            log_odds += _WEIGHTS[one.name][0 if getattr(self, one.name) else 1]
        return 1 / (1 + math.exp(-log_odds))


@dataclass(slots=True)
class Sketch:
    """What is remembered of a caller's prompts: hashes alone.

    Args:
        cells: bitmap of the regions where prompts lay.
    """

    cells: NDArray[np.uint8] = field(default_factory=lambda: np.zeros(2**_CELL_BITS // 8, dtype=np.uint8))
    recent: deque[int] = field(default_factory=lambda: deque(maxlen=_RECENT))
    known: OrderedDict[bytes, None] = field(default_factory=OrderedDict)
    beginnings: deque[tuple[int, bytes]] = field(default_factory=lambda: deque(maxlen=_BEGINNINGS))
    last: NDArray[np.uint32] = field(default_factory=lambda: np.zeros(0, dtype=np.uint32))

    def look(
        self, prompt_ids: Sequence[int], *, logprobs: bool, samples: bool, greedy: bool, news: Sketch | None = None
    ) -> Signs:  # fmt: skip
        """Of the next request; remembers it. Args: news: another that is to remember it too."""
        ids_N = np.asarray(prompt_ids, dtype=np.uint32)
        digest, continued = self._digest(ids_N)
        fresh = digest not in self.known and not continued
        new_cell = alike = False
        code: int | None = None
        if fresh:
            code = simhash(ids_N[_shared(ids_N, self.last) :][-_READ:])
            new_cell = not self._has_cell(code)
            alike = any((code ^ other).bit_count() <= _NEAR for other in self.recent)
        for one in (self,) if news is None else (self, news):
            one._remember(len(ids_N), digest, code)
        self.last = ids_N[:_READ]
        return Signs(fresh, new_cell, alike, logprobs, samples, greedy)

    def take_in(self, later: Sketch) -> None:
        """What another has seen since: together they know what one would that had seen all of it."""
        self.cells |= later.cells
        self.recent.extend(later.recent)
        self.beginnings.extend(later.beginnings)
        for digest in later.known:
            self._know(digest)

    def _remember(self, length: int, digest: bytes, code: int | None) -> None:
        if code is not None:
            byte, bit = _cell(code)
            self.cells[byte] |= np.uint8(1 << bit)
            self.recent.append(code)
        self._know(digest)
        self.beginnings.append((length, digest))

    def _know(self, digest: bytes) -> None:
        self.known[digest] = None
        self.known.move_to_end(digest)
        if len(self.known) > _KNOWN:
            self.known.popitem(last=False)

    def _digest(self, ids_N: NDArray[np.uint32]) -> tuple[bytes, bool]:
        """Of the prompt, and whether it goes on from an earlier one: one pass over it."""
        raw, read, continued = ids_N.tobytes(), 0, False
        state = hashlib.blake2b(digest_size=8)
        wanted: dict[int, set[bytes]] = {}
        for length, digest in self.beginnings:
            if length < len(ids_N):
                wanted.setdefault(length, set()).add(digest)
        for length in sorted(wanted):
            state.update(raw[4 * read : 4 * length])
            read = length
            continued = continued or state.digest() in wanted[length]
        state.update(raw[4 * read :])
        return state.digest(), continued

    def _has_cell(self, code: int) -> bool:
        byte, bit = _cell(code)
        return bool(self.cells[byte] >> bit & 1)

    def packed(self) -> str:
        """As text for the store. The last prompt itself is not in it."""
        return json.dumps(
            {
                "cells": _text(self.cells.tobytes()),
                "recent": _text(np.array(self.recent, dtype=np.uint64).tobytes()),
                "known": _text(b"".join(self.known)),
                "beginnings": [[length, _text(digest)] for length, digest in self.beginnings],
            }
        )

    @classmethod
    def unpacked(cls, text: str) -> Sketch:
        """Args: text: as `packed` gives it; "": of nothing."""
        sketch = cls()
        if not text:
            return sketch
        values = json.loads(text)
        sketch.cells = np.frombuffer(_bytes(values["cells"]), dtype=np.uint8).copy()
        sketch.recent.extend(np.frombuffer(_bytes(values["recent"]), dtype=np.uint64).tolist())
        known = _bytes(values["known"])
        sketch.known.update((known[place : place + 8], None) for place in range(0, len(known), 8))
        sketch.beginnings.extend((length, _bytes(digest)) for length, digest in values["beginnings"])
        return sketch


def simhash(ids_N: NDArray[np.uint32]) -> int:
    """64 bits of a text's shingles of three tokens; texts that share most of them differ in few bits."""
    size = min(_SHINGLE, max(1, len(ids_N)))
    padded_N = ids_N if len(ids_N) else np.zeros(1, dtype=np.uint32)
    mixed = np.zeros(len(padded_N) - size + 1, dtype=np.uint64)
    for place in range(size):
        mixed = _mix(mixed ^ padded_N[place : place + len(mixed)].astype(np.uint64))
    bits = np.unpackbits(mixed.view(np.uint8)).reshape(-1, 64)
    majority = bits.sum(axis=0, dtype=np.int64) * 2 > len(bits)
    return int.from_bytes(np.packbits(majority).tobytes(), "big")


def next_score(score: float, signs: Signs, *, seconds: float) -> float:
    """Args: seconds: since the request before."""
    return max(0.0, score * _faded(seconds) + signs.suspicion - ALLOWANCE)


@dataclass(frozen=True, slots=True)
class Climb:
    """What some requests do to a score, whatever it was before them: CUSUM over them is S -> max(floor, S + gain), with all of it
    faded to the last of them. So servers that saw different requests of a caller can each add theirs to one score.

    Args:
        at: when the last of them came, in seconds; None: there were none.
    """

    floor: float = 0.0
    gain: float = 0.0
    at: float | None = None

    def then(self, later: Climb) -> Climb:
        if self.at is None or later.at is None:
            return self if later.at is None else later
        fade = _faded(later.at - self.at)
        return Climb(
            max(later.floor, self.floor * fade + later.gain), self.gain * fade + later.gain, later.at
        )

    def over(self, score: float, at: float) -> tuple[float, float]:
        """The score after them, and when. Args: at: of the score before; others may have added to it later than these came."""
        if self.at is None:
            return score, at
        now = max(at, self.at)
        mine = _faded(now - self.at)
        return max(self.floor * mine, score * _faded(now - at) + self.gain * mine), now


def climb_of(signs: Signs, at: float) -> Climb:
    """Of one request."""
    step = signs.suspicion - ALLOWANCE
    return Climb(max(0.0, step), step, at)


def _faded(seconds: float) -> float:
    return 0.5 ** (max(0.0, seconds) / HALF_LIFE)


def step_of(score: float, policy: ExtractionPolicy) -> str:
    """The highest step whose threshold is reached; "": none."""
    return next((step for step in reversed(STEPS[1:]) if score >= getattr(policy, step)), "")


def at_least(step: str, other: str) -> bool:
    return STEPS.index(step) >= STEPS.index(other)


def _shared(one_N: NDArray[np.uint32], other_N: NDArray[np.uint32]) -> int:
    """Tokens that both begin with: a system prompt says nothing about who asks."""
    size = min(len(one_N), len(other_N))
    different = np.flatnonzero(one_N[:size] != other_N[:size])
    return int(different[0]) if len(different) else size


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser."""
    values = (values + np.uint64(0x9E3779B97F4A7C15)).astype(np.uint64)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _cell(code: int) -> tuple[int, int]:
    """Its byte and its bit in the bitmap."""
    return divmod(code >> (64 - _CELL_BITS), 8)


def _text(raw: bytes) -> str:
    return base64.b85encode(raw).decode("ascii")


def _bytes(text: str) -> bytes:
    return base64.b85decode(text)
