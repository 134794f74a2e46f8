"""The output filter: nothing leaks at any cut, streamed and whole answers get one verdict, honest text comes through at once."""

from __future__ import annotations

import base64
import codecs
import random
import time
from collections.abc import Iterable, Iterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanok.guard.filter import LONGEST, Kept, OutputFilter, OutputRule
from hanok.guard.leaks import HiddenText, new_canary
from hanok.guard.personal import PersonalData
from hanok.guard.secrets import Secrets
from hanok.guard.unseen import Unseen
from hanok.guard.verdicts import Finding, Verdict

HIDDEN = "You are the assistant of Solbit Tea House. Never mention the discount code of the owner to any guest who asks."
SECRETS = {
    "aws": "AKIA" + "QWERTYUIOPASDF27", "github": "ghp_" + "a1B2c3D4e5F6g7H8i9J0" * 2, "openai": "sk-proj-" + "Ab1_" * 8,
    "jwt": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U",
    "pem": "-----BEGIN RSA PRIVATE KEY-----\nMIIEowIBAAKCAQEA7bq\nq0Zk2b8mXw==\n-----END RSA PRIVATE KEY-----",
    "url": "postgres://admin:s3cr3tPa55@db.example/shop",
}  # fmt: skip
PERSONAL = {
    "mobile": "010-1234-5678", "spaced": "010 1234 5678", "resident": "900101-1234568", "card": "4111 1111 1111 1111",
    "e-mail": "hong.gildong@example.co.kr", "plus": "+82 10-1234-5678",
}  # fmt: skip


def rules(hidden: str = HIDDEN, canary: str | None = None) -> list[OutputRule]:
    return [Secrets(), PersonalData(), HiddenText(hidden, canaries=[canary] if canary else []), Unseen()]


def run(parts: Iterable[str], using: Sequence[OutputRule | Kept] | None = None) -> tuple[str, Verdict, bool]:
    one = OutputFilter(rules() if using is None else using)
    released = [one.push(part) for part in parts] + [one.finish()]
    assert one.released == sum(len(part.text) for part in released)
    verdict = Verdict(tuple(finding for part in released for finding in part.findings))
    return "".join(part.text for part in released), verdict, released[-1].blocked


def cut(text: str, seed: int) -> list[str]:
    rng = random.Random(seed)
    places = sorted(rng.sample(range(len(text) + 1), k=min(len(text), rng.randint(0, 12))))
    return [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]


@pytest.mark.parametrize("kind", SECRETS)
@pytest.mark.parametrize(
    "frame", ["The key is {}, keep it.", "키는 {}입니다. 잘 보관하세요.", "{}", "a\n{}\nb"]
)
def test_no_secret_leaks_wherever_the_stream_is_cut(kind: str, frame: str) -> None:
    secret = SECRETS[kind]
    text = frame.format(secret)
    whole, verdict, _ = run([text])
    core = {"pem": "MIIEowIBAAKCAQEA7bq", "url": "s3cr3tPa55"}.get(kind, secret)
    assert core not in whole
    assert verdict.action == "redact"
    for place in range(len(text) + 1):
        assert run([text[:place], text[place:]])[0] == whole
    letters, one = [], OutputFilter(rules())
    for letter in text:
        letters.append(one.push(letter).text)
        assert not any(core[:n] in "".join(letters) for n in range(max(8, len(core) // 2), len(core)))
    assert "".join(letters) + one.finish().text == whole


@pytest.mark.parametrize("kind", PERSONAL)
@pytest.mark.parametrize(
    "frame",
    ["Call {} today, please.", "연락처는 {}이고 내일도 됩니다.", "{}", "담당자({})에게 전달해 주세요"],
)
def test_no_personal_data_leaks_wherever_the_stream_is_cut(kind: str, frame: str) -> None:
    text = frame.format(PERSONAL[kind])
    whole, verdict, _ = run([text])
    assert PERSONAL[kind] not in whole
    assert {finding.rule for finding in verdict.findings} == {"personal-data"}
    for place in range(len(text) + 1):
        assert run([text[:place], text[place:]]) == (whole, verdict, False)
    assert run(text)[0] == whole


def test_a_number_is_what_the_words_behind_it_say() -> None:
    text = "110-123-456789 (신한은행 계좌)로 보내 주세요."
    assert "110-123-456789" not in run([text])[0]
    assert run(text)[0] == run([text])[0]


@pytest.mark.parametrize("form", ["plain", "reversed", "spaced", "base64", "rot13"])
def test_a_canary_ends_the_answer_before_it_is_out(form: str) -> None:
    canary = new_canary()
    shown = {
        "plain": canary, "reversed": canary[::-1], "spaced": " ".join(canary),
        "base64": base64.b64encode(f"it is {canary}!".encode()).decode(),
        "rot13": codecs.encode(canary, "rot13"),
    }[form]  # fmt: skip
    text = f"Of course. The word is {shown} and there is more to say."
    whole, verdict, blocked = run([text], rules(canary=canary))
    assert blocked
    assert verdict.action == "block"
    assert shown[:8] not in whole
    assert "more" not in whole
    for place in range(0, len(text) + 1, 3):
        assert run([text[:place], text[place:]], rules(canary=canary))[0] == whole


def test_hidden_words_stop_before_they_are_out() -> None:
    text = f"Sure! My orders say: {HIDDEN} That is all."
    whole, _, blocked = run([text])
    assert blocked
    assert whole == "Sure! My orders say: You "  # one word alone gives nothing away
    assert run(text)[0] == whole
    assert run(["You are the assistant of a bakery. Ask any guest who asks for the code."])[0].endswith(
        "code."
    )


@given(st.lists(st.sampled_from([
    *SECRETS.values(), *PERSONAL.values(), "word", "한국어", " ", "\n", ", ", "123", "-----BEGIN",
    "the discount code of the owner", "😀", "漢字", "@", "\u200b",
]), max_size=14), st.integers(0, 2**32))  # fmt: skip
@settings(max_examples=120, deadline=None)
def test_streamed_is_whole(parts: list[str], seed: int) -> None:
    text = "".join(parts)
    assert run(cut(text, seed)) == run([text])


@given(st.text(max_size=300), st.integers(0, 2**32))
@settings(max_examples=80, deadline=None)
def test_streamed_is_whole_for_any_text(text: str, seed: int) -> None:
    assert run(cut(text, seed)) == run([text])


def test_honest_text_comes_through_word_by_word() -> None:
    text = "The tea house opens at 9. 찻집은 아홉 시에 열고 다섯 시에 닫아요. See https://example.com/menu for 12 kinds."
    one, longest = OutputFilter(rules()), 0
    out = ""
    for letter in text:
        out += one.push(letter).text
        longest = max(longest, one.scanned - len(out))
    assert out + one.finish().text == text
    assert longest < 64


def test_findings_say_where_in_the_answer() -> None:
    text = "x" * 700 + " 메일은 hong@example.com 입니다. " + "y " * 300 + "010-9876-5432 끝"
    _, verdict, _ = run(text)
    assert [text[one.start : one.end] for one in verdict.findings] == ["hong@example.com", "010-9876-5432"]


def test_unseen_characters_do_not_go_out() -> None:
    hidden = "".join(chr(0xE0000 + ord(c)) for c in "send it")
    family, england = "👨\u200d👩\u200d👧", "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f"
    text = f"Hello{hidden} there {family}\u202e! {england} 한국어 नमस्ते क्\u200dष \u3164."
    assert run([text])[0] == f"Hello there {family}! {england} 한국어 नमस्ते क्\u200dष ."
    assert run(text) == run([text])


@pytest.mark.parametrize("between", ["\u200b", "\u2060", "\u00ad", "\U000e0061", "\u202e", "\u3164"])
def test_unseen_characters_hide_no_secret(between: str) -> None:
    secret = SECRETS["aws"]
    text = f"The key is {between.join(secret)} and more."
    whole, verdict, _ = run([text])
    assert whole == "The key is [SECRET] and more."
    assert "secrets" in {one.rule for one in verdict.findings}
    assert run(text) == run([text])


class Broken(Secrets):
    def find(self, text: str) -> Iterator[Finding]:
        if "boom" in text:
            raise ValueError("no")
        yield from super().find(text)


class Slow(Secrets):
    def find(self, text: str) -> Iterator[Finding]:
        end = time.thread_time() + (0.05 if "boom" in text else 0)
        while time.thread_time() < end:
            pass
        yield from super().find(text)


@pytest.mark.parametrize("rule", [Broken(), Slow()])
def test_a_rule_that_fails_ends_the_answer_or_is_out_with_a_word(rule: Secrets) -> None:
    text = f"fine so far boom {SECRETS['aws']} and more"
    for cut_at in (0, 12, 15, len(text)):
        parts = [text[:cut_at], text[cut_at:]]
        closed = run(parts, [Kept(rule, "closed", 0.01)])
        assert (closed[0], closed[2], closed[1].action) == ("fine so far ", True, "block")
        opened = run(parts, [Kept(rule, "flag", 0.01), Unseen()])
        assert (opened[0], opened[2], opened[1].action) == (text, False, "flag")
        assert len(opened[1].findings) == 1


def test_a_word_without_end_is_let_go_in_bounds() -> None:
    one = OutputFilter(rules())
    out = "".join(one.push("a" * 1000).text for _ in range(60))
    assert len(out) > 60_000 - 2 * LONGEST
    assert run(["a" * 60_000]) == run(["a" * 999 for _ in range(60)] + ["a" * 60])


def test_without_the_hold_it_would_leak() -> None:
    """The control: rules that never hold back let the first half of a spaced number out."""

    class Hasty(PersonalData):
        def open_from(self, text: str) -> int:
            return len(text)

    assert "010" in run("Call 010 1234 5678 today", [Hasty()])[0]
    assert "010" not in run("Call 010 1234 5678 today", [PersonalData()])[0]


def test_verdicts_take_the_strictest() -> None:
    assert Verdict().action == "allow"
    found = tuple(Finding("r", 0, 1, action) for action in ("flag", "block", "redact"))
    assert Verdict(found).action == "block"


@pytest.mark.parametrize(
    "text",
    ["password: your_password_here", "the token is required for login", "commit 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b",
     "sk-learn is a library",
     "UUID 123e4567-e89b-12d3-a456-426614174000", "비밀번호는 여덟 글자 이상이어야 합니다",
     "api_key = os.environ['API_KEY']", "secret: xxxxxxxxxxxx"],
)  # fmt: skip
def test_what_is_no_secret(text: str) -> None:
    assert list(Secrets().find(text)) == []
