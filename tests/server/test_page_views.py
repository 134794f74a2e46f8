"""The views beside the chat, in a real browser against the real routes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from console import check_fits, check_quiet, go, text, views

HEADINGS = {
    "compare": ("Side by side", "나란히 비교"), "dashboard": ("Dashboard", "현황"), "reports": ("Reports", "보고서"),
}  # fmt: skip
READY = {"compare": ".check input", "dashboard": ".tile", "reports": ".reports nav"}


@pytest.fixture(scope="module")
def reported(taught_run: Path) -> Path:
    """The run of the taught model, with reports and traps."""
    for folder, title in ((".", "Run taught"), ("verify", "Verify &amp; more")):
        (taught_run / folder).mkdir(exist_ok=True)
        body = f"<title>{title}</title><h1>{title}</h1><script>parent.hacked = 1</script><img src=x onerror='parent.hacked = 2'>"
        (taught_run / folder / "report.html").write_text(body, encoding="utf-8")
    (taught_run / "secret.html").write_text("secret", encoding="utf-8")
    (taught_run / "link").mkdir(exist_ok=True)
    link = taught_run / "link" / "report.html"
    if not link.exists():
        link.symlink_to(taught_run / "secret.html")
        (taught_run.parent / "report.html").write_text("outside", encoding="utf-8")
    return taught_run


@pytest.mark.parametrize(("language", "dark"), [("ko", True), ("en", False)])
@pytest.mark.parametrize("width", [1280, 390])
def test_every_view_fits_and_complains_of_nothing(
    taught: Any, page: Any, reported: Path, language: str, dark: bool, width: int
) -> None:
    page.open(taught.url, language=language, dark=dark, size=(width, 844))
    for view, names in HEADINGS.items():
        go(page, view, READY[view])
        page.until(f"document.querySelector('h1.title').textContent === {names[language == 'ko']!r}")
        check_fits(page, view)
    check_quiet(page, taught.url)


def test_a_vote_is_feedback_on_both_answers(taught: Any, page: Any) -> None:
    page.open(taught.url)
    go(page, "compare", READY["compare"])
    page.js("document.getElementById('input').focus(), 1")
    page.write("hi")
    page.enter()
    page.until("document.querySelectorAll('.votes button').length === 4")
    assert text(page, ".side .bubble") == "안녕하세요, 한옥이에요. 🏡"
    before = len(list(taught.store.read_feedback()))
    page.js("document.querySelector('.votes button').click(), 1")
    page.until("document.querySelector('.side').classList.contains('won')")
    votes = list(taught.store.read_feedback())[before:]
    assert sorted(vote.rating for vote in votes) == [-1, 1]
    assert len({vote.request_id for vote in votes}) == 2
    assert all(vote.reason.startswith("side by side: left") for vote in votes)


def test_names_can_be_hidden_until_the_vote(taught: Any, page: Any) -> None:
    page.open(taught.url)
    go(page, "compare", READY["compare"])
    page.js("document.querySelector('.check input').click(), document.getElementById('input').focus(), 1")
    page.write("hi")
    page.enter()
    page.until("document.querySelectorAll('.votes button').length === 4")
    assert text(page, ".side h3") == "AHidden until the vote"
    page.js("document.querySelectorAll('.votes button')[1].click(), 1")
    page.until("document.querySelector('.side h3').textContent.includes('taught')")


def test_the_dashboard_counts_what_was_answered(taught: Any, page: Any) -> None:
    page.open(taught.url)
    go(page, "dashboard", READY["dashboard"])
    taught.openai.chat.completions.create(model=taught.model, messages=[{"role": "user", "content": "hi"}])
    rows = "[...document.querySelectorAll('.data')].find((n) => n.ariaLabel === 'Models')?.innerText"
    page.until(f"({rows} ?? '').includes('taught')")
    page.until(
        "[...document.querySelectorAll('.tile')].some((n) => /First token\\s*[\\d.,]+ m?s/.test(n.textContent))"
    )
    page.js("location.hash = '#/chat', 1")
    page.until("!!document.getElementById('input')")


def test_reports_are_listed_and_shown_without_their_scripts(taught: Any, page: Any, reported: Path) -> None:
    page.open(taught.url)
    go(page, "reports", READY["reports"])
    names = page.js("[...document.querySelectorAll('.reports nav a span')].map((n) => n.textContent)")
    assert names == ["Run taught", "verify"]
    page.js("document.querySelectorAll('.reports nav a')[1].click(), 1")
    page.until("document.querySelector('iframe')?.src.endsWith('/console/reports/run/verify/report.html')")
    page.until("document.querySelectorAll('.reports nav a')[1].ariaCurrent === 'page'")
    assert page.js("document.querySelector('iframe').getAttribute('sandbox')") == ""
    assert page.js("window.hacked === undefined")


def test_only_reports_of_the_run_are_served(taught: Any, reported: Path) -> None:
    listed = taught.http.get("/console/reports").json()
    assert [(one["path"], one["title"]) for one in listed["data"]] == [
        ("run/report.html", "Run taught"), ("run/verify/report.html", "Verify & more"),
    ]  # fmt: skip
    response = taught.http.get("/console/reports/run/report.html")
    assert response.status_code == 200
    assert response.headers["Content-Security-Policy"].startswith("sandbox; default-src 'none'")
    for path in (
        "run/secret.html", "run/../report.html", "run/%2e%2e/report.html", "run/link/report.html", "run/run.json",
        "bench/report.html", "elsewhere/report.html", "run//report.html/", "run/%00/report.html",
        f"run/{reported}/secret.html", "run/model/report.html",
    ):  # fmt: skip
        assert taught.http.get(f"/console/reports/{path}").status_code == 404, path


def test_what_the_server_lacks_is_absent(taught: Any, page: Any) -> None:
    features = set(taught.http.get("/console.json").json()["features"])
    page.open(taught.url)
    needed = {
        "dashboard", "models", "reports", "keys", "people", "usage", "reviews", "canary", "policy", "appeals",
    }  # fmt: skip
    features = {"canary" if one == "canaries" else one for one in features}
    assert set(views(page)) == {"chat", "compare"} | (needed & features)
    assert "audit" not in views(page)  # this server keeps none
