"""What is judged: pairs of answers, or prompts to draw them for.

    {"prompt", "answers": [one, other]}                      or with `chosen`, `rejected` in place of `answers`
    {"input", "output_1", "output_2", "label": 1 | 2}        as LLMBar has them, in a JSON list
    {"question", "response_A", "response_B", "label": "A>B"} as JudgeBench has them

`id`, `source`, `licence`, `subset` (default: the file's name) and `label` (1, 2 or "tie": what people said) are optional.
A prompt is messages or a text; an answer a text, or messages of which the last counts.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hanok.chat import Message
from hanok.errors import InputError

_PROMPTS = ("prompt", "input", "question", "messages")
_ANSWERS = (("chosen", "rejected"), ("output_1", "output_2"), ("response_A", "response_B"))
_LABELS = {
    1: 1, "1": 1, "a>b": 1, "a": 1, 2: 2, "2": 2, "b>a": 2, "b": 2, 0: 0, "0": 0, "tie": 0, "a=b": 0,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class PairRow:
    """Args:
    answers: two, or none where they are to be drawn. label: 1 or 2, the better one; 0 a tie; None unknown.
    """

    id: str
    prompt: tuple[Message, ...]
    answers: tuple[str, str] | None
    label: int | None
    subset: str
    source: str
    licence: str


def read_pair_rows(
    files: Sequence[Path], *, drawn: bool, source: str = "", licence: str = ""
) -> list[PairRow]:
    """Rows of JSONL files (`.gz` too) and of JSON lists.

    Args:
        drawn: there are no answers yet. source, licence: of rows that do not say; default the file's name, and "unknown".

    Raises:
        InputError: a row that is not well formed, with its place; two rows with one id; nothing at all.
    """
    rows: list[PairRow] = []
    for file in files:
        name = file.name.split(".")[0]
        for number, value in enumerate(_values(file), 1):
            where = f"{file}, row {number}"
            if not isinstance(value, dict):
                raise InputError(f"{where}: expected an object, found {type(value).__name__}", remedy=_REMEDY)
            rows.append(_row(where, value, name, number, drawn, source or name, licence or "unknown"))
    seen: set[str] = set()
    for row in rows:
        if row.id in seen:
            raise InputError(f'two rows have the id "{row.id}"', remedy="give each row its own")
        seen.add(row.id)
    if not rows:
        raise InputError(f"no row in {', '.join(map(str, files))}", remedy=_REMEDY)
    return rows


_REMEDY = 'a row is {"prompt": ..., "answers": [one, other]}; docs/guides/judges.md shows more forms'


def _values(file: Path) -> Iterator[Any]:
    if not file.is_file():
        raise InputError(f"no file {file}", remedy="give a JSONL file, or a JSON file with a list")
    try:
        content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        text = content.decode("utf-8")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise InputError(f"{file} cannot be read ({error})", remedy="save it as UTF-8") from error
    if text.lstrip().startswith("["):
        try:
            yield from json.loads(text)
        except ValueError as error:
            raise InputError(f"{file} is not JSON ({error})", remedy="mend it") from error
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield json.loads(line)
            except ValueError as error:
                raise InputError(f"{file}, line {number}: not JSON ({error})", remedy="mend it") from error


def _row(
    where: str, value: Mapping[str, Any], file: str, number: int, drawn: bool, source: str, licence: str
) -> PairRow:
    column = next((name for name in _PROMPTS if value.get(name)), None)
    if column is None:
        raise InputError(f"{where}: no prompt", remedy=_REMEDY)
    label = value.get("label")
    known = (
        _LABELS.get(label.strip().lower() if isinstance(label, str) else label) if _is_word(label) else None
    )
    if label is not None and known is None:
        raise InputError(f"{where}: label = {label!r}", remedy='write 1, 2 or "tie"')
    return PairRow(
        id=str(value.get("id") or value.get("pair_id") or f"{file}-{number}"),
        prompt=_messages(where, value[column]),
        answers=None if drawn else _answers(where, value),
        label=None if drawn else known,
        subset=str(value.get("subset") or file),
        source=str(value.get("source") or source),
        licence=str(value.get("licence") or licence),
    )  # fmt: skip


def _is_word(label: Any) -> bool:
    return isinstance(label, str | int | float) and not isinstance(label, bool)


def _messages(where: str, value: Any) -> tuple[Message, ...]:
    if isinstance(value, str):
        return ({"role": "user", "content": value},)
    if isinstance(value, list) and all(isinstance(one, dict) and "role" in one for one in value):
        if value[-1]["role"] == "assistant":
            raise InputError(
                f"{where}: the prompt ends with an answer", remedy="leave out the assistant's last turn"
            )
        return tuple(value)
    raise InputError(f"{where}: the prompt is neither text nor messages", remedy=_REMEDY)


def _answers(where: str, value: Mapping[str, Any]) -> tuple[str, str]:
    both = value.get("answers")
    if both is None:
        names = next((pair for pair in _ANSWERS if all(name in value for name in pair)), None)
        both = [value[name] for name in names] if names else None
    if not isinstance(both, list) or len(both) != 2:
        raise InputError(f"{where}: no two answers", remedy=_REMEDY)
    one, other = (_text(where, answer) for answer in both)
    return one, other


def _text(where: str, answer: Any) -> str:
    if isinstance(answer, list) and answer and isinstance(answer[-1], dict):
        answer = answer[-1].get("content")
    if not isinstance(answer, str):
        raise InputError(f"{where}: an answer is neither text nor messages with text", remedy=_REMEDY)
    return answer


def shown(prompt: Sequence[Message]) -> str:
    """A conversation as a judge reads it; one question stands alone."""
    if len(prompt) == 1:
        return str(prompt[0].get("content") or "")
    return "\n".join(f"{message['role']}: {message.get('content') or ''}" for message in prompt)


def digest(*parts: object) -> str:
    return hashlib.sha256("\x1f".join(map(str, parts)).encode()).hexdigest()
