"""Claim: with group commit the audit takes at least 1,000 durable appends a second, many times what a commit for each row takes;
a million rows are verified in less than a minute.

Both sides write the same rows into files of the same folder with the same settings of SQLite, each acknowledged row durable. The
peer is the same log with transactions of one row. Rows are those of a server: an entry of a request without content. Verified is
everything: every row's fields, both hashes, the tree at every checkpoint.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from hanok.bench.outcome import Rows, command_line, compare, present
from hanok.bench.stopped import stoppable
from hanok.reporting import log
from hanok.store.audit.entry import Entry
from hanok.store.audit.keys import load_verifier
from hanok.store.audit.log import AuditLog, LogSettings
from hanok.store.audit.place import AuditPlace
from hanok.store.audit.reader import Reader
from hanok.store.audit.verify import verify

APPENDS, MILLION = 1000, 1_000_000


def run(
    *,
    quick: bool = False,
    rows: int | None = None,
    rounds: int | None = None,
    folder: Path = Path("runs/bench"),
) -> Rows:
    """Rows as `outcome.compare` makes them: `audit/append` per second, `audit/verify` per second."""
    rows = rows or (50_000 if quick else MILLION)
    rounds = rounds or (1 if quick else 3)
    folder.mkdir(parents=True, exist_ok=True)
    grouped: list[float] = []
    alone: list[float] = []
    for number in range(rounds):
        log.info("appends, round %d of %d", number + 1, rounds)
        with tempfile.TemporaryDirectory(dir=folder) as place:
            grouped.append(_append(Path(place) / "grouped", 5_000 if quick else 20_000, most_rows=1000))
            alone.append(_append(Path(place) / "alone", 50 if quick else 300, most_rows=1))
    with tempfile.TemporaryDirectory(dir=folder) as place:
        log.info("writing %d rows", rows)
        _append(Path(place), rows, most_rows=5000)
        seconds = [_verify(Path(place), rows) for _ in range(rounds)]
    found = [
        compare("audit/append", "rows per second", grouped, {"a commit for each": alone}, goal=APPENDS),
        compare("audit/verify", "rows per second", [rows / one for one in seconds], {}, goal=MILLION / 60),
        compare(
            "audit/verify-million",
            "seconds",
            [one * MILLION / rows for one in seconds],
            {},
            smaller=True,
            goal=60,
        ),
    ]
    present("Audit", found, folder / "audit")
    return found


def _append(folder: Path, rows: int, *, most_rows: int) -> float:
    """Per second, from the first to the last acknowledged."""
    settings = LogSettings(most_rows=most_rows, most_waiting=10**9)
    with AuditLog(AuditPlace(folder / "log.sqlite", folder), settings=settings) as audit:
        began = time.perf_counter()
        futures = [audit.append(_entry(number)) for number in range(rows)]
        for future in futures:
            future.result()
        return rows / (time.perf_counter() - began)


def _verify(folder: Path, rows: int) -> float:
    began = time.perf_counter()
    with Reader(AuditPlace(folder / "log.sqlite", folder)) as reader:
        report = verify(reader, load_verifier(folder), outside=[folder / "checkpoints"])
    assert report.ok, report.problem
    assert report.size == rows
    return time.perf_counter() - began


def _entry(number: int) -> Entry:
    work: dict[str, Any] = {
        "model": "house", "hash": "0" * 64, "streamed": True, "finish": "stop", "prompt_tokens": 812, "cached_tokens": 256,
        "completion_tokens": 130, "ms": 4211.3, "first_token_ms": 301.7,
    }  # fmt: skip
    facts = {
        "method": "POST",
        "route": "/v1/chat/completions",
        "status": 200,
        "ms": 4213.0,
        "kind": "key",
        "work": [work],
    }
    return Entry(
        kind="request",
        actor="0123456789abcdef",
        target=f"chatcmpl-{number}",
        request=f"{number:032x}",
        facts=facts,
    )


@stoppable
def main() -> None:
    command_line(__doc__, run, rounds="3, or 1 with --quick")
