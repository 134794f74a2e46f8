"""Sums and weights over the sequences of a ragged batch. N tokens, B sequences (`cu_seqlens` [B+1]).

An objective is sum(weight_N * loss_N); the weights say what it is the mean of. Their denominators count the whole
optimiser step, never the micro-batch, so that micro-batches add up to the step's mean. They are float64.

    weights              a token counts                    used by
    token_weights        1 / tokens of the step            PPO, DAPO, CISPO of Minimax
    sequence_weights     1 / (own length x sequences)      GRPO, GSPO
    constant_weights     1 / (constant x sequences)        Dr. GRPO; with constant 1 the sum a sequence: REINFORCE
    unit_weights         1 / (length of its unit x units)  ScaleRL (a unit is a prompt), Delethink (a unit is a trace)
"""

from __future__ import annotations

from torch import Tensor


def spread(values_B: Tensor, cu_seqlens: Tensor) -> Tensor:
    """Each sequence's value at all its tokens [N]."""
    return values_B.repeat_interleave(cu_seqlens.diff().long())


def sum_sequences(values_N: Tensor, mask_N: Tensor, cu_seqlens: Tensor) -> Tensor:
    """Sum of the masked tokens of each sequence [B]; what is not masked may hold anything, even NaN."""
    lengths = cu_seqlens.diff().long()
    kept_N = values_N.where(mask_N, 0)
    return kept_N.new_zeros(len(lengths)).index_add(0, _owner(lengths), kept_N)


def count_sequences(mask_N: Tensor, cu_seqlens: Tensor) -> Tensor:
    """Masked tokens of each sequence [B], int64."""
    lengths = cu_seqlens.diff().long()
    return lengths.new_zeros(len(lengths)).index_add(0, _owner(lengths), mask_N.long())


def mean_sequences(values_N: Tensor, mask_N: Tensor, cu_seqlens: Tensor) -> Tensor:
    """Mean over the masked tokens of each sequence [B]; 0 where none is."""
    return sum_sequences(values_N, mask_N, cu_seqlens) / count_sequences(mask_N, cu_seqlens).clamp(min=1)


def token_weights(mask_N: Tensor, *, step_tokens: int) -> Tensor:
    """Every token alike, so long answers count for more."""
    return mask_N.double() / step_tokens


def sequence_weights(mask_N: Tensor, cu_seqlens: Tensor, *, step_sequences: int) -> Tensor:
    """Every sequence alike, so tokens of long answers count for less."""
    return unit_weights(mask_N, cu_seqlens, count_sequences(mask_N, cu_seqlens), step_units=step_sequences)


def constant_weights(mask_N: Tensor, *, constant: float, step_sequences: int) -> Tensor:
    """A constant in place of the length: no bias towards long wrong answers (arXiv 2503.20783)."""
    return mask_N.double() / (constant * step_sequences)


def unit_weights(mask_N: Tensor, cu_seqlens: Tensor, unit_tokens_B: Tensor, *, step_units: int) -> Tensor:
    """Every unit alike, whatever sequences belong to it.

    Args:
        unit_tokens_B: for each sequence, the masked tokens of all sequences of its unit, in the whole step.
        step_units: units of the whole step.
    """
    return mask_N.double() / (spread(unit_tokens_B, cu_seqlens).clamp(min=1) * step_units)


def _owner(lengths: Tensor) -> Tensor:
    return lengths.new_ones(len(lengths)).cumsum(0).sub(1).repeat_interleave(lengths)
