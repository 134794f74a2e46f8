"""Beam search against `transformers` on a small Llama, and against the whole tree of a short answer."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch

from hanok.engine.api import Engine
from hanok.engine.beam import beam_search
from hanok.engine.generator import LocalEngine
from hanok.errors import ConfigError

LLAMA = {"pattern": ("gqa",), "num_heads": 4, "num_kv_heads": 2, "hidden_size": 64, "initializer_range": 0.2}


@pytest.fixture(scope="module")
def llama_dir(tmp_path_factory: pytest.TempPathFactory, tiny) -> Path:
    return tiny.save_tiny_model(tmp_path_factory.mktemp("llama") / "model", seed=5, **LLAMA)


@pytest.fixture(scope="module")
def exact(llama_dir: Path) -> LocalEngine:
    return LocalEngine(llama_dir, weights="float32")


def prompt(seed: int) -> list[int]:
    return [10 + (seed * 37 + 11 * place) % 250 for place in range(9 + seed)]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.5])
@pytest.mark.parametrize("width", [2, 3, 5])
def test_sequences_and_scores_of_transformers(
    llama_dir: Path, exact: LocalEngine, width: int, length_penalty: float
) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(llama_dir, dtype=torch.float32).eval()
    early = 0
    for seed in range(3):
        ids = torch.tensor([prompt(seed)])
        free, likely = beam_search(exact, prompt(seed), 3, 8), beam_search(exact, prompt(seed), 8, 1)
        stops = (free[0].ids[4], likely[1].ids[0])  # so that hypotheses do end early
        found = beam_search(exact, prompt(seed), width, 12, length_penalty, stops)
        expected = theirs.generate(
            ids, attention_mask=torch.ones_like(ids), num_beams=width, num_return_sequences=width, do_sample=False,
            max_new_tokens=12, length_penalty=length_penalty, eos_token_id=list(stops), pad_token_id=0,
            early_stopping=False, return_dict_in_generate=True, output_scores=True,
        )  # fmt: skip
        reference = [_cut(row.tolist(), stops) for row in expected.sequences[:, ids.shape[1] :]]
        assert [one.score for one in found] == pytest.approx(expected.sequences_scores.tolist(), abs=2e-4)
        assert [one.ids for one in found] == reference
        early += sum(len(one.ids) < 12 for one in found)
    assert early or length_penalty  # which favours long ones


def _cut(ids: list[int], stops: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(itertools.takewhile(lambda token: token not in stops, ids))


def test_a_wide_search_finds_the_best_of_all(exact: Engine) -> None:
    """Two tokens: all 128 first ones are continued, so nothing is missed but what begins with an improbable one."""
    best = beam_search(exact, prompt(1), 128, 2)[0]
    first = beam_search(exact, prompt(1), 128, 1)
    both = [
        (one.logprob + next_.logprob, (*one.ids, *next_.ids))
        for one in first[:40]
        for next_ in beam_search(exact, [*prompt(1), *one.ids], 1, 1)
    ]
    assert (best.logprob, best.ids) == (pytest.approx(max(both)[0], abs=1e-5), max(both)[1])
    assert best.score == best.logprob / 2


def test_the_kernels_search_alike(llama_dir: Path, exact: LocalEngine) -> None:
    fast = LocalEngine(llama_dir)
    ours, plain = beam_search(fast, prompt(2), 4, 10), beam_search(exact, prompt(2), 4, 10)
    assert ours[0].score == pytest.approx(plain[0].score, abs=0.05)
    assert sum(fast.score([*prompt(2), *ours[0].ids])[len(prompt(2)) - 1 :]) == pytest.approx(
        ours[0].logprob, abs=1e-3
    )


@pytest.mark.parametrize(("width", "stops"), [(0, ()), (129, ()), (100, (1, 2))])
def test_widths_have_bounds(exact: Engine, width: int, stops: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="width"):
        beam_search(exact, [1], width, 4, 1.0, stops)
