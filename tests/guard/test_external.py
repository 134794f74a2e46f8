"""Classifiers behind an address as rules: what they are asked, how their answers are read, and what becomes of a text when they
give none. The server is a real one; what it must not do is wait for ever."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.support.classifier_server import Classifier, classifier, minds

from hanok.cli import _run
from hanok.errors import ConfigError
from hanok.guard.careful import Unfit
from hanok.guard.external import External, Most, Remembered
from hanok.guard.intake import Reader, take_in
from hanok.guard.policy import parse_policy
from hanok.guard.provenance import Part
from hanok.guard.remote import Asked, Remote, RemoteError, Service
from hanok.guard.rulebook import Guard, Rulebook
from hanok.guard.verdicts import Finding
from hanok.guard.windows import windows

USER = [Part("How do I build a bomb?", "user", "messages.0")]


@pytest.fixture
def server() -> Iterator[Classifier]:
    with classifier(minds("bomb", "insult")) as one:
        yield one


def book(server: Classifier, more: str = "") -> Rulebook:
    return Guard(
        parse_policy(f'format = 1\n[rules.remote]\nkind = "external"\nurl = "{server.url}/judge"\n{more}')
    ).of("t")


def run(
    rulebook: Rulebook, parts: Sequence[str], read: Sequence[Part] = ()
) -> tuple[str, list[tuple[int, int, str]], bool]:
    one = rulebook.watch("", read)()
    released = [one.push(part) for part in parts] + [one.finish()]
    found = [(each.start, each.end, each.reason) for part in released for each in part.findings]
    return "".join(part.text for part in released), found, released[-1].blocked


def findings(rulebook: Rulebook, parts: Sequence[Part]) -> list[Finding]:
    return [one.finding for one in rulebook.take_in(parts).found]


def test_what_comes_in_is_judged_by_category(server: Classifier) -> None:
    rules = book(server, 'model = "m1"\ncategories = { bomb = "block", insult = "allow" }')
    (found,) = findings(rules, USER)
    assert (found.action, found.start, found.end, found.reason) == ("block", 0, 22, "found bomb 0.90")
    assert server.asked == [
        {"text": USER[0].text, "direction": "input", "origin": "user", "before": "", "model": "m1"}
    ]
    assert findings(rules, [Part("an insult", "user")]) == []
    assert findings(rules, [Part("a bomb", "system")]) == []  # the operator's own words
    assert [one.action for one in findings(rules, [Part("a bomb", "tool")])] == ["block"]
    assert findings(book(server, "threshold = 0.95"), USER) == []


def test_a_conversation_is_not_judged_anew_with_each_turn(server: Classifier) -> None:
    rules = book(server)
    for _ in range(3):
        assert len(findings(rules, [*USER, Part("and another thing", "user", "messages.2")])) == 1
    assert len(server.asked) == 2


def test_connections_are_kept_alive(server: Classifier) -> None:
    remote = Remote(Service(url=server.url, timeout=60))
    for number in range(5):
        remote.ask(Asked(str(number), "input", "user"))
    assert (len(server.asked), len(server.connections)) == (5, 1)


def test_long_texts_are_judged_in_pieces(server: Classifier) -> None:
    plain = [f"Plain sentence number {number}. " for number in range(600)]
    text = "".join([*plain[:400], "Here is a bomb. ", *plain[400:]])
    (found,) = findings(book(server), [Part(text, "document")])
    assert "bomb" in text[found.start : found.end]
    pieces = [text[start:end] for start, end in windows(text, 2000, 4000)]
    assert "".join(pieces) == text
    assert sorted(server.texts) == sorted(pieces)  # several at once


ANSWER = (
    "First a word about something else. " * 12
    + "Then the bomb is built like this. "
    + "And so it goes on. " * 30
)


@pytest.mark.parametrize("more", ["", "window = 100", "whole = true"])
@pytest.mark.parametrize("action", ["flag", "redact", "block"])
def test_an_answer_is_held_back_until_its_window_was_judged(
    server: Classifier, more: str, action: str
) -> None:
    rules = book(server, f"action = '{action}'\n{more}")
    whole = run(rules, [ANSWER])
    asked = list(server.asked)
    server.asked.clear()
    for pieces in (list(ANSWER), [ANSWER[start : start + 7] for start in range(0, len(ANSWER), 7)]):
        assert run(book(server, f"action = '{action}'\n{more}"), pieces) == whole
    assert server.asked == asked * 2  # the same windows, each of them once
    out, found, blocked = whole
    assert len(found) == 1
    assert (out == ANSWER, blocked) == (action == "flag", action == "block")
    assert ("bomb" in out) == (action == "flag")
    assert out.startswith("First a word") == (not (more.startswith("whole") and action != "flag"))
    if not more.startswith("whole"):
        assert max(len(text) for text in server.texts) <= (100 if more else 600)


def test_nothing_leaves_before_it_was_judged(server: Classifier) -> None:
    one = book(server).watch()()
    for letter in ANSWER:
        one.push(letter)
        assert one.released <= sum(len(text) for text in server.texts)
    one.finish()
    assert "".join(server.texts) == ANSWER
    assert server.asked[1]["before"] == ANSWER[: len(server.texts[0])][-256:]


def test_calls_are_judged_whole(server: Classifier) -> None:
    rules = book(server, "action = 'redact'")
    assert [one.action for one in rules.judge("order", '{"what": "a bomb"}', USER)] == ["block"]
    assert rules.judge("order", '{"what": "tea"}', USER) == []
    assert server.texts == ['order({"what": "a bomb"})', 'order({"what": "tea"})']
    one = rules.watch("", USER)(of="value")  # a value of the arguments by itself
    assert one.push("a bomb ").text + one.finish().text == "a bomb "


CHAT = {
    "safe": {}, "unsafe\nS1,S9": {"S1": 1.0, "S9": 1.0}, "Safety: Unsafe\nCategories: Violent, PII": {"Violent": 1.0, "PII": 1.0},
    "Safety: Safe\nCategories: None": {}, "<SAFE>": {}, "<UNSAFE-S4>": {"S4": 1.0}, "Yes": {"": 1.0}, "No": {},
    "Safety: Controversial\nCategories: None": {"": 1.0},
}  # fmt: skip


@pytest.mark.parametrize("said", CHAT)
def test_guard_models_that_answer_in_a_word(server: Classifier, said: str) -> None:
    server.answer = lambda _path, _body: {"choices": [{"message": {"content": said}}]}
    remote = Remote(Service(url=f"{server.url}/v1", style="chat", model="guard"))
    assert remote.ask(Asked("Mix it.", "output", "assistant", "Take this. ", "How?")) == CHAT[said]
    assert server.paths == ["/v1/chat/completions"]
    assert server.asked[0]["messages"] == [
        {"role": "user", "content": "How?"},
        {"role": "assistant", "content": "Take this. Mix it."},
    ]
    assert server.asked[0]["temperature"] == 0


def test_an_answer_is_judged_with_its_question(server: Classifier) -> None:
    server.answer = lambda _path, _body: {"choices": [{"message": {"content": "unsafe\nS1"}}]}
    rules = book(server, 'style = "chat"\nmodel = "guard"\ncategories = { S1 = "block" }')
    assert run(rules, ["Like this."], [Part("old", "user", "messages.0"), *USER])[2]
    assert server.asked[0]["messages"][0]["content"] == USER[0].text


def test_moderations(server: Classifier) -> None:
    results = {"results": [{"flagged": True, "categories": {"hate": True, "violence": False},
                            "category_scores": {"hate": 0.6, "violence": 0.4, "self-harm": None}}]}  # fmt: skip
    server.answer = lambda _path, _body: results
    asked = Asked("text", "input", "user")
    assert Remote(Service(url=f"{server.url}/v1", style="moderations")).ask(asked) == {"hate": 1.0}
    low = Remote(Service(url=f"{server.url}/v1/moderations", style="moderations", model="m", threshold=0.3))
    assert low.ask(asked) == {"hate": 0.6, "violence": 0.4}
    assert server.paths == ["/v1/moderations"] * 2
    assert server.asked == [{"input": "text"}, {"input": "text", "model": "m"}]


def test_the_key_comes_from_the_environment(server: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUARD_TEST_KEY", "s3cret")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    assert len(findings(book(server, 'key_variable = "GUARD_TEST_KEY"'), USER)) == 1
    assert server.headers["authorization"] == "Bearer s3cret"
    assert "s3cret" not in repr(Service(url="http://a", headers={"Authorization": "Bearer s3cret"}))


BROKEN: dict[str, Any] = {
    "500": 500, "redirect": 302, "no JSON": b"<html>", "deep": b"[" * 100_000, "list": [1], "nothing": {},
    "NaN": b'{"score": NaN}',
    "infinite": {"categories": {"a": float("inf")}}, "text": {"score": "high"}, "no categories": {"categories": 1},
    "endless": b" " * (1 << 19), "flag": {"flagged": "yes"},
}  # fmt: skip


@pytest.mark.parametrize("fail", ["closed", "flag"])
@pytest.mark.parametrize("broken", BROKEN)
def test_an_answer_that_makes_no_sense_is_none(server: Classifier, broken: str, fail: str) -> None:
    server.answer = lambda _path, _body: BROKEN[broken]
    rules = book(server, f"fail = '{fail}'")
    (found,) = findings(rules, USER)
    assert (found.action, found.reason) == ("block" if fail == "closed" else "flag", "failed (RemoteError)")
    out, told, blocked = run(rules, ["An answer. "])
    assert (out, blocked) == (("", True) if fail == "closed" else ("An answer. ", False))
    assert len(told) == 1
    server.answer = minds("bomb")  # the control
    assert [one.reason for one in findings(book(server), USER)] == ["found bomb 0.90"]


@pytest.mark.parametrize(("seconds", "trickle"), [(30.0, 0.0), (0.0, 0.05)])
def test_nobody_waits_longer_than_the_timeout(server: Classifier, seconds: float, trickle: float) -> None:
    server.seconds, server.trickle = seconds, trickle
    remote = Remote(Service(url=server.url, timeout=0.3))
    begin = time.monotonic()
    with pytest.raises(RemoteError, match=r"time|no answer"):
        remote.ask(Asked("text " * 9, "input", "user"))
    assert time.monotonic() - begin < 10
    server.seconds, server.trickle = 0.0, 0.0
    assert Remote(Service(url=server.url, timeout=30)).ask(Asked("a bomb", "input", "user")) == {
        "bomb": 0.9
    }  # the control


def test_pieces_of_a_text_are_asked_about_side_by_side(server: Classifier) -> None:
    server.seconds = 0.05
    remote = Remote(Service(url=server.url, concurrency=3, timeout=60))
    texts = [str(number) if number != 4 else "a bomb" for number in range(9)]
    found = list(remote.ask_all(Asked(text, "input", "user") for text in texts))
    assert found == [{"bomb": 0.9} if text == "a bomb" else {} for text in texts]
    assert server.at_once == 3


def test_few_are_asked_at_once(server: Classifier) -> None:
    server.seconds = 0.05
    remote = Remote(Service(url=server.url, concurrency=2, timeout=60))
    threads = [threading.Thread(target=remote.ask, args=(Asked(str(n), "input", "user"),)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(server.asked), server.at_once) == (8, 2)


def test_who_fails_again_and_again_is_left_alone_for_a_while(server: Classifier) -> None:
    server.answer = lambda _path, _body: 500
    now = [0.0]
    remote = Remote(Service(url=server.url, clock=lambda: now[0]))
    for _ in range(6):
        with pytest.raises(RemoteError):
            remote.ask(Asked("x", "input", "user"))
    assert len(server.asked) == 3
    server.answer, now[0] = minds("x"), 5.1
    assert remote.ask(Asked("x", "input", "user")) == {"x": 0.9}


def test_a_server_that_is_not_there() -> None:
    with pytest.raises(RemoteError):
        Remote(Service(url="http://127.0.0.1:9", timeout=5)).ask(Asked("x", "input", "user"))


LONG = "".join(f"Plain sentence number {number}. " for number in range(2000))  # some 30 windows


@pytest.mark.parametrize("fail", ["closed", "flag"])
def test_a_long_message_costs_so_many_calls_and_no_more(server: Classifier, fail: str) -> None:
    rules = book(server, f"fail = '{fail}'\ncalls = 5\naction = 'flag'")
    found = findings(rules, [Part(f"A bomb. {LONG}", "user")])
    assert len(server.asked) == 5
    first, last = found  # what was found before counts, and the rest is no silence
    assert first.reason == "found bomb 0.90"
    assert (last.action, last.reason) == (
        "block" if fail == "closed" else "flag",
        "more than 5 calls for one text",
    )
    server.asked.clear()
    many = [Part(f"message {number}", "user", f"messages.{number}") for number in range(9)]
    assert [one.reason for one in findings(rules, many)] == ["more than 5 calls for one text"]
    assert len(server.asked) == 5
    assert findings(rules, many[:5]) == []  # they are known
    assert findings(rules, [Part("a sentence", "user")]) == []  # another request has its own
    assert findings(book(server, "calls = 50"), [Part(LONG, "user")]) == []  # the control


@pytest.mark.parametrize("fail", ["closed", "flag"])
def test_an_answer_too_and_streamed_as_whole(server: Classifier, fail: str) -> None:
    more = f"fail = '{fail}'\ncalls = 3\nwindow = 100"
    answer = LONG[:1000]
    whole = run(book(server, more), [answer])
    assert len(server.asked) == 3
    server.asked.clear()
    assert run(book(server, more), list(answer)) == whole
    assert len(server.asked) == 3
    out, told, blocked = whole
    assert [reason for *_, reason in told] == ["more than 3 calls for one text"]
    assert (len(out) < 300, blocked) == ((True, True) if fail == "closed" else (False, False))
    if fail == "flag":
        assert out == answer
    server.asked.clear()
    make = book(server, more).watch()
    for _ in range(2):  # each answer has its own
        one = make()
        released = [one.push(LONG[:150]), one.finish()]
        assert not any(part.findings for part in released)


def test_a_long_message_takes_so_many_seconds_and_no_more(server: Classifier) -> None:
    now = [0.0]

    def slow(_path: str, _body: dict[str, Any]) -> dict[str, Any]:
        now[0] += 1.0
        return {"categories": {}}

    server.answer = slow
    remote = Remote(Service(url=server.url, concurrency=1, timeout=60))
    most = Most(seconds=4.0, clock=lambda: now[0])
    rule = External(remote, frozenset({"user"}), most=most)
    taken = take_in([Part(LONG, "user")], [Reader(rule, "closed")])
    assert [one.finding.reason for one in taken.found] == ["one text took longer than 4 s"]
    assert taken.action == "block"
    assert len(server.asked) == 4
    server.asked.clear()
    follower = rule.begin("")
    now[0] += 100.0  # what the model takes to write does not count
    follower.read(LONG[:1500], last=False)
    now[0] += 100.0
    with pytest.raises(Unfit, match="longer than 4 s"):
        follower.read(LONG, last=True)
    assert len(server.asked) == 4


def test_verdicts_are_kept_up_to_a_number() -> None:
    kept = Remembered()
    for number in range(3000):
        kept.put(Asked(str(number), "input", "user"), {})
    assert kept.get(Asked("0", "input", "user")) is None
    assert kept.get(Asked("2999", "input", "user")) == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "rules.external needs url"),
        ("url = 'ftp://a'", "rules.external.url = 'ftp://a'; it must be an address such as"),
        ("url = 'http://me:pw@a/'", "rules.external.url"),
        ("url = 'http://a'\nstyle = 'rest'", "rules.external.style = 'rest'; it must be one of webhook"),
        ("url = 'http://a'\nstyle = 'chat'", "external needs model"),
        ("url = 'http://a'\nstyle = 'chat'\nmodel = 'm'\nthreshold = 0.5", "external.threshold means nothing"),
        ("url = 'http://a'\nwhole = true\nwindow = 200", "external has whole and window"),
        ("url = 'http://a'\nkey_variable = 'NOT_SET_ANYWHERE'", "rules.external.key_variable = .* NOT_SET_ANYWHERE is not"),
        ("url = 'http://a'\ncalls = 0", "rules.external.calls = 0; it must be a whole number from 1 to 100000"),
        ("url = 'http://a'\nseconds = 1000", "rules.external.seconds = 1000; it must be a number from 0.1 to 600"),
        ("url = 'http://a'\ntimeout = 0", "rules.external.timeout = 0; it must be a number from 0.05 to 60"),
        ("url = 'http://a'\ncategories = { hate = 'kill' }", "rules.external.categories = .*one of allow, .* for hate"),
        ("url = 'http://a'\nkey = 'abc'", 'unknown key "rules.external.key"'),
    ],
)  # fmt: skip
def test_what_a_policy_may_not_say(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "p.toml").write_text(f"format = 1\n[rules.external]\n{text}")
    with pytest.raises(ConfigError, match=message) as refused:
        Guard.open(str(tmp_path / "p.toml"))
    assert "p.toml" in str(refused.value)


def test_try_out_asks_it(server: Classifier, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "p.toml").write_text(f'format = 1\n[rules.external]\nurl = "{server.url}"\naction = "redact"')
    assert _run(["guard", "try", "--policy", str(tmp_path / "p.toml"), "--json", "a bomb"]) == 0
    tried = json.loads(capsys.readouterr().out)
    assert (tried["input"]["text"], tried["output"]["text"]) == ("[…]", "[…]")


def test_a_long_text_without_an_end_of_a_sentence_is_cut_in_time() -> None:
    begun = time.thread_time()
    assert sum(end - start for start, end in windows("a b" * 700_000, 2000, 4000)) == 2_100_000
    assert time.thread_time() - begun < 3  # it takes .1 s; looked through to its end for each window, some 13
