"""Structured answers and forced calls of a random model, over HTTP with the official client."""

from __future__ import annotations

import itertools
import json
import re
from typing import Any

import jsonschema
import openai
import pydantic
import pytest

ASK = [{"role": "user", "content": "서점은 언제 여나요?"}]
WORD = {"type": "string", "maxLength": 6}
SCHEMA = {
    "$defs": {"day": {"enum": ["월", "화", "수"]}},
    "type": "object",
    "properties": {
        "name": WORD, "hour": {"type": "integer", "minimum": 0, "maximum": 23},
        "days": {"type": "array", "items": {"$ref": "#/$defs/day"}, "minItems": 1, "maxItems": 3},
    },
    "required": ["name", "hour", "days"], "additionalProperties": False,
}  # fmt: skip
HOURS = {"type": "function", "function": {"name": "hours", "parameters": SCHEMA}}
BARE = {"type": "function", "function": {"name": "list_places"}}


def chat(server: Any, seed: int = 0, **options: Any) -> Any:
    given = {
        "model": server.model,
        "messages": ASK,
        "max_tokens": 400,
        "seed": seed,
        "temperature": 1.0,
        **options,
    }
    return server.openai.chat.completions.create(**given)


def both(server: Any, seed: int = 0, **options: Any) -> Any:
    """The answer, streamed and not, which are the same."""
    whole = chat(server, seed, **options).choices[0]
    with chat(server, seed, stream=True, **options) as stream:
        choices = list(itertools.chain.from_iterable(chunk.choices for chunk in stream))
    assert "".join(choice.delta.content or "" for choice in choices) == (whole.message.content or "")
    assert choices[-1].finish_reason == whole.finish_reason
    calls = [call for choice in choices for call in choice.delta.tool_calls or []]
    names = [c.function.name for c in calls if c.function.name]
    arguments = ["".join(c.function.arguments for c in calls if c.index == n) for n in range(len(names))]
    assert list(zip(names, arguments, strict=True)) == called(whole)
    return whole


def called(choice: Any) -> list[tuple[str, str]]:
    return [(call.function.name, call.function.arguments) for call in choice.message.tool_calls or []]


def format_of(schema: Any, **fields: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, **fields}}


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("options", [
    {"response_format": format_of(SCHEMA, strict=True)},
    {"extra_body": {"structured_outputs": {"json": SCHEMA}}},
    {"extra_body": {"guided_json": json.dumps(SCHEMA)}},
])  # fmt: skip
def test_answers_fit_the_schema(server: Any, seed: int, options: dict[str, Any]) -> None:
    choice = both(server, seed, **options)
    assert choice.finish_reason == "stop"
    jsonschema.validate(json.loads(choice.message.content), SCHEMA)


class Place(pydantic.BaseModel):
    """As people write them."""

    name: str = pydantic.Field(max_length=5, description="of the place")
    hour: int | None = pydantic.Field(ge=0, le=23)
    notes: list[str] = pydantic.Field(max_length=0)


def test_a_pydantic_class_is_parsed(server: Any) -> None:
    options = {"model": server.model, "messages": ASK, "seed": 1, "max_tokens": 400, "response_format": Place}
    place = server.openai.chat.completions.parse(**options).choices[0].message.parsed
    assert isinstance(place, Place)


def test_any_json_object(server: Any) -> None:
    small = {"max_tokens": 60, "response_format": {"type": "json_object"}}
    found = [both(server, seed, **small) for seed in range(8)]
    whole = [json.loads(one.message.content) for one in found if one.finish_reason == "stop"]
    assert whole
    assert all(isinstance(value, dict) for value in whole)


@pytest.mark.parametrize("extra", [
    {"structured_outputs": {"regex": "\n?[가-힣]{2,4} [0-9]{1,2}시\n?"}}, {"guided_regex": "\n{2}[가-힣]{2,4} [0-9]{1,2}시"},
    {"structured_outputs": {"choice": ["찻집 9시", "서점 10시"]}}, {"guided_choice": ["찻집 9시"]},
    {"structured_outputs": {"grammar": 'start: /[가-힣]{2}/ " " /[0-9]/ "시"'}},
    {"guided_grammar": 'root ::= [가-힣] [가-힣] " " [0-9] "시"'},
])  # fmt: skip
def test_other_forms(server: Any, extra: dict[str, Any]) -> None:
    for seed in range(3):
        choice = both(server, seed, extra_body=extra)
        assert re.fullmatch("\n*[가-힣]{2,4} [0-9]{1,2}시\n?", choice.message.content)
        assert choice.finish_reason == "stop"
        if "guided_regex" in extra:
            assert choice.message.content.startswith("\n\n")


def test_several_samples(server: Any) -> None:
    done = chat(server, n=3, response_format=format_of(SCHEMA))
    texts = [choice.message.content for choice in done.choices]
    for text in texts:
        jsonschema.validate(json.loads(text), SCHEMA)
    assert len(set(texts)) == 3


@pytest.mark.parametrize("seed", range(2))
def test_a_named_function_is_called(server: Any, seed: int) -> None:
    named = {"type": "function", "function": {"name": "hours"}}
    choice = both(server, seed, tools=[BARE, HOURS], tool_choice=named)
    ((name, arguments),) = called(choice)
    assert (name, choice.finish_reason, choice.message.content) == ("hours", "tool_calls", None)
    jsonschema.validate(json.loads(arguments), SCHEMA)


def test_some_function_is_called(server: Any) -> None:
    for letter, wanted in (("h", "hours"), ("l", "list_places")):
        bias = {str(server.engine.tokenizer.encode(letter)[0]): 10}
        options = {
            "tools": [HOURS, BARE],
            "tool_choice": "required",
            "parallel_tool_calls": False,
            "logit_bias": bias,
        }
        ((name, arguments),) = called(both(server, **options))
        jsonschema.validate(json.loads(arguments), SCHEMA if name == "hours" else {"maxProperties": 0})
        assert name == wanted


def test_several_calls(server: Any) -> None:
    end = {str(token): -5 for token in server.engine.tokenizer.stop_ids}
    found = [
        chat(server, seed, tools=[BARE], tool_choice="required", logit_bias=end).choices[0]
        for seed in range(3)
    ]
    assert max(len(called(choice)) for choice in found) > 1
    assert {name for choice in found for name, _ in called(choice)} == {"list_places"}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("options", "param", "message"), [
    ({"response_format": format_of({"type": "array", "uniqueItems": True})}, "response_format", "uniqueItems is not supported"),
    ({"response_format": format_of({"type": "text"})}, "response_format", "Invalid type: text"),
    ({"structured_outputs": {"regex": "("}}, "structured_outputs.regex", "unclosed group"),
    ({"structured_outputs": {"choice": []}}, "structured_outputs.choice", "no list of strings"),
    ({"guided_grammar": "start: <|im_start|>"}, "guided_grammar", "control tokens"),
    ({"guided_json": "{"}, "guided_json", "not JSON"),
    ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {"not": {}}}}], "tool_choice": "required"},
     "tools", "parameters of f: #: not is not supported"),
    ({"response_format": {"type": "json_schema"}}, "response_format", "json_schema belongs to"),
    ({"structured_outputs": {"whitespace": "x"}}, "structured_outputs.whitespace", "not permitted"),
    ({"structured_outputs": {}}, None, "needs one of"),
    ({"guided_regex": "a", "guided_choice": ["a"]}, None, "guided_regex and guided_choice are both given"),
    ({"guided_regex": "a", "tools": [BARE]}, None, "guided_regex and tools cannot be asked for together"),
    ({"tools": [BARE], "tool_choice": {"type": "function", "function": {"name": "other"}}}, None, 'names "other"'),
    ({"tools": [BARE], "parallel_tool_calls": False}, None, "parallel_tool_calls"),
])  # fmt: skip
def test_refusals(
    server: Any, options: dict[str, Any], param: str | None, message: str, stream: bool
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        chat(server, stream=stream, extra_body=options)
    assert message in caught.value.message
    assert (caught.value.param, caught.value.type) == (param, "invalid_request_error")


def test_a_request_that_gets_stuck_says_so(server: Any) -> None:
    hard = {"structured_outputs": {"regex": "(.{0,100}a){50}"}}
    letters = {str(server.engine.tokenizer.encode(letter)[0]): 60 for letter in "ab"}
    with pytest.raises(openai.BadRequestError, match="costs too much"):
        chat(server, max_tokens=1500, logit_bias=letters, extra_body=hard)
    with (
        pytest.raises(openai.APIError, match="costs too much"),
        chat(server, max_tokens=1500, logit_bias=letters, extra_body=hard, stream=True) as stream,
    ):
        list(stream)
