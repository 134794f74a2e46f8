"""Plain completions, embeddings and tokens over HTTP with the official client, against the engine itself."""

from __future__ import annotations

import base64
import math
from typing import Any

import numpy as np
import openai
import pytest

TEXT = "안녕하세요, a tea house"


def complete(server: Any, **options: Any) -> Any:
    given = {
        "model": server.model,
        "prompt": TEXT,
        "max_tokens": 12,
        "seed": 3,
        "temperature": 1.0,
        **options,
    }
    return server.openai.completions.create(**given)


def ids_of(server: Any, text: str) -> list[int]:
    return [server.engine.tokenizer.bos_id, *server.engine.tokenizer.encode(text)]


def test_text_and_ids_are_the_same_prompt(server: Any) -> None:
    text = complete(server)
    ids = complete(server, prompt=ids_of(server, TEXT))
    assert text.choices[0].text == ids.choices[0].text != ""
    assert text.usage.prompt_tokens == ids.usage.prompt_tokens == len(ids_of(server, TEXT))
    assert (text.object, text.usage.completion_tokens <= 12) == ("text_completion", True)


@pytest.mark.parametrize("prompt", [["one", "two", "three"], [[5, 6, 7], [8, 9]]])
def test_several_prompts_answer_as_each_alone(server: Any, prompt: list[Any]) -> None:
    together = complete(server, prompt=prompt, n=2)
    assert [choice.index for choice in together.choices] == list(range(2 * len(prompt)))
    alone = [choice.text for one in prompt for choice in complete(server, prompt=one, n=2).choices]
    assert [choice.text for choice in together.choices] == alone
    with complete(server, prompt=prompt, n=2, stream=True) as stream:
        texts: dict[int, str] = {}
        for chunk in stream:
            for choice in chunk.choices:
                texts[choice.index] = texts.get(choice.index, "") + choice.text
    assert [texts[place] for place in sorted(texts)] == alone


@pytest.mark.parametrize("max_tokens", [0, 1])
def test_echoed_logprobs_are_the_engines_scores(server: Any, max_tokens: int) -> None:
    """As lm-eval asks: ids, the prompt back, one alternative."""
    prompts = [ids_of(server, TEXT), ids_of(server, "b" * 200)]
    done = complete(server, prompt=prompts, max_tokens=max_tokens, echo=True, logprobs=1, temperature=0)
    for choice, ids in zip(done.choices, prompts, strict=True):
        report = choice.logprobs
        assert len(report.tokens) == len(report.token_logprobs) == len(ids) + max_tokens
        assert report.token_logprobs[0] is None
        assert report.top_logprobs[0] is None
        scores = server.engine.score(ids)
        assert np.allclose(report.token_logprobs[1 : len(ids)], scores, atol=1e-4)
        for chosen, top in zip(report.token_logprobs[1:], report.top_logprobs[1:], strict=True):
            assert max(top.values()) >= chosen
        assert choice.text.startswith(server.engine.tokenizer.decode(ids))
    assert done.usage.completion_tokens <= 2 * max_tokens
    assert max_tokens or [choice.finish_reason for choice in done.choices] == ["length"] * 2


def test_the_token_that_ends_an_answer_is_reported_behind_an_echoed_prompt(server: Any) -> None:
    """Readers cut one token off the end, whatever it was."""
    end = server.engine.tokenizer.stop_ids[0]
    ids = ids_of(server, "hello")
    options = {"prompt": ids, "max_tokens": 1, "temperature": 0, "logit_bias": {str(end): 100.0}}
    done = complete(server, **options, echo=True, logprobs=1)
    report = done.choices[0].logprobs
    assert (len(report.tokens), done.usage.completion_tokens) == (len(ids) + 1, 0)
    assert math.isclose(report.token_logprobs[-1], server.engine.score([*ids, end])[-1], abs_tol=1e-4)
    with complete(server, **options, echo=True, logprobs=1, stream=True) as stream:
        parts = [choice for chunk in stream for choice in chunk.choices]
    assert [
        x for part in parts if part.logprobs for x in part.logprobs.token_logprobs
    ] == report.token_logprobs
    assert "".join(part.text for part in parts) == done.choices[0].text == "hello"


def test_offsets_point_into_the_text(server: Any) -> None:
    choice = complete(server, echo=True, logprobs=2).choices[0]
    report = choice.logprobs
    assert report.text_offset == sorted(report.text_offset)
    for token, offset in zip(report.tokens, report.text_offset, strict=True):
        if len(token) == 1 and token.isascii():
            assert choice.text[offset] == token
    assert all(2 <= len(top) <= 3 for top in report.top_logprobs[1:])


@pytest.mark.parametrize(
    "options", [{}, {"echo": True, "logprobs": 2}, {"logprobs": 0}, {"n": 2, "echo": True, "logprobs": 1}]
)
def test_streaming_changes_nothing(server: Any, options: dict[str, Any]) -> None:
    whole = complete(server, **options)
    with complete(server, **options, stream=True, stream_options={"include_usage": True}) as stream:
        chunks = list(stream)
    assert chunks[-1].usage == whole.usage
    for choice in whole.choices:
        parts = [part for chunk in chunks for part in chunk.choices if part.index == choice.index]
        assert "".join(part.text for part in parts) == choice.text
        assert [part.finish_reason for part in parts if part.finish_reason] == [choice.finish_reason]
        if choice.logprobs is not None:
            for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
                told = [x for part in parts if part.logprobs for x in getattr(part.logprobs, name)]
                assert told == getattr(choice.logprobs, name)


def test_best_of_are_the_likeliest_samples(server: Any) -> None:
    every = complete(server, n=4, logprobs=0, temperature=1.5).choices
    best = complete(server, n=1, best_of=4, temperature=1.5)
    means = {
        choice.text: sum(choice.logprobs.token_logprobs) / len(choice.logprobs.token_logprobs)
        for choice in every if choice.logprobs.token_logprobs
    }  # fmt: skip
    assert best.choices[0].text == max(means, key=lambda text: means[text])
    assert best.choices[0].logprobs is None
    assert best.usage.completion_tokens > len(means)


def test_stop_strings_cut(server: Any) -> None:
    letters = {str(token): 100.0 for token in server.engine.tokenizer.encode("abcdefgh")}
    free = complete(server, logit_bias=letters).choices[0].text
    cut = complete(server, logit_bias=letters, stop=[free[3:6]]).choices[0]
    assert (cut.text, cut.finish_reason) == (free[: free.index(free[3:6])], "stop")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"suffix": "x"}, "suffix is not supported"),
        ({"max_tokens": 0}, "needs echo"),
        ({"prompt": ""}, "at least one"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": [True]}, "prompt"),
        ({"prompt": [999_999]}, "outside 0 to"),
        ({"prompt": ["a"] * 257}, "256"),
        ({"prompt": ["a"] * 100, "n": 16}, "256 at most"),
        ({"best_of": 1, "n": 2}, "less than n"),
        ({"best_of": 2, "stream": True}, "cannot be streamed"),
        ({"logprobs": 21}, "20"),
        ({"prompt": "x" * 3000}, "3001 tokens but the model's context is 2048"),
    ],
)
def test_bad_requests_say_what_is_wrong(server: Any, changes: dict[str, Any], message: str) -> None:
    body = {"model": server.model, "prompt": "a", **changes}
    response = server.http.post("/v1/completions", json=body)
    assert response.status_code == 400
    assert message in response.json()["error"]["message"]


def test_embeddings(server: Any) -> None:
    texts = ["a tea house", "찻집", "a tea house"]
    done = server.openai.embeddings.create(model=server.model, input=texts)  # base64 on the wire
    plain = server.openai.embeddings.create(model=server.model, input=texts, encoding_format="float")
    vectors = np.array([one.embedding for one in done.data])
    assert np.allclose(vectors, [one.embedding for one in plain.data])
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert np.array_equal(vectors[0], vectors[2])
    mean = server.engine.embed(ids_of(server, texts[1]), -1).mean(0).numpy()
    assert np.allclose(vectors[1], mean / np.linalg.norm(mean), atol=1e-5)
    assert done.usage.prompt_tokens == sum(len(ids_of(server, text)) for text in texts)
    by_ids = server.openai.embeddings.create(
        model=server.model, input=[ids_of(server, text) for text in texts]
    )
    assert [one.embedding for one in by_ids.data] == [one.embedding for one in done.data]


def test_fewer_dimensions_are_the_first_ones_of_length_one(server: Any) -> None:
    full = np.array(server.openai.embeddings.create(model=server.model, input="hello").data[0].embedding)
    part = server.openai.embeddings.create(model=server.model, input="hello", dimensions=8).data[0].embedding
    assert np.allclose(part, full[:8] / np.linalg.norm(full[:8]), atol=1e-6)
    with pytest.raises(openai.BadRequestError, match="dimensions = 33"):
        server.openai.embeddings.create(model=server.model, input="hello", dimensions=33)
    with pytest.raises(openai.BadRequestError, match="2048 tokens"):
        server.openai.embeddings.create(model=server.model, input="x" * 3000)


def test_base64_is_little_endian_floats(server: Any) -> None:
    body = {"model": server.model, "input": "hello", "encoding_format": "base64"}
    raw = base64.b64decode(server.http.post("/v1/embeddings", json=body).json()["data"][0]["embedding"])
    assert len(raw) == 4 * server.engine.config.hidden_size


@pytest.mark.parametrize("prefix", ["", "/v1"])
def test_tokens_there_and_back(server: Any, prefix: str) -> None:
    body = {"model": server.model, "prompt": TEXT}
    told = server.http.post(f"{prefix}/tokenize", json=body).json()
    assert told == {"count": len(ids_of(server, TEXT)), "max_model_len": 2048, "tokens": ids_of(server, TEXT)}
    bare = server.http.post(f"{prefix}/tokenize", json={**body, "add_special_tokens": False}).json()
    assert bare["tokens"] == told["tokens"][1:]
    back = server.http.post(f"{prefix}/detokenize", json={"model": server.model, "tokens": bare["tokens"]})
    assert back.json() == {"prompt": TEXT}


def test_messages_are_counted_as_they_will_be_read(server: Any) -> None:
    messages: Any = [{"role": "user", "content": "hi"}]
    told = server.http.post("/tokenize", json={"messages": messages}).json()
    done = server.openai.chat.completions.create(model=server.model, messages=messages, max_tokens=1)
    assert told["count"] == done.usage.prompt_tokens
    wrong = server.http.post("/tokenize", json={"messages": messages, "prompt": "x"})
    assert wrong.status_code == 400
    assert server.http.post("/detokenize", json={"tokens": [10**6]}).status_code == 400


def test_the_prompts_of_a_request_are_read_together(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    step = server.engine._scheduler.step

    def noted() -> None:
        seen.append(server.engine._scheduler.waiting)
        step()

    monkeypatch.setattr(server.engine._scheduler, "step", noted)
    body = {"model": server.model, "prompt": ["a", "b", "c", "d"], "max_tokens": 2}
    assert server.http.post("/v1/completions", json=body).status_code == 200
    assert seen[0] == 4
