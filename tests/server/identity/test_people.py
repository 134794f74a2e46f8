"""People: passwords, sessions, the first administrator, and a provider that lets them in."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import oidc_provider as providers
import pytest

from hanok.errors import ConfigError, InputError
from hanok.server.errors import ApiError
from hanok.server.identity.directory import SESSION_SECONDS, Entry
from hanok.server.identity.middleware import COOKIE
from hanok.server.identity.oidc import Oidc
from hanok.server.identity.passwords import Passwords
from hanok.server.identity.provider import Provider
from hanok.server.identity.secrets import token_digest
from hanok.store.access import Session, User

PASSWORD = "tea at the pavilion"
ORIGIN = {"Origin": "http://127.0.0.1:8080"}


def sign_in(house: Any, name: str = "yeonghui", password: str = PASSWORD) -> Any:
    return house.ask(
        method="POST", path="/session", json={"name": name, "password": password}, headers=ORIGIN
    )


@pytest.fixture
def signed(house: Any) -> Any:
    """Where Yeonghui is an administrator and signed in."""
    house.management.create_user("yeonghui", password=PASSWORD, role="administrator")
    answer = sign_in(house)
    assert answer.status_code == 200
    house.facts["csrf"] = answer.json()["csrf"]
    return house


def test_signing_in_and_out(signed: Any) -> None:
    me = signed.ask(path="/session").json()
    assert (me["mode"], me["signed_in"], me["principal"]["name"]) == ("keys", True, "yeonghui")
    assert "keys:manage" in me["principal"]["permissions"]
    assert me["csrf"] == signed.facts["csrf"]
    assert signed.ask(path="/admin/users").status_code == 200
    out = signed.ask(
        method="DELETE", path="/session", headers={**ORIGIN, "x-hanok-csrf": signed.facts["csrf"]}
    )
    assert out.status_code == 204
    assert signed.ask(path="/session").json()["signed_in"] is False
    assert signed.ask(path="/admin/users").status_code == 401


def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(house: Any) -> None:
    house.management.create_user("yeonghui", password=PASSWORD)
    cookie = sign_in(house).headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    with sqlite3.connect(house.path / "store.sqlite") as connection:
        dump = "\n".join(connection.iterdump())
    connection.close()
    assert house.local.cookies[COOKIE] not in dump
    assert PASSWORD not in dump
    assert "$argon2id$" in dump


def test_passwords_are_hashed_with_argon2id_as_its_makers_advise() -> None:
    passwords = Passwords()
    kept = passwords.hash(PASSWORD)
    assert kept.startswith("$argon2id$v=19$m=65536,t=3,p=4$")
    assert passwords.fits(kept, PASSWORD)
    assert not passwords.fits(kept, PASSWORD + "x")
    assert not passwords.fits(None, PASSWORD)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"x-hanok-csrf": "GOOD"},
        ORIGIN,
        {**ORIGIN, "x-hanok-csrf": "bad"},
        {"Origin": "http://evil.example", "x-hanok-csrf": "GOOD"},
    ],
)
def test_a_session_alone_changes_nothing(signed: Any, headers: dict[str, str]) -> None:
    shown = {name: value.replace("GOOD", signed.facts["csrf"]) for name, value in headers.items()}
    made = signed.ask(method="POST", path="/admin/keys", json={"name": "x"}, headers=shown)
    assert made.status_code == 403
    good = {**ORIGIN, "x-hanok-csrf": signed.facts["csrf"]}
    assert signed.ask(method="POST", path="/admin/keys", json={"name": "x"}, headers=good).status_code == 201


def test_wrong_passwords_are_slowed_down(house: Any) -> None:
    house.management.create_user("yeonghui", password=PASSWORD)
    codes = [sign_in(house, password="wrong").status_code for _ in range(6)]
    assert codes == [401] * 5 + [429]
    refused = sign_in(house)  # the right one too: who guesses does not learn that it was right
    assert refused.status_code == 429
    assert 1 <= int(refused.headers["Retry-After"]) <= 60
    nobody = sign_in(house, name="nobody")
    assert nobody.status_code == 401
    assert nobody.json()["error"]["message"] == "no such name, or another password"


def test_guesses_of_the_old_password_are_slowed_down_too(signed: Any) -> None:
    headers = {**ORIGIN, "x-hanok-csrf": signed.facts["csrf"]}

    def change(old: str, new: str = "another pavilion") -> int:
        body = {"old": old, "new": new}
        return signed.ask(method="POST", path="/session/password", json=body, headers=headers).status_code

    for number in range(7):  # being right is no guess
        before, after = (PASSWORD, "another pavilion")[:: 1 if number % 2 == 0 else -1]
        assert change(before, after) == 204
    assert [change("wrong") for _ in range(6)] == [401] * 5 + [429]
    assert change("another pavilion", PASSWORD) == 429  # the right one too
    signed.local.cookies.clear()
    assert sign_in(signed, password="another pavilion").status_code == 429  # one count for both


def test_signing_in_often_is_no_failure(house: Any) -> None:
    house.management.create_user("yeonghui", password=PASSWORD)
    for _ in range(7):
        house.local.cookies.clear()
        assert sign_in(house).status_code == 200


def test_sessions_end(signed: Any) -> None:
    access = signed.management.access
    access.change(Session, _session(signed).id, expires=time.time() - 1)
    signed.directory._memory.sessions.clear()
    assert signed.ask(path="/admin/users").status_code == 401


def _session(house: Any) -> Session:
    found = house.management.access.find(Session, token_digest(house.local.cookies[COOKIE]))
    assert found is not None
    return found


def test_being_used_keeps_a_session_alive(signed: Any) -> None:
    access, session = signed.management.access, _session(signed)
    access.change(Session, session.id, expires=time.time() + 60)
    signed.directory._memory.sessions.clear()
    assert signed.ask(path="/admin/users").status_code == 200
    assert _session(signed).expires == pytest.approx(time.time() + SESSION_SECONDS, abs=10)


def test_disabling_and_a_new_password_end_sessions(signed: Any) -> None:
    access = signed.management.access
    user = access.find_user("yeonghui")
    with pytest.raises(InputError, match="last administrator"):
        signed.management.change_user(user, disabled=True)
    with pytest.raises(InputError, match="last administrator"):
        signed.management.delete_user(user)
    signed.management.create_user("cheolsu", password=PASSWORD, role="administrator")
    changed = signed.ask(
        method="POST", path="/session/password", json={"old": PASSWORD, "new": "another pavilion"},
        headers={**ORIGIN, "x-hanok-csrf": signed.facts["csrf"]},
    )  # fmt: skip
    assert changed.status_code == 204
    assert signed.ask(path="/admin/users").status_code == 200  # one's own goes on
    signed.management.change_user(access.find(User, user.id), disabled=True)
    assert signed.ask(path="/admin/users").status_code == 401
    assert sign_in(signed, password="another pavilion").status_code == 403


def test_roles_change_at_once(signed: Any) -> None:
    signed.management.create_user("cheolsu", password=PASSWORD, role="administrator")
    signed.management.change_user(signed.management.access.find_user("yeonghui"), role="viewer")
    assert signed.ask(path="/admin/users").status_code == 403
    with pytest.raises(InputError, match="10 to 200"):
        signed.management.create_user("short", password="short")
    with pytest.raises(InputError, match="already"):
        signed.management.create_user("cheolsu", password=PASSWORD)


def test_people_and_tenants_by_the_routes(house: Any) -> None:
    assert house.ask(method="POST", path="/admin/tenants", json={"id": "acme"}).status_code == 201
    made = house.ask(
        method="POST", path="/admin/users", json={"name": "a", "password": PASSWORD, "role": "administrator"}
    )
    assert made.status_code == 201
    assert not {"password", "subject"} & set(made.json())
    key = house.make_key(role="administrator")
    path = f"/admin/users/{made.json()['id']}"
    other = house.ask(key, method="POST", path="/admin/users", json={"name": "b", "tenant": "acme"}).json()
    assert other["tenant"] == "acme"
    assert (
        house.ask(key, method="PATCH", path=path, json={"role": "viewer"}).status_code == 400
    )  # the last one
    path = f"/admin/users/{other['id']}"
    assert house.ask(key, method="PATCH", path=path, json={"disabled": True}).json()["disabled"] is not None
    assert house.ask(key, method="DELETE", path=path).status_code == 204
    suspended = house.ask(key, method="PATCH", path="/admin/tenants/acme", json={"suspended": True}).json()
    assert suspended["suspended"] is not None
    theirs = house.make_key(tenant="acme")
    assert house.ask(theirs).json()["error"]["code"] == "tenant_suspended"
    deleted = house.ask(key, method="DELETE", path="/admin/tenants/acme").json()
    assert deleted["deleted"] is True
    assert house.ask(theirs).status_code == 401
    for method in ("PATCH", "DELETE"):
        assert (
            house.ask(key, method=method, path="/admin/tenants/default", json={"suspended": True}).status_code
            == 400
        )


def test_the_first_administrator_is_made_with_the_token(make_house: Callable[..., Any]) -> None:
    house = make_house(host="0.0.0.0", entry=Entry(setup=True))
    token = house.people.setup_token
    assert house.ask(path="/session").json()["login"]["setup"] is True
    assert house.ask(path="/admin/keys").status_code == 401
    body = {"token": token, "name": "yeonghui", "password": PASSWORD}
    assert (
        house.ask(
            method="POST", path="/session/setup", json={**body, "token": "x"}, headers=ORIGIN
        ).status_code
        == 401
    )
    made = house.ask(method="POST", path="/session/setup", json=body, headers=ORIGIN)
    assert made.json()["principal"]["role"] == "administrator"
    assert house.ask(path="/admin/keys").status_code == 200
    again = {**body, "name": "another"}
    assert (
        house.ask(
            method="POST",
            path="/session/setup",
            json=again,
            headers={**ORIGIN, "x-hanok-csrf": made.json()["csrf"]},
        ).status_code
        == 401
    )
    assert make_house(entry=Entry(setup=True)).people.setup_token is None


# ---- a provider ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def running_provider() -> Iterator[Any]:
    with providers.running() as provider:
        yield provider


@pytest.fixture
def provider(running_provider: Any) -> Any:
    fresh = providers.Provider(url=running_provider.url)
    for name in ("person", "claims", "header", "key", "signer", "asked", "codes"):
        setattr(running_provider, name, getattr(fresh, name))
    return running_provider


def entry(provider: Any, **changes: Any) -> Entry:
    values = {
        "issuer": provider.url,
        "client_id": "hanok",
        "client_secret": "s3cret",
        "name": "Test",
        **changes,
    }
    return Entry(provider=Provider(**values))


def through(house: Any, *, state: str | None = None) -> Any:
    """As a browser goes: to the provider, and back."""
    begun = house.ask(path="/session/oidc", follow_redirects=False)
    assert begun.status_code == 302
    back = httpx.get(begun.headers["location"], follow_redirects=False).headers["location"]
    query = back.split("?", 1)[1]
    if state is not None:
        query = query.split("&")[0] + f"&state={state}"
    return house.ask(path=f"/session/oidc/callback?{query}", follow_redirects=False)


def test_signing_in_through_a_provider(make_house: Callable[..., Any], provider: Any) -> None:
    house = make_house(entry=entry(provider))
    house.make_key()
    assert house.ask(path="/session").json()["login"]["oidc"] == "Test"
    for _ in range(2):
        assert through(house).status_code == 200
        me = house.ask(path="/session").json()["principal"]
        assert (me["name"], me["role"], me["kind"]) == ("yeonghui@example.org", "user", "user")
    assert len(house.management.access.every(User)) == 1
    provider.person = {"sub": "5678", "email": "yeonghui@example.org"}  # the same address, another person
    assert through(house).status_code == 200
    assert len({user.name for user in house.management.access.every(User)}) == 2
    assert provider.asked == 1


LIES: dict[str, Callable[[Any], None]] = {
    "alg none": lambda provider: provider.header.update(alg="none"),
    "public key as a secret": lambda provider: provider.header.update(alg="HS256"),
    "another's key": lambda provider: setattr(
        provider, "signer", providers.RSAKey.generate_key(2048, {"kid": "first"})
    ),
    "wrong aud": lambda provider: provider.claims.update(aud="another"),
    "aud of two without azp": lambda provider: provider.claims.update(aud=["hanok", "another"]),
    "no aud": lambda provider: provider.claims.update(aud=None),
    "wrong iss": lambda provider: provider.claims.update(iss="https://evil.example"),
    "expired": lambda provider: provider.claims.update(exp=int(time.time()) - 3600),
    "wrong nonce": lambda provider: provider.claims.update(nonce="replayed"),
    "no subject": lambda provider: provider.claims.update(sub=None),
}


@pytest.mark.parametrize("lie", LIES)
def test_f33_tokens_that_lie_are_refused(make_house: Callable[..., Any], provider: Any, lie: str) -> None:
    house = make_house(entry=entry(provider))
    house.make_key()
    assert through(house).status_code == 200  # control: the truth is believed
    house.local.cookies.clear()
    LIES[lie](provider)
    refused = through(house)
    assert refused.status_code == 401, lie
    assert house.ask(path="/session").json()["signed_in"] is False
    assert len(house.management.access.every(User)) == 1


def test_a_sign_in_that_was_not_begun_here_is_refused(make_house: Callable[..., Any], provider: Any) -> None:
    house = make_house(entry=entry(provider))
    house.make_key()
    assert through(house, state="forged").status_code == 401
    house.local.cookies.clear()
    assert house.ask(path="/session/oidc/callback?code=x&state=y").status_code == 401
    house.local.cookies.set("hanok_oidc", "e30.forged")
    assert house.ask(path="/session/oidc/callback?code=x&state=y").status_code == 401


def test_new_keys_are_asked_for_but_not_always(provider: Any) -> None:
    now = 0.0
    oidc = Oidc(Provider(issuer=provider.url, client_id="hanok", client_secret="s3cret"), clock=lambda: now)

    async def believed(token: str) -> bool:
        try:
            await oidc.claims(token, nonce="n")
        except ApiError:
            return False
        return True

    async def go() -> None:
        nonlocal now
        assert await believed(provider.token("n"))
        for _ in range(5):  # nonsense does not make us ask again and again
            assert not await believed(provider.token("n")[:-4] + "AAAA")
        assert provider.asked == 1
        provider.key = providers.RSAKey.generate_key(2048, {"kid": "second"})
        assert not await believed(provider.token("n"))
        now = 61.0
        assert await believed(provider.token("n"))
        assert provider.asked == 2

    asyncio.run(go())


@pytest.mark.parametrize(
    "values", [{"issuer": "http://login.example.org"}, {"role": "administrator"}, {"role": "god"}]
)
def test_providers_that_would_not_be_safe(values: dict[str, str]) -> None:
    with pytest.raises(ConfigError):
        Provider(**{"issuer": "https://login.example.org", "client_id": "x", **values})


def test_without_a_provider_there_is_none(house: Any) -> None:
    assert house.ask(path="/session/oidc").status_code == 404
