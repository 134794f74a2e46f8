"""A conversation on its way to a model: where it is read, and that nothing runs for nobody."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
import serving

from hanok.engine.generator import LocalEngine
from hanok.server import asking
from hanok.server.app import services_of
from hanok.server.asking import ask
from hanok.server.guarding import Watch
from hanok.server.principal import LOCAL
from hanok.server.schema import ChatRequest
from hanok.store.database import Store


def chat(model: str, contents: list[str]) -> ChatRequest:
    messages = [{"role": "user", "content": content} for content in contents]
    return ChatRequest.model_validate({"model": model, "messages": messages, "max_tokens": 1})


def test_a_rule_that_cannot_begin_leaves_nothing_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_given: object, **_named: object) -> Any:
        raise ZeroDivisionError

    async def begin(services: Any) -> Any:
        body = chat(services.models.default_name, ["hi"])
        return await ask(services, body, LOCAL, name="one", route="chat", streamed=False)

    async def run(services: Any) -> tuple[int, int]:
        asked = await begin(services)
        during = services.models.host(services.models.default_name).users
        await asked.generation.close()
        monkeypatch.setattr(Watch, "answers", fails)
        with pytest.raises(ZeroDivisionError):
            await begin(services)
        return during, services.models.host(services.models.default_name).users

    model = serving.make_model(tmp_path / "model", seed=3)
    engine = LocalEngine(model)
    with Store(tmp_path / "store.sqlite") as store:
        services = services_of(engine, model, store)
        assert asyncio.run(run(services)) == (1, 0)
        assert not engine.in_use
        services.models.close()


@pytest.mark.parametrize(
    ("contents", "beside"),
    [(["hi"], False), (["x" * 3000], True), ([""] * 1000, True)],
    ids=["short", "long", "many that are empty"],
)
def test_what_takes_long_to_read_is_read_beside_the_event_loop(
    contents: list[str], beside: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[threading.Thread] = []

    def noted(*_given: object, **_named: object) -> list[int]:
        threads.append(threading.current_thread())
        return [1]

    monkeypatch.setattr(asking, "chat_prompt", noted)
    messages = [{"role": "user", "content": content} for content in contents]
    assert asyncio.run(asking._prompt(None, messages, None, {})) == [1]  # type: ignore[arg-type]
    assert [one is threading.main_thread() for one in threads] == [not beside]
