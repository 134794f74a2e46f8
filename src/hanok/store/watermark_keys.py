"""Keys of the watermark, in order of age; the newest that is not retired marks, all of them detect.

The table has their public ids and what they were made with. The secret itself is derived from the pepper, which is not in the
database: a copy of the database finds no mark and forges none.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import asdict, dataclass

from sqlalchemy import Column, Connection, Double, Integer, String, Table, insert, select, update

from hanok.errors import InputError
from hanok.store.database import Store
from hanok.store.schema import metadata

watermark_keys = Table(
    "watermark_keys",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("nonce", String(64), nullable=False),
    Column("gamma", Double, nullable=False),
    Column("width", Integer, nullable=False),
    Column("created", Double, nullable=False),
    Column("retired", Double),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class WatermarkKey:
    """Args: nonce: what the secret is derived from, beside the pepper. gamma, width: of whatever it has marked."""

    id: str
    nonce: str
    gamma: float
    width: int
    created: float
    retired: float | None = None


class WatermarkKeys:
    """Over the store. Safe to call from several threads."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def all(self) -> list[WatermarkKey]:
        """The oldest first."""
        with self._store.read() as connection:
            return _all(connection)

    def current(self) -> WatermarkKey | None:
        return next((key for key in reversed(self.all()) if key.retired is None), None)

    def create(self, *, gamma: float, width: int) -> WatermarkKey:
        """A new one, which marks from now on; those before are retired."""
        with self._store.write() as connection:
            return _create(connection, gamma, width)

    def ensure(self, *, gamma: float, width: int) -> tuple[WatermarkKey, bool]:
        """The current key, or a new one where there is none that was made so; and whether it is new."""
        with self._store.write() as connection:  # of two servers that start together one makes it
            now = next((key for key in reversed(_all(connection)) if key.retired is None), None)
            if now is not None and (now.gamma, now.width) == (gamma, width):
                return now, False
            return _create(connection, gamma, width), True

    def find(self, identifier: str) -> WatermarkKey:
        """Raises InputError: there is none."""
        for key in self.all():
            if key.id == identifier:
                return key
        raise InputError(f'no watermark key "{identifier}"', remedy="`hanok guard watermark keys` shows them")


def _all(connection: Connection) -> list[WatermarkKey]:
    wanted = select(watermark_keys).order_by(watermark_keys.c.created, watermark_keys.c.id)
    return [WatermarkKey(**row) for row in connection.execute(wanted).mappings()]


def _create(connection: Connection, gamma: float, width: int) -> WatermarkKey:
    key = WatermarkKey(
        id=f"wm_{secrets.token_hex(6)}", nonce=secrets.token_hex(32), gamma=gamma, width=width, created=time.time()
    )  # fmt: skip
    connection.execute(
        update(watermark_keys).where(watermark_keys.c.retired.is_(None)).values(retired=key.created)
    )
    connection.execute(insert(watermark_keys), asdict(key))
    return key
