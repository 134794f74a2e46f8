"""Reward models: scores as they were trained, margins, and facts that no pair told."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
import tiny_training as tiny
import torch

from hanok.errors import CheckpointError
from hanok.improvement.judging.scores import score_judge
from hanok.models.checkpoint import load_model, save_model
from hanok.models.decoder import Decoder
from hanok.tokens.tokenizer import Tokenizer
from hanok.training.align.config import AlignConfig
from hanok.training.align.preferences import read_pairs
from hanok.training.align.reward_model import HEAD, RewardHead, RewardModel, RewardObjective, scores
from hanok.training.align.run import align_on_preferences
from hanok.training.align.scoring import answer_logprobs, summed_logprobs
from hanok.training.config import TrainConfig
from hanok.training.optim import Optimiser

FACTS = 48


def quick(**changes: Any) -> AlignConfig:
    settings: dict[str, Any] = {
        "max_steps": 8, "pairs_per_step": 8, "muon_lr": 3e-3, "adamw_lr": 3e-3, "warmup_steps": 1, "threads": 1,
        "max_seq_len": 128, "micro_batch_tokens": 512, "validate_every": 100, "held_out": 0.0, "decay_fraction": 0.0,
    }  # fmt: skip
    return AlignConfig(**{**settings, **changes})


@pytest.mark.parametrize("likelihood", [False, True])
def test_a_reward_model_scores_as_it_was_trained(
    likelihood: bool, base: Path, preferences: Path, tmp_path: Path
) -> None:
    """From its files alone, in any batch; the same scores come from the messages."""
    artefact = align_on_preferences(
        "reward", quick(likelihood=likelihood), model=base, data=preferences, out=tmp_path
    )
    assert HEAD in artefact.files
    model = RewardModel(artefact.path)
    pairs = read_pairs(preferences, model.tokenizer, max_seq_len=128)
    texts = [side for pair in pairs for side in pair.sequences]
    found = model.score(texts)
    right = [chosen > rejected for chosen, rejected in zip(found[::2], found[1::2], strict=True)]
    assert sum(right) > 0.9 * len(right)
    assert found == pytest.approx(model.score(texts, max_tokens=1), abs=1e-4)
    row = json.loads(preferences.read_text(encoding="utf-8").splitlines()[0])
    assert model.score([model.text(row["prompt"], row["chosen"][0])]) == pytest.approx(found[:1], abs=1e-4)
    judge = score_judge(f"reward:{artefact.path}")
    assert judge.score(row["prompt"], row["chosen"][0]["content"]) == pytest.approx(found[0], abs=1e-4)
    with pytest.raises(CheckpointError, match=HEAD):
        RewardModel(base)


def test_a_score_may_read_how_likely_an_answer_is(base: Path, preferences: Path, tmp_path: Path) -> None:
    """Before any training a head of zeros orders answers by their mean log-probability, which the law's gradient reaches."""
    decoder, tokenizer = load_model(base, dtype=torch.float32), Tokenizer.load(base)
    texts = [
        side for pair in read_pairs(preferences, tokenizer, max_seq_len=128)[:4] for side in pair.sequences
    ]
    head = RewardHead(decoder.config.hidden_size, likelihood=True)
    found_B = scores(decoder, head, texts)
    summed = summed_logprobs(decoder, texts, dtype=torch.float32, max_tokens=512)
    mean = [total / int(text.mask.sum()) for total, text in zip(summed, texts, strict=True)]
    assert found_B.tolist() == pytest.approx(mean, abs=1e-4)
    found_B.sum().backward()
    assert decoder.head_weight.grad is not None
    assert decoder.head_weight.grad.abs().sum() > 0
    with torch.no_grad():
        least = [float(answer_logprobs(decoder, [text], dtype=torch.float32).logp_M.min()) for text in texts]
    assert head.likelihood is not None
    assert head.likelihood.grad is not None
    assert float(head.likelihood.grad[1]) == pytest.approx(10 * sum(least), rel=1e-4)
    without = RewardHead(decoder.config.hidden_size)
    assert scores(decoder, without, texts).tolist() == [0.0] * len(texts)
    head.save(tmp_path / "head.safetensors")
    assert RewardHead.load(tmp_path / "head.safetensors", decoder.config.hidden_size).likelihood is not None


def test_a_margin_is_asked_of_the_scores(base: Path, tmp_path: Path, write_rows: Any) -> None:
    """-log sigmoid(gap - margin): a head of zeros has no gap."""
    row = {"prompt": "a", "chosen": "b", "rejected": "c"}
    file = write_rows(tmp_path / "rows.jsonl", [row, {**row, "prompt": "d", "margin": 2.0}])
    pairs = read_pairs(file, Tokenizer.load(base), max_seq_len=64)
    decoder = load_model(base, dtype=torch.float32)
    objective = RewardObjective(config=quick(), head=RewardHead(decoder.config.hidden_size))
    losses = [float(objective.loss(decoder, [pair], units=1).total) for pair in pairs]
    assert losses == pytest.approx([math.log(2), math.log1p(math.exp(2.0))], abs=1e-5)


@pytest.fixture(scope="module")
def facts() -> list[dict[str, str]]:
    """Keys and values; rejected is the value of another key."""
    rng = random.Random(1)
    words = [a + b for a in "abcdefghijklmnop" for b in "abcdefghijklmnop"]
    keys, values = rng.sample(words, FACTS), rng.sample(words, FACTS)
    return [
        {"prompt": f"{key}?", "chosen": value, "rejected": values[place - 1]}
        for place, (key, value) in enumerate(zip(keys, values, strict=True))
    ]


@pytest.fixture(scope="module")
def knowing(
    facts: list[dict[str, str]], shards: Path, tmp_path_factory: pytest.TempPathFactory, write_rows: Any
) -> Path:
    """A model that was taught all of them."""
    folder = tmp_path_factory.mktemp("knowing")
    pairs = read_pairs(write_rows(folder / "facts.jsonl", facts), Tokenizer.load(shards), max_seq_len=64)
    shape = tiny.tiny_model(vocab_size=266, hidden_size=64, num_heads=4, intermediate_size=128)
    decoder = Decoder(shape, generator=torch.Generator().manual_seed(1))
    settings = TrainConfig(max_steps=1, muon_lr=1e-2, adamw_lr=5e-3)
    optimiser = Optimiser(
        dict(decoder.named_parameters()), decoder.parameter_groups_hint(), settings, dtype=torch.float32
    )
    for step in range(90):
        told = answer_logprobs(decoder, [pair.chosen for pair in pairs], dtype=torch.float32)
        (-told.logp_M.mean()).backward()
        optimiser.step(min(1.0, (step + 1) / 10, (90 - step) / 45), gradient_scale=1.0)
    (folder / "model").mkdir()
    save_model(decoder, folder / "model", tokenizer_dir=shards)
    return folder / "model"


def test_what_the_start_knew_the_likelihood_knows(
    facts: list[dict[str, str]], knowing: Path, tmp_path: Path, write_rows: Any
) -> None:
    """Pairs about half of the keys, a tenth of them flipped: of the other half the last token alone knows nothing."""
    half = FACTS // 2
    told = [
        {**row, "chosen": row["rejected"], "rejected": row["chosen"]} if place % 10 == 5 else row
        for place, row in enumerate(facts[:half])
    ]
    data = write_rows(tmp_path / "told.jsonl", told)
    untold = read_pairs(
        write_rows(tmp_path / "untold.jsonl", facts[half:]), Tokenizer.load(knowing), max_seq_len=64
    )
    right = {}
    for likelihood in (False, True):
        config = quick(
            max_steps=20,
            pairs_per_step=16,
            muon_lr=1e-3,
            adamw_lr=5e-4,
            likelihood=likelihood,
            decay_fraction=0.5,
        )
        model = align_on_preferences(
            "reward", config, model=knowing, data=data, out=tmp_path / str(likelihood)
        ).path
        found = RewardModel(model).score([side for pair in untold for side in pair.sequences])
        right[likelihood] = sum(a > b for a, b in zip(found[::2], found[1::2], strict=True)) / half
    assert right[False] < 0.75
    assert right[True] > 0.9
