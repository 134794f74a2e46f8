"""Validation on held-out splits, on the same documents every time.

Text: bits per byte = nats over all targets but control tokens / ln 2 / UTF-8 bytes of those documents, which can be
compared across tokenisers. Chats: nats a learnt token.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from hanok.artefacts.shards import TokenSplit
from hanok.models.decoder import Decoder
from hanok.training.config import TrainConfig
from hanok.training.objectives.next_token import token_nats
from hanok.training.packing import PackedSequence, SequenceTable, micro_batches, pack, read_sequence
from hanok.training.permutation import Permutation


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Documents to validate on."""

    name: str
    sequences: Sequence[PackedSequence]
    num_bytes: int


def choose_held_out(config: TrainConfig, splits: Mapping[str, TokenSplit]) -> list[HeldOut]:
    """About `validation_tokens` of whole documents from the validation split beside each one that is trained on."""
    chosen = []
    for name in sorted({name.removesuffix("-train") + "-validation" for name in config.mixture}):
        if name in splits and len(splits[name].lengths):
            chosen.append(_choose(config, name, splits[name]))
    return [held_out for held_out in chosen if held_out.sequences]


@dataclass(frozen=True, slots=True)
class Validation:
    """What next-token training measures of its decoder now and then."""

    held_out: Sequence[HeldOut]
    special_ids: Sequence[int]
    max_tokens: int

    def __call__(self, decoder: Decoder, stopped: Callable[[], bool]) -> dict[str, float] | None:
        if not self.held_out:
            return {}
        return validate(
            decoder, self.held_out, special_ids=self.special_ids, max_tokens=self.max_tokens, stopped=stopped
        )


@torch.no_grad()
def validate(
    decoder: Decoder,
    held_out: Sequence[HeldOut],
    *,
    special_ids: Sequence[int],
    max_tokens: int,
    stopped: Callable[[], bool],
) -> dict[str, float] | None:
    """Metrics by name, or None if `stopped()` became true before the end."""
    special = torch.tensor(sorted(special_ids), dtype=torch.long)
    metrics: dict[str, float] = {}
    decoder.eval()
    try:
        for data in held_out:
            nats = count = 0.0
            for group in micro_batches(data.sequences, max_tokens=max_tokens):
                if stopped():
                    return None
                batch = pack(group)
                counted_N = batch.loss_mask_N & ~torch.isin(batch.targets_N, special)
                nats += float(token_nats(decoder, batch)[counted_N].double().sum())
                count += int(counted_N.sum())
            kind = data.name.removesuffix("-validation")
            metrics[f"validation.{kind}.loss"] = nats / max(count, 1)
            if kind.startswith("text"):
                metrics[f"validation.{kind}.bits_per_byte"] = nats / math.log(2) / max(data.num_bytes, 1)
        return metrics
    finally:
        decoder.train()


def _choose(config: TrainConfig, name: str, split: TokenSplit) -> HeldOut:
    is_chat = name.startswith("chat")
    table = SequenceTable(split.lengths, max_seq_len=config.max_seq_len, cut=not is_chat)
    order = Permutation(len(split.lengths), f"validation/{name}")(np.arange(len(split.lengths)))
    sequences: list[PackedSequence] = []
    tokens = size = 0
    for document in order.tolist():
        if tokens >= config.validation_tokens:
            break
        pieces = table.of_document(document)
        for _, start, length in pieces:
            sequences.append(read_sequence(split, name, document, start, length, all_tokens=False))
            tokens += length
        size += int(split.bytes[document]) if pieces else 0
    return HeldOut(name, sequences, size)
