"""How far a model's law of the next token is from another's, on held-out text. N tokens, V vocabulary (in `logits_NV`)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from hanok.models.decoder import Decoder


@torch.no_grad()
def compare(original: Decoder, made: Decoder, windows: Sequence[np.ndarray]) -> dict[str, float]:
    """Perplexity of both and the mean KL(original || made) in nats, over all tokens of the windows but their first."""
    before = after = divergence = 0.0
    tokens = 0
    for window in windows:
        ids_N = torch.from_numpy(window.astype(np.int64))
        ours_NV, theirs_NV = _log_law(original, ids_N), _log_law(made, ids_N)
        targets_N1 = ids_N[1:, None]
        before -= float(ours_NV.gather(1, targets_N1).double().sum())
        after -= float(theirs_NV.gather(1, targets_N1).double().sum())
        divergence += float((ours_NV.exp() * (ours_NV - theirs_NV)).double().sum())
        tokens += len(targets_N1)
    return {
        "held_out_tokens": tokens,
        "perplexity_before": math.exp(before / tokens),
        "perplexity_after": math.exp(after / tokens),
        "kl": divergence / tokens,
    }


def _log_law(model: Decoder, ids_N: Tensor) -> Tensor:
    hidden_ND, _ = model(ids_N, torch.tensor([0, len(ids_N)], dtype=torch.int32))
    return model.logits(hidden_ND)[:-1].log_softmax(-1)
