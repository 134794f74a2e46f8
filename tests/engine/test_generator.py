"""The engine against the plain model, alone and in company."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from hanok.engine.api import Completion, Delta, Request, SamplingParams
from hanok.engine.generator import LocalEngine
from hanok.errors import ContextLengthError, InputError

GREEDY = SamplingParams(temperature=0.0, max_tokens=24, ignore_eos=True, logprobs=3)


@pytest.fixture(scope="module")
def engine(model_dir: Path) -> LocalEngine:
    return LocalEngine(model_dir, weights="float32")


def prompt(length: int, seed: int = 0) -> list[int]:
    return random.Random(seed).choices(range(10, 266), k=length)


def complete(
    engine: LocalEngine, ids: list[int], params: SamplingParams = GREEDY, **fields: object
) -> Completion:
    return engine.generate([Request(id="one", prompt_ids=ids, params=params, **fields)])[0]  # type: ignore[arg-type]


def plain_greedy(engine: LocalEngine, ids: list[int], count: int) -> tuple[list[int], list[float]]:
    """Token by token through whole forward passes without state."""
    ids = list(ids)
    chosen: list[float] = []
    start = len(ids)
    with torch.inference_mode():
        for _ in range(count):
            hidden_ND, _ = engine.decoder(torch.tensor(ids), torch.tensor([0, len(ids)], dtype=torch.int32))
            logprobs_V = engine.decoder.logits(hidden_ND[-1:])[0].log_softmax(-1)
            ids.append(int(logprobs_V.argmax()))
            chosen.append(float(logprobs_V[ids[-1]]))
    return ids[start:], chosen


@pytest.mark.parametrize("length", [1, 2, 3, 63, 64, 65, 513, 700])
def test_greedy_equals_whole_forward_passes(engine: LocalEngine, length: int) -> None:
    ids = prompt(length, seed=length)
    expected, logprobs = plain_greedy(engine, ids, 12)
    completion = complete(engine, ids)
    assert list(completion.ids[:12]) == expected
    assert completion.logprobs is not None
    assert completion.logprobs[:12] == pytest.approx(logprobs, abs=1e-4)
    assert completion.usage.prompt_tokens == length
    assert completion.usage.completion_tokens == 24
    assert completion.finish_reason == "length"


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_company_changes_nothing(engine: LocalEngine, temperature: float) -> None:
    """Ids and logprobs bit for bit: alone, among 36 others, and arriving while others run."""
    rng = random.Random(5)
    requests = [
        Request(
            id=str(n), prompt_ids=prompt(rng.choice((1, 2, 9, 64, 65, 130, 520)), seed=n), sample_index=n % 3,
            params=SamplingParams(
                temperature=temperature, seed=n // 3, max_tokens=rng.randrange(1, 40), logprobs=2,
                top_p=rng.choice((1.0, 0.9)), top_k=rng.choice((0, 40)), presence_penalty=rng.choice((0.0, 0.5)),
            ),
        )
        for n in range(37)
    ]  # fmt: skip
    together = engine.generate(requests)
    alone = [engine.generate([request])[0] for request in requests[:12]]
    assert alone == together[:12]

    background = threading.Thread(target=engine.generate, args=(requests[12:],))
    background.start()
    late = engine.generate(requests[:12])
    background.join()
    assert late == alone


def test_samples_differ_by_index_and_repeat_by_seed(engine: LocalEngine) -> None:
    params = SamplingParams(temperature=1.0, seed=7, max_tokens=20, ignore_eos=True)
    first, second = (complete(engine, prompt(5), params, sample_index=index) for index in (0, 1))
    assert first.ids != second.ids
    assert complete(engine, prompt(5), params, sample_index=1).ids == second.ids
    unseeded = SamplingParams(temperature=1.0, max_tokens=20, ignore_eos=True)
    assert complete(engine, prompt(5), unseeded).ids != complete(engine, prompt(5), unseeded).ids


def test_stop_id_ends_and_is_left_out(engine: LocalEngine) -> None:
    free = complete(engine, prompt(20))
    stop = free.ids[5]
    cut = complete(
        engine, prompt(20), SamplingParams(temperature=0.0, max_tokens=24, ignore_eos=True, stop_ids=(stop,))
    )
    assert cut.ids == free.ids[: free.ids.index(stop)]
    assert cut.finish_reason == "stop"
    assert cut.logprobs is None


def test_min_tokens_bans_the_end(engine: LocalEngine) -> None:
    free = complete(engine, prompt(20))
    stop = free.ids[0]
    params = SamplingParams(temperature=0.0, max_tokens=24, stop_ids=(stop,), ignore_eos=True, min_tokens=4)
    assert stop not in complete(engine, prompt(20), params).ids[:4]
    assert len(complete(engine, prompt(20), params).ids) >= 4


def test_stop_string_ends_with_the_token_that_completes_it(engine: LocalEngine) -> None:
    letters = tuple(engine.tokenizer.encode("abcdefgh"))
    bias = dict.fromkeys(letters, 100.0)
    free = complete(engine, prompt(9), SamplingParams(temperature=0.0, max_tokens=24, logit_bias=bias))
    text = engine.tokenizer.decode(free.ids)
    stop = text[3:6]
    place = text.index(stop)
    params = SamplingParams(temperature=0.0, max_tokens=24, logit_bias=bias, stop=("zzz", stop))
    cut = complete(engine, prompt(9), params)
    assert engine.tokenizer.decode(cut.ids) == text[: place + 3]
    assert cut.finish_reason == "stop"


def test_logprobs_are_scores(engine: LocalEngine) -> None:
    ids = prompt(30)
    completion = complete(engine, ids)
    scores = engine.score([*ids, *completion.ids])
    assert completion.logprobs is not None
    assert scores[29:] == pytest.approx(completion.logprobs, abs=1e-4)
    assert completion.top_logprobs is not None
    for token, chosen, top in zip(completion.ids, completion.logprobs, completion.top_logprobs, strict=True):
        assert len(top) == 3
        assert top[token] == pytest.approx(chosen)


def test_embed_is_the_hidden_state(engine: LocalEngine) -> None:
    ids = prompt(10)
    last = engine.embed(ids, -1)
    assert last.shape == (10, 32)
    assert last.dtype == torch.float32
    logprobs = engine.decoder.logits(last).log_softmax(-1)
    assert float(logprobs[3, ids[4]]) == pytest.approx(engine.score(ids)[3], abs=1e-4)
    assert not torch.equal(engine.embed(ids, 0), engine.embed(ids, 1))
    with pytest.raises(InputError, match="4 layers"):
        engine.embed(ids, 4)


async def collect(engine: LocalEngine, request: Request) -> list[Delta]:
    return [delta async for delta in engine.stream(request)]


def test_streams_run_together_and_equal_generate(engine: LocalEngine) -> None:
    requests = [Request(id=str(n), prompt_ids=prompt(3 + n, seed=n), params=GREEDY) for n in range(6)]

    async def all_of_them() -> list[list[Delta]]:
        return await asyncio.gather(*(collect(engine, request) for request in requests))

    for deltas, completion in zip(asyncio.run(all_of_them()), engine.generate(requests), strict=True):
        assert tuple(token for delta in deltas for token in delta.ids) == completion.ids
        assert deltas[-1].usage == completion.usage
        assert [delta.finish_reason for delta in deltas[:-1]] == [None] * (len(deltas) - 1)


def test_closing_a_stream_cancels_it(engine: LocalEngine) -> None:
    long = Request(
        id="long", prompt_ids=prompt(4), params=SamplingParams(max_tokens=1900, ignore_eos=True, seed=1)
    )

    async def read_three() -> None:
        stream = engine.stream(long)
        for _ in range(3):
            await anext(stream)
        await stream.aclose()  # type: ignore[attr-defined]
        for _ in range(200):
            if not engine._scheduler.has_work():
                return
            await asyncio.sleep(0.01)
        raise AssertionError("still running two seconds after it was closed")

    asyncio.run(read_three())


def test_deadline_cancels(engine: LocalEngine) -> None:
    late = complete(engine, prompt(4), SamplingParams(max_tokens=100), deadline=0.0)
    assert late.finish_reason == "cancelled"
    assert late.ids == ()


def test_context_is_never_cut(model_dir: Path, engine: LocalEngine) -> None:
    with pytest.raises(ContextLengthError, match=r"2049 tokens .* 2048 tokens"):
        complete(engine, prompt(2049))
    full = complete(engine, prompt(2040), SamplingParams(temperature=0.0, ignore_eos=True))
    assert len(full.ids) == 9
    assert full.finish_reason == "length"


@pytest.mark.parametrize(
    ("ids", "fields", "message"),
    [
        ([], {}, "empty"),
        ([266], {}, "outside 0 to 265"),
        ([20], {"adapter": "x"}, 'no adapter "x" is loaded'),
    ],
)
def test_bad_requests_are_refused(
    engine: LocalEngine, ids: list[int], fields: dict[str, str], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        complete(engine, ids, **fields)  # type: ignore[arg-type]


def test_new_weights_take_effect(model_dir: Path) -> None:
    engine = LocalEngine(model_dir)
    before = engine.score(prompt(8))
    engine.update_weights({"norm.weight": torch.full((32,), 0.5)})
    assert engine.score(prompt(8)) != before
    with pytest.raises(InputError, match=r"norm\.weight of shape \(3,\)"):
        engine.update_weights({"norm.weight": torch.ones(3)})


def test_an_error_reaches_those_who_wait(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = LocalEngine(model_dir, weights="float32")

    def broken(*_args: object) -> None:
        raise RuntimeError("broken on purpose")

    with monkeypatch.context() as patch:
        patch.setattr(engine.decoder, "forward", broken)
        with pytest.raises(RuntimeError, match="on purpose"):
            complete(engine, prompt(4))
    assert len(complete(engine, prompt(4)).ids) == 24


def test_closing_cancels_and_refuses(model_dir: Path) -> None:
    engine = LocalEngine(model_dir)
    long = SamplingParams(max_tokens=1900, ignore_eos=True, seed=1)

    async def close_in_the_middle() -> list[Delta]:
        deltas = []
        async for delta in engine.stream(Request(id="long", prompt_ids=prompt(4), params=long)):
            deltas.append(delta)
            if len(deltas) == 3:
                await asyncio.to_thread(engine.close)
        return deltas

    last = asyncio.run(close_in_the_middle())[-1]
    assert last.finish_reason == "cancelled"
    with pytest.raises(InputError, match="closed"):
        complete(engine, prompt(3))


EXIT_WHILE_BUSY = """
import sys, threading, time
from pathlib import Path
from hanok.engine.api import Request, SamplingParams
from hanok.engine.generator import LocalEngine
engine = LocalEngine(Path(sys.argv[1]), threads=1)
params = SamplingParams(max_tokens=1900, ignore_eos=True, seed=1)
requests = [Request(id=str(n), prompt_ids=[20, 21, 22], params=params, sample_index=n) for n in range(8)]
threading.Thread(target=engine.generate, args=(requests,), daemon=True).start()
while not engine._scheduler.has_work():
    time.sleep(0.01)
"""


def test_a_busy_engine_lets_the_process_end_in_peace(model_dir: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", EXIT_WHILE_BUSY, model_dir], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
