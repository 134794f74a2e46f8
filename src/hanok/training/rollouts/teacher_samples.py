"""The teacher's own answers, written once as token shards: what a student is fine-tuned on, or scored on.

out/   token shards with one split, `chat-train`: prompt and answer of each, of which the answer is learnt

What is being written lies in a file beside the result, a line a step; a killed run goes on behind the last whole line.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hanok.artefacts import Artefact, append_jsonl, create_artefact, open_artefact, write_atomic
from hanok.artefacts.shard_writer import SplitWriter, write_index
from hanok.errors import InputError
from hanok.reporting import log, progress
from hanok.tokens.tokenizer import Tokenizer
from hanok.training.checkpoint import disk_full_is_resumable
from hanok.training.rollouts.asking import Asks
from hanok.training.rollouts.generator import Generator
from hanok.training.rollouts.prompts import Prompt

SPLIT = "chat-train"
_AT_ONCE = 256  # prompts that are answered together
_FRUITLESS = 100  # steps without a prompt that fits, after which there will be none


def write_teacher_samples(
    path: Path, generator: Generator, asks: Asks, tokenizer: Tokenizer, *, count: int, group_size: int,
    parents: Mapping[str, Artefact], step: Mapping[str, Any],
) -> Artefact:  # fmt: skip
    """Kind "shards": `count` answers to the first prompts of `asks`.

    Raises:
        InputError: no prompt fits.
    """
    partial = path.with_name(f".{path.name}.partial.jsonl")
    identity = json.loads(
        json.dumps({"parents": {k: v.hash for k, v in parents.items()}, "step": dict(step)})
    )
    with disk_full_is_resumable(path):
        lines = _whole_lines(partial, identity)
        if lines:
            asks.restore(lines[-1]["state"])
        done = sum(len(line["rows"]) for line in lines)
        with progress("teacher", count - done, "answers") as bar:
            while done < count:
                prompts = _enough(asks)
                prompts = prompts[: -(-(count - done) // group_size)]
                groups = generator.sample(prompts, draws=range(done, done + len(prompts)))
                rows = [
                    [prompt.name, list(prompt.ids), list(answer.ids), answer.truncated]
                    for prompt, answers in zip(prompts, groups, strict=True)
                    for answer in answers
                ]
                append_jsonl(partial, {"rows": rows, "state": asks.state()}, fsync=True)
                lines.append({"rows": rows})
                done += len(rows)
                bar.advance(len(rows))
        _write(path, [row for line in lines for row in line["rows"]], tokenizer, parents=parents, step=step)
    partial.unlink(missing_ok=True)
    return open_artefact(path, kind="shards")


def _enough(asks: Asks) -> list[Prompt]:
    """Prompts of so many steps that the generator is busy."""
    found: list[Prompt] = []
    for drawn in range(_AT_ONCE):
        found += asks.draw_step()
        if len(found) >= _AT_ONCE:
            break
        if not found and drawn == _FRUITLESS:
            raise InputError(
                "no prompt to answer: all are longer than there is room for",
                remedy="lower max_new_tokens, or raise max_seq_len",
            )
    return found


def _write(
    path: Path,
    rows: list[Any],
    tokenizer: Tokenizer,
    *,
    parents: Mapping[str, Artefact],
    step: Mapping[str, Any],
) -> None:
    with create_artefact(path, kind="shards", parents=parents, step=step) as draft:
        with SplitWriter(draft.path, SPLIT, tokenizer) as writer:
            for _, prompt, answer, _ in rows:
                writer.write([*prompt, *answer], [False] * len(prompt) + [True] * len(answer))
        write_index(draft.path, tokenizer, {SPLIT: writer.record()})
        draft.metrics |= {
            "answers": len(rows),
            "tokens": writer.learnt,
            "truncated": sum(truncated for *_, truncated in rows) / len(rows),
        }


def _whole_lines(partial: Path, identity: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Of an earlier start with the same inputs; the first line says which. Begins the file if there is none."""
    lines: list[dict[str, Any]] = []
    if partial.exists():
        for line in partial.read_text(encoding="utf-8", errors="replace").split("\n"):
            try:
                lines.append(json.loads(line))
            except ValueError:
                break  # cut by a kill or a full disk, perhaps within a character; or the end
    if lines[:1] != [{"identity": identity}]:
        lines = [{"identity": identity}]
    elif len(lines) > 1:
        log.info(
            "going on with the teacher's answers behind %d", sum(len(line["rows"]) for line in lines[1:])
        )
    partial.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(partial, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    return lines[1:]
