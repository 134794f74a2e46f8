"""Overlap between what is trained on and what is held out: 13 words (eojeol) or 50 characters in a row.

Every such run of the held-out documents is hashed to 64 bits, and train is scanned for them. A train document that is
identical to a held-out one is always a leak; otherwise shared scaffold is excluded: a run counts only if neither it
nor one of its two halves stands in many groups of documents. So a licence line, or a template with a word or two of
filling around it, is no leak.

Generated dialogues (`meta.clean` = "exempt") share their sentences by design: the same fact is asked in training
with one template and in the test with another. Between them and the rest of their corpus only identity counts; an
evaluation set that the user names is held against them all the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hanok.data.grams import Batch, Runs

_HELD, _INTERNAL, _NAMED = np.uint8(0), np.uint8(1), np.uint8(2)
_MOST_PAIRS = 4_000_000
_MOST_WINDOWS = 20_000_000
_BATCH_CHARACTERS = 1_000_000
_LOW = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)


@dataclass(frozen=True, slots=True)
class Text:
    """A document as this page sees it.

    Args:
        name: its id. group: number of its group. by_design: generated; overlaps within the corpus are intended.
    """

    name: str
    group: int
    text: str
    by_design: bool = False


@dataclass(frozen=True, slots=True)
class Leak:
    """A train document to take out, and the held-out document with which it shares a run.

    Args:
        kind: "identical", "words" or "characters". run: hash of the shared run.
    """

    name: str
    held_out: str
    kind: str
    run: int = 0


class LeakFinder:
    """First `hold` everything held out, then `scan` train, then ask for `leaks`."""

    def __init__(self, *, words: int, characters: int, scaffold_groups: int) -> None:
        self.words, self.characters, self.scaffold_groups = words, characters, scaffold_groups
        self._documents = _Documents([], [], [])
        self._waiting: list[Text] = []
        self._waiting_size = 0
        self._waiting_named = False
        self._held: list[tuple[Runs, np.uint8]] = []
        self._identities: dict[bytes, str] = {}
        self._identical: list[Leak] = []
        self._runs: _HeldRuns | None = None

    def hold(self, text: Text, *, named: bool = False) -> None:
        """A held-out document; `named`: from an evaluation set that the user named."""
        assert self._runs is None, "hold everything before scanning"
        if not named:
            self._identities.setdefault(_identity(text.text), text.name)
            if text.by_design:
                return
        if named != self._waiting_named:
            self._flush_held()
        self._waiting_named = named
        self._wait(text)
        if self._waiting_size >= _BATCH_CHARACTERS:
            self._flush_held()

    def scan(self, text: Text) -> None:
        """A train document."""
        if self._runs is None:
            self._flush_held()
            self._runs = _HeldRuns(self._held, self.scaffold_groups)
            self._held = []
        twin = self._identities.get(_identity(text.text))
        if twin is not None:
            self._identical.append(Leak(text.name, twin, "identical"))
        self._wait(text)
        if self._waiting_size >= _BATCH_CHARACTERS:
            self._flush_scanned()

    def leaks(self) -> dict[str, Leak]:
        """Train documents that overlap, by name."""
        found = {leak.name: leak for leak in self._identical}
        if self._runs is None:
            return found
        self._flush_scanned()
        names, permitted = self._documents.names, np.array(self._documents.permitted, dtype=np.uint8)
        for run, document in self._runs.overlaps(self._documents.groups, permitted):
            name = names[document]
            if name not in found:
                value = int(self._runs.spread.hashes[run])
                source = names[int(self._runs.sources[run])]
                found[name] = Leak(name, source, "words" if value % 2 else "characters", value)
        return found

    def shared_text(self, leak: Leak, text: str) -> str:
        """The part of the train document `text` that the leak is about, for a report."""
        if leak.kind == "identical":
            return text[:200]
        batch = Batch([text], [0])
        runs = batch.words(self.words) if leak.kind == "words" else batch.characters(self.characters)
        place = int(np.flatnonzero(runs.hashes == np.uint64(leak.run))[0])
        return text[int(runs.starts[place]) : int(runs.ends[place])]

    @property
    def scaffold_runs(self) -> int:
        """How many different held-out runs were taken for shared scaffold, whole or by a half."""
        return 0 if self._runs is None else int(self._runs.scaffold().sum())

    def _wait(self, text: Text) -> None:
        self._waiting.append(text)
        self._waiting_size += len(text.text)

    def _take_waiting(self, permitted: Sequence[int]) -> list[Runs]:
        numbers = self._documents.add(self._waiting, permitted)
        batch = Batch([text.text for text in self._waiting], numbers)
        self._waiting, self._waiting_size = [], 0
        return [batch.words(self.words), batch.characters(self.characters)]

    def _flush_held(self) -> None:
        if self._waiting:
            flag = _NAMED if self._waiting_named else _INTERNAL
            held = self._take_waiting([int(_HELD)] * len(self._waiting))
            self._held += [(runs, flag) for runs in held]

    def _flush_scanned(self) -> None:
        if self._waiting:
            assert self._runs is not None
            allowed = [int(_NAMED) if text.by_design else int(_NAMED | _INTERNAL) for text in self._waiting]
            for runs in self._take_waiting(allowed):
                self._runs.meet(runs, self._documents.groups)


@dataclass(slots=True)
class _Documents:
    """By number: name, group, and which runs count against it (none against what is held out itself)."""

    names: list[str]
    groups: list[int]
    permitted: list[int]

    def add(self, texts: Sequence[Text], permitted: Sequence[int]) -> range:
        first = len(self.names)
        self.names += [text.name for text in texts]
        self.groups += [text.group for text in texts]
        self.permitted += permitted
        return range(first, len(self.names))


class _HeldRuns:
    """All held-out runs with their halves, and where else they were met."""

    def __init__(self, held: Sequence[tuple[Runs, np.uint8]], scaffold_groups: int) -> None:
        size = sum(len(runs.hashes) for runs, _ in held)
        # of a very large held-out set every n-th run is kept: overlaps n longer than the least are found
        stride = size // _MOST_WINDOWS + 1

        def join(name: str) -> np.ndarray:
            parts = [getattr(runs, name)[::stride] for runs, _ in held]
            return np.concatenate([np.empty(0, np.int64 if name == "documents" else np.uint64), *parts])

        hashes, documents, first_halves, last_halves = map(
            join, ("hashes", "documents", "first_halves", "last_halves")
        )
        flags = np.concatenate(
            [np.empty(0, np.uint8), *(np.full(len(runs.hashes[::stride]), flag) for runs, flag in held)]
        )
        self.spread = _Spread(hashes, scaffold_groups)
        self.halves = _Spread(np.concatenate([first_halves, last_halves]), scaffold_groups)
        place = np.searchsorted(self.spread.hashes, hashes)
        self.flags = np.zeros(len(self.spread.hashes), dtype=np.uint8)
        np.bitwise_or.at(self.flags, place, flags)
        self.sources, self._first, self._last = (
            np.zeros(len(self.spread.hashes), np.int64) for _ in range(3)
        )
        self.sources[place] = documents
        self._first[place] = np.searchsorted(self.halves.hashes, first_halves)
        self._last[place] = np.searchsorted(self.halves.hashes, last_halves)
        self._from_held = [(runs.half_hashes, runs.half_documents) for runs, _ in held], (hashes, documents)

    def meet(self, runs: Runs, groups: Sequence[int]) -> None:
        """Runs of train documents."""
        self._meet_held(groups)
        self.spread.meet(runs.hashes, runs.documents, groups)
        self.halves.meet(runs.half_hashes, runs.half_documents, groups)

    def scaffold(self) -> np.ndarray:
        """Which runs are scaffold, whole or by a half."""
        halves = self.halves.scaffold
        return self.spread.scaffold | (halves[self._first] | halves[self._last] if len(halves) else False)

    def overlaps(self, groups: Sequence[int], permitted: np.ndarray) -> list[tuple[int, int]]:
        """(run, document) where a run that is no scaffold counts against the document; by document."""
        self.spread.settle(groups)
        self.halves.settle(groups)
        runs, documents = self.spread.met()
        counts = ((self.flags[runs] & permitted[documents]) != 0) & ~self.scaffold()[runs]
        return sorted(
            zip(runs[counts].tolist(), documents[counts].tolist(), strict=True), key=lambda pair: pair[1]
        )

    def _meet_held(self, groups: Sequence[int]) -> None:
        """What is held out counts as a place where a run stands, too."""
        halves, whole = self._from_held
        for hashes, documents in halves:
            self.halves.meet(hashes, documents, groups)
        if len(whole[0]):
            self.spread.meet(*whole, groups)
        self._from_held = [], (np.empty(0, np.uint64), np.empty(0, np.int64))


class _Spread:
    """In which documents given hashes are met. Those of more groups than allowed are scaffold and looked up no more.

    A table of bits stands in front of the sorted hashes and answers "surely not" quickly.
    """

    def __init__(self, hashes: np.ndarray, scaffold_groups: int) -> None:
        self.hashes = _unique(hashes)
        self.scaffold = np.zeros(len(self.hashes), dtype=bool)
        self._scaffold_groups = scaffold_groups
        bits = min(max(int(np.ceil(np.log2(32 * max(len(self.hashes), 1)))), 16), 26)
        self._shift = np.uint64(64 - bits)
        self._table = np.zeros(1 << bits, dtype=bool)
        self._table[self.hashes >> self._shift] = True
        self._pairs: list[np.ndarray] = []
        self._num_pairs = 0

    def meet(self, hashes: np.ndarray, documents: np.ndarray, groups: Sequence[int]) -> None:
        if not len(self.hashes):
            return
        maybe = np.flatnonzero(self._table[hashes >> self._shift])
        hashes, documents = hashes[maybe], documents[maybe]
        place = np.minimum(np.searchsorted(self.hashes, hashes), len(self.hashes) - 1)
        real = (self.hashes[place] == hashes) & ~self.scaffold[place]
        pairs = (place[real].astype(np.uint64) << _SHIFT) | documents[real].astype(np.uint64)
        self._pairs.append(_unique(pairs))
        self._num_pairs += len(self._pairs[-1])
        if self._num_pairs > _MOST_PAIRS:
            self.settle(groups)

    def met(self) -> tuple[np.ndarray, np.ndarray]:
        """(hash's number, document) of those that are no scaffold."""
        pairs = np.concatenate([np.empty(0, np.uint64), *self._pairs])
        return (pairs >> _SHIFT).astype(np.int64), (pairs & _LOW).astype(np.int64)

    def settle(self, groups: Sequence[int]) -> None:
        """Find the scaffold and forget where it stands."""
        places, documents = self.met()
        by_group = (
            np.array(groups, dtype=np.uint64)[documents] if len(documents) else documents.astype(np.uint64)
        )
        distinct = _unique((places.astype(np.uint64) << _SHIFT) | by_group) >> _SHIFT
        self.scaffold |= (
            np.bincount(distinct.astype(np.int64), minlength=len(self.hashes)) > self._scaffold_groups
        )
        keep = ~self.scaffold[places]
        self._pairs = [(places[keep].astype(np.uint64) << _SHIFT) | documents[keep].astype(np.uint64)]
        self._num_pairs = len(self._pairs[0])


def _unique(values: np.ndarray) -> np.ndarray:
    """Sorted, each once: `np.unique` hashes integers, which takes several times as long as this."""
    values = np.sort(values)
    return values[np.concatenate([[True], values[1:] != values[:-1]])] if len(values) else values


def _identity(text: str) -> bytes:
    plain = " ".join(text.lower().split())
    return hashlib.blake2b(plain.encode("utf-8", "surrogatepass"), digest_size=16).digest()
