"""Who asks: found once for each request, before any route runs (`hanok.server.identity.middleware`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from fastapi import Request

from hanok.server.identity.roles import EVERYTHING

Role = Literal["viewer", "user", "reviewer", "administrator"]
Kind = Literal["local", "key", "user", "nobody"]
SCOPE_KEY = "hanok.principal"
HOUSE = "default"  # the tenant whose administrators run the server


@dataclass(frozen=True, kw_only=True, slots=True)
class Principal:
    """A key, a person with a session, whoever sits at this machine, or nobody known.

    Args:
        id: public; of the key or the person. tenant: whose cache, documents, limits and logs are used.
        permissions: what it may, as `resource:action` (`hanok.server.identity.roles`).
        models: names that may be asked for; None for all.
        priority: of what it asks for; lower goes first. limits, tenant_limits: by name.
        session: of a person, the id of the session.
        deadline: of this request, in seconds of the monotonic clock. reply: headers that the answer is to have.
    """

    id: str
    name: str = ""
    kind: Kind = "key"
    tenant: str = HOUSE
    role: Role = "user"
    permissions: frozenset[str] = frozenset()
    models: frozenset[str] | None = None
    priority: int = 0
    limits: Mapping[str, float] = field(default_factory=dict, hash=False)
    tenant_limits: Mapping[str, float] = field(default_factory=dict, hash=False)
    session: str | None = None
    deadline: float | None = field(default=None, compare=False)
    reply: dict[str, str] = field(default_factory=dict, compare=False)

    def asking(self, deadline: float | None) -> Principal:
        """The same for one request."""
        return Principal(
            id=self.id, name=self.name, kind=self.kind, tenant=self.tenant, role=self.role, permissions=self.permissions,
            models=self.models, priority=self.priority, limits=self.limits, tenant_limits=self.tenant_limits,
            session=self.session, deadline=deadline, reply={},
        )  # fmt: skip

    def may(self, permission: str) -> bool:
        return permission in self.permissions

    @property
    def runs_house(self) -> bool:
        """May act for every tenant."""
        return self.role == "administrator" and self.tenant == HOUSE


LOCAL = Principal(id="local", name="local", kind="local", role="administrator", permissions=EVERYTHING)
NOBODY = Principal(id="", kind="nobody", role="viewer")


def principal_of(request: Request) -> Principal:
    return request.scope[SCOPE_KEY]  # an error, not a guess, where nobody identified the request
