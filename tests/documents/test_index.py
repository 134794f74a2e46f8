"""The index against the formulas, word by word."""

from __future__ import annotations

import itertools
import math
import random
import re
from collections import Counter

import numpy as np
import pytest

from hanok.documents import spelling
from hanok.documents.index import FEWEST, K1, B, FileTerms, Index
from hanok.documents.passages import divided
from hanok.documents.support import READ, measure
from hanok.documents.words import code_of, codes, common_codes, counted, folded, surfaces, terms

WORDS = re.findall(
    r"\S+",
    "houses studies classes classed 1,000 1000 2024년에 한옥에서는 한옥은 마을의 찻집이 찻집 大學 The of tea Tea's ｔｅａ "
    "은 는 아홉시에 휴가는 휴가 며칠인가요 studied study easy easily GPU를 3.5",
)


def text_of(chance: random.Random, sentences: int) -> str:
    return " ".join(
        " ".join(chance.choices(WORDS, k=chance.randrange(1, 9))) + chance.choice(".?\n") for _ in range(sentences)
    )  # fmt: skip


@pytest.fixture(scope="module")
def texts() -> list[str]:
    chance = random.Random(0)
    return [text_of(chance, chance.randrange(1, 7)) for _ in range(40)]


def index_of(texts: list[str], vectors_PD: np.ndarray) -> Index:
    found = [counted(text) for text in texts]
    return Index([
        FileTerms(
            "a", np.arange(len(texts), dtype=np.int32), np.array([len(one) for one, _ in found]),
            np.concatenate([one for one, _ in found]), np.concatenate([often for _, often in found]), vectors_PD,
        )
    ])  # fmt: skip


def bm25(texts: list[str], query: str) -> list[float]:
    counts, asked = [Counter(terms(text)) for text in texts], terms(query)
    mean, further = sum(c.total() for c in counts) / len(counts), FEWEST - len(texts)
    most, scores = 0.0, [0.0] * len(texts)
    for term, often in asked.items():
        having = sum(term in c for c in counts) + (further / 2 if code_of(term) in common_codes() else 0)
        idf = math.log(1 + (FEWEST - having + 0.5) / (having + 0.5)) * min(often, 3)
        most += idf * (K1 + 1)
        for place, c in enumerate(counts):
            scores[place] += idf * c[term] * (K1 + 1) / (c[term] + K1 * (1 - B + B * c.total() / mean))
    return [score / most for score in scores]


@pytest.mark.parametrize("query", ["한옥 마을의 찻집", "the house the house 1,000", "unheard of", "zzz 뷁뷁"])
def test_words_score_as_the_formula_says(texts: list[str], query: str) -> None:
    index = index_of(texts, spelling.embed(texts))
    np.testing.assert_allclose(index.by_words(index.ask(query)), bm25(texts, query), rtol=1e-5)


def test_vectors_with_few_numbers_and_with_many_score_alike(texts: list[str]) -> None:
    vectors_PD = spelling.embed(texts)
    index = index_of(texts, vectors_PD)
    for vector_D in (
        spelling.embed(["한옥"])[0],
        vectors_PD[3],
        np.random.default_rng(0).normal(size=1024).astype("f4"),
    ):
        np.testing.assert_allclose(
            index.by_vectors(vector_D), np.maximum(vectors_PD @ vector_D, 0), atol=1e-5
        )


def test_the_best_are_in_order_and_earlier_ones_first_among_equals(texts: list[str]) -> None:
    doubled = [*texts, *texts]
    index = index_of(doubled, spelling.embed(doubled))
    words_P, vector_D = index.by_words(index.ask("한옥에서 차를")), spelling.embed(["한옥에서 차를"])[0]
    blended_P = 0.85 * words_P + 0.15 * index.by_vectors(vector_D)
    for allowed_P in (None, np.arange(len(doubled)) % 3 == 0):
        wanted = [p for p in range(len(doubled)) if blended_P[p] > 0 and (allowed_P is None or allowed_P[p])]
        wanted.sort(key=lambda place: (-blended_P[place], place))
        for limit in (1, 7, len(doubled), 2 * len(doubled)):
            found = index.best(words_P, vector_D, 0.15, limit, allowed_P)
            assert [one.place for one in found] == wanted[:limit]


def test_an_empty_index_finds_nothing() -> None:
    index = Index([])
    vector_D = spelling.embed(["tea"])[0]
    assert index.best(index.by_words(index.ask("tea")), vector_D, 0.15, 5) == []
    assert len(index.score("tea", vector_D).words_P) == 0


def test_letters_of_a_term_are_in_every_text_that_has_it(texts: list[str]) -> None:
    for text in texts:
        has = codes(text)
        for query in texts[:5]:
            for code, letters in surfaces(query).items():
                assert code not in has or letters in folded(text)


def test_cover_is_that_of_all_words_of_all_sentences(texts: list[str]) -> None:
    """What letters make quick must not change what is found."""
    chance = random.Random(1)
    for _ in range(30):
        query, passages = text_of(chance, 1), chance.sample(texts, READ)
        telling = {code_of(term): chance.uniform(0.1, 5) for term in terms(query)}
        most = 0.0
        for passage in passages:
            said = [set(codes(sentence)) for sentence in divided(passage)]
            for first, second in itertools.zip_longest(said, said[1:], fillvalue=set[int]()):
                most = max(most, sum(telling[code] for code in telling if code in first | second))
        features = measure(query, telling, [0.5, 0.4], passages)
        assert features.covered == pytest.approx(most / sum(telling.values()))
        assert features.lead == pytest.approx(0.5 - 0.4 / 4)
