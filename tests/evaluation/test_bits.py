"""Bits per byte against a computation by hand, document by document and token by token."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from hanok.artefacts.shards import TokenSplit, open_shards
from hanok.evaluation.bits import held_out_bits
from hanok.models.checkpoint import load_model

if TYPE_CHECKING:
    from conftest import House


def by_hand(house: House, split: TokenSplit, documents: int) -> tuple[float, int]:
    """(nats, bytes) of the predictions that count, each from one plain forward of its whole document."""
    decoder, nats, size = load_model(house.model), 0.0, 0
    control = set(house.tokenizer.special.values())
    for number in range(documents):
        tokens, mask = split.document(number)
        ids = torch.tensor(np.asarray(tokens, dtype=np.int64))
        with torch.no_grad():
            hidden_ND, _ = decoder(ids[:-1], torch.tensor([0, len(ids) - 1], dtype=torch.int32))
            logprobs_NV = decoder.logits(hidden_ND).double().log_softmax(-1)
        for place in range(1, len(ids)):
            token = int(ids[place])
            if token not in control and (mask is None or mask[place]):
                nats -= float(logprobs_NV[place - 1, token])
                size += len(house.tokenizer.token_bytes(token))
    return nats, size


@pytest.mark.parametrize("name", ["text-validation", "chat-validation"])
def test_against_a_computation_by_hand(house: House, name: str) -> None:
    split = open_shards(house.shards).splits[name]
    lengths = house.tokenizer.byte_lengths
    bits = held_out_bits(load_model(house.model), split, byte_lengths=lengths, batch_tokens=700)
    nats, size = by_hand(house, split, split.num_documents)
    assert split.lengths.max() <= 512
    assert bits.documents == split.num_documents > 3
    assert bits.bytes == size > 100
    assert bits.nats == pytest.approx(nats, rel=1e-5)
    assert bits.per_byte == pytest.approx(nats / math.log(2) / size, rel=1e-5)


def test_a_text_counts_all_of_its_bytes(house: House) -> None:
    split = open_shards(house.shards).splits["text-test"]
    lengths = house.tokenizer.byte_lengths
    assert held_out_bits(load_model(house.model), split, byte_lengths=lengths).bytes == split.num_bytes


def test_batches_change_nothing(house: House) -> None:
    split = open_shards(house.shards).splits["text-test"]
    decoder, lengths = load_model(house.model), house.tokenizer.byte_lengths
    one, all_ = (held_out_bits(decoder, split, byte_lengths=lengths, batch_tokens=n) for n in (1, 100_000))
    assert one.nats == pytest.approx(all_.nats, rel=1e-6)


def test_a_limit_takes_whole_documents_from_the_front(house: House) -> None:
    split = open_shards(house.shards).splits["text-test"]
    decoder, lengths = load_model(house.model), house.tokenizer.byte_lengths
    limit = int(split.lengths[0]) + 1
    bits = held_out_bits(decoder, split, byte_lengths=lengths, max_tokens=limit)
    assert bits.documents == 2
    assert (bits.nats, bits.bytes) == pytest.approx(by_hand(house, split, 2), rel=1e-5)


def test_a_document_longer_than_the_context_is_scored_once_in_windows(house: House) -> None:
    lengths = house.tokenizer.byte_lengths
    tokens = np.tile(
        np.asarray(house.tokenizer.encode("나무와 돌과 물과 바람 and so on. "), dtype=np.uint16), 150
    )
    whole = TokenSplit(
        name="text-test", tokens=tokens, offsets=np.array([0, len(tokens)]), bytes=np.array([0]), mask=None
    )
    bits = held_out_bits(load_model(house.model), whole, byte_lengths=lengths)
    assert len(tokens) > 3 * 512
    assert bits.tokens == len(tokens) - 1
    assert bits.bytes == int(lengths[tokens[1:]].sum())
    assert 0 < bits.per_byte < 20
