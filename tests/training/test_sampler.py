"""Packing and sampling: every prediction once an epoch, no conversation cut, a cursor that says it all."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanok.errors import InputError
from hanok.training.config import TrainConfig
from hanok.training.packing import PackedSequence, SequenceTable, fingerprint, micro_batches, pack
from hanok.training.permutation import Permutation
from hanok.training.sampler import Sampler


class Split:
    """Documents of given lengths; token values say where they stand: document * 1000 + place."""

    def __init__(self, lengths: list[int], *, chat: bool = False) -> None:
        self.lengths = np.array(lengths, dtype=np.int64)
        self.chat = chat

    def document(self, index: int) -> tuple[np.ndarray, np.ndarray | None]:
        tokens = (np.arange(self.lengths[index]) + 1000 * index).astype(np.uint32)
        return tokens, (tokens % 3 == 0).astype(np.uint8) if self.chat else None


def small(**changes: object) -> TrainConfig:
    settings = {
        "max_steps": 1,
        "max_seq_len": 16,
        "micro_batch_tokens": 32,
        "tokens_per_step": 64,
        "mixture_unit": "epochs",
    }
    return TrainConfig(**{**settings, **changes})  # type: ignore[arg-type]


def predictions(sequences: list[PackedSequence]) -> Counter[tuple[int, int]]:
    return Counter(pair for s in sequences for pair in zip(s.ids.tolist(), s.targets.tolist(), strict=True))


@given(n=st.integers(1, 3000), key=st.text(max_size=8))
@settings(max_examples=40, deadline=None)
def test_a_permutation_meets_every_element_once(n: int, key: str) -> None:
    order = Permutation(n, key)(np.arange(n))
    assert sorted(order.tolist()) == list(range(n))


def test_a_permutation_mixes() -> None:
    n = 4096
    order = Permutation(n, "a")(np.arange(n))
    assert abs(np.corrcoef(order, np.arange(n))[0, 1]) < 0.08
    assert (np.diff(order) == 1).mean() < 0.01
    assert (order == Permutation(n, "b")(np.arange(n))).mean() < 0.01


@given(
    lengths=st.lists(st.integers(0, 80), min_size=1, max_size=40).filter(lambda ls: max(ls) > 1),
    epochs=st.integers(1, 3),
    seed=st.integers(0, 9),
)
@settings(max_examples=60, deadline=None)
def test_every_prediction_is_drawn_once_an_epoch(lengths: list[int], epochs: int, seed: int) -> None:
    split = Split(lengths)
    sampler = Sampler(small(mixture={"text-train": float(epochs)}, seed=seed), {"text-train": split})
    counted = sampler.count(max_steps=None, max_tokens=None)
    drawn: list[PackedSequence] = []
    count = 0
    while step := sampler.draw_step():
        assert sum(len(s.ids) for s in step) <= 64
        assert all(len(s.ids) <= 16 for s in step)
        drawn += step
        count += 1
    assert counted == (count, sum(len(s.ids) for s in drawn))
    assert sampler.count(max_steps=1, max_tokens=None) == (1, counted[1]) or count > 1
    expected = Counter(
        {
            (1000 * d + i, 1000 * d + i + 1): epochs
            for d, length in enumerate(lengths)
            for i in range(length - 1)
        }
    )
    assert predictions(drawn) == expected


@given(lengths=st.lists(st.integers(2, 40), min_size=1, max_size=30).filter(lambda ls: min(ls) <= 17))
@settings(max_examples=40, deadline=None)
def test_conversations_are_whole_or_left_out(lengths: list[int]) -> None:
    split = Split(lengths, chat=True)
    sampler = Sampler(small(mixture={"chat-train": 1.0}), {"chat-train": split})
    drawn = []
    while step := sampler.draw_step():
        drawn += step
    fits = [d for d, length in enumerate(lengths) if length <= 17]
    assert sorted(int(s.ids[0]) // 1000 for s in drawn) == fits
    for sequence in drawn:
        document = int(sequence.ids[0]) // 1000
        tokens, mask = split.document(document)
        assert mask is not None
        assert sequence.ids.tolist() == tokens[:-1].tolist()
        assert sequence.mask.tolist() == (mask[1:] == 1).tolist()
    assert sampler.documents_left_out == (
        {"chat-train": len(lengths) - len(fits)} if len(fits) < len(lengths) else {}
    )


def test_all_tokens_of_chats_can_be_learnt() -> None:
    sampler = Sampler(
        small(mixture={"chat-train": 1.0}, chat_loss="all"), {"chat-train": Split([9], chat=True)}
    )
    assert sampler.draw_step()[0].mask.all()


def test_the_mixture_keeps_its_shares() -> None:
    splits = {"text-train": Split([11] * 50), "chat-train": Split([6] * 70, chat=True)}
    sampler = Sampler(small(mixture={"text-train": 3.0, "chat-train": 1.0}, mixture_unit="share"), splits)
    tokens: Counter[str] = Counter()
    for _ in range(200):
        for sequence in sampler.draw_step():
            tokens[sequence.name.split(":")[0]] += len(sequence.ids)
    assert tokens["text-train"] / tokens.total() == pytest.approx(0.75, abs=0.01)


@given(stop=st.integers(0, 30))
@settings(max_examples=20, deadline=None)
def test_a_restored_cursor_reads_on(stop: int) -> None:
    splits = {"text-train": Split([7, 30, 12, 5, 80]), "chat-train": Split([6, 9, 12], chat=True)}
    config = small(mixture={"text-train": 1.0, "chat-train": 1.0}, mixture_unit="share")
    whole = Sampler(config, splits)
    expected = [fingerprint(whole.draw_step()) for _ in range(40)]
    first = Sampler(config, splits)
    for _ in range(stop):
        first.draw_step()
    second = Sampler(config, splits)
    second.restore(first.state())
    assert [fingerprint(second.draw_step()) for _ in range(40 - stop)] == expected[stop:]


def test_epochs_differ_in_order() -> None:
    sampler = Sampler(
        small(mixture={"text-train": 2.0}, tokens_per_step=640), {"text-train": Split([11] * 64)}
    )
    first, second = sampler.draw_step(), sampler.draw_step()
    assert sorted(s.name for s in first) == sorted(s.name for s in second)
    assert [s.name for s in first] != [s.name for s in second]


def test_micro_batches_hold_the_step_in_order() -> None:
    sampler = Sampler(small(mixture={"text-train": 1.0}), {"text-train": Split([9, 17, 4, 12, 16, 3])})
    step = sampler.draw_step()
    groups = micro_batches(step, max_tokens=32)
    assert [s for group in groups for s in group] == step
    assert all(sum(len(s.ids) for s in group) <= 32 for group in groups)
    batch = pack(groups[0])
    assert batch.cu_seqlens.tolist()[-1] == len(batch.ids_N) == len(batch.targets_N)


def test_a_split_that_is_not_there_is_named() -> None:
    with pytest.raises(InputError, match="text-train"):
        Sampler(small(mixture={"txt-train": 1.0}), {"text-train": Split([5])})
    with pytest.raises(InputError, match="max_seq_len"):
        Sampler(small(mixture={"chat-train": 1.0}), {"chat-train": Split([50], chat=True)})


def test_of_document_agrees_with_locate() -> None:
    table = SequenceTable(np.array([1, 40, 17, 18]), max_seq_len=16, cut=True)
    assert table.num_sequences == 3 + 1 + 2
    assert table.of_document(0) == []
    assert table.of_document(1) == [(0, 0, 16), (1, 16, 16), (2, 32, 7)]
    assert table.of_document(3) == [(4, 0, 16), (5, 16, 1)]
