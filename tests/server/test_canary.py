"""A model on trial beside another, in a server of its own: who gets which, how they compare, and how a trial ends."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import serving
from serving import Service, until

from hanok.artefacts import create_artefact, open_artefact, withdraw, withdrawal
from hanok.cli import _run
from hanok.engine.generator import LocalEngine
from hanok.errors import EngineError
from hanok.guard.verdicts import VerdictEvent
from hanok.reporting import Report
from hanok.server.canary.arms import Arms, compare
from hanok.server.canary.trial import standing
from hanok.server.exchange import Exchange, Outcome
from hanok.server.principal import LOCAL
from hanok.store.canaries import Canaries, Canary
from hanok.store.database import Store, feedback_file

QUESTIONS = [f"question {number}?" for number in range(24)]


@pytest.fixture
def models(tmp_path: Path) -> tuple[Path, Path]:
    """Two models of one run."""
    (tmp_path / "run.json").write_text("{}")
    found = []
    for seed, name in ((3, "model"), (4, "improve-001/model")):
        made = serving.make_model(tmp_path / f"made-{seed}", seed=seed)
        (tmp_path / name).parent.mkdir(exist_ok=True)
        with create_artefact(tmp_path / name, kind="model") as draft:
            for file in made.iterdir():
                shutil.copy2(file, draft.path)
        found.append(tmp_path / name)
    return found[0], found[1]


@pytest.fixture
def house(models: tuple[Path, Path]) -> Iterator[Service]:
    with serving.service(models[0]) as running:
        yield running


def canary(house: Service, action: str = "", method: str = "POST", **body: Any) -> Any:
    path = f"/admin/models/{house.model}/canary{action}"
    return house.http.request(method, path, **({"json": body} if method != "GET" else {}))


def answered(house: Service, question: str, *, turns: int = 1) -> str:
    """Hash of whose answer it is, in the last of so many turns."""
    messages = [{"role": "user", "content": question}]
    for turn in range(1, turns):
        messages += [{"role": "assistant", "content": "so"}, {"role": "user", "content": f"and then {turn}?"}]
    body = {"model": house.model, "messages": messages, "max_tokens": 3, "temperature": 0}
    done = house.http.post(serving.PATH, json=body)
    assert done.status_code == 200, done.text
    found = house.store.find_request(done.json()["id"])
    assert found is not None
    return found.model_hash


def test_a_share_of_conversations_and_each_stays_where_it_is(
    house: Service, models: tuple[Path, Path]
) -> None:
    old, new = (open_artefact(model).hash for model in models)
    begun = canary(house, directory=str(models[1]), share=0.4)
    assert begun.status_code == 201, begun.text
    assert (begun.json()["current"]["hash"], begun.json()["canary"]["hash"]) == (old, new)
    first = {question: answered(house, question) for question in QUESTIONS}
    assert set(first.values()) == {old, new}
    assert {question: answered(house, question, turns=3) for question in QUESTIONS} == first
    wider = canary(house, method="PATCH", share=0.8).json()
    assert wider["share"] == 0.8
    later = {question: answered(house, question) for question in QUESTIONS}
    assert [one for one in QUESTIONS if first[one] == new and later[one] == old] == []
    assert sum(one == new for one in later.values()) > sum(one == new for one in first.values())
    shown = canary(house, method="GET").json()["comparison"]
    arms = shown["arms"]
    assert arms["current"]["requests"] + arms["canary"]["requests"] == 3 * len(QUESTIONS)
    assert arms["canary"]["milliseconds"]["low"] <= arms["canary"]["milliseconds"]["value"]
    assert arms["canary"]["errors"] == {**arms["canary"]["errors"], "value": 0.0, "right": 0}
    assert shown["differences"]["liked"]["value"] is None
    for action in ("replace", "unload"):
        body = {"json": {"directory": str(models[1])}} if action == "replace" else {}
        refused = house.http.post(f"/admin/models/{house.model}/{action}", **body)
        assert refused.status_code == 400
        assert "canary" in refused.json()["error"]["message"]
    again = canary(house, directory=str(models[1]))
    assert (again.status_code, again.json()["error"]["code"]) == (409, "canary_running")


def test_rolled_back_nobody_gets_it_any_more(house: Service, models: tuple[Path, Path]) -> None:
    old = open_artefact(models[0]).hash
    canary(house, directory=str(models[1]), share=1.0)
    assert answered(house, "hi") != old
    ended = canary(house, "/rollback", reason="worse").json()
    assert (ended["state"], ended["why"], ended["ended_by"]) == ("rolled_back", "worse", "local")
    assert answered(house, "hi") == old
    note = withdrawal(models[1])
    assert note is not None
    assert (note.by, note.why) == ("local", "worse")
    assert abs(note.time - time.time()) < 600
    assert until(lambda: not house.operations.trials.engines, 20)
    assert canary(house, "/promote").status_code == 404
    assert house.http.post(f"/admin/models/{house.model}/unload").status_code == 200


def test_promoted_everybody_gets_it(house: Service, models: tuple[Path, Path]) -> None:
    new = open_artefact(models[1]).hash
    canary(house, directory=str(models[1]), share=0.01)
    ended = canary(house, "/promote").json()
    assert (ended["state"], ended["comparison"]["arms"]["canary"]["requests"]) == ("promoted", 0)
    assert {answered(house, question) for question in QUESTIONS[:6]} == {new}
    assert [row["state"] for row in house.http.get("/admin/canaries").json()["data"]] == ["promoted"]
    assert withdrawal(models[1]) is None


def test_what_was_promoted_and_withdrawn_since_is_told(house: Service, models: tuple[Path, Path]) -> None:
    report = Report("Improvement")
    report.add_text("Accepted", "it is better")
    report.write(models[1].parent)
    page = models[1].parent / "report.html"
    canary(house, directory=str(models[1]), share=0.5)
    assert canary(house, "/rollback", reason="worse").json()["withdrawn"]["why"] == "worse"
    assert "by local: worse" in page.read_text()
    canary(house, directory=str(models[1]), share=0.5)
    assert canary(house, "/promote").json()["withdrawn"] is None
    assert "withdrawn" not in page.read_text()
    withdraw(models[1], "complaints", by="u_ann")
    newest, first = house.http.get("/admin/canaries").json()["data"]
    assert (newest["state"], newest["withdrawn"]["by"]) == ("promoted", "u_ann")
    assert newest["withdrawn"]["time"] > newest["ended"]
    assert first["state"] == "rolled_back"


def test_what_is_no_model_is_refused_and_leaves_nothing(house: Service, models: tuple[Path, Path]) -> None:
    for directory in (models[0], models[0] / "nothing"):
        refused = canary(house, directory=str(directory))
        assert refused.status_code == 400, refused.text
    assert canary(house, method="GET").status_code == 404
    assert canary(house, directory=str(models[1]), share=0).status_code == 400
    assert canary(house, directory=str(models[1])).status_code == 201  # control


def test_ratings_are_compared_by_who_answered(house: Service, models: tuple[Path, Path]) -> None:
    canary(house, directory=str(models[1]), share=0.5)
    new = open_artefact(models[1]).hash
    for question in QUESTIONS:
        body = {"model": house.model, "messages": [{"role": "user", "content": question}], "max_tokens": 2}
        answer = house.http.post(serving.PATH, json=body).json()["id"]
        found = house.store.find_request(answer)
        assert found is not None
        liked = 1 if found.model_hash == new else -1
        assert (
            house.http.post("/v1/feedback", json={"request_id": answer, "rating": liked}).status_code == 201
        )
    shown = canary(house, method="GET").json()["comparison"]
    assert shown["arms"]["canary"]["liked"]["value"] == 1.0
    assert shown["arms"]["current"]["liked"]["value"] == 0.0
    assert shown["differences"]["liked"]["clear"] is True


def test_a_trial_outlives_the_server(models: tuple[Path, Path]) -> None:
    """The rows that a server leaves, and what the next one makes of them."""
    with serving.service(models[0]) as house:
        canary(house, directory=str(models[1]), share=0.6)
        first = {question: answered(house, question) for question in QUESTIONS[:12]}
    with Store(feedback_file(models[0])) as store:
        row = standing(Canaries(store), models[1])
        assert row is not None
        assert (row.state, row.current_directory) == ("running", str(models[0]))
        counts = row.counts
        assert counts["current"]["ended"] + counts["canary"]["ended"] == 12
    with serving.service(models[0], trial=row) as house:
        assert {question: answered(house, question) for question in QUESTIONS[:12]} == first
        assert canary(house, method="GET").json()["comparison"]["arms"]["canary"]["requests"] == 2 * list(
            first.values()
        ).count(row.canary_hash)
        canary(house, "/promote")
    with Store(feedback_file(models[0])) as store:
        found = standing(Canaries(store), models[0])
        assert found is not None
        assert (found.state, found.canary_directory) == ("promoted", str(models[1]))
        (models[1] / "config.json").write_text("{}")
        assert standing(Canaries(store), models[0]) is None


def test_what_followed_what_is_followed(tmp_path: Path) -> None:
    """One model promoted after another: whichever is named, the last is served."""
    folders = [tmp_path / name for name in "abc"]
    hashes = {}
    for folder in folders:
        with create_artefact(folder, kind="model") as draft:
            (draft.path / "x").write_text(folder.name)
        hashes[folder] = open_artefact(folder).hash

    def row(old: Path, new: Path, state: Any, created: float) -> Canary:
        return Canary(
            model="m", current_directory=str(old), current_hash=hashes[old], canary_directory=str(new),
            canary_hash=hashes[new], share=0.1, state=state, created=created,
        )  # fmt: skip

    a, b, c = folders
    with ExitStack() as held:
        table = Canaries(held.enter_context(Store(tmp_path / "store.sqlite")))
        assert standing(table, a) is None
        table.add(row(a, b, "promoted", 1.0))
        table.add(row(b, c, "rolled_back", 2.0))
        assert [getattr(standing(table, one), "canary_directory", None) for one in folders] == [
            str(b),
            str(b),
            None,
        ]
        table.add(row(b, c, "promoted", 3.0))
        assert {getattr(standing(table, one), "canary_directory", None) for one in folders} == {str(c)}


def test_failures_take_it_back_and_chance_does_not() -> None:
    def arms(current: tuple[int, int], trial: tuple[int, int]) -> Arms:
        made = Arms({"current": "a", "canary": "b"}, {})
        for model_hash, (failed, count) in (("a", current), ("b", trial)):
            for number in range(count):
                exchange = Exchange(
                    id=f"{model_hash}{number}", route="chat", principal=LOCAL, model="m", model_hash=model_hash,
                    prompt_tokens=1, max_tokens=1,
                )  # fmt: skip
                made.begun(exchange)
                made.ended(
                    exchange,
                    Outcome(
                        reason="error" if number < failed else "stop", completion_tokens=1, cached_tokens=0,
                        first_token_seconds=0.1, seconds=0.2 + number / 1000,
                    ),
                )  # fmt: skip
        return made

    assert arms((0, 500), (4, 5)).fails(least=3) is not None
    assert arms((0, 0), (3, 3)).fails(least=3) is not None
    assert arms((0, 500), (2, 2)).fails(least=3) is None  # too few to say
    assert arms((50, 100), (3, 6)).fails(least=3) is None  # both fail alike
    assert arms((0, 20), (3, 200)).fails(least=3) is None
    counts = arms((1, 100), (1, 100)).plain()
    shown = compare(counts, {"current": (5, 10), "canary": (90, 100)})
    assert shown["differences"]["liked"]["clear"] is True
    assert shown["differences"]["errors"]["clear"] is False
    assert shown["differences"]["milliseconds"]["value"] == pytest.approx(0.0)


def test_on_the_command_line(
    house: Service, models: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(["canary", "show", "--url", house.url]) == 2
    assert "had no canary" in capsys.readouterr().err
    assert _run(["canary", "start", str(models[1]), "--share", "2", "--url", house.url]) == 2
    assert "share" in capsys.readouterr().err
    assert _run(["canary", "start", str(models[1]), "--share", "0.5", "--url", house.url]) == 0
    assert _run(["canary", "share", "0.7", "--url", house.url, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["share"] == 0.7
    assert _run(["canary", "rollback", "--reason", "enough", "--url", house.url]) == 0
    assert _run(["canary", "show", "--model", house.model, "--url", house.url]) == 0
    assert re.search("withdrawn on .* by local: enough", capsys.readouterr().err)
    assert _run(["canary", "promote", "--url", house.url]) == 2
    assert _run(["canary", "show", "--url", "http://127.0.0.1:9"]) == 2
    assert "no server answers" in capsys.readouterr().err


def break_down(engine: LocalEngine) -> None:
    """Its answers fail from here on."""

    def fail(*_words: Any) -> Any:
        raise EngineError("broken")

    engine.follow = fail  # type: ignore[method-assign]


def ask_until(house: Service, holds: Any) -> bool:
    def asked() -> bool:
        body = {"model": house.model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
        house.http.post(serving.PATH, json=body)
        return holds()

    return until(asked, 30)


def test_a_canary_that_fails_is_rolled_back_by_itself(house: Service, models: tuple[Path, Path]) -> None:
    canary(house, directory=str(models[1]), share=1.0)
    break_down(house.operations.trials.engines[0])
    assert ask_until(house, lambda: canary(house, method="GET").json()["state"] == "rolled_back")
    ended = canary(house, method="GET").json()
    assert ended["ended_by"] == "server"
    assert "answers failed" in ended["why"]
    assert ended["comparison"]["arms"]["canary"]["errors"]["right"] >= 3
    assert answered(house, "hi") == open_artefact(models[0]).hash
    assert until(lambda: withdrawal(models[1]) is not None, 20)


def test_without_the_option_it_stays(house: Service, models: tuple[Path, Path]) -> None:
    """The control."""
    canary(house, directory=str(models[1]), share=1.0, auto_rollback=False)
    break_down(house.operations.trials.engines[0])
    for _ in range(5):
        ask_until(house, lambda: True)
    assert canary(house, method="GET").json()["state"] == "running"


def test_what_fails_after_it_was_promoted_is_taken_back(house: Service, models: tuple[Path, Path]) -> None:
    canary(house, directory=str(models[1]))
    canary(house, "/promote")
    assert withdrawal(models[1]) is None
    break_down(house.operations._engines()[house.model])
    assert ask_until(house, lambda: canary(house, method="GET").json()["state"] == "rolled_back")
    assert until(lambda: withdrawal(models[1]) is not None, 20)
    assert answered(house, "hi") == open_artefact(models[0]).hash


def test_what_the_guard_says_counts_with_the_answer() -> None:
    """While an answer streams it is none of the arm's answers; given up, it never is one."""
    made = Arms({"current": "a", "canary": "b"}, {})
    event = VerdictEvent(
        request_id="r", tenant="t", key_id="k", model="m", rule="secrets", action="block", direction="output", where="text",
        span=(0, 1), reason="",
    )  # fmt: skip
    for name, reason in (("r", "stop"), ("gone", "cancelled")):
        exchange = Exchange(
            id=name, route="chat", principal=LOCAL, model="m", model_hash="b", prompt_tokens=1, max_tokens=1
        )  # fmt: skip
        made.begun(exchange)
        made.verdict(replace(event, request_id=name))
        assert made.arms["canary"].ended >= made.arms["canary"].flagged
        made.ended(
            exchange,
            Outcome(
                reason=reason, completion_tokens=1, cached_tokens=0, first_token_seconds=0.1, seconds=0.2
            ),
        )
    arm = made.arms["canary"]
    assert (arm.ended, arm.flagged, arm.blocked) == (1, 1, 1)
    compare(made.plain(), {"current": (0, 0), "canary": (0, 0)})  # shares of what has ended
