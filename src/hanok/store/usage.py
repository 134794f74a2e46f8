"""What was used, by day, tenant, key and model: sums alone, without content."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, func, select
from sqlalchemy.dialects import postgresql, sqlite

from hanok.errors import ConfigError, did_you_mean
from hanok.store.database import Store
from hanok.store.schema import usage

BY = ("day", "tenant", "key", "model")
SUMS = ("requests", "errors", "prompt_tokens", "cached_tokens", "completion_tokens", "cost")
Used = Mapping[tuple[str, str, str, str], Sequence[float]]  # (day, tenant, key, model) -> SUMS


def add_usage(connection: Connection, used: Used) -> None:
    """To what is there."""
    rows = [
        {**dict(zip(BY, names, strict=True)), **dict(zip(SUMS, sums, strict=True))}
        for names, sums in sorted(used.items())
    ]
    if not rows:
        return
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    statement = dialect.insert(usage)
    more = {name: usage.c[name] + statement.excluded[name] for name in SUMS}
    connection.execute(statement.on_conflict_do_update(index_elements=list(BY), set_=more), rows)


def read_usage(
    store: Store, *, by: Sequence[str] = ("day",), first: str | None = None, last: str | None = None, **only: str | None
) -> list[dict[str, Any]]:  # fmt: skip
    """Sums of each group, in order.

    Args:
        by: of `BY`. first, last: days. only: tenant, key or model; None for all.

    Raises:
        ConfigError: a group that there is not.
    """
    for name in by:
        if name not in BY:
            raise ConfigError(f'usage by "{name}"', remedy=did_you_mean(name, BY))
    groups = [usage.c[name] for name in dict.fromkeys(by)]
    wanted = select(*groups, *(func.coalesce(func.sum(usage.c[name]), 0).label(name) for name in SUMS))
    for name, value in only.items():
        if value is not None:
            wanted = wanted.where(usage.c[name] == value)
    if first is not None:
        wanted = wanted.where(usage.c.day >= first)
    if last is not None:
        wanted = wanted.where(usage.c.day <= last)
    if groups:
        wanted = wanted.group_by(*groups).order_by(*groups)
    with store.read() as connection:
        rows = connection.execute(wanted).mappings().all()
    return [{name: _plain(name, value) for name, value in row.items()} for row in rows]


def total(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {name: _plain(name, sum(row[name] for row in rows)) for name in SUMS}


def _plain(name: str, value: Any) -> Any:
    if name in BY:
        return value
    return round(float(value), 9) if name == "cost" else int(value)
