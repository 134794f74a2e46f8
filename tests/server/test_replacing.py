"""A model takes another's place: nothing of the old one stays in memory, and nobody who holds one loses it."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import threading
import weakref
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from hanok.engine.adapters import Adapter
from hanok.engine.api import Request, SamplingParams
from hanok.engine.generator import LocalEngine
from hanok.errors import ConfigError
from hanok.server import app as server_app
from hanok.server.exchange import Outcome
from hanok.server.hosting import Hosted, ModelSpec, model_name
from hanok.server.models import Models
from hanok.server.operations import replacing as replacing_page
from hanok.server.operations.replacing import Replacing
from hanok.server.operations.service import Operations
from hanok.server.principal import LOCAL

LARGE = {
    "pattern": ("gqa",),
    "num_layers": 3,
    "hidden_size": 512,
    "num_heads": 8,
    "num_kv_heads": 8,
    "head_dim": 64,
    "intermediate_size": 2048,
}
REQUEST = Request(id="x", prompt_ids=[5, 6], params=SamplingParams(max_tokens=4, ignore_eos=True))


class House:
    """A model called one, and what replaces it. `told`: of those that were taken back."""

    def __init__(self, directory: Path, *, probation: float = 0.0, **options: Any) -> None:
        spec = ModelSpec(name="one", directory=directory, options=options)
        self.models, self.told = Models.of([Hosted(spec)]), list[str]()
        self.replacing = Replacing(lambda _name, _hash, why: self.told.append(why), probation=probation)
        self.host = self.models.host("one")

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        async def whole() -> None:
            self.models.begin()
            await self.models.load("one")
            try:
                await work
            finally:
                await self.replacing.close()

        try:
            asyncio.run(asyncio.wait_for(whole(), 120))
        finally:
            self.models.close()

    async def over(self) -> None:
        while self.host.replacing:
            await asyncio.sleep(0.01)

    def fail(self, times: int) -> None:
        """Answers of what is served now."""
        outcome = Outcome(
            reason="error", completion_tokens=0, cached_tokens=0, first_token_seconds=None, seconds=0
        )
        for _ in range(times):
            self.replacing.ended(_Failed(self.host.hash), outcome)  # type: ignore[arg-type]


class _Failed:
    def __init__(self, model_hash: str | None) -> None:
        self.model_hash = model_hash


@pytest.fixture
def house(random_run: Path) -> House:
    return House(random_run / "model")


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Trying the new model out takes until this is set."""
    gate = threading.Event()
    done, tried = asyncio.Event(), replacing_page.open_and_try

    def wait(spec: ModelSpec) -> Any:
        opened = tried(spec)
        while not done.is_set():
            gate.wait(0.01)
        return opened

    monkeypatch.setattr(replacing_page, "open_and_try", wait)
    return done


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="no /proc here")
def test_ten_replacements_take_no_more_memory_than_two(tmp_path: Path, tiny_model: Any) -> None:
    directory = tiny_model(tmp_path / "model", **LARGE)
    size = sum(file.stat().st_size for file in directory.glob("*.safetensors"))
    assert size > 30 << 20
    house, sizes = House(directory, cache_bytes=8 << 20), list[int]()

    async def work() -> None:
        assert house.host.engine is not None
        first = weakref.ref(house.host.engine)
        gc.disable()  # circles would be found some time: here, never
        try:
            for _ in range(10):
                await house.replacing.replace(house.host, directory)
                await house.over()
                sizes.append(resident())
        finally:
            gc.enable()
        assert first() is None

    house.run(work())
    assert max(sizes[2:]) - sizes[1] < size / 2, [one >> 20 for one in sizes]


def test_the_command_keeps_no_engine_that_was_replaced(
    random_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[object] = []

    def run_server(operations: Operations, _listener: socket.socket, start: Any, _team: object) -> None:
        app: FastAPI = start()
        models: Any = operations._models
        host, replacing = (
            models.host(model_name(random_run / "model")),
            Replacing(lambda *_: None, probation=0.0),
        )
        first = weakref.ref(host.engine)

        async def work() -> None:
            async with app.router.lifespan_context(app):
                await replacing.replace(host, random_run / "model")
                while host.replacing:
                    await asyncio.sleep(0.01)

        asyncio.run(work())
        gc.collect()
        left.append(first())

    monkeypatch.setattr(server_app, "run_server", run_server)
    server_app.serve(random_run / "model", port=0)
    assert left == [None]


def test_whoever_holds_the_old_one_may_begin_to_use_it_afterwards(house: House, random_run: Path) -> None:
    async def work() -> None:
        served = await house.models.take("one", LOCAL)  # found, and not used yet
        await house.replacing.replace(house.host, random_run / "model")
        assert house.host.engine is not served.engine
        await asyncio.sleep(0.5)  # longer than the probation, and some looks
        tokens = [token async for delta in served.engine.stream(REQUEST) for token in delta.ids]
        assert len(tokens) == 4
        assert house.host.replacing
        house.models.give_back(served)
        await house.over()
        assert served.engine._closed

    house.run(work())


def test_one_at_a_time(
    house: House, random_run: Path, slow: asyncio.Event, adapters: dict[str, Path]
) -> None:
    async def work() -> None:
        first = asyncio.create_task(house.replacing.replace(house.host, random_run / "model"))
        await asyncio.sleep(0.05)
        with pytest.raises(ConfigError, match="being replaced"):
            await house.replacing.replace(house.host, random_run / "model")
        with pytest.raises(ConfigError, match="being replaced"):
            await house.models.load_adapter("red", adapters["red"])
        slow.set()
        await first
        await house.over()
        await house.replacing.replace(house.host, random_run / "model")
        await house.over()

    house.run(work())


def test_an_unloading_waits_and_finds_the_new_one(
    house: House, random_run: Path, slow: asyncio.Event
) -> None:
    async def work() -> None:
        old = house.host.engine
        replaced = asyncio.create_task(house.replacing.replace(house.host, random_run / "model"))
        await asyncio.sleep(0.05)
        unloaded = asyncio.create_task(house.models.unload("one"))
        await asyncio.sleep(0.05)
        assert house.host.state == "unloading"
        slow.set()
        await replaced
        await unloaded
        assert house.host.engine is not old
        assert house.host.engine is not None
        assert house.host.engine.metrics().asleep
        await house.over()
        async with house.models.use("one", LOCAL) as served:
            assert served.engine.score([5, 6, 7])
        assert old is not None
        assert old._closed

    house.run(work())


def test_one_that_is_unloaded_is_not_replaced(house: House, random_run: Path) -> None:
    async def work() -> None:
        served = await house.models.take("one", LOCAL)
        unloading = asyncio.create_task(house.models.unload("one"))
        await asyncio.sleep(0.05)
        with pytest.raises(ConfigError, match="unloading"):
            await house.replacing.replace(house.host, random_run / "model")
        house.models.give_back(served)
        await unloading
        with pytest.raises(ConfigError, match="unloaded"):
            await house.replacing.replace(house.host, random_run / "model")

    house.run(work())


@pytest.mark.parametrize("unloading", [False, True])
def test_one_that_fails_is_taken_back_even_while_it_is_unloaded(
    random_run: Path, tmp_path: Path, tiny_model: Any, unloading: bool
) -> None:
    house, other = House(random_run / "model", probation=60.0), tiny_model(tmp_path / "model", seed=4)

    async def work() -> None:
        old = house.host.engine
        assert old is not None
        expected = old.score([5, 6, 7])
        await house.replacing.replace(house.host, other)
        new = await house.models.take("one", LOCAL)
        assert new.engine.score([5, 6, 7]) != expected
        gone = asyncio.create_task(house.models.unload("one")) if unloading else None
        await asyncio.sleep(0)
        house.fail(3)
        await asyncio.sleep(0.3)
        house.models.give_back(new)
        if gone is not None:
            await gone
        await house.over()
        assert house.host.engine is old
        assert new.engine._closed
        assert len(house.told) == 1
        assert old.metrics().asleep == (house.host.state == "unloaded") == unloading
        async with house.models.use("one", LOCAL) as served:
            assert served.engine.score([5, 6, 7]) == expected

    house.run(work())


def test_unloading_ends_the_probation(random_run: Path) -> None:
    house = House(random_run / "model", probation=60.0)

    async def work() -> None:
        old = house.host.engine
        await house.replacing.replace(house.host, random_run / "model")
        await house.models.unload("one")
        await house.over()
        assert old is not None
        assert old._closed

    house.run(work())


def test_answers_of_the_old_one_are_ended_with_a_word_too(house: House, random_run: Path) -> None:
    async def work() -> None:
        served = await house.models.take("one", LOCAL)
        await house.replacing.replace(house.host, random_run / "model")
        assert house.replacing.engines == [served.engine]
        house.models.give_back(served)
        await house.over()
        assert house.replacing.engines == []

    house.run(work())


def test_a_model_that_was_unloaded_while_it_was_asked_for_is_loaded_again(random_run: Path) -> None:
    """`load` waits for a change under way; another one may follow before it goes on."""
    specs = [ModelSpec(name=name, directory=random_run / "model") for name in ("one", "two")]
    models = Models.of([Hosted(spec) for spec in specs], most_loaded=1)

    async def work() -> None:
        first = asyncio.create_task(models.load("one"))
        await asyncio.sleep(0)
        second = asyncio.create_task(models.load("one"))

        async def use_two() -> None:
            async with models.use("two", LOCAL):
                pass

        await asyncio.gather(first, use_two())
        await second
        await models.load("one")
        assert models.describe("one")["loaded"]

    try:
        asyncio.run(asyncio.wait_for(work(), 60))
    finally:
        models.close()


def test_a_name_is_given_to_one_adapter_only(random_run: Path, adapters: dict[str, Path]) -> None:
    """Two that come at once, for two models."""
    specs = [ModelSpec(name=name, directory=random_run / "model") for name in ("one", "two")]
    models = Models.of([Hosted(spec) for spec in specs])

    async def work() -> None:
        await asyncio.gather(models.load("one"), models.load("two"))
        found = await asyncio.gather(
            models.load_adapter("red", adapters["red"], model="one"),
            models.load_adapter("red", adapters["blue"], model="two"),
            return_exceptions=True,
        )
        assert found[0] is None
        assert isinstance(found[1], ConfigError)
        assert models.names(LOCAL) == ["one", "red", "two"]
        assert models.describe("red")["parent"] == "one"

    try:
        asyncio.run(asyncio.wait_for(work(), 60))
    finally:
        models.close()


def test_an_adapter_that_goes_while_its_model_is_loaded_is_not_found(
    random_run: Path, adapters: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    house = House(random_run / "model")

    async def work() -> None:
        await house.models.load_adapter("red", adapters["red"])
        await house.models.unload("one")
        asked = asyncio.create_task(house.models.take("red", LOCAL))
        await asyncio.sleep(0)
        house.models.unload_adapter("red")
        with pytest.raises(Exception, match='no model "red"'):
            await asked

    house.run(work())


def test_a_replacement_waits_for_no_adapter_and_loses_none(
    house: House, random_run: Path, adapters: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is being loaded into the old engine would be gone with it."""
    done, load = asyncio.Event(), LocalEngine.load_adapter

    def wait(self: LocalEngine, name: str, directory: Path) -> Adapter:
        while not done.is_set():
            os.sched_yield()
        return load(self, name, directory)

    monkeypatch.setattr(LocalEngine, "load_adapter", wait)

    async def work() -> None:
        arriving = asyncio.create_task(house.models.load_adapter("red", adapters["red"]))
        await asyncio.sleep(0.05)
        with pytest.raises(ConfigError, match="taking in an adapter"):
            await house.replacing.replace(house.host, random_run / "model")
        done.set()
        await arriving
        assert "red" in house.models.names(LOCAL)

    house.run(work())
