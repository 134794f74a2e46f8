"""Feed-forward layers: the gated MLP and the mixture of experts.

N tokens, D model width, E experts, I expert width, M token-expert pairs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hanok.kernels.gates import swiglu
from hanok.models.config import MoEConfig
from hanok.models.linear import Linear, joined_linear


class GatedMLP(nn.Module):
    """SwiGLU (arXiv 2002.05202)."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.gate_proj = Linear(width, inner)
        self.up_proj = Linear(width, inner)
        self.down_proj = Linear(inner, width)

    def forward(self, x_ND: Tensor) -> Tensor:
        return self.down_proj(swiglu(joined_linear(x_ND, (self.gate_proj, self.up_proj))))


class Router(nn.Module):
    """Which experts a token goes to and with what weight, in float32 (Mixtral; DeepSeek-V3, arXiv 2412.19437)."""

    def __init__(self, width: int, config: MoEConfig) -> None:
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.empty(config.experts, width))
        if config.router == "sigmoid":
            self.register_buffer("e_score_correction_bias", torch.zeros(config.experts))
        self.load_E: Tensor | None = None
        self.balance: Tensor | None = None

    def forward(self, x_ND: Tensor) -> tuple[Tensor, Tensor]:
        """Returns (expert indices, weights), both [N, per_token]."""
        config = self.config
        logits_NE = F.linear(x_ND.float(), self.weight.float())
        if config.router == "softmax":
            scores_NE = logits_NE.softmax(-1)
            weights, chosen = scores_NE.topk(config.per_token, dim=-1)
        else:
            scores_NE = logits_NE.sigmoid()
            chosen = (
                self._limited(scores_NE + self.e_score_correction_bias).topk(config.per_token, dim=-1).indices
            )
            weights = scores_NE.gather(1, chosen)
        if config.renormalise:
            weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
        if self.training:
            self._record(scores_NE, chosen)
        return chosen, weights * config.scaling

    def _limited(self, choice_NE: Tensor) -> Tensor:
        """Minus infinity outside the best groups; a group's score is the sum of its two largest."""
        groups, kept = self.config.groups, self.config.top_groups
        if groups == kept:
            return choice_NE
        grouped = choice_NE.view(len(choice_NE), groups, -1)
        best = grouped.topk(min(2, grouped.shape[-1]), dim=-1).values.sum(-1).topk(kept, dim=-1).indices
        keep = torch.zeros(len(choice_NE), groups, dtype=torch.bool).scatter_(1, best, True)
        return grouped.masked_fill(~keep[..., None], float("-inf")).view_as(choice_NE)

    def _record(self, scores_NE: Tensor, chosen: Tensor) -> None:
        """Loads, and the balance loss E * sum_e f_e P_e with f summed over the slots (perfect balance = per_token)."""
        experts = self.config.experts
        self.load_E = torch.bincount(chosen.flatten(), minlength=experts).float()
        share_E = self.load_E / max(len(chosen), 1)
        self.balance = (
            experts * (share_E * scores_NE.mean(0)).sum() if self.config.router == "softmax" else None
        )

    @torch.no_grad()
    def balance_bias(self) -> None:
        """b_e += rate * sign(mean load - load_e), its mean taken out so that the sum stays."""
        if self.config.router == "sigmoid" and self.load_E is not None:
            step_E = self.config.bias_rate * (self.load_E.mean() - self.load_E).sign()
            self.e_score_correction_bias += step_E - step_E.mean()
            self.load_E = None


class Experts(nn.Module):
    """Stacked gated MLPs; each token visits its experts, none is dropped."""

    def __init__(self, width: int, config: MoEConfig) -> None:
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.empty(config.experts, 2 * config.width, width))
        self.down_proj = nn.Parameter(torch.empty(config.experts, width, config.width))

    def forward(self, x_ND: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        experts, per_token = self.gate_up_proj.shape[0], chosen.shape[1]
        order_M = chosen.flatten().argsort(stable=True)
        token_M = order_M // per_token
        counts_E = torch.bincount(chosen.flatten(), minlength=experts)
        hidden_MI = grouped_linear(x_ND[token_M], self.gate_up_proj.to(x_ND.dtype), counts_E)
        y_MD = grouped_linear(swiglu(hidden_MI), self.down_proj.to(x_ND.dtype), counts_E)
        y_MD = y_MD.float() * weights.flatten()[order_M, None]
        return torch.zeros_like(x_ND, dtype=torch.float32).index_add(0, token_M, y_MD).to(x_ND.dtype)


def grouped_linear(x_Mi: Tensor, weight_Eoi: Tensor, counts_E: Tensor) -> Tensor:
    """Rows sorted by expert, each block times its expert's matrix. A loop: on a CPU as fast as the grouped product,
    and free of its alignment rules."""
    parts = x_Mi.split(counts_E.tolist())
    return torch.cat([F.linear(part, weight) for part, weight in zip(parts, weight_Eoi, strict=True)])


class MixtureOfExperts(nn.Module):
    def __init__(self, width: int, config: MoEConfig) -> None:
        super().__init__()
        self.gate = Router(width, config)
        self.experts = Experts(width, config)
        self.shared_experts = GatedMLP(width, config.width * config.shared) if config.shared else None

    def forward(self, x_ND: Tensor) -> Tensor:
        chosen, weights = self.gate(x_ND)
        y_ND = self.experts(x_ND, chosen, weights)
        return y_ND if self.shared_experts is None else y_ND + self.shared_experts(x_ND)
