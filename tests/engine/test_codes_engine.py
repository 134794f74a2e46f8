"""A quantised directory on the native kernels: its codes as they are, its numbers where something else needs them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from hanok.engine.api import Request, SamplingParams
from hanok.engine.generator import LocalEngine
from hanok.engine.native import NativeDecoder
from hanok.kernels.native import native_available
from hanok.models.coded import CodedParameter
from hanok.models.convert import convert

pytestmark = pytest.mark.skipif(not native_available(), reason="the native kernels are not built")
MODELS = {
    "llama": {"pattern": ("gqa",), "num_heads": 4, "num_kv_heads": 2, "hidden_size": 64, "intermediate_size": 96},
    "hybrid": {"pattern": ("kda", "mla"), "num_heads": 2, "head_dim": 32, "hidden_size": 64, "num_kv_heads": None,
               "kv_lora_rank": 32, "qk_nope_head_dim": 16, "qk_rope_head_dim": 16, "v_head_dim": 16},
}  # fmt: skip


@pytest.fixture(scope="module", params=[(name, bits) for name in MODELS for bits in (4, 8)])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny) -> tuple[Path, Path]:
    """The float model and its quantised directory."""
    name, bits = request.param
    folder = tmp_path_factory.mktemp("codes")
    plain = tiny.save_tiny_model(folder / "plain", seed=3, initializer_range=0.15, **MODELS[name])
    convert(plain, folder / f"int{bits}", weights=f"int{bits}")
    return plain, folder / f"int{bits}"


def images(model: NativeDecoder) -> list[Tensor]:
    kept = model._held.matrices
    return [part for one in kept for part in (one.weights, one.scales) if part is not None]


def still_coded(engine: LocalEngine) -> int:
    return sum(isinstance(p, CodedParameter) for p in engine.decoder.parameters())


def ask(engine: LocalEngine):
    params = SamplingParams(temperature=0.0, max_tokens=24, ignore_eos=True, logprobs=1)
    return engine.generate([Request(id="one", prompt_ids=list(range(20, 120)), params=params)])[0]


def test_the_same_images_and_answers(pair: tuple[Path, Path]) -> None:
    plain, codes = pair
    kind = codes.name
    fast, expected = LocalEngine(codes), LocalEngine(plain, weights=kind)
    assert fast.weights == kind
    assert isinstance(fast._paged, NativeDecoder)
    assert isinstance(expected._paged, NativeDecoder)
    for ours, theirs in zip(images(fast._paged), images(expected._paged), strict=True):
        assert torch.equal(ours, theirs)
    assert still_coded(fast) > 0
    if "kda" not in fast.decoder.config.layers:  # latent attention reads one map as numbers
        assert ask(fast).ids == ask(expected).ids
        assert still_coded(fast) == 7 * fast.decoder.config.num_layers


def test_numbers_for_who_needs_them(pair: tuple[Path, Path]) -> None:
    _, codes = pair
    engine = LocalEngine(codes)
    before = ask(engine)
    assert engine.embed(list(range(30, 40)), 0).shape == (10, 64)
    assert still_coded(engine) == 0
    name = "layers.1.mlp.down_proj.weight"
    kept = {key: p.detach().clone() for key, p in engine.decoder.named_parameters() if key == name}
    engine.update_weights({name: kept[name] * 0.5})
    assert ask(engine).logprobs != before.logprobs
    engine.update_weights(kept)
    assert ask(engine).logprobs == before.logprobs, "the codes count again"
    floats = LocalEngine(codes, weights="float32")
    assert still_coded(floats) == 0
    other = LocalEngine(codes, weights="int8" if codes.name == "int4" else "bf16")
    assert len(ask(other).ids) == len(ask(floats).ids) == 24
