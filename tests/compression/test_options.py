"""Rotation, smoothing, pruning, zero points and mixed widths, from a model directory to one that others read."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hanok.compression.compress import compress
from hanok.compression.page import Context
from hanok.compression.rotate import Rotation
from hanok.compression.settings import CompressConfig, Method, Plan
from hanok.engine.api import Request, SamplingParams
from hanok.engine.generator import LocalEngine
from hanok.engine.native import NativeDecoder
from hanok.errors import ConfigError
from hanok.kernels.formats import quantise
from hanok.kernels.native import native_available
from hanok.models.checkpoint import load_model, load_stored_bits, save_model
from hanok.models.checkpoint.weights import read_weights
from hanok.models.coded import CodedParameter
from hanok.models.config import MoEConfig
from hanok.models.decoder import Block, Decoder
from hanok.tokens import Tokenizer

pytestmark = pytest.mark.filterwarnings("ignore")
SMALL = CompressConfig(samples=40, length=48, held_out=2)
WIDE = {"layers.0.mlp.down_proj": 8, "layers.1.self_attn.o_proj": 8}


def logits_of(model: Decoder, dtype: torch.dtype = torch.float32) -> Tensor:
    model.to(dtype).set_compute_dtype(dtype)
    ids = torch.arange(20, 60)
    with torch.no_grad():
        hidden_ND = model(ids, torch.tensor([0, 40], dtype=torch.int32))[0]
        return torch.nn.functional.linear(hidden_ND, model.head_weight)


@pytest.mark.parametrize("norm", ["rms", "rms_plus_one"])
def test_a_rotated_model_is_the_same_function(small_decoder: Callable[..., Decoder], norm: str) -> None:
    changes = {"num_kv_heads": 2, "norm": norm, "qkv_bias": True, "o_bias": True}
    expected = logits_of(small_decoder(**changes), torch.float64)
    model = small_decoder(**changes)
    rotation = Rotation.of(model, 3)
    for block in model.layers:
        assert isinstance(block, Block)
        rotation.turn_block(block)
    rotation.turn_ends(model)
    found = logits_of(model, torch.float64)
    assert float((found - expected).abs().max()) < 1e-5  # norms take their sums in float32
    assert model.lm_head is not None
    assert not model.config.tie_embeddings


def test_others_are_not_rotated(small_decoder: Callable[..., Decoder]) -> None:
    with pytest.raises(ConfigError, match="Llama"):
        Rotation.of(small_decoder(norm_placement="post", num_kv_heads=2, qk_norm=True), 1)


def test_rotated_and_rounded_it_is_close(model_dir: Path, text_file: Path, tmp_path: Path) -> None:
    config = replace(SMALL, bits=8, rotate=True)
    made = compress("gptq", config, model=model_dir, data=text_file, out=tmp_path / "out")
    assert made.metrics["kl"] < 0.001
    engine = LocalEngine(tmp_path / "out")
    params = SamplingParams(max_tokens=4, temperature=0.0, ignore_eos=True)
    assert engine.generate([Request(id="a", prompt_ids=(20, 21, 22), params=params)])[0].ids
    engine.close()


def test_smoothing_keeps_the_function(model_dir: Path, text_file: Path, tmp_path: Path) -> None:
    made = compress(
        "rtn", replace(SMALL, bits=8, smooth=0.5), model=model_dir, data=text_file, out=tmp_path / "out"
    )
    assert made.metrics["kl"] < 0.001
    before, after = (
        load_model(path).get_parameter("layers.0.input_layernorm.weight")
        for path in (model_dir, tmp_path / "out")
    )
    assert not torch.allclose(before, after)


@pytest.mark.parametrize("method", ["magnitude", "wanda", "sparsegpt"])
@pytest.mark.parametrize("sparsity", ["0.5", "2:4"])
def test_pruned_maps_have_so_many_zeros(
    method: str, sparsity: str, model_dir: Path, text_file: Path, tmp_path: Path
) -> None:
    config = replace(SMALL, prune=method, sparsity=sparsity)
    compress("none", config, model=model_dir, data=text_file, out=tmp_path / "out")
    weight = load_model(tmp_path / "out").get_parameter("layers.1.mlp.down_proj.weight")
    zeros = weight == 0
    if sparsity == "2:4":
        assert bool((zeros.unflatten(1, (-1, 4)).sum(-1) == 2).all())
    elif method == "sparsegpt":
        assert int(zeros.sum()) == zeros.numel() // 2
    else:
        assert bool((zeros.sum(1) == weight.shape[1] // 2).all())


def test_what_was_pruned_stays_zero_in_codes(model_dir: Path, text_file: Path, tmp_path: Path) -> None:
    config = replace(SMALL, prune="sparsegpt", sparsity="2:4")
    compress("gptq", config, model=model_dir, data=text_file, out=tmp_path / "out")
    weight = load_model(tmp_path / "out", dtype="stored").get_parameter("layers.1.mlp.down_proj.weight")
    assert isinstance(weight, CodedParameter)
    zeros = weight.stored.integers() == 0
    assert bool((zeros.unflatten(1, (-1, 4)).sum(-1) >= 2).all())


@pytest.mark.parametrize("method", ["rtn", "hqq", "gptq", "awq"])
def test_zero_points_are_read_back(method: Method, model_dir: Path, text_file: Path, tmp_path: Path) -> None:
    config = replace(SMALL, bits=3, zeros=True)
    made = compress(method, config, model=model_dir, data=text_file, out=tmp_path / "out")
    plain = compress(
        method, replace(SMALL, bits=3), model=model_dir, data=text_file, out=tmp_path / "symmetric"
    )
    assert load_stored_bits(tmp_path / "out") == 4, "the engine takes it as it is"
    assert made.metrics["kl"] < 2 * plain.metrics["kl"]
    weight = load_model(tmp_path / "out").get_parameter("layers.0.mlp.up_proj.weight")
    levels = weight.unflatten(1, (-1, 32))[0, 0].unique()
    assert len(levels) <= 8
    coded = load_model(tmp_path / "out", dtype="stored").get_parameter("layers.0.mlp.up_proj.weight")
    assert isinstance(coded, CodedParameter)
    assert coded.stored.zeros_NG is not None
    assert torch.equal(coded.stored.values().float(), weight)


@pytest.mark.skipif(not native_available(), reason="the native kernels are not built")
def test_the_engine_runs_zero_points(model_dir: Path, text_file: Path, tmp_path: Path) -> None:
    """As the report says that it does: codes of four bits with a scale and a zero point, embedding and head in eight bits."""
    config = replace(SMALL, zeros=True, head_bits=8)
    context = Context(speed=speed_of)
    made = compress("gptq", config, model=model_dir, data=text_file, out=tmp_path / "out", context=context)
    model = load_model(tmp_path / "out")
    inner = sum(p.numel() for p in model.layers.parameters() if p.dim() > 1)
    ends = model.embed_tokens.weight.numel()
    held = (5 * inner + 8.5 * ends) / (inner + ends)
    assert made.metrics["bits_a_weight_in_the_engine"] == pytest.approx(held)
    assert made.metrics["bits_a_coded_weight"] == pytest.approx(4 + 16 / 32 + 4 / 32)
    assert made.metrics["tokens_per_second_after"] > 0
    engine = LocalEngine(tmp_path / "out")
    try:
        assert engine.weights == "int4"
        assert isinstance(engine._paged, NativeDecoder)
        assert 8 * engine._paged.weight_bytes == pytest.approx(held * (inner + ends), rel=0.01)
        found = torch.tensor(engine.score(range(20, 60)))
    finally:
        engine.close()
    model.embed_tokens.weight.data = quantise(model.embed_tokens.weight, 8).dequantised()
    expected = logits_of(model).log_softmax(-1)[range(39), range(21, 60)]
    assert (found - expected).abs().mean() < 0.05 * expected.std()


def speed_of(model: Path) -> float:
    """Tokens a second of a short answer."""
    engine, begun = LocalEngine(model), time.perf_counter()
    params = SamplingParams(max_tokens=8, temperature=0.0, ignore_eos=True)
    engine.generate([Request(id="a", prompt_ids=(20, 21, 22), params=params)])
    engine.close()
    return 8 / (time.perf_counter() - begun)


def test_two_widths_in_one_directory(model_dir: Path, text_file: Path, tmp_path: Path) -> None:
    narrow = compress("gptq", SMALL, model=model_dir, data=text_file, out=tmp_path / "narrow")
    mixed = compress("gptq", SMALL, model=model_dir, data=text_file, out=tmp_path / "out", widths=WIDE)
    assert mixed.metrics["kl"] < narrow.metrics["kl"]
    assert 4.5 < mixed.metrics["bits_a_coded_weight"] < 8.5
    assert load_stored_bits(tmp_path / "out") == 4
    model = load_model(tmp_path / "out", dtype="stored")
    for name, parameter in model.named_parameters():
        if isinstance(parameter, CodedParameter):
            assert parameter.stored.bits == WIDE.get(name.removesuffix(".weight"), 4), name


@pytest.mark.parametrize(("group", "widths"), [(32, WIDE), (0, {})], ids=["two widths", "a scale a row"])
def test_transformers_reads_what_is_special(
    group: int, widths: dict[str, int], model_dir: Path, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setitem(sys.modules, "fla", None)
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("compressed_tensors")
    config = replace(SMALL, group=group)
    compress("gptq", config, model=model_dir, data=text_file, out=tmp_path / "out", widths=widths)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", dtype=torch.float32, attn_implementation="eager"
    ).eval()
    with torch.no_grad():
        expected = theirs(torch.arange(20, 60)[None]).logits[0]
    found = logits_of(load_model(tmp_path / "out"))
    assert (found - expected).std() < 0.01 * expected.std()


@pytest.mark.parametrize("method", ["rtn", "hqq", "gptq", "awq"])
def test_one_scale_a_row(method: Method, model_dir: Path, text_file: Path, tmp_path: Path) -> None:
    config = replace(SMALL, bits=3, head_bits=16)
    narrow = compress(method, config, model=model_dir, data=text_file, out=tmp_path / "groups")
    coarse = compress(method, replace(config, group=0), model=model_dir, data=text_file, out=tmp_path / "out")
    assert coarse.metrics["kl"] > narrow.metrics["kl"]
    assert load_stored_bits(tmp_path / "out") == 4, "the engine takes it as it is"
    model = load_model(tmp_path / "out", dtype="stored")
    weight = model.get_parameter("layers.1.mlp.down_proj.weight")
    assert isinstance(weight, CodedParameter)
    assert weight.stored.scales_NG.shape[1] == 1
    codes = weight.stored.quantised()
    assert torch.equal(codes.dequantised().half(), weight.stored.values())


def test_compressed_tensors_reads_zero_points(model_dir: Path, text_file: Path, tmp_path: Path) -> None:
    """Map by map: what transformers builds before it reads the file has zero points of another shape (0.20)."""
    base = pytest.importorskip("compressed_tensors.compressors.pack_quantized.base")
    quantization = pytest.importorskip("compressed_tensors.quantization")
    compress("gptq", replace(SMALL, zeros=True), model=model_dir, data=text_file, out=tmp_path / "out")
    settings = json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))[
        "quantization_config"
    ]
    scheme = quantization.QuantizationScheme(**settings["config_groups"]["group_0"])
    name, tensors = "model.layers.1.mlp.up_proj.", read_weights(tmp_path / "out")
    parts = {n.removeprefix(name): t for n, t in tensors.items() if n.startswith(name)}
    theirs = base.PackedQuantizationCompressor.decompress(parts, scheme)["weight"]
    ours = load_model(tmp_path / "out").get_parameter("layers.1.mlp.up_proj.weight")
    assert (ours - theirs).abs().max() <= 2e-3 * ours.abs().max()


def test_nothing_to_do_is_an_error() -> None:
    with pytest.raises(ConfigError, match="none"):
        Plan("none", SMALL)
    for bad in ("2:2", "1.5", "half"):
        with pytest.raises(ConfigError, match="sparsity"):
            replace(SMALL, sparsity=bad)


@pytest.mark.parametrize(("method", "zeros"), [("rtn", False), ("gptq", False), ("gptq", True)])
def test_experts(
    method: Method, zeros: bool, small_decoder: Callable[..., Decoder], model_dir: Path, text_file: Path, tmp_path: Path
) -> None:  # fmt: skip
    """Mixtral keeps a matrix an expert in its file: each gets codes, and the report says who met little text."""
    moe = MoEConfig(experts=4, per_token=1, width=64, router="softmax")
    model = small_decoder(num_kv_heads=2, moe=moe, family="mixtral")
    router = model.layers[1].get_submodule("mlp.gate").get_parameter("weight")
    router[3] = (
        0.01 * router[2]
    )  # between the best and the worst: hardly anybody is sent to the last of the second layer
    (tmp_path / "base").mkdir()
    save_model(model, tmp_path / "base")
    Tokenizer.load(model_dir).save(tmp_path / "base")
    config = replace(SMALL, zeros=zeros)
    made = compress(method, config, model=tmp_path / "base", data=text_file, out=tmp_path / "out")
    before, after = load_model(tmp_path / "base"), load_model(tmp_path / "out")
    name = "layers.0.mlp.experts.down_proj"
    rounded = after.get_parameter(name)
    assert len(rounded.unflatten(-1, (-1, 32))[2, 0, 0].unique()) <= 16
    assert (rounded - before.get_parameter(name)).abs().max() < 0.3 * before.get_parameter(name).abs().max()
    assert made.metrics["bytes_after"] < 0.5 * made.metrics["bytes_before"]
    assert 0 < made.metrics["kl"] < 0.5
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    title = "Experts that met fewer rows than they have inputs, rounded to the nearest"
    if method == "rtn":
        assert title not in report
    else:
        assert made.metrics["experts_with_few_rows"] == len(report[title]) > 0
    engine = LocalEngine(tmp_path / "out")
    params = SamplingParams(max_tokens=4, temperature=0.0, ignore_eos=True)
    assert len(engine.generate([Request(id="a", prompt_ids=(20, 21, 22), params=params)])[0].ids) == 4
    kept = engine.decoder.get_parameter(name)
    assert isinstance(kept, CodedParameter), "the engine takes the codes as they are"
    assert (kept.stored.zeros_NG is not None) == zeros
    engine.close()
