"""What llama.cpp makes of the GGUF files written here. Needs llama-cpp-python (`make peers` builds it)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hanok.bench.llama_peer import peer_logits
from hanok.models.checkpoint.gguf import save_gguf
from hanok.models.config import ModelConfig
from hanok.models.decoder import Decoder

pytest.importorskip("llama_cpp", reason="needs llama-cpp-python: make peers")

VOCAB, CONTEXT = 96, 128


def sequences(count: int, seed: int) -> Tensor:
    """[count, 96]: walks whose next token is one of two, so that there is something to learn and something to guess."""
    rng = np.random.default_rng(seed)
    ids = np.empty((count, 96), dtype=np.int64)
    ids[:, 0] = rng.integers(0, VOCAB, count)
    for place in range(1, ids.shape[1]):
        ids[:, place] = (5 * ids[:, place - 1] + 7 + 11 * (rng.random(count) < 0.2)) % VOCAB
    return torch.from_numpy(ids)


def logits(model: Decoder, batch: Tensor) -> Tensor:
    bounds = torch.arange(0, batch.numel() + 1, batch.shape[1], dtype=torch.int32)
    return model.logits(model(batch.flatten(), bounds)[0]).unflatten(0, batch.shape)


@pytest.fixture(scope="module", params=["llama", "qwen2", "qwen3"])
def trained(request: pytest.FixtureRequest) -> Decoder:
    """128 steps: it knows the walk well and is sure of nothing."""
    options = {"llama": {}, "qwen2": {"qkv_bias": True}, "qwen3": {"qk_norm": True, "head_dim": 32}}[
        request.param
    ]
    config = ModelConfig(
        vocab_size=VOCAB, hidden_size=64, num_layers=3, num_heads=4, num_kv_heads=2, pattern=("gqa",),
        intermediate_size=128, max_context=CONTEXT, family=request.param, tie_embeddings=False, **options,
    )  # fmt: skip
    model = Decoder(config, generator=torch.Generator().manual_seed(1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    for step in range(128):
        batch = sequences(16, seed=step)
        loss = F.cross_entropy(logits(model, batch)[:, :-1].flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 1.0
    return model.eval()


Peer = Callable[[list[int]], Tensor]


@pytest.fixture
def peer(trained: Decoder, tmp_path: Path) -> dict[str, Peer]:
    files = {}
    for kind in ("F32", "BF16", "Q8_0"):
        save_gguf(trained, tmp_path / f"{kind}.gguf", kind=kind)
        files[kind] = peer_logits(tmp_path / f"{kind}.gguf", CONTEXT, 1)
    return files


@torch.no_grad()
def test_llama_cpp_continues_alike_and_q8_costs_under_half_a_percent(
    trained: Decoder, peer: dict[str, Peer]
) -> None:
    for prompt in ([3, 22], [50], [7, 42, 25, 36]):
        ours, theirs = list(prompt), list(prompt)
        for _ in range(48):
            ours.append(int(logits(trained, torch.tensor([ours]))[0, -1].argmax()))
            theirs.append(int(peer["F32"](theirs)[-1].argmax()))
        assert theirs == ours
    held_out = sequences(24, seed=999)
    np.testing.assert_allclose(
        peer["F32"](held_out[0].tolist()), logits(trained, held_out[:1])[0], atol=2e-3, rtol=2e-3
    )
    loss = {kind: np.mean([_loss(one(row.tolist()), row) for row in held_out]) for kind, one in peer.items()}
    assert abs(np.exp(loss["Q8_0"] - loss["BF16"]) - 1) < 0.005
    assert abs(np.exp(loss["BF16"] - loss["F32"]) - 1) < 0.005


def _loss(values_NV: Tensor, row: Tensor) -> float:
    return F.cross_entropy(values_NV[:-1], row[1:]).item()
