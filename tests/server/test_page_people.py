"""Signing in, and the views of administrators, in a real browser against a server that knows its people."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

AXE = """axe.run(document, {runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice']})
  .then((found) => found.violations.map((one) => [one.id, one.help, one.nodes.map((node) => node.html.slice(0, 160))]))"""
OVER = """[...document.querySelectorAll('#page, #bar, #view, #view *')].filter((n) => !n.closest('table') &&
  n.getBoundingClientRect().right > innerWidth + 0.5).map((n) => n.cloneNode().outerHTML.slice(0, 120))"""
VIEWS = {"keys": ".data", "people": ".data", "usage": ".tile", "models": ".data", "dashboard": ".tile"}


def text(page: Any, selector: str) -> str:
    return page.js(f"document.querySelector({selector!r})?.textContent ?? ''")


def sign_in(page: Any, name: str, password: str | None = None) -> None:
    page.until("document.activeElement.autocomplete === 'username'")
    page.write(name)
    page.tab()
    page.write(password or f"{name} opens the gate")
    page.js("window.stale = true, 1")
    page.enter()


def enter(guarded: Any, page: Any, name: str, **how: Any) -> None:
    page.call("Network.clearBrowserCookies")
    page.open(guarded.url, **how)
    sign_in(page, name)
    page.until(
        "!window.stale && document.body?.classList.contains('ready') && !!document.getElementById('input')"
    )


def go(page: Any, view: str) -> None:
    page.js(f"location.hash = '#/{view}', 1")
    page.until(f"document.querySelector('#views [data-view={view}]').ariaCurrent === 'page'")
    page.until(f"!!document.querySelector({VIEWS[view]!r})")


def click(page: Any, selector: str) -> None:
    page.until(f"!!document.querySelector({selector!r})")
    page.js(f"document.querySelector({selector!r}).click(), 1")


def test_who_has_not_signed_in_sees_the_door_alone(guarded: Any, page: Any) -> None:
    page.call("Network.clearBrowserCookies")
    page.open(guarded.url)
    assert text(page, ".login h2") == "Sign in"
    assert page.js("document.querySelectorAll('#views a, #new, #talks').length") == 0
    assert page.complaints() == []
    sign_in(page, "yuna", "wrong")
    page.until("!document.querySelector('.failure').hidden")
    assert text(page, ".failure") == "The name or the password is wrong."


def test_a_user_chats_and_sees_no_more_than_is_allowed(guarded: Any, page: Any) -> None:
    enter(guarded, page, "yuna")
    shown = page.js("[...document.querySelectorAll('#views a')].map((n) => n.dataset.view)")
    assert shown == ["chat", "compare", "reports", "usage"]
    assert text(page, ".me") == "yuna"
    page.js("import('/lib/state.js').then((m) => m.remember({max_tokens: 3}))")
    page.js("document.getElementById('input').focus(), 1")
    page.write("x")
    page.enter()
    page.until("document.querySelectorAll('.assistant .actions').length === 1")
    page.until("JSON.parse(sessionStorage.getItem('hanok.talk')).version === 1")
    click(page, ".up")
    page.until("document.querySelector('.up').ariaPressed === 'true'")
    identifier = page.js("JSON.parse(sessionStorage.getItem('hanok.talk')).id")
    assert (
        guarded.http.get(f"/console/conversations/{identifier}").status_code == 404
    )  # not even for the boss
    page.js("window.stale = true, document.getElementById('sign-out').click(), 1")
    page.until("!window.stale && !!document.querySelector('.login')")
    assert page.js("sessionStorage.getItem('hanok.talk')") is None


def test_a_key_is_shown_once_and_revoked(guarded: Any, page: Any) -> None:
    enter(guarded, page, "boss")
    go(page, "keys")
    click(page, "#bar .primary")
    page.until("document.activeElement.closest('dialog') !== null")
    page.js("document.querySelector('dialog input').focus(), 1")
    page.write("bot")
    page.js("document.querySelector('[name=requests_per_minute]').value = 7, 1")
    page.enter()
    page.until("document.querySelector('.secret input')?.value.startsWith('hk_')")
    secret = page.js("document.querySelector('.secret input').value")
    bearer = {"Authorization": f"Bearer {secret}", "cookie": ""}
    assert guarded.http.get("/v1/models", headers=bearer).status_code == 200
    click(page, "dialog .primary")
    page.until("document.querySelector('dialog') === null")
    assert "Requests a minute 7" in text(page, ".data tbody")
    assert secret not in page.js("document.documentElement.innerHTML")
    click(page, ".data .quiet")
    click(page, "dialog .danger")
    page.until("document.querySelector('.data tbody').textContent.includes('Revoked')")
    assert page.complaints() == []


def test_an_administrator_changes_roles_and_tenants(guarded: Any, page: Any) -> None:
    enter(guarded, page, "boss", language="ko")
    go(page, "people")
    page.until("document.querySelectorAll('.data tbody')[0].rows.length === 2")
    page.js("""(() => { const row = [...document.querySelector('.data tbody').rows].find((n) => n.textContent.includes('yuna'));
      const role = row.querySelector('select'); role.value = 'reviewer'; role.dispatchEvent(new Event('change')); })()""")
    wanted, end = {"boss": "administrator", "yuna": "reviewer"}, time.monotonic() + 10
    while (
        people := {one["name"]: one["role"] for one in guarded.http.get("/admin/users").json()["data"]}
    ) != wanted:
        assert time.monotonic() < end, people
        time.sleep(0.05)
    page.until("document.querySelectorAll('.data tbody')[0].rows.length === 2")
    click(page, "#view section > button")
    page.until("document.activeElement.closest('dialog') !== null")
    page.js("document.querySelector('dialog input').focus(), 1")
    page.write("acme")
    page.enter()
    page.until("document.querySelectorAll('.data')[1].textContent.includes('acme')")
    click(page, ".data [aria-label$='acme']")
    click(page, "dialog .danger")
    page.until("!document.querySelectorAll('.data')[1].textContent.includes('acme')")
    assert page.complaints() == []


@pytest.mark.parametrize(("language", "dark", "width"), [("ko", False, 390), ("en", True, 1280)])
def test_views_of_administrators_fit_and_complain_of_nothing(
    guarded: Any, page: Any, language: str, dark: bool, width: int
) -> None:
    axe = os.environ.get("HANOK_AXE", "")
    page.call("Network.clearBrowserCookies")
    page.open(guarded.url, language=language, dark=dark, size=(width, 844))
    if axe:
        page.js(Path(axe).read_text(encoding="utf-8") + ";1")
        assert page.js(AXE) == []
    sign_in(page, "boss")
    page.until(
        "!window.stale && document.body?.classList.contains('ready') && !!document.getElementById('input')"
    )
    if axe:
        page.js(Path(axe).read_text(encoding="utf-8") + ";1")
    for view in VIEWS:
        go(page, view)
        assert page.js(OVER) == [], view
        if axe:
            assert page.js(AXE) == [], view
    assert page.complaints() == []
    assert all(address.startswith(guarded.url) for address in page.requests())
