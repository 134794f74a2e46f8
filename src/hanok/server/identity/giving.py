"""Nobody gives more than they have: what a key or a person would be able to do is measured against who makes or changes it.

A key may have been narrowed: by scopes, models, networks, an end, limits, its place in the queue. What it makes, changes or
renews must be within all of these; a person can be narrowed by none but limits, so a key that is narrowed makes none.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hanok.server.errors import ApiError
from hanok.server.identity.directory import Directory
from hanok.server.identity.roles import permissions
from hanok.server.principal import HOUSE, Principal
from hanok.store.access import Key, User


@dataclass(frozen=True, kw_only=True)
class Power:
    """What somebody can do. None: anything, at any time, from anywhere."""

    permissions: frozenset[str]
    models: Collection[str] | None = None
    networks: Sequence[str] | None = None
    expires: float | None = None
    priority: int = 0
    limits: Mapping[str, float]


async def allowance(directory: Directory, principal: Principal) -> Callable[[Key | User], None]:
    """What raises ApiError 403 for a key or a person that would be more than this principal."""
    power = power_of(principal, await directory.own_key(principal))
    return lambda row: check_within(power, power_of_key(row) if isinstance(row, Key) else power_of_user(row))


def power_of(principal: Principal, key: Key | None) -> Power:
    """Args: key: of the principal, if it is one."""
    return Power(
        permissions=principal.permissions, models=principal.models, networks=key.networks if key else None,
        expires=key.expires if key else None, priority=principal.priority, limits=principal.limits,
    )  # fmt: skip


def power_of_key(key: Key) -> Power:
    scopes = None if key.scopes is None else frozenset(key.scopes)
    return Power(
        permissions=permissions(key.role, house=key.tenant == HOUSE, scopes=scopes), models=key.models, networks=key.networks,
        expires=key.expires, priority=key.priority, limits=key.limits,
    )  # fmt: skip


def power_of_user(user: User) -> Power:
    return Power(permissions=permissions(user.role, house=user.tenant == HOUSE), limits=user.limits)


def check_within(giver: Power, given: Power) -> None:
    """Raises ApiError 403 that says by what `given` is more."""
    more = sorted(given.permissions - giver.permissions)
    if more:
        raise _more(
            "scopes", f'it could do what you cannot ("{more[0]}"); choose another role or fewer scopes'
        )
    if giver.models is not None and (given.models is None or set(given.models) - set(giver.models)):
        raise _more("models", f"you may ask for {', '.join(sorted(giver.models)) or 'no model'} alone")
    if giver.networks is not None and not _inside(given.networks, giver.networks):
        raise _more("networks", f"you may come from {', '.join(giver.networks)} alone")
    if giver.expires is not None and (given.expires is None or given.expires > giver.expires):
        raise _more("expires", "you end before it")
    if given.priority < giver.priority and giver.priority > 0:
        raise _more("priority", f"your place in the queue is {giver.priority}")
    for name, most in giver.limits.items():
        if given.limits.get(name, float("inf")) > most:
            raise _more("limits", f"your {name} is {most:g}")


def _inside(given: Sequence[str] | None, allowed: Sequence[str]) -> bool:
    if given is None:
        return False
    outer = [ipaddress.ip_network(network) for network in allowed]
    return all(any(_part(ipaddress.ip_network(network), one) for one in outer) for network in given)


def _part(inner: Any, outer: Any) -> bool:
    return inner.version == outer.version and inner.subnet_of(outer)


def _more(param: str, why: str) -> ApiError:
    return ApiError(403, f"nobody gives more than they have: {why}", param=param, code="permission_denied")
