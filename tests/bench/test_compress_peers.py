"""Other people's quantisers: which of them there are, and how many bits a weight they are counted with."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from hanok.bench import compress_peers, decode
from hanok.bench.compress_peers import logits_of, peers, round_layers
from hanok.compression.settings import CompressConfig
from hanok.models.config import ModelConfig
from hanok.models.decoder import Decoder


def test_maps_of_the_layers_are_rounded_and_the_rest_is_counted_in_full(tiny_shape: ModelConfig) -> None:
    decoder = Decoder(tiny_shape, generator=torch.Generator().manual_seed(1)).requires_grad_(False)
    before = decoder.embed_tokens.weight.clone()
    bits = round_layers(decoder, lambda weight: (torch.zeros_like(weight), 4.5))
    inner = sum(math.prod(p.shape) for p in decoder.layers.parameters() if p.dim() > 1)
    ends = math.prod(before.shape)
    assert bits == pytest.approx((4.5 * inner + 16 * ends) / (inner + ends))
    assert not decoder.get_parameter("layers.1.mlp.down_proj.weight").any()
    assert torch.equal(decoder.embed_tokens.weight, before)
    assert logits_of(decoder)([3, 5, 7]).shape == (3, tiny_shape.vocab_size)


def test_peers_that_are_not_installed_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for module in (compress_peers, decode):
        monkeypatch.setattr(module, "find_spec", lambda name: None)
    with caplog.at_level("INFO"):
        assert not list(peers(tmp_path, tmp_path, tmp_path, CompressConfig(), [1]))
    for name in ("hqq", "torchao", "optimum-quanto", "gptqmodel"):
        assert f"{name} is not installed" in caplog.text
