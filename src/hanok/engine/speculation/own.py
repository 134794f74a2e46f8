"""Guesses from the model's own heads for later tokens (DeepSeek-V3, arXiv 2412.19437, section 2.2; `FutureHead` in
`models/decoder.py`).

Head k reads, at place i of a text, what stands behind place i (of head 0: the model's hidden vector; of the others: the vector of
the head before it) joined with the embedding of token i + k + 1, and so predicts token i + k + 2. Behind the last head, that head
goes on with its own vectors, a place further each time. A chain of guesses, then: no tree.

A head's row is certain once its token is part of the text; what it read of guesses is written over, or, in a recurrent block,
taken back. The model's hidden vectors of a text are kept until head 0 has read them, the last `KEEP` at most: a head that was not
asked for long, or whose text's beginning came from the cache, begins there, as if the text did.

N rows of a step, n rows of one text, D model width, V vocabulary.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hanok.engine.blocks import BLOCK
from hanok.engine.coverage import block_bytes
from hanok.engine.native import NativeDecoder
from hanok.engine.running import Running
from hanok.engine.sampler import Choice, choose
from hanok.engine.speculation.draft import draw_behind, ends
from hanok.models.decoder import Decoder, FutureHead

KEEP = 512  # hidden vectors of a text that wait to be read
READ_ROWS = 512  # rows that a head reads in one call to catch up
CACHE_BYTES = 256 << 20  # of all heads together, at most


@dataclass(slots=True, eq=False)
class _Place:
    """How far a head is with a text.

    Args:
        slot, spare: of states; the spare one keeps those of certain rows while guesses are read.
        first: place in the text of the first row in the head's cache. fed: certain rows that were read.
        waiting: what stands behind the places that come next.
        saved: the certain states lie in the spare slot.
    """

    slot: int
    spare: int
    first: int = 0
    fed: int = 0
    waiting: list[Tensor] = field(default_factory=list)
    blocks: list[int] = field(default_factory=list)
    saved: bool = False

    @property
    def begin(self) -> int:
        """The next place in the text to be read for certain."""
        return self.first + self.fed

    @property
    def end(self) -> int:
        """The place behind those whose vectors wait."""
        return self.begin + sum(map(len, self.waiting))

    def append(self, start: int, rows_nD: Tensor) -> None:
        """Vectors behind the places from `start` on; those that are known are passed over."""
        if start > self.end or not (self.fed or self.waiting):
            self.restart(start)
        new_nD = rows_nD[self.end - start :]
        if len(new_nD):
            self.waiting.append(new_nD.clone())
        surplus = self.end - self.begin - KEEP
        if surplus > 0:
            self.first, self.fed = self.begin + surplus, 0
            self._drop(surplus)

    def restart(self, start: int) -> None:
        """Nothing before this place in the text counts any more."""
        self.first, self.fed, self.waiting = start, 0, []

    def settle(self) -> None:
        """Guesses were made: the certain states are those that count."""
        if self.saved:
            self.slot, self.spare, self.saved = self.spare, self.slot, False

    def read(self, rows: int) -> None:
        """So many of those that waited were read for certain."""
        self._drop(rows)
        self.fed += rows

    def _drop(self, rows: int) -> None:
        while rows:
            here = min(rows, len(self.waiting[0]))
            self.waiting[0] = self.waiting[0][here:]
            rows -= here
            if not len(self.waiting[0]):
                del self.waiting[0]


class _Feed(NamedTuple):
    """Rows of one text for a head. begin: place in the text of the first. certain: so many of the first rest on no guess."""

    place: _Place
    begin: int
    rows_nD: Tensor
    ids: Sequence[int]
    certain: int


class OwnHeads:
    """Args:
    decoder: with heads. target: which runs it. vocabulary: ids from here on are never guessed. texts: at once, at most.
    """

    def __init__(
        self, decoder: Decoder, target: NativeDecoder, *, vocabulary: int, texts: int, threads: int
    ) -> None:
        assert len(decoder.mtp), "the model has no heads"
        self._vocabulary = vocabulary
        self._heads = [_Head(decoder, depth, target, texts, threads) for depth in range(len(decoder.mtp))]
        self._places: dict[Running, list[_Place]] = {}
        self._free = list(zip(range(texts), self._heads[0].model.spares, strict=True))

    def observe(self, running: Running, start: int, hidden_nD: Tensor) -> None:
        """The model's hidden vectors behind places of a text, from `start` on."""
        if running not in self._places:
            if not self._free:
                return
            slot, spare = self._free.pop()
            self._places[running] = [_Place(slot, spare) for _ in self._heads]
        self._places[running][0].append(start, hidden_nD)

    def propose(self, limits: Mapping[Running, int]) -> dict[Running, list[int]]:
        """At most so many tokens for each text; only of those that the heads can read in one go and have room for."""
        going = self._ready(limits)
        guesses: dict[Running, list[int]] = {running: [] for running in going}
        behind: dict[Running, Tensor] = {}  # vectors that rest on guesses
        depth = 0
        while going:
            feeds = {r: feed for r in going if (feed := self._feed(r, guesses[r], behind.get(r), depth))}
            if not feeds:
                break
            logits_BV, outs = self._head(depth).read(list(feeds.values()))
            for (running, feed), out_nD in zip(feeds.items(), outs, strict=True):
                behind[running] = self._keep(running, feed, out_nD, depth)
            draws = [draw_behind(running, guesses[running]) for running in feeds]
            going = []
            chosen = choose(logits_BV[:, : self._vocabulary], draws, self._head(depth).model.crew)
            for running, choice in zip(feeds, chosen, strict=True):
                if not isinstance(choice, Choice):
                    continue
                guesses[running].append(choice.token)
                if len(guesses[running]) < limits[running] and not ends(running, guesses[running]):
                    going.append(running)
            depth += 1
        for running, tokens in guesses.items():
            if ends(running, tokens):
                tokens.pop()
            for place in self._places[running]:
                place.settle()
        return guesses

    def refill(self) -> None:
        """Take the decoder's weights anew."""
        for head in self._heads:
            head.model.refill()

    def release(self, running: Running) -> None:
        places = self._places.pop(running, None)
        if places is None:
            return
        self._free.append((places[0].slot, places[0].spare))
        for head, place in zip(self._heads, places, strict=True):
            head.model.pool.give_back(place.blocks)

    def check(self) -> None:
        """No block or slot is lost or held twice. For tests."""
        for depth, head in enumerate(self._heads):
            places = [places[depth] for places in self._places.values()]
            head.model.pool.check([place.blocks for place in places])
            slots = [number for place in places for number in (place.slot, place.spare)]
            slots += [number for pair in self._free for number in pair]
            assert sorted(slots) == sorted([*range(head.model.slots), *head.model.spares])

    def _head(self, depth: int) -> _Head:
        return self._heads[min(depth, len(self._heads) - 1)]

    def _ready(self, limits: Mapping[Running, int]) -> list[Running]:
        """Those whose vectors are all there, as far as one call reads them; with blocks for what they will read."""
        ready, room = [], READ_ROWS
        for running, limit in limits.items():
            places = self._places.get(running)
            if places is None or not places[0].waiting or places[0].end != running.length - 1:
                continue
            rows = max(place.end - place.begin for place in places)
            if (rows <= room or not ready) and self._make_room(places, running.length + limit):
                room -= rows
                ready.append(running)
        return ready

    def _make_room(self, places: Sequence[_Place], length: int) -> bool:
        for head, place in zip(self._heads, places, strict=True):
            missing = -(-(length - place.first) // BLOCK) - len(place.blocks)
            if missing > head.model.pool.free:
                return False
            place.blocks += head.model.pool.take(max(0, missing))
        return True

    def _feed(
        self, running: Running, guesses: Sequence[int], behind_nD: Tensor | None, depth: int
    ) -> _Feed | None:
        """What a guess needs to be read; None: a recurrent head could not take it back."""
        last = running.length - 2  # the place that the model itself has read last
        further = depth - len(self._heads) + 1  # the last head's guesses at its own
        if further > 0:
            assert behind_nD is not None
            place = self._places[running][-1]
            return _Feed(place, last + further, behind_nD, guesses[-1:], 0)
        place = self._places[running][depth]
        behind = 0 if behind_nD is None else len(behind_nD)
        if place.end + behind != last + 1:
            place.restart(last + 1 - behind)
        certain = max(0, last - depth + 1 - place.begin)
        if self._heads[depth].model.recurrent and place.fed and not certain:
            return None
        rows_nD = torch.cat([*place.waiting, *([] if behind_nD is None else [behind_nD])])
        first = place.begin + depth + 1
        ids = [*running.tokens(first, running.length), *guesses][-len(rows_nD) :]
        return _Feed(place, place.begin, rows_nD, ids, certain)

    def _keep(self, running: Running, feed: _Feed, out_nD: Tensor, depth: int) -> Tensor:
        """Note what was read; returns the vectors that rest on guesses, or, behind the last head, the last one."""
        if depth >= len(self._heads):
            return out_nD[-1:]
        if feed.certain:
            feed.place.read(feed.certain)
            feed.place.saved = self._heads[depth].model.recurrent
        if depth + 1 == len(self._heads):
            return out_nD[-1:]
        if feed.certain:
            self._places[running][depth + 1].append(feed.begin, out_nD[: feed.certain])
        return out_nD[feed.certain :]


class _Head:
    """Norms and join in PyTorch, block and vocabulary on the kernels; the latter's matrix is the model's own."""

    def __init__(self, decoder: Decoder, depth: int, target: NativeDecoder, texts: int, threads: int) -> None:
        head = decoder.mtp[depth]
        assert isinstance(head, FutureHead)
        self._head, self._embedding = head, decoder.embed_tokens
        alone = _as_decoder(decoder, head)
        blocks = -(-decoder.config.max_context // BLOCK) * texts
        if of_block := block_bytes(alone.config):
            blocks = max(1, min(blocks, CACHE_BYTES // len(decoder.mtp) // of_block))
        self.model = NativeDecoder(
            alone,
            kind=target.kind,
            blocks=blocks,
            threads=threads,
            slots=texts,
            spares=texts,
            head=target.head,
        )

    def read(self, feeds: Sequence[_Feed]) -> tuple[Tensor, list[Tensor]]:
        """Logits behind the last row of each text, and the vectors of all its rows."""
        ids = [token for feed in feeds for token in feed.ids]
        sizes = [len(feed.ids) for feed in feeds]
        ends_B = torch.tensor(sizes).cumsum(0)
        wanted = (ends_B - 1).tolist()
        saves = {
            end - size + feed.certain - 1: feed.place.spare
            for end, size, feed in zip(ends_B.tolist(), sizes, feeds, strict=True)
            if feed.certain and self.model.recurrent
        }
        logits_BV, hidden_ND = self.model.step_with_hidden(
            ids,
            [feed.begin - feed.place.first + row for feed in feeds for row in range(len(feed.ids))],
            [number for number, size in enumerate(sizes) for _ in range(size)],
            [feed.place.blocks for feed in feeds],
            wanted,
            [feed.place.slot for feed in feeds],
            saves,
            also=(also := sorted(set(range(len(ids))) - set(wanted))),
            inputs=self._joined(torch.cat([feed.rows_nD for feed in feeds]), torch.tensor(ids)),
        )
        out_ND = torch.empty_like(hidden_ND)
        out_ND[torch.tensor([*wanted, *also])] = hidden_ND
        return logits_BV, list(out_ND.split(sizes))

    def _joined(self, behind_ND: Tensor, ids_N: Tensor) -> Tensor:
        head = self._head
        next_ND = self._embedding(ids_N).float()
        both = torch.cat([head.hidden_norm(behind_ND), head.embedding_norm(next_ND)], dim=-1)
        return head.join(both.to(head.join.weight.dtype)).float().contiguous()


def _as_decoder(decoder: Decoder, head: FutureHead) -> Decoder:
    """A decoder of the head's block alone, which holds the same parameters."""
    config = dataclasses.replace(
        decoder.config, num_layers=1, pattern=decoder.config.layers[-1:], moe=None, mtp_layers=0,
        tie_embeddings=True, learned_positions=False,
    )  # fmt: skip
    with torch.device("meta"):
        alone = Decoder(config)
    alone.embed_tokens, alone.layers, alone.norm = (
        decoder.embed_tokens,
        nn.ModuleList([head.block]),
        head.norm,
    )
    return alone
