"""What a request may ask for beside a token: the prompt's own logprobs, banned words, the best of several samples."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import ModuleType

import pytest

from hanok.engine.api import Completion, Request, SamplingParams, Usage
from hanok.engine.generator import LocalEngine
from hanok.engine.samples import expand, gather, generate_samples
from hanok.engine.words import BannedWords
from hanok.errors import ConfigError
from hanok.kernels.native import native_available

LLAMA = {"pattern": ("gqa",), "num_heads": 4, "num_kv_heads": 2, "hidden_size": 64, "initializer_range": 0.15}
GREEDY = SamplingParams(temperature=0.0, max_tokens=8, ignore_eos=True)


@pytest.fixture(
    scope="module",
    params=[
        "float32",
        pytest.param("int8", marks=pytest.mark.skipif(not native_available(), reason="not built")),
    ],
)
def engines(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny: ModuleType
) -> LocalEngine:
    path = tiny.save_tiny_model(tmp_path_factory.mktemp("llama") / "model", seed=3, **LLAMA)
    return LocalEngine(path, weights=request.param)


def prompt(length: int, step: int = 7) -> list[int]:
    return [10 + step * place % 250 for place in range(length)]


def ask(engine: LocalEngine, ids: list[int], params: SamplingParams) -> Completion:
    return engine.generate([Request(id="one", prompt_ids=ids, params=params)])[0]


@pytest.mark.parametrize("length", [1, 2, 64, 65, 200, 700])
def test_prompt_logprobs_are_scores(engines: LocalEngine, length: int) -> None:
    params = dataclasses.replace(GREEDY, prompt_logprobs=3)
    for _ in range(2):  # the second time the prefix cache has it
        found = ask(engines, prompt(length), params)
        assert found.ids == ask(engines, prompt(length), GREEDY).ids
        assert found.prompt_logprobs is not None
        assert found.prompt_top_logprobs is not None
        assert found.prompt_logprobs[0] is found.prompt_top_logprobs[0] is None
        assert list(found.prompt_logprobs[1:]) == pytest.approx(engines.score(prompt(length)), abs=1e-4)
        for logprob, top in zip(found.prompt_logprobs[1:], found.prompt_top_logprobs[1:], strict=True):
            assert top is not None
            assert logprob is not None
            assert len(top) == 3
            assert max(top.values()) >= logprob - 1e-6
    assert ask(engines, prompt(length), GREEDY).prompt_logprobs is None


def test_prompt_logprobs_in_company_are_the_same_bits(engines: LocalEngine) -> None:
    params = dataclasses.replace(GREEDY, prompt_logprobs=0)
    requests = [
        Request(id=str(n), prompt_ids=prompt(n, step), params=params)
        for n, step in ((5, 3), (1, 3), (130, 3), (700, 11), (64, 7))
    ]
    together = engines.generate([*requests, *(Request(id="x", prompt_ids=prompt(n)) for n in (9, 300))])[:5]
    assert [one.prompt_logprobs for one in together] == [
        engines.generate([one])[0].prompt_logprobs for one in requests
    ]


@pytest.mark.skipif(not native_available(), reason="the native kernels are not built")
def test_prompt_logprobs_survive_a_cache_that_is_too_small(tmp_path: Path, tiny: ModuleType) -> None:
    path = tiny.save_tiny_model(tmp_path / "model", seed=3, **LLAMA)
    small = LocalEngine(path, weights="int8", cache_bytes=9 * 4 * 2 * 2 * 64 * 16 * 2)
    params = dataclasses.replace(GREEDY, prompt_logprobs=1, max_tokens=150)
    requests = [Request(id=str(n), prompt_ids=prompt(250, n), params=params) for n in (3, 7, 11)]
    for found, request in zip(small.generate(requests), requests, strict=True):
        (alone,) = small.generate([request])
        assert found.prompt_logprobs == alone.prompt_logprobs
        assert found.ids == alone.ids
    small.close()


def test_a_banned_word_never_comes(engines: LocalEngine) -> None:
    free = ask(engines, prompt(20), GREEDY)
    for place in (0, 3):
        word = engines.tokenizer.decode(free.ids[place : place + 1])
        if not word.strip() or "�" in word:
            continue
        found = ask(engines, prompt(20), dataclasses.replace(GREEDY, bad_words=(word,)))
        assert free.ids[place] not in found.ids


def test_words_of_several_tokens_are_banned_at_their_end(engines: LocalEngine) -> None:
    tokenizer = engines.tokenizer
    word = tokenizer.encode("한옥")
    assert len(word) > 2
    spaced, single = tokenizer.encode(" ab"), tokenizer.encode("x")[0]
    words = BannedWords(tokenizer, ["한옥", "ab ", "x"])
    assert words.after([]) == (single,)
    assert words.after(word[:-2]) == (single,)
    assert words.after([5, *word[:-1]]) == (single, word[-1])
    assert set(words.after(spaced[:-1])) == {single, spaced[-1]}
    assert words.after(word) == (single,)


def test_the_best_of_several(engines: LocalEngine) -> None:
    params = SamplingParams(max_tokens=6, ignore_eos=True, seed=4, n=2, best_of=5)
    request = Request(id="r", prompt_ids=prompt(140), params=params)
    each = engines.generate(expand(request))
    assert len({one.ids for one in each}) > 1
    means = [sum(one.logprobs or ()) / 6 for one in each]
    best = generate_samples(engines, request)
    order = sorted(range(5), key=lambda n: -means[n])[:2]
    assert [one.ids for one in best] == [each[n].ids for n in order]
    assert best[0].logprobs is None
    if engines.weights != "float32":
        assert best[0].usage.cached_tokens == 128  # the prompt was read once
    unranked = dataclasses.replace(request, params=dataclasses.replace(params, best_of=None))
    assert [one.ids for one in generate_samples(engines, unranked)] == [one.ids for one in each[:2]]


def test_an_unseeded_request_draws_one_seed_for_all_samples() -> None:
    requests = expand(Request(id="r", prompt_ids=[1], params=SamplingParams(n=3)))
    assert len({one.params.seed for one in requests}) == 1
    assert [one.sample_index for one in requests] == [0, 1, 2]
    assert [one.id for one in requests] == ["r-0", "r-1", "r-2"]


def test_an_empty_answer_is_the_last_choice() -> None:
    request = Request(id="r", prompt_ids=[1], params=SamplingParams(n=1, best_of=2, logprobs=0))
    usage = Usage(prompt_tokens=1, completion_tokens=0)
    empty = Completion(ids=(), finish_reason="stop", usage=usage, logprobs=())
    said = Completion(ids=(7,), finish_reason="stop", usage=usage, logprobs=(-9.0,))
    assert gather(request, [empty, said]) == [said]


@pytest.mark.parametrize(
    "fields", [{"best_of": 1, "n": 2}, {"bad_words": (" ",)}, {"prompt_logprobs": 257}, {"logit_bias": {1: float("nan")}}]
)  # fmt: skip
def test_settings_have_bounds(fields: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(fields))):
        SamplingParams(**fields)
