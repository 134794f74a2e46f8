"""Writing into the audit, if there is one.

Changes of keys, people, tenants, models and settings go through `ready` before and `sure` after: none is made while the audit
cannot be written, and none is acknowledged before its entry is on the disk. What only tells what happened goes through `tell`.
Names, addresses and words of people go into `content`, which is sealed under a key that their deletion destroys.
"""

from __future__ import annotations

import getpass
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from hanok.errors import AuditError, HanokError
from hanok.server.operations.requests import CURRENT, HttpRequest
from hanok.store.audit.entry import Entry
from hanok.store.audit.log import AuditLog
from hanok.store.audit.place import AuditPlace

WAIT_SECONDS = 10.0  # for the disk, before whoever waits is told that it cannot be written
_LOOK = "mend the audit, and look whether the change is wanted"
Facts = Mapping[str, Any]
_NONE: Facts = {}


class Trail:
    """Args:
    log: None: nothing is written. A place: opened for each entry (a command's few).
    """

    def __init__(self, log: AuditLog | AuditPlace | None = None) -> None:
        self.log = log
        self.at_end: list[Callable[[], None]] = []  # called before a server's log is closed

    @property
    def server_log(self) -> AuditLog | None:
        """Of a server that keeps one."""
        return self.log if isinstance(self.log, AuditLog) else None

    def ready(self) -> None:
        """Raises AuditError while nothing can be written."""
        if isinstance(self.log, AuditLog) and (trouble := self.log.trouble()) is not None:
            raise AuditError(
                f"nothing may be changed: the audit cannot be written ({trouble})",
                remedy="the server's log says why",
            )
        if isinstance(self.log, AuditPlace):
            try:
                AuditLog(self.log).close()
            except (HanokError, OSError, SQLAlchemyError) as error:
                raise AuditError(
                    f"nothing may be changed: the audit in {self.log.folder} cannot be opened ({error})",
                    remedy="mend it, or name another folder with --audit-dir",
                ) from error

    def sure(self, kind: str, **values: Any) -> None:
        """Returns once the entry is on the disk. Args: values: of `entry`.

        Raises:
            AuditError: it could not be written; what it tells of has happened.
        """
        if self.log is not None:
            entry = self.entry(kind, **values)
            self._wait_for(lambda log: log.append(entry), kind)

    def gone(
        self, kind: str, *, tenant: str, subject: str | None = None, facts: Facts = _NONE
    ) -> dict[str, int]:
        """Tells of a deletion, and forgets, in one transaction: what was sealed for a person, or for all of a tenant, can be
        read no more. How many keys were destroyed.

        Raises:
            AuditError: neither was done; the deletion was. `forget` catches up.
        """
        if self.log is None:
            return {}
        entry = self.entry(kind, target=subject or tenant, tenant=tenant, facts=facts)
        again = f"`hanok audit forget {subject or ''} --tenant {tenant} --yes`".replace("  ", " ")
        remedy = f"mend the audit, then destroy the keys of what was kept: {again}"
        return {"audit_keys": self._wait_for(lambda log: log.append_and_forget(entry, subject), kind, remedy)}

    def tell(self, kind: str, **values: Any) -> None:
        """Without waiting."""
        if isinstance(self.log, AuditLog):
            self.log.append(self.entry(kind, **values), patient=True)

    def forget(self, tenant: str, subject: str | None = None) -> dict[str, int]:
        """As `gone`, of somebody who is gone already. May be repeated.

        Raises:
            AuditError: it was not done.
        """
        if self.log is None:
            return {}
        actor = self.entry("audit.forget").actor
        count = self._wait_for(
            lambda log: log.forget(tenant, subject, actor=actor), "audit.forget", "try again", done=False
        )
        return {"audit_keys": count}

    def _wait_for(
        self, submit: Callable[[AuditLog], Future[int]], kind: str, remedy: str = _LOOK, *, done: bool = True
    ) -> int:
        try:
            if isinstance(self.log, AuditLog):
                return submit(self.log).result(WAIT_SECONDS)
            assert self.log is not None
            with AuditLog(self.log) as log:
                return submit(log).result(WAIT_SECONDS)
        except (FutureTimeoutError, HanokError, OSError, SQLAlchemyError) as error:
            what = f"{kind} was done, and could not be" if done else f"{kind} could not be"
            why = str(error) or "the disk does not answer"
            raise AuditError(f"{what} written into the audit ({why})", remedy=remedy) from error

    @staticmethod
    def entry(
        kind: str, *, target: str = "", tenant: str | None = None, facts: Facts = _NONE, content: Facts | None = None,
        subject: str = "", actor: str | None = None, of: HttpRequest | None = None,
    ) -> Entry:  # fmt: skip
        """By whoever the request is of (by default the current one), or the person at the command line."""
        request = of or CURRENT.get()
        who = None if request is None else request.principal
        if actor is None:
            actor = f"command line: {_user()}" if request is None else "" if who is None else who.id
        return Entry(
            kind=kind, actor=actor, target=target, facts=facts, content=content, subject=subject,
            tenant=tenant if tenant is not None else "default" if who is None else who.tenant,
            request="" if request is None else request.id,
        )  # fmt: skip


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user without a name
        return "?"
