"""Which files of a collection a search looks at, in the words of OpenAI's API.

{"type": "eq" | "ne" | "gt" | "gte" | "lt" | "lte" | "in" | "nin", "key": "year", "value": 2024}
{"type": "and" | "or", "filters": [...]}
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

from hanok.errors import InputError, did_you_mean

Attributes = Mapping[str, str | float | bool]
_DEEPEST = 8
_COMPARISONS: Mapping[str, Callable[[Any, Any], bool]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
    "in": lambda found, wanted: found in wanted,
    "nin": lambda found, wanted: found not in wanted,
}


def accepted(filters: Mapping[str, Any] | None) -> Callable[[Attributes], bool]:
    """The test of a file's attributes; a file without the key passes "ne" and "nin" only.

    Raises:
        InputError: a filter of another form.
    """
    return (lambda _: True) if filters is None else _test(filters, 0)


def _test(filters: Any, depth: int) -> Callable[[Attributes], bool]:
    if not isinstance(filters, Mapping) or depth > _DEEPEST:
        raise InputError(
            "a filter is no object, or lies too deep", remedy='{"type": "eq", "key": ..., "value": ...}'
        )
    kind = str(filters.get("type"))
    if kind in ("and", "or"):
        parts = filters.get("filters")
        if not isinstance(parts, list):
            raise InputError(f'a filter of type "{kind}" needs a list', remedy='give it in "filters": [...]')
        tests = [_test(part, depth + 1) for part in parts]
        every = all if kind == "and" else any
        return lambda attributes: every(test(attributes) for test in tests)
    if kind not in _COMPARISONS:
        raise InputError(f'filter type "{kind}"', remedy=did_you_mean(kind, (*_COMPARISONS, "and", "or")))
    key, value = filters.get("key"), filters.get("value")
    if not isinstance(key, str) or value is None or (kind in ("in", "nin")) != isinstance(value, list):
        raise InputError(
            f'a filter of type "{kind}" needs a key and a value', remedy='"in" and "nin" take a list'
        )
    return lambda attributes: _holds(kind, attributes.get(key), value)


def _holds(kind: str, found: str | float | bool | None, wanted: Any) -> bool:
    if found is None:
        return kind in ("ne", "nin")
    if kind in ("gt", "gte", "lt", "lte") and isinstance(found, str) != isinstance(wanted, str):
        return False  # "10" is neither more nor less than 9
    try:
        return _COMPARISONS[kind](found, wanted)
    except TypeError:
        return False
