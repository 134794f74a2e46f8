"""Low-rank adapters in the native kernels, map by map, against PyTorch's layers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hanok.engine.adapter_maps import native_adapter
from hanok.engine.native import NativeDecoder
from hanok.engine.plain import text_logits
from hanok.kernels.native import native_available
from hanok.models.config import MoEConfig
from hanok.models.decoder import Decoder
from hanok.models.linear import LowRank

pytestmark = pytest.mark.skipif(not native_available(), reason="the native kernels are not built")
IDS = [(7 * place * place + 3 * place) % 90 for place in range(70)]
EXPERTS = MoEConfig(experts=4, per_token=2, width=24, shared=1, shared_gate=True)
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "full, a head of its own": ("full", {"tie_embeddings": False}),
    "gated, biased": ("full", {"attention_gate": True, "qkv_bias": True, "mlp_bias": True, "o_bias": True}),
    "plain MLP, norms behind": ("full", {"gated_mlp": False, "activation": "gelu", "norm_placement": "post"}),
    "norms around": ("full", {"norm_placement": "both", "intermediate_size": 40, "activation": "gelu_tanh"}),
    "hybrid": ("hybrid", {}),
    "low queries": ("hybrid", {"q_lora_rank": 24, "pattern": ("mla",)}),
    "experts": ("full", {"moe": EXPERTS}),
}


def plain(model: Decoder, lows: dict[str, LowRank] | None) -> torch.Tensor:
    return torch.cat(list(text_logits(model, IDS, lows, rows=33)))


def fast(model: NativeDecoder, adapter: Any, *, rows: int = 33) -> torch.Tensor:
    return torch.cat(list(model.read(IDS, rows=rows, adapter=adapter)))


@pytest.fixture(scope="module", params=MODELS)
def pair(request: pytest.FixtureRequest, small) -> tuple[Decoder, NativeDecoder]:
    kind, changes = MODELS[request.param]
    model = small.decoder_of(kind, noise=0.05, **changes)
    return model, NativeDecoder(model, kind="bf16", blocks=8, threads=2)


@torch.inference_mode()
def test_each_map_alone_and_all_together(pair: tuple[Decoder, NativeDecoder], adapted) -> None:
    model, native = pair
    base, error = plain(model, None), (fast(native, None) - plain(model, None)).abs().mean()
    names = adapted.all_maps(model)
    for seed, chosen in enumerate([*([name] for name in names), names]):
        lows = adapted.random_lows(model, chosen, seed=seed, scale=3.0 if len(chosen) == 1 else 1.0)
        expected, found = plain(model, lows), fast(native, native_adapter(model, lows))
        effect, off = (expected - base).abs().mean(), (found - expected).abs().mean()
        assert effect > 4 * error, chosen
        assert off < 2 * error + 0.04 * effect, (chosen, float(effect), float(off), float(error))


@torch.inference_mode()
@pytest.mark.parametrize("kind", ["bf16", "int4"])
def test_company_changes_no_bit(small, adapted, kind) -> None:
    """Rows of several adapters and of none in one step, each by itself, in pieces of every size."""
    model = small.decoder_of("hybrid")
    names = adapted.all_maps(model)
    adapters = [
        None,
        native_adapter(model, adapted.random_lows(model, names, seed=1, rank=3)),
        native_adapter(model, adapted.random_lows(model, names[::2], seed=2, rank=17)),
        native_adapter(model, adapted.random_lows(model, names[1::3], seed=3, rank=40)),
    ]
    one, two = (NativeDecoder(model, kind=kind, blocks=8, threads=threads) for threads in (1, 2))
    alone = [fast(one, adapter) for adapter in adapters]
    for adapter, expected in zip(adapters, alone, strict=True):
        for rows in (1, 3, 6, 70):
            assert torch.equal(fast(two, adapter, rows=rows), expected)
    who = [0, 1, 2, 1, 0, 3, 1, 1]  # of eight sequences
    found = [[] for _ in who]
    tables = [[place] for place in range(len(who))]
    for start in range(0, 20, 5):
        rows = [(s, p) for s in range(len(who)) for p in range(start, start + 1 + (s * 3 + 4) % 5)]
        rows += [(s, p) for s in range(len(who)) for p in range(start, start + 5) if (s, p) not in rows]
        rows.sort()
        logits = two.step(
            [IDS[p] for _, p in rows], [p for _, p in rows], [s for s, _ in rows], tables, range(len(rows)),
            adapters=[adapters[a] for a in who],
        )  # fmt: skip
        for (s, _), row in zip(rows, logits, strict=True):
            found[s].append(row)
    for a, rows in zip(who, found, strict=True):
        assert torch.equal(torch.stack(rows), alone[a][:20])


@torch.inference_mode()
def test_other_instruction_sets(small, adapted) -> None:
    from hanok.kernels.native import native

    model = small.decoder_of("full", noise=0.05)
    lows = adapted.random_lows(model, adapted.all_maps(model), seed=5)
    expected = plain(model, lows)
    for path in native().step_paths():
        found = fast(
            NativeDecoder(model, kind="bf16", blocks=4, threads=1, path=path), native_adapter(model, lows)
        )
        assert (found - expected).abs().mean() < 0.05 * expected.std(), path


def test_a_block_keeps_the_ranks_of_its_part() -> None:
    """Queries, keys and values lie in one matrix: the numbers of B that are zero for the others are not kept."""
    from hanok.engine.adapter_maps import _by_block

    b = torch.zeros(64, 8)
    b[:32, :4], b[40:48, 5] = 1.0, 2.0
    numbers, blocks = _by_block(b)
    assert blocks.tolist() == [[0, 0, 4], [4, 0, 4], [8, 5, 1], [9, 0, 0]]
    assert numbers.shape == (9, 16)
    assert numbers[8].tolist() == [0.0] * 8 + [2.0] * 8
