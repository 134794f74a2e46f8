"""Rehearsal beside a method: its part of the gradient, what it holds, where it goes on, and what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hanok.artefacts import create_artefact, open_artefact
from hanok.artefacts.shards import open_shards
from hanok.errors import ArtefactError, ConfigError, InputError
from hanok.models.checkpoint import load_model
from hanok.models.decoder import Decoder
from hanok.tokens.tokenizer import Tokenizer
from hanok.training.align.batches import Rows
from hanok.training.align.config import AlignConfig
from hanok.training.align.preference import PairObjective
from hanok.training.align.preferences import read_pairs
from hanok.training.align.rehearsal import Rehearsed, Rehearsing, WithRehearsal, sampler_of
from hanok.training.align.run import align_on_preferences
from hanok.training.objectives.next_token import next_token_loss
from hanok.training.packing import micro_batches, pack
from hanok.training.rollouts.run import align_on_rewards


def quick(**changes: Any) -> AlignConfig:
    settings: dict[str, Any] = {
        "max_steps": 8, "pairs_per_step": 8, "muon_lr": 3e-3, "adamw_lr": 3e-3, "warmup_steps": 1, "threads": 1,
        "max_seq_len": 128, "micro_batch_tokens": 512, "validate_every": 100, "held_out": 0.2, "decay_fraction": 0.0,
        "rehearsal_tokens": 300,
    }  # fmt: skip
    return AlignConfig(**{**settings, **changes})


def rows(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def gradient(decoder: Decoder) -> torch.Tensor:
    found = torch.cat([p.grad.flatten() for p in decoder.parameters() if p.grad is not None])
    decoder.zero_grad()
    return found


def test_the_gradient_is_the_sum_of_both_however_it_is_split(
    base: Path, preferences: Path, shards: Path
) -> None:
    config = quick(rehearsal_weight=0.5)
    decoder = load_model(base, dtype=torch.float32)
    pairs = read_pairs(preferences, Tokenizer.load(base), max_seq_len=128)
    inner = PairObjective(method="simpo", config=config, dtype=torch.float32)
    batches = WithRehearsal(
        Rows(pairs, per_step=8, epochs=None, seed=0), sampler_of(config, open_shards(shards))
    )
    examples = batches.draw_step()
    own = [one for one in examples if not isinstance(one, Rehearsed)]
    rehearsed = [one.sequence for one in examples if isinstance(one, Rehearsed)]
    assert len(own) == 8
    assert {one.name.split(":")[0] for one in rehearsed} == {"chat-train", "text-train"}

    inner.loss(decoder, own, units=8).objective.backward()
    methods = gradient(decoder)
    learnt = sum(int(one.mask.sum()) for one in rehearsed)
    alone = next_token_loss(decoder, pack(rehearsed), step_tokens=learnt, dtype=torch.float32, mtp_weight=0.0)
    alone.objective.backward()
    expected = methods + 0.5 * gradient(decoder)
    assert (expected - methods).norm() > 0.1 * methods.norm()

    objective = Rehearsing(inner=inner, weight=0.5, dtype=torch.float32)
    for most in (100_000, 200):
        units = objective.begin_step(decoder, examples)
        assert units == 8
        parts = [
            objective.loss(decoder, group, units=units) for group in micro_batches(examples, max_tokens=most)
        ]
        torch.stack([part.objective for part in parts]).sum().backward()
        torch.testing.assert_close(gradient(decoder), expected, rtol=1e-4, atol=1e-6)
        nats = [part.metrics["rehearsal.loss"] for part in parts if "rehearsal.loss" in part.metrics]
        assert sum(total for total, _ in nats) == pytest.approx(float(alone.total), rel=1e-5)
        assert sum(count for _, count in nats) == learnt


def test_a_step_whose_rehearsed_tokens_are_all_only_read_changes_nothing(base: Path, shards: Path) -> None:
    decoder = load_model(base, dtype=torch.float32)
    drawn = sampler_of(quick(), open_shards(shards)).draw_step()
    read = [Rehearsed(replace(one, mask=one.mask * 0)) for one in drawn]
    inner = PairObjective(method="simpo", config=quick(), dtype=torch.float32)
    objective = Rehearsing(inner=inner, weight=0.5, dtype=torch.float32)
    units = objective.begin_step(decoder, read)
    loss = objective.loss(decoder, read, units=max(1, units))
    assert float(loss.objective.detach()) == 0.0


def test_the_source_goes_on_where_it_was(base: Path, preferences: Path, shards: Path) -> None:
    config, pairs = quick(), read_pairs(preferences, Tokenizer.load(base), max_seq_len=128)

    def source() -> WithRehearsal:
        return WithRehearsal(
            Rows(pairs, per_step=8, epochs=1.0, seed=0), sampler_of(config, open_shards(shards))
        )

    one, other = source(), source()
    one.draw_step()
    state = json.loads(json.dumps(one.state()))
    other.restore(state)
    following = [example.name for example in one.draw_step()]
    assert following == [example.name for example in other.draw_step()]
    assert following != [example.name for example in source().draw_step()]
    while one.draw_step():
        pass  # ends with the pairs, though documents are left
    assert one.count(max_steps=None, max_tokens=None) == (-(-len(pairs) // 8), None)


def test_what_is_rehearsed_is_not_forgotten(
    base: Path, preferences: Path, shards: Path, tmp_path: Path
) -> None:
    """The same pairs at the same steps; without rehearsal the loss of old chats and documents rises."""
    ends = {}
    for name, given in (("with", shards), ("without", None)):
        config = quick() if given else quick(rehearsal_tokens=2048)
        trained = align_on_preferences(
            "dpo", config, model=base, data=preferences, out=tmp_path / name, rehearsal=given
        )
        decoder = load_model(trained.path, dtype=torch.float32)
        sequences = sampler_of(quick(), open_shards(shards)).draw_step()
        with torch.no_grad():
            found = next_token_loss(
                decoder, pack(sequences), step_tokens=1, dtype=torch.float32, mtp_weight=0.0
            )
        ends[name] = float(found.total) / sum(int(one.mask.sum()) for one in sequences)
    assert ends["with"] < ends["without"] - 0.3
    logged = rows(tmp_path / "with")
    assert logged[7]["rehearsal.loss"] < logged[0]["rehearsal.loss"]
    assert logged[0]["loss"] == rows(tmp_path / "without")[0]["loss"]
    parents = open_artefact(tmp_path / "with" / "model").parents
    assert parents["rehearsal"] == open_artefact(shards).hash


def test_practice_may_rehearse_too(base: Path, prompts: Path, shards: Path, tmp_path: Path) -> None:
    file = tmp_path / "reward.py"
    file.write_text("def spread(prompt, completion, columns):\n    return len(set(completion)) / 10\n")
    config = AlignConfig(
        max_steps=2,
        prompts_per_step=2,
        group_size=2,
        max_new_tokens=6,
        max_seq_len=128,
        threads=1,
        rehearsal_tokens=200,
    )
    align_on_rewards(
        "grpo",
        config,
        model=base,
        prompts=prompts,
        rewards=[f"{file}:spread"],
        out=tmp_path / "out",
        rehearsal=shards,
    )
    learnt = [row for row in rows(tmp_path / "out") if "event" not in row and "loss" in row]
    assert learnt
    assert all(row["rehearsal.loss"] > 1 for row in learnt)


def test_refusals(base: Path, preferences: Path, shards: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="rehearsal_tokens without rehearsal"):
        align_on_preferences("dpo", quick(), model=base, data=preferences, out=tmp_path / "a")
    with pytest.raises(ConfigError, match="rehearsal_chats = 2"):
        quick(rehearsal_chats=2)
    index = json.loads((shards / "shards.json").read_text())
    for name, changed, error, message in (
        ("other", {"tokenizer_hash": "0" * 64}, ArtefactError, "tokeniser"),
        (
            "untaught",
            {"splits": {"text-test": index["splits"]["text-test"]}},
            InputError,
            "no training split",
        ),
    ):
        with create_artefact(tmp_path / name, kind="shards") as draft:
            for file in shards.iterdir():
                if file.name not in ("shards.json", "artefact.json"):
                    shutil.copy(file, draft.path)
            (draft.path / "shards.json").write_text(json.dumps(index | changed))
        with pytest.raises(error, match=message):
            align_on_preferences(
                "dpo",
                quick(),
                model=base,
                data=preferences,
                out=tmp_path / f"{name}-out",
                rehearsal=tmp_path / name,
            )


@pytest.mark.parametrize(("share", "names"), [(0.0, {"text-train"}), (1.0, {"chat-train"})])
def test_chats_or_documents_alone(shards: Path, share: float, names: set[str]) -> None:
    drawn = sampler_of(replace(quick(), rehearsal_chats=share), open_shards(shards)).draw_step()
    assert {one.name.split(":")[0] for one in drawn} == names
