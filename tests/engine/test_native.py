"""The native decoder against the PyTorch one: chunks, steps, company, instruction sets."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hanok.engine.native import BLOCK, BlockPool, NativeDecoder, why_not_native
from hanok.errors import CapacityError
from hanok.kernels.formats import quantise
from hanok.kernels.native import native, native_available
from hanok.models.config import ModelConfig, RopeScaling
from hanok.models.decoder import Decoder
from hanok.models.linear import Linear

pytestmark = pytest.mark.skipif(not native_available(), reason="the native kernels are not built")
PATHS = native().step_paths() if native_available() else []

SHAPE = {
    "vocab_size": 101, "hidden_size": 96, "num_layers": 3, "pattern": ("gqa",), "num_heads": 6, "num_kv_heads": 2,
    "head_dim": 32, "intermediate_size": 200, "max_context": 4096,
}  # fmt: skip
MODELS = {
    "llama": {"rope_scaling": RopeScaling(
        kind="llama3", factor=8.0, original_context=64, low_freq_factor=1.0, high_freq_factor=4.0
    )},
    "qwen2": {"qkv_bias": True, "tie_embeddings": False},
    "qwen3": {"qk_norm": True, "num_heads": 12, "num_kv_heads": 1, "head_dim": 16},
    "hybrid": {"pattern": ("kda", "kda", "mla"), "num_heads": 2, "head_dim": 48, "kv_lora_rank": 32, "num_kv_heads": None,
               "qk_nope_head_dim": 24, "qk_rope_head_dim": 16, "v_head_dim": 16},
    "bounded gates": {"pattern": ("kda", "gqa"), "kda_gate": "lower_bound", "conv_size": 3, "num_heads": 2, "head_dim": 32},
    "partial": {"rope_fraction": 0.5, "num_kv_heads": 6},
}  # fmt: skip


def decoder_of(name: str) -> Decoder:
    model = Decoder(ModelConfig(**SHAPE | MODELS[name]), generator=torch.Generator().manual_seed(0)).eval()
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        scale = 0.1 if parameter.dim() == 1 else 0.7 * parameter.shape[-1] ** -0.5
        parameter.data += scale * torch.randn(parameter.shape, generator=generator)
    return model.requires_grad_(False)


def ids(count: int, seed: int = 3) -> list[int]:
    return torch.randint(101, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def reference(model: Decoder, tokens: list[int]) -> Tensor:
    hidden, _ = model(torch.tensor(tokens), torch.tensor([0, len(tokens)], dtype=torch.int32))
    return model.logits(hidden)


def read(model: NativeDecoder, tokens: list[int], pieces: list[int]) -> Tensor:
    """Logits behind every token, fed piece by piece."""
    table, found, at = model.pool.take(-(-len(tokens) // BLOCK)), [], 0
    for piece in pieces:
        places = list(range(at, at + piece))
        found.append(model.step(tokens[at : at + piece], places, [0] * piece, [table], list(range(piece))))
        at += piece
    model.pool.give_back(table)
    return torch.cat(found)


@torch.no_grad()
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", MODELS)
def test_equal_to_the_decoder(name: str, path: str) -> None:
    """In bfloat16, as far as its rounding goes; the recurrence is longer than one chunk of the other side's."""
    model, tokens = decoder_of(name), ids(150)
    expected = reference(model, tokens)
    model.set_compute_dtype(torch.bfloat16)
    rounding = (reference(model, tokens) - expected).std()
    found = read(NativeDecoder(model, kind="bf16", blocks=8, threads=2, path=path), tokens, [150])
    assert (found - expected).std() < 1.5 * rounding
    assert (found - expected).abs().max() < 0.2 * expected.std()


@torch.no_grad()
@pytest.mark.parametrize(("kind", "bits"), [("int8", 8), ("int4", 4)])
def test_integers_equal_the_decoder_with_their_weights(kind, bits: int) -> None:
    """The weights' grid in float: what is left is that inputs are rounded to int8."""
    model, tokens = decoder_of("qwen2"), ids(90)
    fast = NativeDecoder(model, kind=kind, blocks=4, threads=2)
    plain = reference(model, tokens)
    for module in model.modules():
        if isinstance(module, (Linear, torch.nn.Embedding)):
            weight = module.weight
            padded = torch.nn.functional.pad(weight, (0, -weight.shape[1] % 32))
            weight.data = quantise(padded, bits).dequantised()[:, : weight.shape[1]].contiguous()
    expected, found = reference(model, tokens), read(fast, tokens, [90])
    assert (found - expected).std() < 0.05 * expected.std()
    assert (found - expected).std() < (0.25 if bits == 4 else 2.5) * (plain - expected).std()


@pytest.mark.parametrize("kind", ["bf16", "int8", "int4"])
@pytest.mark.parametrize("name", ["llama", "hybrid"])
def test_the_same_bits_in_pieces_in_company_and_on_any_threads(name: str, kind) -> None:
    model, first, second = decoder_of(name), ids(700), ids(130, seed=4)
    fast = NativeDecoder(model, kind=kind, blocks=24, threads=2)
    whole = read(fast, first, [700])
    assert torch.equal(read(fast, first, [1] * 70 + [300, 13, 317]), whole)
    assert torch.equal(read(NativeDecoder(model, kind=kind, blocks=11, threads=1), first, [700]), whole)
    alone = read(fast, second, [130])
    one, two = fast.pool.take(11), fast.pool.take(3)
    fast.step(first[:640], list(range(640)), [0] * 640, [one], [], slots=[5])
    fast.step(second[:100], list(range(100)), [0] * 100, [two], [], slots=[1])
    both = fast.step(
        [*second[100:], *first[640:]], [*range(100, 130), *range(640, 700)], [1] * 30 + [0] * 60, [one, two],
        range(90), slots=[5, 1],
    )  # fmt: skip
    assert torch.equal(both, torch.cat([alone[100:], whole[640:]]))


def test_blocks_come_back_and_run_out() -> None:
    pool = BlockPool(4)
    held = pool.take(3)
    with pytest.raises(CapacityError, match="1 free"):
        pool.take(2)
    assert pool.free == 1
    pool.give_back(held)
    assert sorted(pool.take(4)) == [0, 1, 2, 3]


def test_what_it_does_not_run_is_named() -> None:
    assert "swa" in str(why_not_native(ModelConfig(vocab_size=10, pattern=("gqa", "swa"))))
    assert "delta heads" in str(why_not_native(ModelConfig(vocab_size=10, pattern=("kda",), head_dim=24)))
    for pattern in ("gqa",), ("kda", "kda", "kda", "mla"):
        assert why_not_native(ModelConfig(**SHAPE | {"pattern": pattern})) is None
    assert "norm = layer" in str(why_not_native(ModelConfig(**SHAPE | {"norm": "layer"})))


@torch.no_grad()
@pytest.mark.parametrize("name", ["llama", "hybrid"])
def test_hidden_vectors_are_those_behind_the_final_norm(name: str) -> None:
    model, tokens = decoder_of(name), ids(90)
    fast = NativeDecoder(model, kind="bf16", blocks=4, threads=2)
    whole = torch.cat(list(fast.read_hidden(tokens, rows=40)))
    expected, _ = model(torch.tensor(tokens), torch.tensor([0, 90], dtype=torch.int32))
    assert whole.shape == expected.shape
    assert (whole - expected).std() < 0.03 * expected.std()
    wanted, table = [0, 41, 89], fast.pool.take(2)
    logits, hidden = fast.step_with_hidden(tokens, range(90), [0] * 90, [table], wanted)
    assert torch.equal(hidden, whole[wanted])
    assert torch.equal(logits, fast.step(tokens, range(90), [0] * 90, [table], wanted))
    assert (model.logits(hidden) - logits).std() < 0.01 * logits.std()
