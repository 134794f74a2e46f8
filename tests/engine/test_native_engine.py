"""The engine on the native kernels, by the same calls as on PyTorch."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
import torch

from hanok.engine.api import Delta, Request, SamplingParams
from hanok.engine.generator import LocalEngine
from hanok.errors import ConfigError, ContextLengthError, InputError
from hanok.kernels.native import native_available

pytestmark = pytest.mark.skipif(not native_available(), reason="the native kernels are not built")
SHAPE = {"pattern": ("gqa",), "num_heads": 4, "num_kv_heads": 2, "hidden_size": 64, "initializer_range": 0.15}
GREEDY = SamplingParams(temperature=0.0, max_tokens=16, ignore_eos=True, logprobs=2)


@pytest.fixture(scope="module")
def llama_dir(tmp_path_factory: pytest.TempPathFactory, tiny) -> Path:
    return tiny.save_tiny_model(tmp_path_factory.mktemp("llama") / "model", seed=3, **SHAPE)


def prompt(length: int) -> list[int]:
    return [10 + 7 * place % 250 for place in range(length)]


def ask(engine: LocalEngine, ids: list[int], params: SamplingParams = GREEDY):
    return engine.generate([Request(id="one", prompt_ids=ids, params=params)])[0]


def test_it_is_chosen_by_itself_and_answers_like_pytorch(llama_dir: Path) -> None:
    fast, plain = LocalEngine(llama_dir), LocalEngine(llama_dir, weights="float32")
    assert (fast.weights, plain.weights) == ("bf16", "float32")
    for length in (1, 64, 65, 600):
        ours, theirs = ask(fast, prompt(length)), ask(plain, prompt(length))
        assert ours.logprobs is not None
        assert theirs.logprobs is not None
        assert ours.logprobs[0] == pytest.approx(theirs.logprobs[0], abs=0.05)
    scores, expected = fast.score(prompt(300)), plain.score(prompt(300))
    assert len(scores) == len(expected) == 299
    assert torch.tensor(scores).sub(torch.tensor(expected)).abs().mean() < 0.03
    assert fast.embed(prompt(9), -1).shape == (9, 64)


@pytest.mark.parametrize("weights", ["bf16", "int8", "int4"])
def test_scores_are_those_of_the_answer(llama_dir: Path, weights) -> None:
    engine = LocalEngine(llama_dir, weights=weights)
    completion = ask(engine, prompt(90))
    assert completion.logprobs is not None
    again = engine.score([*prompt(90), *completion.ids])[89:]
    torch.testing.assert_close(torch.tensor(completion.logprobs), torch.tensor(again), atol=1e-5, rtol=1e-5)


def test_company_and_streams(llama_dir: Path) -> None:
    engine = LocalEngine(llama_dir, weights="int8")
    params = SamplingParams(temperature=0.9, top_p=0.9, max_tokens=12, ignore_eos=True, seed=5)
    requests = [Request(id=str(n), prompt_ids=prompt(n), params=params) for n in (1, 30, 64, 130, 700)]
    together = engine.generate(requests)
    assert [c.ids for c in together] == [engine.generate([request])[0].ids for request in requests]

    async def read() -> list[Delta]:
        return [delta async for delta in engine.stream(requests[3])]

    deltas = asyncio.run(read())
    assert tuple(token for delta in deltas for token in delta.ids) == together[3].ids
    usage = deltas[-1].usage
    assert usage is not None
    assert usage.cached_tokens == 128


def test_new_weights_take_effect_and_forget_the_past(llama_dir: Path) -> None:
    engine = LocalEngine(llama_dir, weights="int4")
    before = ask(engine, prompt(200))
    assert ask(engine, prompt(200)).usage.cached_tokens == 192
    kept = {name: p.detach().clone() for name, p in engine.decoder.named_parameters()}
    engine.update_weights({name: p * 0.5 for name, p in kept.items() if "o_proj" in name})
    changed = ask(engine, prompt(200))
    assert changed.usage.cached_tokens == 0
    assert changed.logprobs != before.logprobs
    engine.update_weights({name: p for name, p in kept.items() if "o_proj" in name})
    assert ask(engine, prompt(200)).logprobs == before.logprobs
    spoilt = {"norm.weight": torch.full((64,), float("nan"))}
    with pytest.raises(InputError, match=r"norm\.weight holds NaN"):
        engine.update_weights(spoilt)
    assert ask(engine, prompt(200)).logprobs == before.logprobs


def test_a_small_cache_bounds_the_context(llama_dir: Path) -> None:
    block = 4 * 2 * 2 * 64 * 16 * 2
    engine = LocalEngine(llama_dir, weights="int8", cache_bytes=5 * block)
    assert engine.max_context == 320
    assert len(ask(engine, prompt(310), SamplingParams(temperature=0.0, ignore_eos=True)).ids) == 11
    with pytest.raises(ContextLengthError):
        ask(engine, prompt(321))
    with pytest.raises(ConfigError, match="needs"):
        LocalEngine(llama_dir, weights="int8", cache_bytes=block - 1)


def test_a_cache_in_int8_holds_more(llama_dir: Path) -> None:
    size = 8 * 4 * 2 * 2 * 64 * 16 * 2
    plain, small = (
        LocalEngine(llama_dir, weights="int8", cache_bytes=size, cache_type=kind) for kind in ("bf16", "int8")
    )
    assert (plain.max_context, small.max_context) == (8 * 64, 12 * 64)  # a scale of four bytes for 16 numbers
    ours, theirs = ask(small, prompt(300)), ask(plain, prompt(300))
    assert ours.logprobs is not None
    assert theirs.logprobs is not None
    assert ours.logprobs[0] == pytest.approx(theirs.logprobs[0], abs=0.05)
    assert ask(small, prompt(300)).logprobs == ours.logprobs
    with pytest.raises(ConfigError, match="cache_type"):
        LocalEngine(llama_dir, weights="float32", cache_type="int8")


def test_a_model_that_the_kernels_do_not_know(tmp_path: Path, tiny) -> None:
    directory = tiny.save_tiny_model(tmp_path / "model", head_dim=24)
    assert LocalEngine(directory).weights == "float32"
    with pytest.raises(ConfigError, match="do not fill vectors"):
        LocalEngine(directory, weights="int4")


@pytest.mark.parametrize("pattern", [("kda", "kda", "gqa"), ("kda",)])
def test_hybrids_reuse_the_past_too(tmp_path: Path, tiny, pattern) -> None:
    settings = SHAPE | {"pattern": pattern, "num_layers": 3}
    model = tiny.save_tiny_model(tmp_path / "model", seed=3, **settings)
    engine = LocalEngine(model, weights="int8")
    first = ask(engine, prompt(300))
    turn = [*prompt(300), *first.ids, *prompt(40)]
    second = ask(engine, turn)
    assert second.usage.cached_tokens == 256
    fresh = ask(LocalEngine(model, weights="int8"), turn)
    assert (second.ids, second.logprobs) == (fresh.ids, fresh.logprobs)
    engine.update_weights({})
    assert ask(engine, turn).usage.cached_tokens == 0


def test_guesses_change_no_answer(llama_dir: Path, tmp_path: Path, tiny) -> None:
    draft = tiny.save_tiny_model(tmp_path / "draft", seed=4, **SHAPE | {"num_layers": 1})
    repeated = [*prompt(30) * 6, *prompt(4)]
    params = [
        GREEDY, SamplingParams(temperature=0.8, max_tokens=60, seed=3, logprobs=1), SamplingParams(temperature=0.0, stop=("a",)),
    ]  # fmt: skip
    requests = [Request(id=str(n), prompt_ids=repeated[n:], params=one) for n, one in enumerate(params)]
    plain = LocalEngine(llama_dir, speculation="off").generate(requests)
    for settings in ({}, {"speculation": "lookup"}, {"draft_dir": draft}):
        answers = LocalEngine(llama_dir, **settings).generate(requests)
        assert [(a.ids, a.logprobs, a.finish_reason) for a in answers] == [
            (a.ids, a.logprobs, a.finish_reason) for a in plain
        ]


def test_drafts_that_do_not_fit(llama_dir: Path, tmp_path: Path, tiny) -> None:
    unknown = tiny.save_tiny_model(tmp_path / "unknown", head_dim=24)
    with pytest.raises(ConfigError, match="does not run natively"):
        LocalEngine(llama_dir, draft_dir=unknown)
    with pytest.raises(ConfigError, match="leave one"):
        LocalEngine(llama_dir, draft_dir=llama_dir, speculation="off")
    with pytest.raises(ConfigError, match="run by PyTorch"):
        LocalEngine(unknown, draft_dir=llama_dir)
    with pytest.raises(ConfigError, match="auto, off, lookup or own"):
        LocalEngine(llama_dir, speculation="medusa")  # type: ignore[arg-type]
    other = tiny.save_tiny_model(tmp_path / "other", **SHAPE)
    file = other / "tokenizer.json"
    tokenizer = json.loads(file.read_text(encoding="utf-8"))
    tokenizer["model"]["ignore_merges"] = not tokenizer["model"].get("ignore_merges")
    file.write_text(json.dumps(tokenizer), encoding="utf-8")
    with pytest.raises(ConfigError, match="another tokeniser"):
        LocalEngine(llama_dir, draft_dir=other)
