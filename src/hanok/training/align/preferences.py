"""Reads preferences (JSONL) and encodes them with the model's chat template.

    {"id", "prompt": messages, "chosen": messages, "rejected": messages, ...}     pairs; "margin" for reward models
    {"id", "prompt": messages, "completion": messages, "label": true | false}     single answers, KTO alone

Instead of messages a text may stand: one of the user's as the prompt, one of the assistant's as an answer. Without
`prompt` it is what both conversations begin with. Rows that are well formed and teach nothing are left out, counted and
logged: equal sides, an empty answer, too long. A row that is not well formed is an error with its line.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hanok.errors import InputError
from hanok.reporting import log
from hanok.tokens.tokenizer import Tokenizer
from hanok.training.align.examples import Judged, Pair, answer_ids, joined, prompt_ids

Messages = Sequence[Mapping[str, Any]]
_REMEDY = "a row is {id, prompt, chosen, rejected}; docs/guides/align.md shows one"


@dataclass(frozen=True, slots=True)
class _Encoded:
    name: str
    prompt: list[int]
    answer: tuple[list[int], list[bool]]
    desirable: bool


def read_rows(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where each row stands, and the row.

    Raises:
        InputError: no such file, not UTF-8, or a line that is no JSON object.
    """
    if not file.is_file():
        raise InputError(f"no file {file}", remedy="give a JSONL file")
    try:
        lines = file.read_text(encoding="utf-8").split("\n")  # `splitlines` cuts at U+2028, too
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is not UTF-8 ({error})", remedy="save it as UTF-8") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{file}, line {number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InputError(f"{where}: not JSON ({error})", remedy="mend or delete the line") from error
        if not isinstance(row, dict):
            raise InputError(f"{where}: expected an object, found {type(row).__name__}", remedy=_REMEDY)
        yield where, row


def read_pairs(file: Path, tokenizer: Tokenizer, *, max_seq_len: int) -> list[Pair]:
    """Raises InputError: a row that is not well formed, or no row that can be learnt from."""
    pairs: list[Pair] = []
    left_out: Counter[str] = Counter()
    for where, row in read_rows(file):
        sides = _pair_of(where, row, tokenizer)
        fault = _fault(sides, max_seq_len) or ("equal sides" if sides[0].answer == sides[1].answer else "")
        if fault:
            left_out[fault] += 1
            continue
        chosen, rejected = (joined(side.prompt, *side.answer, side.name) for side in sides)
        pairs.append(Pair(sides[0].name, chosen, rejected, margin=_margin_of(where, row)))
    _say(file, len(pairs), left_out)
    return pairs


def read_judged(file: Path, tokenizer: Tokenizer, *, max_seq_len: int) -> list[Judged]:
    """Single answers; of a pair, both. Raises InputError as `read_pairs` does, or if all verdicts are the same."""
    answers: list[_Encoded] = []
    left_out: Counter[str] = Counter()
    for where, row in read_rows(file):
        sides = [_single_of(where, row, tokenizer)] if "label" in row else _pair_of(where, row, tokenizer)
        for side in sides:
            if fault := _fault([side], max_seq_len):
                left_out[fault] += 1
            else:
                answers.append(side)
    _say(file, len(answers), left_out)
    if len({answer.desirable for answer in answers}) < 2:
        raise InputError(f"{file}: all answers have the same label", remedy="KTO needs good and bad answers")
    return [
        Judged(
            one.name, joined(one.prompt, *one.answer, one.name),
            joined(one.prompt, *_other(answers, place, max_seq_len), one.name), one.desirable,
        )
        for place, one in enumerate(answers)
    ]  # fmt: skip


def _other(answers: Sequence[_Encoded], place: int, max_seq_len: int) -> tuple[list[int], list[bool]]:
    """The next answer to another prompt that fits behind this one, in a ring."""
    mine = answers[place]
    for step in range(1, len(answers)):
        other = answers[(place + step) % len(answers)]
        if other.prompt != mine.prompt and len(mine.prompt) + len(other.answer[0]) <= max_seq_len + 1:
            return other.answer
    raise InputError("all answers are to one prompt", remedy="KTO compares answers across prompts")


def _pair_of(where: str, row: Mapping[str, Any], tokenizer: Tokenizer) -> list[_Encoded]:
    """Chosen and rejected."""
    for column in ("chosen", "rejected"):
        if column not in row:
            raise InputError(f'{where}: no "{column}"', remedy=_REMEDY)
    chosen, rejected = (messages_of(where, row, column, "assistant") for column in ("chosen", "rejected"))
    if "prompt" in row:
        prompt = messages_of(where, row, "prompt", "user")
    else:
        shared = 0
        while shared < min(len(chosen), len(rejected)) and chosen[shared] == rejected[shared]:
            shared += 1
        shared = min(shared, len(chosen) - 1, len(rejected) - 1)
        prompt, chosen, rejected = chosen[:shared], chosen[shared:], rejected[shared:]
    return [
        _encoded(where, row, prompt, answer, tokenizer, desirable=desirable)
        for answer, desirable in ((chosen, True), (rejected, False))
    ]


def _margin_of(where: str, row: Mapping[str, Any]) -> float:
    margin = row.get("margin", 0.0)
    if isinstance(margin, bool) or not isinstance(margin, int | float) or not 0 <= margin < math.inf:
        raise InputError(
            f"{where}: margin = {margin!r}",
            remedy="write how much better the chosen answer is: a number from 0 up, or leave it out",
        )
    return float(margin)


def _single_of(where: str, row: Mapping[str, Any], tokenizer: Tokenizer) -> _Encoded:
    for column in ("prompt", "completion"):
        if column not in row:
            raise InputError(f'{where}: no "{column}"', remedy="a row is {id, prompt, completion, label}")
    if not isinstance(row["label"], bool):
        raise InputError(f"{where}: label = {row['label']!r}", remedy="write true or false")
    prompt, answer = (
        messages_of(where, row, "prompt", "user"),
        messages_of(where, row, "completion", "assistant"),
    )
    return _encoded(where, row, prompt, answer, tokenizer, desirable=row["label"])


def messages_of(where: str, row: Mapping[str, Any], column: str, role: str) -> Messages:
    """A column of messages, or of text that stands for one message of `role`. Raises InputError for anything else."""
    value = row[column]
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    if isinstance(value, list) and value and all(isinstance(one, dict) and "role" in one for one in value):
        return value
    raise InputError(
        f'{where}: "{column}" is neither text nor a list of messages',
        remedy='write [{"role": ..., "content": ...}]',
    )


def tools_of(where: str, row: Mapping[str, Any]) -> Sequence[Any] | None:
    """Raises InputError: they are no list."""
    tools = row.get("tools")
    if tools is not None and not isinstance(tools, list):
        raise InputError(
            f'{where}: "tools" is no list', remedy="write a list of functions, as in OpenAI's API"
        )
    return tools


def _encoded(
    where: str, row: Mapping[str, Any], prompt: Messages, answer: Messages, tokenizer: Tokenizer, *, desirable: bool
) -> _Encoded:  # fmt: skip
    if not prompt:
        raise InputError(f"{where}: no prompt", remedy="both answers must follow the same messages")
    name = str(row.get("id") or where.rpartition(" ")[2])
    tools = tools_of(where, row)
    try:
        ids = prompt_ids(tokenizer, prompt, tools)
        if not any(str(one.get("content") or "").strip() or one.get("tool_calls") for one in answer):
            return _Encoded(name, ids, ([], []), desirable)
        return _Encoded(name, ids, answer_ids(tokenizer, ids, prompt, answer, tools), desirable)
    except InputError as error:
        raise InputError(f"{where}: {error.message}", remedy=error.remedy) from error


def _fault(sides: Sequence[_Encoded], max_seq_len: int) -> str:
    if any(not any(side.answer[1]) for side in sides):
        return "an empty answer"
    if any(len(side.prompt) + len(side.answer[0]) > max_seq_len + 1 for side in sides):
        return f"longer than max_seq_len = {max_seq_len}"
    return ""


def _say(file: Path, kept: int, left_out: Counter[str]) -> None:
    for fault, count in sorted(left_out.items()):
        log.warning("%s: %d left out: %s", file, count, fault)
    if not kept:
        why = ", ".join(f"{count} with {fault}" for fault, count in sorted(left_out.items())) or "it is empty"
        raise InputError(f"{file}: no preference to learn from ({why})", remedy=_REMEDY)
