"""Near duplicates against all pairs compared by hand; exact ones; parameters of the bands."""

from __future__ import annotations

import random
import string

import pytest

from hanok.data.dedup import Duplicates, exact_hash, fingerprint, jaccard, rows_per_band, shingles_of

THRESHOLD, PERMUTATIONS = 0.8, 128


def vocabulary(rng: random.Random, language: str) -> list[str]:
    if language == "ko":
        return [
            "".join(chr(rng.randrange(0xAC00, 0xAC00 + 2000)) for _ in range(rng.randint(1, 4)))
            for _ in range(3000)
        ]
    return ["".join(rng.choices(string.ascii_lowercase, k=rng.randint(2, 9))) for _ in range(3000)]


def planted(seed: int, language: str, originals: int) -> list[str]:
    """Texts of 8 to 400 words; to each of a third a copy with single words changed, to each of another third one with more."""
    rng = random.Random(seed)
    words = vocabulary(rng, language)
    texts = []
    for number in range(originals):
        text = rng.choices(words, k=rng.choice((8, 15, 30, 80, 200, 400)))
        texts.append(" ".join(text))
        changes = (0, 0.004, 0.008, 0.02, 0.05, 0.3)[number % 6]
        copy = [rng.choice(words) if rng.random() < changes else word for word in text]
        if number % 6:
            texts.append(" ".join(copy))
    rng.shuffle(texts)
    return texts


def exact_jaccard(a: set[str], b: set[str]) -> float:
    return len(a & b) / len(a | b)


@pytest.mark.parametrize("language", ["ko", "en"])
@pytest.mark.parametrize("seed", [1, 2])
def test_recall_and_precision(seed: int, language: str) -> None:
    """Of the texts with an earlier one at a Jaccard index of 0.8 or more, at least 95% are dropped, and few others."""
    texts = planted(seed, language, 900)
    sets = [set(shingles_of(text)) for text in texts]
    kept: list[int] = []
    true_positive = false_positive = missed = 0
    with Duplicates(exact=False, near=True, threshold=THRESHOLD) as seen:
        for number, text in enumerate(texts):
            mark = fingerprint(text, threshold=THRESHOLD, permutations=PERMUTATIONS)
            said = seen.near_of(str(number), mark) is not None
            # only texts of about the same size can overlap that much
            close = (k for k in kept if 0.8 * len(sets[k]) <= len(sets[number]) <= 1.25 * len(sets[k]))
            truth = any(exact_jaccard(sets[k], sets[number]) >= THRESHOLD for k in close)
            true_positive += said and truth
            false_positive += said and not truth
            missed += truth and not said
            if not said:
                kept.append(number)
    assert true_positive > 150
    assert true_positive / (true_positive + missed) >= 0.95
    assert true_positive / (true_positive + false_positive) >= 0.95


def test_jaccard_of_hashes_is_that_of_the_shingles() -> None:
    a, b = planted(3, "ko", 2)[:2]
    a, b = a + " " + b, b + " 끝말"
    ours = jaccard(*(fingerprint(t, threshold=0.8, permutations=128).shingles for t in (a, b)))
    assert ours == pytest.approx(exact_jaccard(set(shingles_of(a)), set(shingles_of(b))), abs=1e-3)


def test_exact_hash_knows_no_case_and_no_spaces() -> None:
    assert exact_hash("Hello  World\n") == exact_hash("hello world")
    assert exact_hash("값은 100원") != exact_hash("값은 200원")


def test_bands_find_pairs_at_the_threshold() -> None:
    for threshold in (0.5, 0.7, 0.8, 0.9):
        rows = rows_per_band(threshold, 128)
        assert 1 - (1 - threshold**rows) ** (128 // rows) >= 0.99
        assert 1 - (1 - threshold ** (rows + 1)) ** (128 // (rows + 1)) < 0.99


def test_many_texts_of_one_template_do_not_hide_a_duplicate() -> None:
    """A band that many share must still lead to the one that is a duplicate."""
    frame = " ".join(f"틀{i}" for i in range(40))
    with Duplicates(exact=False, near=True, threshold=THRESHOLD) as seen:
        found = []
        for number in range(30):
            tail = " ".join(f"글{number}번째{i}" for i in range(30))
            for copy in range(2):
                text = f"{frame} {tail}{' 끝' * copy}"
                found.append(
                    seen.near_of(f"{number}.{copy}", fingerprint(text, threshold=0.8, permutations=128))
                )
    assert all(found[1::2])
    assert not any(found[0::2])
