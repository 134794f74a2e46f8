"""A directory with codes of four and of eight bits, and a finer head, runs as it is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hanok.data.tokenizer import Alphabet, tokenizer_files
from hanok.engine.coverage import WIDTHS
from hanok.engine.generator import LocalEngine
from hanok.engine.images import images_of
from hanok.engine.native import NativeDecoder
from hanok.kernels.formats import Stored, pack_words, quantise
from hanok.kernels.native import native_available
from hanok.models.checkpoint import FileCodes, load_head_bits, load_model, load_stored_bits, save_quantised
from hanok.models.coded import CodedParameter, as_quantised
from hanok.models.config import ModelConfig, MoEConfig
from hanok.models.decoder import Decoder
from hanok.models.linear import Linear
from hanok.models.mlp import Experts
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
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():  # some maps begin at zero
        parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
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
    assert (theirs - expected).std() < 0.05 * expected.std(), "only inputs are rounded"
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


@pytest.mark.parametrize("name", ["dense", "experts"])
@torch.no_grad()
def test_five_bits_where_rounding_costs_most(name: str, tmp_path: Path) -> None:
    """int4+ is the decoder with five bits in embedding, inputs of mixers and the way down, and four in the rest."""
    more = (
        {"moe": MoEConfig(experts=4, per_token=2, width=40, shared=1, first_dense=1)}
        if name == "experts"
        else {}
    )
    config = ModelConfig(
        vocab_size=120, hidden_size=64, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=16, intermediate_size=96,
        pattern=("gqa",), initializer_range=0.2, tie_embeddings=name == "dense", **more,
    )  # fmt: skip
    decoder = Decoder(config, generator=torch.Generator().manual_seed(0)).requires_grad_(False)
    generator = torch.Generator().manual_seed(1)
    for parameter in decoder.parameters():
        parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    width, finer = WIDTHS["int4+"]
    found = NativeDecoder(decoder, kind=width, finer=finer, blocks=2, threads=2)
    four = NativeDecoder(decoder, kind="int4", blocks=2, threads=2)
    eight = NativeDecoder(decoder, kind="int8", blocks=2, threads=2)
    assert four.weight_bytes < found.weight_bytes < eight.weight_bytes
    plain = text_logits(decoder)
    for place, module in decoder.named_modules():
        if isinstance(module, (Linear, torch.nn.Embedding)):
            fine = place.endswith(("embed_tokens", "lm_head", "q_proj", "k_proj", "v_proj", "down_proj"))
            module.weight.data = on_grid(module.weight, 5 if fine else 4)
        if isinstance(module, Experts):
            for stack in (module.gate_up_proj, module.down_proj):
                stack.data = torch.stack([on_grid(weight, 4) for weight in stack])
    expected = text_logits(decoder)
    ours, theirs = ((x - expected).square().mean(1).sqrt().median() for x in (logits(found), plain))
    assert ours < 0.05 * expected.std(), "only inputs are rounded"
    assert ours < 0.5 * theirs


@torch.no_grad()
def test_shared_and_routed_experts_of_two_widths(tmp_path: Path) -> None:
    """Rows are rounded for each product as its own weights need it."""
    config = ModelConfig(
        vocab_size=120, hidden_size=64, num_layers=1, num_heads=4, num_kv_heads=2, head_dim=16, intermediate_size=96,
        pattern=("gqa",), initializer_range=0.2, moe=MoEConfig(experts=4, per_token=2, width=40, shared=1),
    )  # fmt: skip
    decoder = Decoder(config, generator=torch.Generator().manual_seed(0)).requires_grad_(False)
    shared = decoder.layers[0].mlp.shared_experts  # pyright: ignore[reportAttributeAccessIssue]
    for module in (shared.gate_proj, shared.up_proj):
        q = quantise(module.weight, 8)
        module.weight = CodedParameter.of(Stored(pack_words(q.q_NK, 8), q.scales_NG, 8, 64))
    found = logits(NativeDecoder(decoder, kind="int4", blocks=2, threads=2))
    for place, module in decoder.named_modules():
        if isinstance(module, (Linear, torch.nn.Embedding)) and not place.endswith(("gate_proj", "up_proj")):
            module.weight.data = on_grid(module.weight, 4)
        if isinstance(module, Experts):
            for stack in (module.gate_up_proj, module.down_proj):
                stack.data = torch.stack([on_grid(weight, 4) for weight in stack])
    expected = text_logits(decoder)
    assert (found - expected).square().mean(1).sqrt().median() < 0.05 * expected.std()


def test_codes_of_a_file_stay_as_they_are(mixed: Path) -> None:
    """int4+ of a directory of codes has these, and five bits in the embedding alone."""
    plus, plain = (
        {matrix.kind for matrix in native(mixed, finer=finer)._held.matrices} for finer in ("int5", None)
    )
    assert plus == {"int4", "int5", "int8"}
    assert plain == {"int4", "int8"}


def test_the_engine_takes_five_bits(
    mixed: Path, tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HANOK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("hanok.engine.images.LEAST_BYTES", 1)
    model = tiny.save_tiny_model(tmp_path / "tiny", seed=3)
    found = []
    for weights in ("int4+", "int4+", "int4"):
        engine = LocalEngine(model, weights=weights)
        try:
            found.append(engine.score(IDS))
        finally:
            engine.close()
    assert found[0] == found[1], "the second start takes the image that the first one kept"
    assert found[0] != found[2]


def text_logits(decoder: Decoder) -> torch.Tensor:
    hidden_ND, _ = decoder(torch.tensor(IDS), torch.tensor([0, len(IDS)], dtype=torch.int32))
    return decoder.logits(hidden_ND)


def on_grid(weight: torch.Tensor, bits: int) -> torch.Tensor:
    padded = torch.nn.functional.pad(weight, (0, -weight.shape[-1] % 32))
    return quantise(padded, bits).dequantised()[:, : weight.shape[-1]].contiguous()


def test_four_bits_are_eight_without_loss() -> None:
    found = quantise(torch.randn(32, 64, generator=torch.Generator().manual_seed(1)), 4)
    parameter = CodedParameter.of(Stored(pack_words(found.q_NK, 4), found.scales_NG, 4, 64))
    wide = as_quantised(parameter, 8)
    assert wide.bits == 8
    assert torch.equal(wide.dequantised(), found.dequantised())
