"""Faults F30 to F32 of identity and limits, each with what shows that the test can fail; F27 and F29 are in `tests/store`."""

from __future__ import annotations

import contextlib
import json
import logging
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import on_a_port
from slow_engine import slow_down
from tenant_content import TABLES, rows_of

from hanok.errors import InputError
from hanok.server.identity.directory import Directory
from hanok.server.identity.secrets import public_id
from hanok.store.access import Key
from hanok.store.database import Store
from hanok.store.usage import read_usage

# ---- F30: four servers at the last unit ---------------------------------------------------------------------------------


def take_in_processes(
    places: Sequence[str], *, cap: float, seconds: float, steps: Sequence[float]
) -> tuple[int, float]:
    """Units that all got, and the time from the first that could take one to the end of the last."""
    script = str(Path(__file__).with_name("taker.py"))
    with contextlib.ExitStack() as held:
        workers = [
            held.enter_context(
                subprocess.Popen(
                    [sys.executable, script, place, str(cap), str(seconds), str(step)],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                )
            )
            for place, step in zip(places, steps, strict=True)
        ]  # fmt: skip
        for worker in workers:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "ready\n"
        began = time.monotonic()
        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.write("go\n")
            worker.stdin.flush()
        got = [int(worker.stdout.readline()) for worker in workers if worker.stdout is not None]
        return sum(got), time.monotonic() - began


@pytest.mark.faults
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_f30_four_servers_admit_no_more_than_one(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str
) -> None:
    """64 threads in four processes, whose clocks differ by an hour forth and back."""
    place = str(tmp_path / "store.sqlite") if kind == "sqlite" else request.getfixturevalue("postgresql")()
    Store(place if kind == "postgresql" else Path(place)).close()
    steps = (0.0, -3600.0, 0.0, -7200.0)
    began = time.monotonic()
    got, passed = take_in_processes([place] * 4, cap=120, seconds=3.0, steps=steps)
    assert 100 <= got <= 120 + 2 * passed + 1
    again, _ = take_in_processes([place] * 4, cap=120, seconds=1.0, steps=steps)  # all started anew
    assert (
        got + again <= 120 + 2 * (time.monotonic() - began) + 1
    )  # what lay unused was given back; nothing was given twice


@pytest.mark.faults
def test_f30_control_servers_without_a_common_store_admit_too_much(tmp_path: Path) -> None:
    places = [str(tmp_path / f"{number}.sqlite") for number in range(4)]
    got, passed = take_in_processes(places, cap=120, seconds=2.0, steps=[0.0] * 4)
    assert got > 120 + 2 * passed + 1


# ---- F31: rights are taken away while an answer streams -------------------------------------------------------------------


@pytest.fixture
def slow(server: Any) -> Iterator[None]:
    again = slow_down(server.engine, 0.02)
    yield
    again()


def revoke(house: Any, key: str) -> None:
    house.management.revoke_key(house.management.access.find(Key, public_id(key)))


def take_the_role(house: Any, key: str) -> None:
    house.management.change_key(house.management.access.find(Key, public_id(key)), role="viewer")


def delete_the_tenant(house: Any, _key: str) -> None:
    house.management.delete_tenant("acme")


def suspend_the_tenant(house: Any, _key: str) -> None:
    house.management.change_tenant("acme", suspended=True)


HELD = (*TABLES, "users")
Seconds = float | None


def bring(house: Any, key: str) -> None:
    """One of everything."""
    done = house.chat(key).json()
    house.management.create_user("yuna", tenant="acme")
    talk = {"title": "t", "messages": [{"id": "m", "role": "user", "content": "secret"}]}
    for method, path, options in (
        ("POST", "/v1/feedback", {"json": {"request_id": done["id"], "rating": 1}}),
        ("PUT", "/console/conversations/c", {"json": talk}),
        ("PUT", "/console/presets/p", {"json": {"title": "t", "system": "secret"}}),
        ("POST", "/v1/responses", {"json": {"model": house.model, "input": "hi", "max_output_tokens": 2}}),
        ("POST", "/v1/files", {"files": {"file": ("a.txt", b"The house has seven doors.")}}),
        ("POST", "/v1/vector_stores", {"json": {"name": "all"}}),
    ):
        answer = house.ask(key, method=method, path=path, **options)
        assert answer.status_code in (200, 201), (path, answer.text)


def cut_after(
    house: Any, client: httpx.Client, key: str, act: Callable[[Any, str], None], *, wait: float
) -> tuple[Seconds, Seconds]:
    """Seconds after `act` until a new request was refused, and until the open stream ended with an error; None: not in `wait`."""
    ends = {str(token): -100 for token in house.services.models.default.engine.tokenizer.stop_ids}
    body = {
        "model": house.model, "messages": [{"role": "user", "content": "hi"}], "stream": True, "max_tokens": 1500,
        "logit_bias": ends,
    }  # fmt: skip
    headers = {"Authorization": f"Bearer {key}"}
    acted, refused, ended = 0.0, None, None
    with client.stream("POST", "/v1/chat/completions", json=body, headers=headers) as stream:
        assert stream.status_code == 200
        for number, line in enumerate(stream.iter_lines()):
            if number == 6:
                act(house, key)
                acted = time.monotonic()
            if acted and refused is None:
                small = {**body, "stream": False, "max_tokens": 1}
                answer = client.post("/v1/chat/completions", json=small, headers=headers)
                if answer.status_code in (401, 403):
                    refused = time.monotonic() - acted
            if line.startswith("data: {") and "error" in json.loads(line[6:]):
                assert json.loads(line[6:])["error"]["code"] == "access_revoked"
                ended = time.monotonic() - acted
            if acted and time.monotonic() - acted > wait:
                break
    return refused, ended


@pytest.mark.faults
@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize("act", [revoke, take_the_role, delete_the_tenant, suspend_the_tenant])
def test_f31_open_streams_are_cut(house: Any, act: Callable[[Any, str], None]) -> None:
    house.management.create_tenant("acme")
    house.make_key()  # so that it stays closed
    key = house.make_key(tenant="acme")
    if act is delete_the_tenant:
        bring(house, key)
        assert rows_of(house.services.store, "acme", HELD) >= len(HELD)
    with on_a_port(house) as client:
        refused, ended = cut_after(house, client, key, act, wait=10)
    assert refused is not None
    assert refused <= 1.5  # a second, and the answer that was asked for before
    assert ended is not None
    assert ended <= 5.0
    house.services.admission.ledger.flush()
    if act is delete_the_tenant:  # what stays says how much was used, and nothing else
        assert read_usage(house.services.store, tenant="acme")[0]["requests"] >= 1
        assert rows_of(house.services.store, "acme", HELD) == 0
        with pytest.raises(InputError, match="there was a tenant"):
            house.management.create_tenant("acme")


@pytest.mark.faults
@pytest.mark.usefixtures("slow")
def test_f31_control_without_following_a_stream_goes_on(house: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Directory, "following", lambda *_: contextlib.nullcontext())
    house.make_key()
    key = house.make_key()
    with on_a_port(house) as client:
        refused, ended = cut_after(house, client, key, revoke, wait=6)
    assert refused is not None
    assert ended is None


# ---- F32: one tenant learns nothing of another --------------------------------------------------------------------------


def cached(house: Any, key: str) -> int:
    """Tokens of a long prompt that this key's tenant found in the cache, in one request."""
    before = _cached_so_far(house, key)
    words = [{"role": "user", "content": "우리 집 비밀은 부엌 항아리 안에 있어요. " * 12}]
    answer = house.chat(key, json={"messages": words, "cache_salt": "forged", "user": "somebody else"})
    assert answer.status_code == 200
    return _cached_so_far(house, key) - before


def _cached_so_far(house: Any, key: str) -> int:
    house.services.admission.ledger.flush()
    return sum(row["cached_tokens"] for row in read_usage(house.services.store, key=public_id(key)))


def test_f32_prefixes_are_cached_within_a_tenant_alone(house: Any) -> None:
    for tenant in ("acme", "other"):
        house.management.create_tenant(tenant)
    ours, too, theirs = (house.make_key(tenant=tenant) for tenant in ("acme", "acme", "other"))
    assert cached(house, ours) == 0
    assert cached(house, theirs) == 0
    assert cached(house, too) > 0
    assert cached(house, theirs) > 0  # its own


def test_f32_control_one_salt_for_all_leaks(house: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Directory, "salt", lambda *_: "the same for all")
    house.management.create_tenant("acme")
    ours, theirs = house.make_key(), house.make_key(tenant="acme")
    cached(house, ours)
    assert cached(house, theirs) > 0


def test_f32_answers_of_another_tenant_cannot_be_judged(house: Any) -> None:
    house.management.create_tenant("acme")
    ours, theirs = house.make_key(), house.make_key(tenant="acme")
    done = house.chat(ours).json()
    for key, status in ((theirs, 404), (ours, 201)):
        body = {"request_id": done["id"], "rating": 1}
        assert house.ask(key, method="POST", path="/v1/feedback", json=body).status_code == status
    assert [row.tenant for row in house.services.store.read_feedback()] == ["default"]


def first_answer(house: Any, key: str, words: str) -> float:
    """Milliseconds until a prompt was read."""
    body = {"messages": [{"role": "user", "content": words}], "max_tokens": 1}
    began = time.perf_counter()
    assert house.chat(key, json=body).status_code == 200
    return (time.perf_counter() - began) * 1000


def told_apart(house: Any, victim: str, attacker: str, pairs: int, rng: random.Random) -> float:
    """AUC: how well the time of an answer tells prompts that the victim has asked from those that nobody has; 0.5 is chance."""
    asked, fresh = [], []
    for number in range(pairs):
        known, new = (
            f"{rng.random()} {number} " + "우리 집 비밀은 부엌 항아리 안에 있어요. " * 30 for _ in range(2)
        )
        first_answer(house, victim, known)
        turns = [(known, asked), (new, fresh)]
        rng.shuffle(turns)
        for words, times in turns:
            times.append(first_answer(house, attacker, words))
    wins = sum((one < other) + (one == other) / 2 for one in asked for other in fresh)
    return wins / (pairs * pairs)


@pytest.mark.faults
def test_f32_times_do_not_tell_what_another_tenant_asked(house: Any) -> None:
    """200 pairs: chance alone gives 0.5 with a standard deviation of 0.03."""
    for tenant in ("acme", "other"):
        house.management.create_tenant(tenant)
    victim, attacker = (house.make_key(tenant=tenant) for tenant in ("acme", "other"))
    auc = told_apart(house, victim, attacker, 200, random.Random(7))
    print(f"AUC {auc:.3f}")
    assert 0.41 < auc < 0.59


@pytest.mark.faults
def test_f32_control_times_tell_within_a_tenant(house: Any) -> None:
    victim, attacker = house.make_key(), house.make_key()
    auc = told_apart(house, victim, attacker, 80, random.Random(7))
    print(f"AUC {auc:.3f}")
    assert auc > 0.6


SECRETS = (
    "zebra-tenant",
    "zebra-bot",
    "zebra-person",
    "zebra-prompt",
    "zebra-file",
    "zebra-shelf",
    "zebra-talk",
)


def test_f32_no_error_log_or_number_names_another_tenants_things(
    house: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="hanok")
    tenant, bot, person, prompt, file, shelf, talk = SECRETS
    for name in (tenant, "other"):
        house.management.create_tenant(name)
    theirs = house.make_key(bot, tenant=tenant, role="administrator")
    ours = house.make_key(tenant="other", role="administrator")
    house.management.create_user(person, tenant=tenant)
    words = {"messages": [{"role": "user", "content": prompt}]}
    done = house.chat(theirs, json=words).json()["id"]
    up = {"files": {"file": (f"{file}.txt", f"{file} lies in the jar.".encode())}}
    kept = house.ask(theirs, method="POST", path="/v1/files", **up).json()["id"]
    made = house.ask(
        theirs, method="POST", path="/v1/vector_stores", json={"name": shelf, "file_ids": [kept]}
    ).json()["id"]
    saved = {"title": talk, "messages": []}
    assert house.ask(theirs, method="PUT", path="/console/conversations/c", json=saved).status_code == 200
    asked: list[tuple[str, str, dict[str, Any]]] = [
        ("GET", f"/v1/files/{kept}", {}),
        ("GET", f"/v1/files/{kept}/content", {}),
        ("GET", "/v1/files", {}),
        ("POST", "/v1/files", up),  # the same bytes: no word that they were here
        ("GET", f"/v1/vector_stores/{made}", {}),
        ("POST", f"/v1/vector_stores/{made}/search", {"json": {"query": "jar"}}),
        ("GET", "/v1/vector_stores", {}),
        ("GET", "/console/conversations", {}),
        ("GET", "/console/conversations/c", {}),
        ("POST", "/v1/feedback", {"json": {"request_id": done, "rating": 1}}),
        ("GET", f"/admin/keys/{public_id(theirs)}", {}),
        ("GET", "/admin/keys", {}),
        ("GET", "/admin/users", {}),
        ("GET", "/admin/tenants", {}),
        ("GET", "/admin/usage?by=tenant,key", {}),
        ("GET", "/metrics", {}),
        ("GET", "/admin/status", {}),
    ]  # fmt: skip
    own = {file}  # the name of a file that this tenant has brought itself
    for method, path, options in asked:
        text = house.ask(ours, method=method, path=path, **options).text
        assert not [word for word in set(SECRETS) - own if word in text], path
    boss = house.make_key(role="administrator")
    numbers = house.ask(boss, path="/metrics").text
    assert "hanok" in numbers
    assert not [word for word in SECRETS if word in numbers + caplog.text]
    assert tenant in house.ask(boss, path="/admin/keys").text  # control: who may, sees it
    assert house.ask(theirs, path=f"/v1/files/{kept}").json()["filename"] == f"{file}.txt"
