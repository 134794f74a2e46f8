"""The calculator against the model itself and against published numbers."""

from __future__ import annotations

from hanok.models.config import ModelConfig, MoEConfig
from hanok.models.decoder import Decoder
from hanok.models.plan import Machine, plan

MACHINE = Machine(gflops=500.0, bandwidth_gbs=50.0)


def test_counts_are_the_models_own() -> None:
    config = ModelConfig(vocab_size=300, hidden_size=64, num_layers=4)
    made = plan(config, MACHINE, training_tokens=1000)
    assert made.parameters == sum(p.numel() for p in Decoder(config).parameters())
    assert sum(made.by_part.values()) == made.parameters
    state = Decoder(config).new_state(1)
    recurrent = sum(layer["recurrent"].numel() for layer in state.layers if "recurrent" in layer)
    conv = sum(layer["conv"].numel() for layer in state.layers if "conv" in layer)
    assert made.state_bytes == 4 * recurrent + 2 * conv


def test_kimi_linear_48b() -> None:
    """arXiv 2510.26692 and its published configuration: 49.12 B in all, 3.1 B active, cache a quarter of MLA alone."""
    config = ModelConfig(
        vocab_size=163840, hidden_size=2304, num_layers=27, num_heads=32, head_dim=128,
        pattern=tuple("mla" if i in (3, 7, 11, 15, 19, 23, 26) else "kda" for i in range(27)),
        kv_lora_rank=512, qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128, intermediate_size=9216,
        tie_embeddings=False,
        moe=MoEConfig(experts=256, per_token=8, width=1024, shared=1, first_dense=1, router="sigmoid", scaling=2.446),
    )  # fmt: skip
    made = plan(config, MACHINE, training_tokens=1)
    assert round(made.parameters / 1e9, 2) == 49.12
    assert round(made.active / 1e9, 2) == 3.11
    assert made.cache_bytes_per_token == 8064
    assert round(made.state_bytes / 2**20, 1) == 41.4
