"""Distillation from end to end: every way learns towards the teacher, and what does not fit is said in one message."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_training as tiny
import torch
from torch import Tensor

from hanok.artefacts import open_artefact
from hanok.artefacts.shards import open_shards
from hanok.cli import main
from hanok.errors import ArtefactError, ConfigError, HanokError
from hanok.models.checkpoint import load_config, load_model, save_model
from hanok.models.decoder import Decoder
from hanok.training.distil.config import METHODS, DistilConfig, Shrink
from hanok.training.distil.run import distil
from hanok.training.objectives.distillation import forward_kl, reverse_kl
from hanok.training.packing import PackedSequence, pack, read_sequence

Quick = Callable[..., DistilConfig]


def rows(out: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.startswith("time.")} for line in lines]


def laws(model: Path, sequences: list[PackedSequence]) -> Tensor:
    decoder, batch = load_model(model), pack(sequences)
    with torch.no_grad():
        hidden, _ = decoder(batch.ids_N, batch.cu_seqlens)
        return decoder.logits(hidden[batch.loss_mask_N])


def documents(shards: Path, name: str) -> list[PackedSequence]:
    split = open_shards(shards).splits[name]
    return [
        read_sequence(split, name, i, 0, len(split.document(i)[0]) - 1, all_tokens=False) for i in range(6)
    ]


@pytest.mark.parametrize("method", METHODS)
def test_every_way_learns(method: str, teacher: Path, shards: Path, tmp_path: Path, quick: Quick) -> None:
    config = quick(corpus_weight=0.5 if method == "minillm" else 0.0)
    artefact = distil(method, config, teacher=teacher, shards=shards, out=tmp_path)
    before, after = load_model(tmp_path / "student").state_dict(), load_model(artefact.path).state_dict()
    assert all(not torch.equal(tensor, after[name]) for name, tensor in before.items())
    found = [row for row in rows(tmp_path) if "loss" in row]
    assert len(found) == 4
    assert all(np.isfinite(row["loss"]) and row["grad_norm"] > 0 for row in found)
    assert artefact.metrics["validation.text.bits_per_byte"] > 0
    own = ["rollout.tokens" in row for row in found]
    assert own == {"on-policy": [False, True] * 2, "minillm": [True] * 4}.get(method, [False] * 4)
    assert (tmp_path / "samples").is_dir() == (method in ("offline", "logits", "on-policy"))
    if any(own):
        kept = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
        assert {row["step"] for row in kept} == {step for step, drawn in enumerate(own) if drawn}
        assert "Answers of the student" in (tmp_path / "report.html").read_text()
    again = distil(method, config, teacher=teacher, shards=shards, out=tmp_path)
    assert again.hash == artefact.hash


@pytest.mark.parametrize(
    ("method", "changes"),
    [("logits", {"learn_from": "corpus"}), ("on-policy", {"learn_from": "corpus"}),
     ("on-policy", {"learn_from": "corpus", "beta": 1.0})],
)  # fmt: skip
def test_the_student_comes_nearer(
    method: str, changes: dict[str, Any], teacher: Path, shards: Path, tmp_path: Path, quick: Quick
) -> None:
    config = quick(max_steps=20, muon_lr=0.02, adamw_lr=0.01, **changes)
    distil(method, config, teacher=teacher, shards=shards, out=tmp_path)
    held_out = documents(shards, "text-validation")
    there = laws(teacher, held_out)
    divergence = reverse_kl if changes.get("beta") == 1.0 else forward_kl
    before, after = (
        divergence(laws(tmp_path / name, held_out), there).mean() for name in ("student", "model")
    )
    assert float(after) < 0.9 * float(before)


def test_all_logits_kept_are_the_teacher_itself(
    teacher: Path, shards: Path, tmp_path: Path, quick: Quick
) -> None:
    """With K = V forward KL from disk goes through the same numbers as from the live teacher."""
    settings: dict[str, Any] = {"learn_from": "corpus", "top_k": 266, "beta": 0.0, "on_policy": 1e-9}
    for method in ("logits", "on-policy"):
        distil(method, quick(**settings), teacher=teacher, shards=shards, out=tmp_path / method)
    stored, live = (
        [row["loss"] for row in rows(tmp_path / m) if "loss" in row] for m in ("logits", "on-policy")
    )
    assert stored == pytest.approx(live, rel=1e-4)


def test_what_an_earlier_run_left_is_taken(teacher: Path, shards: Path, tmp_path: Path, quick: Quick) -> None:
    first = tmp_path / "first"
    distil("logits", quick(), teacher=teacher, shards=shards, out=first)
    second = tmp_path / "second"
    artefact = distil(
        "logits", quick(), teacher=teacher, shards=shards, out=second, samples=first / "samples",
        logits=first / "logits", student=first / "student",
    )  # fmt: skip
    assert not (second / "samples").exists()
    assert not (second / "logits").exists()
    assert artefact.parents["logits"] == open_artefact(first / "logits").hash
    same = load_model(first / "model").state_dict()
    assert all(
        torch.equal(tensor, same[name]) for name, tensor in load_model(artefact.path).state_dict().items()
    )


def test_prompts_from_a_file(teacher: Path, shards: Path, tmp_path: Path, quick: Quick) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps({"id": f"p{i}", "prompt": f"roof {i}?"}) + "\n" for i in range(9)))
    config = quick(prompts_per_step=4, group_size=2, on_policy=1.0)
    distil("on-policy", config, teacher=teacher, shards=shards, out=tmp_path / "out", prompts=file)
    kept = [json.loads(line) for line in (tmp_path / "out/samples.jsonl").read_text().splitlines()]
    assert all("roof" in row["prompt"] for row in kept)


class TestBadInputs:
    def test_another_tokeniser(
        self, teacher: Path, shards: Path, tmp_path: Path, quick: Quick, capsys: pytest.CaptureFixture[str]
    ) -> None:  # fmt: skip
        other = tmp_path / "other"
        save_model(Decoder(tiny.tiny_model(vocab_size=266)), other, tokenizer_dir=shards)
        file = other / "tokenizer_config.json"
        settings = json.loads(file.read_text())
        settings["chat_template"] += " "
        file.write_text(json.dumps(settings))
        with pytest.raises(SystemExit) as stop:
            main(
                ["align", "distill", "logits", "--teacher", str(teacher), "--shards", str(shards), "--student", str(other),
                 "--out", str(tmp_path / "out")]
            )  # fmt: skip
        assert stop.value.code == 2
        said = capsys.readouterr().err.strip()
        assert len(said.splitlines()) == 1
        assert "tokeniser" in said

    def test_another_vocabulary(self, teacher: Path, shards: Path, tmp_path: Path, quick: Quick) -> None:
        for size in (265, 300):
            other = tmp_path / f"of-{size}"
            save_model(Decoder(tiny.tiny_model(vocab_size=size)), other, tokenizer_dir=shards)
            with pytest.raises(ConfigError, match=f"266 tokens, student .* {size}"):
                distil("logits", quick(), teacher=teacher, shards=shards, student=other, out=tmp_path / "out")

    def test_logits_that_are_missing_or_of_another_corpus(
        self, teacher: Path, shards: Path, tmp_path: Path, quick: Quick
    ) -> None:
        def run(name: str, corpus: Path, logits: Path | None, **changes: Any) -> None:
            config = quick(learn_from="corpus", max_steps=1, **changes)
            distil("logits", config, teacher=teacher, shards=corpus, out=tmp_path / name, logits=logits)

        with pytest.raises(ArtefactError, match="no directory at"):
            run("a", shards, tmp_path / "nowhere")
        run("b", shards, None)
        kept = tmp_path / "b" / "logits"
        other = tiny.write_tiny_shards(tmp_path / "other", seed=1)
        with pytest.raises(ArtefactError, match="another corpus"):
            run("c", other, kept)
        with pytest.raises(ArtefactError, match="top_k = 16, this run 8"):
            run("d", shards, kept, top_k=8)
        with pytest.raises(ArtefactError, match="no logits of"):
            run("e", shards, kept, mixture={"chat-validation": 1.0})
        part = kept / "text-train.logp.bin"
        damaged = bytearray(part.read_bytes())
        damaged[7] ^= 1
        part.write_bytes(damaged)
        with pytest.raises(ArtefactError, match="content"):
            run("f", shards, kept)

    @pytest.mark.parametrize(
        ("method", "changes", "said"),
        [
            ("minillm", {"sampling_temperature": 0.9}, "temperature 1"),
            ("on-policy", {"on_policy": 0.0}, "logits"),
            ("offline", {"max_steps": None}, "no end"),
            ("logits", {"top_k": 267, "learn_from": "corpus"}, "266"),
            ("offline", {"max_new_tokens": 128}, "no room"),
            ("offline", {"mixture": {"chats": 1.0}}, "no split"),
        ],
    )
    def test_settings(
        self, method: str, changes: dict[str, Any], said: str, teacher: Path, shards: Path, tmp_path: Path, quick: Quick
    ) -> None:  # fmt: skip
        with pytest.raises(HanokError) as error:
            distil(method, quick(**changes), teacher=teacher, shards=shards, out=tmp_path)
        assert said in str(error.value)


def test_a_shape_of_ones_own_from_the_command_line(teacher: Path, shards: Path, tmp_path: Path) -> None:
    """The tokeniser and the vocabulary are the teacher's."""
    words = (
        f"align distill logits --teacher {teacher} --shards {shards} --out {tmp_path}/out --learn-from corpus --top-k 4 "
        "--mixture text-train=1 --max-steps 1 --threads 1 --tokens-per-step 256 --micro-batch-tokens 256 --max-seq-len 128 "
        "model-config --hidden-size 24 --num-layers 1 --pattern gqa --num-heads 2 --max-context 128"
    )
    with pytest.raises(SystemExit) as stop:
        main(words.split())
    assert stop.value.code == 0
    config = load_config(tmp_path / "out" / "model")
    assert (config.vocab_size, config.hidden_size, config.layers) == (266, 24, ("gqa",))


def test_inputs_that_would_not_be_read(teacher: Path, shards: Path, tmp_path: Path, quick: Quick) -> None:
    for method, changes in (
        ("minillm", {}),
        ("on-policy", {"on_policy": 1.0}),
        ("logits", {"learn_from": "corpus"}),
    ):
        with pytest.raises(ConfigError, match="no samples"):
            distil(method, quick(**changes), teacher=teacher, shards=shards, out=tmp_path, samples=shards)
    with pytest.raises(ConfigError, match="no logits"):
        distil("offline", quick(), teacher=teacher, shards=shards, out=tmp_path, logits=shards)
    given: dict[str, Any] = {"prompts": teacher / "config.json"}
    with pytest.raises(ConfigError, match="no prompts"):
        distil("offline", quick(), teacher=teacher, shards=shards, out=tmp_path, samples=shards, **given)
    with pytest.raises(ConfigError, match="no prompts"):
        distil("logits", quick(learn_from="corpus"), teacher=teacher, shards=shards, out=tmp_path, **given)
    assert not any(tmp_path.iterdir())


def test_a_student_of_another_kind_is_not_overwritten(
    teacher: Path, shards: Path, tmp_path: Path, quick: Quick
) -> None:
    distil("offline", quick(max_steps=1), teacher=teacher, shards=shards, out=tmp_path)
    with pytest.raises(ConfigError, match="made otherwise"):
        distil(
            "offline",
            quick(max_steps=1),
            teacher=teacher,
            shards=shards,
            out=tmp_path,
            shrink=Shrink(share=0.5),
        )
    assert load_config(tmp_path / "student").vocab_size == 266
