"""A directory whose codes have zero points, on the native kernels and on PyTorch's layers: as it is, nothing rounded twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from layer_models import filled
from torch import Tensor

from hanok.compression.rtn import rtn
from hanok.data.tokenizer import Alphabet, tokenizer_files
from hanok.engine.api import Request, SamplingParams
from hanok.engine.coverage import WIDTHS
from hanok.engine.device.decoder import DeviceDecoder
from hanok.engine.device.matrices import Coded, Coded4, coded
from hanok.engine.generator import LocalEngine
from hanok.engine.images import images_of
from hanok.engine.native import NativeDecoder
from hanok.kernels.formats import GROUP, Quantised, Stored, pack_words, quantise
from hanok.kernels.native import native_available
from hanok.models.checkpoint import FileCodes, load_model, load_stored_bits, save_quantised
from hanok.models.checkpoint.sliced import load_slices
from hanok.models.coded import CodedParameter, as_quantised
from hanok.models.config import ModelConfig, MoEConfig
from hanok.models.decoder import Decoder
from hanok.models.linear import Linear
from hanok.tokens import Tokenizer

KERNELS = pytest.mark.skipif(not native_available(), reason="the native kernels are not built")
WIDE = ("layers.0.mlp.down_proj", "layers.1.self_attn.v_proj")
IDS = list(range(20, 84))
GREEDY = SamplingParams(temperature=0.0, max_tokens=16, ignore_eos=True, logprobs=1)


def stored(weight_NK: Tensor, bits: int) -> Stored:
    """To the nearest between the least and the largest of a group."""
    codes, middle = rtn(weight_NK, bits, GROUP, symmetric=False), 1 << (bits - 1)
    words = pack_words((codes.q_NK - middle).to(torch.int8), bits)
    zeros_NG = (codes.grid.zeros_NG - middle).to(torch.int8)
    return Stored(words, codes.grid.scales_NG.half(), bits, weight_NK.shape[1], zeros_NG)


def askew(weight: Tensor, generator: torch.Generator) -> Tensor:
    """Groups that do not lie around 0."""
    shape = (*weight.shape[:-1], weight.shape[-1] // GROUP)
    return weight + (weight.std() * torch.randn(shape, generator=generator)).repeat_interleave(GROUP, dim=-1)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = Tokenizer(tokenizer_files(Alphabet.of([]), []))
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=64, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=16,
        intermediate_size=160, pattern=("gqa",),
    )  # fmt: skip
    model = Decoder(config, generator=torch.Generator().manual_seed(0)).requires_grad_(False)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    codes = {}
    for name, module in model.layers.named_modules():
        if isinstance(module, Linear):
            weight_NK = askew(module.weight, generator)
            one = stored(weight_NK, 8 if f"layers.{name}" in WIDE else 4)
            codes[f"layers.{name}.weight"] = FileCodes(one.codes, one.scales_NG, one.bits, one.zeros_NG)
    directory = tmp_path_factory.mktemp("asymmetric") / "model"
    save_quantised(model, directory, bits=4, codes=codes, head_bits=8)
    tokenizer.save(directory)
    return directory


def native(decoder: Decoder, **settings: object) -> NativeDecoder:
    return NativeDecoder(decoder, **{"kind": "int4", "blocks": 2, "threads": 2, **settings})  # pyright: ignore[reportArgumentType]


def opened(directory: Path) -> Decoder:
    return load_model(directory, dtype="stored").requires_grad_(False)


def plain_of(directory: Path) -> Decoder:
    """With the numbers of its codes, not rounded to the type of the scales."""
    decoder = load_model(directory).requires_grad_(False)
    for name, parameter in opened(directory).named_parameters():
        if isinstance(parameter, CodedParameter):
            decoder.get_parameter(name).copy_(parameter.stored.quantised().dequantised())
    return decoder


def logits(model: NativeDecoder) -> Tensor:
    return torch.cat(list(model.read(IDS, rows=32)))


@torch.no_grad()
def numbers(decoder: Decoder, head_bits: int) -> Tensor:
    """Logits of the layers, embedding and head rounded."""
    if head_bits < 16:
        decoder.embed_tokens.weight.copy_(quantise(decoder.embed_tokens.weight, head_bits).dequantised())
    hidden_ND, _ = decoder(torch.tensor(IDS), torch.tensor([0, len(IDS)], dtype=torch.int32))
    return decoder.logits(hidden_ND)


@KERNELS
@pytest.mark.parametrize("weights", ["int4", "int4+", "int8"])
def test_the_kernels_take_them_as_they_are(weights: str, made: Path) -> None:
    kind, finer = WIDTHS[weights]
    model = native(opened(made), kind=kind, finer=finer, ends="int8")
    expected, found = numbers(plain_of(made), 8), logits(model)
    assert (found - expected).std() < 0.06 * expected.std(), "only inputs are rounded"
    with_zeros = [matrix.zeros for matrix in model._held.matrices if matrix.zeros is not None]
    assert len(with_zeros) == 4 * 2, "all but embedding and head"
    for zeros in with_zeros:
        zeros.zero_()
    assert (logits(model) - expected).std() > 0.5 * expected.std()


def off(scores: Sequence[float], others: Sequence[float]) -> float:
    return float((torch.tensor(scores) - torch.tensor(others)).abs().mean())


def ask(engine: LocalEngine) -> tuple[list[int], list[float]]:
    done = engine.generate([Request(id="one", prompt_ids=IDS, params=GREEDY)])[0]
    return list(done.ids), list(done.logprobs)


@KERNELS
def test_the_engine_asleep_awake_and_with_other_weights(made: Path) -> None:
    assert load_stored_bits(made) == 4
    engine, plain = LocalEngine(made), LocalEngine(made, weights="float32")
    try:
        assert engine.weights == "int4"
        before, exact = engine.score(IDS), plain.score(IDS)
        assert off(before, exact) < 0.1
        answer = ask(engine)
        engine.sleep()
        engine.wake()
        assert ask(engine) == answer
        name = "layers.1.mlp.down_proj.weight"
        kept = {name: engine.decoder.get_parameter(name).detach().clone()}
        engine.update_weights({name: kept[name] * 0.5})
        plain.update_weights({name: kept[name].float() * 0.5})
        assert off(engine.score(IDS), plain.score(IDS)) < 0.1 < off(engine.score(IDS), before)
        assert ask(engine) != answer
        engine.update_weights(kept)
        assert ask(engine) == answer, "the codes count again, with their zero points"
    finally:
        engine.close()
        plain.close()


@KERNELS
def test_adapters_add_to_them(made: Path, adapted: ModuleType, tmp_path: Path) -> None:
    adapter = adapted.random_adapter(load_model(made), tmp_path / "adapter", seed=1)
    engines = [LocalEngine(made, weights=weights, adapters={"a": adapter}) for weights in ("int4", "float32")]
    fast, exact = (engine.score(IDS, adapter="a") for engine in engines)
    base = engines[0].score(IDS)
    for engine in engines:
        engine.close()
    assert off(fast, exact) < 0.1 * off(fast, base)


@KERNELS
def test_kept_images_have_them(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANOK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("hanok.engine.images.LEAST_BYTES", 1)
    fresh, again = (native(opened(made), ends="int8", images=images_of(made, "int4")) for _ in range(2))
    assert list((tmp_path / "cache" / "images").iterdir())
    assert torch.equal(logits(fresh), logits(again))
    assert [m.zeros is None for m in fresh._held.matrices] == [m.zeros is None for m in again._held.matrices]


@KERNELS
@pytest.mark.parametrize("bits", [4, 8])
@torch.no_grad()
def test_embeddings_and_one_of_several_joined_maps(bits: int) -> None:
    """Rows are looked up in codes with zero points; maps beside others without."""
    config = ModelConfig(
        vocab_size=120, hidden_size=64, num_layers=1, num_heads=4, num_kv_heads=2, head_dim=16, intermediate_size=96,
        pattern=("gqa",), initializer_range=0.2,
    )  # fmt: skip
    decoder = Decoder(config, generator=torch.Generator().manual_seed(0)).requires_grad_(False)
    plain = Decoder(config, generator=torch.Generator().manual_seed(0)).requires_grad_(False)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in plain.named_parameters():
        if parameter.dim() < 2:
            continue
        module = decoder.get_submodule(name.removesuffix(".weight"))
        coded_too = name.endswith(("embed_tokens.weight", "k_proj.weight", "up_proj.weight"))
        one = stored(askew(parameter, generator), bits) if coded_too else None
        if one is not None:
            module.weight = CodedParameter.of(one)
        rounded = quantise(parameter, bits).dequantised() if one is None else one.quantised().dequantised()
        parameter.copy_(rounded)
    expected = numbers(plain, 16)
    found = logits(native(decoder, kind=f"int{bits}"))
    assert (found - expected).std() < 0.03 * expected.std()


def with_experts() -> tuple[Decoder, Decoder]:
    """Experts in codes, the first layer's of eight bits; and the same model with the numbers of all of its codes."""
    config = ModelConfig(
        vocab_size=120, hidden_size=64, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=16, intermediate_size=96,
        pattern=("gqa",), initializer_range=0.2, moe=MoEConfig(experts=4, per_token=2, width=64), tie_embeddings=False,
    )  # fmt: skip
    made, plain = (filled(config) for _ in range(2))
    generator = torch.Generator().manual_seed(1)
    for name, parameter in plain.named_parameters():
        if parameter.dim() < 2 or name.endswith("mlp.gate.weight"):
            continue
        if ".experts." not in name:
            parameter.copy_(quantise(parameter, 4).dequantised())
            continue
        parts = [stored(one, 8 if "layers.0" in name else 4) for one in askew(parameter, generator)]
        stack = replace(parts[0], **{
            field: torch.stack([getattr(one, field) for one in parts]) for field in ("codes", "scales_NG", "zeros_NG")
        })  # fmt: skip
        where, _, last = name.rpartition(".")
        setattr(made.get_submodule(where), last, CodedParameter.of(stack))
        parameter.copy_(stack.quantised().dequantised())
    return made, plain


@KERNELS
@torch.no_grad()
def test_experts() -> None:
    made, plain = with_experts()
    model, expected = native(made), numbers(plain, 16)
    found = logits(model)
    assert (found - expected).square().mean(1).sqrt().median() < 0.05 * expected.std(), (
        "only inputs are rounded"
    )
    assert {matrix.kind for matrix in model._held.matrices} == {"int4", "int8"}
    assert isinstance(made.get_parameter("layers.1.mlp.experts.down_proj"), CodedParameter)
    for matrix in model._held.matrices:
        if matrix.zeros is not None:
            matrix.zeros.zero_()
    assert (logits(model) - expected).square().mean(1).sqrt().median() > 0.2 * expected.std()
    model.refill()
    assert torch.equal(logits(model), found)


@torch.no_grad()
def test_experts_on_a_device() -> None:
    made, plain = with_experts()
    plain.embed_tokens.weight.copy_(made.embed_tokens.weight)
    device = {"device": torch.device("cpu"), "kind": "int4", "blocks": 2, "dtype": torch.float32}
    paged = DeviceDecoder(made, **device)  # pyright: ignore[reportArgumentType]
    found, expected = torch.cat(list(paged.read(IDS, rows=1))), numbers(plain, 16)
    assert (found - expected).abs().max() < 1e-3 * expected.std()
    paged.refill()
    assert torch.equal(torch.cat(list(paged.read(IDS, rows=1))), found)


@pytest.mark.parametrize("kind", ["int4", "int8"])
@torch.no_grad()
def test_on_a_device(kind: str, made: Path) -> None:
    """Equal to the layers with their numbers; a changed weight takes the place of codes, and they of it."""
    decoder = opened(made)
    device = {"device": torch.device("cpu"), "kind": kind, "blocks": 2, "dtype": torch.float32}
    paged = DeviceDecoder(decoder, **device)  # pyright: ignore[reportArgumentType]
    before = torch.cat(list(paged.read(IDS, rows=32)))
    exact = plain_of(made)
    hidden_ND, _ = exact(torch.tensor(IDS), torch.tensor([0, len(IDS)], dtype=torch.int32))
    expected = hidden_ND @ quantise(exact.embed_tokens.weight, int(kind[3:])).dequantised().T
    assert (before - expected).abs().max() < 1e-4 * expected.std()
    parameter = decoder.get_parameter("layers.1.mlp.down_proj.weight")
    kept = parameter.detach().clone()
    parameter.data = 0.5 * kept
    paged.refill()
    halved = torch.cat(list(paged.read(IDS, rows=32)))
    assert (halved - before).std() > 0.01 * before.std()
    parameter.data = kept
    paged.refill()
    assert torch.equal(torch.cat(list(paged.read(IDS, rows=32))), before)


def test_pytorchs_kernel_of_four_bits_takes_them_too() -> None:
    generator = torch.Generator().manual_seed(0)
    q_NK = torch.randint(-8, 8, (48, 96), dtype=torch.int8, generator=generator)
    scales_NG = torch.rand(48, 3, generator=generator).half()
    source = Quantised(q_NK, scales_NG, 4, (8 * torch.randn(48, 3, generator=generator)).half())
    x = torch.randn(2, 3, 96, generator=generator).bfloat16()
    made = coded(source.changed(torch.clone), torch.device("cpu"), torch.bfloat16)
    plain = Coded(source.changed(torch.clone), torch.device("cpu"), torch.bfloat16)
    assert isinstance(made, Coded4)
    expected = x.float() @ source.dequantised().T
    for matrix in (made, plain):
        assert (matrix(x).float() - expected).abs().max() < 0.02 * expected.abs().max()
    symmetric = quantise(torch.randn(48, 96, generator=generator), 4)
    for matrix in (made, plain):
        matrix.fill(symmetric)
        assert (matrix(x).float() - x.float() @ symmetric.dequantised().T).abs().max() < 0.5
        matrix.fill(source)
        assert (matrix(x).float() - expected).abs().max() < 0.02 * expected.abs().max()


def test_processes_that_share_a_model_get_the_same_numbers(made: Path) -> None:
    _, parts = load_slices(made, lambda name, tensor, config: tensor[3:9])
    for name, tensor in load_model(made).state_dict().items():
        assert torch.equal(parts[name], tensor[3:9]), name


def test_four_bits_are_eight_without_loss() -> None:
    one = stored(torch.randn(32, 64, generator=torch.Generator().manual_seed(1)).square(), 4)
    wide = as_quantised(CodedParameter.of(one), 8)
    assert wide.bits == 8
    assert torch.equal(wide.dequantised(), one.quantised().dequantised())
