"""The loop from end to end on a model of two layers: learning, accumulation, fine-tuning, stopping, refusing."""

from __future__ import annotations

import json
import math
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import tiny_training as tiny
import torch
from safetensors.torch import load_file

from hanok.artefacts import open_artefact
from hanok.errors import ArtefactError, ConfigError, Interrupted
from hanok.models.checkpoint import load_model
from hanok.tokens.tokenizer import Tokenizer
from hanok.training.objectives import next_token
from hanok.training.objectives.next_token import next_token_loss
from hanok.training.packing import PackedSequence, pack
from hanok.training.run import train


def rows(out: Path, *, timed: bool = False) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return found if timed else [{k: v for k, v in row.items() if not k.startswith("time.")} for row in found]


@pytest.mark.usefixtures("drawn_pages")
def test_it_learns_and_leaves_a_loadable_model(shards: Path, tmp_path: Path) -> None:
    out = tmp_path / "pretrain"
    artefact = train(tiny.tiny_config(max_steps=40), shards=shards, out=out, model=tiny.tiny_model())
    steps = [row for row in rows(out) if "loss" in row]
    assert [row["step"] for row in steps] == list(range(1, 41))
    assert steps[0]["loss"] == pytest.approx(math.log(266), abs=0.5)
    assert steps[-1]["loss"] < 3.0
    assert set(steps[0]) == {"step", "tokens", "loss", "lr", "grad_norm", "data"}
    assert artefact.kind == "model"
    assert artefact.metrics["steps"] == 40
    assert artefact.metrics["validation.text.bits_per_byte"] < 5
    assert load_model(artefact.path).config.vocab_size == 266
    assert Tokenizer.load(artefact.path).hash == Tokenizer.load(shards).hash
    kept = sorted(path.name for path in (out / "checkpoints").iterdir())
    assert kept == ["step-000036", "step-000040"]
    for name in kept:
        load_model(out / "checkpoints" / name)
    assert "svg" in (out / "report.html").read_text()
    before = rows(out, timed=True)
    again = train(tiny.tiny_config(max_steps=40), shards=shards, out=out, model=tiny.tiny_model())
    assert again.hash == artefact.hash
    assert rows(out, timed=True) == before


def test_fine_tuning_learns_the_assistant_only(shards: Path, tmp_path: Path) -> None:
    first = train(tiny.tiny_config(max_steps=4), shards=shards, out=tmp_path / "a", model=tiny.tiny_model())
    config = tiny.tiny_config(max_steps=None, mixture={"chat-train": 2.0}, mixture_unit="epochs")
    artefact = train(config, shards=shards, out=tmp_path / "b", init_from=first.path)
    assert artefact.parents["model"] == first.hash
    found = rows(tmp_path / "b")
    drawn = open_artefact(shards).path / "chat-train.tokens.bin"
    documents = (shards / "chat-train.bytes.bin").stat().st_size // 8
    assert found[-1]["validation.chat.loss"] > 0
    assert [r for r in found if "loss" in r][-1]["tokens"] == 2 * (drawn.stat().st_size // 2 - documents)


@pytest.mark.parametrize("mtp_layers", [0, 1])
def test_accumulation_gives_the_same_step(mtp_layers: int, shards: Path, tmp_path: Path) -> None:
    model = tiny.tiny_model(mtp_layers=mtp_layers)
    for name, tokens in (("whole", 512), ("parts", 128)):
        config = tiny.tiny_config(max_steps=3, micro_batch_tokens=tokens)
        train(config, shards=shards, out=tmp_path / name, model=model)
    whole, parts = rows(tmp_path / "whole"), rows(tmp_path / "parts")
    for a, b in zip(whole, parts, strict=True):
        assert a.get("data") == b.get("data")
        for key in ("loss", "grad_norm"):
            if key in a:
                assert a[key] == pytest.approx(b[key], rel=2e-4)


def test_future_tokens_are_targets_within_their_sequence() -> None:
    """The second loss of a model with a future head sees token n + 2 of the same sequence, and nothing across."""
    from hanok.models.decoder import Decoder

    decoder = Decoder(tiny.tiny_model(mtp_layers=1, vocab_size=50))
    rng = torch.Generator().manual_seed(0)

    def sequence(length: int) -> PackedSequence:
        tokens = torch.randint(0, 50, (length + 1,), generator=rng).numpy()
        return PackedSequence(tokens[:-1], tokens[1:], tokens[1:] >= 0, "")

    parts = [sequence(n) for n in (5, 1, 9)]

    def objective(batch: list[PackedSequence]) -> float:
        options = {"step_tokens": 1, "dtype": torch.float32, "mtp_weight": 1.0}
        return float(next_token_loss(decoder, pack(batch), **options).objective.detach())  # type: ignore[arg-type]

    assert objective(parts) == pytest.approx(sum(objective([part]) for part in parts), rel=1e-4)


def test_a_stop_inside_a_step_undoes_it(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny.tiny_config(micro_batch_tokens=128)
    train(config, shards=shards, out=tmp_path / "straight", model=tiny.tiny_model())
    calls = 0
    original = next_token.next_token_loss

    def interrupting(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 18:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(*arguments, **options)

    monkeypatch.setattr(next_token, "next_token_loss", interrupting)
    with pytest.raises(Interrupted, match="SIGTERM"):
        train(config, shards=shards, out=tmp_path / "stopped", model=tiny.tiny_model())
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    train(config, shards=shards, out=tmp_path / "stopped", model=tiny.tiny_model())
    assert rows(tmp_path / "stopped") == rows(tmp_path / "straight")
    for name in ("model/model.safetensors", "checkpoints/step-000012/training/state.safetensors"):
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "straight" / name).read_bytes()


def test_a_budget_in_minutes_decays_in_time(shards: Path, tmp_path: Path) -> None:
    config = tiny.tiny_config(max_steps=None, max_minutes=0.06, validate_every=1000, checkpoint_every=1000)
    start = time.monotonic()
    train(config, shards=shards, out=tmp_path / "run", model=tiny.tiny_model())
    assert time.monotonic() - start < 3 * 3.6
    steps = [row for row in rows(tmp_path / "run", timed=True) if "loss" in row]
    assert steps[-1]["lr"] < 0.2 * max(row["lr"] for row in steps)
    assert steps[-1]["time.seconds"] > 1.5


def test_the_average_is_what_is_published(shards: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    artefact = train(tiny.tiny_config(ema_decay=0.5), shards=shards, out=out, model=tiny.tiny_model())
    state = load_file(out / "checkpoints" / "step-000012" / "training" / "state.safetensors")
    published = dict(load_model(artefact.path).named_parameters())
    for name, parameter in published.items():
        assert torch.equal(parameter, state[f"average.{name}"]), name
    weights = load_model(out / "checkpoints" / "step-000012")
    assert any(not torch.equal(p, published[name]) for name, p in weights.named_parameters())


def test_bfloat16_and_experts_train(shards: Path, tmp_path: Path) -> None:
    from hanok.models.config import MoEConfig

    model = tiny.tiny_model(
        moe=MoEConfig(experts=4, per_token=2, width=32, router="sigmoid"), pattern=("gqa",)
    )
    config = tiny.tiny_config(precision="bfloat16", max_steps=20)
    train(config, shards=shards, out=tmp_path / "run", model=model)
    losses = [row["loss"] for row in rows(tmp_path / "run") if "loss" in row]
    assert losses[-1] < losses[0] - 1


def test_what_does_not_fit_is_refused(shards: Path, tmp_path: Path) -> None:
    def refused(message: str, *, model: Any = None, **changes: Any) -> None:
        with pytest.raises(ConfigError, match=message):
            train(
                tiny.tiny_config(**changes), shards=shards, out=tmp_path / "out",
                model=model or tiny.tiny_model(),
            )  # fmt: skip

    refused("knows 100 tokens, the shards use 266", model=tiny.tiny_model(vocab_size=100))
    (tmp_path / "out" / "plan.json").unlink()
    refused(
        "max_seq_len = 128 is longer than the model's context of 64", model=tiny.tiny_model(max_context=64)
    )
    (tmp_path / "out" / "plan.json").unlink()
    refused("the run has no end", max_steps=None)
    refused("other settings .config.max_steps: None there, 12 now")
    with pytest.raises(ConfigError, match="either"):
        train(tiny.tiny_config(), shards=shards, out=tmp_path / "new")
    with pytest.raises(ArtefactError, match="no directory"):
        train(tiny.tiny_config(), shards=tmp_path / "none", out=tmp_path / "new", model=tiny.tiny_model())


def test_shards_of_another_tokeniser_are_refused(shards: Path, tmp_path: Path) -> None:
    first = train(tiny.tiny_config(max_steps=2), shards=shards, out=tmp_path / "a", model=tiny.tiny_model())
    copy = tmp_path / "other"
    copy.mkdir()
    for file in first.path.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    (copy / "artefact.json").unlink()
    config = json.loads((copy / "tokenizer_config.json").read_text())
    config["chat_template"] += "{# other #}"
    (copy / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(ArtefactError, match="tokeniser"):
        train(tiny.tiny_config(), shards=shards, out=tmp_path / "b", init_from=copy)


def test_two_trainers_do_not_share_a_directory(shards: Path, tmp_path: Path) -> None:
    import fcntl

    (tmp_path / "out").mkdir()
    with (tmp_path / "out" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="another process"):
            train(tiny.tiny_config(), shards=shards, out=tmp_path / "out", model=tiny.tiny_model())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_compiled_run_learns_the_same(shards: Path, tmp_path: Path) -> None:
    for name, compiled in (("plain", False), ("compiled", True)):
        config = tiny.tiny_config(max_steps=6, compile=compiled)
        train(config, shards=shards, out=tmp_path / name, model=tiny.tiny_model())
    plain, compiled = (
        [row["loss"] for row in rows(tmp_path / name) if "loss" in row] for name in ("plain", "compiled")
    )
    assert compiled == pytest.approx(plain, abs=2e-3)
    load_model(tmp_path / "compiled" / "model")
