"""The watermark and the caps on log-probabilities of a server, by its policy: who is marked, who may ask, what is told."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from hanok.cli import _run
from hanok.errors import ConfigError
from hanok.guard.policy import parse_policy
from hanok.guard.rulebook import Guard
from hanok.guard.watermark import detect
from hanok.server.app import create_app, services_of
from hanok.server.identity.people import open_people
from hanok.server.services import Services
from hanok.store.database import Store
from hanok.store.watermark_keys import WatermarkKeys

MARKED = "format = 1\n[watermark]\nenabled = true\ndelta = 4.0\n[tenants.plain.watermark]\nenabled = false\n"


class House:
    def __init__(self, services: Services, http: TestClient, model: str) -> None:
        self.services, self.http, self.model = services, http, model

    def key(self, **values: Any) -> str:
        return self.services.people.management.create_key("bot", **values)[1]

    def post(self, path: str, body: dict[str, Any], key: str | None = None) -> Any:
        self.services.directory._checked = float("-inf")  # as after half a second
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return self.http.post(path, json=body, headers=headers)

    def write(self, key: str | None = None, **changes: Any) -> Any:
        """Letters alone: half a character that a random model writes would be read back as other tokens."""
        ids = self.services.models.default.engine.tokenizer.encode(
            "abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLM,."
        )
        body = {
            "model": self.model, "prompt": "hi", "max_tokens": 300, "seed": 3, "ignore_eos": True,
            "logit_bias": dict.fromkeys(ids, 40), **changes,
        }  # fmt: skip
        return self.post("/v1/completions", body, key)


@pytest.fixture
def house(server: Any, random_run: Path, tmp_path: Path) -> Iterator[Callable[[str], House]]:
    opened: list[Any] = []

    @contextmanager
    def running(policy: str) -> Iterator[House]:
        with Store(tmp_path / "store.sqlite") as store:
            people = open_people(store, host="127.0.0.1")
            guard = Guard(parse_policy(policy))
            services = services_of(server.engine, random_run / "model", store, people=people, guard=guard)
            app = create_app(services)
            with TestClient(app, base_url="http://127.0.0.1:8080", client=("127.0.0.1", 50_000)) as http:
                yield House(services, http, server.model)
            services.admission.ledger.flush()  # type: ignore[attr-defined]

    def make(policy: str) -> House:
        one = running(policy)
        opened.append(one)
        return one.__enter__()

    yield make
    for one in opened:
        one.__exit__(None, None, None)


def test_a_tenant_is_marked_as_the_policy_says_and_anyone_known_may_ask(
    house: Callable[[str], House],
) -> None:
    here = house(MARKED)
    for tenant in ("acme", "plain"):
        here.services.people.management.create_tenant(tenant)
    keys = {tenant: here.key(tenant=tenant) for tenant in ("acme", "plain")}
    texts = {tenant: here.write(key).json()["choices"][0]["text"] for tenant, key in keys.items()}
    verdicts = {
        tenant: here.post("/v1/watermark/detect", {"text": text}, keys["acme"]).json()
        for tenant, text in texts.items()
    }
    assert verdicts["acme"]["verdict"] == "marked"
    assert verdicts["plain"]["verdict"] == "not marked"
    assert all("numbers" not in one for one in verdicts.values())
    told = here.post("/v1/watermark/detect", {"text": texts["acme"]}, here.key(role="administrator")).json()
    assert told["numbers"]["p_value"] < 1e-4
    assert here.post("/v1/watermark/detect", {"text": texts["acme"]}).status_code == 401
    assert here.post("/v1/watermark/detect", {"text": "a"}, here.key(role="viewer")).status_code == 403


def test_it_may_not_be_asked_without_end(house: Callable[[str], House]) -> None:
    here = house(MARKED)
    key, other = here.key(), here.key()
    answers = [here.post("/v1/watermark/detect", {"text": "a" * 300}, key) for _ in range(9)]
    refused = [one for one in answers if one.status_code == 429]
    assert refused
    assert all(int(one.headers["retry-after"]) > 0 for one in refused)
    assert here.post("/v1/watermark/detect", {"text": "a" * 300}, other).status_code == 200


def test_a_house_that_marks_nothing_has_no_key(house: Callable[[str], House]) -> None:
    here = house("format = 1\n")
    assert WatermarkKeys(here.services.store).all() == []
    assert here.post("/v1/watermark/detect", {"text": "a"}).status_code == 404


def test_keys_outlive_a_server_and_are_rotated(
    house: Callable[[str], House], tmp_path: Path, random_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here = house(MARKED)
    text = here.write().json()["choices"][0]["text"]
    (first,) = WatermarkKeys(here.services.store).all()
    assert house(MARKED).write().json()["choices"][0]["text"] == text  # the same key, the same tokens
    store = ["--store", str(tmp_path / "store.sqlite")]
    assert _run(["guard", "watermark", "rotate", *store]) == 0
    assert here.services.watermarks is not None
    here.services.watermarks.take_up()
    again = here.write().json()["choices"][0]["text"]
    assert again != text
    (tmp_path / "text.txt").write_text(text, encoding="utf-8")
    model = ["--model", str(random_run / "model"), "--json"]
    capsys.readouterr()
    assert _run(["guard", "watermark", "detect", str(tmp_path / "text.txt"), *model, *store]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["verdict"], found["key"]) == ("marked", first.id)
    out = tmp_path / "key.json"
    assert _run(["guard", "watermark", "export", first.id, "--out", str(out), *store]) == 0
    assert out.stat().st_mode & 0o077 == 0
    assert _run(["guard", "watermark", "detect", str(tmp_path / "text.txt"), *model, "--key", str(out)]) == 0
    shown = capsys.readouterr().out
    assert json.loads(shown.splitlines()[-1])["verdict"] == "marked"
    secret = json.loads(out.read_text())["key"]
    assert secret.encode() not in (tmp_path / "store.sqlite").read_bytes()  # it is derived from the pepper


def test_another_gamma_makes_another_key(house: Callable[[str], House]) -> None:
    house(MARKED)
    here = house(MARKED.replace("delta = 4.0", "delta = 4.0\ngamma = 0.5"))
    keys = WatermarkKeys(here.services.store).all()
    assert [(key.gamma, key.retired is None) for key in keys] == [(0.25, False), (0.5, True)]
    text = here.write().json()["choices"][0]["text"]
    assert here.services.watermarks is not None
    marks = {one.key_id: one for one in here.services.watermarks.all()}
    ids = here.services.models.default.engine.tokenizer.encode(text)
    assert detect(ids, marks[keys[1].id]).p_value < 1e-4 < detect(ids, marks[keys[0].id]).p_value


CAPPED = "format = 1\n[logprobs]\nmost = 2\ndecimals = 2\nwith_logit_bias = false\n"


@pytest.mark.parametrize("stream", [False, True])
def test_log_probabilities_are_capped_and_rounded(house: Callable[[str], House], stream: bool) -> None:
    def chat(here: House, **more: Any) -> Any:
        body = {
            "model": here.model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5, "seed": 1,
            "logprobs": True, "stream": stream, **more,
        }  # fmt: skip
        return here.post("/v1/chat/completions", body)

    here, free = house(CAPPED), house("format = 1\n")
    assert chat(here, top_logprobs=3).status_code == 400
    assert chat(here, top_logprobs=3).json()["error"]["code"] == "logprobs_capped"
    assert chat(here, logit_bias={"7": 1}).status_code == 400
    assert chat(here, logit_bias={"7": 1}, logprobs=False).status_code == 200
    assert chat(free, top_logprobs=3, logit_bias={"7": 1}).status_code == 200
    rounded, exact = numbers(chat(here, top_logprobs=2).text), numbers(chat(free, top_logprobs=2).text)
    assert len(rounded) == len(exact) >= 10
    assert rounded == [round(value, 2) for value in exact]
    assert exact != rounded
    echoed = here.write(max_tokens=3, logprobs=1, echo=True, prompt="hello", logit_bias={}).json()["choices"][
        0
    ]["logprobs"]
    assert all(value is None or value == round(value, 2) for value in echoed["token_logprobs"])


def numbers(text: str) -> list[float]:
    found = []
    for line in [one.removeprefix("data: ") for one in text.splitlines() if one and "[DONE]" not in one]:
        for choice in json.loads(line)["choices"]:
            for token in (choice.get("logprobs") or {}).get("content") or ():
                found += [token["logprob"], *(top["logprob"] for top in token["top_logprobs"])]
    return found


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ("[watermark]\ngamma = 0.3\n", "watermark.gamma = 0.3"),
        ("[watermark]\nwidht = 3\n", '"watermark.widht"'),
        ("[tenants.acme.watermark]\nwidth = 3\n", '"tenants.acme.watermark.width"'),
        ("[logprobs]\nmost = -1\n", "logprobs.most = -1"),
        ("[extraction]\nlog = 5\nquota = 4\n", "extraction.quota = 4"),
    ],
)
def test_what_is_wrong_in_a_policy_is_named(policy: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_policy(f"format = 1\n{policy}")
    assert said in str(caught.value)
