"""SmoothQuant (arXiv 2211.10438): moves outliers of the inputs into the weights, for eight-bit products of eight-bit inputs.

    s_j = max|X_j|^alpha / max|W_j|^(1 - alpha);   inputs X / s, weights W diag(s): the product stays.

N outputs, K inputs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hanok.errors import ConfigError


def smooth_scales(max_abs_K: Tensor, weights: Sequence[Tensor], *, alpha: float = 0.5) -> Tensor:
    """s_K for maps [N, K] that read the same inputs.

    Args:
        max_abs_K: the largest |x_j| met in calibration.
        alpha: how much of the difficulty the weights take.

    Raises:
        ConfigError: alpha outside [0, 1].
    """
    if not 0 <= alpha <= 1:
        raise ConfigError(f"alpha = {alpha}", remedy="it must lie in [0, 1]; 0.5 is usual")
    weight_K = torch.stack([weight.detach().abs().amax(0) for weight in weights]).amax(0).clamp(min=1e-5)
    return (max_abs_K.pow(alpha) / weight_K.pow(1 - alpha)).clamp(min=1e-5)
