"""Responses in the background with the official client: there at once, asked for until they end, and never under way for ever."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import openai
import pytest
import serving
from audited_house import audited_house

from hanok.engine.generator import LocalEngine
from hanok.server import background
from hanok.server.background import LOST, UNDER_WAY, Background
from hanok.server.operations.lifecycle import Lifecycle
from hanok.store.audit.reader import Reader, Wanted
from hanok.store.database import Store, feedback_file
from hanok.store.responses import KeptResponse, ResponseTable

GREETING = "안녕하세요, 한옥이에요. 🏡"


def begin(server: Any, **options: Any) -> Any:
    given = {"model": server.model, "input": "hi", "temperature": 0, "max_output_tokens": 200, **options}
    return server.openai.responses.create(background=True, **given)


def ended(server: Any, name: str) -> Any:
    wait_until(lambda: server.openai.responses.retrieve(name).status not in UNDER_WAY)
    return server.openai.responses.retrieve(name)


def wait_until(holds: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


@contextmanager
def asleep(server: Any) -> Iterator[None]:
    """No answer ends meanwhile."""
    server.engine.sleep()
    try:
        yield
    finally:
        server.engine.wake()


def test_it_is_there_at_once_and_answered_by_itself(taught: Any) -> None:
    with asleep(taught):
        begun = begin(taught)
        assert (begun.status, begun.background, begun.output) == ("queued", True, [])
        assert taught.openai.responses.retrieve(begun.id).status == "queued"
        (item,) = taught.openai.responses.input_items.list(begun.id).data
        assert item.content[0].text == "hi"
        with pytest.raises(openai.BadRequestError) as caught:
            taught.openai.responses.create(model=taught.model, input="and?", previous_response_id=begun.id)
        assert caught.value.code == "previous_response_not_ended"
    done = ended(taught, begun.id)
    assert (done.status, done.output_text, done.error) == ("completed", GREETING, None)
    assert done.usage.output_tokens > 0
    further = taught.openai.responses.create(
        model=taught.model, input="and?", previous_response_id=begun.id, max_output_tokens=1
    )
    assert further.usage.input_tokens > done.usage.input_tokens


def test_it_is_cancelled_and_stays_so(server: Any) -> None:
    with asleep(server):
        begun = begin(server, max_output_tokens=1900)
        assert server.openai.responses.cancel(begun.id).status == "cancelled"
    assert ended(server, begun.id).status == "cancelled"
    assert server.openai.responses.cancel(begun.id).status == "cancelled"
    with pytest.raises(openai.BadRequestError, match="under way"):
        server.openai.responses.cancel(ended(server, begin(server, max_output_tokens=1).id).id)


def test_another_server_of_the_store_ends_it(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which knows it by its row alone."""
    monkeypatch.setattr(background, "BEAT", 0.02)
    table = ResponseTable(server.store)
    with asleep(server):
        kept, gone = begin(server, max_output_tokens=1900), begin(server, max_output_tokens=1900)
        first = beat_of(table, kept.id)
        wait_until(lambda: (beat_of(table, kept.id) or 0.0) > (first or 0.0))
        table.cancel(kept.id, tenant="default")
        table.delete(gone.id, tenant="default")
        assert ended(server, kept.id).status == "cancelled"
        wait_until(lambda: server.engine.metrics().requests_waiting == 0)
    assert beat_of(table, kept.id) is None
    assert table.beat({kept.id: {"status": "in_progress"}}, time.time()) == {
        kept.id
    }  # a mark that comes late
    assert server.openai.responses.retrieve(kept.id).status == "cancelled"
    assert beat_of(table, kept.id) is None
    with pytest.raises(openai.NotFoundError):
        server.openai.responses.retrieve(gone.id)


def beat_of(table: ResponseTable, name: str) -> float | None:
    found = table.find(name, tenant="default")
    assert found is not None
    return found.beat


def test_what_fails_says_so(server: Any) -> None:
    with asleep(server):
        begun = begin(server, max_output_tokens=1900)
        server.engine.interrupt(openai.OpenAIError("the server is stopping"))
    done = ended(server, begun.id)
    assert done.status == "failed"
    assert done.error.code == "server_error"


@pytest.mark.parametrize(("age", "status"), [(0.0, "in_progress"), (LOST + 1, "failed")])
def test_one_whose_server_is_gone_is_not_under_way_for_ever(server: Any, age: float, status: str) -> None:
    done = ended(server, begin(server, max_output_tokens=1).id)
    body = {**done.to_dict(), "id": "resp_" + f"{int(age):032x}", "status": "in_progress", "background": True}
    table = ResponseTable(server.store)
    table.add(
        KeptResponse(
            id=body["id"], tenant="default", body=body, input=[], messages=[], beat=time.time() - age
        )
    )
    found = server.openai.responses.retrieve(body["id"])
    assert found.status == status
    if status == "failed":
        assert "ended before the answer did" in found.error.message
        kept = table.find(body["id"], tenant="default")
        assert kept is not None
        assert (kept.body["status"], kept.beat) == ("failed", None)
        again = dataclasses.replace(kept, beat=time.time() - age)
        assert not table.lose(again, {})  # somebody else has seen to it


def test_one_that_is_lost_is_gone_on_from_and_stays_lost(server: Any) -> None:
    """Its server may come back late, with another end."""
    done = ended(server, begin(server, max_output_tokens=1).id)
    table, name = ResponseTable(server.store), "resp_" + "e" * 32
    body = {**done.to_dict(), "id": name, "status": "in_progress"}
    said = [{"role": "user", "content": "hi"}]
    beat = time.time() - LOST - 1
    lost = KeptResponse(id=name, tenant="default", body=body, input=[], messages=said, beat=beat)
    table.add(lost)
    further = server.openai.responses.create(
        model=server.model, input="and?", previous_response_id=name, max_output_tokens=1
    )
    assert further.previous_response_id == name
    assert table.beat({name: body}, time.time()) == {name}  # that server is told to end it
    table.finish(dataclasses.replace(lost, body={**body, "status": "completed"}))
    assert server.openai.responses.retrieve(name).status == "failed"


class Idle:
    """A response that has nothing to do."""

    def __init__(self) -> None:
        self.writer: Any = SimpleNamespace(body={"id": "resp_1"})
        self.principal = None

    def kept(self, body: Any, *, beat: float | None = None) -> None:
        pass

    async def complete(self) -> None:
        pass

    async def close(self) -> None:
        pass


def test_a_server_that_drains_waits_from_the_first_moment() -> None:
    """The work counts before the request that began it is over."""
    lifecycle, told = Lifecycle(), list[str]()
    trail = SimpleNamespace(tell=lambda kind, **_facts: told.append(kind))
    operations = SimpleNamespace(lifecycle=lifecycle)
    services: Any = SimpleNamespace(operations=operations, directory=SimpleNamespace(trail=trail))
    table: Any = SimpleNamespace(add=lambda _kept: None)

    async def run() -> None:
        response: Any = Idle()
        await Background(services, table).take(response)
        assert lifecycle.active == 1
        async with asyncio.timeout(30):
            while lifecycle.active:
                await asyncio.sleep(0)
        assert told == ["request"]  # nothing is left to do then

    asyncio.run(run())


def test_a_server_that_stops_leaves_none_under_way(tmp_path: Path) -> None:
    """The grace time is over at once; the next server on the store finds how it ended."""
    model = serving.make_model(tmp_path)
    with serving.service(model) as running:
        running.slow_down(0.05)
        body = {"model": running.model, "input": "hi", "max_output_tokens": 1500, "background": True}
        begun = running.http.post("/v1/responses", json=body).json()
        path = f"/v1/responses/{begun['id']}"
        wait_until(lambda: running.http.get(path).json()["status"] == "in_progress")
        assert running.operations.lifecycle.active == 1  # draining waits for it
    with Store(feedback_file(model)) as store:
        kept = ResponseTable(store).find(begun["id"], tenant="default")
    assert kept is not None
    assert (kept.body["status"], kept.beat) == ("failed", None)
    assert "stopping" in kept.body["error"]["message"]


def test_another_tenants_is_not_there(server: Any) -> None:
    done = ended(server, begin(server, max_output_tokens=1).id)
    table = ResponseTable(server.store)
    kept = table.find(done.id, tenant="default")
    assert kept is not None
    foreign = dataclasses.replace(kept, id="resp_" + "f" * 32, tenant="other", beat=time.time())
    table.add(foreign)
    for ask in (server.openai.responses.retrieve, server.openai.responses.cancel):
        with pytest.raises(openai.NotFoundError):
            ask(foreign.id)


def test_its_work_is_in_the_audit_under_the_requests_id(tmp_path: Path) -> None:
    model = serving.make_model(tmp_path)
    engine = LocalEngine(model)
    with audited_house(SimpleNamespace(engine=engine), model, tmp_path, "format = 1") as (services, http):
        body = {
            "model": services.models.default_name,
            "input": "hi",
            "max_output_tokens": 3,
            "background": True,
        }
        begun = http.post("/v1/responses", json=body, headers={"x-request-id": "mine"}).json()
        wait_until(lambda: http.get(f"/v1/responses/{begun['id']}").json()["status"] not in UNDER_WAY)
        log = services.directory.trail.server_log
        log.checkpoint().result(10)
        with Reader(log.place) as reader:
            entries = [
                one for one in reader.list(Wanted(kind="request"), limit=50) if one["request"] == "mine"
            ]
        assert services.operations.lifecycle.active == 0
        services.models.close()
    (work,) = [one["facts"]["work"] for one in entries if "work" in one["facts"]]
    assert work[0]["completion_tokens"] == 3
    assert len(entries) == 2  # the request that began it, and its work
