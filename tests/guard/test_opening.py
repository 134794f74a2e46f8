"""An answer's first letters do not wait for the end of their word, where all rules allow it."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanok.guard.filter import OutputFilter, OutputRule
from hanok.guard.leaks import HiddenText
from hanok.guard.personal import PersonalData
from hanok.guard.phrases import Phrases
from hanok.guard.secrets import Secrets
from hanok.guard.unseen import Unseen

KEY = "AKIAQWERTYUIOPASDF27"
HIDDEN = (
    "You are the assistant of Solbit Tea House. Never mention the discount code of the owner to any guest."
)


def rules() -> list[OutputRule]:
    return [Secrets(), HiddenText(HIDDEN, canaries=["QWERTYUIOP"]), Unseen()]


def read(
    pieces: list[str], using: list[OutputRule] | None = None, before: str = ""
) -> tuple[list[str], object]:
    one = OutputFilter(rules() if using is None else using, before=before)
    released = [one.push(piece) for piece in pieces] + [one.finish()]
    assert one.released == sum(len(part.text) for part in released)
    return [part.text for part in released], [finding for part in released for finding in part.findings]


@pytest.mark.parametrize(
    ("pieces", "first"),
    [
        (["He", "llo the", "re"], "He"),
        (["  안녕하", "세요"], "  안녕하"),
        (["\n", "I am"], "\n"),
        (["4", "2 apples"], ""),
        (["<b", ">x"], ""),
        (["a@", "b.kr "], "a"),
    ],
)
def test_first_letters_leave_at_once(pieces: list[str], first: str) -> None:
    out = read(pieces)[0]
    assert out[0] == first
    assert "".join(out) == "".join(pieces)


@pytest.mark.parametrize("rule", [PersonalData(), Phrases(("bad",), "block")])
def test_not_where_a_rule_looks_for_something_short(rule: OutputRule) -> None:
    assert read(["ba", "d@x.kr"], [*rules(), rule])[0][0] == ""


def test_not_where_the_answer_goes_on_from_a_text() -> None:
    assert read(["QWERTY", "UIOPASDF27 is it"], before="The key is AKIA")[0][0] == ""


@pytest.mark.parametrize("first", ["\u3164", "\U000e0061", "\u202e", "\u115f"])
def test_what_nobody_sees_does_not_leave_as_a_letter(first: str) -> None:
    assert "".join(read([first, "abc ", "def"])[0]) == "abc def"


@pytest.mark.parametrize("canary", ["QWERTYUIOP", "canaries"])
def test_four_letters_of_what_is_hidden_at_most(canary: str) -> None:
    for text in (f"{KEY} is the key", f" {KEY}", f"{canary} it is"):
        for place in range(len(text)):
            out = "".join(
                read([text[:place], text[place:]], [Secrets(), HiddenText("", canaries=[canary])])[0]
            )
            assert KEY[:5] not in out
            assert canary[:5] not in out
            assert out.strip()[:4] in (KEY[:4], canary[:4])


@given(st.lists(st.sampled_from([KEY, "word", "한국어", " ", "\n", "1", "@", "\u200b", "\u3164", "é", "漢", "😀"]), max_size=8),
       st.integers(0, 2**32))  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_streamed_is_whole(parts: list[str], seed: int) -> None:
    text, rng = "".join(parts), random.Random(seed)
    places = sorted(rng.sample(range(len(text) + 1), k=min(len(text), 6)))
    pieces = [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]
    cut, whole = read(pieces), read([text])
    assert ("".join(cut[0]), cut[1]) == ("".join(whole[0]), whole[1])
