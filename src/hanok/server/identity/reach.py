"""How far an administrator's arm reaches: the house's to every tenant, another's to its own."""

from __future__ import annotations

from hanok.server.errors import ApiError
from hanok.server.principal import Principal


def within_reach(principal: Principal, tenant: str) -> bool:
    return principal.runs_house or principal.tenant == tenant


def reach(principal: Principal, tenant: str | None) -> str | None:
    """The tenant that is meant; None for all of them, which only the house's administrators get. Raises ApiError 403."""
    if tenant is not None and not within_reach(principal, tenant):
        raise ApiError(403, f'the tenant "{tenant[:80]}" is not yours', code="permission_denied")
    return tenant if tenant is not None or principal.runs_house else principal.tenant
