"""Anthropic's messages with the official client, and against a chat completion of the same conversation."""

from __future__ import annotations

import json
from typing import Any

import anthropic
import pytest

from hanok.engine.text import continued, opens_reasoning

GREETING = "안녕하세요, 한옥이에요. 🏡"
HOURS: Any = {
    "name": "hours", "input_schema": {"type": "object", "properties": {"place": {"type": "string"}}},
}  # fmt: skip


@pytest.fixture(scope="module")
def client(taught: Any) -> Any:
    with anthropic.Anthropic(base_url=taught.url, api_key="none", max_retries=0) as made:
        yield made


def ask(client: Any, text: str = "hi", **options: Any) -> Any:
    given = {"model": "taught", "max_tokens": 200, "extra_body": {"temperature": 0}, **options}
    return client.messages.create(**{"messages": [{"role": "user", "content": text}], **given})


def test_a_message_is_answered_as_a_chat_is(client: Any, taught: Any) -> None:
    done = ask(client)
    (block,) = done.content
    assert (block.type, block.text, done.stop_reason, done.role) == (
        "text",
        GREETING,
        "end_turn",
        "assistant",
    )
    chat = taught.openai.chat.completions.create(
        model="taught", temperature=0, messages=[{"role": "user", "content": "hi"}]
    )
    assert chat.choices[0].message.content == block.text
    assert done.usage.input_tokens + done.usage.cache_read_input_tokens == chat.usage.prompt_tokens
    assert done.usage.output_tokens == chat.usage.completion_tokens
    counted = client.messages.count_tokens(model="taught", messages=[{"role": "user", "content": "hi"}])
    assert counted.input_tokens == chat.usage.prompt_tokens


def test_tools_there_and_back(client: Any) -> None:
    first = ask(client, "open?", tools=[HOURS])
    (call,) = first.content
    assert (call.type, call.name, call.input, first.stop_reason) == (
        "tool_use",
        "hours",
        {"place": "찻집"},
        "tool_use",
    )
    result = {"type": "tool_result", "tool_use_id": call.id, "content": [{"type": "text", "text": "9-17"}]}
    messages = [
        {"role": "user", "content": "open?"}, {"role": "assistant", "content": first.content},
        {"role": "user", "content": [result]},
    ]  # fmt: skip
    assert ask(client, tools=[HOURS], messages=messages).content[0].text == "It opens at 9."


@pytest.mark.parametrize(
    "options",
    [
        {"text": "why?"},
        {"text": "why?", "thinking": True},
        {"text": "both?", "tools": [HOURS]},
        {"text": "hi"},
    ],
)
def test_events_tell_what_the_whole_message_says(thinker: Any, options: dict[str, Any]) -> None:
    given = {"model": "thinker", "max_tokens": 300, "extra_body": {"temperature": 0}}
    given["messages"] = [{"role": "user", "content": options["text"]}]
    given |= {"tools": options["tools"]} if "tools" in options else {}
    given |= {"thinking": {"type": "enabled", "budget_tokens": 1024}} if "thinking" in options else {}
    with anthropic.Anthropic(base_url=thinker.url, api_key="none", max_retries=0) as client:
        whole = client.messages.create(**given)
        with client.messages.stream(**given) as stream:
            kinds = [event.type for event in stream]
            final = stream.get_final_message()
        with client.messages.create(**given, stream=True) as raw:
            told = [event.type for event in raw if event.type != "ping"]
    assert [_plain(block) for block in final.content] == [_plain(block) for block in whole.content]
    assert (final.stop_reason, final.usage.output_tokens) == (whole.stop_reason, whole.usage.output_tokens)
    assert (told[0], told[-2], told[-1]) == ("message_start", "message_delta", "message_stop")
    assert told.count("content_block_start") == told.count("content_block_stop") == len(whole.content)
    assert kinds[-1] == "message_stop"
    types = [block.type for block in whole.content]
    if options["text"] == "why?":
        assert types == (["thinking", "text"] if "thinking" in options else ["text"])
        assert whole.content[-1].text == "Because."
    if options["text"] == "both?":
        assert types == ["text", "tool_use", "tool_use"]
        assert [block.input for block in whole.content[1:]] == [{"place": "찻집"}, {"place": "b"}]


def _plain(block: Any) -> dict[str, Any]:
    fields = block.model_dump()
    return {name: fields.get(name) for name in ("type", "text", "thinking", "name", "input")}


def test_why_it_stopped(client: Any) -> None:
    cut = ask(client, stop_sequences=["zz", "한옥"])
    assert (cut.stop_reason, cut.stop_sequence, cut.content[0].text) == (
        "stop_sequence",
        "한옥",
        "안녕하세요, ",
    )
    assert ask(client, max_tokens=3).stop_reason == "max_tokens"


def test_system_and_forced_tools(client: Any) -> None:
    assert ask(client, system=[{"type": "text", "text": "Be kind."}]).usage.input_tokens > 9
    forced = ask(client, "x", tools=[HOURS], tool_choice={"type": "tool", "name": "hours"}, max_tokens=400)
    assert [block.type for block in forced.content] == ["tool_use"]
    none = ask(client, "hi", tools=[HOURS], tool_choice={"type": "none"})
    assert none.content[0].text == GREETING


def test_a_schema_is_kept(client: Any) -> None:
    schema = {
        "type": "object",
        "properties": {"n": {"enum": [1, 2]}},
        "required": ["n"],
        "additionalProperties": False,
    }
    done = ask(client, output_config={"format": {"type": "json_schema", "schema": schema}})
    assert json.loads(done.content[0].text)["n"] in (1, 2)


def test_errors_come_in_anthropics_envelope(client: Any, taught: Any) -> None:
    with pytest.raises(anthropic.NotFoundError) as missing:
        ask(client, model="gpt-4")
    assert missing.value.body["error"]["type"] == "not_found_error"
    with pytest.raises(anthropic.BadRequestError, match="2048 tokens") as long:
        ask(client, "x" * 3000)
    assert long.value.body["type"] == "error"
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": ""}}
    with pytest.raises(anthropic.BadRequestError, match="no images"):
        ask(client, messages=[{"role": "user", "content": [image]}])
    with pytest.raises(anthropic.BadRequestError):
        ask(client, tools=[{"type": "web_search_20250305", "name": "web_search"}])
    broken = taught.http.post("/v1/messages", content=b"{", headers={"Content-Type": "application/json"})
    assert broken.json()["type"] == "error"
    assert broken.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("cut", [1, 6, 9, 13])
def test_an_answer_that_was_begun_is_gone_on_with(client: Any, cut: int) -> None:
    begun = GREETING[:cut]
    for content in (begun, [{"type": "text", "text": begun[:1]}, {"type": "text", "text": begun[1:]}]):
        messages: Any = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": content}]
        done = ask(client, messages=messages)
        assert begun + done.content[0].text == GREETING
        assert done.stop_reason == "end_turn"
    counted = client.messages.count_tokens(model="taught", messages=messages)
    assert counted.input_tokens == done.usage.input_tokens + done.usage.cache_read_input_tokens
    with client.messages.stream(
        model="taught", max_tokens=200, extra_body={"temperature": 0}, messages=messages
    ) as stream:
        assert begun + "".join(stream.text_stream) == GREETING


def test_what_was_begun_is_answered_without_thinking(thinker: Any) -> None:
    messages: Any = [{"role": "user", "content": "why?"}, {"role": "assistant", "content": "Be"}]
    with anthropic.Anthropic(base_url=thinker.url, api_key="none", max_retries=0) as client:
        given = {"model": "thinker", "max_tokens": 50, "messages": messages}
        with pytest.raises(anthropic.BadRequestError, match="leave thinking out"):
            client.messages.create(**given, thinking={"type": "enabled", "budget_tokens": 1024})
    tokenizer = thinker.engine.tokenizer
    asked = [tokenizer.bos_id, tokenizer.special["<think>"]]
    ids = continued(tokenizer, asked, "Be<|im_end|>")
    assert opens_reasoning(tokenizer, asked)
    assert not opens_reasoning(tokenizer, ids)
    assert tokenizer.decode(ids[2:], skip_special=False) == "</think>\n\nBe<|im_end|>"
    assert set(ids[3:]).isdisjoint(tokenizer.special.values())  # nobody ends the answer from within


@pytest.mark.parametrize(
    ("begun", "options", "why"),
    [
        ("I am ", {}, "cannot end with trailing whitespace"),
        ([{"type": "tool_use", "id": "a", "name": "hours", "input": {}}], {}, "only text can be continued"),
        ("{", {"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}}, "leave output_config"),
        ("I", {"tools": [HOURS], "tool_choice": {"type": "any"}}, "leave tool_choice out"),
    ],
)  # fmt: skip
def test_what_cannot_be_gone_on_with(client: Any, begun: Any, options: dict[str, Any], why: str) -> None:
    messages: Any = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": begun}]
    with pytest.raises(anthropic.BadRequestError, match=why):
        ask(client, messages=messages, **options)
    with pytest.raises(anthropic.BadRequestError, match="needs a question"):
        ask(client, messages=[{"role": "assistant", "content": "I"}])
