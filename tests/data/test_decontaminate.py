"""The overlap search against a plain one, character by character and word by word."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanok.data import decontaminate
from hanok.data.decontaminate import LeakFinder, Text

letters = st.text(st.sampled_from("ab가나 .\n😀É"), max_size=40)


def plain_overlap(train: str, held: str, *, words: int, characters: int) -> bool:
    def spelled(text: str) -> list[str]:
        return [w for w in re.split(r"[^\w]+", text.lower()) if w]

    def grams(items: list[str] | str, size: int) -> set:
        return {tuple(items[n : n + size]) for n in range(len(items) - size + 1)}

    flat = [re.sub(r"\s+", " ", text).lower() for text in (train, held)]
    if " ".join(train.lower().split()) == " ".join(held.lower().split()):
        return True
    return bool(
        grams(spelled(train), words) & grams(spelled(held), words)
        or grams(flat[0], characters) & grams(flat[1], characters)
    )


@given(st.lists(letters, min_size=1, max_size=4), st.lists(letters, min_size=1, max_size=4))
def test_equals_the_plain_search(trained: list[str], held: list[str]) -> None:
    finder = LeakFinder(words=3, characters=10, scaffold_groups=100)
    for number, text in enumerate(held):
        finder.hold(Text(f"h{number}", number, text))
    for number, text in enumerate(trained):
        finder.scan(Text(f"t{number}", 100 + number, text))
    expected = {
        f"t{number}"
        for number, text in enumerate(trained)
        if any(plain_overlap(text, other, words=3, characters=10) for other in held)
    }
    assert set(finder.leaks()) == expected


@given(st.lists(letters, min_size=1, max_size=6), st.lists(letters, min_size=1, max_size=6))
def test_batches_do_not_matter(trained: list[str], held: list[str]) -> None:
    def found(size: int, pairs: int) -> list[str]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(decontaminate, "_BATCH_CHARACTERS", size)
            patch.setattr(decontaminate, "_MOST_PAIRS", pairs)
            finder = LeakFinder(words=3, characters=10, scaffold_groups=2)
            for number, text in enumerate(held):
                finder.hold(Text(f"h{number}", number, text), named=number % 2 == 0)
            for number, text in enumerate(trained):
                finder.scan(Text(f"t{number}", number % 3 + 50, text, by_design=number % 2 == 0))
            return sorted(finder.leaks())

    assert found(1, 1) == found(1_000_000, 4_000_000)


def test_nothing_held_out_finds_nothing() -> None:
    finder = LeakFinder(words=3, characters=10, scaffold_groups=8)
    finder.scan(Text("t", 0, "one two three four five six"))
    assert finder.leaks() == {}
    assert LeakFinder(words=3, characters=10, scaffold_groups=8).leaks() == {}


def test_long_words_and_large_held_out_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    """With every n-th run kept, an overlap n longer than the least is still found."""
    monkeypatch.setattr(decontaminate, "_MOST_WINDOWS", 50)
    long = "가" * 5000
    held = " ".join(f"w{n}" for n in range(120)) + long
    finder = LeakFinder(words=13, characters=50, scaffold_groups=8)
    finder.hold(Text("h", 0, held))
    finder.scan(Text("t", 1, "x " + held[:300]))
    finder.scan(Text("u", 2, "nothing of that kind here"))
    assert list(finder.leaks()) == ["t"]
