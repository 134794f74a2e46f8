"""Puzzles as token shards with a tokeniser of single characters, and as prompts with their right answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hanok.artefacts import Artefact, create_artefact, open_artefact, write_jsonl
from hanok.data.puzzles.config import LedgerConfig, ParityConfig
from hanok.data.shards import SplitWriter, write_index
from hanok.data.tokenizer import Alphabet, tokenizer_files
from hanok.tokens.tokenizer import Conversation, Tokenizer

SOURCE, LICENCE = "hanok/puzzles", "CC0-1.0"


@dataclass(frozen=True, slots=True)
class Exercise:
    """Args: said: the answer to learn from. accepted: all right answers. given: first characters that are not learnt."""

    question: str
    said: str
    accepted: tuple[str, ...]
    given: int = 0


def write_puzzles(
    parts: Mapping[str, Sequence[Exercise]], out: Path, config: ParityConfig | LedgerConfig
) -> Artefact:
    """Kind "shards". Args: parts: chat-train, chat-validation, prompts; the second is also what practice is validated on."""
    tokenizer = character_tokenizer()
    with create_artefact(out, kind="shards", step=dataclasses.asdict(config)) as draft:
        records = {}
        for name in ("chat-train", "chat-validation"):
            said = [
                Conversation([*_asked(one), {"role": "assistant", "content": one.said}])
                for one in parts[name]
            ]
            with SplitWriter(draft.path, name, tokenizer) as writer:
                for one, chat in zip(parts[name], tokenizer.encode_chats(said), strict=True):
                    start = chat.loss_mask.index(True)  # a token a character
                    chat.loss_mask[start : start + one.given] = [False] * one.given
                    writer.write([tokenizer.bos_id, *chat.ids], [False, *chat.loss_mask])
            records[name] = writer.record()
        write_index(draft.path, tokenizer, records)
        for name, split in (("prompts", "prompts"), ("prompts-validation", "chat-validation")):
            write_jsonl(draft.path / f"{name}.jsonl", _rows(name, parts[split]))
        draft.metrics |= {name: len(some) for name, some in parts.items()}
    return open_artefact(out, kind="shards")


def character_tokenizer() -> Tokenizer:
    """A token each byte, and one each for the names of the speakers, which every conversation repeats."""
    merges = [(word[:end], word[end]) for word in ("user", "assistant") for end in range(1, len(word))]
    return Tokenizer(tokenizer_files(Alphabet.of([]), merges))


def _rows(name: str, exercises: Sequence[Exercise]) -> Iterator[dict[str, Any]]:
    for number, one in enumerate(exercises):
        yield {
            "id": f"{name}-{number}", "prompt": _asked(one), "answer": list(one.accepted), "source": SOURCE,
            "licence": LICENCE,
        }  # fmt: skip


def _asked(one: Exercise) -> list[dict[str, str]]:
    return [{"role": "user", "content": one.question}]
