"""From judgements to what is learnt: one lesson a question, and pairs of a better and a worse answer.

Of several judgements of one question the newest decides, but a bare thumbs-down does not undo an earlier correction.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hanok.data.corpus import CorpusWriter, Document
from hanok.improvement.feedback import Judgement, Message, Refused

SOURCE, LICENCE = "feedback", "users of this run"


@dataclass(frozen=True, kw_only=True, slots=True)
class Lesson:
    """A question and the answer to give. `judged` is the answer that was given then."""

    id: str
    kind: Literal["correction", "liked"]
    prompt: Sequence[Message]
    answer: Message
    judged: Message
    tools: Sequence[Any] | None
    judgement: Judgement

    @property
    def messages(self) -> list[dict[str, Any]]:
        return [dict(message) for message in (*self.prompt, self.answer)]

    @property
    def question(self) -> str:
        """What was asked last, for people to read."""
        return str(self.prompt[-1].get("content") or "")


@dataclass(frozen=True, slots=True)
class Lessons:
    lessons: list[Lesson]
    preferences: list[dict[str, Any]]
    refused: list[Refused]


def draw_lessons(judgements: Sequence[Judgement]) -> Lessons:
    """Args:
    judgements: oldest first.
    """
    by_question: dict[str, list[Judgement]] = {}
    for judgement in judgements:
        by_question.setdefault(judgement.key, []).append(judgement)
    result = Lessons([], [], [])
    for group in by_question.values():
        lesson = _decide(group, result.refused)
        if lesson is not None:
            result.lessons.append(lesson)
            result.preferences.extend(_preferences(lesson, group))
    return result


def write_corpus(lessons: Sequence[Lesson], directory: Path) -> None:
    """The lessons as conversations; each row says where it came from."""
    with CorpusWriter(directory) as writer:
        for lesson in lessons:
            judgement = lesson.judgement
            meta = {
                "kind": lesson.kind, "request_id": judgement.request_id, "model_hash": judgement.model_hash,
                "user": judgement.user, "reason": judgement.reason, "clean": "exempt", "split": "train",
            }  # fmt: skip
            tools = {"tools": list(lesson.tools)} if lesson.tools else {}
            writer.write(
                Document(
                    id=lesson.id, source=SOURCE, licence=LICENCE, messages=lesson.messages, group=judgement.key,
                    meta=meta | tools,
                )
            )  # fmt: skip


def words(message: Message) -> str:
    """The text of a message and the calls in it, for comparing and showing."""
    calls = [
        f"{call['function']['name']}({_plain(call['function'].get('arguments'))})"
        for call in message.get("tool_calls") or ()
    ]
    return "\n".join([*filter(None, [str(message.get("content") or "").strip()]), *calls])


def _plain(arguments: Any) -> str:
    """Arguments in one spelling."""
    try:
        value = json.loads(arguments) if isinstance(arguments, str) else arguments
    except ValueError:
        return str(arguments)
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def _decide(group: Sequence[Judgement], refused: list[Refused]) -> Lesson | None:
    """The lesson of one question, or None; all other judgements of it are refused with a reason."""
    chosen: Judgement | None = None
    for judgement in reversed(group):
        problem = _unusable(judgement, group)
        if problem is None and chosen is not None:
            problem = f"superseded by {chosen.id}, a later judgement of the same question"
        if problem is not None:
            refused.append(Refused(judgement.id, problem))
            continue
        chosen = judgement
    return None if chosen is None else _lesson(chosen)


def _unusable(judgement: Judgement, group: Sequence[Judgement]) -> str | None:
    """Why a judgement by itself teaches nothing."""
    said = words(judgement.answer)
    if judgement.correction is not None:
        if judgement.rating == -1 and judgement.correction == said:
            return "the correction is the answer that it corrects"
        return None
    if judgement.rating == -1:
        return "a thumbs-down without a correction does not say what to learn"
    if not said:
        return "an empty answer was liked"
    later = group[[other.id for other in group].index(judgement.id) + 1 :]
    if any(other.rating == -1 and words(other.answer) == said for other in later):
        return "the same answer was disliked later"
    return None


def _lesson(judgement: Judgement) -> Lesson:
    corrected = judgement.correction is not None and judgement.correction != words(judgement.answer)
    answer = {"role": "assistant", "content": judgement.correction} if corrected else judgement.answer
    return Lesson(
        id=judgement.id, kind="correction" if corrected else "liked", prompt=judgement.prompt, answer=answer,
        judged=judgement.answer, tools=judgement.tools, judgement=judgement,
    )  # fmt: skip


def _preferences(lesson: Lesson, group: Sequence[Judgement]) -> Iterator[dict[str, Any]]:
    """The lesson's answer before each answer to the same question that was disliked or corrected."""
    seen = {words(lesson.answer)}
    for judgement in group:
        said = words(judgement.answer)
        worse = judgement.rating == -1 or judgement.correction is not None
        if not worse or not said or said in seen:
            continue
        seen.add(said)
        yield _preference(lesson, judgement)


def _preference(lesson: Lesson, worse: Judgement) -> dict[str, Any]:
    """A row of `preferences.jsonl`."""
    return {
        "id": f"{lesson.id}>{worse.id}", "lesson": lesson.id, "prompt": [dict(message) for message in lesson.prompt],
        "chosen": [dict(lesson.answer)], "rejected": [dict(worse.answer)],
        "tools": list(lesson.tools) if lesson.tools else None, "source": SOURCE, "licence": LICENCE,
        "annotator": worse.user, "reason": worse.reason, "request_id": worse.request_id, "model_hash": worse.model_hash,
    }  # fmt: skip
