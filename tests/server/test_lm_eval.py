"""lm-eval's `local-completions` against this server gives the numbers of its `hf` backend on the same weights."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

TEXTS = [
    ("The tea house opens at", " nine in the morning."),
    ("The tea house opens at", " zzz qqq."),
    ("안녕하세요, 한옥", "이에요."),
    ("a", "b"),
    ("Once upon a time there was", " a house with one courtyard and many rooms, and nobody who lived in it."),
]


@pytest.fixture(scope="module")
def backends(llama_dir: Path, serve_model: Any) -> Iterator[tuple[Any, Any, Any]]:
    """`hf`, `local-completions`, and what makes a request of them."""
    pytest.importorskip("lm_eval", reason="lm-eval is not installed")
    hf = importlib.import_module("lm_eval.models.huggingface")
    api = importlib.import_module("lm_eval.models.openai_completions")
    instance = importlib.import_module("lm_eval.api.instance").Instance
    with serve_model(llama_dir, weights="float32") as server:
        yield (
            hf.HFLM(pretrained=str(llama_dir), device="cpu", dtype="float32", batch_size=1),
            api.LocalCompletionsAPI(
                base_url=f"{server.url}/v1/completions", model=server.model, tokenizer=str(llama_dir), max_length=512,
                tokenizer_backend="huggingface", batch_size=4, num_concurrent=1, tokenized_requests=True,
            ),
            instance,
        )  # fmt: skip


def requests(instance: Any, kind: str, arguments: list[tuple[Any, ...]]) -> list[Any]:
    return [
        instance(request_type=kind, doc={}, arguments=one, idx=place, metadata=("t", place, 1))
        for place, one in enumerate(arguments)
    ]


@pytest.mark.filterwarnings("ignore")
def test_loglikelihoods_are_those_of_the_hf_backend(backends: tuple[Any, Any, Any]) -> None:
    hf, api, instance = backends
    theirs = hf.loglikelihood(requests(instance, "loglikelihood", list(TEXTS)))
    ours = api.loglikelihood(requests(instance, "loglikelihood", list(TEXTS)))
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in theirs]
    for mine, his in zip(ours, theirs, strict=True):
        assert mine[0] == pytest.approx(his[0], abs=2e-3)


@pytest.mark.filterwarnings("ignore")
def test_rolling_ones_too(backends: tuple[Any, Any, Any]) -> None:
    hf, api, instance = backends
    whole = [(context + rest,) for context, rest in TEXTS]
    theirs = hf.loglikelihood_rolling(requests(instance, "loglikelihood_rolling", whole))
    ours = api.loglikelihood_rolling(requests(instance, "loglikelihood_rolling", whole))
    assert ours == pytest.approx(theirs, abs=5e-3)
