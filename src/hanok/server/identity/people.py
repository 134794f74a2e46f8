"""People who sign in: with a name and a password, with the first start's token, or through a provider; sessions in cookies."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import secrets
import time

from sqlalchemy import Connection

from hanok.errors import ConfigError, InputError
from hanok.reporting import log
from hanok.server.errors import ApiError
from hanok.server.hosts import LOOPBACK, check_host
from hanok.server.identity.directory import SESSION_SECONDS, Directory, Entry, check_tenant, principal_of_user
from hanok.server.identity.secrets import same, token_digest
from hanok.server.principal import HOUSE, Principal
from hanok.store.access import Access, Session, Tenant, User, anybody
from hanok.store.database import Store
from hanok.store.meters import Rate, Take, take_rates

# failures: five of a name, then one in half a minute; twenty of an address, then one in three seconds
BY_NAME, BY_ADDRESS = Rate(per_minute=2, burst=5), Rate(per_minute=20, burst=20)


class People:
    """Sign in and out.

    Args:
        setup_token: lets whoever has it make the first administrator, once.
    """

    def __init__(self, directory: Directory, *, setup_token: str | None = None) -> None:
        self.directory, self.management = directory, directory.management
        self._access, self._setup_token = directory.access, setup_token

    @property
    def setup_token(self) -> str | None:
        return self._setup_token

    @property
    def setup(self) -> bool:
        """Whether the first administrator is still to be made with the token."""
        return self._setup_token is not None

    async def sign_in(
        self, name: str, password: str, *, address: str | None
    ) -> tuple[Principal, Session, str]:
        """Who it is, the session, and its cookie. Raises ApiError 401, 403 or 429."""
        return await asyncio.to_thread(self._sign_in, name, password, address)

    async def sign_up(self, token: str, name: str, password: str) -> tuple[Principal, Session, str]:
        """The first administrator, by the token that the server said at its start."""
        if self._setup_token is None or not same(token, self._setup_token):
            await asyncio.sleep(0.5)
            raise ApiError(401, "this is not the token that the server printed", code="invalid_token")
        user = await asyncio.to_thread(
            self.management.create_user, name, password=password, role="administrator", check=_check_first
        )
        self._setup_token = None
        return await asyncio.to_thread(self.open_session, user)

    async def change_password(self, principal: Principal, old: str, new: str, *, address: str | None) -> None:
        """Ends all other sessions of this person. Raises ApiError 401 or 429."""
        await asyncio.to_thread(self._change_password, principal, old, new, address)

    async def sign_out(self, principal: Principal) -> None:
        if principal.session is not None:
            await asyncio.to_thread(self._access.end_session, principal.session)

    def open_session(self, user: User) -> tuple[Principal, Session, str]:
        """Raises ApiError 401 or 403 if the person or the tenant may not come in."""
        tenant = self._access.find(Tenant, user.tenant)
        check_tenant(user.tenant, tenant)
        if user.disabled is not None:
            raise ApiError(403, "this account is disabled", code="account_disabled")
        now, cookie = time.time(), secrets.token_urlsafe(32)
        session = Session(
            id=token_digest(cookie), user_id=user.id, csrf=secrets.token_urlsafe(24), created=now,
            expires=now + SESSION_SECONDS,
        )  # fmt: skip
        if not self._access.open_session(session, user):
            raise ApiError(401, "this account was changed a moment ago; sign in again", code="invalid_login")
        return principal_of_user(user, tenant, session.id), session, cookie

    def _sign_in(self, name: str, password: str, address: str | None) -> tuple[Principal, Session, str]:
        self._guess(name, address, 1.0)
        user = self._access.find_user(name)
        if not self.management.passwords.fits(user.password if user else None, password) or user is None:
            raise ApiError(401, "no such name, or another password", code="invalid_login")
        self._guess(name, address, -1.0)
        return self.open_session(user)

    def _guess(self, name: str, address: str | None, units: float) -> None:
        """Counts a guess before it is looked at, and takes it back (-1) where it was none. Raises ApiError 429."""
        meters = {
            f"login:{_short(name.casefold())}": BY_NAME,
            f"login-from:{_short(address or '')}": BY_ADDRESS,
        }
        wait = take_rates(self._access.store, [Take(meter, rate, units) for meter, rate in meters.items()])
        if wait is not None:
            raise ApiError(
                429, f"too many failures; try again in {wait:.0f} seconds", code="too_many_logins",
                headers={"Retry-After": str(max(1, round(wait)))},
            )  # fmt: skip

    def _change_password(self, principal: Principal, old: str, new: str, address: str | None) -> None:
        user = self._access.find(User, principal.id) if principal.kind == "user" else None
        if user is None or user.password is None:
            raise InputError("there is no password to change", remedy="sign in with a name and a password")
        self._guess(user.name, address, 1.0)  # whoever found a session open may not try out passwords either
        if not self.management.passwords.fits(user.password, old):
            raise ApiError(401, "this is not the old password", code="invalid_login")
        self._guess(user.name, address, -1.0)
        self.management.change_user(user, but_session=principal.session, password=new)


def open_people(store: Store, *, host: str, entry: Entry | None = None) -> People:
    """Raises ConfigError if nobody could show who they are, and others than this machine could come."""
    entry = entry or Entry()
    known = Access(store).anybody()
    if entry.setup and known:
        log.warning("--setup: there are keys or people already, so no token is made")
    token = secrets.token_urlsafe(24) if entry.setup and not known else None
    check_host(host, keys=known or token is not None)
    if entry.trusted_proxies and not known and token is None:
        raise ConfigError(
            "trusted_proxy: others can come through it, and this server has no keys yet",
            remedy="make one with `hanok keys create NAME`, or start with --setup",
        )
    always = host not in LOOPBACK or token is not None or bool(entry.trusted_proxies)
    directory = Directory(store, entry=entry, always=always)
    return People(directory, setup_token=token)


def user_of_provider(people: People, *, issuer: str, subject: str, name: str, role: str) -> User:
    """Who signs in through a provider for the first time becomes a person of the house's tenant with the given role."""
    access, management = people.management.access, people.management

    def known_or_new() -> User:
        found = access.find_identity(issuer, subject)
        if found is not None:
            return found
        # names are no proof of who it is: the provider's subject is
        ending = f" ({_short(issuer + subject)[:8]})" if access.find_user(name[:200]) is not None else ""
        whole = name[: 200 - len(ending)] + ending
        return management.create_user(whole, role=role, tenant=HOUSE, issuer=issuer, subject=subject)

    for _ in range(2):
        with contextlib.suppress(
            InputError
        ):  # somebody was quicker: another of the name, the same person elsewhere
            return known_or_new()
    return known_or_new()


def _check_first(connection: Connection) -> None:
    if anybody(connection):
        raise ApiError(401, "there is somebody already; sign in", code="invalid_token")


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]
