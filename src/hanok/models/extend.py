"""Rows for new tokens: each starts as the mean of the rows of the old tokens that it is made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from hanok.models.checkpoint import assemble
from hanok.models.decoder import Decoder


def extend_model(model: Decoder, pieces: Sequence[Sequence[int]], *, first: int) -> Decoder:
    """A decoder that knows `len(pieces)` tokens more, from id `first` on; rows that stood there unused are overwritten.

    Args:
        pieces: the old ids that each new token is made of.
    """
    tensors = dict(model.state_dict())
    rows = max(model.config.vocab_size, first + len(pieces))
    for name in ("embed_tokens.weight", "lm_head.weight"):
        if name in tensors:
            tensors[name] = _extended(tensors[name], pieces, first=first, rows=rows)
    config = dataclasses.replace(model.config, vocab_size=rows)
    return assemble(config, tensors, where="the extended model")


@torch.no_grad()
def _extended(table_VD: Tensor, pieces: Sequence[Sequence[int]], *, first: int, rows: int) -> Tensor:
    longer = table_VD.new_zeros(rows, table_VD.shape[1])
    longer[: len(table_VD)] = table_VD
    for place, old in enumerate(pieces, first):
        longer[place] = table_VD[list(old)].float().mean(0).to(table_VD.dtype)
    return longer
