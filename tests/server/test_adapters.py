"""Adapters as models of the API, over real HTTP: `hanok serve RUN --adapter NAME=DIR`, as a user starts it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import openai
import pytest

from hanok.artefacts import open_artefact
from hanok.engine.api import Request, SamplingParams
from hanok.engine.generator import LocalEngine
from hanok.engine.text import AnswerStream, chat_prompt
from hanok.errors import ConfigError
from hanok.server.app import serve
from hanok.server.models import answerer_hash
from hanok.store.database import Store, feedback_file

ASK = [{"role": "user", "content": "서점은 언제 여나요?"}]


@dataclass(frozen=True)
class Served:
    openai: openai.OpenAI
    http: httpx.Client
    run: Path


@pytest.fixture(scope="module")
def served(
    random_run: Path, adapters: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    run = Path(shutil.copytree(random_run, tmp_path_factory.mktemp("served") / "random"))
    options = [part for name, path in adapters.items() for part in ("--adapter", f"{name}={path}")]
    started = subprocess.Popen(
        [sys.executable, "-m", "hanok", "serve", str(run), "--port", "0", *options],
        stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    try:
        assert started.stderr is not None
        line = started.stderr.readline()
        while line and not line.startswith("chat page: "):
            line = started.stderr.readline()
        url = line.removeprefix("chat page: ").strip()
        with (
            openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
            httpx.Client(base_url=url, timeout=30) as http,
        ):
            yield Served(client, http, run)
    finally:
        started.kill()
        started.communicate()


def ask(served: Served, model: str, *, stream: bool = False) -> str:
    given = {"model": model, "messages": ASK, "max_tokens": 24, "temperature": 0}
    if not stream:
        done = served.openai.chat.completions.create(**given)  # type: ignore[call-overload]
        assert done.model == model
        return done.choices[0].message.content or ""
    chunks = list(served.openai.chat.completions.create(**given, stream=True))  # type: ignore[call-overload]
    assert {chunk.model for chunk in chunks} == {model}
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def test_they_are_models(served: Served) -> None:
    listed = {model.id: model for model in served.openai.models.list().data}
    assert list(listed) == ["random", "red", "blue"]
    assert listed["red"].parent == "random"  # type: ignore[attr-defined]
    assert served.openai.models.retrieve("blue").context_length == 2048  # type: ignore[attr-defined]
    for call in (lambda: served.openai.models.retrieve("green"), lambda: ask(served, "green")):
        with pytest.raises(
            openai.NotFoundError, match='no model "green" here; this server serves "random", "red", "blue"'
        ):
            call()


def test_each_answers_for_itself_in_one_batch(
    served: Served, random_run: Path, adapters: dict[str, Path]
) -> None:
    engine = LocalEngine(random_run / "model", adapters=adapters)
    prompt = chat_prompt(engine.tokenizer, ASK)
    params = SamplingParams(temperature=0.0, max_tokens=24)
    expected = {}
    for model in ("random", "red", "blue"):
        adapter = None if model == "random" else model
        (done,) = engine.generate([Request(id="x", prompt_ids=prompt, params=params, adapter=adapter)])
        answer = AnswerStream(engine.tokenizer)
        answer.push(done.ids)
        answer.finish()
        expected[model] = answer.content
    engine.close()
    assert len(set(expected.values())) == 3
    asked = ["random", "red", "blue", "red", "random", "blue"]
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda number: ask(served, asked[number], stream=number > 2), range(6)))
    assert answers == [expected[model] for model in asked]


def test_an_answer_is_kept_with_whose_it_is(served: Served, adapters: dict[str, Path]) -> None:
    body = {"messages": ASK, "max_tokens": 4, "temperature": 0}
    ids = {
        model: served.http.post("/v1/chat/completions", json={"model": model, **body}).json()["id"]
        for model in ("random", "red", "blue")
    }
    model_hash = open_artefact(served.run / "model").hash
    engine = LocalEngine(served.run / "model", adapters=adapters)
    with Store(feedback_file(served.run / "model")) as store:
        kept = {model: store.find_request(identifier) for model, identifier in ids.items()}
    for model, answered in kept.items():
        assert answered is not None
        assert answered.model_hash == answerer_hash(model_hash, engine.adapters.get(model))
        assert (answered.model_hash == model_hash) == (model == "random")
        assert len(answered.model_hash) == 64


def test_an_adapter_may_not_be_called_like_the_model(random_run: Path, adapters: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match='the model is called "random" too'):
        serve(random_run / "model", adapters={"random": adapters["red"]})
