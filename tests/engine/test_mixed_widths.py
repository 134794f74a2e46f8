"""A directory with codes of four and of eight bits, and a finer head, runs as it is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hanok.data.tokenizer import Alphabet, tokenizer_files
from hanok.engine.generator import LocalEngine
from hanok.engine.images import images_of
from hanok.engine.native import NativeDecoder
from hanok.kernels.formats import Stored, pack_words, quantise
from hanok.kernels.native import native_available
from hanok.models.checkpoint import FileCodes, load_head_bits, load_model, load_stored_bits, save_quantised
from hanok.models.coded import CodedParameter, as_quantised
from hanok.models.config import ModelConfig
from hanok.models.decoder import Decoder
from hanok.models.linear import Linear
from hanok.tokens import Tokenizer

pytestmark = pytest.mark.skipif(not native_available(), reason="the kernels are not built")
WIDE = ("layers.0.mlp.down_proj", "layers.1.self_attn.q_proj", "layers.1.mlp.gate_proj")
IDS = list(range(20, 52))


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    tokenizer = Tokenizer(tokenizer_files(Alphabet.of([]), []))
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=64, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=16,
        intermediate_size=128, pattern=("gqa",),
    )  # fmt: skip
    model = Decoder(config, generator=torch.Generator().manual_seed(0)).requires_grad_(False)
    codes = {}
    for name, module in model.layers.named_modules():
        if isinstance(module, Linear):
            bits = 8 if f"layers.{name}" in WIDE else 4
            found = quantise(module.weight, bits)
            codes[f"layers.{name}.weight"] = FileCodes.of(found)
    save_quantised(model, tmp_path / "model", bits=4, codes=codes, head_bits=8)
    tokenizer.save(tmp_path / "model")
    return tmp_path / "model"


def native(directory: Path, **more: object) -> NativeDecoder:
    decoder = load_model(directory, dtype="stored").requires_grad_(False)
    return NativeDecoder(decoder, kind="int4", blocks=2, threads=1, **more)  # pyright: ignore[reportArgumentType]


def logits(model: NativeDecoder) -> torch.Tensor:
    return torch.cat(list(model.read(IDS, rows=32)))


def test_wide_maps_stay_wide(mixed: Path) -> None:
    assert load_stored_bits(mixed) == 4
    assert load_head_bits(mixed) == 8
    found = native(mixed, ends="int8")
    decoder = load_model(mixed).requires_grad_(False)
    decoder.embed_tokens.weight.copy_(quantise(decoder.embed_tokens.weight, 8).dequantised())
    hidden_ND, _ = decoder(torch.tensor(IDS), torch.tensor([0, len(IDS)], dtype=torch.int32))
    expected = decoder.logits(hidden_ND)
    theirs = logits(found)
    assert (theirs - expected).std() < 0.02 * expected.std(), "only inputs are rounded"
    all_narrow = native(mixed)
    assert found.weight_bytes > all_narrow.weight_bytes
    assert (logits(all_narrow) - expected).std() > (theirs - expected).std()


def test_the_engine_takes_the_head_that_the_directory_names(mixed: Path) -> None:
    engine = LocalEngine(mixed)
    try:
        scores = engine.score(IDS)
    finally:
        engine.close()
    expected = logits(native(mixed, ends="int8")).log_softmax(-1)
    for place, score in enumerate(scores):
        assert score == pytest.approx(float(expected[place, IDS[place + 1]]), abs=1e-4)


def test_kept_images_know_their_widths(mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANOK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("hanok.engine.images.LEAST_BYTES", 1)
    fresh = logits(native(mixed, ends="int8", images=images_of(mixed, "int4")))
    again = logits(native(mixed, ends="int8", images=images_of(mixed, "int4")))
    assert list((tmp_path / "cache" / "images").iterdir())
    assert torch.equal(fresh, again)


def test_four_bits_are_eight_without_loss() -> None:
    found = quantise(torch.randn(32, 64, generator=torch.Generator().manual_seed(1)), 4)
    parameter = CodedParameter.of(Stored(pack_words(found.q_NK, 4), found.scales_NG, 4, 64))
    wide = as_quantised(parameter, 8)
    assert wide.bits == 8
    assert torch.equal(wide.dequantised(), found.dequantised())
