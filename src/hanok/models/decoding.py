"""Decoding heads: a temperature and a top-p for each token, read off the hidden vector that the next token comes from.

AutoDeco, arXiv 2510.26697, section 3.1; shapes and names are those of its released heads, so that these load here.

    T = 2 sigmoid(W2 relu(W1 h + b1) + b2)                          in (0, 2)
    P =   sigmoid(V2 relu(V1 [h, T, s1 .. s4] + c1) + c2)           in (0, 1)

s: of softmax(logits / T): its largest probability, entropy, variance over the vocabulary (unbiased), sum of the 5 largest.
T as an input of P carries no gradient. N tokens, D width, V vocabulary; 256 units each.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

UNITS = 256
COLDEST = 1e-2  # the lowest temperature that is used: the losses stop there too
NARROWEST = 1e-6  # the lowest top-p: one token


class _Head(nn.Module):
    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(inputs, UNITS), nn.ReLU(), nn.Linear(UNITS, 1))

    def forward(self, x_NI: Tensor) -> Tensor:
        return self.mlp(x_NI).squeeze(-1).sigmoid()


class DecodingHeads(nn.Module):
    """Args: width: of the hidden vectors. generator: the only source of randomness of the initial weights."""

    def __init__(self, width: int, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.width = width
        self.temp_head = _Head(width)
        self.top_p_head = _Head(width + 5)
        if self.temp_head.mlp[0].weight.device.type != "meta":
            self._initialise(generator or torch.Generator().manual_seed(0))

    def temperature(self, hidden_ND: Tensor) -> Tensor:
        """[N], float32."""
        return 2 * self.temp_head(hidden_ND.float())

    def top_p(self, hidden_ND: Tensor, temperature_N: Tensor, logits_NV: Tensor) -> Tensor:
        """[N], float32; no gradient reaches the temperature or the logits."""
        fixed_N1 = temperature_N.detach()[:, None]
        features_N4 = law_features(logits_NV, temperature_N)
        return self.top_p_head(torch.cat([hidden_ND.float(), fixed_N1, features_N4], dim=-1))

    @torch.no_grad()
    def laws(self, hidden_ND: Tensor, logits_NV: Tensor) -> tuple[Tensor, Tensor]:
        """Temperature, at least `COLDEST`, and top-p, at least `NARROWEST`, of each row."""
        temperature_N = self.temperature(hidden_ND)
        return temperature_N.clamp(min=COLDEST), self.top_p(hidden_ND, temperature_N, logits_NV).clamp(
            min=NARROWEST
        )

    @torch.no_grad()
    def _initialise(self, generator: torch.Generator) -> None:
        """First layers as `nn.Linear` does; last layers zero, so that training begins at T = 1, P = 1/2 for all."""
        for head in (self.temp_head, self.top_p_head):
            first, _, last = head.mlp
            assert isinstance(first, nn.Linear)
            assert isinstance(last, nn.Linear)
            bound = first.in_features**-0.5
            for parameter in first.parameters():
                parameter.uniform_(-bound, bound, generator=generator)
            for parameter in last.parameters():
                parameter.zero_()


@torch.no_grad()
def law_features(logits_NV: Tensor, temperature_N: Tensor) -> Tensor:
    """What the top-p head sees of softmax(logits / T) [N, 4]."""
    law_NV = (logits_NV.float() / temperature_N.detach().clamp(min=COLDEST)[:, None]).softmax(-1)
    return torch.stack(
        [
            law_NV.amax(-1),
            -(law_NV * (law_NV + 1e-8).log()).sum(-1),
            law_NV.var(-1),
            law_NV.topk(min(5, law_NV.shape[-1]), dim=-1).values.sum(-1),
        ],
        dim=-1,
    )
