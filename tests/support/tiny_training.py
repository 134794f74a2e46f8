"""A run small enough to be killed many times: hand-written shards, a model of two layers, 0.02 s a step.

Imported by the tests, and run as `python tiny_training.py SHARDS OUT [JSON of TrainConfig, a model's changes under "model"]`
by those that kill it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from hanok.artefacts import create_artefact, write_json
from hanok.models.config import ModelConfig, MoEConfig
from hanok.training.config import TrainConfig

WORDS = (
    "기와", "마루", "온돌", "대문", "마당", "roof", "floor", "stove", "gate", "yard", "opens", "at", "nine", "closes",
)  # fmt: skip


def write_tiny_shards(out: Path, *, documents: int = 60, seed: int = 0) -> Path:
    """Text and chat splits of random words under a byte-level tokeniser of 266 ids."""
    from hanok.data.tokenizer import Alphabet, tokenizer_files
    from hanok.tokens.tokenizer import Tokenizer

    tokenizer = Tokenizer(tokenizer_files(Alphabet.of([]), []))
    rng = np.random.default_rng(seed)
    with create_artefact(out, kind="shards") as draft:
        tokenizer.save(draft.path)
        splits = {}
        for part, count in (("train", documents), ("validation", 8), ("test", 4)):
            texts = [" ".join(rng.choice(WORDS, rng.integers(3, 30))) for _ in range(count)]
            ids = [[tokenizer.bos_id, *tokenizer.encode(text), tokenizer.eos_id] for text in texts]
            splits[f"text-{part}"] = _write(draft.path, f"text-{part}", ids, None, texts)
            chats = [tokenizer.encode_chat(_conversation(rng)) for _ in range(count)]
            splits[f"chat-{part}"] = _write(
                draft.path, f"chat-{part}", [[tokenizer.bos_id, *chat.ids] for chat in chats],
                [[False, *chat.loss_mask] for chat in chats], [""] * count,
            )  # fmt: skip
        write_json(
            draft.path / "shards.json",
            {
                "format": 1, "vocab_size": tokenizer.vocab_size, "dtype": "uint16",
                "tokenizer_hash": tokenizer.hash, "splits": splits,
            },
        )  # fmt: skip
    return out


def tiny_model(**changes: Any) -> ModelConfig:
    settings = {
        "hidden_size": 32, "num_layers": 2, "pattern": ("kda", "mla"), "num_heads": 2, "head_dim": 16,
        "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 16,
        "intermediate_size": 64, "max_context": 256,
    }  # fmt: skip
    return ModelConfig(**{**settings, **changes})


def tiny_config(**changes: Any) -> TrainConfig:
    settings = {
        "max_steps": 12, "max_seq_len": 128, "micro_batch_tokens": 256, "tokens_per_step": 512,
        "mixture": {"text-train": 1.0, "chat-train": 1.0}, "precision": "float32", "threads": 1,
        "warmup_steps": 2, "validate_every": 6, "checkpoint_every": 4, "validation_tokens": 512,
    }  # fmt: skip
    return TrainConfig(**{**settings, **changes})


def _conversation(rng: np.random.Generator) -> list[dict[str, str]]:
    question, answer = (" ".join(rng.choice(WORDS, rng.integers(2, 6))) for _ in range(2))
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _write(
    directory: Path, name: str, ids: list[list[int]], masks: list[list[bool]] | None, texts: list[str]
) -> dict[str, Any]:
    lengths = [len(document) for document in ids]
    np.concatenate(ids).astype("<u2").tofile(directory / f"{name}.tokens.bin")
    np.concatenate(([0], np.cumsum(lengths))).astype("<i8").tofile(directory / f"{name}.offsets.bin")
    np.array([len(text.encode()) for text in texts], "<i8").tofile(directory / f"{name}.bytes.bin")
    files = [f"{name}.{ending}.bin" for ending in ("tokens", "offsets", "bytes")]
    if masks is not None:
        np.concatenate(masks).astype("u1").tofile(directory / f"{name}.mask.bin")
        files.append(f"{name}.mask.bin")
    return {
        "documents": len(ids), "tokens": sum(lengths), "bytes": sum(len(t.encode()) for t in texts), "files": files,
    }  # fmt: skip


def log_rows(out: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith("time.")} for row in rows]


def assert_equal_runs(out: Path, straight: Path) -> None:
    """Weights, optimiser, RNG, cursor, learning rate and the log's deterministic fields (F01, and F06 by `data`)."""
    assert log_rows(out) == log_rows(straight)
    last = sorted(path.name for path in (straight / "checkpoints").iterdir())[-1]
    for name in ("model/model.safetensors", f"checkpoints/{last}/training/state.safetensors"):
        assert (out / name).read_bytes() == (straight / name).read_bytes(), name
    states = [
        json.loads((run / f"checkpoints/{last}/training/state.json").read_text()) for run in (out, straight)
    ]
    for state in states:
        state["position"] = {k: v for k, v in state["position"].items() if not k.endswith("seconds")}
    assert states[0] == states[1]
    assert not [path for path in out.rglob("*") if path.name.endswith((".tmp", ".old"))]


def train_tiny(shards: Path, out: Path, changes: dict[str, Any]) -> None:
    """Args: changes: of the settings, and under "model" of the model, in JSON's types."""
    from hanok.training.run import train

    settings = {**changes}
    shape = dict(settings.pop("model", {}))
    if "moe" in shape:
        shape["moe"] = MoEConfig(**shape["moe"])
    train(tiny_config(**settings), shards=shards, out=out, model=tiny_model(**shape))


def main() -> None:
    from hanok.cli import _guarded

    shards, out = Path(sys.argv[1]), Path(sys.argv[2])
    changes = json.loads(sys.argv[3]) if len(sys.argv) > 3 else {}
    sys.exit(_guarded(lambda: train_tiny(shards, out, changes)))


if __name__ == "__main__":
    main()
