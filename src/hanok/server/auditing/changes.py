"""Keys, people and tenants are managed as ever, and every change is in the audit before it is acknowledged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hanok.server.auditing.trail import Trail
from hanok.server.identity.management import Management, Pepper
from hanok.store.access import Access, Key, Tenant, User

_PLAIN = (
    "role",
    "scopes",
    "models",
    "networks",
    "origins",
    "priority",
    "limits",
    "expires",
    "suspended",
    "disabled",
)


class AuditedManagement(Management):
    """`Management`, told of by `trail`."""

    def __init__(self, access: Access, pepper: Pepper, *, trail: Trail) -> None:
        super().__init__(access, pepper)
        self.trail = trail

    def create_key(self, name: str, **values: Any) -> tuple[Key, str]:
        self.trail.ready()
        key, whole = super().create_key(name, **values)
        self._of_key("key.create", key, {"role": key.role, **_plain(values)}, content={"name": key.name})
        return key, whole

    def change_key(self, key: Key, **values: Any) -> Key:
        self.trail.ready()
        changed = super().change_key(key, **values)
        content = {"name": changed.name} if "name" in values else None
        self._of_key("key.change", changed, _plain(values), content=content)
        return changed

    def rotate_key(self, key: Key, **values: Any) -> tuple[Key, str]:
        self.trail.ready()
        fresh, whole = super().rotate_key(key, **values)
        self._of_key("key.rotate", fresh, {"replaces": key.id, "grace": values.get("grace", 0.0)})
        return fresh, whole

    def revoke_key(self, key: Key) -> Key:
        self.trail.ready()
        changed = super().revoke_key(key)
        self._of_key("key.revoke", changed, {})
        return changed

    def create_user(self, name: str, **values: Any) -> User:
        self.trail.ready()
        user = super().create_user(name, **values)
        facts = {"role": user.role, "oidc": user.issuer is not None, **_plain(values)}
        self.trail.sure(
            "user.create",
            target=user.id,
            tenant=user.tenant,
            facts=facts,
            content={"name": user.name},
            subject=user.id,
        )
        return user

    def change_user(self, user: User, **values: Any) -> User:
        self.trail.ready()
        changed = super().change_user(user, **values)
        facts = {**_plain(values), "password": "password" in values}
        self.trail.sure("user.change", target=user.id, tenant=user.tenant, facts=facts)
        return changed

    def delete_user(self, user: User) -> Any:
        self.trail.ready()
        removed = super().delete_user(user)
        self.trail.gone("user.delete", tenant=user.tenant, subject=user.id)
        return removed

    def create_tenant(self, identifier: str, **values: Any) -> Tenant:
        self.trail.ready()
        tenant = super().create_tenant(identifier, **values)
        self.trail.sure("tenant.create", target=identifier, tenant=identifier, facts=_plain(values))
        return tenant

    def change_tenant(self, identifier: str, **values: Any) -> Tenant:
        self.trail.ready()
        tenant = super().change_tenant(identifier, **values)
        self.trail.sure("tenant.change", target=identifier, tenant=identifier, facts=_plain(values))
        return tenant

    def delete_tenant(self, identifier: str) -> dict[str, int]:
        self.trail.ready()
        removed = super().delete_tenant(identifier)
        return {
            **removed,
            **self.trail.gone("tenant.delete", tenant=identifier, facts={"removed": dict(removed)}),
        }

    def _of_key(
        self, kind: str, key: Key, facts: Mapping[str, Any], content: Mapping[str, Any] | None = None
    ) -> None:
        self.trail.sure(kind, target=key.id, tenant=key.tenant, facts=facts, content=content, subject=key.id)


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """What may be read for ever: no names, no passwords."""
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in values.items()
        if name in _PLAIN
    }
