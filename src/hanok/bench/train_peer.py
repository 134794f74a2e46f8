"""The peer of the training benchmark: `transformers`' Llama under its `Trainer`, packed, in a process of its own.

    python -m hanok.bench.train_peer '{"shards": ..., "precision": "bfloat16", "compile": false, "lr": 1e-3, ...}'

prints one JSON object: parameters, tokens per second (median step, compile time left out), and the validation curve as
[seconds of training, bits per byte]. Time spent in validation is not counted.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hanok.artefacts.shards import open_shards
from hanok.tokens.tokenizer import Tokenizer
from hanok.training.config import TrainConfig
from hanok.training.validation import HeldOut, choose_held_out

_WARM_UP_STEPS = 3


class Blocks(torch.utils.data.Dataset):
    """All training documents in a fixed random order, one after the other, cut into blocks."""

    def __init__(self, shards: Path, *, block: int, seed: int) -> None:
        split = open_shards(shards, verify=False).splits["text-train"]
        order = np.random.default_rng(seed).permutation(split.num_documents)
        # a document's closing token serves as the next one's opening token, as in ours
        tokens = np.concatenate([split.document(int(i))[0][:-1] for i in order]).astype(np.int64)
        self._blocks = torch.from_numpy(tokens[: len(tokens) // block * block].reshape(-1, block))

    def __len__(self) -> int:
        return len(self._blocks)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self._blocks[index], "labels": self._blocks[index]}


def main() -> None:
    options: dict[str, Any] = json.loads(sys.argv[1])
    print(json.dumps(_train(options)))


def _train(options: dict[str, Any]) -> dict[str, Any]:
    import transformers
    from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

    transformers.logging.set_verbosity_error()
    torch.manual_seed(options["seed"])
    shards, block = Path(options["shards"]), options["block"]
    model = LlamaForCausalLM(LlamaConfig(**options["model"], tie_word_embeddings=True, use_cache=False))
    held_out, special = _held_out(options)
    curve: list[tuple[float, float]] = []
    step_seconds: list[float] = []

    class Watch(TrainerCallback):
        begun = 0.0
        training = 0.0

        def on_step_begin(self, *_arguments: Any, **_options: Any) -> None:
            self.begun = time.perf_counter()

        def on_step_end(self, _settings: Any, state: Any, *_arguments: Any, **_options: Any) -> None:
            seconds = time.perf_counter() - self.begun
            step_seconds.append(seconds)
            self.training += seconds
            if options["validations"] and (
                state.global_step % max(1, state.max_steps // options["validations"]) == 0
                or state.global_step == state.max_steps
            ):
                curve.append((self.training, _bits_per_byte(model, held_out, special)))

    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            output_dir=folder, max_steps=options["steps"], per_device_train_batch_size=options["tokens"] // block,
            learning_rate=options["lr"], weight_decay=options["weight_decay"], adam_beta2=0.95,
            lr_scheduler_type="cosine", warmup_steps=max(1, options["steps"] // 20),
            bf16=options["precision"] == "bfloat16", torch_compile=options["compile"], use_cpu=True,
            save_strategy="no", report_to=[], logging_strategy="no", disable_tqdm=True, seed=options["seed"],
            dataloader_num_workers=0,
        )  # fmt: skip
        trainer = Trainer(
            model=model, args=settings, train_dataset=Blocks(shards, block=block, seed=options["seed"]),
            callbacks=[Watch()],
        )  # fmt: skip
        start = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - start
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "tokens_per_second": options["tokens"] / statistics.median(step_seconds[_WARM_UP_STEPS:]),
        "training_seconds": sum(step_seconds),
        "seconds": seconds,
        "curve": curve,
    }


def _held_out(options: dict[str, Any]) -> tuple[list[HeldOut], torch.Tensor]:
    shards = Path(options["shards"])
    config = TrainConfig(
        max_seq_len=options["block"], validation_tokens=options["validation_tokens"],
        tokens_per_step=options["tokens"], micro_batch_tokens=options["tokens"],
    )  # fmt: skip
    special = torch.tensor(sorted(Tokenizer.load(shards).special.values()))
    return choose_held_out(config, open_shards(shards, verify=False).splits), special


@torch.no_grad()
def _bits_per_byte(model: Any, held_out: list[HeldOut], special: torch.Tensor) -> float:
    """As `hanok.training.validation`, sequence by sequence, in float32."""
    model.eval()
    nats = size = 0.0
    for data in held_out:
        size += data.num_bytes
        for sequence in data.sequences:
            logits = model(input_ids=torch.from_numpy(sequence.ids)[None]).logits[0].float()
            targets = torch.from_numpy(sequence.targets)
            losses = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
            nats += float(losses[~torch.isin(targets, special)].double().sum())
    model.train()
    return nats / math.log(2) / size


if __name__ == "__main__":
    main()
