"""PyTorch's layers over paged blocks, on the CPU: what a GPU runs, against the plain layers."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from adapted_models import all_maps, random_lows
from layer_models import MODELS, SHAPE, decoder_of, filled, ids, read, reference
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from hanok.engine.api import SamplingParams
from hanok.engine.blocks import BLOCK
from hanok.engine.device import matrices
from hanok.engine.device.decoder import DeviceDecoder
from hanok.engine.device.matrices import Coded, Coded4, coded
from hanok.engine.sampler import Choice, Draw, choose_plain
from hanok.kernels import native as kernels
from hanok.kernels.flex import flex_single
from hanok.kernels.formats import GROUP, Quantised, quantise
from hanok.models.attention import Scoring
from hanok.models.coded import FLOAT_MAPS
from hanok.models.config import ModelConfig, RopeScaling
from hanok.models.decoder import Decoder
from hanok.models.linear import Linear
from hanok.models.mlp import Experts
from hanok.models.paged import BlockPages

CPU = torch.device("cpu")
GDN = {"pattern": ("gdn", "gqa"), "linear_key_heads": 2, "linear_value_heads": 4, "linear_key_dim": 16, "linear_value_dim": 8,
       "attention_gate": True, "qk_norm": True}  # fmt: skip
LONG = {"rope_scaling": RopeScaling(kind="longrope", factor=4.0, original_context=64, short_factor=(1.0,) * 16,
                                    long_factor=(2.0,) * 16)}  # fmt: skip


def device_of(decoder: Decoder, **settings: Any) -> DeviceDecoder:
    return DeviceDecoder(decoder, **{"device": CPU, "kind": "float32", "blocks": 12} | settings)


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.mark.parametrize("graphs", [False, True])
@pytest.mark.parametrize("name", [*MODELS, "qwen3 next"])
def test_equal_to_the_layers_in_any_pieces(name: str, graphs: bool) -> None:
    """Within the design's 1e-4 at logits of size one, however the text is cut; single tokens also in their fixed shapes."""
    model = filled(ModelConfig(**SHAPE | GDN)) if name == "qwen3 next" else decoder_of(name)
    tokens = ids(150)
    expected = reference(model, tokens)
    found = read(device_of(model, graphs=graphs), tokens, [70, 1, 1, 30, 1, 47])
    assert (found - expected).abs().max() < 1e-4 * expected.std()


def test_positions_that_stretch_with_the_text() -> None:
    model, tokens = filled(ModelConfig(**SHAPE | LONG)), ids(64)
    paged = device_of(model, graphs=True)
    assert paged._steps is None
    expected = reference(model, tokens)
    found = read(paged, tokens, [64])
    assert (found - expected).abs().max() < 1e-4 * expected.std()


@pytest.mark.parametrize("name", ["qwen3", "gemma2", "gpt-oss", "kimi", "deepseek v3"])
def test_ragged_company(name: str) -> None:
    """Pieces and single tokens of several texts in one step, in blocks and slots in disorder."""
    model = decoder_of(name)
    texts = [ids(length, seed) for seed, length in enumerate((130, 65, 64, 3))]
    paged = device_of(model, slots=6)
    paged.pool.take(3)
    tables = [paged.pool.take(-(-len(text) // BLOCK)) for text in texts]
    slots, done, found = [4, 0, 5, 2], [0, 0, 0, 0], [[] for _ in texts]
    for step in ((70, 1, 63, 1), (1, 63, 1, 1), (59, 1, 0, 0), (0, 0, 0, 1)):
        rows = [(n, done[n] + place) for n, count in enumerate(step) for place in range(count)]
        active = [n for n, count in enumerate(step) if count]
        logits = paged.step(
            [texts[n][at] for n, at in rows], [at for _, at in rows], [active.index(n) for n, _ in rows],
            [tables[n] for n in active], range(len(rows)), [slots[n] for n in active],
        )  # fmt: skip
        for (n, _), row in zip(rows, logits, strict=True):
            found[n].append(row)
        done = [before + count for before, count in zip(done, step, strict=True)]
    for text, rows in zip(texts, found, strict=True):
        expected = reference(model, text)[: len(rows)]
        assert (torch.stack(rows) - expected).abs().max() < 1e-4 * expected.std()


@pytest.mark.parametrize("kind", ["int8", "int4"])
@pytest.mark.parametrize("name", ["qwen2", "kimi", "mixtral"])
def test_codes_equal_the_layers_with_their_numbers(name: str, kind: Any) -> None:
    """The same model with every weight that becomes codes replaced by what they say; and far from it with its own."""
    model, tokens, bits = decoder_of(name), ids(90), int(kind[3:])
    rounded = copy.deepcopy(model)
    for where, module in rounded.named_modules():
        if isinstance(module, Linear) and not where.endswith((*FLOAT_MAPS, "kv_b_proj", "shared_gate")):
            module.weight.copy_(on_the_grid(module.weight, bits))
        if isinstance(module, Experts):
            for weight in (module.gate_up_proj, module.down_proj):
                weight.copy_(on_the_grid(weight.flatten(0, 1), bits).view_as(weight))
    found = read(device_of(model, kind=kind, dtype=torch.float32), tokens, [64, *[1] * 26])
    if rounded.lm_head is None:  # the head's matrix is rounded, the embedding is not
        hidden, _ = rounded(torch.tensor(tokens), torch.tensor([0, 90], dtype=torch.int32))
        expected = hidden @ on_the_grid(model.embed_tokens.weight, bits).T
    else:
        expected = reference(rounded, tokens)
    assert (found - expected).abs().max() < 2e-4 * expected.std()
    assert (found - reference(model, tokens)).std() > 2e-3 * expected.std()


def on_the_grid(weight: Tensor, bits: int) -> Tensor:
    padded = torch.nn.functional.pad(weight, (0, -weight.shape[1] % GROUP))
    return quantise(padded, bits).dequantised()[:, : weight.shape[1]]


@pytest.mark.parametrize("kind", ["bf16", "int8", "int4"])
def test_in_bfloat16_within_its_rounding(kind: Any) -> None:
    model, tokens = decoder_of("qwen3"), ids(150)
    expected = reference(model, tokens)
    exact = read(device_of(model, kind=kind, dtype=torch.float32), tokens, [150])
    paged = device_of(model, kind=kind)
    assert {cache.dtype for cache in paged.caches} == {torch.bfloat16}
    found = read(paged, tokens, [100, *[1] * 50])
    assert (found - exact).std() < 0.03 * expected.std()


def test_pytorchs_kernel_of_four_bits_and_what_stands_in_for_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    source = Quantised(torch.randint(-8, 8, (48, 96), dtype=torch.int8), torch.rand(48, 3).half(), 4)
    x = torch.randn(2, 3, 96).bfloat16()
    matrices.int4_agrees.cache_clear()
    made, plain = coded(source, CPU, torch.bfloat16), Coded(source, CPU, torch.bfloat16)
    assert isinstance(made, Coded4)
    expected = x.float() @ source.dequantised().T
    for matrix in (made, plain):
        assert (matrix(x).float() - expected).abs().max() < 0.02 * expected.abs().max()
    matrices.int4_agrees.cache_clear()
    monkeypatch.setattr(matrices, "_int4_kernel", lambda _: lambda x, *_rest: x.new_zeros(len(x), 64))
    with caplog.at_level("WARNING", "hanok"):
        assert isinstance(coded(source, CPU, torch.bfloat16), Coded)
    assert "PyTorch's kernel is off by 1" in caplog.text
    matrices.int4_agrees.cache_clear()


@pytest.mark.filterwarnings("ignore:flex_attention called without")
@pytest.mark.parametrize("window", [None, 20, 100])
def test_flex_attention_equals_a_gather(window: int | None) -> None:
    k, v, q = torch.randn(8 * BLOCK, 2, 16), torch.randn(8 * BLOCK, 2, 24), torch.randn(3, 6, 16)
    tables, last = torch.tensor([[3, 1, 0], [2, 0, 0], [5, 0, 0]]), torch.tensor([150, 63, 0])
    scoring = Scoring(scale=0.3, window=window)
    gathered, flexed = (
        BlockPages(tables, last, torch.arange(3), [1] * 3, flex=flex).attend(q, k, v, scoring)
        for flex in (None, flex_single)
    )
    torch.testing.assert_close(gathered, flexed, atol=1e-5, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:flex_attention called without")
@pytest.mark.parametrize("name", ["mistral", "deepseek v2"])
def test_a_model_on_flex_attention(name: str) -> None:
    model, tokens = decoder_of(name), ids(70)
    paged = device_of(model, flex=True)
    found = read(paged, tokens, [60, *[1] * 10])
    expected = reference(model, tokens)
    assert (found - expected).abs().max() < 1e-4 * expected.std()


def test_flex_attention_finds_no_rest_in_a_block() -> None:
    """It reads blocks to their ends: what others left there is cleared where a text begins a block, and nowhere else."""
    cache = torch.full((3 * BLOCK, 2), torch.nan)
    for position in range(66):
        tables = torch.tensor([[2, 0]])
        pages = BlockPages(tables, torch.tensor([position]), torch.tensor([0]), [1], flex=flex_single)
        pages.write(cache, torch.tensor([[1.0, float(position)]]))
    assert cache[2 * BLOCK :, 1].tolist() == [*range(64)]
    assert cache[:BLOCK, 1].tolist() == [64, 65, *[0] * 62]
    assert cache[BLOCK : 2 * BLOCK].isnan().all()


@pytest.mark.parametrize("name", ["qwen3", "mistral", "hybrid"])
def test_what_is_left_in_a_block_does_not_reach_its_next_user(name: str) -> None:
    model, tokens = decoder_of(name), ids(80)
    paged = device_of(model)
    expected = read(paged, tokens, [70, *[1] * 10])
    for left in (*paged.caches, *paged._states):
        left.fill_(torch.nan)
    assert torch.equal(read(paged, tokens, [70, *[1] * 10]), expected)


@pytest.mark.parametrize("name", ["kimi", "qwen3 next"])
def test_rows_that_fill_a_shape_up_touch_no_place_of_a_text(name: str) -> None:
    """Three texts run in a shape of four while a longer one is read in pieces: running, spare, read and kept states, and blocks,
    stay as they are; and so do the logits of what is read."""
    model = filled(ModelConfig(**SHAPE | GDN)) if name == "qwen3 next" else decoder_of(name)
    paged = device_of(model, slots=5, spares=2, snapshots=3, graphs=True)
    tokens, tables = ids(130), [paged.pool.take(1) for _ in range(3)]
    expected = reference(model, tokens)
    rng, found = torch.Generator().manual_seed(5), list[Tensor]()
    for state in paged._states:
        state.copy_(torch.randn(state.shape, generator=rng))
    for piece in paged.read(tokens, rows=50):
        found.append(piece)
        before = [state.clone() for state in paged._states]
        paged.step([7, 8, 9], [len(found) - 1] * 3, range(3), tables, range(3), [0, 3, 1])
        own = [place for place in range(paged._places) if place not in (0, 1, 3)]
        for state, old in zip(paged._states, before, strict=True):
            assert torch.equal(state[own], old[own])
            assert not torch.equal(state[[0, 1, 3]], old[[0, 1, 3]])
    assert (torch.cat(found) - expected).abs().max() < 1e-4 * expected.std()


def test_saves_are_the_states_behind_their_rows() -> None:
    model, tokens = decoder_of("hybrid"), ids(40)
    paged = device_of(model, slots=2, spares=2)
    table = paged.pool.take(1)
    expected = paged.step(tokens, range(40), [0] * 40, [table], [39])
    saves = {9: paged.spares[0], 29: paged.spares[1]}
    halves = paged.step(tokens[:31], range(31), [0] * 31, [table], [30, 3], [1], saves)
    torch.testing.assert_close(halves, reference(model, tokens)[[30, 3]], atol=1e-4, rtol=1e-4)
    for kept, at in zip(paged.spares, (10, 30), strict=True):
        paged.copy_states(kept, 0)
        rest = range(at, 40)
        found = paged.step([tokens[n] for n in rest], rest, [0] * len(rest), [table], [len(rest) - 1])
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["float32", "int8"])
@pytest.mark.parametrize("name", ["qwen2", "kimi", "gpt-oss"])
def test_new_weights_in_place(name: str, kind: Any) -> None:
    model, tokens = decoder_of(name), ids(40)
    paged = device_of(model, kind=kind, dtype=torch.float32)
    before = read(paged, tokens, [40])
    for parameter in model.parameters():
        parameter.data = parameter * 0.7
    assert torch.equal(read(paged, tokens, [40]), before)
    paged.refill()
    fresh = device_of(model, kind=kind, dtype=torch.float32)
    assert torch.equal(read(paged, tokens, [40]), read(fresh, tokens, [40]))
    assert not torch.equal(read(paged, tokens, [40]), before)


@pytest.mark.parametrize("name", ["kimi", "bounded gates", "qwen3 next"])
def test_without_the_kernels_of_the_cpu(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Convolution, recurrence, norms and gates as every other device runs them."""
    model = filled(ModelConfig(**SHAPE | GDN)) if name == "qwen3 next" else decoder_of(name)
    tokens = ids(80)
    expected = reference(model, tokens)
    monkeypatch.setattr(kernels, "_load", lambda: (None, "left out"))
    found = read(device_of(model, graphs=True), tokens, [1, 1, 1, 66, 1, 1, 9])
    assert (found - expected).abs().max() < 1e-4 * expected.std()


class _AsksTheHost(TorchDispatchMode):
    """What would make a GPU wait, or cannot be captured in a CUDA graph."""

    names = (
        "_local_scalar_dense",
        "nonzero",
        "lift_fresh",
        "repeat_interleave.Tensor",
        "bincount",
        "unique",
        "masked_select",
    )

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func).removeprefix("aten.")
        if name.startswith(self.names):
            self.found.append(name)
        return func(*args, **kwargs or {})


@pytest.mark.parametrize(
    "name", ["qwen3", "gemma2", "gpt-oss", "kimi", "deepseek v3", "qwen2 moe", "qwen3 next"]
)
def test_a_step_of_single_tokens_asks_the_host_for_nothing(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a CUDA graph can hold it. Without the native kernels, which no GPU has."""
    model = filled(ModelConfig(**SHAPE | GDN)) if name == "qwen3 next" else decoder_of(name)
    paged = device_of(model, kind="int8", dtype=torch.float32)
    monkeypatch.setattr(kernels, "_load", lambda: (None, "left out"))
    tables = torch.tensor([[0, 1], [2, 3]])
    inputs = (torch.tensor([5, 6]), torch.tensor([70, 0]), torch.tensor([0, 1]), tables)
    if name in ("gpt-oss", "qwen2 moe"):  # more rows than experts to spare take the grouped product of a GPU
        inputs = tuple(one[:1] for one in inputs)
    paged._one_each(*inputs)  # tables of frequencies are made once
    with _AsksTheHost() as mode:
        paged._one_each(*inputs)
    assert mode.found == []
    with _AsksTheHost() as mode:
        paged.step([1, 2, 3], [0, 1, 0], [0, 0, 1], [[0], [2]], [2])
    assert mode.found  # pieces may


@pytest.mark.parametrize("graphs", [False, True])
@pytest.mark.parametrize("name", ["gemma2", "gpt-oss", "kimi", "deepseek v3", "qwen3 next", "longrope"])
def test_no_tensor_of_a_step_lies_elsewhere(name: str, graphs: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tensor that was not told where to be goes to "meta" here, and a product with it is an error."""
    own = {"qwen3 next": GDN, "longrope": LONG}
    model = filled(ModelConfig(**SHAPE | own[name])) if name in own else decoder_of(name)
    paged = device_of(model, slots=4, spares=1, kind="int8", dtype=torch.float32, graphs=graphs)
    lows = random_lows(model, all_maps(model)[:2], seed=1)
    monkeypatch.setattr(kernels, "_load", lambda: (None, "left out"))
    settings = [SamplingParams(temperature=0.8, top_p=0.9, top_k=9, typical_p=0.9, min_p=0.01), SamplingParams(temperature=0.0),
                SamplingParams(repetition_penalty=1.2, presence_penalty=0.5, logit_bias={3: 1.0}, logprobs=2)]  # fmt: skip
    draws = [Draw(params, 1, 0, [1, 2], [3], banned=(4,)) for params in settings]
    with torch.device("meta"):
        adapter = paged.adapter(model, lows)
        saves = {1: paged.spares[0]} if paged.recurrent else {}
        places = [0, 1, 2, 0, 0]
        logits = paged.step([1, 2, 3, 4, 5], places, [0, 0, 0, 1, 2], [[0], [1], [2]], [2, 3, 4], saves=saves,
                            adapters=[adapter, None, None])  # fmt: skip
        assert all(isinstance(one, Choice) for one in choose_plain(logits, draws))
        logits = paged.step([1, 2, 3], [3, 1, 1], [0, 1, 2], [[0], [1], [2]], [0, 1, 2])
        assert logits.device == CPU
        assert paged.embed([[1, 2, 3]], adapter, layers=[-1])[0][0].isfinite().all()
    with torch.device("meta"), pytest.raises(RuntimeError, match="meta"):  # the control
        logits + torch.zeros(3, 1)
