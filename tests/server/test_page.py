"""The console's files, and every page of it in a real browser: both languages, both themes, a telephone, axe."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from console import DONE, check_fits, check_quiet, text

from hanok.server.app import WEB
from hanok.server.examples import example_questions

FILES = sorted(file for file in WEB.rglob("*") if file.is_file())


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(WEB)))
def test_files_name_no_other_machine_and_write_no_markup(file: Path) -> None:
    text = file.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?:|//[a-z]+\.|@import|url\(", text)
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|DOMParser|setHTML",
        text,
    )
    assert not re.search(r"<script>|\son[a-z]+=|javascript:", text)
    assert len(text.splitlines()) <= 450


def test_every_module_that_is_imported_is_there() -> None:
    for file in FILES:
        for name in re.findall(r'from "(/[^"]+)"|import\("(/[^"]+)"\)', file.read_text(encoding="utf-8")):
            assert (WEB / "".join(name)[1:]).is_file(), (file, name)


def test_words_of_both_languages_are_all_used() -> None:
    code = "\n".join(file.read_text(encoding="utf-8") for file in FILES if "strings" not in str(file))
    prefixes = re.findall(r"`([a-z_]+_)\$\{", code)
    suffixes = re.findall(r"`\$\{[a-z]+\}(_[a-z]+)`", code)
    used_by_data = {"key", "tenant", "model"}  # names of columns
    keys = re.findall(
        r"(?:^|[ ,{])([a-z_0-9]+): \"",
        "\n".join(file.read_text(encoding="utf-8") for file in (WEB / "strings").glob("*en.js")),
    )
    made = (*tuple(prefixes), *used_by_data)
    unused = [
        key for key in keys
        if f'"{key}"' not in code and not key.startswith(made) and not key.endswith(tuple(suffixes))
    ]  # fmt: skip
    assert unused == []


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


def test_the_language_is_the_browsers_until_switched(taught: Any, page: Any) -> None:
    page.open(taught.url, language="ko-KR")
    page.until("document.querySelector('.examples button')?.textContent === '서점은 언제 여나요?'")
    assert text(page, "#welcome h2") == "무엇이든 물어보세요"
    assert page.js("document.documentElement.lang") == "ko"
    page.js("document.getElementById('language').click()")
    page.until("document.querySelector('#welcome h2').textContent === 'Ask me anything'")
    assert text(page, ".examples button") == "When does the bookshop open?"
    page.js("window.stale = true, location.reload(), 1")
    page.until("!window.stale && document.body?.classList.contains('ready')")
    assert page.js("document.documentElement.lang") == "en"

    page.open(taught.url, language="fr")
    assert text(page, "#welcome h2") == "Ask me anything"
    words = page.js(
        "import('/strings.js').then((m) => Object.values(m.STRINGS).map((s) => Object.keys(s).sort()))"
    )
    assert words[0] == words[1]


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


def test_the_menu_of_a_telephone_is_a_drawer(taught: Any, page: Any) -> None:
    page.open(taught.url, size=(390, 844))
    assert page.js("document.getElementById('side').inert")
    page.js("document.getElementById('menu-button').click()")
    assert page.js("!document.getElementById('side').inert && document.getElementById('page').inert")
    assert page.js("document.activeElement.closest('#side') !== null")
    page.key("Escape", code=27)
    assert page.js("document.getElementById('side').inert && document.activeElement.id === 'menu-button'")


STATES = {
    "welcome": "1",
    "answer": "document.querySelector('.examples button').click(), 1",
    "settings": "document.getElementById('settings-button').click(), 1",
    "editor": "document.querySelector('.correct').click(), 1",
}
READY = {
    "welcome": "true",
    "answer": DONE.format(1),
    "settings": "!!document.getElementById('system')",
    "editor": "!!document.querySelector('.editor')",
}


@pytest.mark.parametrize(("language", "dark"), [("ko", False), ("en", True)])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_chat_fits_and_complains_of_nothing(
    taught: Any, page: Any, language: str, dark: bool, width: int
) -> None:
    page.open(taught.url, language=language, dark=dark, size=(width, 844))
    for state, step in STATES.items():
        page.js(step)
        page.until(READY[state])
        check_fits(page, state)
    check_quiet(page, taught.url)
