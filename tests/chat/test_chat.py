"""Chat models: one protocol over a model directory, an address and a script; failures have reasons, passing ones are retried."""

from __future__ import annotations

import asyncio
import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from hanok.chat import ChatModel, Reply, Sampling, ScriptedChat, UrlChat
from hanok.data.tokenizer import Alphabet, tokenizer_files
from hanok.engine.api import Request, SamplingParams
from hanok.engine.chat import LocalChat, open_chat
from hanok.engine.text import chat_prompt, completion_text
from hanok.errors import ChatError, ConfigError
from hanok.models.checkpoint import save_model
from hanok.models.config import ModelConfig
from hanok.models.decoder import Decoder
from hanok.tokens.tokenizer import Tokenizer

ASK = [{"role": "user", "content": "Who?"}]


def say(model: ChatModel, sampling: Sampling = Sampling(), tools: Any = None) -> Reply:
    return asyncio.run(model.chat(ASK, tools, sampling))


class Service:
    """Answers requests in turn, keeps what it was sent, and notes the pauses that the client makes."""

    def __init__(self, *replies: httpx.Response | Exception) -> None:
        self.replies = list(replies)
        self.asked: list[dict[str, Any]] = []
        self.pauses: list[float] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        assert request.url == "http://judge.test/v1/chat/completions"
        assert request.headers["authorization"] == "Bearer s3cret"
        self.asked.append(json.loads(request.content))
        reply = self.replies[len(self.asked) - 1]
        if isinstance(reply, Exception):
            raise reply
        return reply

    def chat(self, **changes: Any) -> UrlChat:
        async def sleep(seconds: float) -> None:
            self.pauses.append(seconds)

        settings: dict[str, Any] = {
            "url": "http://judge.test/v1/", "model": "m", "headers": {"Authorization": "Bearer s3cret"},
            "transport": httpx.MockTransport(self), "sleep": sleep, "random": random.Random(1),
        }  # fmt: skip
        return UrlChat(**{**settings, **changes})


def said(content: str | None = "Kim.", **message: Any) -> httpx.Response:
    choice = {"message": {"role": "assistant", "content": content, **message}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 7, "completion_tokens": 2}
    return httpx.Response(200, json={"choices": [choice], "usage": usage})


def test_what_is_sent_and_what_comes_back() -> None:
    top = [{"token": "1", "logprob": -0.1}, {"token": "2", "logprob": -2.4}]
    reported = {"content": [{"token": "1", "logprob": -0.1, "top_logprobs": top}]}
    reply = httpx.Response(
        200,
        json={"choices": [{"message": {"content": "1"}, "finish_reason": "length", "logprobs": reported}]},
    )
    service = Service(said(), reply)
    assert say(service.chat()) == Reply(content="Kim.", prompt_tokens=7, completion_tokens=2)
    assert service.asked[0] == {"model": "m", "messages": ASK, "temperature": 0.0, "max_tokens": 512}
    sampling = Sampling(temperature=0.5, top_p=0.9, max_tokens=1, seed=3, stop=("\n",), top_logprobs=2)
    given = say(service.chat(), sampling, tools=[{"type": "function"}])
    assert given.top_logprobs == ({"1": -0.1, "2": -2.4},)
    assert given.finish_reason == "length"
    assert service.asked[1] == {
        "model": "m", "messages": ASK, "temperature": 0.5, "max_tokens": 1, "top_p": 0.9, "seed": 3, "stop": ["\n"],
        "logprobs": True, "top_logprobs": 2, "tools": [{"type": "function"}],
    }  # fmt: skip


def test_tool_calls_may_stand_without_text() -> None:
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    reply = say(Service(said(None, tool_calls=[call])).chat())
    assert reply.message() == {"role": "assistant", "content": "", "tool_calls": [call]}


def test_what_may_pass_is_asked_again_after_longer_and_longer_pauses() -> None:
    failures = [httpx.Response(429), httpx.Response(503), httpx.ReadTimeout("slow"), httpx.ConnectError("no")]
    service = Service(*failures, said())
    assert say(service.chat(attempts=5, pause=1.0)).content == "Kim."
    assert len(service.asked) == 5
    for pause, middle in zip(service.pauses, (1, 2, 4, 8), strict=True):
        assert 0.75 * middle <= pause <= 1.25 * middle


def test_the_pause_that_a_service_asks_for() -> None:
    service = Service(
        httpx.Response(429, headers={"retry-after": "7"}),
        httpx.Response(429, headers={"retry-after": "9999"}),
        httpx.Response(429, headers={"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}), said(),
    )  # fmt: skip
    say(service.chat(pause=0.01))
    assert service.pauses[:2] == [7.0, 30.0]
    assert service.pauses[2] < 1


@pytest.mark.parametrize(
    ("reply", "reason", "asked"),
    [
        (httpx.Response(401), "refused", 1),
        (httpx.Response(302, headers={"location": "http://elsewhere.test/"}), "refused", 1),
        (httpx.Response(500), "refused", 3),
        (httpx.Response(200, text="<html>"), "gave no text", 1),
        (httpx.Response(200, json=[]), "gave no text", 1),
        (httpx.Response(200, json={"choices": []}), "gave no text", 1),
        (said(None), "gave no text", 1),
        (httpx.ConnectError("refused"), "unreachable", 3),
        (httpx.ReadTimeout("slow"), "timed out", 3),
    ],
)
def test_failures_have_reasons(reply: Any, reason: str, asked: int) -> None:
    service = Service(reply, reply, reply)
    with pytest.raises(ChatError) as caught:
        say(service.chat(attempts=3))
    assert caught.value.reason == reason
    assert len(service.asked) == asked
    assert "s3cret" not in str(caught.value)


def test_a_service_that_never_ends_its_answer() -> None:
    async def forever(request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(60)
        return said()

    model = Service().chat(transport=httpx.MockTransport(forever), timeout=0.05, attempts=1)
    with pytest.raises(ChatError, match=r"within 0\.05 s"):
        say(model)


def test_the_key_comes_from_the_environment_and_is_shown_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", "s3cret")
    model = UrlChat.of("http://judge.test/v1", "m", key_variable="JUDGE_KEY")
    assert model.headers == {"Authorization": "Bearer s3cret"}
    assert "s3cret" not in repr(model) + model.name
    assert model.name == "m at http://judge.test/v1"
    assert UrlChat.of("http://judge.test/v1", "m").headers == {}
    monkeypatch.delenv("JUDGE_KEY")
    with pytest.raises(ConfigError, match="JUDGE_KEY is not set"):
        UrlChat.of("http://judge.test/v1", "m", key_variable="JUDGE_KEY")
    for url in ("judge.test", "ftp://judge.test", "http://me:s3cret@judge.test/v1"):
        with pytest.raises(ConfigError) as caught:
            UrlChat(url=url, model="m")
        assert "s3cret" not in str(caught.value)


def test_scripts() -> None:
    model = ScriptedChat(["a", ChatError("timed out"), Reply(content="b")])
    assert say(model).content == "a"
    with pytest.raises(ChatError):
        say(model)
    assert [say(model).content, say(model).content] == ["b", "a"]
    assert say(ScriptedChat(lambda messages: messages[-1]["content"].upper())).content == "WHO?"
    assert model.asked == [ASK] * 4


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "model"
    tokenizer = Tokenizer(tokenizer_files(Alphabet.of([]), []))
    config = ModelConfig(
        hidden_size=32, num_layers=1, num_heads=2, pattern=("gqa",), vocab_size=tokenizer.vocab_size, max_context=128
    )  # fmt: skip
    save_model(Decoder(config, generator=torch.Generator().manual_seed(0)), folder)
    tokenizer.save(folder)
    return folder


@pytest.fixture(scope="module")
def local(directory: Path) -> Any:
    model = LocalChat.open(directory)
    yield model
    model.close()


def test_a_model_directory_says_what_its_engine_generates(local: LocalChat) -> None:
    engine = local.engine
    for temperature in (0.0, 1.0):
        reply = say(local, Sampling(temperature=temperature, seed=5, max_tokens=12))
        params = SamplingParams(
            max_tokens=12, temperature=temperature, seed=5, stop_ids=engine.tokenizer.stop_ids
        )
        prompt = chat_prompt(engine.tokenizer, ASK)
        completion = engine.generate([Request(id="x", prompt_ids=prompt, params=params)])[0]
        assert reply.content.strip("\n") == completion_text(engine.tokenizer, completion.ids).strip("\n")
        assert reply.completion_tokens == completion.usage.completion_tokens
        assert reply.prompt_tokens == len(prompt)
        assert reply.finish_reason == completion.finish_reason


def test_reported_alternatives_of_a_model_directory(local: LocalChat) -> None:
    reply = say(local, Sampling(max_tokens=3, top_logprobs=20))
    assert len(reply.top_logprobs) == reply.completion_tokens > 0
    assert all(
        0 < sum(map(math.exp, top.values())) <= 1 + 1e-6 and len(top) <= 21 for top in reply.top_logprobs
    )
    assert say(local, Sampling(max_tokens=3)).top_logprobs == ()


def test_many_conversations_at_once_say_what_they_say_alone(local: LocalChat) -> None:
    asked = [[{"role": "user", "content": f"{number} " * number}] for number in range(1, 9)]

    async def together() -> list[Reply]:
        return list(
            await asyncio.gather(*(local.chat(messages, None, Sampling(max_tokens=6)) for messages in asked))
        )

    async def alone() -> list[Reply]:
        return [await local.chat(messages, None, Sampling(max_tokens=6)) for messages in asked]

    assert asyncio.run(together()) == asyncio.run(alone())


def test_a_prompt_beyond_the_context_has_a_reason(local: LocalChat) -> None:
    with pytest.raises(ChatError) as caught:
        asyncio.run(local.chat([{"role": "user", "content": "far too long " * 40}]))
    assert caught.value.reason == "prompt too long"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"where": "http://a.test/v1"}, "serves models by name"),
        ({"where": "models/a", "model": "m"}, "is a directory"),
    ],
)
def test_words_that_do_not_fit(words: dict[str, str], message: str) -> None:
    make: Callable[..., ChatModel] = open_chat
    with pytest.raises(ConfigError, match=message):
        make(**words)


def test_open_by_word(directory: Path) -> None:
    assert open_chat("https://a.test/v1", model="m").name == "m at https://a.test/v1"
    model = open_chat(str(directory))
    assert isinstance(model, LocalChat)
    assert model.name.startswith("model ")
    model.close()
