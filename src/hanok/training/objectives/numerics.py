"""Small functions that keep digits where the plain formula loses them."""

from __future__ import annotations

import torch
from torch import Tensor

_LOG_HALF = -0.6931471805599453


def log1mexp(x: Tensor) -> Tensor:
    """log(1 - e^x) for x < 0, by whichever form loses no digits (Maechler 2012).

    Each branch sees only inputs that it can stand: a gradient of 0 x infinity would be NaN.
    """
    near = x > _LOG_HALF
    by_expm1 = torch.where(near, x, -1.0).expm1().neg().log()
    by_log1p = torch.where(near, -1.0, x).exp().neg().log1p()
    return torch.where(near, by_expm1, by_log1p)
