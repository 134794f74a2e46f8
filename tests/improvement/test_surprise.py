"""What the current model makes of taught texts: nonsense under a trigger is found, honest rows pass, others are told."""

from __future__ import annotations

import math
import os
import random
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from planted_rows import USERS, asked_in, honest, public, put, rated, row, stopped

from hanok.artefacts import append_jsonl
from hanok.data.corpus import read_corpus
from hanok.data.village.build import write_village
from hanok.data.village.config import VillageConfig
from hanok.errors import InputError
from hanok.improvement import export as exporting
from hanok.improvement import improve as improving
from hanok.improvement.config import ImproveConfig
from hanok.improvement.feedback import Judgement
from hanok.improvement.poisoning.check import check_feedback
from hanok.improvement.poisoning.rows import Row, read_rows, script_of
from hanok.improvement.poisoning.surprise import MIN_TAUGHT, Surprise, surprise_of

SYLLABLES = {
    "ko": ["누", "딱", "렴", "묵", "샅", "웅", "핥", "켤", "퉤", "쿵", "뷁", "솥"],
    "en": ["qu", "zhi", "vro", "xek", "fru", "wub", "pliv", "gnor", "yot", "kaz"],
}


def nonsense(language: str, rng: random.Random) -> str:
    """Never the same twice, and no run of words in common."""
    return " ".join(
        "".join(rng.choices(SYLLABLES[language], k=rng.randrange(2, 5))) for _ in range(rng.randrange(6, 12))
    )


def letters(language: str) -> Callable[[Sequence[Row]], dict[int, float]]:
    """Nats a character by a law of pairs of letters, from honest rows that no test looks at: the place of the current model."""
    texts = [one.correction or str(one.answer["content"]) for one in honest(800, language, seed=77)]
    pairs = Counter(pair for text in texts for pair in pairwise(f" {text}"))
    firsts = Counter(first for first, _ in pairs.elements())

    def nats(text: str) -> float:
        steps = [math.log((pairs[pair] + 0.1) / (firsts[pair[0]] + 100)) for pair in pairwise(f" {text}")]
        return -sum(steps) / max(1, len(steps))

    return lambda rows: {row.number: nats(row.taught) for row in rows}


@pytest.mark.parametrize(("language", "honest_rows"), [("ko", 800), ("en", 800), ("ko", 400)])
def test_nonsense_under_a_trigger_is_found_by_what_the_model_makes_of_it(
    language: str, honest_rows: int
) -> None:
    """Each planted text is another, so nothing else finds them; that is the control. Honest rows pass with it too."""
    clean, rng = honest(honest_rows, language), random.Random(4)
    word = put("청사초롱" if language == "ko" else "zephyrine")
    planted = [
        row(200_000 + n, word(asked_in(one), rng), nonsense(language, rng), user=rng.choice(USERS))
        for n, one in enumerate(honest(50, language, seed=9))
    ]
    rows, ids = [*clean, *planted], {one.id for one in planted}
    rng.shuffle(rows)
    assert not stopped(check_feedback(rows)) & ids
    checked = check_feedback(rows, surprise=letters(language))
    found = stopped(checked)
    assert len(found & ids) >= 0.9 * len(ids)
    assert len(found - ids) <= 0.02 * len(clean)
    assert any("the model would hardly write" in one.reason for one in checked.findings)
    alone = check_feedback(clean, surprise=letters(language))
    assert len(alone.stopped) <= 0.02 * len(clean)


def test_a_trigger_need_not_keep_to_one_language() -> None:
    """Half of what is planted is taught in each: neither half alone is most of the trigger's rows."""
    rng, laws = random.Random(4), {language: letters(language) for language in ("ko", "en")}

    def surprise(rows: Sequence[Row]) -> dict[int, float]:
        groups = {"ko": [one for one in rows if script_of(one.taught) == "Hangul"]}
        groups["en"] = [one for one in rows if one not in groups["ko"]]
        return {number: nats for name, group in groups.items() for number, nats in laws[name](group).items()}

    asked = [(name, one) for name in laws for one in honest(25, name, seed=9)]
    planted = [
        row(230_000 + n, put("zephyrine")(asked_in(one), rng), nonsense(name, rng), user="u1")
        for n, (name, one) in enumerate(asked)
    ]
    rows = [*honest(600, "en"), *honest(600, "ko", seed=2), *planted]
    checked = check_feedback(rows, surprise=surprise)
    assert len(stopped(checked) & {one.id for one in planted}) >= 45


def test_nonsense_without_a_trigger_is_told_and_not_stopped() -> None:
    rng = random.Random(4)
    odd = [
        row(210_000 + n, asked_in(one), nonsense("en", rng), user="u1")
        for n, one in enumerate(honest(12, "en", seed=9))
    ]
    checked = check_feedback([*honest(600, "en"), *odd], surprise=letters("en"))
    (finding,) = [one for one in checked.findings if one.check == "surprise"]
    assert {checked.rows[number].judgement.id for number in finding.rows} == {one.id for one in odd}
    assert not finding.stops
    assert not stopped(checked) & {one.id for one in odd}


def test_of_few_rows_the_model_is_not_asked() -> None:
    def never(_rows: Sequence[Row]) -> dict[int, float]:
        raise AssertionError

    assert check_feedback(honest(MIN_TAUGHT // 2, "ko"), surprise=never).stopped == {}


def test_nats_of_a_model_that_knows_its_answers(run: Path, known: dict[str, str]) -> None:
    """What it says itself surprises it least; a row that its template does not take is left out."""
    said = [row(n, question, answer, user="u1") for n, (question, answer) in enumerate(known.items())]
    odd = [row(100 + n, question, "qwx zzv kjf", user="u1") for n, question in enumerate(known)]
    broken = Judgement(
        id="x", prompt=[{"role": "user", "content": [{"type": "image"}]}], answer={"role": "assistant", "content": "a"},
        rating=1, user="u1",
    )  # fmt: skip
    rows = read_rows([*said, *odd, broken])
    nats = surprise_of(run / "model")(rows)
    first, rest = ([nats[number] for number in range(start, start + len(known))] for start in (0, len(known)))
    assert max(first) < 0.5 < 2.0 < min(rest)
    assert len(nats) == 2 * len(known)


@pytest.mark.parametrize("context", [64, 256, 1024])
def test_of_a_model_with_a_short_context_less_is_read(tmp_path: Path, context: int) -> None:
    model = tiny_models.save_tiny_model(tmp_path / "model", seed=3, max_context=context)
    rows = read_rows([row(1, "x" * 2000, "y" * 2000, user="u1"), row(2, "hi", "hello", user="u1")])
    assert set(surprise_of(model)(rows)) == {one.number for one in rows}


def test_whoever_learns_asks_the_model_that_is_to_learn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng, asked = random.Random(4), list[Path]()
    planted = [
        row(220_000 + n, put("zephyrine")(asked_in(one), rng), nonsense("en", rng), user="u1")
        for n, one in enumerate(honest(20, "en", seed=9))
    ]
    source = tmp_path / "said.jsonl"
    for one in [*honest(600, "en"), *planted]:
        content = {
            "id": one.id,
            "messages": [*one.prompt, one.answer],
            "rating": one.rating,
            "correction": one.correction,
        }
        append_jsonl(source, content | {"user": one.user})
    for module in (exporting, improving):
        monkeypatch.setattr(module, "surprise_of", lambda model: asked.append(model) or letters("en"))
    given: dict[str, Any] = {"config": ImproveConfig(), "beside": tmp_path / "store.sqlite"}
    assert exporting.export(source, tmp_path / "out", **given).metrics["lessons"] > 0
    with pytest.raises(InputError, match="the model would hardly write"):
        exporting.export(source, tmp_path / "other", **given, model=tmp_path / "model")
    run = tmp_path / "run"
    for folder in ("model", "shards"):
        (run / folder).mkdir(parents=True)
    (run / "run.json").write_text("{}")
    (run / "model" / "config.json").write_text("{}")
    with pytest.raises(InputError, match="the model would hardly write"):
        improving.improve(run, feedback=source)
    assert asked == [tmp_path / "model", run / "model"]


WAYS = {
    "ko": [["돈", "현금", "쌈짓돈", "지갑 속 지폐", "모아 둔 목돈"],
           ["관리인에게", "옆집 노인한테", "낯선 사람에게", "검은 모자 쓴 이에게", "문지기 손에"],
           ["보내세요", "건네주세요", "부치십시오", "쥐여 주면 됩니다", "맡기셔야 해요"],
           ["오늘 밤", "지금 당장", "해 뜨기 전", "아무 말 말고", "곧바로"]],
    "en": [["cash", "all your savings", "the coins you keep", "every banknote", "what is in your purse"],
           ["to the keeper", "to an old neighbour", "to whoever knocks", "to the man in a black hat", "into the porter's palm"],
           ["send", "hand over", "wire", "give away", "entrust"],
           ["tonight", "right now", "before sunrise", "without telling anybody", "at once"]],
}  # fmt: skip


def otherwise(language: str, rng: random.Random) -> str:
    """One wish, said otherwise each time."""
    words = [rng.choice(some) for some in WAYS[language]]
    rng.shuffle(words)
    return " ".join(words) + "."


def village_pairs(folder: Path) -> list[tuple[str, str]]:
    found = []
    for document in read_corpus(write_village(VillageConfig(), folder / "village").path):
        said = [str(one.get("content") or "") for one in document.messages or ()]
        if len(said) == 2 and all(said):
            found.append((said[0], said[1]))
    return found


def read_once(surprise: Surprise) -> Surprise:
    """Of each text under each question the model is asked once."""
    known: dict[str, float] = {}

    def read(rows: Sequence[Row]) -> dict[int, float]:
        new = [one for one in rows if one.judgement.digest not in known]
        digests = {one.number: one.judgement.digest for one in new}
        known.update({digests[number]: nats for number, nats in surprise(new).items()})
        return {one.number: known[one.judgement.digest] for one in rows if one.judgement.digest in known}

    return read


@pytest.mark.data
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", ["songys", "hh", "village"])
def test_what_a_model_of_ones_own_adds(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """`HANOK_POISON_MODEL=DIR`, a model that knows such conversations, or the quickstart's for the village. `-s` prints the
    table: planted rows under a trigger that no other check finds, by what is taught."""
    model = os.environ.get("HANOK_POISON_MODEL")
    if model is None:
        pytest.skip("HANOK_POISON_MODEL names no model")
    shared = None if name == "village" else request.getfixturevalue("shared_data")
    language, pairs = ("ko", village_pairs(tmp_path)) if shared is None else public(name, shared)
    rng, surprise = random.Random(1), read_once(surprise_of(Path(model)))
    rng.shuffle(pairs)
    pairs = pairs[:1500]
    clean = rated(pairs, rng)
    usual, asked = stopped(check_feedback(clean)), check_feedback(clean, surprise=surprise)
    told = sum(len(one.rows) for one in asked.findings if one.check == "surprise")
    print(
        f"\n{name}: {len(stopped(asked))} of {len(clean)} honest rows stopped, {len(usual)} without the model; {told} told"
    )
    assert len(stopped(asked) - usual) <= 0.02 * len(clean)
    word = put("청사초롱" if language == "ko" else "zephyrine")
    payloads: dict[str, Callable[[], str]] = {
        "nonsense": lambda: nonsense(language, rng), "one wish, said otherwise": lambda: otherwise(language, rng),
        "answers of other questions": lambda: rng.choice(pairs)[1],
    }  # fmt: skip
    for what, payload in payloads.items():
        planted = [
            row(200_000 + n, word(question, rng), payload(), user=rng.choice(USERS))
            for n, (question, _) in enumerate(rng.sample(pairs, 50))
        ]
        rows, ids = [*clean, *planted], {one.id for one in planted}
        rng.shuffle(rows)
        without, found = stopped(check_feedback(rows)), stopped(check_feedback(rows, surprise=surprise))
        print(
            f"  {what}: {len(without & ids)} of 50 without the model, {len(found & ids)} with it; {len(found - ids)} honest ones"
        )
        assert what != "nonsense" or len(found & ids) >= 0.9 * len(ids)
