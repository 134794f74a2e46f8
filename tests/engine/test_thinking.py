"""Thinking in chunks: the budget and the carry of the paper against a scripted engine, then the real one."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from pathlib import Path

import pytest

from hanok.engine.api import Completion, Delta, Request, SamplingParams, Usage
from hanok.engine.generator import LocalEngine
from hanok.engine.terminal import chat_terminal
from hanok.engine.text import chat_prompt
from hanok.engine.thinking import Chunk, Delethink, stream_thinking, think
from hanok.errors import ConfigError

QUERY = (7, 8, 9)
STOP = 1


class Scripted:
    """Counts upwards from 1,000 through all requests and stops after `length` ids."""

    def __init__(self, length: int, *, context: int = 10**9) -> None:
        self.left, self.next, self.context = length, 1000, context
        self.seen: list[Request] = []

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        return [self._complete(request) for request in requests]

    async def stream(self, request: Request) -> AsyncIterator[Delta]:
        done = self._complete(request)
        for number in done.ids:
            yield Delta(ids=(number,))
        yield Delta(ids=(), finish_reason=done.finish_reason, usage=done.usage)

    def _complete(self, request: Request) -> Completion:
        self.seen.append(request)
        assert request.params.max_tokens is not None
        room = min(request.params.max_tokens, self.context - len(request.prompt_ids))
        count = min(room, self.left)
        ids = tuple(range(self.next, self.next + count))
        self.next, self.left = self.next + count, self.left - count
        ended = count < room
        return Completion(
            ids=ids, finish_reason="stop" if ended else "length",
            usage=Usage(prompt_tokens=len(request.prompt_ids), completion_tokens=count),
            logprobs=tuple(-0.5 for _ in ids), stop_id=STOP if ended else None, stop_logprob=-0.1 if ended else None,
        )  # fmt: skip


def asked(**params: object) -> Request:
    return Request(id="a", prompt_ids=QUERY, params=SamplingParams(seed=5, **params))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("chunk", "carry", "chunks"), [(8192, 4096, 5), (300, 150, 3), (10, 3, 7), (4, 1, 1)]
)
def test_the_budget_of_the_paper(chunk: int, carry: int, chunks: int) -> None:
    plan = Delethink(chunk=chunk, carry=carry, chunks=chunks)
    (trace,) = think(Scripted(10**9), [asked()], plan)  # type: ignore[arg-type]
    assert len(trace.completion.ids) == plan.budget == chunk + (chunks - 1) * (chunk - carry)
    assert trace.completion.finish_reason == "length"
    assert trace.peak_context == len(QUERY) + chunk - 1  # the last token is drawn, not read
    assert [len(one.completion.ids) for one in trace.chunks] == [chunk, *[chunk - carry] * (chunks - 1)]


def test_the_carry_is_the_beginning_and_the_end() -> None:
    engine = Scripted(10**9)
    plan = Delethink(chunk=1000, carry=400, chunks=3)
    assert plan.beginning == 100
    think(engine, [asked()], plan)  # type: ignore[arg-type]
    first, second, third = (tuple(request.prompt_ids) for request in engine.seen)
    assert first == QUERY
    assert second == (*QUERY, *range(1000, 1100), *range(1700, 2000))
    assert third == (*QUERY, *range(1000, 1100), *range(2300, 2600))
    assert len({request.params.seed for request in engine.seen}) == 3
    assert engine.seen[0].params.seed == 5


def test_a_stop_ends_it_and_the_trace_is_one_answer() -> None:
    plan = Delethink(chunk=10, carry=4, chunks=9, head=0)
    (trace,) = think(Scripted(19), [asked()], plan)  # type: ignore[arg-type]
    done = trace.completion
    assert (done.ids, done.finish_reason, done.stop_id) == (tuple(range(1000, 1019)), "stop", STOP)
    assert done.logprobs == (-0.5,) * 19
    assert [len(one.prompt_ids) for one in trace.chunks] == [3, 7, 7]
    assert trace.chunks[-1].drawn_ids == (1016, 1017, 1018, STOP)
    # each token that is read looks at itself and all before it
    assert trace.attended == sum(sum(range(1, held + 1)) for held in (3 + 9, 7 + 5, 7 + 3))


def test_the_requests_own_limit_holds() -> None:
    (trace,) = think(Scripted(10**9), [asked(max_tokens=13)], Delethink(chunk=10, carry=4))  # type: ignore[arg-type]
    assert len(trace.completion.ids) == 13
    assert trace.completion.finish_reason == "length"


def test_work_is_linear_and_memory_flat_where_one_context_is_quadratic() -> None:
    """Doubling the chunks doubles the work; in one context it grows fourfold."""

    def of(chunks: int) -> tuple[int, int, int]:
        plan = Delethink(chunk=128, carry=32, chunks=chunks)
        (short,) = think(Scripted(10**9), [asked()], plan)  # type: ignore[arg-type]
        (whole,) = think(Scripted(10**9), [asked(max_tokens=plan.budget)], Delethink(chunk=10**6, chunks=1))  # type: ignore[arg-type]
        assert whole.completion.ids == short.completion.ids
        return short.peak_context, short.attended, whole.attended

    (peak, work, plain), (other_peak, other_work, other_plain) = of(32), of(64)
    assert peak == other_peak == len(QUERY) + 127
    assert other_work / work == pytest.approx(2, rel=0.02)
    assert other_plain / plain == pytest.approx(4, rel=0.03)


def test_what_cannot_be() -> None:
    for wrong in (
        {"chunk": 8, "carry": 8}, {"chunk": 8, "carry": 0}, {"chunks": 0}, {"chunk": 8, "carry": 4, "head": 4},
    ):  # fmt: skip
        with pytest.raises(ConfigError):
            Delethink(**wrong)
    for name, value in {
        "stop": ("x",),
        "min_tokens": 2,
        "repetition_penalty": 1.2,
        "frequency_penalty": 0.1,
    }.items():
        with pytest.raises(ConfigError, match=name):
            think(Scripted(9), [asked(**{name: value})], Delethink())  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="context is full"):
        think(Scripted(99, context=9), [asked()], Delethink(chunk=10, carry=4))  # type: ignore[arg-type]


def test_one_chunk_is_plain_sampling_and_the_stream_the_same(engine: LocalEngine) -> None:
    prompt = chat_prompt(engine.tokenizer, [{"role": "user", "content": "hi"}])
    params = SamplingParams(temperature=1.0, seed=3, max_tokens=24, logprobs=0, ignore_eos=True)
    request = Request(id="x", prompt_ids=prompt, params=params)
    (plain,) = engine.generate([request])
    (once,) = think(engine, [request], Delethink(chunk=24, carry=4, chunks=1))
    assert once.completion.ids == plain.ids
    assert once.completion.logprobs == plain.logprobs
    plan = Delethink(chunk=10, carry=4, chunks=4, head=0)
    (trace,) = think(engine, [request], plan)
    assert trace.completion.ids[:10] == plain.ids[:10]
    assert len(trace.completion.ids) == 24
    assert trace.peak_context <= len(prompt) + 10

    async def streamed() -> tuple[list[int], list[Chunk], list[str | None]]:
        ids: list[int] = []
        reasons: list[str | None] = []
        written: list[Chunk] = []
        async with aclosing(stream_thinking(engine, request, plan, written)) as deltas:  # type: ignore[type-var]
            async for delta in deltas:
                ids += delta.ids
                reasons.append(delta.finish_reason)
        return ids, written, reasons

    ids, written, reasons = asyncio.run(streamed())
    assert tuple(ids) == trace.completion.ids
    assert [one.prompt_ids for one in written] == [one.prompt_ids for one in trace.chunks]
    assert [reason for reason in reasons if reason] == ["length"]


def test_chat_in_chunks(model_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = io.StringIO()
    chat_terminal(
        model_dir, max_tokens=40, thinking=Delethink(chunk=16, carry=6, chunks=3), source=io.StringIO("hi\n"), target=target
    )  # fmt: skip
    assert target.getvalue().endswith("\n")
    assert "held at once]" in capsys.readouterr().err
