"""Softmax cross-entropy that overwrites the logits by their gradient: one native pass, nothing of their size is made."""

from __future__ import annotations

import torch
from torch import Tensor

from hanok.kernels.native import address, native, runs_native


@torch.no_grad()
def softmax_cross_entropy_(logits_NV: Tensor, targets_N: Tensor) -> Tensor:
    """Negative log-likelihoods in nats, float32 [N]; `logits_NV` becomes softmax(logits) - onehot(targets) in its type.

    Args:
        logits_NV: contiguous, float32 or bfloat16; computed in float32 inside.
    """
    targets_N = targets_N.long().contiguous()
    if runs_native(logits_NV):
        assert int(targets_N.min()) >= 0
        assert int(targets_N.max()) < logits_NV.shape[1]
        nats_N = torch.empty(len(logits_NV))
        pointers = [address(t) for t in (logits_NV, targets_N, nats_N)]
        native().cross_entropy(pointers, *logits_NV.shape, logits_NV.dtype == torch.bfloat16)
        return nats_N
    targets = targets_N[:, None]
    logp_NV = torch.log_softmax(logits_NV.float(), 1)
    at_target = logp_NV.gather(1, targets)
    logp_NV.exp_().scatter_(1, targets, at_target.exp() - 1)
    logits_NV.copy_(logp_NV)
    return -at_target[:, 0]
