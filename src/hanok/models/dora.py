"""Weight-decomposed low-rank adapters (DoRA, arXiv 2402.09353, equation 5): the length of each row of a weight is learnt apart.

    W' = m * (W + s B A) / ||W + s B A||     with the norm over the inputs, for each output

It starts at m = ||W||, B = 0, so that W' = W. The norm counts as a constant in the gradient (section 4.3), which
saves memory. A [rank, in], B [out, rank], m [out]; N tokens, K inputs, O outputs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hanok.models.linear import LowRank


class WeightDecomposed(LowRank):
    """A low-rank addition of which the map's own weight is a part."""

    def __init__(self, inputs: int, outputs: int, rank: int, *, scale: float, dropout: float) -> None:
        super().__init__(inputs, outputs, rank, scale=scale, dropout=dropout)
        self.lora_magnitude_vector = nn.Parameter(torch.empty(outputs))

    def added(self, x: Tensor, product: Tensor, weight: Tensor) -> Tensor:
        """With dropout the weight's own part sees the dropped inputs too, as in the authors' code and in PEFT."""
        if self.dropout and self.training:
            x = F.dropout(x, self.dropout, True)
            product = F.linear(x, weight.to(x.dtype))
        low = F.linear(F.linear(x, self.lora_A.to(x.dtype)), self.lora_B.to(x.dtype))
        with torch.no_grad():
            norm_O = row_norms(weight, self.delta())
        return addition(product, low * self.scale, self.lora_magnitude_vector, norm_O)

    def change(self, weight: Tensor) -> Tensor:
        delta = self.delta()
        wide = weight.to(delta.dtype)
        length_O = self.lora_magnitude_vector / row_norms(weight, delta).detach()
        return length_O[:, None] * (wide + delta) - wide

    @torch.no_grad()
    def start_at(self, weight: Tensor) -> None:
        """The magnitudes of this weight as it stands."""
        self.lora_magnitude_vector.copy_(row_norms(weight, self.delta()))


def addition(product_NO: Tensor, low_NO: Tensor, magnitude_O: Tensor, norm_O: Tensor) -> Tensor:
    """What comes on top of x W^T (without the bias): (m / norm - 1) x W^T + (m / norm) s x A^T B^T."""
    length_O = (magnitude_O / norm_O).to(product_NO.dtype)
    return (length_O - 1) * product_NO + length_O * low_NO


def row_norms(weight_OK: Tensor, delta_OK: Tensor | None = None) -> Tensor:
    """Of each output, in float32 or what is wider."""
    wide_OK = weight_OK.to(torch.promote_types(weight_OK.dtype, torch.float32))
    return torch.linalg.vector_norm(wide_OK if delta_OK is None else wide_OK + delta_OK, dim=1)
