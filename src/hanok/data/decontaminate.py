"""Overlap between what is trained on and what is held out: 13 words (eojeol) or 50 characters in a row.

Every run of `words` words and of `characters` characters of the held-out documents is hashed to 64 bits; train is
scanned for them, whole batches at a time in numpy. A run that stands in many groups of documents is shared scaffold
(a template, a licence line), not a leak. Words are compared without case and punctuation, characters without case
and with every stretch of white space as one space. A train document identical to a held-out one is always a leak.

Generated dialogues (`meta.clean` = "exempt") share their sentences by design: the same fact is asked in training
with one template and in the test with another. Between them and the rest of their corpus only identity counts; an
evaluation set that the user names is held against them all the same.

Legend: c_N characters of a batch as code points, doc_N the document of each; h_W hashes of windows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

_INTERNAL, _NAMED = np.uint8(1), np.uint8(2)
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_WORD_SALT = np.uint64(0xD6E8FEB86659FD93)
_LONGEST_WORD = 4096
_MOST_PAIRS = 4_000_000
_MOST_WINDOWS = 20_000_000
_BATCH_CHARACTERS = 1_000_000


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
    """A train document to take out: what it shares with which held-out document."""

    name: str
    held_out: str
    kind: str  # "identical", "words" or "characters"
    shared: str


class LeakFinder:
    """First `hold` everything held out, then `scan` train, then ask for `leaks`."""

    def __init__(self, *, words: int, characters: int, scaffold_groups: int) -> None:
        self.words, self.characters, self.scaffold_groups = words, characters, scaffold_groups
        self._names: list[str] = []
        self._groups: list[int] = []
        self._permitted: list[int] = []  # which grams count against a document; 0: it is held out itself
        self._waiting: list[Text] = []
        self._waiting_size = 0
        self._held: list[tuple[np.ndarray, np.ndarray, np.uint8]] = []
        self._held_named = False
        self._identities: dict[bytes, str] = {}
        self._identical: list[tuple[str, str, str]] = []
        self._index: _Index | None = None
        self._pairs: list[np.ndarray] = []
        self._num_pairs = 0

    def hold(self, text: Text, *, named: bool = False) -> None:
        """A held-out document; `named`: from an evaluation set that the user named."""
        assert self._index is None, "hold everything before scanning"
        if not named:
            self._identities.setdefault(_identity(text.text), text.name)
            if text.by_design:
                return
        if self._waiting and named != self._held_named:
            self._flush_held()
        self._held_named = named
        self._wait(text)
        if self._waiting_size >= _BATCH_CHARACTERS:
            self._flush_held()

    def scan(self, text: Text) -> None:
        """A train document."""
        if self._index is None:
            self._flush_held()
            self._build()
        twin = self._identities.get(_identity(text.text))
        if twin is not None:
            self._identical.append((text.name, twin, text.text))
        self._wait(text)
        if self._waiting_size >= _BATCH_CHARACTERS:
            self._flush_scanned()

    def leaks(self) -> list[Leak]:
        """Train documents that overlap, in the order in which they were scanned (identical ones first)."""
        self._flush_scanned()
        found = {name: Leak(name, twin, "identical", text[:200]) for name, twin, text in self._identical}
        if self._index is None:
            return list(found.values())
        self._settle()
        pairs = np.concatenate(self._pairs) if self._pairs else np.empty(0, np.uint64)
        grams, documents = _unpack(pairs)
        permitted = np.array(self._permitted, dtype=np.uint8)[documents]
        counts = (self._index.flags[grams] & permitted) != 0
        for gram, document in sorted(
            zip(grams[counts].tolist(), documents[counts].tolist(), strict=True), key=_second
        ):
            name = self._names[document]
            if name not in found:
                held_out = self._names[self._index.sources[gram]]
                kind = "words" if self._index.is_words[gram] else "characters"
                found[name] = Leak(name, held_out, kind, f"{int(self._index.hashes[gram]):016x}")
        return list(found.values())

    def shared_text(self, leak: Leak, text: str) -> str:
        """The words or characters of the train document `text` that the leak is about, for a report."""
        if leak.kind == "identical":
            return leak.shared
        wanted = np.uint64(int(leak.shared, 16))
        batch = _Batch([text], [0])
        if leak.kind == "words":
            hashes, _, starts, ends = batch.word_grams(self.words)
        else:
            hashes, _, starts, ends = batch.character_grams(self.characters)
        place = int(np.flatnonzero(hashes == wanted)[0])
        return text[int(starts[place]) : int(ends[place])]

    def _wait(self, text: Text) -> None:
        self._waiting.append(text)
        self._waiting_size += len(text.text)

    def _take_waiting(self, permitted: Sequence[int]) -> _Batch:
        first = len(self._names)
        self._names += [text.name for text in self._waiting]
        self._groups += [text.group for text in self._waiting]
        self._permitted += permitted
        texts = [text.text for text in self._waiting]
        self._waiting, self._waiting_size = [], 0
        return _Batch(texts, range(first, first + len(texts)))

    def _flush_held(self) -> None:
        if self._waiting:
            flag = _NAMED if self._held_named else _INTERNAL
            batch = self._take_waiting([0] * len(self._waiting))
            for hashes, documents in batch.grams(self.words, self.characters):
                self._held.append((hashes, documents, flag))

    def _build(self) -> None:
        self._index = _Index.build(self._held)
        self._held = []
        self._remember(self._index.held_pairs)

    def _flush_scanned(self) -> None:
        if not self._waiting:
            return
        assert self._index is not None
        allowed = [int(_NAMED) if text.by_design else int(_NAMED | _INTERNAL) for text in self._waiting]
        batch = self._take_waiting(allowed)
        for hashes, documents in batch.grams(self.words, self.characters):
            self._remember(self._index.find(hashes, documents))

    def _remember(self, pairs: np.ndarray) -> None:
        if len(pairs):
            self._pairs.append(pairs)
            self._num_pairs += len(pairs)
            if self._num_pairs > _MOST_PAIRS:
                self._settle()

    def _settle(self) -> None:
        """Mark the grams of more groups than allowed as scaffold and forget their pairs."""
        assert self._index is not None
        if not self._pairs:
            return
        pairs = np.concatenate(self._pairs)
        grams, documents = _unpack(pairs)
        groups = np.array(self._groups, dtype=np.uint64)[documents]
        in_group = np.unique((grams.astype(np.uint64) << np.uint64(32)) | groups) >> np.uint64(32)
        spread = np.bincount(in_group.astype(np.int64), minlength=len(self._index.hashes))
        self._index.scaffold |= spread > self.scaffold_groups
        self._pairs = [pairs[~self._index.scaffold[grams]]]
        self._num_pairs = len(self._pairs[0])

    @property
    def scaffold_grams(self) -> int:
        """How many held-out runs were taken for shared scaffold."""
        return 0 if self._index is None else int(self._index.scaffold.sum())


class _Index:
    """Hashes of held-out runs, sorted, with a bit table in front that answers "surely not" quickly."""

    def __init__(
        self, hashes: np.ndarray, sources: np.ndarray, flags: np.ndarray, held_pairs: np.ndarray
    ) -> None:
        self.hashes, self.sources, self.flags, self.held_pairs = hashes, sources, flags, held_pairs
        self.is_words = (hashes & np.uint64(1)) == 1
        self.scaffold = np.zeros(len(hashes), dtype=bool)
        bits = min(max(int(np.ceil(np.log2(16 * max(len(hashes), 1)))), 16), 27)
        self._shift = np.uint64(64 - bits)
        self._table = np.zeros(1 << bits, dtype=bool)
        self._table[hashes >> self._shift] = True

    @classmethod
    def build(cls, held: Sequence[tuple[np.ndarray, np.ndarray, np.uint8]]) -> _Index:
        size = sum(len(hashes) for hashes, _, _ in held)
        stride = (
            size // _MOST_WINDOWS + 1
        )  # very large held-out sets: every n-th run, so overlaps n longer are found
        held = [(hashes[::stride], documents[::stride], flag) for hashes, documents, flag in held]
        if not held:
            empty = np.empty(0, dtype=np.uint64)
            return cls(empty, np.empty(0, dtype=np.int64), np.empty(0, dtype=np.uint8), empty)
        hashes = np.concatenate([hashes for hashes, _, _ in held])
        documents = np.concatenate([documents for _, documents, _ in held])
        flags = np.concatenate([np.full(len(hashes), flag) for hashes, _, flag in held])
        order = np.argsort(hashes, kind="stable")
        hashes, documents, flags = hashes[order], documents[order], flags[order]
        first = np.flatnonzero(np.concatenate([[True], hashes[1:] != hashes[:-1]]))
        number = np.cumsum(np.concatenate([[0], (hashes[1:] != hashes[:-1]).astype(np.int64)]))
        pairs = np.unique(_pack(number, documents))
        return cls(hashes[first], documents[first], np.bitwise_or.reduceat(flags, first), pairs)

    def find(self, hashes: np.ndarray, documents: np.ndarray) -> np.ndarray:
        """Pairs (gram, document) of those that are held out and not scaffold."""
        if not len(self.hashes):
            return np.empty(0, dtype=np.uint64)
        maybe = np.flatnonzero(self._table[hashes >> self._shift])
        hashes, documents = hashes[maybe], documents[maybe]
        place = np.minimum(np.searchsorted(self.hashes, hashes), len(self.hashes) - 1)
        real = (self.hashes[place] == hashes) & ~self.scaffold[place]
        return np.unique(_pack(place[real], documents[real]))


class _Batch:
    """Several texts as one array of code points; windows never cross from one text to the next."""

    def __init__(self, texts: Sequence[str], numbers: Sequence[int]) -> None:
        lengths = np.array([len(text) for text in texts])
        self.codes = np.frombuffer("".join(texts).encode("utf-32-le"), dtype=np.uint32)
        self.doc_N = np.repeat(np.array(numbers, dtype=np.int64), lengths)

    def grams(self, words: int, characters: int) -> list[tuple[np.ndarray, np.ndarray]]:
        return [self.word_grams(words)[:2], self.character_grams(characters)[:2]]

    def character_grams(self, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Hash (even), document, start and end in the batch of every window of `size` characters."""
        c_N = _lower(self.codes)
        space = c_N == 32
        keep = np.flatnonzero(~(space & np.concatenate([[False], space[:-1]])))
        doc_N = self.doc_N[keep]
        if len(keep) < size:
            return _NOTHING
        h_W = _windows(_mix(c_N[keep].astype(np.uint64)), size) & ~np.uint64(1)
        last = size - 1
        whole = np.flatnonzero(doc_N[: len(doc_N) - last] == doc_N[last:])
        return h_W[whole], doc_N[whole], keep[whole], keep[whole + last] + 1

    def word_grams(self, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Hash (odd), document, start and end in the batch of every window of `size` words."""
        c_N = _letters(self.codes)
        letter = c_N != 0
        same = np.concatenate([[False], (self.doc_N[1:] == self.doc_N[:-1]) & letter[:-1]])
        starts = np.flatnonzero(letter & ~same)
        if len(starts) < size:
            return _NOTHING
        inside = np.flatnonzero(letter)
        bounds = np.searchsorted(inside, starts)
        position = np.arange(len(inside)) - np.repeat(bounds, np.diff(np.append(bounds, len(inside))))
        weighted = _mix(c_N[inside].astype(np.uint64)) * _powers()[position % _LONGEST_WORD]
        word_hashes = np.add.reduceat(weighted, bounds)
        ends = np.append(inside[bounds[1:] - 1], inside[-1]) + 1
        doc_N = self.doc_N[starts]
        h_W = _windows(_mix(word_hashes ^ _WORD_SALT), size) | np.uint64(1)
        last = size - 1
        whole = np.flatnonzero(doc_N[: len(doc_N) - last] == doc_N[last:])
        return h_W[whole], doc_N[whole], starts[whole], ends[whole + last]


_NOTHING = (np.empty(0, np.uint64), np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.int64))


def _windows(h_N: np.ndarray, size: int) -> np.ndarray:
    """A hash of every window of `size` values, by doubling: windows of 2, 4, 8 ... put together."""
    power, total, result = 1, 0, np.empty(0, dtype=np.uint64)
    count = len(h_N) - size + 1
    while True:
        if size & power:
            part = h_N[total : total + count]
            result = _mix(result * _MULTIPLIER + part) if total else part.copy()
            total += power
        if total == size:
            return result
        h_N = _mix(h_N[:-power] * _MULTIPLIER + h_N[power:])
        power *= 2


def _mix(x: np.ndarray) -> np.ndarray:
    """Spread every bit over the word (two rounds of splitmix64)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@cache
def _powers() -> np.ndarray:
    return np.cumprod(np.full(_LONGEST_WORD, _MULTIPLIER))


@cache
def _tables() -> tuple[np.ndarray, np.ndarray]:
    """By code point of the basic plane: lower case with white space as U+0020, and lower-case letters and digits or 0."""
    lower = np.arange(0x10000, dtype=np.uint32)
    letters = np.zeros(0x10000, dtype=np.uint32)
    for code in range(0x10000):
        character = chr(code)
        small = character.lower()
        lower[code] = 32 if character.isspace() else ord(small[0])
        letters[code] = ord(small[0]) if character.isalnum() else 0
    return lower, letters


def _lower(codes: np.ndarray) -> np.ndarray:
    return np.where(codes < 0x10000, _tables()[0][np.minimum(codes, 0xFFFF)], codes)


def _letters(codes: np.ndarray) -> np.ndarray:
    return np.where(codes < 0x10000, _tables()[1][np.minimum(codes, 0xFFFF)], codes)


def _identity(text: str) -> bytes:
    return hashlib.blake2b(
        " ".join(text.lower().split()).encode("utf-8", "surrogatepass"), digest_size=16
    ).digest()


def _pack(grams: np.ndarray, documents: np.ndarray) -> np.ndarray:
    return (grams.astype(np.uint64) << np.uint64(32)) | documents.astype(np.uint64)


def _unpack(pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return (pairs >> np.uint64(32)).astype(np.int64), (pairs & np.uint64(0xFFFFFFFF)).astype(np.int64)


def _second(pair: tuple[int, int]) -> int:
    return pair[1]
