"""OpenAI's responses with the official client: one at a time, as a stream, and one after the other."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import openai
import pydantic
import pytest

from hanok.store.responses import ResponseTable

GREETING = "안녕하세요, 한옥이에요. 🏡"
HOURS = {
    "type": "function", "name": "hours",
    "parameters": {"type": "object", "properties": {"place": {"type": "string"}}},
}  # fmt: skip
CHECKED = {"id", "created_at", "completed_at", "output", "usage"}


def respond(server: Any, **options: Any) -> Any:
    given = {"model": server.model, "input": "hi", "temperature": 0, "max_output_tokens": 200, **options}
    return server.openai.responses.create(**given)


def told(server: Any, **options: Any) -> list[Any]:
    with respond(server, stream=True, **options) as stream:
        return list(stream)


def plain(items: Any) -> list[dict[str, Any]]:
    """Without ids, which are new each time."""
    return [
        {name: value for name, value in item.model_dump().items() if name not in ("id", "call_id")} for item in items
    ]  # fmt: skip


def test_a_text_is_answered(taught: Any) -> None:
    done = respond(taught, instructions=None, metadata={"a": "b"}, user="me")
    assert (done.output_text, done.status, done.object) == (GREETING, "completed", "response")
    assert done.usage.total_tokens == done.usage.input_tokens + done.usage.output_tokens
    assert (done.metadata, done.truncation, done.error) == ({"a": "b"}, "disabled", None)
    items = [{"role": "user", "content": [{"type": "input_text", "text": "hi"}]}]
    assert respond(taught, input=items).output_text == GREETING


@pytest.mark.parametrize(
    "options",
    [
        {"input": "hi"},
        {"input": "why?"},
        {"input": "both?", "tools": [HOURS]},
        {"input": "why?", "max_output_tokens": 8},
    ],
)
def test_events_tell_what_the_whole_response_says(thinker: Any, options: dict[str, Any]) -> None:
    whole, events = respond(thinker, **options), told(thinker, **options)
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [event.type for event in events[:2]] == ["response.created", "response.in_progress"]
    last = events[-1]
    assert last.type == f"response.{whole.status}"
    assert plain(last.response.output) == plain(whole.output)
    opened: dict[int, Any] = {}
    for event in events:
        if event.type == "response.output_item.added":
            assert event.output_index == len(opened)
            opened[event.output_index] = ""
        elif event.type.endswith(".delta"):
            opened[event.output_index] += event.delta
        elif event.type in ("response.output_text.done", "response.reasoning_text.done"):
            assert event.text == opened[event.output_index]
        elif event.type == "response.function_call_arguments.done":
            assert event.arguments == opened[event.output_index]
            json.loads(event.arguments)
        elif event.type == "response.output_item.done":
            assert event.item == last.response.output[event.output_index]
    assert len(opened) == len(whole.output)


def test_reasoning_is_an_item_of_its_own(thinker: Any) -> None:
    reasoning, message = respond(thinker, input="why?").output
    assert (reasoning.type, reasoning.content[0].text) == ("reasoning", "음, 왜냐면")
    assert message.content[0].text == "Because."
    usage = respond(thinker, input="why?").usage
    assert 0 < usage.output_tokens_details.reasoning_tokens < usage.output_tokens


def test_two_calls_at_once(thinker: Any) -> None:
    message, first, second = respond(thinker, input="both?", tools=[HOURS]).output
    assert message.content[0].text == "Look:"
    assert [json.loads(call.arguments) for call in (first, second)] == [{"place": "찻집"}, {"place": "b"}]
    assert first.call_id != second.call_id


def test_the_clients_stream_accumulates_the_same(taught: Any) -> None:
    with taught.openai.responses.stream(model=taught.model, input="hi", temperature=0) as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        assert stream.get_final_response().output_text == text == GREETING


def test_parse_gives_an_object(server: Any) -> None:
    class Place(pydantic.BaseModel):
        name: str = pydantic.Field(max_length=6)
        hour: int = pydantic.Field(ge=0, le=23)

    done = server.openai.responses.parse(
        model=server.model, input="x", text_format=Place, max_output_tokens=400
    )
    assert isinstance(done.output_parsed, Place)


def test_a_call_and_its_result_within_one_conversation(taught: Any) -> None:
    """The client sends the result alone: what was said before is kept here."""
    first = respond(taught, input="open?", tools=[HOURS])
    (call,) = first.output
    assert (call.type, call.name, json.loads(call.arguments)) == ("function_call", "hours", {"place": "찻집"})
    result: Any = [{"type": "function_call_output", "call_id": call.call_id, "output": "9-17"}]
    second = respond(taught, input=result, tools=[HOURS], previous_response_id=first.id)
    assert second.output_text == "It opens at 9."
    items: Any = [{"role": "user", "content": "open?"}, call.model_dump(), *result]
    stateless = respond(taught, input=items, tools=[HOURS], store=False)
    assert stateless.output_text == second.output_text
    assert stateless.usage.input_tokens == second.usage.input_tokens


def test_kept_ones_can_be_read_and_deleted(taught: Any) -> None:
    client, done = taught.openai.responses, respond(taught)
    kept = client.retrieve(done.id)
    assert kept.model_dump(exclude={"completed_at"}) == done.model_dump(exclude={"completed_at"})
    (item,) = client.input_items.list(done.id).data
    assert item.content[0].text == "hi"
    client.delete(done.id)
    with pytest.raises(openai.NotFoundError):
        client.retrieve(done.id)
    with pytest.raises(openai.BadRequestError) as caught:
        respond(taught, previous_response_id=done.id)
    assert caught.value.code == "previous_response_not_found"


def test_tokens_are_counted_as_they_are_read(taught: Any) -> None:
    options: dict[str, Any] = {"model": taught.model, "instructions": "Be brief.", "tools": [HOURS]}
    counted = taught.openai.responses.input_tokens.count(input="hi", **options)
    read = taught.openai.responses.create(input="hi", max_output_tokens=1, **options)
    assert counted.input_tokens == read.usage.input_tokens
    further = {"input": "and?", "previous_response_id": read.id, "model": taught.model}
    counted = taught.openai.responses.input_tokens.count(**further)
    assert (
        counted.input_tokens
        == taught.openai.responses.create(**further, max_output_tokens=1).usage.input_tokens
    )
    with pytest.raises(openai.BadRequestError):
        taught.openai.responses.input_tokens.count(
            model=taught.model, input="x", previous_response_id="resp_none"
        )


def test_what_is_not_to_be_kept_is_not(taught: Any) -> None:
    done = respond(taught, store=False)
    with pytest.raises(openai.NotFoundError):
        taught.openai.responses.retrieve(done.id)


def test_items_come_in_pages(taught: Any) -> None:
    items: Any = [{"role": "user", "content": f"{n}"} for n in range(5)]
    done = respond(taught, input=items)
    pages = taught.openai.responses.input_items.list(done.id, limit=2, order="asc")
    assert [item.content[0].text for item in pages] == ["0", "1", "2", "3", "4"]


def test_other_tenants_have_none(taught: Any) -> None:
    done, table = respond(taught), ResponseTable(taught.store)
    kept = table.find(done.id, tenant="default")
    assert kept is not None
    assert table.find(done.id, tenant="other") is None
    assert not table.delete(done.id, tenant="other")
    foreign = dataclasses.replace(kept, id="resp_" + "0" * 32, tenant="other")
    table.add(foreign)
    with pytest.raises(openai.NotFoundError):
        taught.openai.responses.retrieve(foreign.id)
    with pytest.raises(openai.NotFoundError):
        taught.openai.responses.delete(foreign.id)
    assert table.find(foreign.id, tenant="other") == foreign


def test_one_under_way_can_be_cancelled(server: Any) -> None:
    """Whoever reads it sees its end. The engine sleeps meanwhile, so that the answer cannot be there first."""
    server.engine.sleep()
    try:
        with respond(server, stream=True, max_output_tokens=1900) as stream:
            first = next(iter(stream))
            cancelled = server.openai.responses.cancel(first.response.id)
            rest = list(stream)
    finally:
        server.engine.wake()
    assert cancelled.status == "cancelled"
    assert rest[-1].response.status == "cancelled"
    assert server.openai.responses.retrieve(first.response.id).status == "cancelled"
    with pytest.raises(openai.BadRequestError, match="under way"):
        server.openai.responses.cancel(first.response.id)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"truncation": "auto"}, "disabled"),
        ({"background": True, "stream": True}, "asked for again until it has ended"),
        ({"background": True, "store": False}, "is kept"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "an item is a message"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, "input_text"),
        ({"tools": [{"type": "web_search"}]}, "function"),
        ({"text": {"format": {"type": "json_schema"}}}, "needs schema"),
        ({"tool_choice": "required"}, "needs tools"),
        ({"input": "x" * 3000}, "2048 tokens"),
        ({"input": []}, "at least 1"),
        ({"previous_response_id": "resp_x"}, "is kept here"),
    ],
)
def test_bad_requests_say_what_is_wrong(server: Any, changes: dict[str, Any], message: str) -> None:
    response = server.http.post("/v1/responses", json={"model": server.model, "input": "a", **changes})
    assert response.status_code == 400
    assert message in response.json()["error"]["message"]
