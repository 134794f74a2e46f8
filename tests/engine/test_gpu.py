"""The engine on a GPU: the CPU's numbers within rounding. Skipped where there is none."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from layer_models import MODELS, decoder_of, ids, read, reference

from hanok.engine.api import Request, SamplingParams
from hanok.engine.device.decoder import DeviceDecoder
from hanok.engine.device.matrices import int4_agrees
from hanok.engine.generator import LocalEngine
from hanok.engine.sampler import Draw, choose_plain
from hanok.kernels.flex import flex_agrees

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: PyTorch finds none")


@pytest.fixture(autouse=True)
def _exact_products() -> Iterator[None]:
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    with torch.no_grad():
        yield
    torch.backends.cuda.matmul.allow_tf32 = before


def device_of(name: str, **settings: Any) -> DeviceDecoder:
    return DeviceDecoder(
        decoder_of(name), **{"device": torch.device("cuda", 0), "kind": "float32", "blocks": 12} | settings
    )


@pytest.mark.parametrize("graphs", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_the_logits_of_the_cpu(name: str, graphs: bool) -> None:
    tokens = ids(150)
    expected = reference(decoder_of(name), tokens)
    found = read(device_of(name, graphs=graphs), tokens, [70, 1, 1, 30, 1, 47]).cpu()
    kda = "kda" in MODELS[name].get("pattern", ())  # chunks on fla-core's kernels round to tf32
    assert (found - expected).abs().max() < (5e-2 if kda else 1e-3) * expected.std()


@pytest.mark.parametrize("name", ["qwen3", "deepseek v3"])
def test_steps_are_captured(name: str) -> None:
    paged = device_of(name, kind="bf16")
    read(paged, ids(20), [18, 1, 1])
    assert paged._steps is not None
    assert [shape.graph is not None for shape in paged._steps._shapes.values()] == [True]


@pytest.mark.parametrize("kind", ["bf16", "int8", "int4"])
@pytest.mark.parametrize("name", ["qwen3", "kimi", "mixtral"])
def test_weights_of_fewer_bits_are_those_of_the_cpu(name: str, kind: Any) -> None:
    tokens = ids(90)
    on_cpu = DeviceDecoder(
        decoder_of(name), device=torch.device("cpu"), kind=kind, blocks=4, dtype=torch.float32
    )
    expected = read(on_cpu, tokens, [90])
    found = read(device_of(name, kind=kind), tokens, [64, *[1] * 26]).cpu()
    rows = (found - expected).abs().amax(1) / expected.std()
    assert rows.median() < 0.1  # experts of equal score may fall either way in bfloat16


def test_pytorchs_kernels_agree_here() -> None:
    device = torch.device("cuda", 0)
    assert int4_agrees(device)
    assert flex_agrees(2, 4, 64, 64, torch.bfloat16, device)


def test_draws_are_those_of_the_cpu() -> None:
    logits = 4 * torch.randn(6, 300, generator=torch.Generator().manual_seed(0))
    settings = [
        SamplingParams(temperature=0.0, logprobs=3), SamplingParams(temperature=0.9, top_p=0.8, top_k=50),
        SamplingParams(temperature=1.2, min_p=0.05, typical_p=0.9),
        SamplingParams(temperature=0.7, repetition_penalty=1.4, presence_penalty=0.3),
        SamplingParams(temperature=0.0, logit_bias={7: 50.0}), SamplingParams(temperature=1.0),
    ]  # fmt: skip
    draws = [Draw(params, 5, 0, [1, 2, 3], [4, 5], banned=(9,)) for params in settings]
    ours, theirs = choose_plain(logits.cuda(), draws), choose_plain(logits, draws)
    assert [one.token for one in ours] == [one.token for one in theirs]  # type: ignore[union-attr]


def test_an_engine_on_it(model_dir: Path, adapted: ModuleType, tmp_path: Path) -> None:
    """Company, a second turn, an adapter, new weights, sleep."""
    from hanok.models.checkpoint import load_model

    adapter = adapted.random_adapter(load_model(model_dir), tmp_path / "adapter", seed=1)
    engines = [
        LocalEngine(model_dir, device=device, weights="float32", max_running=8, adapters={"one": adapter})
        for device in ("auto", "cpu")
    ]
    assert engines[0].device == torch.device("cuda", 0)
    params = SamplingParams(temperature=0.0, max_tokens=8, ignore_eos=True, logprobs=0)
    prompts = [[10 + 7 * place % 250 for place in range(length)] for length in (1, 64, 300)]
    requests = [
        Request(id=str(n), prompt_ids=prompt, params=params, adapter="one" if n == 1 else None)
        for n, prompt in enumerate(prompts)
    ]
    ours, theirs = (engine.generate(requests) for engine in engines)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.logprobs is not None
        assert mine.logprobs[0] == pytest.approx(other.logprobs[0], abs=5e-2)  # type: ignore[index]
    assert engines[0].generate(requests[2:])[0].usage.cached_tokens >= 256
    scores = [torch.tensor(engine.score(prompts[2])) for engine in engines]
    assert (scores[0] - scores[1]).abs().mean() < 2e-2
    assert engines[0].embed(prompts[2], -1).device.type == "cpu"
    changed = {
        name: p.detach() * 0.5
        for name, p in copy.copy(engines[1].decoder).named_parameters()
        if "o_proj" in name
    }
    for engine in engines:
        engine.update_weights(changed)
    scores = [torch.tensor(engine.score(prompts[2])) for engine in engines]
    assert (scores[0] - scores[1]).abs().mean() < 2e-2
    held = torch.cuda.memory_allocated()
    engines[0].sleep(forget_updates=True)
    assert torch.cuda.memory_allocated() < held
    engines[0].wake()
    assert engines[0].generate(requests[:1])[0].ids == ours[0].ids
    for engine in engines:
        engine.close()
