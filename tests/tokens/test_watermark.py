"""Colours of tokens: the two ways to ask for them agree, they are what a fair and secret coin gives, and settings are checked."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from hanok.errors import ConfigError
from hanok.tokens.watermark import Watermark

KEY = bytes(range(32))


@settings(max_examples=60, deadline=None)
@given(
    sixteenths=st.integers(1, 15),
    vocabulary=st.sampled_from([1, 2, 127, 128, 129, 266, 5000]),
    context=st.lists(st.integers(0, 2**31), min_size=1, max_size=4).map(tuple),
)
def test_one_token_has_the_colour_that_it_has_among_all(
    sixteenths: int, vocabulary: int, context: tuple[int, ...]
) -> None:
    colours = Watermark(key=KEY, gamma=sixteenths / 16).colours
    weights_V = colours.weights(context, vocabulary)
    tokens = range(vocabulary)
    assert weights_V.dtype == np.float32
    assert set(weights_V.tolist()) <= {0.0, 1.0}
    assert ((weights_V == 1.0) == colours.are_green([context] * vocabulary, tokens)).all()
    longer_V = colours.weights(context, vocabulary + 77)  # a vocabulary that grew keeps its colours
    assert (longer_V[:vocabulary] == weights_V).all()


@pytest.mark.parametrize("gamma", [0.0625, 0.25, 0.5, 0.75])
def test_so_many_are_green(gamma: float) -> None:
    colours = Watermark(key=KEY, gamma=gamma).colours
    green = sum(int(colours.weights((7, place), 4000).sum()) for place in range(50))
    assert binomtest(green, 200_000, gamma).pvalue > 1e-4


def test_context_and_key_decide() -> None:
    one, other = Watermark(key=KEY).colours, Watermark(key=KEY[::-1]).colours
    rows = [
        one.weights((1, 2), 20_000),
        one.weights((2, 1), 20_000),
        one.weights((1, 2, 0), 20_000),
        other.weights((1, 2), 20_000),
    ]
    for place, row in enumerate(rows):
        for later in rows[place + 1 :]:
            both = float((row * later).mean())
            assert both == pytest.approx(1 / 16, abs=0.012)  # independent: gamma squared


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"gamma": 0.3}, "gamma = 0.3"),
        ({"delta": 0.0}, "delta = 0.0"),
        ({"width": 0}, "width = 0"),
        ({"key": b"short"}, "watermark: key"),
    ],
)
def test_settings_are_checked(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Watermark(**{"key": KEY, **changes})  # type: ignore[arg-type]


def test_the_key_is_not_shown() -> None:
    assert KEY.hex() not in repr(Watermark(key=KEY))
    assert str(KEY) not in repr(Watermark(key=KEY))
