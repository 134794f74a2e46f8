"""From what a request shows to who it is; and what of that is remembered, for how long.

Rows are remembered until something changes: one number in the store says so, and is looked at before a memory older
than half a second is believed. Open streams are looked at too, so that a key that is revoked stops those as well.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TypeVar

from sqlalchemy.exc import SQLAlchemyError

from hanok.errors import ConfigError
from hanok.reporting import log
from hanok.server.admission.prices import Prices
from hanok.server.auditing.changes import AuditedManagement
from hanok.server.auditing.trail import Trail
from hanok.server.errors import ApiError
from hanok.server.identity.provider import Provider
from hanok.server.identity.proxies import parse_address, parse_networks, within
from hanok.server.identity.roles import permissions
from hanok.server.identity.secrets import cache_salt, key_digest, load_pepper, public_id, same, token_digest
from hanok.server.principal import HOUSE, Principal
from hanok.store.access import Access, Key, Session, Tenant, User
from hanok.store.database import Store

Row = TypeVar("Row")
BELIEVED_SECONDS = 0.5  # how old a memory may be unless the store says that nothing has changed
SESSION_SECONDS = 12 * 3600  # without a request
RENEWED_SECONDS = 600  # how often being used is written down
_REMEMBERED = 10_000  # keys, and things that are none


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Who may come in, and how.

    Args:
        trust_loopback: who sits at this machine needs no key, even where there are keys.
        allowed_hosts: names, besides addresses, by which a server with keys may be called.
        setup: print a token with which the first administrator is made.
        request_timeout: seconds that a request may take, if it does not say itself how long; None for any time.
        trusted_proxies: addresses or networks of reverse proxies, whose word is taken for where a request comes from.
        prices: what answers cost, for budgets and usage. provider: through whom people may sign in.
        max_queue, max_queue_tokens: requests, and tokens of prompts, that may wait in a process; None for any number of tokens.
    """

    trust_loopback: bool = False
    allowed_hosts: tuple[str, ...] = ()
    setup: bool = False
    trusted_proxies: tuple[str, ...] = ()
    request_timeout: float | None = None
    prices: Prices = field(default_factory=Prices)
    provider: Provider | None = None
    max_queue: int = 512
    max_queue_tokens: int | None = None

    def __post_init__(self) -> None:
        parse_networks(self.trusted_proxies)
        for name in ("request_timeout", "max_queue", "max_queue_tokens"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ConfigError(f"{name} = {value}", remedy="it must be above 0")


@dataclass(eq=False)
class _Followed:
    principal: Principal
    lost: Callable[[], None]


@dataclass
class _Memory:
    """What was read from the store at `version`."""

    version: int = -1
    closed: bool = True
    keys: dict[str, tuple[Key, Tenant | None] | None] = field(default_factory=dict)
    principals: dict[str, tuple[Key, Tenant | None, Principal]] = field(default_factory=dict)
    sessions: dict[str, tuple[Session, User, Tenant | None] | None] = field(default_factory=dict)
    origins: frozenset[str] = frozenset()


class Directory:
    """One for each process.

    Args:
        always: ask for keys even while there are none: the server can be reached from elsewhere, or its first administrator is
            about to be made.
    """

    def __init__(
        self, store: Store, *, entry: Entry | None = None, always: bool = False, environment: Mapping[str, str] = os.environ,
        clock: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        self.entry, self.access, self._clock = entry or Entry(), Access(store), clock
        self._always, self._environment = always, environment
        self._pepper: bytes | None = None
        self.trail = Trail()  # until there is an audit to write into
        self.management = AuditedManagement(
            self.access, lambda: self._get_pepper(create=True), trail=self.trail
        )
        self._server_key = secrets.token_bytes(32)  # as old as what it protects: caches live in this process
        self._salts: dict[tuple[str, str], str] = {}
        self._memory, self._lock = _Memory(), threading.Lock()
        self._checked = float("-inf")
        self._checking: asyncio.Task[None] | None = None
        self._followed: set[_Followed] = set()
        self._watch: asyncio.Task[None] | None = None
        self._used: dict[str, float] = {}

    async def fresh(self) -> None:
        """What is remembered is at most half a second old from here on. Raises ApiError 503 if the store cannot be asked."""
        if time.monotonic() - self._checked <= BELIEVED_SECONDS:
            return
        if self._checking is None or self._checking.done():
            self._checking = asyncio.create_task(asyncio.to_thread(self._check))
        try:
            await asyncio.shield(self._checking)
        except SQLAlchemyError as error:
            log.error("the store cannot be asked who may come in", exc_info=error)
            raise ApiError(503, "the store does not answer; try again", code="store_unavailable") from error

    @property
    def closed(self) -> bool:
        """Whether everybody must show who they are: there are keys or people, or others than this machine can come."""
        return self._memory.closed

    def salt(self, principal: Principal, domain: str) -> str:
        """What the engine tells a tenant's cached prefixes by. What a client says has no part in it."""
        name = (principal.tenant, domain)
        if name not in self._salts:
            if len(self._salts) >= _REMEMBERED:
                self._salts.clear()
            self._salts[name] = cache_salt(self._server_key, *name)
        return self._salts[name]

    async def key(self, presented: str, *, address: str | None) -> Principal:
        """Raises ApiError 401 or 403."""
        identifier = public_id(presented)
        known = await self._row(identifier) if identifier is not None else None
        pepper = b"" if known is None else await self._known_pepper()
        if not same(key_digest(pepper, presented), known[0].digest if known else "") or known is None:
            raise ApiError(401, "this is no key of this server", code="invalid_api_key")
        key, tenant = known
        self._check_key(key, tenant)
        if key.networks is not None and not _within(address, key.networks):
            raise ApiError(403, f"this key may not be used from {address}", code="address_not_allowed")
        self._used[key.id] = self._clock()
        return self._principal_of(key, tenant)

    async def session(self, cookie: str) -> tuple[Principal, Session] | None:
        """None if it has ended, or its person may no longer come in. Being used keeps it alive."""
        identifier = token_digest(cookie)
        known = await self._person(identifier)
        if known is None:
            return None
        session, user, tenant = known
        if not self._may_come(session, user, tenant):
            return None
        if session.expires - self._clock() < SESSION_SECONDS - RENEWED_SECONDS:
            session = replace(session, expires=self._clock() + SESSION_SECONDS)
            self._memory.sessions[identifier] = (session, user, tenant)
            await asyncio.to_thread(self.access.change, Session, identifier, expires=session.expires)
        return principal_of_user(user, tenant, session.id), session

    async def session_of(self, principal: Principal) -> Session | None:
        known = await self._person(principal.session) if principal.session is not None else None
        return known[0] if known else None

    def allows_origin(self, origin: str) -> bool:
        """Whether some key may be used from pages of it."""
        return origin in self._memory.origins

    async def own_key(self, principal: Principal) -> Key | None:
        """None for who is no key."""
        known = await self._row(principal.id) if principal.kind == "key" else None
        return known[0] if known else None

    @contextmanager
    def following(self, principal: Principal, lost: Callable[[], None]) -> Iterator[None]:
        """Calls `lost`, on the event loop, as soon as this principal may no longer chat."""
        if principal.kind == "local":
            yield
            return
        one = _Followed(principal, lost)
        self._followed.add(one)
        if self._watch is None or self._watch.done():
            self._watch = asyncio.create_task(self._watching())
        try:
            yield
        finally:
            self._followed.discard(one)

    def sign(self, what: str, text: str) -> str:
        """Under the pepper, so that every process of this store can check it."""
        return key_digest(self._get_pepper(create=True), f"{what}\0{text}")

    def flush(self) -> None:
        """Writes down when keys were last used."""
        used, self._used = self._used, {}
        if used:
            self.access.used(used)

    # ---- inside ---------------------------------------------------------------------------------------------------

    def _get_pepper(self, *, create: bool = False) -> bytes:
        if self._pepper is None:
            self._pepper = load_pepper(self.access.store.path, self._environment, create=create)
        return self._pepper

    async def _known_pepper(self) -> bytes:
        """Raises ApiError 503 if it is lost: no key can be checked then."""
        if self._pepper is None:
            try:
                await asyncio.to_thread(self._get_pepper)
            except ConfigError as error:
                log.error("keys cannot be checked: %s", error)
                raise ApiError(
                    503, "keys cannot be checked; the server's log says why", code="pepper_lost"
                ) from error
        return self._get_pepper()

    def _check(self) -> None:
        """In a thread: forget everything if something changed."""
        began = time.monotonic()
        version = self.access.version()
        if version != self._memory.version:
            anybody = self.access.anybody()
            origins = frozenset(
                origin for key in self.access.every(Key) if key.revoked is None for origin in key.origins or ()
            )  # fmt: skip
            with self._lock:
                closed = anybody or self._always
                self._memory = _Memory(version=version, closed=closed, origins=origins)
        self._checked = began

    async def _row(self, identifier: str) -> tuple[Key, Tenant | None] | None:
        return await _remembered(self._memory.keys, identifier, self._read_key)

    def _principal_of(self, key: Key, tenant: Tenant | None) -> Principal:
        """`principal_of_key`, once for each row that was read."""
        made = self._memory.principals.get(key.id)
        if made is None or made[0] is not key or made[1] is not tenant:
            made = self._memory.principals[key.id] = key, tenant, principal_of_key(key, tenant)
        return made[2]

    async def _person(self, identifier: str) -> tuple[Session, User, Tenant | None] | None:
        return await _remembered(self._memory.sessions, identifier, self._read_session)

    def _read_key(self, identifier: str) -> tuple[Key, Tenant | None] | None:
        key = self.access.find(Key, identifier)
        return None if key is None else (key, self.access.find(Tenant, key.tenant))

    def _read_session(self, identifier: str) -> tuple[Session, User, Tenant | None] | None:
        session = self.access.find(Session, identifier)
        user = None if session is None else self.access.find(User, session.user_id)
        if session is None or user is None:
            return None
        return session, user, self.access.find(Tenant, user.tenant)

    def _may_come(self, session: Session, user: User, tenant: Tenant | None) -> bool:
        try:
            check_tenant(user.tenant, tenant)
        except ApiError:
            return False
        return session.expires > self._clock() and user.disabled is None

    def _check_key(self, key: Key, tenant: Tenant | None) -> None:
        if key.revoked is not None:
            raise ApiError(401, "this key was revoked", code="key_revoked")
        if key.expires is not None and key.expires <= self._clock():
            raise ApiError(401, "this key has expired", code="key_expired")
        check_tenant(key.tenant, tenant)

    async def _watching(self) -> None:
        while self._followed:
            await asyncio.sleep(BELIEVED_SECONDS / 2)
            try:
                await asyncio.to_thread(self._check)
                for one in list(self._followed):
                    if not await self._still(one.principal):
                        self._followed.discard(one)
                        one.lost()
            except SQLAlchemyError as error:
                log.error("the store cannot be asked whether open streams may go on", exc_info=error)

    async def _still(self, before: Principal) -> bool:
        """Whether it may still do what it was let in for."""
        now = await (self._key_now(before.id) if before.kind == "key" else self._person_now(before.session))
        return now is not None and now.tenant == before.tenant and now.may("chat:create")

    async def _key_now(self, identifier: str) -> Principal | None:
        known = await self._row(identifier)
        try:
            if known is not None:
                self._check_key(*known)
                return principal_of_key(*known)
        except ApiError:
            pass
        return None

    async def _person_now(self, session: str | None) -> Principal | None:
        known = None if session is None else await self._person(session)
        if known is None or not self._may_come(*known):
            return None
        return principal_of_user(known[1], known[2], known[0].id)


async def _remembered(
    memory: dict[str, Row | None], identifier: str, read: Callable[[str], Row | None]
) -> Row | None:
    """What is read goes into the memory that was current before: a change since then has put that one away."""
    if identifier not in memory:
        found = await asyncio.to_thread(read, identifier)
        if len(memory) >= _REMEMBERED:
            memory.clear()
        memory[identifier] = found
        return found
    return memory[identifier]


def check_tenant(identifier: str, tenant: Tenant | None) -> None:
    """Raises ApiError if it is gone or suspended."""
    if tenant is None and identifier != HOUSE:
        raise ApiError(401, "the tenant of this key is gone", code="tenant_deleted")
    if tenant is not None and tenant.suspended is not None:
        raise ApiError(403, f'the tenant "{identifier}" is suspended', code="tenant_suspended")


def principal_of_key(key: Key, tenant: Tenant | None) -> Principal:
    scopes = None if key.scopes is None else frozenset(key.scopes)
    return Principal(
        id=key.id, name=key.name, kind="key", tenant=key.tenant, role=key.role,  # type: ignore[arg-type]
        permissions=permissions(key.role, house=key.tenant == HOUSE, scopes=scopes),
        models=None if key.models is None else frozenset(key.models), priority=key.priority, limits=key.limits,
        tenant_limits=tenant.limits if tenant else {},
    )  # fmt: skip


def principal_of_user(user: User, tenant: Tenant | None, session: str) -> Principal:
    return Principal(
        id=user.id, name=user.name, kind="user", tenant=user.tenant, role=user.role,  # type: ignore[arg-type]
        permissions=permissions(user.role, house=user.tenant == HOUSE), limits=user.limits,
        tenant_limits=tenant.limits if tenant else {}, session=session,
    )  # fmt: skip


def _within(address: str | None, networks: Sequence[str]) -> bool:
    return within(parse_address(address or ""), [ipaddress.ip_network(network) for network in networks])
