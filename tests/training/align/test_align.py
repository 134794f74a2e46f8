"""Preference methods through the loop: they learn, the reference holds still, adapters and files agree."""

from __future__ import annotations

import json
import math
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import tiny_training as tiny
import torch

from hanok.artefacts import open_artefact
from hanok.errors import ArtefactError, ConfigError
from hanok.models.checkpoint import load_model
from hanok.models.config import MoEConfig
from hanok.models.decoder import Decoder
from hanok.tokens.tokenizer import Tokenizer
from hanok.training.align.config import AlignConfig
from hanok.training.align.methods import PAIR_METHODS, POLICY_METHODS, READERS
from hanok.training.align.preference import PairObjective
from hanok.training.align.preferences import read_judged, read_pairs
from hanok.training.align.run import align_on_preferences, split_by_prompt
from hanok.training.align.scoring import summed_logprobs


def quick(**changes: Any) -> AlignConfig:
    settings: dict[str, Any] = {
        "max_steps": 8, "pairs_per_step": 8, "muon_lr": 3e-3, "adamw_lr": 3e-3, "warmup_steps": 1, "threads": 1,
        "max_seq_len": 128, "micro_batch_tokens": 512, "validate_every": 8, "held_out": 0.2, "decay_fraction": 0.0,
    }  # fmt: skip
    return AlignConfig(**{**settings, **changes})


def rows(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("dpo", {}), ("dpo", {"dpo_loss": "per-token"}), ("dpo", {"dpo_loss": "robust", "label_smoothing": 0.1}),
        ("dpo", {"dpo_loss": "hinge"}), ("ipo", {}), ("orpo", {}), ("simpo", {}), ("cpo", {}),
    ],
)  # fmt: skip
def test_it_learns_that_shorter_is_better(
    method: str, changes: dict[str, Any], base: Path, preferences: Path, tmp_path: Path
) -> None:
    align_on_preferences(method, quick(**changes), model=base, data=preferences, out=tmp_path)
    last = rows(tmp_path)[-1]
    assert last["validation.preference.accuracy"] > 0.9
    losses = [row["loss"] for row in rows(tmp_path) if "loss" in row]
    assert min(losses[-3:]) < 0.9 * losses[0]


def test_kto_moves_good_and_bad_answers_apart(base: Path, preferences: Path, tmp_path: Path) -> None:
    align_on_preferences("kto", quick(max_steps=16), model=base, data=preferences, out=tmp_path)
    last = rows(tmp_path)[-1]
    apart = last["validation.preference.reward_chosen"] - last["validation.preference.reward_rejected"]
    assert apart > 0.1
    assert all(row["preference.reference_point"] >= 0 for row in rows(tmp_path) if "loss" in row)


def test_the_balance_loss_of_experts_counts_by_the_share_of_the_step(base: Path, preferences: Path) -> None:
    """As in training: inside what is differentiated, outside of the loss that is logged."""
    moe = MoEConfig(experts=4, per_token=2, width=16, balance_loss=0.5)
    decoder = Decoder(tiny.tiny_model(vocab_size=266, moe=moe)).train()
    pairs = read_pairs(preferences, Tokenizer.load(base), max_seq_len=128)[:4]
    loss = PairObjective(method="simpo", config=quick(), dtype=torch.float32).loss(decoder, pairs, units=16)
    auxiliary = decoder.aux_loss()
    assert auxiliary is not None
    assert auxiliary > 0.1
    torch.testing.assert_close(loss.objective - loss.total / 16, auxiliary / 4)


def test_no_prompt_is_on_both_sides_of_the_hold_out(base: Path, preferences: Path) -> None:
    """KTO reads two answers to each of these 40 prompts."""
    judged = read_judged(preferences, Tokenizer.load(base), max_seq_len=128)
    kept, held = split_by_prompt(judged, share=0.2, seed=0)
    assert (len(kept), len(held)) == (64, 16)
    assert not {one.name for one in kept} & {one.name for one in held}


def test_dpo_begins_at_the_reference_with_and_without_adapters(
    base: Path, preferences: Path, tmp_path: Path
) -> None:
    for name, changes in (("full", {}), ("lora", {"lora_rank": 4})):
        align_on_preferences(
            "dpo", quick(max_steps=2, **changes), model=base, data=preferences, out=tmp_path / name
        )
        first = rows(tmp_path / name)[0]
        assert first["loss"] == pytest.approx(math.log(2), abs=1e-5)
        assert first["preference.margin"] == pytest.approx(0, abs=1e-5)
    assert (tmp_path / "lora" / "adapter" / "adapter_model.safetensors").is_file()
    assert not (tmp_path / "lora" / "reference").exists()


def test_the_stored_reference_is_the_starting_models(base: Path, preferences: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    align_on_preferences("dpo", quick(held_out=0.0), model=base, data=preferences, out=tmp_path)
    pairs = read_pairs(preferences, Tokenizer.load(base), max_seq_len=128)
    sides = [side for pair in pairs for side in pair.sequences]
    expected = summed_logprobs(load_model(base), sides, dtype=torch.float32, max_tokens=97)
    stored = load_file(tmp_path / "reference" / "reference.safetensors")["train"]
    torch.testing.assert_close(stored.flatten(), torch.tensor(expected), atol=1e-4, rtol=1e-5)
    file = tmp_path / "reference" / "reference.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    (tmp_path / "model").rename(tmp_path / "away")
    with pytest.raises(ArtefactError, match="reference"):
        align_on_preferences("dpo", quick(held_out=0.0), model=base, data=preferences, out=tmp_path)


def test_micro_batches_do_not_change_the_update(base: Path, preferences: Path, tmp_path: Path) -> None:
    """A step of eight pairs at once, or in many parts; KTO's reference point is the whole step's."""
    for method in ("dpo", "kto"):
        for name, tokens in (("whole", 8192), ("parts", 128)):
            config = quick(max_steps=1, micro_batch_tokens=tokens)
            align_on_preferences(method, config, model=base, data=preferences, out=tmp_path / method / name)
        whole, parts = (
            load_model(tmp_path / method / name / "model").state_dict() for name in ("whole", "parts")
        )
        for name, tensor in whole.items():
            torch.testing.assert_close(parts[name], tensor, atol=2e-4, rtol=1e-3)
        assert rows(tmp_path / method / "whole")[0]["loss"] == pytest.approx(
            rows(tmp_path / method / "parts")[0]["loss"], abs=1e-5
        )


def test_forms_of_dpo_are_their_losses(base: Path, preferences: Path) -> None:
    """At the reference every form has its value by hand; a step away they part."""
    decoder, tokenizer = load_model(base, dtype=torch.float32), Tokenizer.load(base)
    pairs = read_pairs(preferences, tokenizer, max_seq_len=128)[:2]
    sides = [side for pair in pairs for side in pair.sequences]
    summed = summed_logprobs(decoder, sides, dtype=torch.float32, max_tokens=512)
    tokens = [int(side.mask.sum()) for side in sides]
    at = [replace(pair, reference=(summed[2 * i], summed[2 * i + 1])) for i, pair in enumerate(pairs)]
    off = [replace(pair, reference=(summed[2 * i] - 3.0, summed[2 * i + 1])) for i, pair in enumerate(pairs)]

    def loss(rows: list[Any], **changes: Any) -> float:
        objective = PairObjective(method="dpo", config=quick(**changes), dtype=torch.float32)
        return float(objective.loss(decoder, rows, units=1).total) / len(rows)

    forms: dict[str, dict[str, Any]] = {
        "plain": {}, "robust": {"label_smoothing": 0.2}, "per-token": {}, "hinge": {},
    }  # fmt: skip
    found = {form: loss(at, dpo_loss=form, **more) for form, more in forms.items()}
    assert found == pytest.approx(
        {"plain": math.log(2), "robust": math.log(2), "per-token": math.log(2), "hinge": 1}, abs=1e-4
    )
    away = {form: loss(off, dpo_loss=form, **more) for form, more in forms.items()}
    plain, flipped = (math.log1p(math.exp(sign * 0.3)) for sign in (-1, 1))
    assert away["plain"] == pytest.approx(plain, abs=1e-4)
    assert away["robust"] == pytest.approx((0.8 * plain - 0.2 * flipped) / 0.6, abs=1e-4)
    assert away["hinge"] == pytest.approx(0.7, abs=1e-4)
    each = [math.log1p(math.exp(-5.0 * 3.0 / many)) for many in tokens[::2]]
    assert away["per-token"] == pytest.approx(sum(each) / 2, abs=1e-4)
    with pytest.raises(ConfigError, match="robust with label_smoothing = 0"):
        quick(dpo_loss="robust").of_method("dpo")
    with pytest.raises(ConfigError, match="hinge with label_smoothing"):
        quick(dpo_loss="hinge", label_smoothing=0.1).of_method("dpo")


def test_what_a_method_does_not_read_is_refused() -> None:
    assert set(READERS) <= {field.name for field in fields(AlignConfig)}
    settings: dict[str, Any] = {
        "pairs_per_step": 8, "beta": 0.2, "gamma": 1.0, "label_smoothing": 0.1, "nll_weight": 0.5, "likelihood": True,
        "group_size": 4, "importance": "answer", "clip_low": 0.1, "ratio_cap": 3.0, "retire": 0.5, "gae_lambda": 1.0,
    }  # fmt: skip
    for name, value in settings.items():
        for method in (*PAIR_METHODS, *POLICY_METHODS):
            config = AlignConfig(**{name: value})
            if method in READERS[name]:
                assert getattr(config.of_method(method), name) == value
                continue
            with pytest.raises(ConfigError, match=f"{method} does not read {name}"):
                config.of_method(method)


def test_a_blend_lies_between_the_start_and_the_trained(
    base: Path, preferences: Path, tmp_path: Path
) -> None:
    for name, share in (("whole", 1.0), ("part", 0.25)):
        align_on_preferences(
            "dpo", quick(max_steps=3, blend=share), model=base, data=preferences, out=tmp_path / name
        )
    start, whole, part = (
        dict(load_model(path, dtype=torch.float32).named_parameters())
        for path in (base, tmp_path / "whole" / "model", tmp_path / "part" / "model")
    )
    assert any(not torch.equal(start[name], whole[name]) for name in start)
    for name, tensor in part.items():
        torch.testing.assert_close(tensor, start[name] + 0.25 * (whole[name] - start[name]))
    with pytest.raises(ConfigError, match="lora_alpha"):
        quick(blend=0.5, lora_rank=2)
    with pytest.raises(ConfigError, match="reward model"):
        align_on_preferences(
            "reward", quick(blend=0.5), model=base, data=preferences, out=tmp_path / "reward"
        )


@pytest.mark.usefixtures("drawn_pages")
def test_a_finished_run_is_returned_and_other_settings_are_refused(
    base: Path, preferences: Path, tmp_path: Path
) -> None:
    first = align_on_preferences("orpo", quick(max_steps=2), model=base, data=preferences, out=tmp_path)
    assert "<svg" in (tmp_path / "report.html").read_text(encoding="utf-8")
    again = align_on_preferences("orpo", quick(max_steps=2), model=base, data=preferences, out=tmp_path)
    assert first.hash == again.hash
    assert open_artefact(tmp_path / "model").parents["model"] == open_artefact(base).hash
    with pytest.raises(ConfigError, match="other settings"):
        align_on_preferences("cpo", quick(max_steps=2), model=base, data=preferences, out=tmp_path)
