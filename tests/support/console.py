"""What tests of the console share: signing in, clicking, asking; whether a page fits, and what axe says of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

DONE = "document.querySelectorAll('.assistant .actions').length === {} && !document.body.classList.contains('busy')"
SAVED = "JSON.parse(sessionStorage.getItem('hanok.talk')).version === {}"
_READY = "!window.stale && document.body?.classList.contains('ready') && !!document.getElementById('input')"
_OVER = """[...document.querySelectorAll('#page, #bar, #view, #view *, dialog, dialog *')].filter((n) =>
  !n.closest('pre, .wide-table table, .code-editor') && n.getBoundingClientRect().right > innerWidth + 0.5)
  .map((n) => n.cloneNode().outerHTML.slice(0, 120))"""
_RULES = "['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice']"
_AXE = f"""axe.run(document, {{runOnly: {_RULES}, iframes: false}}).then((found) =>
  found.violations.map((one) => [one.id, one.help, one.nodes.map((node) => node.html.slice(0, 160))]))"""


def axe_source() -> str | None:
    """The checker's: `npm pack axe-core`, then HANOK_AXE=package/axe.min.js."""
    file = os.environ.get("HANOK_AXE", "")
    return Path(file).read_text(encoding="utf-8") if file and Path(file).is_file() else None


def check_fits(page: Any, what: str = "") -> None:
    """Nothing reaches beyond the right edge, every button has a name, and axe, where it is there, finds nothing."""
    assert page.js(_OVER) == [], what
    assert page.js(
        "[...document.querySelectorAll('button')].every((b) => (b.ariaLabel ?? '') + b.textContent.trim())"
    ), what
    source = axe_source()
    if source is not None:
        if page.js("typeof axe === 'undefined'"):
            page.js(source + ";1")
        found = page.js(_AXE)
        assert found == [], (what, found)


def check_quiet(page: Any, url: str, *, refused: bool = False) -> None:
    """No complaint in the console, no request to another address. Args: refused: a question was, which the browser notes."""
    complaints = [one for one in page.complaints() if "Blocked script" not in one]  # of a report that tries
    if refused:
        complaints = [one for one in complaints if "status of 4" not in one]
    assert complaints == []
    assert all(address.startswith((url, f"blob:{url}", "data:")) for address in page.requests())


def text(page: Any, selector: str) -> str:
    return page.js(f"document.querySelector({selector!r})?.textContent ?? ''")


def click(page: Any, selector: str) -> None:
    page.until(f"!!document.querySelector({selector!r})")
    page.js(f"document.querySelector({selector!r}).click(), 1")


def put(page: Any, selector: str, value: str) -> None:
    """As if it had been written there."""
    page.until(f"!!document.querySelector({selector!r})")
    told = f"Object.assign(document.querySelector({selector!r}), {{value: {value!r}}})"
    page.js(
        f"{told}.dispatchEvent(new Event('input', {{bubbles: true}})), "
        f"document.querySelector({selector!r}).dispatchEvent(new Event('change', {{bubbles: true}})), 1"
    )


def go(page: Any, view: str, ready: str) -> None:
    """Args: view: with what comes behind it in the address. ready: what is there then."""
    page.js(f"location.hash = '#/{view}', 1")
    name = view.partition("/")[0]
    page.until(f"document.querySelector('#views [data-view={name}]')?.ariaCurrent === 'page'")
    page.until(f"!!document.querySelector({ready!r})")


def views(page: Any) -> list[str]:
    return page.js("[...document.querySelectorAll('#views a')].map((n) => n.dataset.view)")


def sign_in(page: Any, name: str, password: str | None = None) -> None:
    page.until("document.activeElement.autocomplete === 'username'")
    page.write(name)
    page.tab()
    page.write(password or f"{name} opens the gate")
    page.js("window.stale = true, 1")
    page.enter()


def enter(server: Any, page: Any, name: str, **how: Any) -> None:
    page.call("Network.clearBrowserCookies")
    page.open(server.url, **how)
    sign_in(page, name)
    page.until(_READY)


def ask(page: Any, words: str, answers: int = 1) -> None:
    page.js("document.getElementById('input').focus(), 1")
    page.write(words)
    page.enter()
    page.until(DONE.format(answers))


def talk(page: Any) -> dict[str, Any]:
    return page.js("JSON.parse(sessionStorage.getItem('hanok.talk'))")


def reload(page: Any) -> None:
    page.js("window.stale = true, location.reload(), 1")
    page.until("!window.stale && document.body?.classList.contains('ready')")
