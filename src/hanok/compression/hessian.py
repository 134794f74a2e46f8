"""Second moments of a map's inputs, H = 2/n sum x x^T, and what GPTQ, AWQ and SparseGPT want of them.

N outputs, K inputs, M rows of inputs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hanok.errors import ConfigError, InputError


def hessian_of(x_MK: Tensor) -> Tensor:
    """float64 [K, K]."""
    x_MK = x_MK.double()
    return 2 / max(len(x_MK), 1) * x_MK.T @ x_MK


def output_error(lost_NK: Tensor, hessian_KK: Tensor) -> float:
    """Mean over the inputs of |(W - W') x|^2, without the inputs."""
    lost_NK = lost_NK.double()
    return float((lost_NK @ hessian_KK.double() * lost_NK).sum() / 2)


def without_dead(weight_NK: Tensor, hessian_KK: Tensor) -> tuple[Tensor, Tensor]:
    """(weight float32, hessian float64), copies: inputs that never were anything but 0 get H = 1 and weights 0."""
    weight_NK, hessian_KK = weight_NK.detach().float().clone(), hessian_KK.double().clone()
    dead_K = hessian_KK.diagonal() == 0
    hessian_KK.diagonal()[dead_K] = 1
    weight_NK[:, dead_K] = 0
    return weight_NK, hessian_KK


def inverse_factor(hessian_KK: Tensor, damp: float) -> Tensor:
    """Upper U with U^T U = (H + damp mean(diag H) I)^-1, float32.

    Raises:
        ConfigError: damp that is not positive. InputError: a matrix that is not finite, or still has no inverse.
    """
    if not damp > 0:
        raise ConfigError(f"damp = {damp}", remedy="it must be above 0; 0.01 is usual")
    if not hessian_KK.isfinite().all():
        raise InputError("activations are not finite", remedy="check the model on this text")
    work_KK = hessian_KK.clone()  # one name for each step: of many inputs every copy weighs
    work_KK.diagonal().add_(damp * hessian_KK.diagonal().mean())
    work_KK, bad = torch.linalg.cholesky_ex(work_KK)
    if not bad:
        work_KK, bad = torch.linalg.cholesky_ex(torch.cholesky_inverse(work_KK), upper=True)
        if not bad:
            return work_KK.float()
    raise InputError(
        f"the second moments of {len(work_KK)} inputs have no inverse",
        remedy="calibrate on more text, or raise damp",
    )
