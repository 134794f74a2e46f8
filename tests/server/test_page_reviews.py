"""The review queue, one's own cases and releases to some of the traffic, in a real browser against the real routes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_models as tiny
from console import check_fits, check_quiet, click, enter, go, put, text, views

from hanok.artefacts import create_artefact

WRONG, RIGHT = "At ten, I think.", "The bookshop opens at nine."


@pytest.fixture
def given(watched: Any) -> str:
    """Feedback with a correction: the id of its item in the queue."""
    with watched.as_("yuna") as http:
        answer = watched.chat(http, "When does the bookshop open?", WRONG).json()
        body = {"request_id": answer["id"], "rating": -1, "correction": RIGHT, "reason": "the hour"}
        kept = http.post("/v1/feedback", json=body).json()["id"]
    with watched.as_("boss") as http:
        items = http.get("/v1/reviews?kind=feedback&limit=500").json()["data"]
    return next(one["id"] for one in items if one["source"] == kept)


def outcome(watched: Any, item: str) -> dict[str, Any]:
    with watched.as_("boss") as http:
        return http.get(f"/v1/reviews/{item}").json()


def test_an_item_is_taken_and_decided_by_keyboard(watched: Any, page: Any, given: str) -> None:
    enter(watched, page, "rita")
    assert "canary" not in views(page)
    go(page, "reviews", "#queue a")
    page.js("document.querySelector('#queue a').focus(), 1")
    page.key("ArrowDown", code=40)
    page.key("ArrowUp", code=38)
    assert page.js("document.activeElement === document.querySelector('#queue a')")
    go(page, f"reviews/{given}", "#decide")
    sides = page.js("[...document.querySelectorAll('.side .prose')].map((n) => n.textContent)")
    assert sides == [WRONG, RIGHT]
    assert text(page, ".user-reason") == "“the hour”"
    click(page, "#assign")
    page.until("!!document.querySelector('#give-back')")
    assert outcome(watched, given)["state"] == "assigned"
    page.js("document.querySelector('.review').focus(), 1")
    page.key("c", code=67, text="c")
    page.until("document.activeElement.name === 'correction'")
    assert page.js("document.activeElement.value") == RIGHT
    page.write(" Every day.")
    page.tab()
    page.write("c is right, and so is the hour")  # letters are letters here
    check_fits(page, "decision")
    page.enter(modifiers=2)  # Ctrl
    page.until(
        "[...document.querySelectorAll('.state-line .badge')].some((n) => n.textContent === 'Decided')"
    )
    decided = outcome(watched, given)
    assert (decided["outcome"], decided["correction"]) == ("correct", f"{RIGHT} Every day.")
    assert decided["decisions"][0]["reason"] == "c is right, and so is the hour"
    page.until("document.activeElement.id === 'next-review'")
    assert not page.js("!!document.querySelector('#decide')")
    check_quiet(page, watched.url)


def test_the_next_item_becomes_mine(watched: Any, page: Any, given: str) -> None:
    enter(watched, page, "rob")
    go(page, "reviews", "#queue a")
    click(page, "#next-review")
    page.until("!!document.querySelector('#give-back')")
    item = page.js("location.hash").rsplit("/", 1)[1]
    assert outcome(watched, item)["state"] == "assigned"
    click(page, "#give-back")
    page.until("!!document.querySelector('#assign')")
    assert outcome(watched, item)["state"] == "open"


def test_a_rejection_is_appealed_by_whose_it_is(watched: Any, page: Any, given: str) -> None:
    with watched.as_("rita") as http:
        body = {"verdict": "reject", "reason": "the sign says ten"}
        assert http.post(f"/v1/reviews/{given}/decide", json=body).status_code == 200
    enter(watched, page, "yuna", language="ko")
    assert "reviews" not in views(page)
    go(page, "appeals", ".data tbody")
    page.until("document.querySelector('.data tbody').textContent.includes('the sign says ten')")
    row = "[...document.querySelectorAll('.data tbody tr')].find((n) => n.textContent.includes('the sign says ten'))"
    page.js(f"{row}.querySelector('.appeal').click(), 1")
    page.until("document.activeElement.name === 'reason'")
    page.write("간판이 낡았어요.")
    click(page, "dialog .primary")
    page.until(f"({row}?.textContent ?? '').includes('간판이 낡았어요.')")
    appealed = outcome(watched, given)
    assert appealed["state"] == "appealed"
    assert appealed["appeals"][0]["statement"] == "간판이 낡았어요."
    check_fits(page, "appeals")


def test_two_people_and_how_far_they_agree(watched: Any, page: Any, given: str) -> None:
    with watched.as_("rita") as http:
        http.post(f"/v1/reviews/{given}/decide", json={"verdict": "accept", "reason": "right"})
    with watched.as_("yuna") as http:
        http.post("/v1/appeals", json={"item": given, "statement": "again"})
    enter(watched, page, "boss")
    go(page, "reviews", ".tiles")
    tiles = page.js("[...document.querySelectorAll('.tile dt')].map((n) => n.textContent)")
    assert tiles[:5] == ["Open", "Assigned", "Appealed", "Decided", "Disputed"]
    assert "Krippendorff’s alpha" in tiles
    put(page, "[name=state]", "decided")
    page.until("[...document.querySelectorAll('#queue .badge')].every((n) => n.textContent === 'Decided')")


@pytest.mark.parametrize(
    ("language", "dark", "width"),
    [("ko", False, 390), pytest.param("en", True, 1280, marks=pytest.mark.slow)],
)
def test_pages_of_reviews_fit(
    watched: Any, page: Any, given: str, language: str, dark: bool, width: int
) -> None:
    enter(watched, page, "boss", language=language, dark=dark, size=(width, 844))
    for view, ready in {"reviews": "#queue a", "canary": "#begin-canary", "appeals": ".data"}.items():
        go(page, view, ready)
        check_fits(page, view)
    go(page, f"reviews/{given}", "#decide")
    check_fits(page, "item")
    check_quiet(page, watched.url)


# ---- releases --------------------------------------------------------------------------------------------------------


@pytest.fixture
def improved(random_run: Path) -> Iterator[Path]:
    """Another model of the run."""
    folder = random_run / "improve-001" / "model"
    folder.parent.mkdir()
    with create_artefact(folder, kind="model") as draft:
        tiny.save_tiny_model(draft.path, seed=5)
    yield folder
    shutil.rmtree(folder.parent)


@pytest.mark.parametrize("ending", ["rollback", pytest.param("promote", marks=pytest.mark.slow)])
def test_a_release_is_begun_compared_and_ended(watched: Any, page: Any, improved: Path, ending: str) -> None:
    enter(watched, page, "boss")
    go(page, "canary", "#begin-canary")
    click(page, "#begin-canary")
    put(page, "dialog [name=directory]", str(improved))
    put(page, "dialog [name=share]", "50")
    click(page, "dialog .primary")
    page.until("!!document.querySelector('#promote')", seconds=90)
    with watched.as_("yuna") as http:
        for number in range(6):
            watched.chat(http, f"question {number}?", "here", max_tokens=3)
    put(page, ".canaries [name=share]", "60")
    page.until("document.querySelector('.canaries .soft')?.textContent.match(/\\d/) !== null")
    with watched.as_("boss") as http:
        running = http.get("/admin/models/hanok/canary").json()
        assert (running["state"], running["share"]) == ("running", 0.6)
    assert page.js("document.querySelector('.canaries tbody').rows.length") == 6
    check_fits(page, "canary")
    click(page, f"#{ending}")
    page.until("document.activeElement.name === 'reason'")
    page.write("seen enough")
    click(page, "dialog .primary")
    word = {"promote": "Promoted", "rollback": "Rolled back"}[ending]
    page.until(f"document.querySelector('.canaries tbody')?.textContent.includes('{word}')", seconds=90)
    assert "seen enough" in text(page, ".canaries tbody")
    assert not page.js("!!document.querySelector('#promote')")
    check_quiet(page, watched.url)
