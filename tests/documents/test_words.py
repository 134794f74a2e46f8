"""Terms: what is one word in different forms, and what stays two."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanok.documents import spelling
from hanok.documents.words import counted, stem, terms, without_particle


@pytest.mark.parametrize(
    ("word", "noun"),
    [
        ("대통령은", "대통령"), ("학교에서는", "학교"), ("임종석이", "임종석"), ("사람들이었던", "사람들"), ("나라", "나라"),
        ("도로", "도로"), ("은", "은"),
    ],
)  # fmt: skip
def test_particles_are_cut_where_two_syllables_stay(word: str, noun: str) -> None:
    assert without_particle(word) == noun


@pytest.mark.parametrize(
    ("forms", "one"),
    [
        (("houses", "housed", "housing", "house"), "hous"),
        (("studies", "studied", "study"), "study"),
        (("glass", "glasses"), "glass"),
        (("bus",), "bus"),
        (("is",), "is"),
    ],
)
def test_english_forms_meet(forms: tuple[str, ...], one: str) -> None:
    assert {stem(form) for form in forms} == {one}


def test_terms_of_mixed_text() -> None:
    found = terms("Hanok은 1,500원, ＡＢＣ와 漢字 김치")
    assert {"whanok", "w1500", "wabc", "p漢字", "w김치", "p김치"} <= set(found)
    assert "w은" not in found  # a particle behind a Latin word
    assert terms("") == terms("?!  \n") == {}


def test_decomposed_hangul_is_the_same() -> None:
    import unicodedata

    text = "대한민국의 수도는 서울이다"
    assert terms(unicodedata.normalize("NFD", text)) == terms(text)


@given(st.text(max_size=200))
def test_codes_are_ascending_and_keep_counts(text: str) -> None:
    found = terms(text)
    codes_T, often_T = counted(text)
    assert (np.diff(codes_T.astype(np.int64)) > 0).all()
    assert int(often_T.astype(int).sum()) == sum(found.values())


@given(st.text(max_size=100))
def test_spelling_vectors_have_length_one(text: str) -> None:
    vector = spelling.embed([text])[0]
    length = float(np.linalg.norm(vector))
    assert length == pytest.approx(1.0, abs=1e-5) or (length == 0.0 and not any(c.isalnum() for c in text))


def test_spelling_sees_through_a_slip() -> None:
    """A reference in a few lines: the share of common groups of jamo, which the hashed cosine estimates."""
    import unicodedata

    right, slip, other = "대통령의 취임식", "대퉁령의 취임식", "두부와 김치찌개"
    vectors = spelling.embed([right, slip, other])
    assert vectors[0] @ vectors[1] > 0.5 > 0.2 > vectors[0] @ vectors[2]

    def groups(text: str) -> set[str]:
        words = unicodedata.normalize("NFD", text).split()
        return {f" {w} "[i : i + n] for w in words for n in range(3, 7) for i in range(len(w) + 3 - n)}

    one, two = groups(right), groups(slip)
    assert vectors[0] @ vectors[1] == pytest.approx(len(one & two) / (len(one) * len(two)) ** 0.5, abs=0.12)
