"""Schemas that nobody wrote: what a random walk over allowed tokens spells is valid, or the schema was refused."""

from __future__ import annotations

import json
import random
from types import ModuleType
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanok.engine.api import Structure
from hanok.engine.grammar import Grammars
from hanok.errors import StructureError
from hanok.tokens.tokenizer import Tokenizer

NUMBER = st.integers(-20, 200) | st.sampled_from([-4.75, 0.5, 3.25])
SMALL = st.integers(0, 3)
VALUE = st.sampled_from([None, True, 1, -2, 3.5, "한", "a", [1], {"a": 1}])
NAME = st.sampled_from(["a", "b", "이름", "e f", '"'])


def of(kind: Any, **optional: Any) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({"type": st.just(kind)}, optional=optional)


LEAF = st.one_of(
    of("integer", minimum=NUMBER, maximum=NUMBER, multipleOf=st.sampled_from([2, 7])),
    of("number", exclusiveMinimum=NUMBER, exclusiveMaximum=NUMBER, multipleOf=st.sampled_from([0.5, 3])),
    of(["string", "null"], maxLength=st.just(6), minLength=SMALL),
    of("string", pattern=st.sampled_from(["^[a-c]{2,5}$", "[0-9]", "^한(옥|글)?$", "a|b{2}$", r"\w\d"])),
    of("string", format=st.sampled_from(["date", "time", "date-time", "ipv4", "uuid", "email"])),
    st.builds(lambda values: {"enum": values}, st.lists(VALUE, min_size=1, max_size=4)),
)


def inner(part: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    objects = st.fixed_dictionaries(
        {"type": st.just("object"), "properties": st.dictionaries(NAME, part, max_size=4)},
        optional={
            "required": st.lists(NAME, unique=True, max_size=3), "maxProperties": SMALL, "minProperties": SMALL,
            "additionalProperties": st.sampled_from([False, {"type": "boolean"}]),
        },
    )  # fmt: skip
    together = st.sampled_from(["anyOf", "anyOf", "oneOf", "allOf"])
    return st.one_of(
        objects,
        of("array", items=part, maxItems=SMALL, minItems=SMALL),
        of("array", prefixItems=st.lists(part, min_size=1, max_size=2), items=st.just(False)),
        st.builds(lambda name, parts: {name: parts}, together, st.lists(part, min_size=1, max_size=3)),
    )


@pytest.fixture(scope="module")
def tokenizer(tiny: ModuleType) -> Tokenizer:
    return tiny.merged_tokenizer()


@pytest.fixture(scope="module")
def grammars(tokenizer: Tokenizer) -> Grammars:
    return Grammars(tokenizer, vocabulary=tokenizer.vocab_size)


@settings(max_examples=150)
@given(schema=st.recursive(LEAF, inner, max_leaves=8), seed=st.integers(0, 2**32))
def test_walks_are_valid(grammars: Grammars, tokenizer: Tokenizer, schema: Any, seed: int) -> None:
    try:
        text = walk(grammars, tokenizer, Structure(kind="json_schema", value=json.dumps(schema)), seed)
    except StructureError:
        return
    if text is not None:
        jsonschema.Draft202012Validator(schema).validate(json.loads(text))


def walk(
    grammars: Grammars, tokenizer: Tokenizer, structure: Structure, seed: int, steps: int = 300
) -> str | None:
    """A text of the structure; None where it takes too many steps."""
    rng, ends, data = random.Random(seed), tokenizer.stop_ids, b""
    matcher = grammars.matcher(structure, ends)
    for _ in range(steps):
        bits = np.unpackbits(matcher.allowed(may_end=True).view(np.uint8), bitorder="little")
        ids = np.flatnonzero(bits).tolist()
        closing = [token for token in ids if tokenizer.token_bytes(token)[-1:] in (b'"', b"}", b"]", b"1")]
        token = rng.choice(closing if closing and rng.random() < 0.5 else ids)
        if token in ends:
            return data.decode()
        data += tokenizer.token_bytes(token)
        if matcher.advance(token):
            return data.decode()
    return None
