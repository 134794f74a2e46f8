"""Several processes that are one server, here in one: they write into one audit, and what one takes up the others take up.

What Ray does between them is in `test_replicas.py`.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import serving
from fastapi.testclient import TestClient

from hanok.artefacts import open_artefact
from hanok.cli.serve import serve
from hanok.errors import ConfigError, HanokError
from hanok.server import replicas as replicas_module
from hanok.server.admission.prices import Prices
from hanok.server.identity.directory import Entry
from hanok.server.operations.config import ServeSettings
from hanok.server.operations.service import Operations
from hanok.server.operations.together import Together
from hanok.server.replica import Replica
from hanok.server.replicas import serve_replicas
from hanok.store.audit.keys import load_or_make
from hanok.store.audit.place import audit_place
from hanok.store.audit.reader import Reader, Wanted
from hanok.store.audit.verify import verify
from hanok.store.canaries import Canaries, Canary
from hanok.store.database import Store
from hanok.store.usage import read_usage, total

POLICY = """format = 1
[rules.words]
kind = "phrases"
on = ["input"]
phrases = ["{word}"]
action = "block"
"""


class Two:
    def __init__(self, folder: Path, model: Path) -> None:
        self.store, self.policy, self.prices = (
            folder / name for name in ("s.sqlite", "policy.toml", "prices.toml")
        )
        self.policy.write_text(POLICY.format(word="first word"))
        self.prices.write_text("")
        self.settings = ServeSettings(guard=str(self.policy), prices=self.prices, replicas=2)
        self.one = Replica(
            model_dir=model, store=self.store, mark=folder / "mark", entry=Entry(prices=Prices()), settings=self.settings,
            source=lambda: replace(self.settings), options={"threads": 1, "weights": "float32"},
        )  # fmt: skip
        self.held = ExitStack()
        self.a, self.b = (
            self.held.enter_context(
                TestClient(self.one.build(), base_url="http://127.0.0.1:8080", client=("127.0.0.1", 50_000))
            )
            for _ in range(2)
        )
        self.model = self.a.get("/v1/models").json()["data"][0]["id"]

    def ask(self, http: TestClient, text: str) -> int:
        body = {"model": self.model, "messages": [{"role": "user", "content": text}], "max_tokens": 3}
        return http.post("/v1/chat/completions", json=body).status_code

    def entries(self, kind: str) -> list[dict[str, Any]]:
        with Reader(audit_place(self.store)) as reader:
            return reader.list(Wanted(kind=kind), limit=500)


@pytest.fixture
def two(tmp_path: Path, random_run: Path) -> Iterator[Two]:
    made = Two(tmp_path, random_run / "model")
    with made.held:
        yield made


def test_what_each_of_them_does_is_in_one_audit(two: Two) -> None:
    assert [two.ask(http, "hello") for http in (two.a, two.b)] == [200, 200]
    assert [two.ask(http, "the first word") for http in (two.a, two.b)] == [400, 400]
    two.held.close()  # both end
    answered = [
        one["facts"]["status"] for one in two.entries("request") if "completions" in one["facts"]["route"]
    ]
    assert sorted(answered) == [200, 200, 400, 400]
    assert len(two.entries("verdict")) == 2
    for kind in ("server.start", "server.stop"):
        assert len(two.entries(kind)) == 2, kind
    assert two.entries("server.start")[0]["facts"]["replicas"] == 2
    place = audit_place(two.store)
    with Reader(place) as reader:
        found = verify(reader, load_or_make(place.folder).signer.verifier)
    assert found.ok, found


def test_what_one_takes_up_the_other_takes_up(two: Two) -> None:
    edited = POLICY.format(word="second word")
    known = two.a.get("/admin/policy").json()["hash"]
    saved = two.a.put("/admin/policy", json={"policy": edited, "hash": known})
    assert saved.status_code == 200, saved.text
    assert serving.until(lambda: two.ask(two.b, "the second word") == 400, 30.0)
    assert two.ask(two.b, "the first word") == 200
    two.prices.write_text("[default]\nprompt = 1e6\ncompletion = 1e6\n")
    assert serving.until(lambda: len(two.entries("settings.reload")) == 1, 30.0)  # b's, for the policy
    assert two.b.post("/admin/reload").status_code == 200
    assert serving.until(lambda: len(two.entries("settings.reload")) == 3, 30.0)  # of both, once
    with Store(two.store) as store:
        assert total(read_usage(store, by=["day"]))["cost"] == 0.0
    assert two.ask(two.a, "what does it cost?") == 200
    two.held.close()
    with Store(two.store) as store:
        assert total(read_usage(store, by=["day"]))["cost"] > 1.0


def test_what_would_change_one_of_them_alone_is_refused(two: Two, tmp_path: Path) -> None:
    there = {"directory": str(tmp_path)}
    for path, body in (
        (f"/admin/models/{two.model}/canary", there), (f"/admin/models/{two.model}/replace", there),
        (f"/admin/models/{two.model}/unload", {}), ("/admin/adapters", {"name": "x", **there}),
    ):  # fmt: skip
        refused = two.a.post(path, json=body)
        assert refused.status_code == 400, path
        assert "in replicas" in refused.json()["error"]["message"], path
    assert two.ask(two.a, "hello") == 200


def test_a_mark_is_heard_by_the_others_once(tmp_path: Path) -> None:
    one, other = Together(tmp_path / "mark"), Together(tmp_path / "mark")
    assert not one.heard()
    one.announce()
    assert (one.heard(), other.heard(), other.heard()) == (False, True, False)
    other.announce()
    assert (one.heard(), other.heard()) == (True, False)


def test_a_mark_whose_folder_was_cleaned_away_is_made_anew(tmp_path: Path) -> None:
    """Servers run for weeks, and an empty folder among temporary files does not."""
    folder = tmp_path / "replicas"
    folder.mkdir()
    one, other = Together(folder / "mark"), Together(folder / "mark")
    folder.rmdir()
    assert not other.heard()
    one.announce()
    assert (one.heard(), other.heard()) == (False, True)


@pytest.mark.parametrize(
    "wanted",
    [
        {"trusted_proxy": ("192.0.2.7",)}, {"tls_cert": Path("a"), "tls_key": Path("b")}, {"header_seconds": 3.0},
        {"max_connections": 7}, {"most_loaded": 2},
    ],
)  # fmt: skip
def test_settings_that_replicas_cannot_keep_are_refused(
    random_run: Path, tmp_path: Path, wanted: Any
) -> None:
    name = next(iter(wanted))
    with pytest.raises(ConfigError, match=f"{name} = .* with replicas; leave it out"):
        serve_replicas(
            random_run / "model", replicas=1, store=tmp_path / "s.sqlite", settings=ServeSettings(**wanted)
        )
    if name == "trusted_proxy":
        with pytest.raises(ConfigError, match="trusted_proxy"):
            serve(
                random_run,
                replicas=1,
                runtime="ray",
                store=str(tmp_path / "s.sqlite"),
                trusted_proxy=("192.0.2.7",),
            )


def test_without_its_audit_it_does_not_start(random_run: Path, tmp_path: Path) -> None:
    store = tmp_path / "s.sqlite"
    audit_place(store).folder.write_text("a file where its folder should be")
    with pytest.raises((HanokError, OSError)):
        serve_replicas(random_run / "model", replicas=1, store=store)


def test_a_trial_is_ended_first_and_what_was_promoted_is_served(random_run: Path, tmp_path: Path) -> None:
    model, other = (random_run / "model").resolve(), str(tmp_path / "other")
    shutil.copytree(model, other)
    found = open_artefact(model, verify=False).hash
    with Store(tmp_path / "s.sqlite") as store:
        row = Canaries(store).add(
            Canary(
                model="m", current_directory=str(model), current_hash=found, canary_directory=other, canary_hash=found,
                share=0.1,
            )
        )  # fmt: skip
        with pytest.raises(ConfigError, match=r"on trial beside .* end the trial first"):
            serve_replicas(model, replicas=1, store=tmp_path / "s.sqlite")
        Canaries(store).change(row.id, state="promoted")
        assert replicas_module._standing(store, model) == ("m", Path(other))
        assert replicas_module._standing(store, tmp_path) == (None, tmp_path)


def test_settings_that_fail_to_be_taken_up_do_not_end_the_looks_at_the_engines(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def source() -> ServeSettings:
        raise OSError("the disk is gone")

    other = Together(tmp_path / "mark")
    operations = Operations(ServeSettings(), source=source, together=Together(tmp_path / "mark"))
    other.announce()
    asyncio.run(operations._hear())
    assert "the disk is gone" in caplog.text
    caplog.clear()
    asyncio.run(operations._hear())  # the control: nothing new is announced
    assert not caplog.text
