"""Which identity provider people may sign in through."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from hanok.errors import ConfigError
from hanok.server.identity.roles import check_role

COOKIE = "hanok_oidc"  # of a sign-in under way
CALLBACK = "/session/oidc/callback"


@dataclass(frozen=True, kw_only=True)
class Provider:
    """Args:
    issuer: https://..., as the tokens name it. client_id, client_secret: as the provider gave them; a public client has none.
    role: of people who come for the first time. url: of this server from outside; by default as the browser calls it.
    """

    issuer: str
    client_id: str
    client_secret: str = ""
    name: str = ""
    role: str = "user"
    url: str = ""

    def __post_init__(self) -> None:
        parts = urlsplit(self.issuer)
        loopback = parts.hostname in ("127.0.0.1", "localhost", "::1")
        if parts.scheme != "https" and not (parts.scheme == "http" and loopback):
            raise ConfigError(f'issuer "{self.issuer}"', remedy="it must begin with https://")
        check_role(self.role)
        if self.role == "administrator":
            raise ConfigError(
                "whoever the provider lets in would be administrator", remedy="name another role"
            )
