"""A deletion is final, whoever writes at the same moment; and what is looked at before it is changed is still so when it is."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from argon2 import PasswordHasher
from sqlalchemy import Connection, text
from tenant_content import TABLES, rows_of

from hanok.documents.library import Library
from hanok.errors import InputError
from hanok.server.errors import ApiError
from hanok.server.identity.directory import Directory
from hanok.server.identity.management import Management
from hanok.server.identity.people import People, user_of_provider
from hanok.store import tenancy
from hanok.store.access import Access, Key, User
from hanok.store.conversations import Owner, Shelf, conversations, presets
from hanok.store.database import Answered, Feedback, Store
from hanok.store.responses import KeptResponse, ResponseTable

MESSAGES = [{"role": "user", "content": "언제?"}, {"role": "assistant", "content": "아홉 시요."}]


@pytest.fixture
def store(place: Path | str) -> Iterator[Store]:
    with Store(place) as opened:
        yield opened


@pytest.fixture
def people(store: Store) -> People:
    people = People(Directory(store, environment={"HANOK_PEPPER": "p" * 32}))
    people.management.passwords._hasher = PasswordHasher(time_cost=1, memory_cost=64)
    return people


@pytest.fixture
def management(people: People) -> Management:
    return people.management


def writers(store: Store, tenant: str, owner: str = "k1") -> Mapping[str, Callable[[], Any]]:
    """Everything that keeps what somebody said or brought."""
    library = Library(store)

    def save(table: Any) -> Callable[[], Any]:
        shelf = Shelf(store.engine, table)
        return lambda: shelf.put(Owner(tenant, owner), "c", title="t", body={}, words=[], version=None)

    judged = Feedback(request_id="r", model_hash="ab", messages=MESSAGES, rating=1, tenant=tenant)
    response = KeptResponse(id="resp", tenant=tenant, body={}, input=[], messages=MESSAGES)
    return {
        "feedback": lambda: store.add_feedback(judged),
        "conversations": save(conversations),
        "presets": save(presets),
        "responses": lambda: ResponseTable(store).add(response),
        "document_files": lambda: library.files.add(tenant, "a.txt", "도서관은 자정에 닫는다.".encode()),
        "document_collections": lambda: library.collections.create(tenant, "all"),
    }


def test_nothing_is_written_behind_a_deletion(store: Store, management: Management) -> None:
    management.create_tenant("acme")
    answered = Answered(
        request_id="r", model_hash="ab", messages=MESSAGES[:1], answers=MESSAGES[1:], tenant="acme"
    )
    store.record_request(answered)
    for write in writers(store, "acme").values():
        write()
    assert rows_of(store, "acme") == len(TABLES)
    removed = management.delete_tenant("acme")
    assert all(removed[table] == 1 for table in TABLES)
    store.record_request(answered)  # nobody waits for it: it is left out
    for name, write in writers(store, "acme").items():
        with pytest.raises(InputError, match="gone"):
            write()
        assert rows_of(store, "acme") == 0, name
    writers(store, "default")["conversations"]()  # control: others may


def test_a_name_is_not_given_twice(management: Management) -> None:
    """Of a tenant of people alone too: no key is left that would tell that there was one."""
    management.create_tenant("acme")
    management.create_user("yuna", tenant="acme")
    management.delete_tenant("acme")
    with pytest.raises(InputError, match="there was a tenant"):
        management.create_tenant("acme")
    with pytest.raises(InputError, match="no tenant"):
        management.create_user("late", tenant="acme")
    for late in (
        User(id="u_1", name="late", tenant="acme"),
        Key(id="k", digest="", name="late", tenant="acme"),
    ):
        with pytest.raises(InputError, match="no tenant"):  # whoever had looked before
            management.access.add(late)


def test_a_person_takes_their_own_with_them(store: Store, management: Management) -> None:
    yuna, other = (management.create_user(name) for name in ("yuna", "other"))
    for user in (yuna, other):
        for name in ("conversations", "presets"):
            writers(store, "default", user.id)[name]()
    removed = management.delete_user(yuna)
    assert (removed["conversations"], removed["presets"], removed["users"]) == (1, 1, 1)
    for name in ("conversations", "presets"):
        with pytest.raises(InputError, match="gone"):
            writers(store, "default", yuna.id)[name]()
    shelf = Shelf(store.engine, conversations)
    assert shelf.page(Owner("default", yuna.id)) == []
    assert len(shelf.page(Owner("default", other.id))) == 1


# ---- at the same moment -------------------------------------------------------------------------------------------------


class Pause:
    """Holds whoever comes to a place, inside their transaction, until they are let go."""

    def __init__(self) -> None:
        self.reached, self.go_on = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.reached.set()
        assert self.go_on.wait(30)


def side_by_side(
    pause: Pause, first: Callable[[], Any], second: Callable[[], Any]
) -> tuple[Future[Any], Future[Any]]:
    """The second begins while the first is held, and has to wait for it where they touch the same."""
    with ThreadPoolExecutor(2) as pool:
        held = pool.submit(first)
        assert pause.reached.wait(30)
        waiting = pool.submit(second)
        time.sleep(0.2)
        pause.go_on.set()
        return held, waiting


@pytest.mark.parametrize("kind", ["conversations", "responses", "document_files", "feedback"])
def test_a_deletion_waits_for_what_is_being_written_and_takes_it_along(
    store: Store, management: Management, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    management.create_tenant("acme")
    pause, exists = Pause(), tenancy.tenant_exists

    def slowly(connection: Connection, tenant: str) -> bool:
        there = exists(connection, tenant)
        pause()
        return there

    monkeypatch.setattr(tenancy, "tenant_exists", slowly)
    _, deleted = side_by_side(pause, writers(store, "acme")[kind], lambda: management.delete_tenant("acme"))
    assert deleted.result()[kind] == 1
    assert rows_of(store, "acme") == 0


def test_what_is_written_during_a_deletion_waits_and_is_refused(
    store: Store, management: Management, monkeypatch: pytest.MonkeyPatch
) -> None:
    management.create_tenant("acme")
    pause, note = Pause(), tenancy.note_deleted

    def slowly(connection: Connection, tenant: str, at: float) -> None:
        note(connection, tenant, at)
        pause()

    monkeypatch.setattr("hanok.store.access.note_deleted", slowly)
    deleted, written = side_by_side(
        pause, lambda: management.delete_tenant("acme"), writers(store, "acme")["conversations"]
    )
    deleted.result()
    with pytest.raises(InputError, match="gone"):
        written.result()
    assert rows_of(store, "acme") == 0


def test_two_administrators_cannot_shut_each_other_out(management: Management) -> None:
    """Each was not the last one when it was looked at."""
    for _ in range(3):
        both = [
            management.create_user(f"{number}-{time.monotonic_ns()}", role="administrator")
            for number in range(2)
        ]
        with ThreadPoolExecutor(2) as pool:
            done = [pool.submit(management.delete_user, user) for user in both]
        assert [one.exception() is None for one in done].count(True) == 1
        (last,) = management.access.every(User)
        management.access.delete_user(last.id)


def test_a_key_that_is_revoked_leaves_no_successor(
    management: Management, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, _ = management.create_key("bot")
    management.revoke_key(key)
    with pytest.raises(InputError, match="was revoked"):
        management.rotate_key(key)  # who read it before it was revoked
    assert len(management.access.every(Key)) == 1


def test_a_sign_in_with_the_old_password_ends_with_it(people: People) -> None:
    user = people.management.create_user("yuna", password="tea at the pavilion")
    people.open_session(user)
    people.management.change_user(user, password="another pavilion")
    with pytest.raises(ApiError, match="sign in again"):
        people.open_session(user)  # whose password was found right a moment before
    people.open_session(people.management.access.find_user("yuna") or user)
    people.management.delete_user(user)
    with pytest.raises(ApiError, match="sign in again"):
        people.open_session(user)


def test_two_writers_of_a_new_row_both_may_where_the_last_wins(store: Store) -> None:
    shelf, owner = Shelf(store.engine, conversations), Owner("default", "me")

    def put(number: int) -> int:
        return shelf.put(owner, "new", title=str(number), body={}, words=[], version=None).version

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(put, range(16))) == list(range(1, 17))


def test_one_who_comes_through_a_provider_twice_at_once_is_one_person(people: People) -> None:
    def come(number: int) -> str:
        subject = str(number % 2)  # two people of one name
        return user_of_provider(people, issuer="https://x", subject=subject, name="yuna", role="user").id

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(come, range(8)))) == 2
    assert len({user.name for user in people.management.access.every(User)}) == 2


def test_one_file_may_be_kept_and_put_in_by_many_at_once(store: Store) -> None:
    library = Library(store)
    shelf = library.collections.create("default", "all")

    def keep(_number: int) -> str:
        file = library.files.add("default", "a.txt", "도서관은 자정에 닫는다.".encode())
        return library.collections.attach("default", shelf.id, file.id).file.id

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(keep, range(8)))) == 1
    assert library.collections.get("default", shelf.id).files == 1


def test_what_is_read_is_of_one_moment(store: Store) -> None:
    """Between two statements of one reader somebody writes."""
    with store.read() as connection:
        counted = text("SELECT count(*) FROM users")
        before = connection.execute(counted).scalar()
        if store.dialect == "postgresql":  # in SQLite the writer would wait for the reader
            Access(store).add(User(id="u_1", name="new"))
        assert connection.execute(counted).scalar() == before == 0
