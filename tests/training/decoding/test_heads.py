"""Decoding heads are trained, and nothing else is: on tiny models, and on text with positions of two kinds."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import cast

import pytest
import tiny_training as tiny
import torch

from hanok.artefacts import open_artefact
from hanok.artefacts.files import sha256_file
from hanok.errors import CheckpointError, ConfigError, InputError
from hanok.kernels.laws import fits_bfloat16
from hanok.models.checkpoint import load_model, save_model
from hanok.models.checkpoint.decoding import HEADS_FILE, backbone_hash, load_heads
from hanok.models.checkpoint.weights import read_metadata
from hanok.models.decoder import Decoder
from hanok.models.decoding import DecodingHeads
from hanok.tokens.tokenizer import Tokenizer
from hanok.training.decoding.config import ControlConfig, DecodingConfig
from hanok.training.decoding.control import read_triples, train_control, worded
from hanok.training.decoding.objective import Answers, decoding_loss
from hanok.training.decoding.run import train_heads
from hanok.training.loop import Trainer
from hanok.training.objectives.autodeco import autodeco_loss

CONFIG = DecodingConfig(
    max_steps=6, max_seq_len=128, micro_batch_tokens=256, tokens_per_step=256, threads=1, checkpoint_every=2,
    validation_tokens=512, warmup_steps=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def model(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("backbone") / "model"
    config = dataclasses.replace(tiny.tiny_model(), vocab_size=266, initializer_range=0.3)
    decoder, generator = Decoder(config), torch.Generator().manual_seed(0)
    for name, parameter in decoder.named_parameters():
        if name.endswith(
            ("o_proj.weight", "down_proj.weight")
        ):  # zero in a new model: it would ignore its context
            torch.nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5, generator=generator)
    save_model(decoder, directory, tokenizer_dir=shards)
    return directory


def test_the_heads_learn_and_the_model_does_not(model: Path, shards: Path, tmp_path: Path) -> None:
    before = {file.name: sha256_file(file) for file in model.iterdir()}
    artefact = train_heads(
        dataclasses.replace(CONFIG, max_steps=12, validate_every=4),
        model=model,
        shards=shards,
        out=tmp_path / "run",
    )
    after = {name: sha256_file(artefact.path / name) for name in before}
    assert before == after == {file.name: sha256_file(file) for file in model.iterdir()}
    assert read_metadata(artefact.path / HEADS_FILE)["backbone"] == backbone_hash(model)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    held_out = [row["validation.chat.loss"] for row in rows if "validation.chat.loss" in row]
    assert held_out[-1] < held_out[0]
    assert {"decoding.temperature", "decoding.top_p", "decoding.kept"} <= set(rows[0])
    heads = load_heads(artefact.path, width=32)
    assert heads is not None
    assert sum(p.numel() for p in heads.parameters()) == artefact.metrics["trained_parameters"]
    assert (artefact.path / HEADS_FILE).stat().st_size < 200_000
    assert all(
        fits_bfloat16(heads.get_parameter(f"{head}.mlp.0.weight")) for head in ("temp_head", "top_p_head")
    )
    assert not fits_bfloat16(heads.get_parameter("temp_head.mlp.2.weight"))


def test_a_run_that_broke_off_ends_with_the_same_bits(
    model: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_heads(CONFIG, model=model, shards=shards, out=tmp_path / "whole")
    step = Trainer._step

    def break_off(trainer: Trainer) -> bool:
        if trainer.position.step == 3:
            raise RuntimeError("the power is gone")
        return step(trainer)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_step", break_off)
        with pytest.raises(RuntimeError):
            train_heads(CONFIG, model=model, shards=shards, out=tmp_path / "broken")
    assert open_artefact(tmp_path / "broken" / "checkpoints" / "step-000002").kind == "checkpoint"
    train_heads(CONFIG, model=model, shards=shards, out=tmp_path / "broken")
    hashes = [sha256_file(tmp_path / name / "model" / HEADS_FILE) for name in ("whole", "broken")]
    assert hashes[0] == hashes[1]
    with pytest.raises(ConfigError, match="easy_drop"):
        train_heads(
            dataclasses.replace(CONFIG, easy_drop=0.5), model=model, shards=shards, out=tmp_path / "whole"
        )


def test_chunks_make_no_difference(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits of some tokens at a time, differentiated at once, give the gradient of the whole loss."""
    decoder = load_model(model).requires_grad_(False)
    heads = DecodingHeads(32)
    with torch.no_grad():
        for parameter in heads.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    hidden, targets = torch.randn(11, 32), torch.randint(0, 266, (11,))
    temperature, logits = heads.temperature(hidden), decoder.logits(hidden)
    top_p = heads.top_p(hidden, temperature, logits)
    every = torch.ones(11, dtype=torch.bool)
    whole = autodeco_loss(logits, targets, temperature, top_p, every, every, step_tokens=7)
    whole.objective.backward()
    expected = [parameter.grad.clone() for parameter in heads.parameters() if parameter.grad is not None]
    heads.zero_grad()
    monkeypatch.setattr("hanok.training.decoding.objective._CHUNK_NUMBERS", 266 * 4)
    answers = Answers(hidden, targets, torch.tensor([0, 11]))
    found = decoding_loss(decoder, heads, answers, step_tokens=7, alpha=30.0, drop=0.0, weighed=True)
    found.objective.backward()
    assert found.objective.item() == pytest.approx(whole.objective.item(), rel=1e-5)
    assert len(expected) == 8
    for parameter, grad in zip(heads.parameters(), expected, strict=True):
        assert parameter.grad is not None
        assert torch.allclose(parameter.grad, grad, atol=1e-6)


def test_two_kinds_of_position_are_told_apart() -> None:
    """A model that is half sure everywhere; the text after one kind of hidden vector is certain, after the other free."""

    class Head:
        config = dataclasses.make_dataclass("Config", [("vocab_size", int)])(8)

        def logits(self, hidden: torch.Tensor) -> torch.Tensor:
            return torch.tensor([2.0, *[0.0] * 7]).expand(len(hidden), 8)

    generator = torch.Generator().manual_seed(0)
    certain = torch.rand(3000, generator=generator) < 0.5
    hidden = torch.randn(3000, 16, generator=generator) + certain[:, None] * torch.randn(
        16, generator=generator
    )
    targets = torch.where(certain, 0, torch.randint(0, 8, (3000,), generator=generator))
    heads = DecodingHeads(16)
    optimiser = torch.optim.AdamW(heads.parameters(), lr=1e-3)
    for start in range(0, 2400, 40):
        chunk = slice(start, start + 40)
        answers = Answers(hidden[chunk], targets[chunk], torch.tensor([0, 40]))
        optimiser.zero_grad()
        found = decoding_loss(
            cast("Decoder", Head()), heads, answers, step_tokens=40, alpha=30.0, drop=0.6, weighed=False
        )
        found.objective.backward()
        optimiser.step()
    predicted, free = heads.temperature(hidden[2400:]), ~certain[2400:]
    auc = (predicted[free][:, None] > predicted[~free][None]).double().mean()
    assert auc > 0.9


def test_control(model: Path, shards: Path, tmp_path: Path) -> None:
    heads = train_heads(
        dataclasses.replace(CONFIG, max_steps=3), model=model, shards=shards, out=tmp_path / "heads"
    ).path
    rows = [
        {"messages": [{"role": "user", "content": f"roof {n} gate"}, {"role": "assistant", "content": f"yard {n}"}]}
        for n in range(16)
    ]  # fmt: skip
    file = tmp_path / "prompts.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    config = ControlConfig(
        epochs=20, anchor=1.0, prompts_per_step=8, max_seq_len=128, micro_batch_tokens=512, threads=1, lr=1e-2
    )
    artefact = train_control(config, model=heads, prompts=file, out=tmp_path / "control")
    steps = [json.loads(line) for line in (tmp_path / "control" / "metrics.jsonl").read_text().splitlines()]
    assert steps[-1]["control.ranking"] < 0.7 * steps[0]["control.ranking"]
    assert steps[-1]["control.followed"] > steps[0]["control.followed"]
    assert sha256_file(artefact.path / "model.safetensors") == sha256_file(model / "model.safetensors")
    with pytest.raises(CheckpointError, match="no decoding heads"):
        train_control(config, model=model, prompts=file, out=tmp_path / "none")


def test_prompts_of_control(model: Path, tmp_path: Path) -> None:
    tokenizer, file = Tokenizer.load(model), tmp_path / "prompts.jsonl"
    messages = [{"role": "user", "content": "gate"}, {"role": "assistant", "content": "yard"}]
    assert worded(messages, "Be certain.")[0]["content"] == "gate Be certain."
    assert worded(messages, "") == messages
    file.write_text(
        json.dumps({"messages": messages, "note": "a\u2028b"}, ensure_ascii=False), encoding="utf-8"
    )
    (triple,) = read_triples(ControlConfig(), file, tokenizer)
    answers = [tokenizer.decode(s.targets[s.mask].tolist()).strip() for s in triple.sequences]
    assert answers == ["yard"] * 3
    assert "Be certain." in tokenizer.decode(triple.sequences[0].ids.tolist())
    assert "Be inventive." in tokenizer.decode(triple.sequences[2].ids.tolist())
    for text, fault in (
        ("{", "line 1: no messages"), ('{"messages": [{"role": "user", "content": "a"}]}', "does not end with an answer"),
        ('{"messages": [{"role": "user", "content": 1}, {"role": "assistant", "content": "a"}]}', "is no text"),
        ("", "no prompt to learn from"),
    ):  # fmt: skip
        file.write_text(text, encoding="utf-8")
        with pytest.raises(InputError, match=fault):
            read_triples(ControlConfig(), file, tokenizer)
    with pytest.raises(ConfigError, match="2 wordings of low, 1 of high"):
        ControlConfig(high=("Dream.",))
