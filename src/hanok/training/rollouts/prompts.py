"""Prompts to practise on (JSONL): {"id", "prompt": messages or text, ...}; rewards read the other columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hanok.errors import InputError
from hanok.reporting import log
from hanok.tokens.tokenizer import Tokenizer
from hanok.training.align.examples import prompt_ids
from hanok.training.align.preferences import messages_of, read_rows, tools_of


@dataclass(frozen=True, slots=True)
class Prompt:
    """Args: columns: all of the row but `prompt`."""

    name: str
    ids: tuple[int, ...]
    messages: Sequence[Mapping[str, Any]]
    columns: Mapping[str, Any]

    @property
    def num_tokens(self) -> int:
        return len(self.ids)


def read_prompts(file: Path, tokenizer: Tokenizer, *, max_tokens: int) -> list[Prompt]:
    """Prompts of at most `max_tokens`; longer ones are left out, counted and logged.

    Raises:
        InputError: a row without a prompt, or none that fits.
    """
    prompts, too_long = [], 0
    for where, row in read_rows(file):
        if "prompt" not in row:
            raise InputError(f'{where}: no "prompt"', remedy="a row is {id, prompt, ...}")
        messages = messages_of(where, row, "prompt", "user")
        tools = tools_of(where, row)
        try:
            ids = prompt_ids(tokenizer, messages, tools)
        except InputError as error:
            raise InputError(f"{where}: {error.message}", remedy=error.remedy) from error
        if len(ids) > max_tokens:
            too_long += 1
            continue
        columns = {key: value for key, value in row.items() if key != "prompt"}
        prompts.append(Prompt(str(row.get("id") or where.rpartition(" ")[2]), tuple(ids), messages, columns))
    if too_long:
        log.warning("%s: %d prompts left out: longer than %d tokens", file, too_long, max_tokens)
    if not prompts:
        raise InputError(
            f"{file}: no prompt to practise on", remedy="give shorter prompts, or raise max_seq_len"
        )
    return prompts
