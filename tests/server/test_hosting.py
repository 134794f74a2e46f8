"""Several models in one server: loaded on demand, unloaded for room, by time and by an administrator, never under a request."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from hanok.engine.api import Request, SamplingParams
from hanok.errors import ConfigError
from hanok.server.errors import ApiError
from hanok.server.hosting import Hosted, ModelSpec, parse_aliases, parse_model, read_models
from hanok.server.models import Models
from hanok.server.principal import LOCAL, Principal


@pytest.fixture
def specs(random_run: Path) -> list[ModelSpec]:
    return [ModelSpec(name=name, directory=random_run / "model") for name in ("one", "two", "three")]


def run(models: Models, work: Coroutine[Any, Any, Any]) -> None:
    try:
        asyncio.run(asyncio.wait_for(work, 60))
    finally:
        models.close()


def states(models: Models) -> list[bool]:
    return [models.describe(name)["loaded"] for name in models.names(LOCAL)]


def test_a_model_is_loaded_when_asked_for_and_the_longest_unused_makes_room(specs: list[ModelSpec]) -> None:
    models = Models.of([Hosted(spec) for spec in specs], most_loaded=2)

    async def work() -> None:
        assert states(models) == [False] * 3
        for name in ("one", "two"):
            async with models.use(name, LOCAL) as served:
                assert served.engine.score([5, 6, 7])
        assert states(models) == [True, True, False]
        async with models.use("one", LOCAL):
            pass
        async with models.use("three", LOCAL):
            assert states(models) == [True, False, True]

    run(models, work())


def test_whoever_finds_no_room_waits_for_it(specs: list[ModelSpec]) -> None:
    models = Models.of([Hosted(spec) for spec in specs], most_loaded=1)
    order: list[str] = []

    async def use(name: str, seconds: float) -> None:
        async with models.use(name, LOCAL) as served:
            order.append(f"+{name}")
            await asyncio.sleep(seconds)
            assert served.engine.score([5, 6, 7])
            assert sum(states(models)) == 1
            order.append(f"-{name}")

    async def work() -> None:
        await asyncio.gather(use("one", 0.2), use("two", 0.1), use("two", 0.1), use("three", 0))

    run(models, work())
    assert order[:2] == ["+one", "-one"]
    assert sorted(order[2:6]) == ["+two", "+two", "-two", "-two"]
    assert order[6:] == ["+three", "-three"]


def test_unloading_waits_for_requests_and_what_comes_meanwhile_is_served_afterwards(
    specs: list[ModelSpec],
) -> None:
    models = Models.of([Hosted(spec) for spec in specs])

    async def work() -> None:
        served = await models.take("one", LOCAL)
        unloading = asyncio.create_task(models.unload("one"))
        await asyncio.sleep(0.05)
        late = asyncio.create_task(models.take("one", LOCAL))
        request = Request(id="x", prompt_ids=[5, 6], params=SamplingParams(max_tokens=20, ignore_eos=True))
        ids = [token async for delta in served.engine.stream(request) for token in delta.ids]
        assert len(ids) == 20
        assert not unloading.done()
        assert not late.done()
        models.give_back(served)
        models.give_back(served)  # as often as one likes
        await unloading
        again = await late
        assert again.engine.score([5, 6, 7])
        models.give_back(again)

    run(models, work())


def test_unused_models_are_unloaded_after_a_while(specs: list[ModelSpec]) -> None:
    models = Models.of([Hosted(spec) for spec in specs], keep_alive=0.2)

    async def work() -> None:
        async with models.use("one", LOCAL):
            await asyncio.sleep(0.4)
            assert states(models)[0]
        for _ in range(100):
            if not states(models)[0]:
                break
            await asyncio.sleep(0.05)
        assert not states(models)[0]

    run(models, work())


def test_a_budget_of_memory(specs: list[ModelSpec]) -> None:
    size = specs[0].weight_bytes
    assert size > 0
    models = Models.of([Hosted(spec) for spec in specs], memory=2 * size)

    async def work() -> None:
        for name in ("one", "two", "three"):
            async with models.use(name, LOCAL):
                pass
        assert states(models) == [False, True, True]

    run(models, work())
    with pytest.raises(ConfigError, match="models may take"):
        Models.of([Hosted(specs[0])], memory=size - 1)


def test_one_that_cannot_be_loaded_says_why_and_takes_no_room(specs: list[ModelSpec], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    broken = ModelSpec(name="broken", directory=tmp_path / "empty")
    models = Models.of([Hosted(specs[0]), Hosted(broken)], most_loaded=1)

    async def work() -> None:
        for _ in range(2):
            with pytest.raises(Exception, match="empty"):
                await models.take("broken", LOCAL)
        async with models.use("one", LOCAL) as served:
            assert served.engine.score([5, 6, 7])
        with pytest.raises(ApiError, match="no model"):
            await models.take("one", Principal(id="x", models=frozenset({"broken"})))

    run(models, work())


def test_adapters_come_and_go_while_requests_have_them(
    specs: list[ModelSpec], adapters: dict[str, Path]
) -> None:
    models = Models.of([Hosted(spec) for spec in specs[:2]])

    async def work() -> None:
        await models.load_adapter("red", adapters["red"], model="two")
        assert models.names(LOCAL) == ["one", "two", "red"]
        assert models.describe("red")["parent"] == "two"
        with pytest.raises(ConfigError, match="served already"):
            await models.load_adapter("one", adapters["red"])
        async with models.use("red", LOCAL) as served:
            before = served.engine.score([5, 6, 7], adapter=served.adapter_name)
            models.unload_adapter("red")
            assert models.names(LOCAL) == ["one", "two"]
        async with models.use("two", LOCAL) as served:
            assert served.engine.score([5, 6, 7]) != before
        with pytest.raises(ApiError, match="no adapter"):
            models.unload_adapter("red")

    run(models, work())


def test_a_model_may_be_asked_for_by_another_name(specs: list[ModelSpec], adapters: dict[str, Path]) -> None:
    models = Models.of([Hosted(spec) for spec in specs])
    only = Principal(id="k", models=frozenset({"two"}))

    async def work() -> None:
        with pytest.raises(ApiError, match="gpt-4o"):
            await models.take("gpt-4o", LOCAL)
        models.take_aliases({"gpt-4o": "two"})
        async with models.use("gpt-4o", LOCAL) as served:
            assert served.name == "two"
        assert models.describe("gpt-4o")["parent"] == "two"
        assert models.names(LOCAL) == ["one", "two", "three"]
        async with models.use("gpt-4o", only):
            pass
        with pytest.raises(ConfigError, match="served already"):
            await models.load_adapter("gpt-4o", adapters["red"])
        models.take_aliases({"gpt-4o": "one"})  # another takes its place
        async with models.use("gpt-4o", LOCAL) as served:
            assert served.name == "one"
        with pytest.raises(ApiError):
            models.find("gpt-4o", only)

    run(models, work())
    for wrong, said in (({"one": "two"}, "called so"), ({"a": "four"}, 'no model "four"')):
        with pytest.raises(ConfigError, match=said):
            models.check_aliases(wrong)
    models.check_aliases({"a": "one", "b": "one"})
    assert parse_aliases(["a=one", "b=x=y"]) == {"a": "one", "b": "x=y"}
    for wrong_option in (["a"], ["=one"], ["a="], ["a=one", "a=two"]):
        with pytest.raises(ConfigError, match="NAME=MODEL"):
            parse_aliases(wrong_option)


def test_files_and_options_that_name_models(tmp_path: Path) -> None:
    (tmp_path / "models.toml").write_text(
        '[[model]]\npath = "a/model"\nweights = "int8"\ncache_mib = 64\nadapters = { legal = "legal" }\n'
        '[[model]]\nname = "b"\npath = "/b"\n'
    )
    first, second = read_models(tmp_path / "models.toml", {"weights": "auto"})
    assert (first.name, first.directory) == ("a", tmp_path / "a/model")
    assert first.options == {"weights": "int8", "cache_bytes": 64 << 20}
    assert first.adapters == {"legal": tmp_path / "legal"}
    assert (second.name, second.directory, second.options) == ("b", Path("/b"), {"weights": "auto"})
    (tmp_path / "models.toml").write_text('[[model]]\npat = "x"\n')
    with pytest.raises(ConfigError, match='did you mean "path"'):
        read_models(tmp_path / "models.toml", {})
    assert parse_model("x=y", {}).name == "x"
    with pytest.raises(ConfigError, match="NAME=DIR"):
        parse_model("=y", {})


@pytest.fixture(scope="module")
def url(random_run: Path, taught_run: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "hanok", "serve", str(random_run), f"second={taught_run}"]
    started = subprocess.Popen(
        [*command, "--most-loaded", "1", "--port", "0"], stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    try:
        assert started.stderr is not None
        line = started.stderr.readline()
        while line and not line.startswith("chat page: "):
            line = started.stderr.readline()
        yield line.removeprefix("chat page: ").strip()
    finally:
        started.kill()
        started.communicate()


def test_the_command_serves_several(url: str, adapters: dict[str, Path]) -> None:
    with (
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
        httpx.Client(base_url=url, timeout=60) as http,
    ):

        def loaded() -> dict[str, bool]:
            return {model.id: (model.model_extra or {})["loaded"] for model in client.models.list().data}

        assert loaded() == {"random": True, "second": False}
        messages: Any = [{"role": "user", "content": "hi"}]
        done = client.chat.completions.create(model="second", messages=messages, temperature=0)
        assert done.choices[0].message.content == "안녕하세요, 한옥이에요. 🏡"
        assert loaded() == {"random": False, "second": True}
        assert http.post("/admin/models/second/unload").json()["loaded"] is False
        assert http.post("/admin/models/random/load").json()["loaded"] is True
        assert http.post("/admin/models/third/load").status_code == 404
        body = {"name": "red", "directory": str(adapters["red"])}
        assert http.post("/admin/adapters", json=body).json()["parent"] == "random"
        assert http.post("/admin/adapters", json=body).status_code == 400
        assert client.chat.completions.create(model="red", messages=messages, max_tokens=3).model == "red"
        assert http.delete("/admin/adapters/red").json()["deleted"] is True
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.create(model="red", messages=messages)
