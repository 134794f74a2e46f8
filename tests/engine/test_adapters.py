"""LoRA adapters in the engine, on both backends: the merged model is what their answers must be."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from hanok.engine.adapters import parse_adapters
from hanok.engine.api import Request, SamplingParams
from hanok.engine.backend import Weights
from hanok.engine.beam import beam_search
from hanok.engine.generator import LocalEngine
from hanok.errors import CheckpointError, ConfigError, InputError
from hanok.kernels.native import native_available
from hanok.models.checkpoint import load_model
from hanok.models.config import MoEConfig

KERNELS = pytest.mark.skipif(not native_available(), reason="the native kernels are not built")
GREEDY = SamplingParams(temperature=0.0, max_tokens=12, ignore_eos=True, logprobs=2)
LLAMA = {"pattern": ("gqa",), "num_heads": 4, "num_kv_heads": 2, "hidden_size": 64, "initializer_range": 0.15}
GDN = {
    "pattern": ("gdn", "gqa"), "linear_key_heads": 2, "linear_value_heads": 4, "linear_key_dim": 8, "linear_value_dim": 8,
    "attention_gate": True, "tie_embeddings": False, "moe": MoEConfig(experts=4, width=24, shared=1, shared_gate=True),
}  # fmt: skip


def prompt(length: int, first: int = 0) -> list[int]:
    return [10 + (7 * place + 31 * first) % 250 for place in range(length)]


def request(ids: list[int], adapter: str | None, params: SamplingParams = GREEDY, **more: Any) -> Request:
    return Request(id="one", prompt_ids=ids, params=params, adapter=adapter, **more)


def ask(engine: LocalEngine, ids: list[int], adapter: str | None = None, params: SamplingParams = GREEDY):
    return engine.generate([request(ids, adapter, params)])[0]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory, tiny: ModuleType) -> Path:
    return tiny.save_tiny_model(tmp_path_factory.mktemp("llama") / "model", seed=3, **LLAMA)


@pytest.fixture(scope="module")
def colours(llama: Path, adapted: ModuleType) -> dict[str, Path]:
    """Of other ranks and targets, one with exceptions."""
    model = load_model(llama)
    made = {
        "red": {"seed": 1},
        "blue": {"seed": 2, "rank": 12, "targets": ("q_proj", "o_proj", "down_proj")},
        "green": {"seed": 3, "rslora": True, "rank": 3, "targets": ("v_proj", "gate_proj"), "ranks": {"v_proj": 18}},
    }  # fmt: skip
    return {
        name: adapted.random_adapter(model, llama.parent / name, **options) for name, options in made.items()
    }


@pytest.fixture(scope="module")
def engine(llama: Path, colours: dict[str, Path]) -> LocalEngine:
    return LocalEngine(llama, weights="int8", adapters=colours)


@pytest.fixture(scope="module")
def plain(llama: Path, colours: dict[str, Path]) -> LocalEngine:
    return LocalEngine(llama, weights="float32", adapters=colours)


@pytest.mark.parametrize("changes", [{}, LLAMA, GDN], ids=["hybrid", "llama", "gdn and experts"])
def test_pytorch_answers_as_the_merged_model(tmp_path: Path, tiny, adapted, changes) -> None:
    base = tiny.save_tiny_model(tmp_path / "base", seed=5, **changes)
    directory = adapted.random_adapter(load_model(base), tmp_path / "adapter", seed=7, strength=0.1)
    engine = LocalEngine(base, weights="float32", adapters={"a": directory})
    merged = LocalEngine(adapted.merged_model(base, directory, tmp_path / "merged"), weights="float32")
    params = replace(GREEDY, prompt_logprobs=1)
    for ids in (prompt(1), prompt(9), prompt(70), *([prompt(530)] if changes is LLAMA else [])):
        ours, theirs = ask(engine, ids, "a", params), ask(merged, ids, None, params)
        assert ours.ids == theirs.ids
        assert ours.logprobs == pytest.approx(theirs.logprobs, abs=2e-4)
        assert ours.prompt_logprobs == pytest.approx(theirs.prompt_logprobs, abs=2e-4)
    ids = prompt(70)
    assert engine.score(ids, adapter="a") == pytest.approx(merged.score(ids), abs=2e-4)
    assert engine.score(ids) != pytest.approx(engine.score(ids, adapter="a"), abs=0.1)
    for layer in (0, -1):
        vectors = engine.embed(ids, layer, adapter="a")
        torch.testing.assert_close(vectors, merged.embed(ids, layer), atol=2e-4, rtol=1e-3)
        assert not torch.allclose(vectors, engine.embed(ids, layer), atol=0.01)


def test_pytorch_mixes_them_in_one_batch(plain: LocalEngine) -> None:
    names = [None, "red", "blue", "red", "green", None, "blue"]
    requests = [request(prompt(3 + 40 * n, n), name) for n, name in enumerate(names)]
    for one, completion in zip(requests, plain.generate(requests), strict=True):
        alone = plain.generate([one])[0]
        assert completion.ids == alone.ids
        assert completion.logprobs == pytest.approx(alone.logprobs, abs=1e-4)


@KERNELS
def test_the_kernels_answer_as_the_merged_model(llama, colours, adapted, tmp_path: Path) -> None:
    fast = LocalEngine(llama, weights="bf16", adapters=colours)
    base_error = score_error(
        fast.score(prompt(300)), LocalEngine(llama, weights="float32").score(prompt(300))
    )
    for name, directory in colours.items():
        merged = LocalEngine(adapted.merged_model(llama, directory, tmp_path / name), weights="float32")
        expected = merged.score(prompt(300))
        assert score_error(fast.score(prompt(300), adapter=name), expected) < 3 * base_error
        assert score_error(fast.score(prompt(300)), expected) > 30 * base_error
        ours, theirs = ask(fast, prompt(70), name), ask(merged, prompt(70))
        assert ours.logprobs is not None
        assert theirs.logprobs is not None
        assert ours.ids[0] == theirs.ids[0]
        assert ours.logprobs[0] == pytest.approx(theirs.logprobs[0], abs=0.1)
        assert fast.embed(prompt(20), -1, adapter=name) == pytest.approx(
            merged.embed(prompt(20), -1), abs=1e-3
        )


def score_error(ours: list[float], theirs: list[float]) -> float:
    return float((torch.tensor(ours) - torch.tensor(theirs)).abs().mean())


@KERNELS
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
def test_an_adapter_of_peft(llama: Path, tmp_path: Path) -> None:
    """An adapter that PEFT made and saved: the engine takes it, and PEFT's own logits agree."""
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32)
    config = peft.LoraConfig(
        r=5, lora_alpha=11, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False
    )
    torch.manual_seed(4)
    theirs = peft.get_peft_model(theirs, config).eval()
    theirs.save_pretrained(tmp_path / "adapter")
    with torch.no_grad():
        expected = theirs(torch.tensor([prompt(60)])).logits[0].log_softmax(-1)
    found = LocalEngine(llama, weights="float32", adapters={"theirs": tmp_path / "adapter"})
    scores = expected[:-1].gather(1, torch.tensor(prompt(60))[1:, None]).squeeze(1)
    assert found.score(prompt(60), adapter="theirs") == pytest.approx(scores.tolist(), abs=2e-3)
    limits: dict[Weights, float] = {"bf16": 0.1, "int4": 0.5}
    for weights, limit in limits.items():
        fast = LocalEngine(llama, weights=weights, adapters={"theirs": tmp_path / "adapter"})
        assert score_error(fast.score(prompt(60), adapter="theirs"), scores.tolist()) < limit
        assert score_error(fast.score(prompt(60)), scores.tolist()) > 2 * limit


@KERNELS
@pytest.mark.parametrize("speculation", ["off", "lookup", "draft", "own"])
def test_company_changes_no_bit(llama, colours, tiny, tmp_path: Path, speculation) -> None:
    """Many requests on a cache that is too small for them, adapters mixed at random, against each alone."""
    block = 4 * 2 * 2 * 64 * 16 * 2
    guessing: dict[str, Any] = {"speculation": speculation}
    if speculation == "own":
        llama = tiny.save_tiny_model(tmp_path / "own", seed=3, **LLAMA | {"mtp_layers": 1})
    if speculation == "draft":  # a model that knows no adapters
        guessing = {
            "draft_dir": tiny.save_tiny_model(tmp_path / "draft", seed=4, **LLAMA | {"num_layers": 1})
        }
    engine = LocalEngine(
        llama, weights="int8", adapters=colours, cache_bytes=14 * block, max_running=6, **guessing
    )
    chance = random.Random(3)
    names = [None, *colours]
    requests = [
        request(
            prompt(chance.randrange(1, 260), n % 3) * (1 + n % 2), chance.choice(names),
            replace(GREEDY, max_tokens=chance.randrange(1, 60), temperature=n % 3 / 2, seed=n),
        )
        for n in range(24)
    ]  # fmt: skip
    together = engine.generate(requests)
    quiet = LocalEngine(llama, weights="int8", adapters=colours, speculation="off")
    for one, completion in zip(requests, together, strict=True):
        alone = quiet.generate([replace(one, tenant=f"{id(one)}")])[0]  # finds nothing of the others
        assert alone.usage.cached_tokens == 0
        assert (completion.ids, completion.logprobs) == (alone.ids, alone.logprobs)


@KERNELS
def test_states_of_hybrids_are_kept_apart(tmp_path: Path, tiny, adapted) -> None:
    """The states of delta attention too are found by requests of the same adapter alone."""
    base = tiny.save_tiny_model(
        tmp_path / "base", seed=3, **LLAMA | {"pattern": ("kda", "gqa"), "num_layers": 2}
    )
    red = adapted.random_adapter(load_model(base), tmp_path / "red", seed=1)
    engine = LocalEngine(base, weights="int8", adapters={"red": red})
    first = ask(engine, prompt(300), "red")
    assert ask(engine, prompt(300)).usage.cached_tokens == 0
    again = ask(engine, prompt(300), "red")
    assert again.usage.cached_tokens == 256
    assert (again.ids, again.logprobs) == (first.ids, first.logprobs)


@KERNELS
def test_what_was_read_is_found_by_content_not_by_name(llama, colours) -> None:
    engine = LocalEngine(llama, weights="int8", adapters={"a": colours["red"]})
    red, base = ask(engine, prompt(200), "a"), ask(engine, prompt(200))
    assert red.usage.cached_tokens == base.usage.cached_tokens == 0
    assert ask(engine, prompt(200), "a").usage.cached_tokens == 192
    engine.unload_adapter("a")
    engine.load_adapter("a", colours["blue"])
    blue = ask(engine, prompt(200), "a")
    assert blue.usage.cached_tokens == 0
    assert (
        blue.logprobs
        == ask(LocalEngine(llama, weights="int8", adapters=colours), prompt(200), "blue").logprobs
    )
    engine.unload_adapter("a")
    engine.load_adapter("another", colours["red"])  # the same numbers under a new name
    again = ask(engine, prompt(200), "another")
    assert again.usage.cached_tokens == 192
    assert again.logprobs == red.logprobs


def test_names(engine: LocalEngine, llama: Path, colours, tmp_path: Path) -> None:
    assert list(engine.adapters) == ["red", "blue", "green"]
    assert engine.adapters["blue"].config.rank == 12
    for call in (
        lambda: ask(engine, prompt(3), "rad"),
        lambda: engine.stream(request(prompt(3), "rad")),
        lambda: engine.score(prompt(3), adapter="rad"),
        lambda: engine.embed(prompt(3), -1, adapter="rad"),
        lambda: engine.unload_adapter("rad"),
    ):
        with pytest.raises(InputError, match='no adapter "rad" is loaded; did you mean "red"'):
            call()
    with pytest.raises(InputError, match="has none: load it first"):
        ask(LocalEngine(llama), prompt(3), "red")
    with pytest.raises(ConfigError, match='"red" is loaded already'):
        engine.load_adapter("red", colours["blue"])
    with pytest.raises(ConfigError, match="adapter name"):
        engine.load_adapter("two words", colours["blue"])
    with pytest.raises(CheckpointError, match=r"no adapter_config\.json"):
        engine.load_adapter("none", tmp_path)
    assert parse_adapters(["a=x/y", "b=z=1"]) == {"a": Path("x/y"), "b": Path("z=1")}
    for wrong in (["a"], ["=x"], ["a="], ["a=x", "a=y"]):
        with pytest.raises(ConfigError, match="adapter"):
            parse_adapters(wrong)


def test_adapters_of_other_models_are_refused(engine: LocalEngine, tiny, adapted, tmp_path: Path) -> None:
    other = load_model(
        tiny.save_tiny_model(tmp_path / "other", **LLAMA | {"hidden_size": 32, "head_dim": 16})
    )
    with pytest.raises(CheckpointError, match="another model"):
        engine.load_adapter("other", adapted.random_adapter(other, tmp_path / "adapter", seed=1))
    assert "other" not in engine.adapters


@pytest.mark.parametrize("weights", ["auto", "float32"])
def test_unloading_lets_requests_finish(llama, colours, weights) -> None:
    """Those that run and those that wait for a place; who comes later gets what then has the name."""
    engine = LocalEngine(llama, weights=weights, adapters=colours, max_running=1)
    params = replace(GREEDY, max_tokens=24)
    expected = ask(engine, prompt(30), "red", params)

    async def read() -> list[int]:
        found: list[int] = []
        async for delta in engine.stream(request(prompt(30), "red", params)):
            if not found:
                engine.unload_adapter("red")
                engine.load_adapter("red", colours["green"])
            found += delta.ids
        return found

    async def wait() -> list[int]:
        return [
            token async for delta in engine.stream(request(prompt(30), "red", params)) for token in delta.ids
        ]

    async def both() -> list[list[int]]:
        return list(await asyncio.gather(read(), wait()))

    assert [tuple(found) for found in asyncio.run(both())] == [expected.ids] * 2
    assert ask(engine, prompt(30), "red", params).ids == ask(engine, prompt(30), "green", params).ids
    engine.unload_adapter("red")
    with pytest.raises(InputError, match='no adapter "red"'):
        ask(engine, prompt(30), "red")


@pytest.mark.parametrize("weights", ["auto", "float32"])
def test_new_weights_under_old_adapters(llama, colours, adapted, tmp_path: Path, weights) -> None:
    """`update_weights` replaces the model's own tensors; adapters stay as they are and add to the new ones."""
    engine = LocalEngine(llama, weights=weights, adapters=colours)
    before = ask(engine, prompt(130), "blue")
    kept = {name: p.detach().clone() for name, p in engine.decoder.named_parameters()}
    assert not any("adapter" in name or "lora" in name for name in kept)
    engine.update_weights({name: p * 0.5 for name, p in kept.items() if "q_proj" in name})
    changed = ask(engine, prompt(130), "blue")
    assert changed.usage.cached_tokens == 0
    model = load_model(llama)
    for name, parameter in model.named_parameters():
        if "q_proj" in name:
            parameter.data *= 0.5
    save = tmp_path / "halved"
    adapted.save_with_tokenizer(model, save, llama)
    fresh = ask(LocalEngine(save, weights=weights, adapters=colours), prompt(130), "blue")
    assert changed.logprobs == fresh.logprobs != before.logprobs
    engine.update_weights({name: p for name, p in kept.items() if "q_proj" in name})
    assert ask(engine, prompt(130), "blue").logprobs == before.logprobs
    with pytest.raises(InputError, match="no such tensor"):
        engine.update_weights({"layers.0.self_attn.q_proj.adapters.red.lora_A": torch.zeros(4, 64)})


@pytest.mark.parametrize("weights", ["auto", "float32"])
def test_they_outlive_a_sleep(llama, colours, weights) -> None:
    engine = LocalEngine(llama, weights=weights, adapters=colours)
    before = ask(engine, prompt(70), "green")
    engine.sleep()
    with pytest.raises(InputError, match="asleep"):
        engine.load_adapter("late", colours["red"])
    engine.unload_adapter("red")
    engine.wake()
    assert list(engine.adapters) == ["blue", "green"]
    assert ask(engine, prompt(70), "green").logprobs == before.logprobs


def test_beam_search_obeys(plain: LocalEngine, llama, colours, adapted, tmp_path: Path) -> None:
    merged = LocalEngine(adapted.merged_model(llama, colours["red"], tmp_path / "merged"), weights="float32")
    ours = beam_search(plain, prompt(20), 3, 6, adapter="red")
    theirs = beam_search(merged, prompt(20), 3, 6)
    assert [one.ids for one in ours] == [one.ids for one in theirs]
    assert [one.ids for one in ours] != [one.ids for one in beam_search(plain, prompt(20), 3, 6)]
