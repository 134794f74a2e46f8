"""The engine on the path of a GPU, on the CPU: the same calls, and the answers of PyTorch's plain layers."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from hanok.engine.api import Completion, Request, SamplingParams
from hanok.engine.device.choice import ON_CPU, choose_device
from hanok.engine.device.decoder import DeviceDecoder
from hanok.engine.generator import LocalEngine
from hanok.engine.paged import PagedScheduler
from hanok.errors import ConfigError, InputError
from hanok.models.checkpoint import load_model, save_quantised
from hanok.models.decoder import Decoder

SETTINGS: list[dict[str, Any]] = [
    {"temperature": 0.0, "logprobs": 2},
    {"temperature": 0.8, "top_p": 0.9, "top_k": 40, "seed": 7, "logprobs": 0},
    {"temperature": 1.1, "seed": 3, "repetition_penalty": 1.3, "min_p": 0.02, "logprobs": 1},
]


@pytest.fixture(scope="module")
def pair(model_dir: Path) -> tuple[LocalEngine, LocalEngine]:
    """On the device path and on PyTorch's plain layers, both in float32, of a model with all kinds of mixers."""
    return (
        LocalEngine(model_dir, device=ON_CPU, weights="float32", max_running=8),
        LocalEngine(model_dir, weights="float32", max_running=8),
    )


def prompt(length: int, seed: int = 0) -> list[int]:
    return [10 + (7 + seed) * place % 250 for place in range(length)]


def request(ids: list[int], number: int = 0, **settings: Any) -> Request:
    params = SamplingParams(max_tokens=12, ignore_eos=True, **SETTINGS[number % len(SETTINGS)])
    return Request(id=str(number), prompt_ids=ids, params=params, **settings)


def same(ours: Completion, theirs: Completion) -> None:
    assert ours.ids == theirs.ids
    assert ours.logprobs is not None
    assert ours.logprobs == pytest.approx(theirs.logprobs, abs=1e-4)
    assert ours.finish_reason == theirs.finish_reason


def test_answers_in_company_are_those_of_the_plain_layers(pair: tuple[LocalEngine, LocalEngine]) -> None:
    """Ragged prompts in pieces, greedy and sampled, with penalties and filters."""
    device, plain = pair
    assert device.device == torch.device("cpu")
    assert isinstance(device._paged, DeviceDecoder)
    requests = [request(prompt(length), n) for n, length in enumerate((1, 30, 64, 65, 300, 700))]
    for ours, theirs in zip(device.generate(requests), plain.generate(requests), strict=True):
        same(ours, theirs)


def test_a_second_turn_finds_the_first_and_answers_alike(pair: tuple[LocalEngine, LocalEngine]) -> None:
    device, plain = pair
    text = prompt(330, seed=4)
    first = device.generate([request(text)])[0]
    longer = request([*text, *first.ids, 5, 6], 1)
    second = device.generate([longer])[0]
    assert second.usage.cached_tokens >= 320
    same(second, plain.generate([longer])[0])


def test_scores_and_hidden_vectors(pair: tuple[LocalEngine, LocalEngine]) -> None:
    device, plain = pair
    ids = prompt(300)
    torch.testing.assert_close(
        torch.tensor(device.score(ids)), torch.tensor(plain.score(ids)), atol=1e-4, rtol=1e-4
    )
    for layer in (-1, 1):
        torch.testing.assert_close(
            device.embed(ids[:70], layer), plain.embed(ids[:70], layer), atol=1e-4, rtol=1e-4
        )
    echo = Request(id="e", prompt_ids=ids, params=SamplingParams(max_tokens=1, prompt_logprobs=1))
    ours, theirs = (engine.generate([echo])[0].prompt_logprobs for engine in pair)
    assert ours is not None
    assert ours[1:] == pytest.approx(theirs[1:], abs=1e-4)  # type: ignore[index]


def test_adapters_of_single_requests(
    pair: tuple[LocalEngine, LocalEngine], adapted: ModuleType, model_dir: Path, tmp_path: Path
) -> None:
    model = load_model(model_dir)
    for name, seed in (("one", 1), ("two", 2)):
        directory = adapted.random_adapter(model, tmp_path / name, seed=seed)
        for engine in pair:
            engine.load_adapter(name, directory)
    requests = [request(prompt(80), n, adapter=name) for n, name in enumerate(("one", None, "two", "one"))]
    ours, theirs = (engine.generate(requests) for engine in pair)
    for mine, other in zip(ours, theirs, strict=True):
        same(mine, other)
    assert ours[0].ids != pair[0].generate([request(prompt(80))])[0].ids
    for engine in pair:
        engine.unload_adapter("one")
        engine.unload_adapter("two")


def test_new_weights_sleep_and_waking(model_dir: Path) -> None:
    engine = LocalEngine(model_dir, device=ON_CPU, weights="float32", max_running=2)
    plain = LocalEngine(model_dir, weights="float32", max_running=2)
    before = engine.generate([request(prompt(90))])[0]
    changed = {
        name: p.detach() * 0.5 for name, p in load_model(model_dir).named_parameters() if "o_proj" in name
    }
    for one in (engine, plain):
        one.update_weights(changed)
    after = engine.generate([request(prompt(90))])[0]
    assert after.usage.cached_tokens == 0
    same(after, plain.generate([request(prompt(90))])[0])
    with pytest.raises(InputError, match="NaN"):
        engine.update_weights({name: t * float("nan") for name, t in changed.items()})
    engine.sleep(forget_updates=True)
    with pytest.raises(InputError, match="asleep"):
        engine.score(prompt(4))
    engine.wake()
    same(engine.generate([request(prompt(90))])[0], before)
    engine.close()


@pytest.mark.parametrize("blocks", [5, 24])
@pytest.mark.parametrize("kind", ["full", "hybrid", "recurrent"])
def test_arrivals_cancellations_and_preemption(small: ModuleType, kind: str, blocks: int) -> None:
    """With far too few blocks and with enough: nothing is lost, and each answer is the one that it gets alone."""

    def scheduler(decoder: Decoder, blocks: int) -> PagedScheduler:
        recurrent = "kda" in decoder.config.layers
        model = DeviceDecoder(
            decoder, device=torch.device("cpu"), kind="float32", blocks=blocks, slots=4, snapshots=4 if recurrent else 0,
            graphs=True,
        )  # fmt: skip
        return PagedScheduler(model, max_running=4, vocabulary=decoder.config.vocab_size)

    decoder = small.decoder_of(kind)
    loaded = scheduler(decoder, blocks)
    everyone = [
        small.generation_of(
            n, [(n % 3 + 2) * place % 90 for place in range(40 + 45 * n)], 30, tenant=str(n % 2)
        )
        for n in range(6)
    ]
    for n, generation in enumerate(everyone):
        loaded.add(generation)
        for _ in range(3):
            loaded.step()
            loaded.check()
        if n == 3:
            everyone[2].cancelled = True
    small.run(loaded)
    assert loaded._pool.free == blocks
    assert bool(loaded.counters.preemptions) == (blocks == 5 and kind != "recurrent") or kind == "recurrent"
    for generation in everyone:
        if generation.finish_reason == "cancelled":
            assert generation is everyone[2]
            continue
        again = small.generation_of(generation.arrival, list(generation.request.prompt_ids), 30)
        small.run(scheduler(decoder, 12), again)
        assert generation.ids == again.ids


def test_logits_that_are_no_numbers_end_their_request_alone(
    pair: tuple[LocalEngine, LocalEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    device = pair[0]
    assert device._paged is not None
    step = device._paged.step

    def spoilt(ids: Any, *rest: Any, **more: Any) -> torch.Tensor:
        logits = step(ids, *rest, **more)
        logits[[n for n, token in enumerate(ids) if token == 77][:1]] = torch.nan
        return logits

    expected = device.generate([request([5, 6])])[0]
    monkeypatch.setattr(device._paged, "step", spoilt)
    with pytest.raises(Exception, match="not finite"):
        device.generate([request([77])])
    monkeypatch.undo()
    same(device.generate([request([5, 6])])[0], expected)


@pytest.mark.parametrize("bits", [8, 4])
def test_a_file_of_codes_runs_in_its_width(bits: int, tiny: ModuleType, tmp_path: Path) -> None:
    whole = tiny.save_tiny_model(tmp_path / "whole", pattern=("gqa",), hidden_size=64, num_heads=4, seed=3)
    save_quantised(load_model(whole), tmp_path / "coded", bits=bits, tokenizer_dir=whole)
    engine = LocalEngine(tmp_path / "coded", device=ON_CPU)
    assert engine.weights == f"int{bits}"
    plain = LocalEngine(tmp_path / "coded", weights="float32")
    scores, expected = torch.tensor(engine.score(prompt(200))), torch.tensor(plain.score(prompt(200)))
    assert (scores - expected).abs().mean() < {8: 0.05, 4: 0.3}[bits]  # the head is rounded too


def test_devices_by_name() -> None:
    assert choose_device("cpu") is None
    assert choose_device(ON_CPU) == torch.device("cpu")
    for wrong in ("gpu", "cuda:", "cuda:x", ""):
        with pytest.raises(ConfigError, match="choose auto, cpu, cuda"):
            choose_device(wrong)
    if not torch.cuda.is_available():
        assert choose_device("auto") is None
        for missing in ("cuda", "cuda:3"):
            with pytest.raises(ConfigError, match="PyTorch finds no GPU"):
                choose_device(missing)


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"weights": "int4+"}, "five bits"), ({"cache_type": "int8"}, "a cache of int8"),
        ({"speculation": "lookup"}, "guesses"), ({"draft_dir": Path("other")}, "guesses"),
    ],
)  # fmt: skip
def test_what_a_device_does_not_run_is_refused_or_runs_on_the_cpu(
    settings: dict[str, Any], what: str, model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=what):
        LocalEngine(model_dir, device=ON_CPU, **settings)
    from hanok.engine import backend

    monkeypatch.setattr(backend, "choose_device", lambda _setting: torch.device("cpu"))
    base: dict[str, Any] = {
        "weights": "auto",
        "cache_type": "bf16",
        "speculation": "auto",
        "draft_dir": None,
        "team": None,
    }
    assert backend.choose_place("auto", **base) == torch.device("cpu")
    assert backend.choose_place("auto", **base | settings) is None
