"""Texts without blanks flow, and nothing leaks in them: secrets and personal data cut at every place, one verdict streamed or
whole."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanok.guard.filter import OutputFilter, OutputRule
from hanok.guard.leaks import HiddenText
from hanok.guard.markup import Markup
from hanok.guard.personal import PersonalData
from hanok.guard.phrases import Phrases
from hanok.guard.secrets import Secrets
from hanok.guard.unseen import Unseen
from hanok.guard.verdicts import Finding

THAI = "ร้านน้ำชาเปิดทุกวันตั้งแต่เก้าโมงเช้าถึงห้าโมงเย็นและมีขนมหวานหลายอย่างให้เลือก"
CHINESE = "茶館每天早上九點開門下午五點關門並且提供許多種點心和茶葉給客人選擇"
KOREAN = "찻집은매일아침아홉시에열고저녁다섯시에닫으며여러가지다과와차를손님께내어드립니다"
CODED = "".join(random.Random(1).choices("abcdefghijkmnpqrtuvwxyzABCDEFGHIJLP", k=400))
CARRIERS = {
    "Thai": THAI * 9, "Chinese": CHINESE * 18, "Korean": KOREAN * 15, "punctuated": (CHINESE[:20] + "，") * 30,
    "one word": CODED[:300] + "/" + CODED[:300], "wide": "ＡＢＣ茶" * 150,
}  # fmt: skip
TOKEN = (
    "eyJ"
    + "hbGciOiJIUzI1NiJ9" * 60
    + ".eyJ"
    + "zdWIiOiIxMjM0NTY3ODkwIn0" * 40
    + "."
    + "dozjgNryP4J3jVmNHl0w5N_" * 10
)
SECRETS = {
    "aws": "AKIA" + "QWERTYUIOPASDF27", "github": "ghp_" + "a1B2c3D4e5F6g7H8i9J0" * 2,
    "google": "ya29." + "a1B2c3D4e5F6g7H8i9J0" * 24, "token of three parts": TOKEN, "openai": "sk-proj-" + "Ab1_" * 45,
    "pem": "-----BEGIN RSA PRIVATE KEY-----\n" + "MIIEowIBAAKCAQEA7bqq0Zk2b8mXw" * 20 + "\n-----END RSA PRIVATE KEY-----",
    "named": "비밀번호는Xk29vQ71bTz8Rw3Lm5Np", "password": "postgres://admin:s3cr3t비밀Pa55@db/shop",
}  # fmt: skip
CORES = {"pem": "MIIEowIBAAKCAQEA7bqq", "password": "s3cr3t비밀Pa55", "named": "Xk29vQ71bTz8Rw3Lm5Np"}
PERSONAL = {
    "mobile": "010-1234-5678", "spaced": "010 1234 5678", "resident": "900101-1234568", "card": "4111 1111 1111 1111",
    "e-mail": "hong.gildong@example.co.kr", "plus": "+82 10-1234-5678", "host": "hong@우리집찻집.한국",
}  # fmt: skip


def rules() -> list[OutputRule]:
    return [
        Secrets(),
        PersonalData(),
        HiddenText("a b c d e f g h i", canaries=["cx0123456789abcdef"]),
        Unseen(),
    ]


def run(parts: list[str], using: list[OutputRule] | None = None) -> tuple[str, list[Finding], int]:
    """What came out, what was found, and the most that was held back behind a push."""
    one, out, found, most = OutputFilter(using or rules()), "", list[Finding](), 0
    for part in parts:
        released = one.push(part)
        out, most = out + released.text, max(most, one.scanned - one.place)
        found += released.findings
    last = one.finish()
    return out + last.text, [*found, *last.findings], most


@pytest.mark.parametrize("carrier", CARRIERS)
def test_a_text_without_blanks_flows(carrier: str) -> None:
    text = CARRIERS[carrier]
    out, found, most = run(list(text))
    assert (out, found) == (text, [])
    assert most <= (330 if carrier == "one word" else 130)
    assert run([text])[:2] == (out, found)

    class Old(Secrets):
        open_within = property()  # type: ignore[assignment]

    if carrier in ("Thai", "one word"):  # the control: a rule that cannot say what has begun inside of a word
        assert run(list(text), [Old(), Unseen()])[2] >= 300


OTHERS = [pytest.param(name, marks=pytest.mark.slow) for name in ("Korean", "punctuated", "wide")]


@pytest.mark.parametrize("carrier", ["Thai", "Chinese", "one word", *OTHERS])
@pytest.mark.parametrize("kind", [*SECRETS, *PERSONAL])
def test_nothing_leaks_in_it_wherever_it_is_cut(kind: str, carrier: str) -> None:
    around, secret = CARRIERS[carrier], {**SECRETS, **PERSONAL}[kind]
    around, half = around[160:440], 140
    between = "/" if carrier == "one word" else ""
    text = f"{around[:half]}{between}{secret}{between}{around[half:]}"
    core = CORES.get(kind, secret)
    whole, found, _ = run([text])
    if (
        kind in PERSONAL and between
    ):  # a number behind a slash is none: what counts is that the verdict is one
        core = "\0"
    else:
        assert {one.rule for one in found} == {"personal-data" if kind in PERSONAL else "secrets"}
    assert core not in whole
    start = text.index(secret)
    step = max(1, len(secret) // 12)
    for place in [*range(start - 2, start + len(secret) + 3, step), start + len(secret) + 40]:
        assert run([text[:place], text[place:]])[:2] == (whole, found)
    one, out = OutputFilter(rules()), ""
    for letter in text:
        out += one.push(letter).text
        assert core[: max(6, len(core) // 2)] not in out
    assert out + one.finish().text == whole


def test_a_number_without_end_flows() -> None:
    text = "0123456789" * 200
    out, found, most = run(list(text))
    assert (out, found) == (text, [])
    assert most < 330


def test_what_is_hidden_is_held_back_in_the_middle_of_a_word_too() -> None:
    hidden = f"first second {'third' * 30} fourth fifth sixth seventh eighth ninth"
    said = f"so: {hidden} end"
    using: list[OutputRule] = [HiddenText(hidden), Unseen()]
    whole, found, _ = run([said], using)
    assert [one.rule for one in found] == ["hidden-text"]
    assert "third" not in whole
    for place in range(len(said)):
        assert run([said[:place], said[place:]], using)[:2] == (whole, found)
    other = f"first second {'word' * 100}"  # longer than anything hidden: no part of it
    assert run(list(other), using)[2] < 330
    spelt: list[OutputRule] = [HiddenText("", canaries=["cx0123456789abcdef"]), Unseen()]
    assert run([f"{THAI}cx0123456789abcdef{THAI}"], spelt)[1][0].reason == "canary"


def test_phrases_and_addresses_in_it() -> None:
    using: list[OutputRule] = [Phrases(("九點開門",), "ban", "redact"), Markup(finds=frozenset({"fetched"}))]
    text = f"{CHINESE}![圖](https://evil.example/{'a' * 90}){CHINESE * 3}"
    whole, found, _ = run([text], using)
    assert "九點開門" not in whole
    assert "evil.example" not in whole
    assert {one.rule for one in found} == {"ban", "markup"}
    for place in range(len(text)):
        assert run([text[:place], text[place:]], using)[:2] == (whole, found)


@given(st.lists(st.sampled_from([
    THAI, CHINESE, KOREAN, CODED[:90], "/", SECRETS["aws"], SECRETS["password"], SECRETS["github"], TOKEN[:300], "eyJ",
    "-----BEGIN", *PERSONAL.values(), "。", " ", "\u200b", "１２３", "://", "@",
]), max_size=10), st.integers(0, 2**32))  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_streamed_is_whole(parts: list[str], seed: int) -> None:
    text, draw = "".join(parts), random.Random(seed)
    places = sorted(draw.sample(range(len(text) + 1), k=min(len(text), 8)))
    cut = [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]
    assert run(cut)[:2] == run([text])[:2]


def found_in(text: str) -> Iterator[str]:
    return (text[one.start : one.end] for one in Secrets().find(text))


@pytest.mark.parametrize("letter", ["密", "는", "ร", "é", "か"])
def test_a_key_stands_right_behind_a_letter_of_another_script(letter: str) -> None:
    for kind in ("aws", "github", "openai"):
        assert list(found_in(f"{letter}{SECRETS[kind]}{letter}")) == [SECRETS[kind]]
    assert list(found_in(f"x{SECRETS['aws'][1:]}")) == []  # the control: no beginning that tells


GLUED = {
    "aws": "AKIAQWERTYUIOPASDF27", "github": "ghp_a1B2c3D4e5F6g7H8i9J0a1B2c3D4e5F6g7H8", "google": f"AIza{'a1B2c' * 7}",
    "gitlab": "glpat-xK3vQ9tLm2Zr8Yw4Hc7B", "openai": "sk-proj-T3BlbkFJ7wQ9xZ2mN4vR8sK1pL6yH5",
    "stripe": "sk_live_4eC39HqLyjWDarjtT1zdp7dc",
    "npm": "npm_h3RkQ8vL2mX7pZ5tW9yB4nC6sD1fG0jKaE8u", "telegram": "123456789:AAH3xKv9Qt2Lm8Zr4Yw7Hc1Bn5Df6Gs0Jp2",
    "twilio": "SK" + "0f1e2d3c4b5a69788796a5b4c3d2e1f0", "hanok": "hk_a1b2c3d4e5_" + "xK3vQ9tLm2Zr8Yw4Hc7BnD5fGs0Jp1Ra",
    "token": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U",
    "long token": TOKEN[:900] + ".eyJ" + "zdWIiOiIxMjM0NTY3ODkwIn0" * 4 + ".dozjgNryP4J3jVmNHl0w5N_",
}  # fmt: skip


@pytest.mark.parametrize("kind", GLUED)
@pytest.mark.parametrize("before", ["password", "MY_TOKEN_"])
def test_a_key_stands_right_behind_ascii_letters(kind: str, before: str) -> None:
    """At every place where the stream may be cut, and letter by letter."""
    secret = GLUED[kind]
    text = f"This is the {before}{secret} of the house."
    assert next(found_in(text)) == secret
    whole, found, _ = run([text])
    assert whole == f"This is the {before}[SECRET] of the house."
    for place in range(0, len(text), max(1, len(text) // 60)):
        assert run([text[:place], text[place:]])[:2] == (whole, found)
    one, out = OutputFilter(rules()), ""
    for letter in text:
        out += one.push(letter).text
        assert secret[: max(8, len(secret) // 2)] not in out
    assert out + one.finish().text == whole


@pytest.mark.parametrize(
    "words",
    [
        "CZECHOSLOVAKIANINDEPENDENCEDAY", "task-oriented-dialogue-systems-2024",
        "risk-Adjusted-Return-on-Capital-In-2024-Q3",
        "disk_test_integration_suite_42", "self_hf_getAllTheLayersOfThisModelByName",
        "run_npm_installAllOfThePackagesInThisFolder1",
        "desk-reservation-form-version-12-final", "mask-550e8400-e29b-41d4-a716-446655440000", "SUCCESS.0.1.2",
        "getGlpat-configuration-for-runner", "https://example.com/flask-sqlalchemy-2.5.1/docs",
        "taskTg123:About the Author",
    ],
)  # fmt: skip
def test_words_that_end_as_keys_begin_are_none(words: str) -> None:
    assert list(found_in(f"see {words} there")) == []


def test_a_key_within_another_is_told_once() -> None:
    assert list(found_in(f"xoxb-12-{GLUED['aws']}")) == [f"xoxb-12-{GLUED['aws']}"]
    assert list(found_in("xAKIAKIAQWERTYUIOPASDF27")) == [GLUED["aws"]]  # begun twice
