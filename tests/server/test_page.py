"""The chat page: its files, and its life in a real browser where one is installed."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hanok.server.app import WEB
from hanok.server.examples import example_questions

_spec = importlib.util.spec_from_file_location("server_browser", Path(__file__).with_name("browser.py"))
assert _spec is not None
assert _spec.loader is not None
browser = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(browser)

GREETING = "안녕하세요, 한옥이에요. 🏡"


@pytest.mark.parametrize("file", sorted(WEB.iterdir()), ids=lambda file: file.name)
def test_files_name_no_other_machine_and_write_no_markup(file: Path) -> None:
    text = file.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?:|//[a-z]+\.|@import|url\(", text)
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", text
    )
    assert not re.search(r"<script>|\son[a-z]+=|javascript:", text)


def test_the_page_may_run_its_own_files_alone(taught: Any) -> None:
    response = taught.http.get("/")
    assert response.status_code == 200
    assert response.headers["Content-Security-Policy"].startswith("default-src 'self';")
    assert "frame-ancestors 'none'" in response.headers["Content-Security-Policy"]
    assert response.headers["X-Content-Type-Options"] == "nosniff"


def test_examples_come_from_the_village_of_the_run(tmp_path: Path) -> None:
    def row(kind: str, type_: str, text: str, **changes: Any) -> dict[str, Any]:
        usual = {
            "kind": kind, "type": type_, "language": "en", "seen_template": True, "pair": "trained", "tools": None,
            "messages": [{"role": "user", "content": text}],
        }  # fmt: skip
        return usual | changes

    rows = [
        row("fact", "open", "When does it open?"),
        row("fact", "open", "Opens when?"),
        row("fact", "price", "How much?"),
        row("fact", "year", "Since when?", seen_template=False),
        row("comparison", "place", "Which is older?"),
        row("arithmetic", "number", "1+1?", pair=None),
        row("arithmetic", "number", "1+1?" * 30, pair=None),
        row("tool", "number", "Use the calculator.", tools=[{}]),
        row("fact", "open", "언제 열어요?", language="ko"),
    ]
    (tmp_path / "run" / "village").mkdir(parents=True)
    (tmp_path / "run" / "run.json").write_text("{}")
    file = tmp_path / "run" / "village" / "questions.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    found = example_questions(tmp_path / "run" / "model")
    assert found == {"ko": ["언제 열어요?"], "en": ["Opens when?", "Which is older?", "1+1?", "How much?"]}
    assert example_questions(tmp_path / "elsewhere" / "model") == {}


# ---- in a browser ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def page() -> Iterator[Any]:
    command = browser.find_browser()
    if command is None:
        pytest.skip(f"no browser here: none of {', '.join(browser.NAMES)}")
    with contextlib.ExitStack() as stack:
        try:
            opened = stack.enter_context(browser.open_browser(command))
        except (AssertionError, OSError) as error:
            pytest.skip(f"{command} does not start ({error})")
        yield opened


DONE = "document.querySelectorAll('.assistant .actions').length === {} && !document.body.classList.contains('busy')"


def text(page: Any, selector: str) -> str:
    return page.js(f"document.querySelector({selector!r})?.textContent ?? ''")


def test_the_language_is_the_browsers_until_switched(taught: Any, page: Any) -> None:
    page.open(taught.url, language="ko-KR")
    page.until("document.querySelector('.examples button')?.textContent === '서점은 언제 여나요?'")
    assert text(page, "#welcome h2") == "무엇이든 물어보세요"
    assert page.js("document.documentElement.lang") == "ko"
    page.js("document.getElementById('language').click()")
    assert text(page, "#welcome h2") == "Ask me anything"
    assert text(page, ".examples button") == "When does the bookshop open?"
    page.js("window.stale = true, location.reload(), 1")
    page.until(
        "!window.stale && document.readyState === 'complete' && document.documentElement.lang === 'en'"
    )

    page.open(taught.url, language="fr")
    assert text(page, "#welcome h2") == "Ask me anything"
    words = page.js(
        "import('/strings.js').then((m) => Object.values(m.STRINGS).map((s) => Object.keys(s).sort()))"
    )
    assert words[0] == words[1]
    assert page.js("[...document.querySelectorAll('button')].every((b) => (b.ariaLabel ?? '') + b.innerText)")


def test_light_and_dark(taught: Any, page: Any) -> None:
    paper = "getComputedStyle(document.body).backgroundColor"
    page.open(taught.url)
    light = page.js(paper)
    page.open(taught.url, dark=True)
    dark = page.js(paper)
    assert light != dark
    page.js("document.getElementById('theme').click()")
    assert page.js(paper) == light
    page.js("window.stale = true, location.reload(), 1")
    page.until(f"!window.stale && document.readyState === 'complete' && {paper} === {light!r}")


def test_a_conversation_by_keyboard_with_opinions(taught: Any, page: Any) -> None:
    page.open(taught.url)
    page.until("document.activeElement.id === 'input' && !document.getElementById('model').hidden")
    page.write("hi")
    page.enter()
    page.until(DONE.format(1))
    assert text(page, ".assistant .bubble") == GREETING
    assert text(page, ".user .bubble") == "hi"
    assert page.js("document.activeElement.id") == "input"

    page.js("document.querySelector('.up').focus(), 1")
    page.key(" ", code=32, text=" ")
    page.until("document.querySelector('.up').ariaPressed === 'true'")
    assert page.js("document.activeElement.className") == "up"
    page.tab()
    page.tab()
    assert page.js("document.activeElement.className") == "correct"
    page.enter()
    page.until("document.activeElement.tagName === 'TEXTAREA' && document.activeElement.id !== 'input'")
    page.key("Escape", code=27)
    assert page.js(
        "document.querySelector('.editor') === null && document.activeElement.className === 'correct'"
    )
    page.enter()
    page.write("어서 오세요.")  # over the selected answer
    page.enter(modifiers=2)  # Ctrl
    page.until("document.querySelector('.correction')?.textContent === '어서 오세요.'")
    assert text(page, ".note") == "Your correction is saved"

    identifier = page.js("JSON.parse(sessionStorage.getItem('hanok.turns'))[1].id")
    judged = [row for row in taught.store.read_feedback() if row.request_id == identifier]
    assert [(row.rating, row.correction) for row in judged] == [(1, None), (-1, "어서 오세요.")]
    assert judged[0].messages[-1]["content"] == GREETING

    page.js("window.stale = true, location.reload(), 1")
    page.until("!window.stale && document.readyState === 'complete'")
    page.until("document.querySelector('.correction')?.textContent === '어서 오세요.'")
    page.js("document.getElementById('new').click()")
    assert page.js(
        "document.querySelectorAll('.turn').length === 0 && !document.getElementById('welcome').hidden"
    )
    assert page.complaints() == []
    assert all(address.startswith(taught.url) for address in page.requests())


def test_words_are_never_markup(taught: Any, page: Any) -> None:
    page.open(taught.url)
    page.write("tag")
    page.enter()
    page.until(DONE.format(1))
    assert text(page, ".assistant .bubble") == "<img src=x onerror=window.hacked=1><b>굵게</b>"
    page.write("<img src=x onerror=window.hacked=1>")
    page.enter()
    page.until(DONE.format(2))
    assert page.js(
        "document.querySelectorAll('#log img, #log b').length === 0 && window.hacked === undefined"
    )


def test_escape_stops_the_answer_and_frees_the_engine(
    server: Any, page: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = server.engine._scheduler.step
    monkeypatch.setattr(server.engine._scheduler, "step", lambda: (time.sleep(0.01), step()))
    page.open(server.url)
    page.write("x")  # this random model would say 1,000 things
    page.enter()
    page.until("document.querySelector('.assistant .bubble')?.textContent.length > 5")
    assert page.js("!document.getElementById('stop').hidden && document.getElementById('send').hidden")
    page.key("Escape", code=27)
    page.until("document.querySelector('.note')?.textContent === 'Stopped'", seconds=3)
    end = time.monotonic() + 3
    while server.engine._scheduler.has_work() and time.monotonic() < end:
        time.sleep(0.02)
    assert not server.engine._scheduler.has_work()
    assert page.js("document.querySelector('.up').disabled")  # the server keeps whole answers alone


def test_errors_are_told_and_can_be_tried_again(server: Any, page: Any) -> None:
    page.open(server.url)
    page.write("x" * 3000)
    page.enter()
    page.until("!!document.querySelector('.failed')")
    assert "too long" in text(page, ".failed .bubble")
    assert "2048 tokens" in text(page, ".failed .bubble")
    page.js("document.querySelector('.failed button').click()")
    page.until("!!document.querySelector('.failed') && !document.body.classList.contains('busy')")


@pytest.mark.parametrize("language", ["ko", "en"])
def test_nothing_sticks_out_on_a_telephone(taught: Any, page: Any, language: str) -> None:
    fits = (
        "[...document.querySelectorAll('body, header, main, footer, .turn, .editor, #welcome')]"
        ".every((n) => n.scrollWidth <= 390 && n.getBoundingClientRect().right <= 390)"
    )
    page.open(taught.url, language=language, size=(390, 844))
    assert page.js(fits)
    page.js("document.getElementById('input').focus(), 1")
    page.write("hi")
    page.enter()
    page.until(DONE.format(1))
    page.js("document.querySelector('.correct').click()")
    assert page.js(f"!!document.querySelector('.editor') && {fits}")
