"""Every structure as one grammar in Lark's notation, the form that `llguidance` compiles.

White space in JSON is a single space, or one line end and an indentation: enough for any usual layout, and a model that
has lost its thread cannot fill the rest of its tokens with blanks.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Mapping
from typing import Any

from hanok.engine.api import Structure
from hanok.engine.json_schema import checked_schema
from hanok.errors import StructureError
from hanok.tokens.control import TOOL_CALL, TOOL_CALL_END

WHITE_SPACE = r" |\n {0,32}|\n\t{0,8}"
MOST_CHARACTERS = 500_000
MOST_RULES = 500  # the compiler recurses from rule to rule

# tokens are not forced: among those that fit, the model's own logits choose
_HEAD = '%llguidance {"no_forcing": true}\n'
_QUOTED = re.compile(r'"(?:\\.|[^"\\\n])*"|(?://|\#)[^\n]*|/(?:\\.|[^/\\\n])+/')
_RULE = re.compile(r"^\s*[?!]?[A-Za-z_][\w.-]*[^:\n]*:", re.MULTILINE)


def lark_of(structure: Structure, special: Mapping[str, int]) -> str:
    """The grammar.

    Args:
        special: name to id of the tokeniser's control tokens.

    Raises:
        StructureError: what `structure` says cannot be followed, and why.
    """
    kind, value = structure.kind, structure.value
    if len(value) > MOST_CHARACTERS:
        raise StructureError(f"{kind} of {len(value):,} characters", remedy=f"at most {MOST_CHARACTERS:,}")
    try:
        value.encode()
        text = _text(structure, special)
        text.encode()
    except UnicodeEncodeError as error:
        raise StructureError(f"{kind} holds half a surrogate pair", remedy="give Unicode text") from error
    except RecursionError as error:
        raise StructureError(f"{kind} is nested too deep", remedy="flatten it") from error
    return _HEAD + text


def _text(structure: Structure, special: Mapping[str, int]) -> str:
    match structure.kind:
        case "json_schema":
            return f"start: {_json(checked_schema(structure.value))}\n"
        case "json_object":
            return f"start: {_json({'type': 'object'})}\n"
        case "regex":
            return _regex(structure.value)
        case "choice":
            return f"start: {' | '.join(map(_literal, _choices(structure.value)))}\n"
        case "lark":
            return _own(structure.value)
        case "tool_calls":
            return _calls(json.loads(structure.value), special)


def _json(schema: Mapping[str, Any]) -> str:
    return "%json " + json.dumps({**schema, "x-guidance": {"whitespace_pattern": WHITE_SPACE}})


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _regex(pattern: str) -> str:
    made = importlib.import_module("llguidance").LLMatcher.grammar_from_regex(pattern)
    return json.loads(made)["grammars"][0]["lark_grammar"]


def _choices(value: str) -> list[str]:
    try:
        choices = json.loads(value)
    except (ValueError, RecursionError) as error:
        raise StructureError(f"the choice is not JSON ({error})", remedy="give a list of strings") from error
    fit = isinstance(choices, list) and choices and all(isinstance(one, str) and one for one in choices)
    if not fit:
        raise StructureError("choice is no list of strings with something in them", remedy='as ["yes", "no"]')
    return list(dict.fromkeys(choices))


def _own(text: str) -> str:
    """A caller's grammar: schemas in it are checked like any other, control tokens and settings stay ours."""
    if "::=" in _blanked(text):
        try:
            text = importlib.import_module("llguidance.gbnf_to_lark").gbnf_to_lark(text)
            text = text.replace("%llguidance {}", "", 1)  # its mark of a converted grammar
        except Exception as error:  # its own exception, or whatever its parser trips over
            raise StructureError(
                f"the EBNF does not parse: {error}", remedy="see GBNF, or write Lark"
            ) from error
    bare = _blanked(text)
    for pattern, what in (
        (r"<[^<>\n]+>", "control tokens come from the chat template alone"),
        (r"%llguidance", "its settings are not for callers"),
        (r"\[[^\]\n]*\b(temperature|max_tokens|stop|capture|suffix)\b", "attributes of rules are not followed, but for lazy"),
    ):  # fmt: skip
        if found := re.search(pattern, bare):
            raise StructureError(f"the grammar says {found[0]}: {what}", remedy="leave it out")
    rules = len(_RULE.findall(bare))
    if rules > MOST_RULES:
        raise StructureError(f"the grammar has {rules} rules", remedy=f"at most {MOST_RULES}")
    return _with_checked_schemas(text, bare)


def _with_checked_schemas(text: str, bare: str) -> str:
    made, end = "", 0
    for found in re.finditer(r"%json\s*", bare):
        if found.start() < end:
            continue
        try:
            _, after = json.JSONDecoder().raw_decode(text, found.end())
        except (ValueError, RecursionError) as error:
            raise StructureError(
                f"%json without JSON ({error})", remedy="write a schema behind it"
            ) from error
        made += text[end : found.start()] + _json(checked_schema(text[found.end() : after]))
        end = after
    return made + text[end:]


def _blanked(text: str) -> str:
    """With blanks for strings, regular expressions and comments; of the same length."""
    return _QUOTED.sub(lambda found: " " * len(found[0]), text)


def _calls(asked: Mapping[str, Any], special: Mapping[str, int]) -> str:
    """One call or several, as our chat template writes them (Hermes form)."""
    if TOOL_CALL not in special or TOOL_CALL_END not in special:
        raise StructureError(
            f"this model's tokeniser has no {TOOL_CALL}, so its calls cannot be forced", remedy='take tool_choice = "auto"'
        )  # fmt: skip
    more = ' ("\\n" call)*' if asked["several"] else ""
    lines = [
        f"start: call{more}",
        f'call: <[{special[TOOL_CALL]}]> "\\n" body "\\n" <[{special[TOOL_CALL_END]}]>',
        "body: " + " | ".join(f"body_{number}" for number in range(len(asked["functions"]))),
    ]
    for number, function in enumerate(asked["functions"]):
        head = '{"name": ' + _literal(function["name"]) + ', "arguments": '
        lines.append(f'body_{number}: {_literal(head)} arguments_{number} "}}"')
        lines.append(f"arguments_{number}: {_json(_arguments(function))}")
    return "\n".join(lines) + "\n"


def _arguments(function: Mapping[str, Any]) -> dict[str, Any]:
    parameters = function.get("parameters")
    if parameters is None:  # OpenAI: a function without parameters takes none
        return {"type": "object", "additionalProperties": False}
    try:
        schema = checked_schema(json.dumps(parameters))
    except StructureError as error:
        raise StructureError(
            f"parameters of {function['name']}: {error.message}", remedy=error.remedy
        ) from error
    if schema.setdefault("type", "object") != "object":
        raise StructureError(
            f"parameters of {function['name']} are of type {schema['type']}", remedy="arguments are an object"
        )
    return schema
