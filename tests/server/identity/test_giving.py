"""An administrator's key that was narrowed gives nobody, and least of all itself, more than it has."""

from __future__ import annotations

import time
from typing import Any

import pytest

from hanok.server.identity.secrets import public_id
from hanok.store.access import Key

PASSWORD = "tea at the pavilion"
SOON, LATER = time.time() + 3600, time.time() + 7200
# how a key is narrowed, what would be more, what would not
NARROWED: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    ({"scopes": ["admin"]}, {"scopes": None}, {"scopes": ["admin"]}),
    ({"scopes": ["admin"]}, {"scopes": ["admin", "chat"]}, {"role": "viewer", "scopes": []}),
    ({"models": ["small"]}, {"models": None}, {"models": ["small"]}),
    ({"models": ["small"]}, {"models": ["small", "large"]}, {"models": []}),
    ({"networks": ["127.0.0.0/8"]}, {"networks": None}, {"networks": ["127.1.0.0/16", "127.0.0.1"]}),
    ({"networks": ["127.0.0.0/8"]}, {"networks": ["0.0.0.0/0"]}, {"networks": ["127.0.0.1/32"]}),
    ({"networks": ["127.0.0.0/8"]}, {"networks": ["127.0.0.1", "::1"]}, {"networks": []}),
    ({"expires": SOON}, {"expires": None}, {"expires": SOON}),
    ({"expires": SOON}, {"expires": LATER}, {"expires": SOON - 60}),
    ({"priority": 10}, {"priority": 0}, {"priority": 20}),
    ({"limits": {"requests_per_minute": 1000}}, {"limits": {}}, {"limits": {"requests_per_minute": 10, "concurrency": 1}}),
    ({"limits": {"daily_budget": 1}}, {"limits": {"daily_budget": 2}}, {"limits": {"daily_budget": 1}}),
]  # fmt: skip


@pytest.mark.parametrize(("narrowed", "more", "within"), NARROWED)
def test_a_narrowed_key_gives_no_more_than_it_has(
    house: Any, narrowed: dict[str, Any], more: dict[str, Any], within: dict[str, Any]
) -> None:
    wide, key = (house.make_key(role="administrator", **values) for values in ({}, narrowed))

    def ask(method: str, path: str, body: dict[str, Any], *, by: str = key) -> int:
        return house.ask(by, method=method, path=path, json=body).status_code

    role = {"role": "administrator", **narrowed}
    assert ask("POST", "/admin/keys", {"name": "x", **role, **more}) == 403
    assert ask("POST", "/admin/keys", {"name": "x", **role, **within}) == 201
    itself = f"/admin/keys/{public_id(key)}"
    assert ask("PATCH", itself, more) == 403
    kept = house.management.access.find(Key, public_id(key))
    assert all(getattr(kept, name) == value for name, value in narrowed.items())  # nothing of it was written
    others = f"/admin/keys/{public_id(wide)}"
    assert ask("PATCH", others, {"name": "renamed"}) == 403
    assert ask("POST", f"{others}/rotate", {}) == 403  # whose secret it would be told
    assert house.ask(wide).status_code == 200
    assert ask("POST", f"{itself}/rotate", {"grace": 60}) == 201
    assert ask("PATCH", itself, more, by=wide) == 200  # control: who has it gives it
    assert ask("DELETE", others, {}) == 200  # taking away is no giving


def test_nor_by_way_of_a_person(house: Any) -> None:
    house.make_key(role="administrator")
    key = house.make_key(role="administrator", models=["small"])
    house.management.create_user("boss", password=PASSWORD, role="administrator")
    user = house.management.create_user("yuna", password=PASSWORD)
    new = {"name": "x", "password": PASSWORD, "role": "administrator"}
    assert house.ask(key, method="POST", path="/admin/users", json=new).status_code == 403
    path = f"/admin/users/{user.id}"
    for body in ({"password": "another pavilion"}, {"role": "administrator"}, {"disabled": False}):
        assert house.ask(key, method="PATCH", path=path, json=body).status_code == 403
    assert house.people._sign_in("yuna", PASSWORD, "127.0.0.1")[0].role == "user"  # with the old one
    assert house.ask(key, method="PATCH", path=path, json={"disabled": True}).status_code == 200


def test_a_person_with_limits_gives_them_along(house: Any) -> None:
    limits = {"requests_per_minute": 60}
    house.management.create_user("boss", password=PASSWORD, role="administrator", limits=limits)
    signed = house.ask(
        method="POST", path="/session", json={"name": "boss", "password": PASSWORD}, headers={"Origin": "http://127.0.0.1:8080"}
    )  # fmt: skip
    headers = {"Origin": "http://127.0.0.1:8080", "x-hanok-csrf": signed.json()["csrf"]}

    def make(body: dict[str, Any]) -> int:
        return house.ask(
            method="POST", path="/admin/keys", json={"name": "x", **body}, headers=headers
        ).status_code

    assert make({}) == 403
    assert make({"limits": {"requests_per_minute": 30}}) == 201
