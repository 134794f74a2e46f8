"""Which JSON Schemas an answer can be held to (draft 2020-12, as `llguidance` enforces it).

The specification lets a validator pass over keywords that it does not know. Here that would be a promise not kept, so
whatever is not enforced, and is no mere annotation, is refused with its name and place.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from hanok.errors import StructureError, did_you_mean

_MAPS = {"properties", "patternProperties"}  # name to schema
_LISTS = {"anyOf", "oneOf", "allOf", "prefixItems"}
_SINGLE = {"items", "additionalProperties"}
_PLAIN = {
    "type", "enum", "const", "$ref", "minItems", "maxItems", "required", "minProperties", "maxProperties", "minLength",
    "maxLength", "pattern", "format", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf",
}  # fmt: skip
_ENFORCED = _MAPS | _LISTS | _SINGLE | _PLAIN
_NOTES = {
    "title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "discriminator",
    "$comment", "$schema", "$defs", "definitions",
}  # fmt: skip
_KNOWN_ELSEWHERE = {
    "uniqueItems", "contains", "minContains", "maxContains", "additionalItems", "unevaluatedItems", "unevaluatedProperties",
    "not", "if", "then", "else", "dependentRequired", "dependentSchemas", "dependencies", "propertyNames", "nullable",
    "contentEncoding", "contentMediaType", "contentSchema", "$id", "id", "$anchor", "$dynamicRef", "$dynamicAnchor",
    "$recursiveRef", "$recursiveAnchor", "$vocabulary",
}  # fmt: skip
_MEETS = {"$ref", "anyOf", "oneOf", "allOf"}
DEPTH = 200  # the compiler recurses: chains of thousands end in a stack overflow, and with it the process
MEETINGS = 12  # schemas that hold together: the compiler's work doubles with each


def checked_schema(text: str) -> dict[str, Any]:
    """The schema, every part of it that a value can reach looked at.

    Raises:
        StructureError: no JSON, no schema, or a keyword that would not be enforced.
    """
    try:
        schema = json.loads(text, object_pairs_hook=_without_doubles)
    except (ValueError, RecursionError) as error:
        raise StructureError(f"the schema is not JSON ({error})", remedy="give a JSON Schema") from error
    if schema is True:
        return {}
    if not isinstance(schema, dict):
        raise StructureError("the schema is no object", remedy="give a JSON Schema")
    _Walk(schema).visit(schema, "#", 0)
    return schema


class _Walk:
    def __init__(self, root: dict[str, Any]) -> None:
        self._root = root
        self._seen: set[str] = set()
        self._meetings = 0

    def visit(self, schema: Any, place: str, depth: int) -> None:
        """Look at `schema` and at what it leads to; a reference is followed once."""
        if isinstance(schema, bool):
            return
        if not isinstance(schema, dict):
            raise StructureError(
                f"{place} is no schema but {json.dumps(schema)[:40]}", remedy="give an object"
            )
        if depth > DEPTH:
            raise StructureError(f"{place}: schemas lie more than {DEPTH} deep", remedy="flatten the schema")
        for keyword in schema:
            _check_keyword(keyword, place)
        _check_values(schema, place)
        self._count(schema, place)
        for part, name in _parts(schema):
            self.visit(part, f"{place}/{name}", depth + 1)
        if "$ref" in schema:
            target = self._resolved(schema["$ref"], place)
            if schema["$ref"] not in self._seen:
                self._seen.add(schema["$ref"])
                self.visit(target, schema["$ref"], depth + 1)

    def _count(self, schema: Mapping[str, Any], place: str) -> None:
        together = len(schema.get("allOf", ())) + len(_MEETS & set(schema) - {"allOf"})
        together += bool(set(schema) & _ENFORCED - _MEETS)
        self._meetings += max(0, together - 1)
        if self._meetings > MEETINGS:
            raise StructureError(
                f"{place}: more than {MEETINGS} schemas of allOf, or beside $ref and anyOf, that must hold together",
                remedy="merge them by hand",
            )

    def _resolved(self, reference: Any, place: str) -> Any:
        if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
            raise StructureError(
                f"{place}/$ref = {json.dumps(reference)}", remedy="only references within the schema, #/..., are followed"
            )  # fmt: skip
        found: Any = self._root
        for part in reference.split("/")[1:]:
            name = part.replace("~1", "/").replace("~0", "~")
            if isinstance(found, list):
                found = found[int(name)] if name.isdecimal() and int(name) < len(found) else None
            else:
                found = found.get(name) if isinstance(found, dict) else None
        if found is None:
            raise StructureError(
                f"{place}/$ref = {json.dumps(reference)}", remedy="there is nothing of that name"
            )
        return found


def _parts(schema: Mapping[str, Any]) -> Iterator[tuple[Any, str]]:
    for keyword, value in schema.items():
        if keyword in _MAPS and isinstance(value, dict):
            yield from ((part, f"{keyword}/{name}") for name, part in value.items())
        elif keyword in _LISTS and isinstance(value, list):
            yield from ((part, f"{keyword}/{number}") for number, part in enumerate(value))
        elif keyword in _SINGLE:
            yield value, keyword


def _check_keyword(keyword: str, place: str) -> None:
    if keyword in _ENFORCED or keyword in _NOTES:
        return
    if keyword in _KNOWN_ELSEWHERE or keyword == "x-guidance":
        raise StructureError(
            f"{place}: {keyword} is not supported", remedy="leave it out and check the answer yourself"
        )
    if not keyword.startswith("x-"):
        near = did_you_mean(keyword, _ENFORCED)
        remedy = near if near.startswith("did") else 'leave it out, or let a note of your own begin with "x-"'
        raise StructureError(f'{place}: unknown keyword "{keyword}"', remedy=remedy)


def _check_values(schema: Mapping[str, Any], place: str) -> None:
    """What the compiler would take in another sense."""
    for keyword in _MAPS & set(schema):
        if not isinstance(schema[keyword], dict):
            raise StructureError(f"{place}/{keyword} is no object", remedy="give name to schema")
    for keyword in _LISTS & set(schema):
        if not isinstance(schema[keyword], list) or not schema[keyword]:
            raise StructureError(f"{place}/{keyword} is no list of schemas", remedy="give at least one")
    if isinstance(schema.get("items"), list):
        raise StructureError(f"{place}/items is a list", remedy="since draft 2020-12 that is prefixItems")
    for keyword in ("exclusiveMinimum", "exclusiveMaximum"):
        if isinstance(schema.get(keyword), bool):
            raise StructureError(
                f"{place}/{keyword} is a boolean", remedy="since draft 6 it is the bound itself"
            )
    least, required = schema.get("minProperties", 0), schema.get("required", [])
    sure = (
        len(set(required)) + 1
        if isinstance(required, list) and all(isinstance(r, str) for r in required)
        else 1
    )
    if isinstance(least, int) and least > sure:  # names that `properties` does not list may come twice
        raise StructureError(
            f"{place}: minProperties = {least} with {sure - 1} required", remedy="name the properties, and require them"
        )  # fmt: skip


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        doubled = next(name for number, (name, _) in enumerate(pairs) if name in dict(pairs[:number]))
        raise ValueError(f'"{doubled}" stands twice in one object')
    return made
