"""The arguments of one call put to the rules of output: each text in them, and each beside its key, as "password: ..." says what
the value is.

They are read pair by pair: a key that stands there twice is two values to whoever reads the text, though a parser keeps one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from hanok.guard.filter import OutputFilter
from hanok.guard.verdicts import Finding

Make = Callable[..., OutputFilter]
HIDES = ("redact", "block")
_DEEPEST = 64  # levels
_SHORT, _TOGETHER = (
    200,
    32,
)  # characters of a value that is looked at as a whole, and how many of them at once


class Pairs(list[tuple[str, Any]]):
    """A JSON object as it is written."""


class Arguments:
    """`found`, and `blocked`: after `arguments` or `text`. Args: make: a new filter."""

    def __init__(self, make: Make) -> None:
        self._make = partial(make, of="value")
        self._clean: frozenset[tuple[str, str]] = frozenset()
        self.found: list[Finding] = []
        self.blocked = False

    def arguments(self, written: str) -> str:
        """What may be said of them."""
        try:
            value = json.loads(written, object_pairs_hook=Pairs)
        except ValueError:
            return self.text(written)
        except RecursionError:
            return self._too_deep()
        texts = list(dict.fromkeys(_texts(value)))
        if ("", None) in texts:
            return self._too_deep()
        known = len(self.found)
        self._clean = frozenset(self._found_clean([(key, text) for key, text in texts if text is not None]))
        changed = self._value(value, "")
        if any(one.action in HIDES for one in self.found[known:]):
            return json.dumps(changed, ensure_ascii=False)
        return written

    def text(self, text: str, before: str = "") -> str:
        if (before, text) in self._clean:
            return text
        one = self._make(before=before)
        parts = [one.push(text), one.finish()]
        self.found += [finding for part in parts for finding in part.findings]
        self.blocked |= parts[-1].blocked
        return "".join(part.text for part in parts)

    def _found_clean(self, texts: Sequence[tuple[str, str]]) -> Iterator[tuple[str, str]]:
        """Those short ones in which no rule finds anything: thousands of numbers need no filter each."""
        short = [one for one in texts if len(one[0]) + len(one[1]) <= _SHORT]
        for place in range(0, len(short), _TOGETHER):
            group = short[place : place + _TOGETHER]
            if self._make().clean([before + text for before, text in group]):
                yield from group

    def _value(self, value: Any, key: str) -> Any:
        before = _before(key)
        if isinstance(value, str):
            return self.text(value, before)
        if isinstance(value, Pairs):
            return {self.text(name): self._value(item, name) for name, item in value}
        if isinstance(value, list):
            return [self._value(item, key) for item in value]
        if isinstance(value, bool) or value is None:
            return value
        written = json.dumps(value)
        shown = self.text(written, before)
        return value if shown == written else shown

    def _too_deep(self) -> str:
        self.found.append(Finding("arguments", 0, 0, "block", f"nested more than {_DEEPEST} levels deep"))
        self.blocked = True
        return ""


def _before(key: str) -> str:
    return f"{key}: " if key else ""


def _texts(value: Any) -> Iterator[tuple[str, str | None]]:
    """(what stands before it, text) of each that `_value` reads; ("", None) where they are nested too deep."""
    waiting: list[tuple[str, Any, int]] = [("", value, 0)]
    while waiting:
        key, one, depth = waiting.pop()
        if depth > _DEEPEST:
            yield "", None
            return
        if isinstance(one, Pairs):
            waiting += [(name, item, depth + 1) for name, item in one]
            yield from (("", name) for name, _ in one)
        elif isinstance(one, list):
            waiting += [(key, item, depth + 1) for item in one]
        elif not isinstance(one, bool) and one is not None:
            yield _before(key), one if isinstance(one, str) else json.dumps(one)
