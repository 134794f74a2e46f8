"""The chat in a real browser: asked, stopped, edited, judged, kept, by keyboard where a keyboard would be used."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from console import DONE, SAVED, ask, click, reload, talk, text
from slow_engine import slow_down

GREETING = "안녕하세요, 한옥이에요. 🏡"


def test_a_conversation_by_keyboard_with_opinions(taught: Any, page: Any) -> None:
    page.open(taught.url)
    page.until("document.activeElement.id === 'input'")
    page.write("hi")
    page.enter()
    page.until(DONE.format(1))
    assert text(page, ".assistant .bubble") == GREETING
    assert text(page, ".user .bubble") == "hi"
    assert page.js("document.activeElement.id") == "input"

    page.js("document.querySelector('.up').focus(), 1")
    page.key(" ", code=32, text=" ")
    page.until("document.querySelector('.up').ariaPressed === 'true'")
    page.until("document.activeElement.className === 'up'")
    page.tab()
    page.tab()
    assert page.js("document.activeElement.className") == "correct"
    page.enter()
    page.until("document.activeElement.name === 'correction'")
    page.key("Escape", code=27)
    assert page.js(
        "document.querySelector('.editor') === null && document.activeElement.className === 'correct'"
    )
    page.enter()
    page.until("document.activeElement.name === 'correction'")
    page.write("어서 오세요.")  # over the selected answer
    page.tab()
    page.write("too stiff")
    page.enter(modifiers=2)  # Ctrl
    page.until("document.querySelector('.correction')?.textContent.endsWith('어서 오세요.')")
    assert text(page, ".note") == "Your correction is saved"

    identifier = talk(page)["messages"][1]["request_id"]
    judged = [row for row in taught.store.read_feedback() if row.request_id == identifier]
    assert [(row.rating, row.correction, row.reason) for row in judged] == [
        (1, None, None), (-1, "어서 오세요.", "too stiff"),
    ]  # fmt: skip
    assert judged[0].messages[-1]["content"] == GREETING

    reload(page)
    assert text(page, ".correction").endswith("어서 오세요.")
    click(page, "#new")
    page.until(
        "document.querySelectorAll('.turn').length === 0 && !document.getElementById('welcome').hidden"
    )
    assert page.complaints() == []
    assert all(address.startswith(taught.url) for address in page.requests())


def test_a_thumb_down_asks_why(taught: Any, page: Any) -> None:
    page.open(taught.url)
    ask(page, "hi")
    click(page, ".down")
    page.until("document.activeElement.name === 'reason'")
    page.write("wrong place")
    page.enter()
    page.until(
        "document.querySelector('.editor') === null && document.querySelector('.down').ariaPressed === 'true'"
    )
    identifier = talk(page)["messages"][1]["request_id"]
    judged = [row for row in taught.store.read_feedback() if row.request_id == identifier]
    assert [(row.rating, row.correction, row.reason) for row in judged] == [
        (-1, None, None),
        (-1, None, "wrong place"),
    ]


def test_words_are_never_markup(taught: Any, page: Any) -> None:
    page.open(taught.url)
    ask(page, "tag")
    assert text(page, ".assistant .bubble") == "<img src=x onerror=window.hacked=1><b>굵게</b>"
    ask(page, "<img src=x onerror=window.hacked=1>", 2)
    assert page.js(
        "document.querySelectorAll('#log img, #log b').length === 0 && window.hacked === undefined"
    )


def test_escape_stops_the_answer_and_frees_the_engine(
    server: Any, page: Any, request: pytest.FixtureRequest
) -> None:
    request.addfinalizer(slow_down(server.engine, 0.01))
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
    assert page.js("!!document.querySelector('.continue')")


def test_errors_are_told_and_can_be_tried_again(server: Any, page: Any) -> None:
    page.open(server.url)
    page.write("x" * 3000)
    page.enter()
    page.until("!!document.querySelector('.failed')")
    assert "too long" in text(page, ".failed .bubble")
    assert "2048 tokens" in text(page, ".failed .bubble")
    click(page, ".failed .retry")
    page.until("document.querySelector('.branches')?.textContent === '2/2'")
    page.until("!!document.querySelector('.failed') && !document.body.classList.contains('busy')")
    kept = server.http.get(f"/console/conversations/{talk(page)['id']}").json()
    assert [message["role"] for message in kept["messages"]] == ["user"]  # failures are not worth keeping


def test_an_edited_question_and_a_second_answer_are_branches(taught: Any, page: Any) -> None:
    page.open(taught.url)
    ask(page, "hi")
    click(page, ".again")
    page.until("document.querySelector('.assistant .branches')?.textContent === '2/2'")
    page.until(DONE.format(1))
    click(page, ".user .edit")
    page.js("document.querySelector('.editor textarea').select(), 1")
    page.write("tag")
    page.enter(modifiers=2)
    page.until("document.querySelector('.user .branches')?.textContent === '2/2'")
    page.until(DONE.format(1))
    assert "<b>굵게</b>" in text(page, ".assistant .bubble")
    click(page, ".user .branches button")
    page.until(f"document.querySelector('.assistant .bubble').textContent === {GREETING!r}")
    assert text(page, ".assistant .branches") == "2/2"
    page.until("document.activeElement.closest('.branches') !== null")
    click(page, ".assistant .branches button")
    page.until("document.querySelector('.assistant .branches').textContent === '1/2'")
    assert len(talk(page)["messages"]) == 5
    reload(page)
    assert text(page, ".assistant .branches") == "1/2"


def test_a_saved_conversation_is_found_renamed_opened_and_deleted(taught: Any, page: Any) -> None:
    page.open(taught.url)
    ask(page, "hi")
    page.until(SAVED.format(1))
    identifier = talk(page)["id"]
    row = f'#talks [data-id="{identifier}"]'
    page.until(f"!!document.querySelector('{row}')")
    click(page, "#new")
    page.until("document.querySelectorAll('.turn').length === 0")

    page.js("document.getElementById('search').focus(), 1")
    page.write("한옥이에요")
    page.until(f"!!document.querySelector('{row}')")
    page.write("없는말")
    page.until("document.querySelector('#talks').textContent === 'Nothing found'")
    page.js("document.getElementById('search').select(), 1")
    page.write("hi")
    click(page, f"{row} .quiet")
    click(page, "dialog .choices button")
    page.until("document.activeElement.tagName === 'INPUT' && !!document.activeElement.closest('dialog')")
    page.js("document.activeElement.select(), 1")
    page.write("hi, 새 이름")
    page.enter()
    page.until(f"document.querySelector('{row} .talk-title')?.textContent === 'hi, 새 이름'")

    click(page, f"{row} a")
    page.until(f"document.querySelector('.assistant .bubble')?.textContent === {GREETING!r}")
    assert text(page, "h1.title") == "hi, 새 이름"
    assert page.js(f"document.querySelector('{row} a').ariaCurrent") == "page"
    click(page, f"{row} .quiet")
    click(page, "dialog .danger-text")
    click(page, "dialog .danger")
    page.until(f"!document.querySelector('{row}') && document.querySelectorAll('.turn').length === 0")
    assert taught.http.get(f"/console/conversations/{identifier}").status_code == 404
    assert page.complaints() == []


def test_a_conversation_changed_elsewhere_is_not_overwritten_unasked(taught: Any, page: Any) -> None:
    page.open(taught.url)
    ask(page, "hi")
    page.until(SAVED.format(1))
    path = f"/console/conversations/{talk(page)['id']}"
    theirs = taught.http.get(path).json()
    taught.http.put(path, json={**theirs, "title": "theirs"})
    ask(page, "tag", 2)
    page.until("!document.getElementById('notice').hidden")
    assert taught.http.get(path).json()["title"] == "theirs"
    click(page, "#notice button")
    page.until(SAVED.format(3))
    assert len(taught.http.get(path).json()["messages"]) == 4


def test_a_private_conversation_stays_in_the_browser(taught: Any, page: Any) -> None:
    page.open(taught.url)
    time.sleep(0.5)  # the page before this one may have been saving
    before = taught.http.get("/console/conversations?limit=200").json()["data"]
    click(page, "#switch-private")
    ask(page, "hi")
    assert page.js("document.querySelector('.up').disabled")  # nothing is kept that an opinion could refer to
    reload(page)
    assert text(page, ".assistant .bubble") == GREETING
    assert taught.http.get("/console/conversations?limit=200").json()["data"] == before


def test_presets_keep_the_system_prompt_and_how_to_draw(taught: Any, page: Any) -> None:
    page.open(taught.url)
    click(page, "#settings-button")
    page.until("document.activeElement.closest('#settings') !== null")
    page.js("document.getElementById('system').focus(), 1")
    page.write("Be brief.")
    click(page, "[name=mode][value=own]")
    page.until("!!document.querySelector('.slider')")
    click(page, ".with-buttons button")
    page.until("!!document.querySelector('dialog input')")
    page.write("Short")
    page.enter()
    page.until("document.getElementById('preset')?.selectedOptions[0].textContent === 'Short'")
    kept = taught.http.get("/console/presets?q=short").json()["data"][0]["id"]
    preset = taught.http.get(f"/console/presets/{kept}").json()
    assert (preset["system"], preset["mode"], preset["temperature"]) == ("Be brief.", "own", 0.8)
    click(page, "[name=mode][value=precise]")
    short = "[...document.getElementById('preset').options].findIndex((one) => one.textContent === 'Short')"
    page.until(f"{short} > 0")  # there may be others
    page.js(f"document.getElementById('preset').selectedIndex = {short}")
    page.js("document.getElementById('preset').dispatchEvent(new Event('change')), 1")
    page.until("document.querySelector('#settings-button span').textContent === 'My own'")
    taught.http.delete(f"/console/presets/{kept}")


def test_tokens_show_their_probability_and_what_else_was_likely(learned: Any, page: Any) -> None:
    page.open(learned.url)
    click(page, "#settings-button")
    click(page, "[name=mode][value=model]")  # there are decoding heads
    page.until("!!document.querySelector('.slider')")
    for place, event, value in ((0, "input", 2), (1, "change", 6)):  # of the temperatures; tokens
        page.js(f"{{ const n = document.querySelectorAll('#settings input[type=number]')[{place}]; n.value = {value}; n.dispatchEvent(new Event('{event}')); }} 1")  # fmt: skip # noqa: E501
    click(page, "#switch-tokens")
    page.js(
        "const plain = fetch; window.sent = []; window.fetch = (to, given) => (sent.push(given?.body), plain(to, given)); 1"
    )
    ask(page, "x")
    page.until("document.querySelectorAll('.tokens .token').length >= 6")
    # until: tokens are drawn anew when the answer ends
    page.until(
        "(document.querySelector('.tokens .token').focus(), !document.getElementById('token-card').hidden)"
    )
    assert page.js("document.querySelectorAll('#token-card li').length") >= 5
    assert "The model chose temperature" in text(page, "#token-card")
    (body,) = [
        json.loads(body) for body in page.js("sent") if body and "messages" in body and "stream" in body
    ]
    assert (body["temperature_scale"], body["max_tokens"]) == (2, 6)
    assert not {"temperature", "top_p"} & set(body)
    page.key("ArrowRight", code=39)
    assert page.js("[...document.querySelectorAll('.tokens .token')].indexOf(document.activeElement)") == 1
    click(page, ".token-button")
    page.until("document.querySelector('.tokens') === null")
    assert page.complaints() == []


def test_the_dial_is_for_models_with_heads_alone(learned: Any, page: Any) -> None:
    page.open(learned.url)
    name = learned.http.get("/v1/models").json()["data"][0]["id"]
    drawn = page.js(
        "import('/lib/state.js').then(({ server, sampling }) => {"
        "  server.models.push({ id: 'plain', decoding_heads: false });"
        "  const settings = { mode: 'model', temperature_scale: 2, seed: null };"
        f"  return [{json.dumps(name)}, 'plain'].map((one) => sampling(settings, one)); }})"
    )
    assert drawn == [{"temperature_scale": 2}, {}]


def test_a_call_of_a_tool_is_shown_and_its_result_goes_back(
    taught: Any, page: Any, errand_tools: Any
) -> None:
    page.open(taught.url)
    page.js(f"import('/lib/state.js').then((m) => m.remember({{tools: JSON.stringify({errand_tools})}}))")
    page.js("document.getElementById('input').focus(), 1")
    page.write("open?")
    page.enter()
    page.until("!!document.querySelector('.call')")
    assert text(page, ".call-name") == "hours"
    assert '"place": "찻집"' in text(page, ".call pre")
    page.js("document.querySelector('.result textarea').focus(), 1")
    page.write("9-17")
    click(page, ".result button")
    page.until("[...document.querySelectorAll('.assistant .bubble')].at(-1).textContent === 'It opens at 9.'")
