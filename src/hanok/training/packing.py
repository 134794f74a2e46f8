"""Documents into ragged batches. N tokens, B sequences.

A document of L tokens holds L - 1 predictions. It becomes one sequence, or, if longer than `max_seq_len`, several
cut at fixed multiples of it: every prediction belongs to exactly one sequence. Conversations are never cut; one that
is too long is left out, and counted.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from hanok.artefacts.shards import TokenSplit

if TYPE_CHECKING:
    from hanok.training.objective import E, Example


class SequenceTable:
    """Which sequences a split's documents make; a sequence is known by its number.

    Args:
        lengths: tokens of each document.
        cut: whether documents longer than `max_seq_len` are cut, or left out.
    """

    def __init__(self, lengths: np.ndarray, *, max_seq_len: int, cut: bool) -> None:
        predictions = np.maximum(np.asarray(lengths, dtype=np.int64) - 1, 0)
        pieces = -(-predictions // max_seq_len)
        if not cut:
            pieces = np.where(predictions <= max_seq_len, pieces, 0)
        self.max_seq_len = max_seq_len
        self.documents_left_out = int(np.sum((pieces == 0) & (predictions > 0)))
        self._predictions = predictions
        self._first = np.concatenate(([0], np.cumsum(pieces)))
        self.num_sequences = int(self._first[-1])
        self.num_tokens = int(predictions[pieces > 0].sum())

    def locate(self, sequences: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Document, first prediction and number of predictions of each sequence."""
        documents = np.searchsorted(self._first, sequences, side="right") - 1
        starts = (sequences - self._first[documents]) * self.max_seq_len
        return documents, starts, np.minimum(self._predictions[documents] - starts, self.max_seq_len)

    def number(self, document: int, start: int) -> int:
        """Of the sequence that begins at a prediction of a document."""
        return int(self._first[document]) + start // self.max_seq_len

    def of_document(self, document: int) -> list[tuple[int, int, int]]:
        """Number, first prediction and number of predictions of each of a document's sequences."""
        numbers = np.arange(self._first[document], self._first[document + 1])
        _, starts, lengths = self.locate(numbers)
        return list(zip(numbers.tolist(), starts.tolist(), lengths.tolist(), strict=True))


@dataclass(frozen=True, slots=True)
class PackedSequence:
    """Inputs, targets and loss mask of one sequence; `name` says where it came from (for the data fingerprint)."""

    ids: np.ndarray
    targets: np.ndarray
    mask: np.ndarray
    name: str

    @property
    def num_tokens(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class RaggedBatch:
    """ids_N, targets_N int64; loss_mask_N bool; cu_seqlens int32 [B+1]."""

    ids_N: Tensor
    targets_N: Tensor
    loss_mask_N: Tensor
    cu_seqlens: Tensor

    def to(self, device: torch.device) -> RaggedBatch:
        if device == self.ids_N.device:
            return self
        return RaggedBatch(*(getattr(self, field.name).to(device) for field in fields(self)))


def read_sequence(
    split: TokenSplit, split_name: str, document: int, start: int, length: int, *, all_tokens: bool
) -> PackedSequence:
    """Cut one sequence out of its document. `all_tokens` sets the loss mask of chats aside."""
    tokens, mask = split.document(document)
    tokens = np.asarray(tokens[start : start + length + 1], dtype=np.int64)
    if mask is None or all_tokens:
        learnt = np.ones(length, dtype=bool)
    else:
        learnt = np.asarray(mask[start + 1 : start + length + 1]).astype(bool)
    return PackedSequence(tokens[:-1], tokens[1:], learnt, f"{split_name}:{document}:{start}")


def pack(sequences: Sequence[PackedSequence]) -> RaggedBatch:
    """Lay whole sequences one after another."""
    lengths = [len(sequence.ids) for sequence in sequences]
    return RaggedBatch(
        ids_N=torch.from_numpy(np.concatenate([sequence.ids for sequence in sequences])),
        targets_N=torch.from_numpy(np.concatenate([sequence.targets for sequence in sequences])),
        loss_mask_N=torch.from_numpy(np.concatenate([sequence.mask for sequence in sequences])),
        cu_seqlens=torch.tensor(np.concatenate(([0], np.cumsum(lengths))), dtype=torch.int32),
    )


def micro_batches(examples: Sequence[E], *, max_tokens: int) -> list[list[E]]:
    """Split a step, in order, into groups of at most `max_tokens`; one that is longer stands alone."""
    groups: list[list[E]] = []
    room = 0
    for example in examples:
        if not groups or example.num_tokens > room:
            groups.append([])
            room = max_tokens
        groups[-1].append(example)
        room -= example.num_tokens
    return groups


def fingerprint(examples: Sequence[Example]) -> str:
    """Eight hex digits that name the data of a step: which examples, in which order."""
    return f"{zlib.crc32(' '.join(example.name for example in examples).encode()):08x}"
