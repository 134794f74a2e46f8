"""What the leader tells its followers: numbers alone, one message before every pass through the model.

A message is a list of orders, each `[kind, length, arguments...]`. States of sequences live in every process, each with the
heads that are its own, under the same number everywhere; the leader's scheduler moves their rows about, and the orders
between two passes repeat that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import IntEnum


class Kind(IntEnum):
    STOP = 0  # the leader is done
    LOAD = 1  # read your slices of the weights
    NEW = 2  # state, rows: rows that have seen nothing
    JOIN = 3  # state, others...: the rows of several states as one
    PICK = 4  # state, source, rows...: copies of these rows
    WRITE = 5  # state, source, rows...: all rows of the source over these
    REWIND = 6  # state, rows...: these have seen nothing
    FORGET = 7  # state
    RUN = 8  # state (0: none), sequences, the length of each, ids...: one pass
    LOGITS = 9  # rows: hidden vectors follow, give your part of their logits


Order = tuple[Kind, tuple[int, ...]]


def pack(orders: Sequence[Order]) -> list[int]:
    return [number for kind, arguments in orders for number in (kind, len(arguments), *arguments)]


def unpack(numbers: Sequence[int]) -> Iterator[Order]:
    place = 0
    while place < len(numbers):
        kind, length = numbers[place], numbers[place + 1]
        yield Kind(kind), tuple(numbers[place + 2 : place + 2 + length])
        place += 2 + length
