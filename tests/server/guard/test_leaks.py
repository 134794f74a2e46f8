"""F19: a secret cut at every byte goes out on no route and in no channel, and streamed answers get the verdicts of whole ones.

The control takes the rules away, or the part that holds logs back, and the same check finds the secret.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from hanok.documents.answers import Grounded, Span
from hanok.guard.filter import OutputFilter
from hanok.guard.unseen import Unseen
from hanok.server import guarded
from hanok.server.chat import Chat
from hanok.server.principal import LOCAL
from hanok.server.schema import ChatRequest

KEY = "AKIAQWERTYUIOPASDF27"
PHONE = "010-1234-5678"
POLICY = "format = 1\n[rules.secrets]\n[rules.personal-data]\n[rules.unseen]\n"
ROUTES = ("chat", "completions", "responses", "messages")
OPEN, CLOSE = ["<think>"], ["</think>", "Done."]


def pieces(channel: str, front: str, back: str) -> list[str]:
    if channel == "text":
        return [f"Take {front}", f"{back} now."]
    if channel == "reasoning":
        return ["<think>", f"I know {front}", f"{back} well", "</think>", "Done."]
    return [
        "Look: ", "<tool_call>", '{"name": "save", "arguments": {"note": "use ' + front, back + ' here", "n": 1}}', "</tool_call>"
    ]  # fmt: skip


CASES = [
    *((route, "text") for route in ROUTES),
    *(
        (route, channel)
        for route in ("chat", "responses", "messages")
        for channel in ("reasoning", "arguments")
    ),
]


@pytest.mark.parametrize(("route", "channel"), CASES)
def test_f19_a_secret_cut_at_every_byte_goes_out_nowhere(
    scripted: Any, told: Any, body_of: Any, route: str, channel: str
) -> None:
    server = scripted(POLICY)
    logs = {"chat": {"logprobs": True, "top_logprobs": 2}, "completions": {"logprobs": 2}}.get(route, {})
    whole = None
    for place in range(len(KEY) + 1):
        for stream in (True, False) if place % 7 == 0 else (True,):
            server.says(*pieces(channel, KEY[:place], KEY[place:]), control=True)
            path, body = body_of(route, stream=stream, tools=channel == "arguments", max_tokens=500, **logs) if (
                route in ("chat", "completions")
            ) else body_of(route, stream=stream, tools=channel == "arguments")  # fmt: skip
            response = server.post(path, body)
            answer = told(route, response, stream=stream)
            assert KEY not in response.text
            assert not any(KEY[:8] in str(said) or KEY[-8:] in str(said) for said in answer.values())
            assert "[SECRET]" in answer[channel]
            seen = ({**answer, "arguments": answer["arguments"].replace(" ", "")}, [
                (one.rule, one.action, one.where, one.span, one.reason) for one in server.events
            ])  # fmt: skip
            whole = whole or seen
            assert seen == whole
    assert whole is not None
    assert [found[:2] for found in whole[1]] == [("secrets", "redact")]


@pytest.mark.parametrize("route", ROUTES)
def test_f19_the_control_without_the_rule_it_goes_out(
    scripted: Any, told: Any, body_of: Any, route: str
) -> None:
    server = scripted("format = 1")
    server.says(*pieces("text", KEY[:9], KEY[9:]))
    path, body = body_of(route, stream=True)
    assert KEY in told(route, server.post(path, body), stream=True)["text"]
    assert server.events == []


@pytest.mark.parametrize("route", ["chat", "completions"])
def test_f19_the_control_logs_that_do_not_wait_give_it_away(
    scripted: Any, told: Any, body_of: Any, route: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def all_at_once(self: guarded.Guarded) -> list[bool]:
        return [True] * 1000

    monkeypatch.setattr(guarded.Guarded, "fates", all_at_once)
    server = scripted(POLICY)
    server.says(*pieces("text", KEY[:9], KEY[9:]))
    path, body = body_of(route, stream=True, **({"logprobs": True} if route == "chat" else {"logprobs": 1}))
    answer = told(route, server.post(path, body), stream=True)
    assert KEY not in answer["text"]
    assert KEY in answer["tokens"]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("route", ["chat", "completions"])
def test_logs_of_what_is_shown_are_whole(
    scripted: Any, told: Any, body_of: Any, route: str, stream: bool
) -> None:
    server = scripted(POLICY)
    server.says("The tea", " house opens a", "t nine. ", KEY, " is the key.")
    logs = {"logprobs": True, "top_logprobs": 2} if route == "chat" else {"logprobs": 2}
    path, body = body_of(route, stream=stream, **logs)
    answer = told(route, server.post(path, body), stream=stream)
    assert answer["text"] == "The tea house opens at nine. [SECRET] is the key."
    assert answer["tokens"] == "The tea house opens at nine.  is the key."
    server.says("The tea house ", "opens at nine.")
    answer = told(
        route,
        server.post(path, body_of(route, stream=stream, stop=["opens at ten", "a h"], **logs)[1]),
        stream=stream,
    )
    assert answer["text"] == answer["tokens"][: len(answer["text"])] == "The te"


@pytest.mark.parametrize("route", ROUTES)
def test_personal_data_and_unseen_characters(scripted: Any, told: Any, body_of: Any, route: str) -> None:
    server = scripted(POLICY)
    hidden = "".join(chr(0xE0000 + ord(c)) for c in "obey")
    raw = f"연락처는 {PHONE}이고{hidden} 끝.".encode()
    expected = "연락처는 [전화번호]이고 끝."
    for place in range(0, len(raw) + 1, 3):
        server.says(raw[:place], raw[place:])
        path, body = body_of(route, stream=True)
        assert told(route, server.post(path, body), stream=True)["text"] == expected
    assert sorted(one.rule for one in server.events) == ["personal-data", "unseen"]


REASONS = {
    "chat": "content_filter", "completions": "content_filter", "responses": "content_filter", "messages": "refusal"
}  # fmt: skip


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("route", ROUTES)
def test_a_blocked_answer_ends_there(
    scripted: Any, told: Any, body_of: Any, route: str, stream: bool
) -> None:
    server = scripted("format = 1\n[rules.secrets]\naction = 'block'")
    server.says("It is ", KEY[:7], KEY[7:], " and", *[" more"] * 50)
    path, body = body_of(route, stream=stream)
    answer = told(route, server.post(path, body), stream=stream)
    assert answer["text"] == "It is "
    assert answer["reason"] == REASONS[route]
    assert server.said < 120  # the model was stopped
    (event,) = server.events
    assert (event.rule, event.action, event.direction, event.where, event.span) == (
        "secrets",
        "block",
        "output",
        "text",
        (6, 26),
    )
    assert (event.tenant, event.model, event.reason) == ("default", "m", "aws-access-key")
    metrics = server.get("/metrics").text
    name = 'hanok_guard_verdicts_total{action="block",direction="output",model="m",rule="secrets"} 1.0'
    assert name in metrics
    assert 'reason="content_filter"' in metrics


def test_one_of_several_samples_is_blocked(scripted: Any) -> None:
    server = scripted("format = 1\n[rules.secrets]\naction = 'block'")
    server.says("It is ", KEY, " and more")
    body = {"messages": [{"role": "user", "content": "hi"}], "n": 3}
    done = server.post("/v1/chat/completions", body).json()
    assert [choice["finish_reason"] for choice in done["choices"]] == ["content_filter"] * 3
    assert {event.where for event in server.events} == {"0.text", "1.text", "2.text"}
    assert done["usage"]["completion_tokens"] > 0


def test_a_completion_does_not_finish_the_key_that_the_prompt_began(
    scripted: Any, told: Any, body_of: Any
) -> None:
    server = scripted(POLICY)
    for place in range(1, len(KEY)):
        server.says(f"{KEY[place:]} is it.")
        path, body = body_of("completions", stream=False, content=f"The key {KEY[:place]}")
        answer = told("completions", server.post(path, body), stream=False)
        assert answer["text"] == "[SECRET] is it."


def test_arguments_are_read_inside_and_stay_json(scripted: Any, told: Any, body_of: Any) -> None:
    server = scripted(POLICY)
    escaped = KEY.replace("A", "\\u0041")
    arguments = (
        '{"password": "x9!Kq2Lm8#Zr", "list": ["' + escaped + '", 4111111111111111, true], "to": "a@b.kr"}'
    )
    server.says(
        "<tool_call>", '{"name": "save", "arguments": ' + arguments + "}", "</tool_call>", control=True
    )
    path, body = body_of("chat", stream=False, tools=True)
    message = server.post(path, body).json()["choices"][0]["message"]
    given = message["tool_calls"][0]["function"]["arguments"]
    assert given == '{"password": "[SECRET]", "list": ["[SECRET]", "[CARD]", true], "to": "[EMAIL]"}'
    assert {one.where for one in server.events} == {"calls.0"}


CALL = '{"name": "save", "arguments": %s}'


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    "said",
    [
        ["<tool_call>", CALL % f'{{"a": "{KEY}", "a": "x"}}', "</tool_call>"],  # the parser keeps one of them
        ["<tool_call>", CALL % f'{{"a": "{KEY}"}}', "</tool_call>", "Saved."],
        ["<tool_call>", CALL % f'{{"a": "{KEY}"}}'],  # whole without its end
        ["<tool_call>", '{"name": "save", "arguments": {"a": "' + KEY],  # never whole
        ["<tool_call>", CALL % "{}", "</tool_call>", f"Saved {KEY}."],
        ["<think>", "\n" * 3, "<tool_call>", f"{KEY}", "</tool_call>", "<think>", KEY],
    ],
)
def test_tokens_of_what_no_filter_let_through_are_not_told(
    scripted: Any, told: Any, body_of: Any, said: list[str], stream: bool
) -> None:
    server = scripted(POLICY)
    server.says("Look: ", *said, control=True)
    path, body = body_of("chat", stream=stream, tools=True, logprobs=True, top_logprobs=2)
    answer = told("chat", server.post(path, body), stream=stream)
    assert KEY not in str(answer)
    assert answer["tokens"].startswith("Look:")
    assert not {KEY[:8], KEY[-8:]} & {answer["tokens"][i : i + 8] for i in range(len(answer["tokens"]))}


@pytest.mark.parametrize("end", [["</tool_call>"], [], ["</tool_call>", "Saved."]])
def test_tokens_of_clean_calls_are_told(scripted: Any, told: Any, body_of: Any, end: list[str]) -> None:
    server = scripted(POLICY)
    server.says("Look: ", "<tool_call>", CALL % '{"a": "tea", "n": 1}', *end, control=True)
    path, body = body_of("chat", stream=True, tools=True, logprobs=True)
    answer = told("chat", server.post(path, body), stream=True)
    assert CALL % '{"a": "tea", "n": 1}' in answer["tokens"]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("action", ["redact", "block"])
def test_a_key_around_a_citation_that_is_taken_out(scripted: Any, action: str, stream: bool) -> None:
    server = scripted(f"format = 1\n[rules.secrets]\naction = '{action}'")
    server.says("It is ", KEY[:9], "[7]", KEY[9:], " so", *[" more"] * 50)
    body = ChatRequest.model_validate(
        {"model": "m", "messages": [{"role": "user", "content": "hi"}], "logprobs": True, "stream": stream}
    )
    grounded = Grounded(body.plain_messages(), (Span(0, 0, 1, {}),), (), 1.0, None)

    async def keep(*_: Any) -> None:
        return None

    async def ask() -> str:
        chat = await Chat.begin(server.services, body, LOCAL, keep=keep, grounded=grounded)
        try:
            return (
                "".join([one async for one in chat.events()]) if stream else json.dumps(await chat.complete())
            )
        finally:
            await chat.close()

    said = server.loop.run_until_complete(ask())
    assert '"logprob": -0.5' not in said
    assert KEY[9:] not in said
    assert ("content_filter" in said) is (action == "block")
    assert (server.said < 150) is (action == "block")  # the model was stopped
    assert [(one.action, one.where) for one in server.events] == [(action, "text")]


def test_the_last_filter_tells_the_rest_at_its_end() -> None:
    told: list[int] = []
    last = guarded.LastFilter(
        OutputFilter([Unseen()]), lambda found, _where, _places: told.append(len(found))
    )
    assert last.push("a\u202eb ", last=False) + last.push("c\u202e", last=True) == "ab c"
    assert told == [1, 1, 0]
