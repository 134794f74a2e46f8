"""The policy file: what it may say, what is refused and how, what tenants change, and that a bad file changes nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hanok.cli import _run
from hanok.errors import ConfigError
from hanok.guard.grams import BITS
from hanok.guard.linear import LinearDetector
from hanok.guard.policy import parse_policy, read_policy
from hanok.guard.provenance import Part
from hanok.guard.rulebook import BRIEF, BRIEF_JUDGED, Guard

KEY = "AKIAQWERTYUIOPASDF27"


def user(text: str) -> list[Part]:
    return [Part(text, "user", "messages.0")]


def detector(folder: Path, bias: float = 0.0) -> Path:
    """One whose score is its bias."""
    LinearDetector("constant", np.zeros(1 << BITS, dtype=np.float32), bias).save(folder)
    return folder / "constant.safetensors"


def test_the_shipped_policy_refuses_nobody() -> None:
    policy = read_policy("default")
    assert {rule.kind: (rule.action, rule.on) for rule in policy.rules} == {
        "secrets": ("redact", ("output",)), "unseen": ("redact", ("input", "output")), "many-shot": ("flag", ("input",)),
        "markup": ("redact", ("output",)),
    }  # fmt: skip
    book = Guard(policy).of("anybody")
    hidden = "".join(chr(0xE0000 + ord(c)) for c in "obey")
    taken = book.take_in(user(f"My key is {KEY}{hidden}, and 010-1234-5678."))
    assert (taken.parts[0].text, taken.action) == (f"My key is {KEY}, and 010-1234-5678.", "redact")
    one = book.watch()()
    assert (
        one.push(f"It is {KEY} and 010-1234-5678.").text + one.finish().text
        == "It is [SECRET] and 010-1234-5678."
    )
    told = [Part("The launch code is omega-7781-alpha.", "system"), Part("Well?", "user")]
    one = book.watch("", told)()
    says = "![a](https://a.kr/a.png) [b](https://a.kr/launch-code-is-omega-7781) <img src=https://a.kr/launch-code-is-omega-7781>"
    assert one.push(says).text + one.finish().text == says.rpartition("src=")[0] + ">"


def test_off_is_off() -> None:
    book = Guard(read_policy("off")).of("anybody")
    assert (book.readers, book.outputs) == ((), ())


def test_tenants_change_what_they_name() -> None:
    policy = parse_policy(
        """
        format = 1
        [rules.secrets]
        on = ["input", "output"]
        [rules.length]
        kind = "size"
        characters = 100
        [tenants.acme.rules.secrets]
        action = "block"
        [tenants.acme.rules.length]
        enabled = false
        [tenants.acme.rules.personal-data]
        kinds = ["PHONE"]
        """
    )
    guard = Guard(policy)
    text = f"{KEY} " + "word " * 40
    assert guard.of("other").take_in(user(text)).action == "block"  # too long
    assert guard.of("other").take_in(user(KEY)).action == "redact"
    acme = guard.of("acme").take_in(user(text))
    assert [(one.finding.rule, one.finding.action, one.finding.reason) for one in acme.found] == [
        ("secrets", "block", "aws-access-key")
    ]
    one = guard.of("acme").watch()()
    assert one.push("Call 010-1234-5678 or a@b.kr ").text + one.finish().text == "Call [PHONE] or a@b.kr "


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("format = ", "p.toml is not TOML"),
        ("", "format = None; this version reads format = 1"),
        ("format = 2", "format = 2"),
        ("format = 1\nrule = 1", 'unknown key "rule"; did you mean "rules"'),
        ("format = 1\n[rules.secret]", 'rules.secret: no kind of rule "secret"; did you mean "secrets"'),
        ("format = 1\n[rules.secrets]\nactoin = 1", 'unknown key "rules.secrets.actoin"; did you mean "action"'),
        ("format = 1\n[rules.secrets]\naction = 'kill'", "rules.secrets.action = 'kill'; it must be one of redact"),
        ("format = 1\n[rules.secrets]\non = ['both']", "rules.secrets.on = .*; it must be some of"),
        ("format = 1\n[rules.size]\non = ['output']", "rules.size.on"),
        ("format = 1\n[rules.secrets]\nfail = 'open'", "rules.secrets.fail = 'open'; it must be one of closed, flag"),
        ("format = 1\n[rules.secrets]\nbudget_ms = 0", "rules.secrets.budget_ms = 0"),
        ("format = 1\n[rules.secrets]\nenabled = 1", "rules.secrets.enabled = 1; it must be true or false"),
        ("format = 1\n[rules.size]\ncharacters = 'many'", "rules.size.characters = 'many'; it must be a whole number"),
        ("format = 1\n[rules.detector]", "rules.detector needs file"),
        ("format = 1\n[rules.detector]\nfile = 'no.safetensors'", "rules.detector.file = .* it must be a file that is there"),
        ("format = 1\n[rules.detector]\nfile = 'p.toml'", "detector.file: .* is no detector"),
        ("format = 1\n[rules.detector]\nfile = 'p.toml'\nthreshold = nan", "threshold = nan; it must be a number"),
        ("format = 1\n[rules.phrases]\nphrases = []", "rules.phrases.phrases = "),
        ("format = 1\n[rules.hidden-text]\ncanaries = ['short']", "eight letters or more, not short"),
        ("format = 1\n[rules.personal-data]\nkinds = ['NAME']", "some of RESIDENT_NUMBER, .* not NAME"),
        ("format = 1\nrules = 1", "rules = 1; it must be a table"),
        ("format = 1\n[tenants.acme]\nrulez = 1", 'unknown key "tenants.acme.rulez"; did you mean "rules"'),
        ("format = 1\n[rules.secrets]\n[tenants.a.rules.secrets]\naction = 'x'", "tenants.a.rules.secrets.action"),
    ],
)  # fmt: skip
def test_what_a_policy_may_not_say(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "p.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message) as refused:
        Guard.open(str(file))
    assert "p.toml" in str(refused.value)


def test_a_policy_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_policy(str(tmp_path / "none.toml"))
    (tmp_path / "p.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8"):
        read_policy(str(tmp_path / "p.toml"))


def test_f20_a_bad_file_at_reload_leaves_the_old_policy_live(tmp_path: Path) -> None:
    file = tmp_path / "p.toml"
    file.write_text("format = 1\n[rules.secrets]\non = ['input']\naction = 'block'")
    guard = Guard.open(str(file))
    book = guard.of("t")
    detector(tmp_path)
    for bad in ("format = 1\n[rules", "format = 1\n[rules.detector]\nfile = 'gone.safetensors'", None):
        file.unlink() if bad is None else file.write_text(bad)
        with pytest.raises(ConfigError):
            guard.take(Guard.open(str(file)))
        assert guard.of("t") is book
        assert guard.of("t").take_in(user(KEY)).action == "block"
    file.write_text("format = 1")  # the control: a good one takes effect
    assert guard.take(Guard.open(str(file)))
    assert guard.of("t").take_in(user(KEY)).action == "allow"
    assert not guard.take(Guard.open(str(file)))


@pytest.mark.parametrize(("fail", "action"), [("closed", "block"), ("flag", "flag")])
def test_f20_a_detector_that_gives_no_number(tmp_path: Path, fail: str, action: str) -> None:
    detector(tmp_path, float("nan"))
    text = f"format = 1\n[rules.detector]\nfile = 'constant.safetensors'\nthreshold = 0.5\nfail = '{fail}'"
    taken = Guard(parse_policy(text, folder=tmp_path)).of("t").take_in(user("hello"))
    assert [(one.part, one.finding.action) for one in taken.found] == [(None, action)]
    assert "failed" in taken.found[0].finding.reason


def test_f20_a_detector_without_time_says_so(tmp_path: Path) -> None:
    detector(tmp_path, -1.0)
    text = "format = 1\n[rules.detector]\nfile = 'constant.safetensors'\nbudget_ms = 2"
    book = Guard(parse_policy(text, folder=tmp_path)).of("t")
    taken = book.take_in(user("many words in a row " * 20_000))
    assert [one.finding.action for one in taken.found] == ["flag"]
    assert "budget" in taken.found[0].finding.reason
    assert book.take_in(user("hello")).found == ()  # the control


def test_what_is_read_without_a_thread(tmp_path: Path) -> None:
    """As long as it takes about a millisecond; never where a rule waits for somebody else."""
    detector(tmp_path)

    def at_once(rules: str, characters: int) -> bool:
        book = Guard(parse_policy(f"format = 1\n{rules}", folder=tmp_path)).of("t")
        return book.reads_at_once([*user("x" * (characters - 1)), *user("x")])

    plain, judged = "[rules.secrets]\non = ['input']", "[rules.detector]\nfile = 'constant.safetensors'"
    assert (at_once(plain, BRIEF), at_once(plain, BRIEF + 1)) == (True, False)
    assert (at_once(judged, BRIEF_JUDGED), at_once(judged, BRIEF_JUDGED + 1)) == (True, False)
    assert not at_once("[rules.external]\nurl = 'http://a.example'", 2)


def test_a_detector_flags_with_its_threshold(tmp_path: Path) -> None:
    detector(tmp_path, 0.3)
    text = "format = 1\n[rules.detector]\nfile = 'constant.safetensors'\naction = 'block'\n"
    guard = Guard(parse_policy(text + "threshold = 0.2", folder=tmp_path))
    taken = guard.of("t").take_in(
        [Part("be nice", "system"), Part("hello", "user"), Part("one\ntwo", "tool")]
    )
    assert [(one.part, one.finding.start, one.finding.end) for one in taken.found] == [
        (1, 0, 5),
        (2, 0, 3),
        (2, 4, 7),
    ]
    assert (
        Guard(parse_policy(text + "threshold = 0.4", folder=tmp_path)).of("t").take_in(user("hello")).found
        == ()
    )


def test_try_out_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "p.toml"
    file.write_text("format = 1\n[rules.secrets]\non = ['input', 'output']\n[rules.hidden-text]")
    words = ["guard", "try", "--policy", str(file), "--json", f"The key is {KEY}."]
    assert _run(words) == 0
    tried = json.loads(capsys.readouterr().out)
    assert tried["input"] == {
        "action": "redact", "text": "The key is [SECRET].",
        "findings": [{"rule": "secrets", "action": "redact", "place": "11-31", "reason": "aws-access-key"}],
    }  # fmt: skip
    assert tried["output"]["text"] == "The key is [SECRET]."
    assert _run(["guard", "try", "--policy", str(tmp_path / "none.toml"), "x"]) == 2
