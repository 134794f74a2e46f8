"""What whoever asked is told of the guard's findings: the same on every route, streamed or not, and nothing hidden."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hanok.guard.filter import OutputFilter
from hanok.guard.phrases import Phrases
from hanok.guard.secrets import Secrets
from hanok.server.findings import MOST_TOLD

KEY = "AKIAQWERTYUIOPASDF27"
POLICY = """
format = 1
[rules.secrets]
on = ["input", "output"]
[rules.noted]
kind = "phrases"
phrases = ["lantern"]
[rules.quiet]
kind = "phrases"
phrases = ["candle"]
tell = false
[rules.end]
kind = "phrases"
phrases = ["the treasure lies"]
on = ["output"]
action = "block"
"""
ROUTES = ("chat", "completions", "responses", "messages")


def report(response: Any, *, stream: bool) -> dict[str, Any] | None:
    """The field `guard`, which may stand in a response within an event."""
    if not stream:
        return response.json().get("guard")
    lines = [line[6:] for line in response.text.splitlines() if line.startswith("data: {")]
    objects = [json.loads(line) for line in lines]
    found = [one.get("guard") or one.get("response", {}).get("guard") for one in objects]
    return next((one for one in reversed(found) if one), None)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("route", ROUTES)
def test_an_answer_says_what_was_found_and_where(
    scripted: Any, body_of: Any, told: Any, route: str, stream: bool
) -> None:
    server = scripted(POLICY)
    server.says("A la", f"ntern and {KEY[:7]}", f"{KEY[7:]} and ", "a lantern, a candle.")
    path, body = body_of(route, stream=stream, content=f"My {KEY} is no 🏮 lantern.")
    response = server.post(path, body)
    shown = told(route, response, stream=stream)["text"]
    found = report(response, stream=stream)
    assert found is not None
    assert found["omitted"] == 0
    where = "prompt" if route == "completions" else "messages.0"
    assert [one for one in found["findings"] if one["direction"] == "input"] == [
        {"direction": "input", "where": where, "rule": rule, "action": action, "reason": reason, "span": span}
        for rule, action, reason, span in (
            ("secrets", "redact", "aws-access-key", [3, 23]), ("noted", "flag", "phrase 1", [32, 39]),
        )
    ]  # fmt: skip
    said = [one for one in found["findings"] if one["direction"] == "output"]
    assert [(one["rule"], one["action"], one["where"], one["choice"]) for one in said] == [
        ("noted", "flag", "text", 0), ("secrets", "redact", "text", 0), ("noted", "flag", "text", 0),
    ]  # fmt: skip
    assert [shown[slice(*one["span"])] for one in said] == ["lantern", "[SECRET]", "lantern"]
    assert KEY not in response.text


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("route", ROUTES)
def test_an_answer_that_is_ended_names_the_rule(
    scripted: Any, body_of: Any, told: Any, route: str, stream: bool
) -> None:
    server = scripted(POLICY)
    server.says("Well, the tre", "asure lies under the oak.")
    path, body = body_of(route, stream=stream)
    response = server.post(path, body)
    (one,) = report(response, stream=stream)["findings"]  # type: ignore[index]
    assert (one["rule"], one["action"], one["where"]) == ("end", "block", "text")
    shown = told(route, response, stream=stream)["text"]
    assert shown == "Well, "
    assert one["span"] == [6, 6]


@pytest.mark.parametrize("route", ROUTES)
def test_nothing_found_is_nothing_said(scripted: Any, body_of: Any, route: str) -> None:
    server = scripted(POLICY)
    server.says("A candle.")  # a rule that notes in silence
    for stream in (True, False):
        path, body = body_of(route, stream=stream, content="a candle")
        response = server.post(path, body)
        assert response.status_code == 200
        assert '"guard"' not in response.text
    assert {event.rule for event in server.events} == {"quiet"}  # but those who listen hear it


@pytest.mark.parametrize("route", ROUTES)
def test_a_refused_request_says_where(scripted: Any, body_of: Any, route: str) -> None:
    server = scripted(POLICY.replace('on = ["input", "output"]', 'on = ["input"]\naction = "block"'))
    server.says("never")
    path, body = body_of(route, stream=True, content=f"My key is {KEY}.")
    response = server.post(path, body)
    assert response.status_code == 400
    (one,) = response.json()["error"]["guard"]["findings"]
    assert (one["rule"], one["action"], one["span"]) == ("secrets", "block", [10, 30])
    assert KEY not in response.text


def test_a_conversation_is_told_apart(scripted: Any) -> None:
    server = scripted(POLICY)
    server.says("ok")
    messages = [
        {"role": "system", "content": "a lantern"}, {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "well", "reasoning_content": "a lantern"}, {"role": "user", "content": "a lantern"},
    ]  # fmt: skip
    tools = [{"type": "function", "function": {"name": "save", "description": "a lantern"}}]
    found = server.post("/v1/chat/completions", {"messages": messages, "tools": tools}).json()["guard"]
    assert [(one["where"], one["span"]) for one in found["findings"]] == [
        ("messages.0", [2, 9]), ("messages.2", None), ("messages.3", [2, 9]), ("tools", None),
    ]  # fmt: skip


def test_the_best_of_several_answers_is_told_of_alone(scripted: Any) -> None:
    server = scripted(POLICY)
    server.says("a lantern")
    body = {"prompt": "hi", "n": 1, "best_of": 3, "temperature": 1.0}
    found = server.post("/v1/completions", body).json()["guard"]["findings"]
    assert [(one["choice"], one["where"]) for one in found] == [(0, "text")]
    several = server.post("/v1/completions", {"prompt": ["hi", "ho"], "n": 2}).json()["guard"]["findings"]
    assert sorted(one["choice"] for one in several) == [0, 1, 2, 3]


def test_a_list_without_end_is_cut(scripted: Any) -> None:
    server = scripted(POLICY)
    server.says("ok")
    many = " ".join(["lantern"] * (MOST_TOLD + 20))
    found = server.post("/v1/chat/completions", {"messages": [{"role": "user", "content": many}]}).json()[
        "guard"
    ]
    assert (len(found["findings"]), found["omitted"]) == (MOST_TOLD, 20)


@pytest.mark.parametrize("size", [1, 2, 5, 1000])
def test_places_are_those_of_what_was_let_go(size: int) -> None:
    """However the answer was cut, and with redactions beside and within each other."""
    text = f"lantern {KEY} lantern {KEY}, password: Xk29!fLmQ7#z lantern 열쇠 {KEY} red lantern, lantern."
    red = Phrases(["red lantern"], name="red", action="redact")
    one = OutputFilter([Secrets(), red, Phrases(["lantern"], name="noted", action="flag")])
    parts = [one.push(text[place : place + size]) for place in range(0, len(text), size)] + [one.finish()]
    shown = "".join(part.text for part in parts)
    found = [
        (finding.rule, finding.instead, shown[slice(*place)])
        for part in parts
        for finding, place in zip(part.findings, part.places, strict=True)
    ]
    (instead,) = {one for rule, one, _ in found if rule == "red"}
    assert KEY not in shown
    assert [there for rule, _, there in found if rule == "noted"] == ["lantern"] * 3 + [instead, "lantern"]
    assert all(there == one for rule, one, there in found if rule in ("secrets", "red"))
    assert [rule for rule, *_ in found].count("secrets") == 4


def test_a_key_that_begins_in_what_was_begun_does_not_go_on(scripted: Any) -> None:
    """Of Anthropic's route, whose last message may be the answer's beginning: its guard has read that too."""
    server = scripted(POLICY)
    begun = {"role": "assistant", "content": f"It is {KEY[:9]}"}
    body = {"messages": [{"role": "user", "content": "hi"}, begun], "max_tokens": 2000}
    server.says(f"{KEY[9:]} and no more.")
    (block,) = server.post("/v1/messages", body).json()["content"]
    assert KEY[9:] not in block["text"]
    assert block["text"].endswith(" and no more.")
    server.says("fine")
    begun["content"] = f"It is {KEY}, and"
    told = server.post("/v1/messages", body).json()["guard"]["findings"]
    assert [(one["direction"], one["where"], one["rule"]) for one in told] == [
        ("input", "messages.1", "secrets")
    ]
    assert KEY not in server.asked[-1]
