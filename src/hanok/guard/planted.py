"""Orders planted into documents: which lines of labelled documents they are.

Rows of label 1 are documents into which something was planted; what is around it is an honest document, often one that stands
among the rows of label 0 too. Taking every line of them for planted would teach the documents of other folds as attacks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Protocol

from hanok.guard.linear import pieces


class Document(Protocol):
    @property
    def text(self) -> str: ...
    @property
    def label(self) -> int: ...
    @property
    def group(self) -> str: ...


def lines_of(text: str) -> list[str]:
    return [text[start:end].strip() for start, end in pieces(text, lines=True)]


def planted_lines(rows: Sequence[Document]) -> list[str]:
    """Those of rows of label 1 that no clean row has, and that every row of their group has: the same attack stands in all of
    them, the documents around it differ."""
    honest = {line for row in rows if not row.label for line in lines_of(row.text)}
    groups: dict[str, list[set[str]]] = defaultdict(list)
    for row in rows:
        if row.label:
            groups[row.group].append(set(lines_of(row.text)))
    shared: dict[str, None] = {}
    for documents in groups.values():
        in_all = set[str].intersection(*documents)
        honest |= set[str].union(*documents) - in_all
        shared.update(dict.fromkeys(sorted(in_all)))
    return [line for line in shared if line not in honest]
