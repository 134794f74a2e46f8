"""The benchmark of a hybrid's prompts from end to end, on a tiny model."""

from __future__ import annotations

from pathlib import Path

import pytest

from hanok.bench import hybrid
from hanok.cli.bench import BENCHMARKS
from hanok.kernels.native import native_available
from hanok.models.config import ModelConfig

SHAPE = ModelConfig(
    vocab_size=101, hidden_size=64, num_layers=4, pattern=("kda", "kda", "kda", "mla"), num_heads=2, head_dim=32,
    kv_lora_rank=32, qk_nope_head_dim=32, qk_rope_head_dim=16, v_head_dim=32, intermediate_size=96, max_context=1024,
)  # fmt: skip


@pytest.mark.skipif(not native_available(), reason="the native kernels are not built")
def test_each_side_reads_prompts_in_pieces(tmp_path: Path) -> None:
    rows = hybrid.run(
        kinds=("int4", "bf16"), rounds=2, lengths=(5, 700), folder=tmp_path, shape=SHAPE, name="tiny"
    )
    assert [row["case"] for row in rows] == [
        f"prompt/{kind}/ctx{n}" for kind in ("int4", "bf16") for n in (5, 700)
    ]
    assert all(
        row["ours"] > 0 and row["theirs"] > 0 and row["peer"] in hybrid.PEERS and row["runs"] == 2
        for row in rows
    )
    (alone,) = hybrid.run(rounds=1, lengths=(64,), folder=tmp_path, shape=SHAPE, name="tiny", peers=False)
    assert alone["peer"] == "none"
    assert BENCHMARKS["hybrid"] == hybrid.__name__
