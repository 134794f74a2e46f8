"""What is accepted, and what is said about it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hanok.artefacts import create_artefact
from hanok.evaluation.ask import Answer
from hanok.evaluation.village import Marked
from hanok.improvement.config import ImproveConfig
from hanok.improvement.examine import Examination, compare_examinations, open_village
from hanok.improvement.feedback import Judgement
from hanok.improvement.lessons import Lesson
from hanok.improvement.verdict import Findings, judge

CONFIG = ImproveConfig(tolerance=0.02, bits_tolerance=0.02, bits_slack=0.005)


def lesson(kind: Any, question: str = "언제 열어요?", answer: str = "열 시예요.") -> Lesson:
    judged = {"role": "assistant", "content": "아홉 시예요."}
    prompt = [{"role": "user", "content": question}]
    judgement = Judgement(id="x", prompt=prompt, answer=judged, rating=1)
    return Lesson(
        id="x", kind=kind, prompt=prompt, answer={"role": "assistant", "content": answer}, judged=judged, tools=None,
        judgement=judgement,
    )  # fmt: skip


def marked(right: int, of: int = 100) -> list[Marked]:
    return [
        Marked(
            {"id": n, "kind": "fact", "messages": [{"content": "?"}], "answer": "a"},
            Answer("a"),
            n < right,
            False,
        )
        for n in range(of)
    ]


def findings(
    *, corrected: tuple[int, int] = (0, 2), liked: tuple[int, int] = (1, 1), others: tuple[int, int] | None = (90, 90),
    bits: tuple[float, float] = (0.5, 0.5),
) -> Findings:  # fmt: skip
    lessons = [lesson("correction"), lesson("correction"), lesson("liked")]

    def examination(which: int) -> Examination:
        learnt = [n < corrected[which] for n in range(2)] + [n < liked[which] for n in range(1)]
        asked = marked(others[which]) if others is not None else []
        return Examination(said=[""] * 3, learnt=learnt, bits={"chat": bits[which]}, others=asked)

    before, after = examination(0), examination(1)
    return Findings(
        lessons=lessons, before=before, after=after, rounds=[], paraphrases=None,
        others=compare_examinations(CONFIG, before.others, after.others),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"corrected": (0, 0)}, "0 of 2 corrected answers are given, as many as before (0)"),
        ({"corrected": (1, 1)}, "1 of 2 corrected answers are given, as many as before (1)"),
        ({"liked": (1, 0)}, "0 of 1 liked answers are given, 1 were before"),
        ({"others": (90, 87)}, "other questions: 87.0% right after 90.0%, a loss beyond 2.0%"),
        ({"bits": (0.5, 0.516)}, "chat validation: 0.5160 bits per byte after 0.5000, more than 0.5150"),
    ],
)
def test_one_thing_that_got_worse_is_enough_to_keep_the_old_model(given: dict[str, Any], reason: str) -> None:
    verdict = judge(CONFIG, findings(**given))
    assert not verdict.accepted
    (told,) = verdict.reasons
    assert told.startswith(reason)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"corrected": (0, 1)},
        {"others": (90, 88)},
        {"others": (90, 95)},
        {"others": None},
        {"bits": (0.5, 0.514)},
    ],
)
def test_what_stays_within_the_tolerance_is_accepted(given: dict[str, Any]) -> None:
    verdict = judge(CONFIG, findings(**given))
    assert verdict.accepted
    assert "corrected answers are given" in verdict.reasons[0]


def test_metrics_name_both_sides() -> None:
    metrics = findings(others=(90, 95), bits=(0.5, 0.4)).metrics()
    assert metrics["others.before"] == 0.9
    assert metrics["others.after"] == 0.95
    assert metrics["others.questions"] == 100
    assert metrics["bits_per_byte.chat.after"] == 0.4


def test_other_wordings_of_a_corrected_fact_are_asked_apart(tmp_path: Path) -> None:
    """Only where the correction agrees with the village; a question that was itself corrected is in neither group."""

    def question(number: int, text: str, place: str = "솔빛 찻집", type_: str = "open") -> dict[str, Any]:
        return {
            "id": number, "kind": "fact", "type": type_, "subject": [place, type_], "answer": "오전 10시",
            "messages": [{"role": "user", "content": text}],
        }  # fmt: skip

    rows = [
        question(0, "솔빛 찻집은 언제 열어요?"),
        question(1, "솔빛 찻집 여는 시간이요?"),
        question(2, "달빛 찻집은 언제 열어요?", "달빛 찻집"),
    ]
    with create_artefact(tmp_path / "village", kind="corpus") as draft:
        (draft.path / "questions.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        (draft.path / "timetable.json").write_text("{}")

    def ids(correction: str) -> tuple[list[int], list[int]]:
        taught = lesson("correction", "솔빛 찻집은 언제 열어요?", correction)
        village = open_village(tmp_path / "village", [taught], limit=0)
        assert village is not None
        return [q["id"] for q in village.paraphrases], [q["id"] for q in village.others]

    assert ids("솔빛 찻집은 오전 10시에 열어요.") == ([1], [2])
    assert ids("솔빛 찻집은 오전 11시에 열어요.") == ([], [1, 2])
    assert open_village(tmp_path, [], limit=0) is None
