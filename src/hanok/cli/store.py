"""`hanok store` and `hanok usage`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import tyro

from hanok.cli.places import open_store, store_place
from hanok.errors import ConfigError
from hanok.reporting import table

Words = Annotated[tuple[str, ...], tyro.conf.UseAppendAction]


def migrate(store: str | None = None, served: Path | None = None) -> dict[str, Any]:
    """Bring a database to the tables of this version; servers do so too when they start.

    Args:
        store: the database, a file or postgresql://USER@HOST/NAME; default: that of the served model.
        served: the model or run whose database is meant; default runs/quickstart.
    """
    with open_store(store, served) as opened:
        before, after = opened.migrated
    table(f"{opened.name}", ("before", "now"), [[before, after]])
    return {"before": before, "after": after}


def backup(
    target: Annotated[Path, tyro.conf.Positional], store: str | None = None, served: Path | None = None
) -> dict[str, Any]:
    """Copy a database while it is used, and check the copy. The pepper is not in it.

    Args:
        target: the copy: of SQLite a database file, of PostgreSQL compressed JSON lines (.jsonl.zst).
        store: the database, a file or postgresql://USER@HOST/NAME; default: that of the served model.
        served: the model or run whose database is meant; default runs/quickstart.
    """
    from hanok.store.backup import backup as copy

    with open_store(store, served) as opened:
        counts = copy(opened, target)
    return _told(f"copied to {target}", counts)


def restore(
    source: Annotated[Path, tyro.conf.Positional], store: str | None = None, served: Path | None = None
) -> dict[str, Any]:
    """Put a copy back, into a file that does not exist or a database that is empty.

    Args:
        source: what `hanok store backup` wrote.
        store: the database, a file or postgresql://USER@HOST/NAME; default: that of the served model.
        served: the model or run whose database is meant; default runs/quickstart.
    """
    from hanok.store.backup import restore as put_back

    counts = put_back(source, store_place(store, served))
    return _told(f"restored from {source}", counts)


def check(store: str | None = None, served: Path | None = None) -> dict[str, Any]:
    """Test a database, and count its rows.

    Args:
        store: the database, a file or postgresql://USER@HOST/NAME; default: that of the served model.
        served: the model or run whose database is meant; default runs/quickstart.
    """
    from hanok.store.backup import check as look

    with open_store(store, served) as opened:
        return _told(f"{opened.name} is well", look(opened))


def usage(
    by: Words = (), first: str | None = None, last: str | None = None, tenant: str | None = None, key: str | None = None,
    model: str | None = None, store: str | None = None, served: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """What was used: requests, tokens and cost.

    Args:
        by: day, tenant, key or model; several times for several; default day.
        first: day that it begins with, as 2026-11-01.
        last: day that it ends with.
        tenant: only its own.
        key: only of this key or person.
        model: only of this model.
        store: the database, a file or postgresql://USER@HOST/NAME; default: that of the served model.
        served: the model or run whose database is meant; default runs/quickstart.
    """
    from hanok.store.usage import SUMS, read_usage, total

    groups = [part for word in by for part in word.split(",") if part] or ["day"]
    for day in (first, last):
        if day is not None and len(day) != 10:
            raise ConfigError(f'day "{day}"', remedy="as 2026-11-21")
    with open_store(store, served) as opened:
        rows = read_usage(opened, by=groups, first=first, last=last, tenant=tenant, key=key, model=model)
    table("usage", (*groups, *SUMS), [[row[name] for name in (*groups, *SUMS)] for row in rows])
    return {"by": groups, "data": rows, "total": total(rows)}


def _told(title: str, counts: dict[str, int]) -> dict[str, Any]:
    table(title, ("table", "rows"), [[name, count] for name, count in sorted(counts.items())])
    return {"rows": counts}
