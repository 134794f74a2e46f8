"""Token shards of an improvement: the lessons, a replay of the run's own training chats, and its validation splits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hanok.artefacts import Artefact, create_artefact, open_artefact
from hanok.artefacts.shard_writer import SplitWriter, write_index
from hanok.artefacts.shards import Shards, TokenSplit
from hanok.engine.text import chat_prompt
from hanok.errors import InputError
from hanok.improvement.config import ImproveConfig
from hanok.improvement.feedback import Refused
from hanok.improvement.lessons import Lesson
from hanok.tokens.tokenizer import Tokenizer

LESSONS, REPLAYS = "chat-lessons", ("chat-replay", "text-replay")


def encode_lesson(lesson: Lesson, tokenizer: Tokenizer) -> tuple[list[int], list[bool]]:
    """Ids, and what is learnt of them: the last answer alone, since nobody judged the earlier ones.

    Raises:
        InputError: the chat template refuses the conversation.
    """
    chat = tokenizer.encode_chat(lesson.messages, tools=lesson.tools)
    mask = np.array([False, *chat.loss_mask])
    if not mask.any():
        raise InputError("the chat template does not say which words are the assistant's")
    start = last = int(np.flatnonzero(mask)[-1]) + 1
    while mask[start - 1]:
        start -= 1
    learnt = np.zeros(len(mask), dtype=bool)
    learnt[start:last] = True
    return [tokenizer.bos_id, *chat.ids], learnt.tolist()


def fitting(
    lessons: Sequence[Lesson], tokenizer: Tokenizer, *, max_seq_len: int
) -> tuple[list[Lesson], list[Refused]]:
    """Lessons that the template takes and that are not too long, and why the others are none."""
    kept: list[Lesson] = []
    refused: list[Refused] = []
    for lesson in lessons:
        try:
            length = len(encode_lesson(lesson, tokenizer)[0])
        except InputError as error:
            refused.append(Refused(lesson.id, error.message))
            continue
        if length - 1 > max_seq_len:
            refused.append(Refused(lesson.id, f"{length} tokens, longer than {max_seq_len}"))
        else:
            kept.append(lesson)
    return kept, refused


def write_lesson_shards(
    config: ImproveConfig, lessons: Sequence[Lesson], *, tokenizer: Tokenizer, run_shards: Shards,
    parents: Mapping[str, Artefact], max_seq_len: int, out: Path,
) -> Artefact:  # fmt: skip
    """Kind "shards", with the splits `chat-lessons`, a replay, and the run's validation splits as far as they are used."""
    run_shards.require_tokenizer(tokenizer.hash)
    needed = round(config.rounds * config.steps * config.tokens_per_step * config.replay)
    prompts = [chat_prompt(tokenizer, lesson.prompt, tools=lesson.tools) for lesson in lessons]
    with create_artefact(out, kind="shards", parents=parents, step={"replay_tokens": needed}) as draft:
        records = [_write(draft.path, LESSONS, (encode_lesson(one, tokenizer) for one in lessons), tokenizer)]
        if needed:
            name, split = _source_of_replay(run_shards)
            documents = _replay(split, needed, prompts, max_seq_len=max_seq_len, seed=config.seed)
            records.append(_write(draft.path, name, documents, tokenizer))
        for kind in ("chat", "text"):
            split = run_shards.splits.get(f"{kind}-validation")
            if split is not None and split.num_documents:
                records.append(
                    _write(draft.path, split.name, _first(split, config.bits_tokens, prompts), tokenizer)
                )
        write_index(draft.path, tokenizer, dict(records))
        draft.metrics |= {f"{name}.tokens": record["tokens"] for name, record in records}
    return open_artefact(out, kind="shards")


Tokens = tuple[Sequence[int], Sequence[bool] | None]


def _write(
    directory: Path, name: str, documents: Iterable[Tokens], tokenizer: Tokenizer
) -> tuple[str, dict[str, Any]]:
    with SplitWriter(directory, name, tokenizer) as writer:
        for ids, mask in documents:
            writer.write(ids, mask)
    return name, writer.record()


def _source_of_replay(shards: Shards) -> tuple[str, TokenSplit]:
    """Chats if the run was trained on any; else its texts."""
    for name, train in zip(REPLAYS, ("chat-train", "text-train"), strict=True):
        split = shards.splits.get(train)
        if split is not None and split.num_documents:
            return name, split
    raise InputError(f"{shards.path} holds nothing to replay", remedy="set replay to 0")


def _replay(
    split: TokenSplit, tokens: int, prompts: Sequence[Sequence[int]], *, max_seq_len: int, seed: int
) -> Iterator[Tokens]:
    """Documents in random order until there are enough tokens."""
    order = np.random.default_rng(seed).permutation(split.num_documents)
    for ids, mask in _others(split, order.tolist(), prompts):
        if tokens <= 0:
            return
        if mask is None or len(ids) - 1 <= max_seq_len:
            tokens -= len(ids)
            yield ids, mask


def _first(split: TokenSplit, tokens: int, prompts: Sequence[Sequence[int]]) -> Iterator[Tokens]:
    for ids, mask in _others(split, range(split.num_documents), prompts):
        if tokens <= 0:
            return
        tokens -= len(ids)
        yield ids, mask


def _others(split: TokenSplit, order: Iterable[int], prompts: Sequence[Sequence[int]]) -> Iterator[Tokens]:
    """Documents that do not ask what a lesson answers: they would contradict it."""
    asked = [np.asarray(prompt) for prompt in prompts]
    for document in order:
        ids, mask = split.document(document)
        if not any(np.array_equal(ids[: len(prompt)], prompt) for prompt in asked):
            yield ids.tolist(), None if mask is None else mask.tolist()
