"""A decoder of which this process has a share: the layers are the model's own, only smaller (`shares.py`); here stands what
they say to those of the other processes.

N tokens, D model width, K channels of the heads, V vocabulary; v the part of the vocabulary that is held here.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hanok.engine.parallel.shares import cut, local_config
from hanok.engine.parallel.team import Team
from hanok.models.checkpoint import assemble
from hanok.models.checkpoint.sliced import load_slices
from hanok.models.config import ModelConfig
from hanok.models.decoder import Decoder
from hanok.models.linear import RMSNorm


class ShardedDecoder(Decoder):
    """Args: config: of this process's part (`local_config`). whole: of the model."""

    def __init__(self, config: ModelConfig, *, whole: ModelConfig, team: Team) -> None:
        super().__init__(config)
        self._whole, self._team = whole, team
        self.embed_tokens = _VocabularyPart(whole, team)
        for block in self.layers:
            mixer = block.get_submodule("self_attn")
            for end in ("o_proj", "out_proj"):
                if hasattr(mixer, end):
                    mixer.get_submodule(end).register_forward_hook(self._sum)
            block.get_submodule("mlp").register_forward_hook(self._sum)
            for name in ("q_norm", "k_norm") if whole.qk_norm_whole else ():
                norm = getattr(mixer, name, None)
                if isinstance(norm, RMSNorm):
                    setattr(mixer, name, _WholeNorm(norm, team))

    def logits(self, hidden_ND: Tensor) -> Tensor:
        """float32 logits_NV in the leader, logits_Nv in the others."""
        return self._team.join_columns(super().logits(hidden_ND), self._whole.vocab_size)

    def _sum(self, _module: nn.Module, _inputs: Any, part_ND: Tensor) -> Tensor:
        return self._team.sum(part_ND)


class _VocabularyPart(nn.Embedding):
    """Rows of the embedding. A token of another process's is zero here, and the sum brings it."""

    def __init__(self, whole: ModelConfig, team: Team) -> None:
        part = team.share.part(whole.vocab_size)
        rows = part.stop - part.start
        super().__init__(rows, whole.hidden_size, _weight=torch.empty(rows, whole.hidden_size))
        self._part, self._team = part, team

    def forward(self, input: Tensor) -> Tensor:
        held_N = (input >= self._part.start) & (input < self._part.stop)
        rows_ND = F.embedding((input - self._part.start).where(held_N, 0), self.weight)
        return self._team.sum(rows_ND.masked_fill(~held_N[:, None], 0.0))


class _WholeNorm(nn.Module):
    """`RMSNorm` over the channels of all processes (OLMo 2). Heads that several hold count as often on both sides of the mean."""

    def __init__(self, norm: RMSNorm, team: Team) -> None:
        super().__init__()
        self.weight, self.eps, self.offset, self._team = norm.weight, norm.eps, norm.offset, team

    def forward(self, x_NK: Tensor) -> Tensor:
        x = x_NK.float()
        squares_N1 = self._team.sum(x.square().sum(-1, keepdim=True))
        mean_N1 = squares_N1 / (self._team.share.size * x.shape[-1])
        return (x * torch.rsqrt(mean_N1 + self.eps) * (self.weight.float() + self.offset)).to(x_NK.dtype)


def load_sharded(directory: Path, team: Team, new: type[ShardedDecoder] = ShardedDecoder) -> ShardedDecoder:
    """This process's slices of the weights, in float32.

    Raises:
        CheckpointError: as `load_model`. ConfigError: a model that so many processes cannot share.
    """
    whole, tensors = load_slices(
        directory, lambda name, tensor, config: cut(name, tensor, config, team.share)
    )
    local = local_config(whole, team.share)
    model = assemble(local, tensors, where=str(directory), new=partial(new, whole=whole, team=team))
    assert isinstance(model, ShardedDecoder)
    return model.requires_grad_(False)
