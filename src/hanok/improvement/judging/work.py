"""Ask a chat model about many rows: so many at once, each answer on the disk before the next is counted, resumable.

The journal lies beside the result, `OUT.work/journal.jsonl`: a first line with the key of the work, then a line a row. A process
that is killed leaves at most one cut line, which is dropped; the same command asks about the rows that are missing and about
those that failed.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from hanok.artefacts import append_jsonl, sole_user
from hanok.errors import ChatError, ConfigError, InputError
from hanok.improvement.judging.config import WorkConfig
from hanok.reporting import log, progress

JOURNAL = "journal.jsonl"
_OUTSIDE = {"concurrency", "timeout", "give_up_after", "margin"}


class Named(Protocol):
    @property
    def id(self) -> str: ...


Row = TypeVar("Row", bound=Named)
Record = dict[str, Any]


def work_directory(out: Path) -> Path:
    return out.with_name(f"{out.name}.work")


def ask_all(
    rows: Sequence[Row], ask: Callable[[Row], Awaitable[Record]], *, out: Path, key: str, config: WorkConfig, title: str
) -> dict[str, Record]:  # fmt: skip
    """id -> what `ask` made of the row, or {"failed": reason, "detail"} where it raised ChatError.

    Args:
        key: names the work; a journal of another one is not gone on with.

    Raises:
        ConfigError: another process is at it, or the journal is of other work.
        InputError: `give_up_after` rows in a row failed, or all did; what was done is kept.
    """
    folder = work_directory(out)
    folder.mkdir(parents=True, exist_ok=True)
    with sole_user(folder, "asking"):
        journal = folder / JOURNAL
        done = _read(journal, key)
        known = {row.id for row in rows}
        done = {name: record for name, record in done.items() if name in known and "failed" not in record}
        waiting = [row for row in rows if row.id not in done]
        if done:
            log.info("%s: %d of %d rows were done before", journal, len(done), len(rows))
        asyncio.run(_ask_some(waiting, ask, journal, done, config, title))
    failed = Counter(record["failed"] for record in done.values() if "failed" in record)
    for reason, count in failed.items():
        log.warning("%d of %d rows failed: %s", count, len(rows), reason)
    if failed.total() == len(rows):
        detail = next(iter(done.values()))["detail"]
        raise InputError(f"all {len(rows)} rows failed: {detail}", remedy="see that the model can do this")
    return done


def key_of(step: Mapping[str, Any]) -> str:
    """Names the work by what its answers depend on: a longer time-out or another concurrency goes on with the same."""
    config = {name: value for name, value in step["config"].items() if name not in _OUTSIDE}
    return hashlib.sha256(json.dumps({**step, "config": config}, sort_keys=True).encode()).hexdigest()


def forget(out: Path) -> None:
    """Once the result stands."""
    shutil.rmtree(work_directory(out), ignore_errors=True)


async def _ask_some(
    rows: Sequence[Row], ask: Callable[[Row], Awaitable[Record]], journal: Path, done: dict[str, Record],
    config: WorkConfig, title: str,
) -> None:  # fmt: skip
    """As many askers as may be under way, which take rows from one another's queue."""
    queue, in_a_row = iter(rows), 0
    with progress(title, len(rows), "rows") as bar:

        async def asker() -> None:
            nonlocal in_a_row
            for row in queue:
                try:
                    record = await ask(row)
                    in_a_row = 0
                except ChatError as error:
                    record = {"failed": error.reason, "detail": error.detail}
                    in_a_row += 1
                append_jsonl(journal, {"id": row.id, **record}, fsync=True)
                done[row.id] = record
                bar.advance(1)
                if in_a_row >= config.give_up_after:
                    raise InputError(
                        f"{in_a_row} rows in a row failed, the last one because the model "
                        f"{record['failed']} ({record['detail']})",
                        remedy="mend that and run the same command: what was done is kept",
                    )

        askers = [asyncio.create_task(asker()) for _ in range(config.concurrency)]
        try:
            await asyncio.gather(*askers)
        finally:
            for task in askers:
                task.cancel()
            await asyncio.gather(*askers, return_exceptions=True)


def _read(journal: Path, key: str) -> dict[str, Record]:
    """What was acknowledged; a cut last line is taken away. The last line of an id counts."""
    content = journal.read_bytes() if journal.is_file() else b""
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        with journal.open("r+b") as file:
            file.truncate(len(whole))
    lines = [json.loads(line) for line in whole.decode("utf-8").split("\n") if line.strip()]
    if not lines:
        append_jsonl(journal, {"key": key}, fsync=True)
        return {}
    if lines[0].get("key") != key:
        raise ConfigError(
            f"{journal} is of other data, settings or another model",
            remedy=f"choose another --out, or delete {journal.parent}",
        )
    return {line.pop("id"): line for line in lines[1:]}
