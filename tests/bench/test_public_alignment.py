"""The study on public data, in small: what is held out, and that both ways go from their files to figures."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_training as tiny
import torch

from hanok.bench import public_alignment
from hanok.errors import InputError
from hanok.models.checkpoint import save_model
from hanok.models.decoder import Decoder


def said(question: str, answer: str, *, before: str = "Human: hi\n\nAssistant: hello\n\n") -> str:
    return f"\n\n{before}Human: {question}\n\nAssistant: {answer}"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("public")
    pairs = [
        {"chosen": said(f"{n}?", "no", before=""), "rejected": said(f"{n}?", "yes", before="")}
        for n in range(20)
    ]
    pairs += [
        {"chosen": said(f"{n}?", "no"), "rejected": said(f"{n}?", "yes")} for n in range(5)
    ]  # one first question
    pairs += [
        {"chosen": said("a", "no"), "rejected": said("b", "no")},
        {"chosen": "no", "rejected": "yes"},
    ]  # odd
    for name, content in (
        (public_alignment.PREFERENCES, gzip.compress("\n".join(map(json.dumps, pairs)).encode())),
        (
            public_alignment.PROBLEMS,
            "\n".join(
                json.dumps({"id": n, "question": f"{n} + 1?", "answer": f"#### {n + 1}"}) for n in range(8)
            ).encode(),
        ),
    ):
        (folder / name).parent.mkdir()
        (folder / name).write_bytes(content)
    return folder


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_rows_with_one_first_question_are_held_out_together(data: Path, tmp_path: Path) -> None:
    made = public_alignment.write_data(data, tmp_path / "data")
    learnt, held_out = (rows(made.path / f"preferences{name}.jsonl") for name in ("", "-held-out"))
    first = [{row["prompt"][0]["content"] for row in part} for part in (learnt, held_out)]
    assert len(learnt) + len(held_out) == 25
    assert made.metrics["preferences.odd"] == 2
    assert first[0].isdisjoint(first[1])
    assert len(first[1]) == 6  # of 21
    assert all(row["chosen"] == [{"role": "assistant", "content": "no"}] for row in (*learnt, *held_out))
    assert max(len(row["prompt"]) for row in (*learnt, *held_out)) == 3
    problems = [rows(made.path / f"prompts{name}.jsonl") for name in ("", "-held-out")]
    assert [len(part) for part in problems] == [4, 4]
    assert all(row["answer"] == str(int(row["id"]) + 1) for part in problems for row in part)


def test_both_ways_give_figures_and_go_on(data: Path, shards: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    shape = tiny.tiny_model(vocab_size=266, max_context=2048)
    save_model(Decoder(shape, generator=torch.Generator().manual_seed(0)), model, tokenizer_dir=shards)
    ways = {
        "dpo": replace(public_alignment.WAYS["dpo"], pairs_per_step=4, max_steps=2),
        "grpo": replace(public_alignment.WAYS["grpo"], prompts_per_step=2, group_size=2, max_new_tokens=4, max_steps=1),
    }  # fmt: skip
    options: dict[str, Any] = {
        "model": model,
        "data": data,
        "folder": tmp_path / "out",
        "seeds": [1],
        "ways": ways,
        "threads": 1,
    }
    found = public_alignment.run(**options)
    assert [row["way"] for row in found] == ["dpo", "grpo"]
    assert found[0]["pairs"] == len(rows(tmp_path / "out" / "data" / "preferences-held-out.jsonl"))
    assert found[0]["steps"] == 2
    assert (found[1]["problems"], found[1]["before"]) == (4, 0.0)
    assert found == public_alignment.run(**options)


def test_without_the_data_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no file"):
        public_alignment.write_data(tmp_path, tmp_path / "out")
