"""What feedback becomes: lessons, preference pairs, and reasons for what is left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hanok.artefacts import open_artefact
from hanok.artefacts.shards import open_shards
from hanok.data.corpus import read_corpus
from hanok.engine.text import chat_prompt
from hanok.errors import ConfigError, InputError
from hanok.improvement.config import ImproveConfig
from hanok.improvement.feedback import Judgement, digest, read_feedback
from hanok.improvement.lessons import Lessons, draw_lessons, words, write_corpus
from hanok.improvement.shards import encode_lesson, fitting, write_lesson_shards
from hanok.store.database import Feedback, Store
from hanok.tokens.tokenizer import Tokenizer

ASKED = {"role": "user", "content": "언제 열어요?"}
SAID = {"role": "assistant", "content": "아홉 시예요."}
CALL = {"id": "call_1", "type": "function", "function": {"name": "hours", "arguments": '{"b": 1, "a": 2}'}}


def rows(tmp_path: Path, *given: Any) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in given]
    file = tmp_path / "feedback.jsonl"
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


def row(
    rating: int = 1, correction: str | None = None, said: Any = SAID, asked: Any = ASKED, **more: Any
) -> dict[str, Any]:
    answer = {"role": "assistant", "content": said} if isinstance(said, str) else said
    return {"messages": [asked, answer], "rating": rating, "correction": correction, **more}


def draw(tmp_path: Path, *given: Any) -> Lessons:
    judgements, refused = read_feedback(rows(tmp_path, *given))
    assert refused == []
    return draw_lessons(judgements)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("{broken", "not JSON"),
        ("[1]", "expected an object, found list"),
        ({"rating": 1}, "messages must hold a question and the answer"),
        ({"messages": [ASKED], "rating": 1}, "messages must hold a question and the answer"),
        ({"messages": [SAID, ASKED], "rating": 1}, "the last message is the user's"),
        ({"messages": [SAID, SAID], "rating": 1}, "nothing was asked before the answer"),
        ({"messages": [{"role": "king", "content": "x"}, SAID], "rating": 1}, "messages[0].role = 'king'"),
        ({"messages": [{"role": "user", "content": 1}, SAID], "rating": 1}, "messages[0].content is int"),
        ({"messages": [ASKED, SAID], "rating": 0}, "rating = 0: it must be 1 or -1"),
        ({"messages": [ASKED, SAID], "rating": True}, "rating = True"),
        ({"messages": [ASKED, SAID], "rating": "1"}, "rating = '1'"),
        ({"messages": [ASKED, SAID]}, "rating = None"),
        ({"messages": [ASKED, SAID], "rating": -1, "correction": 5}, "correction is int, not a text"),
        ({"messages": [ASKED, SAID], "rating": 1, "tools": "x"}, "tools is str, not a list"),
    ],
)
def test_rows_that_cannot_be_read_are_refused_with_a_reason(tmp_path: Path, given: Any, reason: str) -> None:
    judgements, (refused,) = read_feedback(rows(tmp_path, row(), "", given))
    assert len(judgements) == 1
    assert refused.row == "feedback.jsonl:3"
    assert reason in refused.reason


def test_files_that_are_no_feedback_are_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no feedback at"):
        read_feedback(tmp_path / "feedback.sqlite")
    assert not (tmp_path / "feedback.sqlite").exists()
    file = tmp_path / "korean.jsonl"
    file.write_bytes("가".encode("cp949"))
    with pytest.raises(InputError, match="not UTF-8"):
        read_feedback(file)


def test_the_database_and_a_file_say_the_same(tmp_path: Path) -> None:
    with Store(tmp_path / "feedback.sqlite") as store:
        for number, given in enumerate((row(), row(-1, "열 시예요.", user="영희", reason="틀림"))):
            store.add_feedback(
                Feedback(
                    **given,
                    request_id=f"r{number}",
                    model_hash="ab",
                    created=1.0 + number,
                    id=f"fb-{number}",
                )
            )
    stored, refused = read_feedback(tmp_path / "feedback.sqlite")
    assert refused == []
    assert [(one.id, one.rating, one.correction, one.user) for one in stored] == [
        ("fb-0", 1, None, ""), ("fb-1", -1, "열 시예요.", "영희"),
    ]  # fmt: skip
    file = rows(
        tmp_path,
        row(
            id="fb-1",
            rating=-1,
            correction=" 열 시예요. ",
            user="영희",
            reason="틀림",
            request_id="r1",
            model_hash="ab",
        ),
        row(id="fb-0", request_id="r0", model_hash="ab"),
    )
    read, _ = read_feedback(file)
    assert sorted(read, key=lambda one: one.id) == stored
    assert digest(read) == digest(stored) != digest(stored[:1])


def test_a_correction_is_learnt_and_a_liked_answer_is_kept(tmp_path: Path) -> None:
    drawn = draw(tmp_path, row(-1, "열 시예요."), row(1, asked={"role": "user", "content": "어디예요?"}))
    assert [(one.kind, one.answer["content"]) for one in drawn.lessons] == [
        ("correction", "열 시예요."), ("liked", "아홉 시예요."),
    ]  # fmt: skip
    (pair,) = drawn.preferences
    assert (pair["prompt"], pair["chosen"], pair["rejected"]) == (
        [ASKED], [{"role": "assistant", "content": "열 시예요."}], [SAID],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (row(-1), "does not say what to learn"),
        (row(-1, "아홉 시예요."), "is the answer that it corrects"),
        (row(1, said=" "), "an empty answer was liked"),
    ],
)
def test_judgements_that_teach_nothing(tmp_path: Path, given: Any, reason: str) -> None:
    drawn = draw(tmp_path, given)
    assert drawn.lessons == []
    assert reason in drawn.refused[0].reason


def test_the_newest_judgement_of_a_question_decides(tmp_path: Path) -> None:
    drawn = draw(tmp_path, row(-1, "열 시예요."), row(-1, "열한 시예요."))
    assert [one.answer["content"] for one in drawn.lessons] == ["열한 시예요."]
    assert [(one.row, "superseded by feedback.jsonl:2" in one.reason) for one in drawn.refused] == [
        ("feedback.jsonl:1", True)
    ]
    liked_later = draw(tmp_path, row(-1, "열 시예요."), row(1))
    assert [(one.kind, one.answer["content"]) for one in liked_later.lessons] == [("liked", "아홉 시예요.")]


def test_a_bare_thumbs_down_undoes_a_like_but_no_correction(tmp_path: Path) -> None:
    assert draw(tmp_path, row(1), row(-1)).lessons == []
    assert draw(tmp_path, row(-1), row(1)).lessons[0].kind == "liked"
    (kept,) = draw(tmp_path, row(-1, "열 시예요."), row(-1)).lessons
    assert (kept.kind, kept.answer["content"]) == ("correction", "열 시예요.")


def test_every_worse_answer_to_a_question_makes_one_pair(tmp_path: Path) -> None:
    drawn = draw(
        tmp_path, row(-1, said="여덟 시예요.", user="철수"), row(-1, said="여덟 시예요."), row(-1, said="일곱 시예요."),
        row(1), row(1, said="다른 말", asked={"role": "user", "content": "?"}),
    )  # fmt: skip
    assert [(pair["chosen"][0]["content"], pair["rejected"][0]["content"]) for pair in drawn.preferences] == [
        ("아홉 시예요.", "여덟 시예요."), ("아홉 시예요.", "일곱 시예요."),
    ]  # fmt: skip
    assert drawn.preferences[0]["annotator"] == "철수"


def test_tools_and_earlier_turns_are_part_of_the_question(tmp_path: Path) -> None:
    tools = [{"type": "function", "function": {"name": "hours"}}]
    called = {"role": "assistant", "content": "", "tool_calls": [CALL]}
    drawn = draw(tmp_path, row(), row(said=called, tools=tools))
    assert len(drawn.lessons) == 2
    assert words(drawn.lessons[1].answer) == 'hours({"a": 2, "b": 1})'
    result = {"role": "tool", "content": "9-17", "tool_call_id": "call_1"}
    again = {**called, "tool_calls": [{**CALL, "id": "call_2"}]}
    two = [
        Judgement(id=str(n), prompt=[ASKED, one, result], answer=SAID, rating=1, tools=tools)
        for n, one in enumerate((called, again))
    ]
    assert two[0].key == two[1].key


def test_the_corpus_tells_where_each_lesson_came_from(tmp_path: Path) -> None:
    tools = [{"type": "function", "function": {"name": "hours"}}]
    drawn = draw(tmp_path, row(-1, "열 시예요.", request_id="r1", model_hash="ab", user="영희", tools=tools))
    write_corpus(drawn.lessons, tmp_path / "corpus")
    (document,) = read_corpus(tmp_path / "corpus")
    assert document.messages == [ASKED, {"role": "assistant", "content": "열 시예요."}]
    assert document.source == "feedback"
    expected = {"kind": "correction", "request_id": "r1", "model_hash": "ab", "user": "영희", "tools": tools}
    assert expected.items() <= document.meta.items()


def test_only_the_judged_answer_is_learnt(tmp_path: Path, tokenizer: Tokenizer) -> None:
    earlier = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "never judged"}]
    given = {"messages": [*earlier, ASKED, SAID], "rating": -1, "correction": "열 시"}
    (lesson,) = draw(tmp_path, given).lessons
    ids, mask = encode_lesson(lesson, tokenizer)
    learnt = [token for token, one in zip(ids, mask, strict=True) if one]
    assert tokenizer.decode(learnt) == "열 시"
    assert learnt[-1] == tokenizer.special["<|im_end|>"]
    assert ids[: mask.index(True)] == chat_prompt(tokenizer, lesson.prompt)


def test_what_does_not_fit_is_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    drawn = draw(tmp_path, row(-1, "x" * 300), row(asked={"role": "user", "content": "?"}))
    kept, (refused,) = fitting(drawn.lessons, tokenizer, max_seq_len=128)
    assert [one.kind for one in kept] == ["liked"]
    assert refused.row == "feedback.jsonl:1"
    assert "longer than 128" in refused.reason


def test_shards_replay_all_but_what_is_corrected(
    tmp_path: Path, tokenizer: Tokenizer, finished_run: Path
) -> None:
    red = {"role": "user", "content": "red?"}
    (lesson,) = draw(tmp_path, row(-1, "a ruby", said="a rose", asked=red)).lessons
    config = ImproveConfig(rounds=1, steps=2, tokens_per_step=512, bits_tokens=60)
    opened = open_shards(finished_run / "shards")
    parents = {"shards": open_artefact(finished_run / "shards")}
    made = write_lesson_shards(
        config,
        [lesson],
        tokenizer=tokenizer,
        run_shards=opened,
        parents=parents,
        max_seq_len=64,
        out=tmp_path / "shards",
    )
    splits = open_shards(made.path).splits
    assert set(splits) == {"chat-lessons", "chat-replay", "chat-validation"}
    assert splits["chat-lessons"].num_documents == 1
    replay = splits["chat-replay"]
    assert replay.num_tokens >= 2 * 512 * 0.75
    texts = {tokenizer.decode(replay.document(i)[0].tolist()) for i in range(replay.num_documents)}
    assert len(texts) == 7
    assert not any("red?" in text for text in texts)
    tokens, mask = replay.document(0)
    assert mask is not None
    original = opened.splits["chat-train"]
    assert any(
        np.array_equal(tokens, original.document(i)[0]) and np.array_equal(mask, original.document(i)[1])  # type: ignore[arg-type]
        for i in range(original.num_documents)
    )
    validation = splits["chat-validation"]
    assert "red?" not in tokenizer.decode(validation.tokens.tolist())
    assert 0 < splits["chat-validation"].num_documents < 8


@pytest.mark.parametrize(
    ("name", "value"),
    [("replay", 1.0), ("rounds", 0), ("muon_lr", 0.0), ("tolerance", -0.1), ("questions", -1)],
)
def test_settings_are_checked(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=name):
        ImproveConfig(**{name: value})  # type: ignore[arg-type]
