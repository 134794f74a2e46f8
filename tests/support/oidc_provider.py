"""A small OpenID provider on loopback, for tests: it lets everybody in as whom `person` says, and can be made to lie."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlencode

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import RedirectResponse
from joserfc import jwt
from joserfc.jwk import RSAKey

from hanok.server.app import listen

KEY = RSAKey.generate_key(2048, {"kid": "first"})


@dataclass
class Provider:
    """`claims` replace what a token would say; `signer` signs it as `header` says; `asked` counts requests for keys."""

    url: str = ""
    person: dict[str, Any] = field(default_factory=lambda: {"sub": "1234", "email": "yeonghui@example.org"})
    claims: dict[str, Any] = field(default_factory=dict)
    header: dict[str, str] = field(default_factory=dict)
    key: RSAKey = field(default_factory=lambda: KEY)
    signer: Any = None
    asked: int = 0
    codes: dict[str, dict[str, str]] = field(default_factory=dict)

    def token(self, nonce: str, **claims: Any) -> str:
        said = {
            "iss": self.url, "aud": "hanok", "exp": int(time.time()) + 300, "iat": int(time.time()), "nonce": nonce,
            **self.person, **self.claims, **claims,
        }  # fmt: skip
        header = {"alg": "RS256", "kid": self.key.kid, **self.header}
        if header["alg"] == "RS256":
            return jwt.encode(header, said, self.signer or self.key)
        text = ".".join(map(_encode, (header, said)))
        if header["alg"] == "none":
            return text + "."
        # HS256 with the public key, by whoever hopes that it is taken for a shared secret
        digest = hmac.new(self.key.as_pem(private=False), text.encode(), hashlib.sha256).digest()
        return f"{text}.{base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"


@contextmanager
def running() -> Iterator[Provider]:
    provider, app = Provider(), FastAPI()

    @app.get("/.well-known/openid-configuration")
    async def discovery() -> dict[str, str]:
        return {
            "issuer": provider.url, "authorization_endpoint": f"{provider.url}/authorize",
            "token_endpoint": f"{provider.url}/token", "jwks_uri": f"{provider.url}/jwks",
        }  # fmt: skip

    @app.get("/authorize")
    async def authorize(request: Request) -> RedirectResponse:
        query = dict(request.query_params)
        code = f"code-{len(provider.codes)}"
        provider.codes[code] = query
        return RedirectResponse(
            f"{query['redirect_uri']}?{urlencode({'code': code, 'state': query['state']})}"
        )

    @app.post("/token")
    async def token(request: Request) -> Any:
        form = dict(parse_qsl((await request.body()).decode()))
        asked = provider.codes.pop(str(form["code"]))
        digest = hashlib.sha256(str(form["code_verifier"]).encode()).digest()
        assert base64.urlsafe_b64encode(digest).rstrip(b"=").decode() == asked["code_challenge"]
        assert (form["client_secret"], form["redirect_uri"]) == ("s3cret", asked["redirect_uri"])
        return {"id_token": provider.token(asked["nonce"]), "token_type": "Bearer", "access_token": "x"}

    @app.get("/jwks")
    async def jwks() -> dict[str, Any]:
        provider.asked += 1
        return {"keys": [provider.key.as_dict(private=False)]}

    with listen("127.0.0.1", 0) as listener:
        provider.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield provider
        server.should_exit = True
        thread.join()


def _encode(part: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()
