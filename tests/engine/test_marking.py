"""The watermark in the sampler: where answers are marked, that nothing else changes, and that it can be found."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hanok.engine.api import Request, SamplingParams, Structure
from hanok.engine.generation import Generation
from hanok.engine.generator import LocalEngine
from hanok.engine.marking import Mark, Marker
from hanok.engine.sampler import Choice, Draw, choose, choose_plain
from hanok.engine.speculation.draft import DraftModel
from hanok.engine.speculation.lookup import PromptLookup
from hanok.engine.speculation.pace import Pace
from hanok.engine.speculation.speculator import Speculator
from hanok.kernels.native import native_available
from hanok.tokens.watermark import Watermark

MARK = Watermark(key=bytes(range(32)), key_id="wm_test", gamma=0.25, delta=3.0, width=2)
CALL, END, FENCE, TICKS, LETTER = 4, 5, 80, 81, 82


class Pieces:
    """A tokeniser of letters, with a call's control tokens, a whole fence and two backticks."""

    stop_ids = ()
    special = {"<tool_call>": CALL, "</tool_call>": END}  # noqa: RUF012

    def token_bytes(self, token: int) -> bytes:
        return {FENCE: b"```py\n", TICKS: b"``"}.get(token, chr(48 + token).encode())

    def stream_decoder(self) -> SimpleNamespace:
        return SimpleNamespace(push=lambda token: chr(48 + token))


def marker(*tokens: int) -> Marker:
    made = Marker(MARK, Pieces())  # type: ignore[arg-type]
    for token in tokens:
        made.push(token)
    return made


def test_the_first_tokens_and_a_context_that_comes_again_are_not_marked() -> None:
    assert marker().mark(()) is None
    assert marker(7).mark(()) is None
    assert marker(7, 8).mark(()) == Mark(MARK, (7, 8))
    assert marker(7, 8, 9).mark(()) == Mark(MARK, (8, 9))
    assert marker(7, 8, 9, 7, 8).mark(()) is None


@pytest.mark.parametrize(
    ("tokens", "marked"),
    [
        ((7, FENCE, 9, 10), False),
        ((7, FENCE, 9, 10, FENCE, 11), True),
        ((7, TICKS, TICKS, 10), False),  # four backticks, in two tokens: one fence
        ((7, TICKS, 9, 10), True),  # two: no fence
        ((7, 9, TICKS), False),  # one may be under way
        ((7, CALL, 9, 10), False),
        ((7, CALL, 9, END, 10), True),
    ],
)
def test_code_and_calls_are_left_alone(tokens: tuple[int, ...], marked: bool) -> None:
    assert (marker(*tokens).mark(()) is not None) == marked


@settings(max_examples=200)
@given(st.lists(st.sampled_from([7, 8, 9, CALL, END, FENCE, TICKS]), max_size=14), st.data())
def test_behind_guesses_it_is_as_if_they_had_come(tokens: list[int], data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(tokens)))
    assert marker(*tokens[:cut]).mark(tokens[cut:]) == marker(*tokens).mark(())


@pytest.mark.parametrize("logprobs", [None, 3])
def test_green_tokens_get_delta_and_reports_do_not_show_it(logprobs: int | None) -> None:
    logits_BV = torch.randn(4, 300, generator=torch.Generator().manual_seed(1)) * 3
    params = SamplingParams(
        temperature=0.8, top_p=0.9, repetition_penalty=1.1, logprobs=logprobs, watermark=MARK
    )
    plain = [Draw(params, 5, b, (1, 2), (3, 4)) for b in range(4)]
    marks = [Mark(MARK, (3, 4)), None, Mark(MARK, (9, 9)), None]
    marked = [draw._replace(mark=mark) for draw, mark in zip(plain, marks, strict=True)]
    by_hand_BV = logits_BV.clone()
    for b in (0, 2):
        mark = marks[b]
        assert mark is not None
        by_hand_BV[b] += MARK.delta * torch.from_numpy(MARK.colours.weights(mark.context, 300))
    chosen, expected = choose(logits_BV.clone(), marked), choose_plain(by_hand_BV, plain)
    unmarked = choose_plain(logits_BV, [draw._replace(params=replace(params, logprobs=3)) for draw in plain])
    assert [one.token for one in chosen] == [one.token for one in expected]  # type: ignore[union-attr]
    if logprobs is not None:
        for one, other in zip(chosen, unmarked, strict=True):
            assert isinstance(one, Choice)
            assert isinstance(other, Choice)
            assert one.top is not None
            assert other.top is not None
            assert dict(one.top) == pytest.approx(dict(other.top))
        logprobs_V = logits_BV[0].double().log_softmax(-1)
        first = chosen[0]
        assert isinstance(first, Choice)
        assert first.logprob == pytest.approx(float(logprobs_V[first.token]))


def test_greedy_choices_are_not_marked() -> None:
    logits_BV = torch.tensor([[0.0, 0.1, 0.2, 0.15] * 20])
    params = SamplingParams(temperature=0.0, watermark=MARK)
    (chosen,) = choose(logits_BV, [Draw(params, 1, 0, (), (1, 2), mark=Mark(MARK, (1, 2)))])
    assert isinstance(chosen, Choice)
    assert chosen.token == 2


class AlwaysGuess(Pace):
    def lengths(self, offers, rows, **_costs):
        return [min(offer.limit, 6) for offer in offers]

    def rest(self, rows, cost):
        return 0


@pytest.mark.skipif(not native_available(), reason="the native kernels are not built")
@pytest.mark.parametrize("kind", ["full", "recurrent"])
def test_guesses_change_no_marked_answer(small: ModuleType, kind: str) -> None:
    decoder = small.decoder_of(kind)

    def asked() -> list[Generation]:
        return [
            small.generation_of(
                number, [3, 9, 3, 9, 3, 9, number], 60, tokenizer=Pieces(), temperature=0.7, watermark=MARK,
                logit_bias={7: 30.0, 8: 30.0, 9: 30.0} if number else {},
            )
            for number in range(3)
        ]  # fmt: skip

    def drawn(speculator: Speculator | None) -> list[list[int]]:
        generations = asked()
        scheduler = small.scheduler_of(decoder, 60, speculator=speculator)
        small.run(scheduler, *generations)
        assert speculator is None or scheduler.counters.accepted_tokens
        return [generation.ids for generation in generations]

    native = small.native_of(decoder, 64, slots=16)
    if not native.spares:
        native.spares = list(range(16))
    same = DraftModel(native, vocabulary=decoder.config.vocab_size)
    plain = drawn(None)
    for draft, lookup in ((same, None), (None, PromptLookup())):
        assert drawn(Speculator(lookup=lookup, draft=draft, pace=AlwaysGuess(recurrent=False))) == plain


def z_of(ids: tuple[int, ...], watermark: Watermark) -> float:
    """Counted here by hand: the first token of each context."""
    seen, green, tested = set(), 0, 0
    for place in range(watermark.width, len(ids)):
        context = ids[place - watermark.width : place]
        if context not in seen:
            seen.add(context)
            tested += 1
            green += bool(watermark.colours.weights(context, ids[place] + 1)[ids[place]])
    return (green - watermark.gamma * tested) / math.sqrt(tested * watermark.gamma * (1 - watermark.gamma))


@pytest.fixture(scope="module", params=["float32", "native"])
def marking_engine(request: pytest.FixtureRequest, model_dir: Path):
    if request.param == "native" and not native_available():
        pytest.skip("the native kernels are not built")
    engine = LocalEngine(model_dir, weights="float32" if request.param == "float32" else "int8")
    yield engine
    engine.close()


def answers(engine: LocalEngine, **params: object) -> list[tuple[int, ...]]:
    asked = [
        Request(
            id=str(seed), prompt_ids=[60, 61, 62],
            params=SamplingParams(**{"max_tokens": 130, "seed": seed, "ignore_eos": True, **params}),  # type: ignore[arg-type]
        )
        for seed in range(2)
    ]  # fmt: skip
    return [one.ids for one in engine.generate(asked)]


def test_it_is_found_in_answers_and_only_there(marking_engine: LocalEngine) -> None:
    marked, plain = answers(marking_engine, watermark=MARK), answers(marking_engine)
    other = replace(MARK, key=bytes(32))
    for ids, unmarked in zip(marked, plain, strict=True):
        assert z_of(ids, MARK) > 5
        assert abs(z_of(ids, other)) < 4
        assert abs(z_of(unmarked, MARK)) < 4
    assert answers(marking_engine, watermark=MARK) == marked  # the same seeds, the same tokens


def test_greedy_and_structured_answers_are_those_without_it(marking_engine: LocalEngine) -> None:
    for params in (
        {"temperature": 0.0},
        {"structure": Structure(kind="regex", value="[a-z]{20,30}"), "max_tokens": 40, "ignore_eos": False},
    ):
        assert answers(marking_engine, watermark=MARK, **params) == answers(marking_engine, **params)
