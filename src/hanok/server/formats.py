"""How a body says what the answer must be: OpenAI's `response_format`, and the fields that vLLM added to it."""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from hanok.engine.api import Structure


class NamedSchema(BaseModel):
    """`strict` is taken, and changes nothing: every answer is held to its schema."""

    name: str
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None
    description: str | None = None


class ResponseFormat(BaseModel):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: NamedSchema | None = None

    @model_validator(mode="after")
    def _has_schema(self) -> ResponseFormat:
        if (self.json_schema is None) == (self.type == "json_schema"):
            raise ValueError('json_schema belongs to {"type": "json_schema"}, and to nothing else')
        return self


class StructuredOutputs(BaseModel):
    """vLLM's. Exactly one of its fields."""

    model_config = ConfigDict(extra="forbid")
    json_: dict[str, Any] | str | None = Field(default=None, alias="json")
    json_object: bool | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None


class StructureFields(BaseModel):
    """What of a body decides the form of its answer."""

    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: dict[str, Any] | str | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None

    @model_validator(mode="after")
    def _one_form(self) -> StructureFields:
        found = [field for field, _ in self._structures()]
        if len(found) > 1:
            raise ValueError(f"{found[0]} and {found[1]} are both given: take one")
        if self.structured_outputs is not None and "structured_outputs" not in {
            f.split(".")[0] for f in found
        }:
            raise ValueError("structured_outputs needs one of json, json_object, regex, choice, grammar")
        return self

    @property
    def format_field(self) -> str | None:
        """Which field it is."""
        return next((field for field, _ in self._structures()), None)

    def format(self) -> Structure | None:
        """What it says."""
        return next((structure for _, structure in self._structures()), None)

    def _structures(self) -> list[tuple[str, Structure]]:
        found: list[tuple[str, Structure]] = []
        if self.model_fields_set.isdisjoint(_FIELDS):
            return found
        asked = self.response_format
        if asked is not None and asked.type == "json_object":
            found.append(("response_format", Structure(kind="json_object")))
        if asked is not None and asked.json_schema is not None:
            found.append(("response_format", _schema(asked.json_schema.schema_)))
        extra = self.structured_outputs
        if extra is not None and extra.json_object:
            found.append(("structured_outputs.json_object", Structure(kind="json_object")))
        given = [("guided_", self.guided_json, self.guided_regex, self.guided_choice, self.guided_grammar)]
        if extra is not None:
            given.append(("structured_outputs.", extra.json_, extra.regex, extra.choice, extra.grammar))
        for name, schema, regex, choice, grammar in given:
            if schema is not None:
                found.append((f"{name}json", _schema(schema)))
            if regex is not None:
                found.append((f"{name}regex", Structure(kind="regex", value=regex)))
            if choice is not None:
                found.append((f"{name}choice", Structure(kind="choice", value=json.dumps(choice))))
            if grammar is not None:
                found.append((f"{name}grammar", Structure(kind="lark", value=grammar)))
        return found


_FIELDS = frozenset(StructureFields.model_fields)


def _schema(schema: dict[str, Any] | str) -> Structure:
    text = schema if isinstance(schema, str) else json.dumps(schema, ensure_ascii=False)
    return Structure(kind="json_schema", value=text)
