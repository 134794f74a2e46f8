"""A run in miniature: a model that knows eight answers by heart, its shards, and a village of the same questions."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from hanok.artefacts import append_jsonl, create_artefact, write_json
from hanok.artefacts.shard_writer import SplitWriter, write_index
from hanok.data.tokenizer import Alphabet, tokenizer_files
from hanok.models.config import ModelConfig
from hanok.tokens.tokenizer import Tokenizer
from hanok.training.config import TrainConfig
from hanok.training.run import train

KNOWN = {
    "red?": "a rose", "blue?": "the sea", "green?": "a pine", "gold?": "the sun", "grey?": "a tile", "white?": "the snow",
    "black?": "the ink", "brown?": "a jar",
}  # fmt: skip


def talk(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer(tokenizer_files(Alphabet.of([]), []))


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    """Do not write into it: `run` is a copy."""
    run = tmp_path_factory.mktemp("runs") / "colours"
    run.mkdir()
    write_json(run / "run.json", {"stages": {}})
    with create_artefact(run / "shards", kind="shards") as draft:
        records = {}
        for part, copies in (("train", 8), ("validation", 1)):
            with SplitWriter(draft.path, f"chat-{part}", tokenizer) as writer:
                for question, answer in KNOWN.items():
                    chat = tokenizer.encode_chat(talk(question, answer))
                    for _ in range(copies):
                        writer.write([tokenizer.bos_id, *chat.ids], [False, *chat.loss_mask])
            records[writer.name] = writer.record()
        write_index(draft.path, tokenizer, records)
    with create_artefact(run / "village", kind="corpus") as draft:
        rows = [
            {"id": question, "kind": "fact", "messages": talk(question, "")[:1], "answer": answer}
            for question, answer in KNOWN.items()
        ]
        for row in rows:
            append_jsonl(draft.path / "questions.jsonl", row)
        write_json(draft.path / "timetable.json", {})
    size = ModelConfig(
        hidden_size=48, num_layers=2, pattern=("kda", "mla"), num_heads=2, head_dim=24, kv_lora_rank=16,
        qk_nope_head_dim=8, qk_rope_head_dim=8, v_head_dim=16, intermediate_size=96, max_context=128,
    )  # fmt: skip
    lesson = TrainConfig(
        max_steps=60, mixture={"chat-train": 1.0}, max_seq_len=64, tokens_per_step=512, micro_batch_tokens=512,
        muon_lr=0.02, adamw_lr=0.01, warmup_steps=3, precision="float32", threads=1, checkpoint_every=1000,
    )  # fmt: skip
    train(lesson, shards=run / "shards", out=run / "sft", model=size)
    (run / "model").symlink_to("sft/model", target_is_directory=True)
    return run


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished_run, tmp_path / "run", symlinks=True))


@pytest.fixture
def known() -> dict[str, str]:
    return dict(KNOWN)
