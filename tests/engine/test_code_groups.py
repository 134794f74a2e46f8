"""Directories whose scales are those of 64 or 128 inputs, or of a row: the engine reads no more of them than the file has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from hanok.compression.sizes import sizes_of
from hanok.engine.api import Request, SamplingParams
from hanok.engine.generator import LocalEngine
from hanok.engine.images import images_of
from hanok.engine.native import NativeDecoder
from hanok.kernels.formats import GROUP, Quantised, Stored, quantise
from hanok.kernels.native import native_available
from hanok.models.checkpoint import FileCodes, load_model, save_quantised
from hanok.models.coded import CodedParameter
from hanok.models.config import MoEConfig
from hanok.models.decoder import Decoder
from hanok.models.linear import Linear
from hanok.models.mlp import Experts
from hanok.tokens import Tokenizer

pytestmark = pytest.mark.skipif(not native_available(), reason="the native kernels are not built")
SHAPES: dict[str, dict[str, Any]] = {
    "dense": {"intermediate_size": 256},
    "experts": {
        "intermediate_size": 256,
        "moe": MoEConfig(experts=4, per_token=2, width=128, shared=1, first_dense=1),
    },
}
CHANGED = (
    "layers.1.self_attn.q_proj.weight",
    "layers.0.mlp.up_proj.weight",
    "layers.1.mlp.experts.down_proj",
)  # joined with others; side by side with another; of a stack


@pytest.fixture(scope="module", params=[(name, group) for name in SHAPES for group in (64, 128, 0)])
def made(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny
) -> tuple[Path, Path, int]:
    """The plain model, its codes, and how many inputs share a scale (0: all of a row)."""
    name, group = request.param
    folder = tmp_path_factory.mktemp("groups")
    shape = {
        "pattern": ("gqa",), "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "head_dim": 32, "hidden_size": 128,
        "initializer_range": 0.15, **SHAPES[name],
    }  # fmt: skip
    plain = tiny.save_tiny_model(folder / "plain", seed=3, **shape)
    model = load_model(plain).requires_grad_(False)
    codes = {}
    for place, module in model.named_modules():
        if isinstance(module, Linear) and place != "lm_head":
            codes[f"{place}.weight"] = FileCodes.of(in_groups(module.weight, group))
        if isinstance(module, Experts):
            for part in ("gate_up_proj", "down_proj"):
                stack = module.get_parameter(part)
                one = FileCodes.of(in_groups(stack.flatten(0, 1), group))
                words, scales = (x.unflatten(0, stack.shape[:2]) for x in (one.words_NP, one.scales_NG))
                codes[f"{place}.{part}"] = FileCodes(words, scales, 4)
    save_quantised(model, folder / "codes", bits=4, codes=codes)
    Tokenizer.load(plain).save(folder / "codes")
    return plain, folder / "codes", group


def in_groups(weight_NK: torch.Tensor, group: int) -> Quantised:
    return quantise(weight_NK, 4, group or weight_NK.shape[1])


def native(decoder: Decoder) -> NativeDecoder:
    return NativeDecoder(decoder, kind="int4", blocks=2, threads=2)


def logits(model: NativeDecoder) -> torch.Tensor:
    return torch.cat(list(model.read(list(range(20, 52)), rows=32)))


def repeated(decoder: Decoder) -> Decoder:
    """The same codes with a scale for each 32 inputs."""
    for parameter in decoder.parameters():
        if isinstance(parameter, CodedParameter):
            stored = parameter.stored
            each = stored.cols // GROUP // stored.scales_NG.shape[-1]
            scales = stored.scales_NG.repeat_interleave(each, dim=-1)
            parameter.stored = Stored(stored.codes, scales, stored.bits, stored.cols)
    return decoder


def test_the_same_logits_from_fewer_bytes(made: tuple[Path, Path, int], tmp_path: Path) -> None:
    plain, codes, group = made
    few = native(load_model(codes, dtype="stored").requires_grad_(False))
    many = native(repeated(load_model(codes, dtype="stored").requires_grad_(False)))
    kept = {matrix.group for matrix in few._held.matrices if matrix.group != GROUP}
    assert kept == ({group} if group else {128, 256})
    assert few.weight_bytes < many.weight_bytes
    assert torch.equal(logits(few), logits(many))
    held = sum(8 * matrix.nbytes for matrix in few._held.matrices)
    count = sum(matrix.rows * matrix.cols for matrix in few._held.matrices)
    told = sizes_of(plain, codes, 4).engine_bits
    assert told == pytest.approx(held / count, rel=0.03), "padding apart"


def test_weights_given_anew_have_the_groups_of_the_old(made: tuple[Path, Path, int]) -> None:
    _, codes, group = made
    engine = LocalEngine(codes)
    params = SamplingParams(temperature=0.0, max_tokens=24, ignore_eos=True, logprobs=1)
    request = Request(id="one", prompt_ids=list(range(20, 120)), params=params)
    try:
        (before,) = engine.generate([request])
        there = dict(engine.decoder.named_parameters())
        old = {name: there[name].detach().clone() for name in CHANGED if name in there}
        generator = torch.Generator().manual_seed(0)
        new = {name: one + 0.1 * torch.randn(one.shape, generator=generator) for name, one in old.items()}
        engine.update_weights(new)
        (changed,) = engine.generate([request])
        assert isinstance(engine._paged, NativeDecoder)
        found = logits(engine._paged)
        engine.update_weights(old)
        (again,) = engine.generate([request])
    finally:
        engine.close()
    assert changed.logprobs != before.logprobs
    assert again.logprobs == before.logprobs, "the codes count again"
    fresh = load_model(codes, dtype="stored").requires_grad_(False)
    for name, weight in new.items():
        parameter = fresh.get_parameter(name)
        assert isinstance(parameter, CodedParameter)
        weight = weight.to(old[name].dtype).float()  # as the engine keeps it
        one = FileCodes.of(in_groups(weight.flatten(0, -2), group))
        words, scales = (part.unflatten(0, weight.shape[:-1]) for part in (one.words_NP, one.scales_NG))
        parameter.stored = Stored(words, scales, 4, weight.shape[-1])
    assert torch.equal(logits(native(fresh)), found)


def test_groups_of_32_take_codes_of_larger_ones(made: tuple[Path, Path, int]) -> None:
    """A map that was changed when the image was made, and is the file's again."""
    _, codes, _ = made
    decoder = load_model(codes, dtype="stored").requires_grad_(False)
    expected = logits(native(load_model(codes, dtype="stored").requires_grad_(False)))
    parameter = decoder.get_parameter(CHANGED[0])
    kept = parameter.detach().clone()
    parameter.data = kept * 1.5
    model = native(decoder)
    assert not torch.equal(logits(model), expected)
    parameter.data = kept
    model.refill()
    assert torch.equal(logits(model), expected)


def test_kept_images_have_the_groups(
    made: tuple[Path, Path, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, codes, _ = made
    monkeypatch.setenv("HANOK_CACHE", str(tmp_path))
    monkeypatch.setattr("hanok.engine.images.LEAST_BYTES", 1)
    found = []
    for _ in range(2):
        decoder = load_model(codes, dtype="stored").requires_grad_(False)
        model = NativeDecoder(decoder, kind="int4", blocks=2, threads=2, images=images_of(codes, "int4"))
        found.append((logits(model).tolist(), [matrix.group for matrix in model._held.matrices]))
    assert list((tmp_path / "images").iterdir())
    assert found[0] == found[1]
    assert set(found[0][1]) - {GROUP}
