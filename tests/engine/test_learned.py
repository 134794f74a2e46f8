"""Decoding heads in the engine: each token's temperature and top-p are what the heads say of its hidden vector."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from hanok.engine.api import Completion, Delta, Request, SamplingParams
from hanok.engine.generator import LocalEngine
from hanok.engine.terminal import chat_terminal, with_laws
from hanok.errors import CheckpointError, ConfigError, InputError
from hanok.kernels.native import native_available
from hanok.models.checkpoint import load_model
from hanok.models.checkpoint.decoding import HEADS_FILE, load_heads, save_heads
from hanok.models.decoding import DecodingHeads

SHAPE = {"pattern": ("gqa",), "num_heads": 4, "num_kv_heads": 2, "hidden_size": 64, "initializer_range": 0.15}
LEARNED = SamplingParams(max_tokens=10, ignore_eos=True, seed=3)
KINDS = [
    "float32",
    pytest.param("bf16", marks=pytest.mark.skipif(not native_available(), reason="not built")),
]


def lively_heads(width: int) -> DecodingHeads:
    """Random, so that each token gets numbers of its own."""
    heads = DecodingHeads(width)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in heads.parameters():
            parameter.normal_(std=0.08, generator=generator)
    return heads


@pytest.fixture(scope="module")
def with_heads(tmp_path_factory: pytest.TempPathFactory, tiny) -> Path:
    directory = tiny.save_tiny_model(tmp_path_factory.mktemp("learned") / "model", seed=3, **SHAPE)
    save_heads(lively_heads(64), directory, backbone="")
    return directory


@pytest.fixture(scope="module", params=KINDS)
def engine(request: pytest.FixtureRequest, with_heads: Path) -> Iterator[LocalEngine]:
    made = LocalEngine(with_heads, weights=request.param)
    yield made
    made.close()


def prompt(length: int) -> list[int]:
    return [10 + 7 * place % 250 for place in range(length)]


def ask(engine: LocalEngine, length: int, params: SamplingParams = LEARNED) -> Completion:
    return engine.generate([Request(id="one", prompt_ids=prompt(length), params=params)])[0]


@pytest.mark.parametrize("scale", [1.0, 1.5])
def test_laws_are_those_of_the_hidden_vectors(engine: LocalEngine, with_heads: Path, scale: float) -> None:
    answer = ask(engine, 70, dataclasses.replace(LEARNED, temperature_scale=scale))
    assert answer.decoding is not None
    assert len(answer.decoding) == len(answer.ids) == 10
    decoder = load_model(with_heads)
    heads = load_heads(with_heads, width=64)
    assert heads is not None
    ids = torch.tensor([*prompt(70), *answer.ids])
    with torch.no_grad():
        hidden, _ = decoder(ids[:-1], torch.tensor([0, len(ids) - 1], dtype=torch.int32))
        temperature, top_p = heads.laws(hidden[69:], decoder.logits(hidden[69:]))
    expected = torch.stack([scale * temperature, top_p], dim=1)
    close = 1e-4 if engine.weights == "float32" else 0.05
    assert torch.allclose(torch.tensor(answer.decoding), expected, atol=close)
    assert expected.std(0).min() > 0.01  # they differ from token to token


def test_the_first_token_by_hand(engine: LocalEngine) -> None:
    """A request that sets the same two numbers by itself gets the same token."""
    for seed in range(6):
        learned = SamplingParams(max_tokens=1, ignore_eos=True, seed=seed)
        answer = ask(engine, 33, learned)
        assert answer.decoding is not None
        temperature, top_p = answer.decoding[0]
        by_hand = ask(engine, 33, dataclasses.replace(learned, temperature=temperature, top_p=top_p))
        assert (by_hand.ids, by_hand.decoding) == (answer.ids, None)


def test_a_scale_is_of_the_temperature_alone(engine: LocalEngine) -> None:
    plain = dataclasses.replace(LEARNED, max_tokens=1)
    for seed in range(6):
        learned = dataclasses.replace(plain, seed=seed)
        answer = ask(engine, 33, learned)
        assert answer.decoding is not None
        temperature, top_p = answer.decoding[0]
        bolder = ask(engine, 33, dataclasses.replace(learned, temperature_scale=1.5))
        assert bolder.decoding == ((1.5 * temperature, top_p),)
        by_hand = dataclasses.replace(learned, temperature=1.5 * temperature, top_p=top_p)
        assert ask(engine, 33, by_hand).ids == bolder.ids
        coldest = ask(engine, 33, dataclasses.replace(learned, temperature_scale=1e-6))
        assert coldest.decoding == ((0.01, top_p),)
        assert coldest.ids == ask(engine, 33, dataclasses.replace(learned, temperature=0.0)).ids


@pytest.mark.parametrize(
    "settings", [{"temperature": 0.7}, {"top_p": 0.9}, {"decoding": "fixed"}, {"temperature": 0.0}]
)
def test_a_scale_of_what_no_heads_choose_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"temperature_scale = 1\.5 where no decoding heads choose"):
        SamplingParams(temperature_scale=1.5, **settings)
    assert SamplingParams(temperature_scale=1.0, **settings)  # which changes nothing
    with pytest.raises(ConfigError, match="above 0 and at most 10"):
        SamplingParams(temperature_scale=0.0)


def test_company_changes_nothing(engine: LocalEngine) -> None:
    greedy = SamplingParams(max_tokens=10, ignore_eos=True, temperature=0.0)
    requests = [
        Request(id=str(n), prompt_ids=prompt(n), params=params)
        for n, params in (
            (1, LEARNED),
            (30, greedy),
            (64, LEARNED),
            (65, LEARNED),
            (130, greedy),
            (300, LEARNED),
        )
    ]
    together = engine.generate(requests)
    alone = [engine.generate([request])[0] for request in requests]
    assert [(c.ids, c.decoding) for c in together] == [(c.ids, c.decoding) for c in alone]
    assert [c.decoding is None for c in together] == [False, True, False, False, True, False]


def test_streams_carry_them(engine: LocalEngine) -> None:
    async def read() -> list[Delta]:
        return [
            delta async for delta in engine.stream(Request(id="s", prompt_ids=prompt(20), params=LEARNED))
        ]

    deltas = asyncio.run(read())
    answer = ask(engine, 20)
    assert tuple(law for delta in deltas for law in delta.decoding or ()) == answer.decoding
    assert all(len(delta.decoding or ()) == len(delta.ids) for delta in deltas)


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(max_tokens=8, temperature=0.0, ignore_eos=True, seed=1),
        SamplingParams(max_tokens=8, temperature=0.7, ignore_eos=True, seed=1),
        SamplingParams(max_tokens=8, top_p=0.9, ignore_eos=True, seed=1),
        SamplingParams(max_tokens=8, decoding="fixed", ignore_eos=True, seed=1),
    ],
)
def test_settings_by_hand_are_kept(
    engine: LocalEngine, with_heads: Path, tmp_path: Path, params: SamplingParams
) -> None:
    """A request that sets one of the two gets what a model without heads gives."""
    plain = Path(shutil.copytree(with_heads, tmp_path / "plain"))
    (plain / HEADS_FILE).unlink()
    without = LocalEngine(plain, weights=engine.weights)  # pyright: ignore[reportArgumentType]
    assert ask(engine, 40, params) == ask(without, 40, params)
    assert not without.has_heads
    assert ask(without, 40).decoding is None
    with pytest.raises(InputError, match="without decoding heads"):
        ask(without, 40, dataclasses.replace(LEARNED, temperature_scale=1.5))
    without.close()


def test_stop_and_logprobs(engine: LocalEngine) -> None:
    answer = ask(engine, 40)
    last = answer.ids[4]
    stopped = ask(
        engine, 40, SamplingParams(max_tokens=10, ignore_eos=True, seed=3, stop_ids=(last,), logprobs=0)
    )
    place = answer.ids.index(last)
    assert stopped.finish_reason == "stop"
    assert stopped.ids == answer.ids[:place]
    assert answer.decoding is not None
    assert stopped.decoding == answer.decoding[:place]
    assert stopped.logprobs is not None
    assert len(stopped.logprobs) == place


def test_heads_of_another_model_are_refused(with_heads: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(with_heads, tmp_path / "other"))
    save_heads(lively_heads(48), other, backbone="")
    with pytest.raises(CheckpointError, match="heads for hidden vectors of 48 numbers, the model's have 64"):
        LocalEngine(other)
    with pytest.raises(ConfigError, match="decoding"):
        SamplingParams(decoding="learned")  # pyright: ignore[reportArgumentType]


def test_a_conversation_shows_them(with_heads: Path, tmp_path: Path) -> None:
    cold = Path(shutil.copytree(with_heads, tmp_path / "cold"))
    heads = lively_heads(64)
    with torch.no_grad():
        heads.get_parameter("temp_head.mlp.2.bias").fill_(-200.0)
    save_heads(heads, cold, backbone="")

    def piped(**options: Any) -> str:
        target = io.StringIO()
        chat_terminal(
            cold, max_tokens=6, source=io.StringIO("roof\n"), target=target, weights="float32", **options
        )
        return target.getvalue()

    shown = piped(show_decoding=True)
    notes = re.findall(r"⟨(\S+) (\S+)⟩", shown)
    assert len(notes) == 6
    assert {float(temperature) for temperature, _ in notes} == {0.01}
    assert re.sub(r"⟨[^⟩]*⟩", "", shown) == piped() == piped(temperature=0.0)
    assert with_laws("a", ((0.2, 0.9),)) != with_laws("a", ((1.4, 0.9),))
    hotter = re.findall(r"⟨(\S+) \S+⟩", piped(show_decoding=True, temperature_scale=10.0))
    assert {float(temperature) for temperature in hotter} == {0.1}
    with pytest.raises(ConfigError, match="nothing to show"):
        piped(show_decoding=True, temperature=0.5)
    with pytest.raises(ConfigError, match="no decoding heads choose"):
        piped(temperature_scale=2.0, temperature=0.5)
