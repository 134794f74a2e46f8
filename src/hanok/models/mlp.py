"""Feed-forward layers: the gated MLP and the mixture of experts.

N tokens, D model width, E experts, I expert width, M token-expert pairs.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hanok.kernels.gates import swiglu
from hanok.models.config import ModelConfig, MoEConfig
from hanok.models.linear import Linear, joined_linear


class GatedMLP(nn.Module):
    """activation(gate) * up (arXiv 2002.05202)."""

    def __init__(self, width: int, inner: int, *, activation: str = "silu", bias: bool = False) -> None:
        super().__init__()
        self.activation = activation
        self.gate_proj = Linear(width, inner, bias=bias)
        self.up_proj = Linear(width, inner, bias=bias)
        self.down_proj = Linear(inner, width, bias=bias)

    def forward(self, x_ND: Tensor) -> Tensor:
        gate_up = joined_linear(x_ND, (self.gate_proj, self.up_proj))
        if self.activation == "silu":
            return self.down_proj(swiglu(gate_up))
        gate, up = gate_up.chunk(2, dim=-1)
        return self.down_proj(activate(gate, self.activation) * up)


class PlainMLP(nn.Module):
    """Up, activation, down (GPT-2)."""

    def __init__(self, width: int, inner: int, *, activation: str, bias: bool) -> None:
        super().__init__()
        self.activation = activation
        self.up_proj = Linear(width, inner, bias=bias)
        self.down_proj = Linear(inner, width, bias=bias)

    def forward(self, x_ND: Tensor) -> Tensor:
        return self.down_proj(activate(self.up_proj(x_ND), self.activation))


def activate(x: Tensor, name: str) -> Tensor:
    if name == "silu":
        return F.silu(x)
    return F.gelu(x, approximate="tanh" if name == "gelu_tanh" else "none")


def dense_mlp(config: ModelConfig) -> GatedMLP | PlainMLP:
    """The feed-forward of a layer without experts."""
    kind = GatedMLP if config.gated_mlp else PlainMLP
    return kind(config.hidden_size, config.mlp_width, activation=config.activation, bias=config.mlp_bias)


class Router(nn.Module):
    """Which experts a token goes to and with what weight, in float32 (Mixtral; DeepSeek-V3, arXiv 2412.19437)."""

    def __init__(self, width: int, config: MoEConfig) -> None:
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.empty(config.experts, width))
        self.bias = nn.Parameter(torch.empty(config.experts)) if config.biases else None
        if config.router == "sigmoid":
            self.register_buffer("e_score_correction_bias", torch.zeros(config.experts))
        self.load_E: Tensor | None = None  # since the last `balance_bias`
        self.balance: Tensor | None = None

    def forward(self, x_ND: Tensor) -> tuple[Tensor, Tensor]:
        """Returns (expert indices, weights), both [N, per_token]."""
        config = self.config
        logits_NE = F.linear(
            x_ND.float(), self.weight.float(), None if self.bias is None else self.bias.float()
        )
        if config.router == "top_softmax":
            top, chosen = logits_NE.topk(config.per_token, dim=-1)
            if self.training:
                self._record(logits_NE.softmax(-1), chosen)
            return chosen, top.softmax(-1) * config.scaling
        if config.router == "softmax":
            scores_NE = logits_NE.softmax(-1)
            chosen = self._limited(scores_NE).topk(config.per_token, dim=-1).indices
        else:
            scores_NE = logits_NE.sigmoid()
            choice_NE = self._limited(scores_NE + self.e_score_correction_bias)
            chosen = choice_NE.topk(config.per_token, dim=-1).indices
        weights = scores_NE.gather(1, chosen)
        if config.renormalise:
            weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
        if self.training:
            self._record(scores_NE, chosen)
        return chosen, weights * config.scaling

    def _limited(self, choice_NE: Tensor) -> Tensor:
        """Minus infinity outside the best groups; a group's score is its largest (softmax), or the sum of its two
        largest (sigmoid)."""
        groups, kept = self.config.groups, self.config.top_groups
        if groups == kept:
            return choice_NE
        grouped = choice_NE.view(len(choice_NE), groups, -1)
        counted = 1 if self.config.router == "softmax" else min(2, grouped.shape[-1])
        best = grouped.topk(counted, dim=-1).values.sum(-1).topk(kept, dim=-1).indices
        keep = torch.zeros_like(grouped[..., 0], dtype=torch.bool).scatter_(1, best, True)
        return grouped.masked_fill(~keep[..., None], float("-inf")).view_as(choice_NE)

    def _record(self, scores_NE: Tensor, chosen: Tensor) -> None:
        """Loads, and the balance loss E * sum_e f_e P_e with f summed over the slots (perfect balance = per_token)."""
        experts = self.config.experts
        load_E = torch.bincount(chosen.flatten(), minlength=experts).float()
        self.load_E = load_E if self.load_E is None else self.load_E + load_E
        share_E = load_E / max(len(chosen), 1)
        self.balance = (
            None if self.config.router == "sigmoid" else experts * (share_E * scores_NE.mean(0)).sum()
        )

    @torch.no_grad()
    def balance_bias(self) -> None:
        """b_e += rate * sign(mean load - load_e), its mean taken out so that the sum stays."""
        if self.config.router == "sigmoid" and self.load_E is not None:
            step_E = self.config.bias_rate * (self.load_E.mean() - self.load_E).sign()
            self.e_score_correction_bias += step_E - step_E.mean()
        self.load_E = None


class ExpertStack(Protocol):
    """The matrices of all experts, kept otherwise than as a parameter (`engine/device/weights.py`)."""

    def whole(self) -> Tensor:
        """[E, out, in]."""
        ...

    def of(self, chosen_NP: Tensor) -> Tensor:
        """[N, P, out, in]."""
        ...


class Experts(nn.Module):
    """Stacked gated MLPs; each token visits its experts, none is dropped.

    `stacks`: (gate and up, down) in place of the parameters; `few`: pairs of a token and an expert, up to which each pair's
    matrices are gathered, so that no count of them is needed and no other expert is read.
    """

    def __init__(self, width: int, config: MoEConfig) -> None:
        super().__init__()
        self.config = config
        self.stacks: tuple[ExpertStack, ExpertStack] | None = None
        self.few = 0
        self.gate_up_proj = nn.Parameter(torch.empty(config.experts, 2 * config.width, width))
        self.down_proj = nn.Parameter(torch.empty(config.experts, width, config.width))
        if config.biases:
            self.gate_up_proj_bias = nn.Parameter(torch.empty(config.experts, 2 * config.width))
            self.down_proj_bias = nn.Parameter(torch.empty(config.experts, width))

    def forward(self, x_ND: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        if self.stacks is not None and chosen.numel() <= self.few:
            return self._pair_by_pair(x_ND, chosen, weights, self.stacks)
        experts, per_token = self.gate_up_proj.shape[0], chosen.shape[1]
        gate_up, down = self.gate_up_proj, self.down_proj
        if self.stacks is not None:
            gate_up, down = (stack.whole() for stack in self.stacks)
        order_M = chosen.flatten().argsort(stable=True)
        token_M, expert_M = order_M // per_token, chosen.flatten()[order_M]
        counts_E = _counts(expert_M, experts)
        hidden_MI = grouped_linear(x_ND[token_M], gate_up.to(x_ND.dtype), counts_E)
        if self.config.biases:
            hidden_MI = hidden_MI + self.gate_up_proj_bias[expert_M].to(x_ND.dtype)
        y_MD = grouped_linear(self._gate(hidden_MI), down.to(x_ND.dtype), counts_E)
        if self.config.biases:
            y_MD = y_MD + self.down_proj_bias[expert_M].to(x_ND.dtype)
        y_MD = y_MD.float() * weights.flatten()[order_M, None]
        return torch.zeros_like(x_ND, dtype=torch.float32).index_add(0, token_M, y_MD).to(x_ND.dtype)

    def _pair_by_pair(
        self, x_ND: Tensor, chosen_NP: Tensor, weights_NP: Tensor, stacks: tuple[ExpertStack, ExpertStack]
    ) -> Tensor:
        gate_up, down = stacks
        hidden_NPI = (gate_up.of(chosen_NP) @ x_ND[:, None, :, None]).squeeze(-1)
        if self.config.biases:
            hidden_NPI = hidden_NPI + self.gate_up_proj_bias[chosen_NP].to(x_ND.dtype)
        inner_NPI = self._gate(hidden_NPI.flatten(0, 1)).unflatten(0, chosen_NP.shape)
        y_NPD = (down.of(chosen_NP) @ inner_NPI[..., None]).squeeze(-1)
        if self.config.biases:
            y_NPD = y_NPD + self.down_proj_bias[chosen_NP].to(x_ND.dtype)
        return (y_NPD.float() * weights_NP[..., None]).sum(1).to(x_ND.dtype)

    def _gate(self, hidden_MI: Tensor) -> Tensor:
        limit = self.config.swiglu_limit
        if limit is None:
            return swiglu(hidden_MI)
        gate, up = hidden_MI.chunk(2, dim=-1)
        gate, up = gate.clamp(max=limit), up.clamp(-limit, limit)
        return (up + 1) * gate * (self.config.swiglu_alpha * gate).sigmoid()


def _counts(expert_M: Tensor, experts: int) -> Tensor:
    """How often each comes in a sorted list, without waiting for a GPU as `bincount` does."""
    numbers = torch.arange(experts + 1, device=expert_M.device)
    return torch.searchsorted(expert_M, numbers).diff()


def grouped_linear(x_Mi: Tensor, weight_Eoi: Tensor, counts_E: Tensor) -> Tensor:
    """Rows sorted by expert, each block times its expert's matrix. On a CPU a loop: as fast as the grouped product, and free
    of its alignment rules. On a GPU, without gradients, the grouped product: a loop would wait there for the counts."""
    if _grouped_product_fits(x_Mi, weight_Eoi):
        ends_E = counts_E.cumsum(0).to(torch.int32)
        return F.grouped_mm(x_Mi, weight_Eoi.transpose(1, 2), offs=ends_E)
    parts = x_Mi.split(counts_E.tolist())
    return torch.cat([F.linear(part, weight) for part, weight in zip(parts, weight_Eoi, strict=True)])


def _grouped_product_fits(x_Mi: Tensor, weight_Eoi: Tensor) -> bool:
    """PyTorch's needs rows of 16 bytes, bfloat16 and compute capability 9."""
    if not x_Mi.is_cuda or torch.is_grad_enabled() or x_Mi.dtype != torch.bfloat16 or not len(x_Mi):
        return False
    aligned = weight_Eoi.shape[1] % 8 == 0 and weight_Eoi.shape[2] % 8 == 0
    return aligned and torch.cuda.get_device_capability(x_Mi.device)[0] == 9


class MixtureOfExperts(nn.Module):
    def __init__(self, width: int, config: MoEConfig) -> None:
        super().__init__()
        self.gate = Router(width, config)
        self.experts = Experts(width, config)
        shared = config.shared_width or config.width * config.shared
        self.shared_experts = GatedMLP(width, shared) if config.shared else None
        self.shared_gate = Linear(width, 1) if config.shared and config.shared_gate else None

    def forward(self, x_ND: Tensor) -> Tensor:
        chosen, weights = self.gate(x_ND)
        y_ND = self.experts(x_ND, chosen, weights)
        if self.shared_experts is None:
            return y_ND
        shared_ND = self.shared_experts(x_ND)
        if self.shared_gate is not None:
            shared_ND = shared_ND * self.shared_gate(x_ND).sigmoid()
        return y_ND + shared_ND
