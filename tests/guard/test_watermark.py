"""The detector of the watermark: exact tails, no false alarms, marks that are diluted, moved or short."""

from __future__ import annotations

import random

import pytest
from scipy.stats import binom

from hanok.guard.watermark import binomial_tail, detect, detect_any
from hanok.tokens.watermark import Watermark

MARK = Watermark(key=bytes(range(32)), key_id="wm_a")
OTHER = Watermark(key=bytes(32), key_id="wm_b", gamma=0.5, width=3)
VOCABULARY = 2000


def plain(rng: random.Random, length: int) -> list[int]:
    """As text is: some tokens come often."""
    return [int(VOCABULARY * rng.random() ** 3) for _ in range(length)]


def marked(rng: random.Random, length: int, watermark: Watermark, *, tries: int = 3) -> list[int]:
    """Takes the first green one of some draws."""
    ids = plain(rng, watermark.width)
    while len(ids) < length:
        context = tuple(ids[-watermark.width :])
        drawn = plain(rng, tries)
        green = watermark.colours.are_green([context] * tries, drawn)
        ids.append(next((token for token, is_green in zip(drawn, green, strict=True) if is_green), drawn[0]))
    return ids


@pytest.mark.parametrize("gamma", [0.0625, 0.25, 0.5, 0.9375])
def test_the_tail_is_the_binomials(gamma: float) -> None:
    for tested in (1, 7, 64, 2000):
        for green in {0, 1, tested // 3, tested // 2, tested - 1, tested, tested + 1}:
            expected = float(binom.sf(green - 1, tested, gamma))
            assert binomial_tail(green, tested, gamma) == pytest.approx(expected, rel=1e-9, abs=1e-300)


def test_a_mark_is_found_and_a_wrong_key_finds_none() -> None:
    rng = random.Random(1)
    ids = marked(rng, 200, MARK)
    assert detect(ids, MARK).p_value < 1e-12
    assert detect(ids, OTHER).p_value > 1e-3
    found = detect_any(ids, [OTHER, MARK])
    assert found.key_id == "wm_a"
    assert found.p_value == pytest.approx(2 * detect(ids, MARK).p_value)


def test_p_values_of_unmarked_texts_are_no_smaller_than_they_say() -> None:
    """Over 2,000 texts, some of which repeat themselves: a test that counted repeated contexts again would fail here."""
    rng = random.Random(2)
    p_values, naive = [], 0
    for number in range(2000):
        ids = plain(rng, 60) * (6 if number % 2 else 1)
        p_values.append(detect(ids, MARK).p_value)
        contexts = [tuple(ids[place - 2 : place]) for place in range(2, len(ids))]
        green = int(MARK.colours.are_green(contexts, ids[2:]).sum())
        naive += binomial_tail(green, len(contexts), MARK.gamma) < 0.01
    for level in (0.1, 0.01):
        assert sum(p < level for p in p_values) <= binom.ppf(1 - 1e-6, 2000, level)
    assert naive > binom.ppf(1 - 1e-6, 2000, 0.01)  # the control


def test_a_marked_part_is_found_where_it_is() -> None:
    rng = random.Random(3)
    ids = [*plain(rng, 1500), *marked(rng, 150, MARK), *plain(rng, 1500)]
    found = detect(ids, MARK)
    assert found.whole.p_value > 1e-6
    assert found.p_value < 1e-6
    assert found.window is not None
    assert found.window.start < 1575 < found.window.end
    assert found.window.end - found.window.start <= 420


def test_a_third_of_the_tokens_replaced() -> None:
    rng = random.Random(4)
    ids = marked(rng, 400, MARK, tries=6)
    changed = [rng.randrange(VOCABULARY) if rng.random() < 0.3 else token for token in ids]
    assert detect(changed, MARK).p_value < 1e-4
    other = [rng.randrange(VOCABULARY) for _ in ids]
    assert detect(other, MARK).p_value > 1e-3


def test_texts_with_nothing_to_test() -> None:
    for ids in ([], [1], [1, 2], [5] * 300):
        found = detect(ids, MARK)
        assert found.whole.tested <= 1
        assert found.p_value > 0.05
