"""F21: texts made to keep a guard busy. Every rule reads 100 KiB of each in at most 50 ms of processor time, or is stopped there
and its fail mode decides; the control is a rule whose pattern backtracks and which nobody stops."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from hanok.guard.filter import Kept, OutputFilter
from hanok.guard.grams import BITS
from hanok.guard.harm import Harm, HarmClassifier
from hanok.guard.intake import Reader, Scan, take_in
from hanok.guard.linear import LinearDetector
from hanok.guard.policy import parse_policy
from hanok.guard.provenance import ORIGINS, Part
from hanok.guard.rulebook import Context, Guard, Rulebook
from hanok.guard.verdicts import Finding

SIZE = 100 << 10
UNITS = [
    "a", ".", "a.", "A", "1", "1 ", "1-", "1.", "-", "_", "sk-", "eyJa.eyJ", "://", "a://b:", "-----BEGIN ",
    "-----BEGIN PRIVATE KEY-----", "-----BEGIN PRIVATE KEY-----\n-----END ", "token ", "token=", "password is ", "비밀번호는 ",
    "@", "a@", "a@b.", "a.b@c-d.", "010-", "010-1234-", "9001011", "900101-1", "4111 ", "A1A1A ", "AB12 ABCD ", ":", ":::", "한",
    "한 ", "ㅏ", "ㅎㅏ", "\u200b", "a\u200b", "\U000e0041", "%41", "&#65;", "\\u0041", "QUJD", "41 ", "b3.", "M" * 24 + ".", "f",
    "xoxb-", "SG.", "(02)", "+82 ", "+1 23 ", "https://a.b/c?d=", "<", "[a](", "\n", " ", "0.0.0.0.", "::1 ", "я", "aя ",
    "<a ", "<img ", '<b title="', "![", "](", "[a]: ", "[a]:", "src=", "src='", '<img src="<', "`", "```\n", "` `` ",
    "](" + " " * 50, "(", ")", "<x onload=", "<!--", "![a][b]", "https://a.b/" + "QUJD" * 200 + " ",
    f"<img src='https://a.b/{'41' * 500}'>",
    "![x](https://a.b/aaaa) ", "\n- ", 'style="url(', "srcset=a,", "\\includegraphics{", "<script>",
    "\U0001f3f4\U000e0067", "Q:", "User:", "User:\nAssistant:", "internal ", "[", '["', '"\\', "\\", "you are ",
    "ask-", "aglsa_", "apypi-AgE", ".eyJaaaaaaaaaaaa", "eyJaaaaaaaaaaaa.",
]  # fmt: skip
POLICY = """
format = 1
[rules.secrets]
on = ["input", "output"]
[rules.personal-data]
on = ["input", "output"]
[rules.unseen]
[rules.phrases]
phrases = ["internal use only", "대외비 문서"]
[rules.hidden-text]
canaries = ["cx0123456789"]
[rules.size]
depth = 100
[rules.repetition]
[rules.many-shot]
[rules.markup]
hosts = ["a.example"]
[rules.harm]
file = "harm.safetensors"
[rules.detector]
file = "constant.safetensors"
threshold = 0.0
"""
PRIVATE = [Part("the code of the day is a secret " * 2000, "document"), Part("hello", "user")]
SLACK = 1.5  # a look in windows ends with the window that it is in


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Rulebook:
    folder = tmp_path_factory.mktemp("policy")
    LinearDetector("constant", np.zeros(1 << BITS, dtype=np.float32), -1.0).save(folder)
    weights = np.zeros((1 << BITS, 3), dtype=np.float32)
    HarmClassifier(("a", "b", "c"), weights, -np.ones(3), np.zeros(3)).save(folder / "harm.safetensors")
    return Guard(parse_policy(POLICY, folder=folder)).of("t")


def seconds(work: Callable[[], object]) -> float:
    begin = time.thread_time()
    work()
    return time.thread_time() - begin


def least(work: Callable[[], object], limit: float) -> float:
    """The better of up to three: the machine's caches are shared."""
    return min(seconds(work) for _ in range(3)) if seconds(work) > limit else 0.0


def too_slow_in(book: Rulebook, units: Sequence[str]) -> list[tuple[str, str, int]]:
    found = []
    for unit in units:
        text = (unit * (SIZE // len(unit) + 1))[:SIZE]
        for reader in book.readers:
            part = Part(text, "definition" if reader.rule.name == "size" else "user")
            spent = least(lambda reader=reader, part=part: take_in([part], [reader]), 0.05 * SLACK)
            if spent > 0.05 * SLACK:
                found.append((reader.rule.name, unit, round(1e3 * spent)))
    return found


def looked(rule: Any, text: str) -> None:
    """One look of a filter; a sentence is all that a rule of windows reads in it."""
    if isinstance(rule, Harm):
        rule.begin("").read(text[:500], last=False)
    elif hasattr(rule, "begin"):
        rule.begin("").read(text, last=False)
    else:
        list(rule.find(text))
        rule.open_from(text)


def too_slow_out(book: Rulebook, units: Sequence[str]) -> list[tuple[str, str, int]]:
    """What a filter has before it at a look: what is held back and its context, 20,256 characters at most."""
    found = []
    for unit in units:
        text = (unit * (20_256 // len(unit) + 1))[:20_256]
        for output in book.outputs:
            hidden = "You are the assistant of Solbit Tea House, and the code of the day is a secret."
            rule: Any = output.make(Context(hidden, PRIVATE))
            spent = least(lambda rule=rule, text=text: looked(rule, text), 0.05)
            if spent > 0.05:
                found.append((rule.name, unit, round(1e3 * spent)))
    return found


def test_f21_every_rule_ends_in_time(book: Rulebook) -> None:
    """The units that have been slow once, and a few more; `make test-slow` takes all."""
    units = ["-----BEGIN PRIVATE KEY-----", '"\\', "a@b.", "한 ", "[a]:", '<img src="<']
    assert not too_slow_in(book, units)
    assert not too_slow_out(book, units)


@pytest.mark.slow
def test_f21_every_rule_ends_in_time_on_the_whole_corpus(book: Rulebook) -> None:
    assert not too_slow_in(book, UNITS)
    assert not too_slow_out(book, UNITS)


@pytest.mark.slow
@pytest.mark.parametrize(
    "unit", ["-----BEGIN PRIVATE KEY-----a ", "1 ", "한 ", "![a](https://a.b/c) ", "<img alt='a "]
)
def test_f21_a_whole_answer_costs_in_proportion(book: Rulebook, unit: str) -> None:
    """Letter by letter would be too slow for a test; pieces of a token's length are what comes."""

    def run(size: int) -> float:
        text = (unit * (size // len(unit) + 1))[:size]

        def work() -> None:
            one = OutputFilter([output.make(Context(read=PRIVATE)) for output in book.outputs])
            for start in range(0, size, 7):
                one.push(text[start : start + 7])
            one.finish()

        return seconds(work)

    assert run(30_000) < 5 * max(run(10_000), 0.05)


class Backtracking:
    name = "backtracking"

    def find(self, text: str) -> Iterator[Finding]:
        for match in re.finditer(r"(\w+\s?)+!", text):
            yield Finding(self.name, match.start(), match.end(), "flag")

    def open_from(self, text: str) -> int:
        return len(text)


@pytest.mark.parametrize("fail", ["closed", "flag"])
def test_f21_the_control_and_what_becomes_of_it(fail: str) -> None:
    text, budget = "a" * 17 + " and so on", 0.01
    assert seconds(lambda: list(Backtracking().find(text))) > 0.05  # the corpus would find such a rule
    reader = Reader(Scan(Backtracking(), frozenset(ORIGINS)), fail, budget)  # type: ignore[arg-type]
    assert take_in([Part(text, "user")], [reader]).action == ("block" if fail == "closed" else "flag")
    one = OutputFilter([Kept(Backtracking(), fail, budget)])  # type: ignore[arg-type]
    done = one.push(text + " ")
    assert (done.blocked, {finding.action for finding in done.findings}) == (
        fail == "closed",
        {"block" if fail == "closed" else "flag"},
    )


def test_f21_a_rule_that_is_stopped_has_found_what_it_found() -> None:
    class Endless:
        name = "endless"

        def find(self, text: str) -> Iterator[Finding]:
            yield Finding(self.name, 0, 1, "flag", "seen")
            end = time.thread_time() + 0.004
            while time.thread_time() < end:
                pass

    taken = take_in(
        [Part("x" * 500_000, "user")], [Reader(Scan(Endless(), frozenset(ORIGINS)), "flag", 0.02)]
    )
    assert 2 <= len(taken.found) <= 8
    assert "budget" in taken.found[-1].finding.reason
