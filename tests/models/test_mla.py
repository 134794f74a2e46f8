"""Latent attention: the absorbed form of decoding gives what the expanded form of training gives."""

from __future__ import annotations

import pytest
import torch

from hanok.models.config import ModelConfig
from hanok.models.mla import LatentAttention
from hanok.models.ragged import Ragged


def layer() -> LatentAttention:
    config = ModelConfig(
        vocab_size=8, hidden_size=40, num_heads=3, head_dim=8, kv_lora_rank=24, qk_nope_head_dim=10,
        qk_rope_head_dim=6, v_head_dim=14, pattern=("mla",), num_layers=1,
    )  # fmt: skip
    mixer = LatentAttention(config)
    generator = torch.Generator().manual_seed(0)
    for parameter in mixer.parameters():
        parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator)
    return mixer


@torch.no_grad()
@pytest.mark.parametrize("lengths", [[1], [17], [3, 1, 66], [64, 65]])
def test_absorbed_equals_expanded(lengths: list[int]) -> None:
    mixer = layer()
    bounds = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()], dtype=torch.int32)
    x = torch.randn(sum(lengths), 40, generator=torch.Generator().manual_seed(1))
    expanded = mixer(x, Ragged(bounds), None)
    state = mixer.new_state(len(lengths))
    absorbed = mixer(x, Ragged(bounds, torch.zeros(len(lengths), dtype=torch.long)), state)
    torch.testing.assert_close(absorbed, expanded, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_cache_holds_the_latent_and_the_shared_key_alone() -> None:
    mixer = layer()
    state = mixer.new_state(2)
    x = torch.randn(9, 40, generator=torch.Generator().manual_seed(1))
    mixer(x, Ragged(torch.tensor([0, 4, 9], dtype=torch.int32), torch.zeros(2, dtype=torch.long)), state)
    assert set(state) == {"latent"}
    assert state["latent"].shape[2] == 24 + 6
