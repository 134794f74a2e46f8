"""Signing in, and the views of administrators, in a real browser against a server that knows its people."""

from __future__ import annotations

import time
from typing import Any

import pytest
from console import check_fits, check_quiet, click, enter, go, sign_in, text, views

VIEWS = {"keys": ".data", "people": ".data", "usage": ".tile", "models": ".data", "dashboard": ".tile"}


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
    assert views(page) == ["chat", "compare", "reports", "appeals", "usage"]
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
    go(page, "keys", ".data")
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
    go(page, "people", ".data")
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
    page.call("Network.clearBrowserCookies")
    page.open(guarded.url, language=language, dark=dark, size=(width, 844))
    check_fits(page, "login")
    enter(guarded, page, "boss", language=language, dark=dark, size=(width, 844))
    for view, ready in VIEWS.items():
        go(page, view, ready)
        check_fits(page, view)
    check_quiet(page, guarded.url)
