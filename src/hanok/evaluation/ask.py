"""Asks a model questions through the engine's types, and runs the tools that it calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from hanok.engine.api import Completion, Request, SamplingParams
from hanok.engine.text import chat_prompt
from hanok.evaluation.config import VerifyConfig
from hanok.reporting import progress
from hanok.tokens.tokenizer import Tokenizer

Question = Mapping[str, Any]
Execute = Callable[[Mapping[str, Any]], str]
AT_A_TIME = 512


class Generates(Protocol):
    """The one method of `hanok.engine.api.Engine` that is needed."""

    def generate(self, requests: Sequence[Request]) -> list[Completion]: ...


@dataclass(slots=True)
class Answer:
    """The last thing that the model said, and the tool calls that it made on the way."""

    text: str = ""
    tool_calls: list[dict[str, Any]] = field(default_factory=list)
    tokens: int = 0
    finish_reason: str = "stop"


def ask(
    engine: Generates,
    tokenizer: Tokenizer,
    questions: Sequence[Question],
    config: VerifyConfig,
    execute: Execute,
) -> list[Answer]:
    """Answers in the order of the questions; greedy, so that the same model always says the same.

    Args:
        questions: rows with `messages` (ending in what to answer) and perhaps `tools`.
        execute: runs one tool call (OpenAI form) and returns its result.
    """
    answers = [Answer() for _ in questions]
    order = sorted(
        range(len(questions)), key=lambda i: str(questions[i].get("kind"))
    )  # similar lengths together
    with progress("questions", len(questions), "questions") as bar:
        for start in range(0, len(order), AT_A_TIME):
            chunk = order[start : start + AT_A_TIME]
            _ask_some(engine, tokenizer, {i: questions[i] for i in chunk}, answers, config, execute)
            bar.advance(len(chunk))
    return answers


def _ask_some(
    engine: Generates,
    tokenizer: Tokenizer,
    questions: Mapping[int, Question],
    answers: list[Answer],
    config: VerifyConfig,
    execute: Execute,
) -> None:
    messages = {i: list(question["messages"]) for i, question in questions.items()}
    waiting = list(questions)
    for round_ in range(config.tool_rounds + 1):
        requests = [
            Request(
                id=f"{i}-{round_}",
                prompt_ids=chat_prompt(tokenizer, messages[i], tools=questions[i].get("tools")),
                params=SamplingParams(
                    max_tokens=config.max_new_tokens, temperature=0.0, stop_ids=tokenizer.stop_ids
                ),
            )
            for i in waiting
        ]
        again = []
        for i, completion in zip(waiting, engine.generate(requests), strict=True):
            text, calls = tokenizer.parse_assistant(completion.ids)
            answer = answers[i]
            answer.text, answer.finish_reason = text, completion.finish_reason
            answer.tokens += len(completion.ids)
            answer.tool_calls += calls
            if calls:
                messages[i] += [
                    {"role": "assistant", "content": text, "tool_calls": calls},
                    *_results(calls, execute),
                ]
                again.append(i)
        waiting = again
        if not waiting:
            return


def _results(calls: Sequence[Mapping[str, Any]], execute: Execute) -> Iterator[dict[str, Any]]:
    for call in calls:
        yield {"role": "tool", "content": execute(call), "tool_call_id": call["id"]}
