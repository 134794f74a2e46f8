"""The API over real HTTP, with the official client."""

from __future__ import annotations

import itertools
import json
from typing import Any

import openai
import pytest

ASK = [{"role": "user", "content": "서점은 언제 여나요?"}]


def answer(server: Any, **options: Any) -> Any:
    given = {"model": server.model, "messages": ASK, "max_tokens": 40, **options}
    return server.openai.chat.completions.create(**given)


def streamed(server: Any, **options: Any) -> list[Any]:
    with answer(server, stream=True, stream_options={"include_usage": True}, **options) as stream:
        return list(stream)


def joined(chunks: list[Any], index: int = 0) -> str:
    choices = itertools.chain.from_iterable(chunk.choices for chunk in chunks)
    return "".join(choice.delta.content or "" for choice in choices if choice.index == index)


def test_models(server: Any) -> None:
    (model,) = server.openai.models.list().data
    assert (model.id, model.object, model.owned_by) == ("random", "model", "hanok")
    assert server.openai.models.retrieve("random").context_length == 2048
    with pytest.raises(openai.NotFoundError, match='serves "random"'):
        server.openai.models.retrieve("gpt-4")


@pytest.mark.parametrize("seed", range(6))
def test_streaming_changes_nothing(server: Any, seed: int) -> None:
    whole = answer(server, seed=seed, temperature=1.0)
    chunks = streamed(server, seed=seed, temperature=1.0)
    assert joined(chunks) == whole.choices[0].message.content != ""
    assert chunks[0].choices[0].delta.role == "assistant"
    reasons = [choice.finish_reason for chunk in chunks for choice in chunk.choices]
    assert [reason for reason in reasons if reason] == [whole.choices[0].finish_reason]
    assert chunks[-1].usage == whole.usage
    assert len({chunk.id for chunk in chunks}) == 1


def test_streams_arrive_piece_by_piece(server: Any) -> None:
    chunks = streamed(server, temperature=0, max_tokens=9, logit_bias=letters(server))
    assert [len(c.choices[0].delta.content or "") for c in chunks if c.choices] == [0, *[1] * 9, 0]


def test_usage_counts_the_template_too(server: Any) -> None:
    done = answer(server, max_tokens=7, temperature=0, logit_bias=letters(server))
    tokenizer = server.engine.tokenizer
    assert done.usage.prompt_tokens == 1 + len(tokenizer.encode_chat(ASK, add_generation_prompt=True).ids)
    assert (done.usage.completion_tokens, done.choices[0].finish_reason) == (7, "length")
    assert done.usage.total_tokens == done.usage.prompt_tokens + 7


def letters(server: Any) -> dict[str, float]:
    """A bias that leaves the letters a to h alone in the game."""
    return {str(token): 100.0 for token in server.engine.tokenizer.encode("abcdefgh")}


def test_stop_strings_cut_exactly_in_both_forms(server: Any) -> None:
    options = {"temperature": 0, "logit_bias": letters(server)}
    free = answer(server, **options).choices[0].message.content
    stop = free[3:6]
    place = free.index(stop)
    for given in (stop, ["zz", stop]):
        cut = answer(server, **options, stop=given).choices[0]
        assert (cut.message.content, cut.finish_reason) == (free[:place], "stop")
    chunks = streamed(server, **options, stop=[stop])
    assert joined(chunks) == free[:place]


def test_the_seed_decides(server: Any) -> None:
    first, again, other = (answer(server, seed=seed, temperature=1.5).choices[0] for seed in (3, 3, 4))
    assert first.message.content == again.message.content != other.message.content
    free = {answer(server, temperature=1.5).choices[0].message.content for _ in range(3)}
    assert len(free) > 1


def test_n_samples_of_one_prompt(server: Any) -> None:
    one = answer(server, seed=5, temperature=1.5)
    three = answer(server, seed=5, temperature=1.5, n=3)
    texts = [choice.message.content for choice in three.choices]
    assert [choice.index for choice in three.choices] == [0, 1, 2]
    assert len(set(texts)) == 3
    assert texts[0] == one.choices[0].message.content
    assert three.usage.completion_tokens > one.usage.completion_tokens
    chunks = streamed(server, seed=5, temperature=1.5, n=3)
    assert [joined(chunks, index) for index in range(3)] == texts


def test_logprobs(server: Any) -> None:
    done = answer(server, temperature=0, logprobs=True, top_logprobs=2, logit_bias=letters(server))
    content = done.choices[0].logprobs.content
    assert len(content) == done.usage.completion_tokens
    assert b"".join(bytes(token.bytes) for token in content).decode() == done.choices[0].message.content
    for token in content:
        assert len(token.top_logprobs) == 2
        assert token.logprob <= token.top_logprobs[0].logprob + 1e-6
        assert token.top_logprobs[0].logprob >= token.top_logprobs[1].logprob
    chunks = streamed(server, temperature=0, logprobs=True, top_logprobs=2, logit_bias=letters(server))
    pieces = [chunk.choices[0].logprobs for chunk in chunks if chunk.choices]
    assert [t.logprob for piece in pieces if piece for t in piece.content] == [t.logprob for t in content]
    assert answer(server).choices[0].logprobs is None


def test_further_settings_of_sampling_arrive(server: Any) -> None:
    options = {"temperature": 0, "logit_bias": letters(server)}
    free = answer(server, **options).choices[0].message.content
    without = (
        answer(server, **options, extra_body={"bad_words": [free[0], free[-1]]}).choices[0].message.content
    )
    assert without
    assert not {free[0], free[-1]} & set(without)
    end = server.engine.tokenizer.stop_ids[0]
    ending = {"temperature": 0, "logit_bias": {str(end): 100.0}, "max_tokens": 9}
    assert answer(server, **ending).usage.completion_tokens == 0
    assert answer(server, **ending, extra_body={"min_tokens": 5}).usage.completion_tokens == 5
    assert answer(server, **ending, extra_body={"ignore_eos": True}).usage.completion_tokens == 9
    likely, typical = (
        answer(server, seed=3, temperature=2, extra_body={"typical_p": mass}).choices[0].message.content
        for mass in (1.0, 0.01)
    )
    assert likely != typical


def test_a_taught_model_greets(taught: Any) -> None:
    done = answer(taught, messages=[{"role": "user", "content": "hi"}], temperature=0)
    assert done.choices[0].message.content == "안녕하세요, 한옥이에요. 🏡"
    parts = [{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]
    chunks = streamed(taught, messages=[{"role": "user", "content": parts}], temperature=0)
    assert joined(chunks) == "안녕하세요, 한옥이에요. 🏡"


def test_tools_there_and_back(taught: Any, errand_tools: Any) -> None:
    messages: list[Any] = [{"role": "user", "content": "open?"}]
    options = {"tools": errand_tools, "temperature": 0, "max_tokens": 200}
    choice = answer(taught, messages=messages, **options).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    (call,) = choice.message.tool_calls
    assert (call.type, call.function.name) == ("function", "hours")
    assert json.loads(call.function.arguments) == {"place": "찻집"}

    deltas = [
        d for c in streamed(taught, messages=messages, **options) for ch in c.choices
        for d in ch.delta.tool_calls or []
    ]  # fmt: skip
    assert [(delta.index, delta.function.name) for delta in deltas] == [(0, "hours"), (0, None)]
    assert "".join(delta.function.arguments or "" for delta in deltas) == call.function.arguments
    assert deltas[0].id != call.id  # each call is its own

    messages += [choice.message, {"role": "tool", "tool_call_id": call.id, "content": "9-17"}]
    done = answer(taught, messages=messages, **options).choices[0]
    assert (done.message.content, done.finish_reason) == ("It opens at 9.", "stop")


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_longer_than_the_context_is_refused_with_both_numbers(server: Any, stream: bool) -> None:
    long = [{"role": "user", "content": "x" * 3000}]
    tokens = 1 + len(server.engine.tokenizer.encode_chat(long, add_generation_prompt=True).ids)
    with pytest.raises(openai.BadRequestError) as caught:
        answer(server, messages=long, stream=stream)
    assert caught.value.code == "context_length_exceeded"
    assert caught.value.param == "messages"
    assert f"{tokens} tokens" in str(caught.value)
    assert "2048 tokens" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "param", "message"),
    [
        ({"temperature": 3}, "temperature", "less than or equal to 2"),
        ({"n": 17}, "n", "16"),
        ({"messages": []}, "messages", "at least 1"),
        ({"messages": [{"role": "king", "content": "x"}]}, "messages.0.role", "'user'"),
        ({"messages": [{"role": "user"}]}, "messages.0", "needs content"),
        ({"top_logprobs": 3}, None, "needs logprobs"),
        ({"tool_choice": "required"}, None, "needs tools"),
        ({"tool_choice": "perhaps"}, "tool_choice.literal['auto','none','required']", "'required'"),
        ({"response_format": {"type": "xml"}}, "response_format.type", "'json_schema'"),
        ({"logit_bias": {"99999": 1}}, None, "token 99999"),
        ({"typical_p": 0}, "typical_p", "greater than 0"),
        ({"bad_words": [" "]}, "bad_words.0", "pattern"),
        ({"temperature_scale": 0}, "temperature_scale", "greater than 0"),
        ({"temperature_scale": 2, "temperature": 1}, None, "leave temperature and top_p out"),
        ({"temperature_scale": 2}, None, "without decoding heads"),
        ({"seed": 2**64}, "seed", "less than 9223372036854775808"),
    ],
)
def test_bad_requests_say_what_is_wrong(
    server: Any, changes: dict[str, Any], param: str | None, message: str
) -> None:
    body = {"model": server.model, "messages": ASK, **changes}
    response = server.http.post("/v1/chat/completions", json=body)
    error = response.json()["error"]
    assert response.status_code == 400
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert message in error["message"]


def test_malformed_json_is_400(server: Any) -> None:
    headers = {"Content-Type": "application/json"}
    response = server.http.post("/v1/chat/completions", content=b'{"model": ', headers=headers)
    assert response.status_code == 400
    assert "JSON" in response.json()["error"]["message"]
    response = server.http.post("/v1/chat/completions", content=b"\xff\xfe", headers=headers)
    assert response.status_code == 400


def test_other_models_and_paths_are_404_in_json(server: Any) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        answer(server, model="gpt-4")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    assert server.http.get("/v1/nothing").json()["error"]["type"] == "invalid_request_error"


def test_control_tokens_in_content_stay_text(server: Any) -> None:
    """Content that spells the template's tokens costs as many tokens as its bytes."""
    spelt = [{"role": "user", "content": "<|im_end|>"}]
    plain = [{"role": "user", "content": "<|im-end|>"}]
    counts = [answer(server, messages=one, max_tokens=1).usage.prompt_tokens for one in (spelt, plain)]
    assert counts[0] == counts[1]


def test_many_at_once_answer_as_they_would_alone(server: Any) -> None:
    import concurrent.futures

    alone = [answer(server, seed=n, temperature=1.0).choices[0].message.content for n in range(8)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        together = list(
            pool.map(lambda n: answer(server, seed=n, temperature=1.0).choices[0].message.content, range(8))
        )
    assert together == alone


def test_health_names_the_model(server: Any) -> None:
    response = server.http.get("/health")
    assert response.json() == {"status": "ok", "model": "random", "model_hash": server.model_hash}


def test_learned_decoding_is_reported(learned: Any) -> None:
    """New heads say T = 1, top-p = 1/2; a request that sets either is not theirs."""
    extra = {"show_decoding": True}
    whole = answer(learned, seed=1, max_tokens=8, extra_body=extra).choices[0].model_extra["decoding"]
    assert {(law["temperature"], law["top_p"]) for law in whole} == {(1.0, 0.5)}
    chunks = streamed(learned, seed=1, max_tokens=8, extra_body=extra)
    laws = [(c.model_extra or {}).get("decoding", []) for chunk in chunks for c in chunk.choices]
    assert list(itertools.chain.from_iterable(laws)) == whole
    by_hand = answer(learned, seed=1, max_tokens=8, top_p=0.5).choices[0]
    assert by_hand.message.content == answer(learned, seed=1, max_tokens=8).choices[0].message.content
    bolder = answer(learned, seed=1, max_tokens=8, extra_body={**extra, "temperature_scale": 1.5})
    assert {law["temperature"] for law in bolder.choices[0].model_extra["decoding"]} == {1.5}
    for options in ({"temperature": 1.0}, {"top_p": 1.0}, {"temperature": 0}):
        assert (
            "decoding"
            not in answer(learned, max_tokens=4, extra_body=extra, **options).choices[0].model_extra
        )
