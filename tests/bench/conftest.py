from __future__ import annotations

import pytest

from hanok.models.config import ModelConfig


@pytest.fixture(scope="session")
def tiny_shape() -> ModelConfig:
    """Of the family that the benchmarks' models have, and as small as the word tokeniser allows."""
    return ModelConfig(
        vocab_size=1024, hidden_size=64, num_layers=2, pattern=("gqa",), num_heads=4, num_kv_heads=2, head_dim=16,
        intermediate_size=128, max_context=1024, qk_norm=True, norm_eps=1e-6, family="qwen3",
    )  # fmt: skip
