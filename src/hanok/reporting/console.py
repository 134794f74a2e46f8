"""What a person at the terminal sees: bars with rate and time left, tables, one logger. All on standard error,
so that standard output stays free for `--json`."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

log = logging.getLogger("hanok")

_PLAIN_INTERVAL_SECONDS = 10.0


class Progress(Protocol):
    def advance(self, n: float = 1, **fields: Any) -> None:
        """`n` more units are done; `fields` are short values shown beside the bar (loss=1.23)."""
        ...

    def left(self, n: float) -> None:
        """Correct the total: `n` units are still to do."""
        ...


@contextmanager
def progress(description: str, total: float | None, unit: str) -> Iterator[Progress]:
    """A bar on a terminal; elsewhere one plain line every ten seconds and one at the end."""
    if sys.stderr.isatty():
        with _bar(description, total, unit) as bar:
            yield bar
    else:
        lines = _Lines(description, total, unit)
        yield lines
        lines.finish()


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table on standard error."""
    from rich.console import Console
    from rich.table import Table

    drawn = Table(title=title, title_justify="left", title_style="bold")
    for column in columns:
        drawn.add_column(column, overflow="fold")
    for row in rows:
        drawn.add_row(*(show(cell) for cell in row))
    Console(stderr=True).print(drawn)


def show(value: Any) -> str:
    """A cell: numbers with thousands separators or four significant digits."""
    if isinstance(value, bool) or value is None:
        return "-" if value is None else str(value).lower()
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"
    return str(value)


@contextmanager
def _bar(description: str, total: float | None, unit: str) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with RichProgress(*columns, console=Console(stderr=True)) as bars:
        task = bars.add_task(description, total=total, rate="", note="")
        start = time.monotonic()

        class Bar:
            done = 0.0

            def advance(self, n: float = 1, **fields: Any) -> None:
                self.done += n
                rate = self.done / max(time.monotonic() - start, 1e-6)
                bars.update(task, advance=n, rate=f"{show(rate)} {unit}/s", note=_note(fields))

            def left(self, n: float) -> None:
                bars.update(task, total=self.done + n)

        yield Bar()


class _Lines:
    def __init__(self, description: str, total: float | None, unit: str) -> None:
        self.description, self.total, self.unit = description, total, unit
        self.start = self.printed = time.monotonic()
        self.done = 0.0
        self.fields: dict[str, Any] = {}

    def left(self, n: float) -> None:
        self.total = self.done + n

    def advance(self, n: float = 1, **fields: Any) -> None:
        self.done += n
        self.fields = fields or self.fields
        if time.monotonic() - self.printed >= _PLAIN_INTERVAL_SECONDS:
            self._print()

    def finish(self) -> None:
        self._print()

    def _print(self) -> None:
        self.printed = time.monotonic()
        rate = self.done / max(self.printed - self.start, 1e-6)
        share, left = "", ""
        if self.total:
            share = f" of {show(self.total)} ({100 * self.done / self.total:.0f}%)"
            seconds = max(self.total - self.done, 0) / rate if rate else 0
            left = f", {seconds // 60:.0f}:{seconds % 60:02.0f} left"
        note = f"  {_note(self.fields)}" if self.fields else ""
        print(
            f"{self.description}: {show(self.done)}{share} {self.unit}, {show(rate)} {self.unit}/s{left}{note}",
            file=sys.stderr, flush=True,
        )  # fmt: skip


def _note(fields: dict[str, Any]) -> str:
    return " ".join(f"{name} {show(value)}" for name, value in fields.items())
