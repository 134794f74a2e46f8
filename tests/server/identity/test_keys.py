"""Keys: what is kept of them, who is let in with them, and for how long."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import sqlite3
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from hanok.errors import ConfigError, InputError
from hanok.server.identity.directory import Entry
from hanok.server.identity.secrets import cache_salt, key_digest, load_pepper, new_key, pepper_file, public_id
from hanok.server.principal import HOUSE
from hanok.store.access import Key

KEY = re.compile(r"hk_[0-9a-f]{16}_[A-Za-z0-9_-]{43}")


def test_keys_have_256_random_bits_and_a_public_part() -> None:
    made = [new_key() for _ in range(100)]
    assert all(KEY.fullmatch(whole) and public_id(whole) == public for public, whole in made)
    assert len({whole[-43:] for _, whole in made}) == 100  # 43 letters of base64: 32 bytes


@pytest.mark.parametrize(
    "text", ["", "none", "hk_", "hk_short_x", "sk_0123456789abcdef_x", "hk_0123456789ABCDEF_x", "hk_" + "0" * 500]
)  # fmt: skip
def test_other_texts_are_no_keys(text: str) -> None:
    assert public_id(text) is None


def test_the_digest_is_hmac_under_the_pepper() -> None:
    expected = hmac.new(b"p" * 32, b"hk_x_y", hashlib.sha256).hexdigest()
    assert key_digest(b"p" * 32, "hk_x_y") == expected


def test_salts_keep_tenants_and_domains_apart() -> None:
    salts = {
        cache_salt(b"k", tenant, domain)
        for tenant, domain in [("ab", "c"), ("a", "bc"), ("a", "b"), ("abc", "")]
    }
    assert len(salts) == 4
    assert cache_salt(b"k", "a", "b") == cache_salt(b"k", "a", "b") != cache_salt(b"other", "a", "b")


def test_the_pepper_is_a_file_that_nobody_else_reads(tmp_path: Path) -> None:
    store = tmp_path / "store.sqlite"
    with pytest.raises(ConfigError, match="cannot be read"):
        load_pepper(store, {}, create=False)
    pepper = load_pepper(store, {}, create=True)
    path = pepper_file(store)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_pepper(store, {}, create=True) == pepper
    assert list(tmp_path.iterdir()) == [path]
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="others may read it"):
        load_pepper(store, {}, create=False)
    assert load_pepper(store, {"HANOK_PEPPER": "x" * 32}, create=False) == b"x" * 32
    with pytest.raises(ConfigError, match="32 or more"):
        load_pepper(store, {"HANOK_PEPPER": "x"}, create=False)
    with pytest.raises(ConfigError, match="all servers share"):
        load_pepper(None, {}, create=True)


def test_the_store_holds_no_key(house: Any) -> None:
    whole = house.make_key()
    with sqlite3.connect(house.path / "store.sqlite") as connection:
        dump = "\n".join(connection.iterdump())
    connection.close()
    assert str(public_id(whole)) in dump
    assert whole.split("_", 2)[2] not in dump


def test_a_stolen_table_does_not_admit(house: Any, make_house: Callable[..., Any]) -> None:
    """The same rows under another pepper: the key is refused."""
    key = house.make_key()
    assert house.ask(key).status_code == 200
    house.directory._pepper = b"another pepper of 32 characters!"
    assert house.ask(key).status_code == 401


# ---- who is let in ----------------------------------------------------------------------------------------------------


def test_without_keys_this_machine_is_the_administrator(house: Any) -> None:
    assert house.ask().status_code == 200
    assert house.ask("none").status_code == 200  # what OpenAI's client sends where there are no keys
    assert house.ask(path="/admin/keys").status_code == 200
    assert house.ask(headers={"Host": "evil.example"}).status_code == 403


def test_with_a_key_keys_are_needed(house: Any) -> None:
    key = house.make_key()
    assert house.ask(key).status_code == 200
    assert house.ask(headers={"x-api-key": key}).status_code == 200
    for wrong in (None, "none", key[:-1] + ("A" if key[-1] != "A" else "B"), new_key()[1], key + "x"):
        refused = house.ask(wrong)
        assert refused.status_code == 401
        assert refused.json()["error"]["code"] == "invalid_api_key"
    assert house.chat().status_code == 401
    assert house.chat(key).status_code == 200
    assert house.ask(path="/health").status_code == 200  # public
    assert house.ask(path="/").status_code == 200  # the page, which asks to sign in


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([("Authorization", "Bearer KEY"), ("x-api-key", "KEY")], 400),
        ([("Authorization", "Bearer KEY"), ("Authorization", "Bearer KEY")], 400),
        ([("x-api-key", "KEY"), ("X-Api-Key", "other")], 400),
        ([("Authorization", "Basic KEY")], 401),
        ([("Authorization", "Bearer")], 401),
        ([("Authorization", "Bearer KEY KEY")], 401),
        ([("Authorization", "bearer KEY")], 200),
    ],
)
def test_how_a_key_is_shown(house: Any, headers: list[tuple[str, str]], status: int) -> None:
    key = house.make_key()
    shown = [(name, value.replace("KEY", key)) for name, value in headers]
    assert house.local.get("/v1/models", headers=shown).status_code == status


def test_expiry_revocation_and_rotation(house: Any) -> None:
    expired = house.make_key(expires=time.time() - 1)
    assert house.ask(expired).json()["error"]["code"] == "key_expired"
    key = house.make_key()
    kept = house.management.access.find(Key, public_id(key))
    fresh, whole = house.management.rotate_key(kept, grace=60)
    assert (fresh.name, fresh.role, fresh.limits) == (kept.name, kept.role, kept.limits)
    assert house.ask(key).status_code == house.ask(whole).status_code == 200
    house.management.revoke_key(fresh)
    assert house.ask(whole).json()["error"]["code"] == "key_revoked"
    with pytest.raises(InputError, match="was revoked"):
        house.management.rotate_key(house.management.access.find(Key, fresh.id))
    house.management.rotate_key(kept)
    assert house.ask(key).json()["error"]["code"] == "key_revoked"


def test_revocation_by_another_process_is_seen_in_half_a_second(
    house: Any, make_house: Callable[..., Any]
) -> None:
    other = make_house()
    key = house.make_key()
    assert other.ask(key).status_code == 200
    house.management.revoke_key(house.management.access.find(Key, public_id(key)))
    headers, revoked = {"Authorization": f"Bearer {key}"}, time.monotonic()
    while other.local.get("/v1/models", headers=headers).status_code == 200:
        assert time.monotonic() - revoked < 1.0
        time.sleep(0.02)
    assert other.local.get("/v1/models", headers=headers).status_code == 401


def test_a_key_names_its_models(house: Any) -> None:
    key = house.make_key(models=["another"])
    assert house.ask(key).json()["data"] == []
    refused = house.chat(key)
    assert refused.status_code == 404
    assert house.model not in refused.text.replace(f'no model \\"{house.model}\\"', "")


def test_a_key_names_its_networks(house: Any) -> None:
    assert house.ask(house.make_key(networks=["127.0.0.0/8"])).status_code == 200
    assert house.ask(house.make_key(networks=["192.0.2.0/24", "2001:db8::/32"])).status_code == 403


def test_pages_elsewhere_need_a_key_for_their_origin(house: Any) -> None:
    page = "https://app.example.org"
    key, other = house.make_key(origins=[page]), house.make_key()
    answer = house.ask(key, headers={"Origin": page})
    assert answer.status_code == 200
    assert answer.headers["Access-Control-Allow-Origin"] == page
    assert house.ask(other, headers={"Origin": page}).status_code == 403
    assert house.ask(key, headers={"Origin": "https://evil.example"}).status_code == 403
    assert house.ask(path="/session", headers={"Origin": page}).status_code == 403
    asked = {"Access-Control-Request-Method": "POST"}
    allowed = house.ask(method="OPTIONS", path="/v1/chat/completions", headers={"Origin": page, **asked})
    assert allowed.status_code == 204
    assert "authorization" in allowed.headers["Access-Control-Allow-Headers"]
    assert house.ask(method="OPTIONS", headers={"Origin": "https://evil.example", **asked}).status_code == 403


def test_last_use_is_written_down(house: Any) -> None:
    key = house.make_key()
    house.ask(key)
    house.directory.flush()
    assert house.management.access.find(Key, public_id(key)).last_used == pytest.approx(time.time(), abs=5)


# ---- this machine and others ------------------------------------------------------------------------------------------


def test_trusting_this_machine(make_house: Callable[..., Any]) -> None:
    house = make_house(entry=Entry(trust_loopback=True))
    key = house.make_key(role="viewer")
    assert house.ask(path="/admin/keys").status_code == 200
    assert house.ask("none", path="/admin/keys").status_code == 200
    assert house.ask(key, path="/admin/keys").status_code == 403  # a key is what it is
    assert house.ask(key[:-1], path="/admin/keys").status_code == 401
    for passed_on in (
        {"X-Forwarded-For": "192.0.2.1"},
        {"Forwarded": "for=192.0.2.1"},
        {"Host": "192.0.2.7"},
    ):
        assert house.ask(path="/admin/keys", headers=passed_on).status_code == 401
    assert house.ask(path="/admin/keys", headers={"Origin": "http://evil.example"}).status_code == 403


def test_elsewhere_needs_keys_always(make_house: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match="has no keys yet"):
        make_house(host="0.0.0.0")
    make_house().make_key()
    house = make_house(host="0.0.0.0", entry=Entry(allowed_hosts=("hanok.example.org",)))
    assert house.ask().status_code == 401
    key = house.make_key()
    for host, status in [
        ("hanok.example.org", 200), ("hanok.example.org:8443", 200), ("192.0.2.7:8080", 200), ("[::1]:8080", 200),
        ("evil.example", 403), ("x/#@y", 403), ("hanok.example.org@evil.example", 403), ("", 403), ("a b", 403),
    ]:  # fmt: skip
        assert house.ask(key, headers={"Host": host}).status_code == status, host


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"role": "god"}, "no role"),
        ({"scopes": ["chatt"]}, 'did you mean "chat"'),
        ({"networks": ["nowhere"]}, "network"),
        ({"origins": ["https://a.example/path"]}, "origin"),
        ({"priority": 10_000}, "priority"),
        ({"limits": {"requests": 1}}, "no limit"),
        ({"limits": {"concurrency": 0}}, "1 or more"),
        ({"name": "a\nb"}, "printable"),
        ({"tenant": "nobody"}, "no tenant"),
    ],
)
def test_bad_values_are_refused(house: Any, values: dict[str, Any], message: str) -> None:
    with pytest.raises((ConfigError, InputError), match=message):
        house.management.create_key(**{"name": "x", **values})
    assert house.management.access.every(Key) == []


# ---- the routes -------------------------------------------------------------------------------------------------------


def test_keys_by_the_routes(house: Any) -> None:
    made = house.local.post("/admin/keys", json={"name": "bot", "role": "administrator"})
    assert made.status_code == 201
    key = made.json()
    assert KEY.fullmatch(key["secret"])
    assert (key["object"], key["role"], key["tenant"], key["created_by"]) == (
        "key", "administrator", HOUSE, "local",
    )  # fmt: skip
    admin = key["secret"]
    listed = house.ask(admin, path="/admin/keys").json()["data"]
    assert [one["id"] for one in listed] == [key["id"]]
    assert not {"secret", "digest"} & set(listed[0])
    path = f"/admin/keys/{key['id']}"
    limits = {"requests_per_minute": 60.0}
    changed = house.ask(admin, method="PATCH", path=path, json={"limits": limits, "models": ["x"]}).json()
    assert (changed["limits"], changed["models"], changed["role"]) == (limits, ["x"], "administrator")
    assert house.ask(admin, method="PATCH", path=path, json={"models": None}).status_code == 403  # itself
    other = house.make_key(role="administrator")
    assert house.ask(other, method="PATCH", path=path, json={"models": None}).json()["models"] is None
    assert house.ask(admin, method="PATCH", path=path, json={"digest": "0"}).status_code == 400
    assert house.ask(admin, method="PATCH", path=path, json={"role": "god"}).status_code == 400
    endless = {"content": b'{"expires": 1e999}', "headers": {"Content-Type": "application/json"}}
    assert house.ask(admin, method="PATCH", path=path, **endless).status_code == 400
    rotated = house.ask(admin, method="POST", path=f"{path}/rotate", json={"grace": 30})
    assert rotated.status_code == 201
    fresh = rotated.json()["secret"]
    assert house.ask(fresh, method="DELETE", path=path).json()["revoked"] is not None
    assert house.ask(admin).status_code == 401
    assert house.ask(fresh, path="/admin/keys/unknown").status_code == 404


def test_administrators_of_a_tenant_stay_in_it(house: Any) -> None:
    house.management.create_tenant("acme")
    ours, theirs = house.make_key(role="administrator"), house.make_key(role="administrator", tenant="acme")
    assert len(house.ask(ours, path="/admin/keys").json()["data"]) == 2
    assert [one["tenant"] for one in house.ask(theirs, path="/admin/keys").json()["data"]] == ["acme"]
    assert house.ask(theirs, path=f"/admin/keys/{public_id(ours)}").status_code == 404
    assert house.ask(theirs, method="DELETE", path=f"/admin/keys/{public_id(ours)}").status_code == 404
    made = house.ask(theirs, method="POST", path="/admin/keys", json={"name": "x", "tenant": HOUSE})
    assert made.status_code == 403
    made = house.ask(theirs, method="POST", path="/admin/keys", json={"name": "x"})
    assert made.json()["tenant"] == "acme"
    assert house.ask(theirs, method="POST", path="/admin/tenants", json={"id": "more"}).status_code == 403
    assert house.ask(theirs, path="/admin/tenants").json()["data"][0]["id"] == "acme"


def test_what_environment_pepper_means(
    make_house: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HANOK_PEPPER", "a pepper of at least 32 characters")
    house = make_house()
    assert house.ask(house.make_key()).status_code == 200
    assert not pepper_file(house.path / "store.sqlite").exists()
    assert "HANOK_PEPPER" in os.environ


def test_a_lost_pepper_is_said_and_admits_nobody(house: Any) -> None:
    key = house.make_key()
    pepper_file(house.path / "store.sqlite").unlink()
    house.directory._pepper = None
    assert house.ask(key).json()["error"]["code"] == "pepper_lost"
    assert house.ask(new_key()[1]).status_code == 401


def test_a_store_that_does_not_answer_admits_nobody(house: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    key = house.make_key()
    assert house.ask(key).status_code == 200

    def fail() -> int:
        raise OperationalError("SELECT", {}, Exception("gone"))

    monkeypatch.setattr(house.directory.access, "version", fail)
    refused = house.ask(key)
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "store_unavailable"
