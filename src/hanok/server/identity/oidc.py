"""Signing in through an identity provider: OpenID Connect's authorization code flow with PKCE (RFC 7636).

What the provider says is believed only when its token is signed with a key that it publishes, in an algorithm that we name,
for us (`aud`), by it (`iss`), for this very sign-in (`nonce`), and not expired. Its keys are asked for anew when a token does not
fit those that are known, but not more often than once a minute. What is remembered of a sign-in under way lies in a cookie that
we sign, so any process can finish what another began.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlencode, urlsplit

import httpx
from fastapi import Request
from fastapi.responses import RedirectResponse, Response
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from hanok.reporting import log
from hanok.server.errors import ApiError
from hanok.server.identity.people import People, user_of_provider
from hanok.server.identity.provider import CALLBACK, COOKIE, Provider

ALGORITHMS = [
    "RS256",
    "RS384",
    "RS512",
    "PS256",
    "ES256",
    "ES384",
    "EdDSA",
]  # what a provider signs with; never "none" or HS256
_SECONDS = 600  # to sign in at the provider
_REFRESH_SECONDS = 60.0
_LEEWAY = 60  # seconds that clocks may differ


class Oidc:
    """One provider."""

    def __init__(self, provider: Provider, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.provider, self._clock = provider, clock
        self._metadata: Mapping[str, Any] | None = None
        self._keys: KeySet | None = None
        self._asked = float("-inf")
        self._turn = asyncio.Lock()

    @property
    def name(self) -> str:
        return self.provider.name or str(urlsplit(self.provider.issuer).hostname)

    async def begin(self, request: Request, people: People) -> Response:
        """To the provider. Raises ApiError 502 if it does not answer."""
        metadata = await self._discover()
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        query = {
            "response_type": "code", "client_id": self.provider.client_id, "redirect_uri": self._back(request),
            "scope": "openid profile email", "state": state, "nonce": nonce, "code_challenge": challenge,
            "code_challenge_method": "S256",
        }  # fmt: skip
        endpoint = str(metadata["authorization_endpoint"])
        response = RedirectResponse(f"{endpoint}{'&' if '?' in endpoint else '?'}{urlencode(query)}", 302)
        kept = self._seal(
            people, {"state": state, "nonce": nonce, "verifier": verifier, "until": time.time() + _SECONDS}
        )
        # Lax: the provider's page leads back here, which is a navigation from another site
        response.set_cookie(
            COOKIE, kept, path=CALLBACK, httponly=True, samesite="lax", secure=request.url.scheme == "https", max_age=_SECONDS
        )  # fmt: skip
        return response

    async def finish(self, request: Request, people: People) -> tuple[str, Any]:
        """The session's cookie and its person. Raises ApiError 401, 403 or 502."""
        kept = self._open(people, request.cookies.get(COOKIE, ""))
        state, code = request.query_params.get("state", ""), request.query_params.get("code", "")
        if kept is None or not hmac.compare_digest(state.encode(), str(kept["state"]).encode()):
            raise ApiError(
                401, "this sign-in was not begun here, or long ago; begin anew", code="invalid_login"
            )
        if not code:
            raise ApiError(401, "the identity provider did not let you in", code="invalid_login")
        token = await self._exchange(request, code, str(kept["verifier"]))
        claims = await self.claims(token, nonce=str(kept["nonce"]))
        name = str(
            claims.get("email") or claims.get("preferred_username") or claims.get("name") or claims["sub"]
        )
        user = await asyncio.to_thread(
            user_of_provider, people, issuer=self.provider.issuer, subject=str(claims["sub"]), name=name,
            role=self.provider.role,
        )  # fmt: skip
        principal, _, cookie = await asyncio.to_thread(people.open_session, user)
        return cookie, principal

    async def claims(self, token: str, *, nonce: str) -> Mapping[str, Any]:
        """Of an id token that stands every test. Raises ApiError 401."""
        await self._discover()
        try:
            try:
                decoded = jwt.decode(token, await self._key_set(), algorithms=ALGORITHMS)
            except (JoseError, ValueError):  # perhaps signed with a new key
                decoded = jwt.decode(token, await self._key_set(anew=True), algorithms=ALGORITHMS)
            claims = decoded.claims
            jwt.JWTClaimsRegistry(
                leeway=_LEEWAY,
                iss={"essential": True, "value": self.provider.issuer},
                sub={"essential": True},
                exp={"essential": True},
                iat={"essential": True},
                nonce={"essential": True, "value": nonce},
            ).validate(claims)
        except (JoseError, ValueError, TypeError) as error:
            log.warning("an identity token was refused (%s)", type(error).__name__)
            raise ApiError(
                401, "the identity provider's token is not valid here", code="invalid_login"
            ) from error
        audience = claims.get("aud")
        for_us = audience if isinstance(audience, list) else [audience]
        if self.provider.client_id not in for_us or (
            len(for_us) > 1 and claims.get("azp") != self.provider.client_id
        ):
            raise ApiError(401, "the identity provider's token is for somebody else", code="invalid_login")
        return claims

    # ---- inside -----------------------------------------------------------------------------------------------------

    async def _exchange(self, request: Request, code: str, verifier: str) -> str:
        metadata = await self._discover()
        form = {
            "grant_type": "authorization_code", "code": code, "redirect_uri": self._back(request),
            "client_id": self.provider.client_id, "code_verifier": verifier,
        }  # fmt: skip
        if self.provider.client_secret:
            form["client_secret"] = self.provider.client_secret
        answer = await self._ask("POST", str(metadata["token_endpoint"]), data=form)
        token = answer.get("id_token")
        if not isinstance(token, str):
            raise ApiError(401, "the identity provider did not let you in", code="invalid_login")
        return token

    async def _discover(self) -> Mapping[str, Any]:
        if self._metadata is None:
            url = f"{self.provider.issuer.rstrip('/')}/.well-known/openid-configuration"
            found = await self._ask("GET", url)
            if found.get("issuer") != self.provider.issuer:
                raise ApiError(
                    502, "the identity provider calls itself by another name", code="provider_failed"
                )
            for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
                if not isinstance(found.get(name), str):
                    raise ApiError(502, f"the identity provider names no {name}", code="provider_failed")
            self._metadata = found
        return self._metadata

    async def _key_set(self, *, anew: bool = False) -> KeySet:
        async with self._turn:
            if self._keys is None or (anew and self._clock() - self._asked >= _REFRESH_SECONDS):
                self._asked = self._clock()
                metadata = await self._discover()
                self._keys = KeySet.import_key_set(await self._ask("GET", str(metadata["jwks_uri"])))  # type: ignore[arg-type]
            return self._keys

    async def _ask(self, method: str, url: str, **options: Any) -> dict[str, Any]:
        try:
            async with httpx.AsyncClient(timeout=10.0, follow_redirects=False, trust_env=False) as client:
                answer = await client.request(method, url, **options)
            if answer.status_code == 400 and method == "POST":
                return {}
            answer.raise_for_status()
            found = answer.json()
        except (httpx.HTTPError, ValueError) as error:
            log.warning("the identity provider %s failed (%s)", self.name, type(error).__name__)
            raise ApiError(502, "the identity provider does not answer", code="provider_failed") from error
        if not isinstance(found, dict):
            raise ApiError(502, "the identity provider does not answer", code="provider_failed")
        return found

    def _back(self, request: Request) -> str:
        return f"{(self.provider.url or str(request.base_url)).rstrip('/')}{CALLBACK}"

    def _seal(self, people: People, kept: Mapping[str, Any]) -> str:
        text = base64.urlsafe_b64encode(json.dumps(kept).encode()).decode()
        return f"{text}.{people.directory.sign('oidc', text)}"

    def _open(self, people: People, sealed: str) -> Mapping[str, Any] | None:
        text, _, signature = sealed.partition(".")
        if not hmac.compare_digest(people.directory.sign("oidc", text).encode(), signature.encode()):
            return None
        kept = json.loads(base64.urlsafe_b64decode(text))
        return kept if kept["until"] > time.time() else None
