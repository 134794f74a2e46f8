"""The native decoder against the PyTorch one: chunks, steps, company, instruction sets."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from layer_models import MODELS, SHAPE, decoder_of, filled, ids, read, reference
from torch import Tensor

from hanok.engine.blocks import BlockPool
from hanok.engine.coverage import block_bytes, why_not_native
from hanok.engine.native import NativeDecoder
from hanok.errors import CapacityError, CheckpointError
from hanok.kernels.formats import quantise
from hanok.kernels.native import native, native_available
from hanok.models.config import ModelConfig, RopeScaling
from hanok.models.linear import Linear
from hanok.models.mlp import Experts

pytestmark = pytest.mark.skipif(not native_available(), reason="the native kernels are not built")
PATHS = native().step_paths() if native_available() else []


@torch.no_grad()
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", MODELS)
def test_equal_to_the_decoder(name: str, path: str) -> None:
    """In bfloat16, as far as its rounding goes; the recurrence is longer than one chunk of the other side's."""
    model, tokens = decoder_of(name), ids(150)
    expected = reference(model, tokens)
    model.set_compute_dtype(torch.bfloat16)
    rounded = reference(model, tokens)
    found = read(NativeDecoder(model, kind="bf16", blocks=8, threads=2, path=path), tokens, [150])
    if model.config.moe is not None:  # a near tie of experts falls this way or that: such rows are few
        ours, theirs = ((x - expected).abs().amax(1) / expected.std() for x in (found, rounded))
        assert ours.median() < 1.5 * theirs.median()
        assert ours.quantile(0.85) < 0.2
        return
    assert (found - expected).std() < 1.5 * (rounded - expected).std()
    assert (found - expected).abs().max() < 0.2 * expected.std()


@torch.no_grad()
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", [name for name in MODELS if "moe" in MODELS[name]])
def test_experts_are_those_of_the_decoder(name: str, path: str) -> None:
    """The router sees the same numbers on both sides: a layer without a mixer behind an embedding that is exact in bfloat16."""
    settings = SHAPE | MODELS[name] | {"num_layers": 1, "pattern": ("gqa",), "vocab_size": 400}
    moe = replace(settings["moe"], first_dense=0, layers=None)
    model = filled(ModelConfig(**settings | {"moe": moe, "rope_scaling": None, "attention_sinks": False}))
    model.layers[0].self_attn.o_proj.weight.zero_()
    if model.layers[0].self_attn.o_proj.bias is not None:
        model.layers[0].self_attn.o_proj.bias.zero_()
    for parameter in model.parameters():
        parameter.data = parameter.bfloat16().float()
    tokens = list(range(400))
    expected = reference(model, tokens)
    found = read(NativeDecoder(model, kind="bf16", blocks=8, threads=2, path=path), tokens, [400])
    assert (found - expected).abs().max() < 0.1 * expected.std()


@torch.no_grad()
def test_of_equal_experts_the_first_are_chosen() -> None:
    model, tokens = decoder_of("kimi"), ids(20)
    router = model.layers[1].mlp.gate
    router.weight.zero_()
    router.e_score_correction_bias.zero_()
    found = read(NativeDecoder(model, kind="bf16", blocks=2, threads=1), tokens, [20])
    router.e_score_correction_bias.copy_(-1e-3 * torch.arange(8))
    again = read(NativeDecoder(model, kind="bf16", blocks=2, threads=1), tokens, [20])
    assert torch.equal(found, again)


@torch.no_grad()
@pytest.mark.parametrize(("window", "cache"), [(300, "bf16"), (513, "bf16"), (300, "int8")])
def test_windows_over_several_segments(window: int, cache) -> None:
    config = ModelConfig(
        **SHAPE | {"pattern": ("swa",), "num_layers": 1, "sliding_window": window, "rope_theta": None}
    )
    model, tokens = filled(config), ids(1300)
    expected = reference(model, tokens)
    fast = NativeDecoder(model, kind="bf16", blocks=24, threads=2, cache=cache)
    found = read(fast, tokens, [1300])
    assert (found - expected).abs().max() < 0.1 * expected.std()
    assert torch.equal(read(fast, tokens, [1] * 5 + [600, 2, 693]), found)


@torch.no_grad()
@pytest.mark.parametrize("name", ["qwen3", "gpt-oss", "deepseek v2"])
def test_long_texts_in_slices(name: str) -> None:
    """Behind 2,048 tokens a query's sums come from several slices, which one thread takes in turn or several share."""
    config = ModelConfig(
        **SHAPE
        | MODELS[name]
        | {"num_layers": 1, "pattern": MODELS[name].get("pattern", ("gqa",))[-1:], "moe": None}
    )
    model, tokens = filled(config), ids(2200)
    hidden, _ = model(torch.tensor(tokens), torch.tensor([0, len(tokens)], dtype=torch.int32))
    expected = model.logits(hidden[-3:])
    found = []
    for threads in (1, 3):
        decoder = NativeDecoder(model, kind="bf16", blocks=36, threads=threads)
        table, places = decoder.pool.take(36), list(range(len(tokens)))
        decoder.step(tokens[:-3], places[:-3], [0] * (len(tokens) - 3), [table], [])
        rows = [decoder.step(tokens[i : i + 1], [i], [0], [table], [0]) for i in places[-3:]]
        found.append(torch.cat(rows))
    assert torch.equal(found[0], found[1])
    torch.testing.assert_close(found[0], expected, atol=0.05, rtol=0.02)


@torch.no_grad()
@pytest.mark.parametrize(("kind", "bits"), [("int8", 8), ("int5", 5), ("int4", 4)])
@pytest.mark.parametrize(("name", "layers"), [("qwen2", 3), ("mixtral", 1)])
def test_integers_equal_the_decoder_with_their_weights(name: str, layers: int, kind, bits: int) -> None:
    """The weights' grid in float: what is left is that inputs are rounded to int8. (Behind more layers, that alone moves
    some rows to other experts.)"""
    model, tokens = filled(ModelConfig(**SHAPE | MODELS[name] | {"num_layers": layers})), ids(90)
    fast = NativeDecoder(model, kind=kind, blocks=4, threads=2)
    plain = reference(model, tokens)

    def on_the_grid(weight: Tensor) -> Tensor:
        padded = torch.nn.functional.pad(weight, (0, -weight.shape[-1] % 32))
        return quantise(padded, bits).dequantised()[:, : weight.shape[-1]].contiguous()

    for module in model.modules():
        if isinstance(module, (Linear, torch.nn.Embedding)):
            module.weight.data = on_the_grid(module.weight)
        if isinstance(module, Experts):
            for stack in (module.gate_up_proj, module.down_proj):
                stack.data = torch.stack([on_the_grid(weight) for weight in stack])
    expected, found = reference(model, tokens), read(fast, tokens, [90])
    ours, theirs = ((x - expected).square().mean(1).sqrt().median() for x in (found, plain))
    assert ours < 0.05 * expected.std()
    assert ours < {4: 0.25, 5: 0.5, 8: 2.5}[bits] * theirs


@pytest.mark.parametrize("kind", ["bf16", "int8", "int4"])
@pytest.mark.parametrize("name", ["llama", "hybrid", "gemma2", "gpt-oss", "deepseek v3", "kimi"])
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


@pytest.mark.parametrize("name", ["llama", "qwen2", "hybrid"])
def test_the_same_bits_where_threads_lose_their_cores(name: str) -> None:
    """Far more threads than cores: items of those that wait for one are done again by others, and handed out once."""
    model, tokens = decoder_of(name), ids(200)
    alone, crowd = (NativeDecoder(model, kind="int8", blocks=4, threads=threads) for threads in (1, 12))
    pieces = [1] * 100 + [5] * 20
    assert torch.equal(read(crowd, tokens, pieces), read(alone, tokens, pieces))


@torch.no_grad()
@pytest.mark.parametrize("cache", ["bf16", "int8"])
@pytest.mark.parametrize("name", ["llama", "hybrid", "gemma2", "deepseek v3"])
def test_what_is_left_in_a_block_does_not_reach_its_next_user(name: str, cache) -> None:
    model, tokens = decoder_of(name), ids(200)
    clean, spoilt = (NativeDecoder(model, kind="bf16", blocks=8, threads=2, cache=cache) for _ in range(2))
    for part in spoilt.caches:
        numbers = (
            float("nan") if part.dtype == torch.float32 else 3e38
        )  # scales; keys and values: always finite ones
        part.fill_(numbers if part.is_floating_point() else 77)
    for pieces in ([200], [1] * 70 + [13, 117]):
        assert torch.equal(read(spoilt, tokens, pieces), read(clean, tokens, pieces))


@torch.no_grad()
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", ["llama", "hybrid", "gemma2", "gpt-oss", "deepseek v3"])
def test_a_cache_in_int8(name: str, path: str) -> None:
    """A token's scale is coarser than bfloat16: the whole error is less than twice as large. Bits do not depend on pieces."""
    model, tokens = decoder_of(name), ids(300)
    expected = reference(model, tokens)
    plain = read(NativeDecoder(model, kind="bf16", blocks=8, threads=2, path=path), tokens, [300])
    fast = NativeDecoder(model, kind="bf16", blocks=8, threads=2, path=path, cache="int8")
    found = read(fast, tokens, [300])
    assert not torch.equal(found, plain)
    ours, theirs = ((x - expected).abs().amax(1) / expected.std() for x in (found, plain))
    assert ours.median() < 2 * theirs.median()
    assert torch.equal(read(fast, tokens, [1, 1, 70, 5, 200, 23]), found)


@torch.no_grad()
@pytest.mark.parametrize("path", PATHS)
def test_what_int8_keeps_is_near(path: str) -> None:
    """Scores are all equal, so attention gives the mean of the values: each number is off by half a step of its token's
    and head's scale at most, and by roundings far below 2^-8 of it: sums are of integers of 16 bits."""
    config = ModelConfig(
        **SHAPE
        | {"num_layers": 1, "rope_theta": None, "num_heads": 3, "num_kv_heads": 3, "tie_embeddings": False}
    )
    model, tokens = filled(config), ids(64)
    attention = model.layers[0].self_attn
    for zero in (attention.q_proj.weight, model.layers[0].mlp.down_proj.weight):
        zero.zero_()
    attention.o_proj.weight.copy_(torch.eye(96))
    x = model.embed_tokens.weight.bfloat16().float()[tokens]
    normed = model.layers[0].input_layernorm(x).bfloat16().float()
    v = (normed @ attention.v_proj.weight.bfloat16().float().mT).view(64, 3, 32)
    fast = NativeDecoder(model, kind="bf16", blocks=1, threads=1, path=path, cache="int8")
    hidden = torch.cat(list(fast.read_hidden(tokens, rows=64)))[-1]
    step = v.abs().amax(-1, keepdim=True) / 127
    mean, bound = v.mean(0).flatten(), (0.5 * step + 2**-8 * v.abs()).mean(0).expand(3, 32).flatten()
    factor = model.norm.weight * torch.rsqrt((x[-1] + mean).square().mean() + config.norm_eps)
    off = (hidden / factor - x[-1] - mean).abs()
    assert (off < bound + 1e-2 * mean.abs() + 2**-8 * x[-1].abs()).all()
    assert off.max() > 0


@torch.no_grad()
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("width", [32, 576, 1024])
def test_scores_in_int8_fit_their_sums(width: int, path: str) -> None:
    """All channels of keys and queries are equal, so every code is the largest there is: with queries of 15 bits, sums over the
    wide heads would not fit into 31."""
    assert (32767 * 127 * width >= 2**31) == (width > 32)
    heads = {"num_heads": 1, "num_kv_heads": 1, "head_dim": width}
    model = filled(ModelConfig(**SHAPE | heads | {"num_layers": 1, "rope_theta": None}))
    attention, tokens = model.layers[0].self_attn, ids(100)
    for part in (attention.q_proj, attention.k_proj):
        part.weight.copy_(part.weight[:1] * (4 / width**0.25))
    expected = reference(model, tokens)
    plain, found = (
        read(NativeDecoder(model, kind="bf16", blocks=2, threads=1, path=path, cache=cache), tokens, [100])
        for cache in ("bf16", "int8")
    )
    attention.q_proj.weight.neg_()
    other = reference(model, tokens)
    ours, theirs = ((x - expected).std() for x in (found, plain))
    assert ours < 2 * theirs
    assert (other - expected).std() > 10 * ours  # scores matter


def test_blocks_of_the_cache_take_what_was_said() -> None:
    for name in ("llama", "hybrid", "deepseek v3"):
        model = decoder_of(name)
        for cache in ("bf16", "int8"):
            fast = NativeDecoder(model, kind="int8", blocks=5, threads=1, cache=cache)
            assert fast.cache_bytes == 5 * block_bytes(model.config, cache)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_numbers_too_large_for_scales_are_named(kind) -> None:
    model = decoder_of("llama")
    model.layers[1].mlp.down_proj.weight[3, 5] = 1e7
    with pytest.raises(CheckpointError, match=r"layers\.1\.mlp\.down_proj\.weight holds 1e\+07"):
        NativeDecoder(model, kind=kind, blocks=1, threads=1)
    NativeDecoder(model, kind="bf16", blocks=1, threads=1)


def test_blocks_come_back_and_run_out() -> None:
    pool = BlockPool(4)
    held = pool.take(3)
    with pytest.raises(CapacityError, match="1 free"):
        pool.take(2)
    assert pool.free == 1
    pool.give_back(held)
    assert sorted(pool.take(4)) == [0, 1, 2, 3]


def test_what_it_does_not_run_is_named() -> None:
    longrope = RopeScaling(kind="longrope", short_factor=(1.0,) * 16, long_factor=(2.0,) * 16)
    for changes, why in (
        ({"pattern": ("gqa", "gdn")}, "gdn"),
        ({"pattern": ("kda",), "head_dim": 24}, "delta heads"),
        ({"pattern": ("swa",), "head_dim": 24}, "its heads"),
        ({"pattern": ("mla",), "kv_lora_rank": 24}, "latents"),
        ({"rope_scaling": longrope}, "stretch"),
    ):
        assert why in str(why_not_native(ModelConfig(**SHAPE | changes)))
    for name in MODELS:
        assert why_not_native(ModelConfig(**SHAPE | MODELS[name])) is None


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
