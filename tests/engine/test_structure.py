"""Structured answers of random models: whatever they are held to, they keep to it."""

from __future__ import annotations

import json
import random
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import jsonschema
import pytest
import regex

from hanok.engine.api import Completion, Request, SamplingParams, Structure
from hanok.engine.coverage import block_bytes
from hanok.engine.generator import LocalEngine
from hanok.engine.paged import PagedScheduler
from hanok.errors import StructureError
from hanok.kernels.native import native_available
from hanok.models.checkpoint import load_config

WORD = {"type": "string", "maxLength": 8}
SCHEMAS: dict[str, Any] = {
    "flat": {"type": "object", "properties": {"name": WORD, "open": {"type": "boolean"}}, "required": ["name", "open"]},
    "closed": {"type": "object", "properties": {"a": WORD, "b": WORD}, "additionalProperties": False},
    "nested": {
        "type": "object",
        "properties": {"at": {"type": "object", "properties": {"x": {"type": "null"}, "y": WORD}, "required": ["x"]}},
        "required": ["at"], "additionalProperties": False,
    },
    "enum": {"enum": ["찻집", "서점", 3, None, {"deep": [1, "하나"]}]},
    "const": {"const": {"한": ["옥", 1.5]}},
    "array": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 9}, "minItems": 2, "maxItems": 4},
    "empty array": {"type": "array", "items": False},
    "tuple": {"type": "array", "prefixItems": [WORD, {"type": "boolean"}], "items": False, "minItems": 2},
    "integer range": {"type": "integer", "minimum": -37, "maximum": 1205},
    "number range": {"type": "number", "exclusiveMinimum": -1.5, "maximum": 2.25},
    "multiple": {"type": "integer", "multipleOf": 7, "minimum": 0, "maximum": 300},
    "reference": {
        "$defs": {"place": {"type": "object", "properties": {"name": WORD}, "required": ["name"], "additionalProperties": False}},
        "type": "array", "items": {"$ref": "#/$defs/place"}, "minItems": 1, "maxItems": 2,
    },
    "recursion": {
        "$defs": {"tree": {
            "type": "object", "properties": {"leaf": {"type": "boolean"}, "left": {"$ref": "#/$defs/tree"}},
            "required": ["leaf"], "additionalProperties": False,
        }},
        "$ref": "#/$defs/tree",
    },
    "any of": {"anyOf": [{"type": "integer", "minimum": 0, "maximum": 5}, WORD, {"type": "null"}]},
    "one of": {"oneOf": [
        {"type": "object", "properties": {"kind": {"const": "a"}, "n": {"type": "boolean"}}, "required": ["kind", "n"],
         "additionalProperties": False},
        {"type": "object", "properties": {"kind": {"const": "b"}}, "required": ["kind"], "additionalProperties": False},
    ]},
    "all of": {"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 11}]},
    "pattern": {"type": "string", "pattern": "^[가-힣]{2,4}-[0-9]{3}$"},
    "part of a pattern": {"type": "string", "pattern": "[0-9]{2}", "maxLength": 12},
    "lengths": {"type": "string", "minLength": 3, "maxLength": 5},
    "date": {"type": "string", "format": "date"},
    "uuid": {"type": "string", "format": "uuid"},
    "types": {"type": ["boolean", "null"]},
    "map": {"type": "object", "additionalProperties": {"type": "boolean"}, "minProperties": 1, "maxProperties": 3},
    "named by pattern": {
        "type": "object", "patternProperties": {"^k[0-9]$": WORD}, "additionalProperties": False, "maxProperties": 2,
    },
    "optional": {
        "type": "object", "properties": {"a": WORD, "b": WORD, "c": WORD}, "required": ["b"],
        "additionalProperties": False,
    },
}  # fmt: skip
REGEXES = [
    "[가-힣]{2,5}",
    "[0-9]{3}-[0-9]{4}",
    "(ab|a)*c?",
    r"a.c\n?",
    "x{0,3}y+z",
    "(?i)hanok",
    r"[^a-z]{1,4}\.",
    "가(나|다라)*마",
]


@pytest.fixture(scope="module", params=["torch", "native"])
def models_engine(
    request: pytest.FixtureRequest, tiny: ModuleType, tmp_path_factory: Any
) -> Iterator[LocalEngine]:
    """One that PyTorch runs, over bytes; one on the kernels, over pieces of many bytes."""
    directory = tmp_path_factory.mktemp("structure") / "model"
    if request.param == "torch":
        engine = LocalEngine(tiny.save_tiny_model(directory))
    elif native_available():
        engine = native_engine(tiny, directory)
    else:
        pytest.skip("the native kernels are not built")
    yield engine
    engine.close()


def native_engine(tiny: ModuleType, directory: Path, **options: Any) -> LocalEngine:
    tiny.save_tiny_model(
        directory, tokenizer=tiny.merged_tokenizer(), pattern=("gqa",), hidden_size=64, head_dim=32
    )
    return LocalEngine(directory, weights="bf16", **options)


def schema(value: Any) -> Structure:
    return Structure(kind="json_schema", value=json.dumps(value))


def asked(
    structure: Structure | None, seed: int = 0, *, prompt: tuple[int, ...] = (20, 30), **params: Any
) -> Request:
    given = {"seed": seed, "max_tokens": 300, "structure": structure, **params}
    return Request(id=str(seed), prompt_ids=prompt, params=SamplingParams(**given))


def strict_text(engine: LocalEngine, completion: Completion) -> str:
    """Raises where it is no UTF-8."""
    return b"".join(engine.tokenizer.token_bytes(token) for token in completion.ids).decode()


@pytest.mark.parametrize("name", SCHEMAS)
def test_answers_are_valid(models_engine: LocalEngine, name: str) -> None:
    validator = jsonschema.Draft202012Validator(SCHEMAS[name], format_checker=jsonschema.FormatChecker())
    closing = {models_engine.tokenizer.encode(mark)[0]: 2.0 for mark in '"}]'}
    done = models_engine.generate(
        [asked(schema(SCHEMAS[name]), seed, logit_bias=closing) for seed in range(4)]
    )
    whole = [completion for completion in done if completion.finish_reason != "length"]
    assert whole
    for completion in whole:
        assert completion.finish_reason == "stop"
        validator.validate(json.loads(strict_text(models_engine, completion)))


def test_any_object(models_engine: LocalEngine) -> None:
    done = models_engine.generate(
        [asked(Structure(kind="json_object"), seed, max_tokens=60) for seed in range(12)]
    )
    whole = [completion for completion in done if completion.finish_reason == "stop"]
    assert whole
    for completion in whole:
        assert isinstance(json.loads(strict_text(models_engine, completion)), dict)


@pytest.mark.parametrize("pattern", REGEXES)
def test_regular_expressions(models_engine: LocalEngine, pattern: str) -> None:
    done = models_engine.generate([asked(Structure(kind="regex", value=pattern), seed) for seed in range(6)])
    for completion in done:
        assert completion.finish_reason == "stop"
        assert re.fullmatch(pattern, strict_text(models_engine, completion))


def test_choice(models_engine: LocalEngine) -> None:
    choices = ["찻집", "찻집 둘", "a", "ab", '"quoted"\\n', "줄\n바꿈", "🏡"]
    structure = Structure(kind="choice", value=json.dumps(choices))
    done = models_engine.generate([asked(structure, seed, temperature=3.0) for seed in range(40)])
    said = {strict_text(models_engine, completion) for completion in done}
    assert said <= set(choices)
    assert len(said) > 1


@pytest.mark.parametrize("text", [
    'start: item ("," item)*\nitem: NAME "=" NUMBER\nNAME: /[가-힣]{1,3}/\nNUMBER: /[0-9]{1,3}/',
    'root ::= item ("," item)*\nitem ::= name "=" [0-9]+  # a number\nname ::= [가-힣]+',
])  # fmt: skip
def test_grammars_in_lark_and_in_ebnf(models_engine: LocalEngine, text: str) -> None:
    for completion in models_engine.generate(
        [asked(Structure(kind="lark", value=text), seed) for seed in range(6)]
    ):
        partial = completion.finish_reason == "length"
        said = models_engine.tokenizer.decode(completion.ids).removesuffix("\ufffd")
        assert regex.fullmatch("[가-힣]+=[0-9]+(,[가-힣]+=[0-9]+)*", said, partial=partial)


def test_forced_calls(models_engine: LocalEngine) -> None:
    functions = [{"name": "hours", "parameters": SCHEMAS["reference"]["$defs"]["place"]}, {"name": '한"옥'}]
    functions.append({"name": "tree", "parameters": SCHEMAS["recursion"]})
    structure = Structure(kind="tool_calls", value=json.dumps({"functions": functions, "several": True}))
    schemas = {one["name"]: one.get("parameters", {"additionalProperties": False}) for one in functions}
    seen = set()
    for completion in models_engine.generate([asked(structure, seed, temperature=4.0) for seed in range(16)]):
        content, calls = models_engine.tokenizer.parse_assistant(completion.ids)
        assert calls or completion.finish_reason == "length"
        if completion.finish_reason == "stop":
            assert content == ""
        for call in calls:
            name, arguments = call["function"]["name"], json.loads(call["function"]["arguments"])
            jsonschema.validate(arguments, schemas[name])
            assert isinstance(arguments, dict)
            seen.add(name)
    assert seen == set(schemas)


def test_company_changes_nothing(models_engine: LocalEngine) -> None:
    names = random.Random(0).sample(sorted(SCHEMAS), 10)
    requests = [
        asked(schema(SCHEMAS[name]), seed, logprobs=2, max_tokens=60) for seed, name in enumerate(names)
    ]
    requests += [asked(None, 50 + seed, max_tokens=40) for seed in range(4)]
    together = models_engine.generate(requests)
    assert [models_engine.generate([request])[0] for request in requests] == together


@pytest.mark.skipif(not native_available(), reason="the native kernels are not built")
def test_reading_again_changes_nothing(
    tiny: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cache that is far too small: answers are pushed out and read again, their grammars go on where they were."""
    pushed = []
    preempt = PagedScheduler._preempt
    monkeypatch.setattr(PagedScheduler, "_preempt", lambda self, it: (pushed.append(it), preempt(self, it)))
    roomy = native_engine(tiny, tmp_path / "model")
    room = 5 * block_bytes(load_config(tmp_path / "model"))
    small = LocalEngine(tmp_path / "model", weights="bf16", cache_bytes=room)
    places = {"type": "array", "items": {"enum": ["찻집", "서점"]}, "minItems": 30, "maxItems": 60}
    requests = [asked(schema(places), seed, max_tokens=180) for seed in range(6)]
    expected = roomy.generate(requests)
    assert not pushed
    done = small.generate(requests)
    assert pushed
    assert [(one.ids, one.finish_reason) for one in done] == [
        (one.ids, one.finish_reason) for one in expected
    ]
    small.close()
    roomy.close()


def test_logprobs_are_the_models_own(engine: LocalEngine) -> None:
    (done,) = engine.generate([asked(schema(SCHEMAS["flat"]), 3, logprobs=3, max_tokens=30)])
    assert done.logprobs is not None
    assert done.logprobs == pytest.approx(engine.score([20, 30, *done.ids])[1:], abs=1e-4)


def test_least_tokens_and_no_end(engine: LocalEngine) -> None:
    regex_of = lambda pattern: Structure(kind="regex", value=pattern)  # noqa: E731
    (long,) = engine.generate([asked(regex_of("a*b{0,200}"), min_tokens=50, max_tokens=60)])
    assert len(long.ids) >= 50
    (endless,) = engine.generate([asked(regex_of("a*"), ignore_eos=True, max_tokens=40)])
    assert (len(endless.ids), endless.finish_reason) == (40, "length")
    # where nothing more may come the grammar has the last word
    (ended,) = engine.generate([asked(regex_of("aaa"), ignore_eos=True, min_tokens=10)])
    assert (strict_text(engine, ended), ended.finish_reason) == ("aaa", "stop")


def test_stop_strings_cut(engine: LocalEngine) -> None:
    (done,) = engine.generate([asked(Structure(kind="choice", value='["abcdef"]'), stop=("cd",))])
    assert (strict_text(engine, done), done.finish_reason) == ("abcd", "stop")


def test_bias_steers_within_the_structure(engine: LocalEngine) -> None:
    choice = Structure(kind="choice", value='["a", "b"]')
    a, b, other = (engine.tokenizer.encode(text)[0] for text in "abc")
    for wanted, bias in (("a", {a: 100.0}), ("b", {b: 100.0}), ("b", {b: 50.0, other: 100.0})):
        (done,) = engine.generate([asked(choice, logit_bias=bias)])
        assert strict_text(engine, done) == wanted


def test_no_token_left_is_the_requests_own_error(models_engine: LocalEngine) -> None:
    b = models_engine.tokenizer.encode("b")[0]
    others = [asked(schema(SCHEMAS["lengths"]), seed) for seed in range(3)]
    expected = models_engine.generate(others)
    answers: list[Any] = [None] * 3

    def ask(number: int) -> None:
        answers[number] = models_engine.generate([others[number]])[0]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    with pytest.raises(StructureError, match="no token is left"):
        models_engine.generate([asked(Structure(kind="choice", value='["ab"]'), stop_ids=(b,))])
    for thread in threads:
        thread.join()
    assert answers == expected


def test_a_grammar_that_costs_too_much_ends_its_request(engine: LocalEngine) -> None:
    letters = {engine.tokenizer.encode(letter)[0]: 60.0 for letter in "ab"}
    hard = asked(Structure(kind="regex", value="(.{0,100}a){50}"), logit_bias=letters, max_tokens=1500)
    with pytest.raises(StructureError, match="costs too much"):
        engine.generate([hard])
    assert engine.generate([asked(Structure(kind="choice", value='["a"]'))])[0].finish_reason == "stop"


FUNCTION = '{"functions": [{"name": "f", "parameters": %s}], "several": false}'


def chain(length: int) -> dict[str, Any]:
    links = {
        f"d{n}": {"type": "object", "properties": {"a": {"$ref": f"#/$defs/d{n + 1}"}}} for n in range(length)
    }
    return {"$defs": {**links, f"d{length}": WORD}, "$ref": "#/$defs/d0"}


@pytest.mark.parametrize(("value", "words"), [
    ({"type": "array", "uniqueItems": True}, "#: uniqueItems is not supported"),
    ({"properties": {"a": {"not": {}}}}, "#/properties/a: not is not supported"),
    ({"$defs": {"x": {"if": {}}}, "anyOf": [{"$ref": "#/$defs/x"}]}, "#/$defs/x: if is not supported"),
    ({"items": {"minLenght": 3}}, 'unknown keyword "minLenght"; did you mean "minLength"'),
    ({"type": "string", "nullable": True}, "nullable is not supported"),
    ({"x-guidance": {"lenient": True}}, "x-guidance is not supported"),
    ({"type": "string", "format": "colour"}, "Unknown format: colour"),
    ({"type": "string", "pattern": "(?=a)b"}, "look-ahead"),
    ({"type": "integer", "minimum": 5, "maximum": 2}, "minimum (5) is greater than maximum (2)"),
    ({"type": "text"}, "Invalid type: text"),
    ({"$ref": "https://example.org/schema"}, "only references within the schema"),
    ({"$ref": "#/$defs/none"}, "there is nothing of that name"),
    ({"items": [{"type": "string"}]}, "since draft 2020-12 that is prefixItems"),
    ({"minimum": 3, "exclusiveMinimum": True}, "since draft 6 it is the bound itself"),
    ({"type": "object", "minProperties": 4}, "minProperties = 4 with 0 required"),
    ({"oneOf": [{"type": "string"}, {"maxLength": 3}]}, "oneOf"),
    ({"anyOf": []}, "#/anyOf is no list of schemas"),
    (False, "no object"),
    ([], "no object"),
    (chain(4000), "more than 200 deep"),
    ({"allOf": [{"pattern": f"a{{1,{n}}}"} for n in range(1, 40)]}, "must hold together"),
])  # fmt: skip
def test_what_no_answer_can_be_held_to_is_refused(engine: LocalEngine, value: Any, words: str) -> None:
    with pytest.raises(StructureError, match=re.escape(words)):
        engine.check(asked(schema(value)))


@pytest.mark.parametrize(("kind", "value", "words"), [
    ("json_schema", '{"type": ', "is not JSON"),
    ("json_schema", '{"type": "string", "type": "null"}', '"type" stands twice'),
    ("json_schema", "[" * 100_000, "is not JSON"),
    ("regex", "(", "unclosed group"),
    ("regex", r"\bword\b", "lookarounds not supported"),
    ("regex", "", "no text but the empty one"),
    ("regex", "\ud800", "half a surrogate pair"),
    ("regex", "a" * 600_000, "600,000 characters"),
    ("choice", '["\\ud800"]', "half a surrogate pair"),
    ("json_schema", '{"const": ' + "[" * 300 + "]" * 300 + "}", "recursion"),
    ("json_schema", '{"$ref": ["#"]}', "only references within the schema"),
    ("choice", "[]", "no list of strings"),
    ("choice", '["a", ""]', "no list of strings"),
    ("lark", "start: nothing", "nothing"),
    ("lark", "begin: /a/", "start"),
    ("lark", 'start: "a" <|im_start|>', "control tokens come from the chat template alone"),
    ("lark", "start: <[3]>", "control tokens"),
    ("lark", '%llguidance {"allow_invalid_utf8": true}\nstart: "a"', "not for callers"),
    ("lark", "start: a\na[temperature=0.5]: /a/", "attributes of rules are not followed"),
    ("lark", 'start: %json {"uniqueItems": true}', "uniqueItems is not supported"),
    ("lark", "start: %json {", "%json without JSON"),
    ("lark", "start: r0\n" + "".join(f'r{n}: "a" r{n + 1}\n' for n in range(6000)) + 'r6000: "b"', "at most 500"),
    ("lark", "root ::= (((", "EBNF does not parse"),
    ("tool_calls", FUNCTION % '{"type": "string"}', "arguments are an object"),
    ("tool_calls", FUNCTION % '{"contains": {}}', "parameters of f: #: contains is not supported"),
])  # fmt: skip
def test_what_does_not_compile_is_refused(engine: LocalEngine, kind: Any, value: str, words: str) -> None:
    with pytest.raises(StructureError, match=re.escape(words)):
        engine.check(asked(Structure(kind=kind, value=value)))
