"""Bits per byte of held-out shards: how well the model foretells text, comparable across tokenisers.

bits per byte = nats over all targets but control tokens / ln 2 / UTF-8 bytes of those targets. Of chats only the
assistant's words count. A document longer than the model's context is scored in windows, each prediction once.
N tokens of a ragged batch, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hanok.artefacts.shards import TokenSplit
from hanok.models.decoder import Decoder

ROWS_OF_LOGITS = 1024


@dataclass(frozen=True, slots=True)
class Bits:
    """Sums over one split."""

    nats: float
    bytes: int
    tokens: int
    documents: int

    @property
    def per_byte(self) -> float:
        return self.nats / math.log(2) / self.bytes if self.bytes else float("nan")

    @property
    def nats_per_token(self) -> float:
        return self.nats / self.tokens if self.tokens else float("nan")


@dataclass(frozen=True, slots=True)
class Window:
    """Inputs, targets, and which of these count."""

    ids: np.ndarray
    targets: np.ndarray
    counted: np.ndarray


@torch.no_grad()
def held_out_bits(
    decoder: Decoder,
    split: TokenSplit,
    *,
    byte_lengths: np.ndarray,
    max_tokens: int = 0,
    batch_tokens: int = 8192,
) -> Bits:
    """Score the first documents of a split.

    Args:
        byte_lengths: UTF-8 bytes of each token id, 0 for control tokens (`Tokenizer.byte_lengths`).
        max_tokens: stop after the document that reaches this many tokens; 0 = all.
        batch_tokens: predictions made at a time (a single longer window still goes at once).
    """
    documents = _first_documents(split, max_tokens)
    windows = [
        window
        for document in range(documents)
        for window in windows_of(split, document, byte_lengths, context=decoder.config.max_context)
    ]
    nats, size, tokens = 0.0, 0, 0
    for batch in _batches(windows, batch_tokens):
        ids_N = torch.from_numpy(np.concatenate([window.ids for window in batch]))
        targets_N = torch.from_numpy(np.concatenate([window.targets for window in batch]))
        counted_N = torch.from_numpy(np.concatenate([window.counted for window in batch]))
        bounds = np.cumsum([0, *(len(window.ids) for window in batch)])
        hidden_ND, _ = decoder(ids_N, torch.tensor(bounds, dtype=torch.int32))
        nats += _nats(decoder, hidden_ND[counted_N], targets_N[counted_N])
        size += int(byte_lengths[targets_N[counted_N].numpy()].sum())
        tokens += int(counted_N.sum())
    return Bits(nats, size, tokens, documents)


def windows_of(
    split: TokenSplit, document: int, byte_lengths: np.ndarray, *, context: int
) -> Iterator[Window]:
    """A document's predictions, at most `context` at a time; each window begins with the token before its first."""
    tokens, mask = split.document(document)
    tokens = np.asarray(tokens, dtype=np.int64)
    counted = byte_lengths[tokens] > 0
    if mask is not None:
        counted &= np.asarray(mask, dtype=bool)
    for start in range(0, len(tokens) - 1, context):
        end = min(start + context, len(tokens) - 1)
        if counted[start + 1 : end + 1].any():
            yield Window(tokens[start:end], tokens[start + 1 : end + 1], counted[start + 1 : end + 1])


def _nats(decoder: Decoder, hidden_ND: Tensor, targets_N: Tensor) -> float:
    """Summed negative log-likelihood, a slab of logits at a time."""
    total = 0.0
    for hidden_nD, targets_n in zip(
        hidden_ND.split(ROWS_OF_LOGITS), targets_N.split(ROWS_OF_LOGITS), strict=True
    ):
        logits_nV = decoder.logits(hidden_nD)
        total += float(
            torch.nn.functional.cross_entropy(logits_nV, targets_n, reduction="none").double().sum()
        )
    return total


def _first_documents(split: TokenSplit, max_tokens: int) -> int:
    if not max_tokens or split.num_tokens <= max_tokens:
        return split.num_documents
    return int(np.searchsorted(np.asarray(split.offsets[1:]), max_tokens, side="left")) + 1


def _batches(windows: Sequence[Window], batch_tokens: int) -> Iterator[list[Window]]:
    batch: list[Window] = []
    room = batch_tokens
    for window in windows:
        if batch and len(window.ids) > room:
            yield batch
            batch, room = [], batch_tokens
        batch.append(window)
        room -= len(window.ids)
    if batch:
        yield batch
