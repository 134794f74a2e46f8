"""RL through the engine and the loop: the same law on both sides, it learns, nothing that fails becomes a zero."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_training as tiny
import torch

from hanok.engine.api import Completion, Usage
from hanok.engine.generator import LocalEngine
from hanok.errors import ConfigError, HanokError
from hanok.models.checkpoint import load_model, save_model
from hanok.models.config import MoEConfig
from hanok.models.decoder import Decoder
from hanok.models.lora import LoraConfig, add_adapter
from hanok.tokens.tokenizer import Tokenizer
from hanok.training.align.config import AlignConfig
from hanok.training.align.methods import POLICY_METHODS
from hanok.training.align.scoring import answer_logprobs
from hanok.training.permutation import Permutation
from hanok.training.rewards import Row, mix, score
from hanok.training.rollouts.generator import Answer, Generator, plain_weights
from hanok.training.rollouts.learning import Found
from hanok.training.rollouts.prompts import Prompt, read_prompts
from hanok.training.rollouts.rewards import rewards_of
from hanok.training.rollouts.run import VALUE_HEAD, align_on_rewards
from hanok.training.rollouts.samples import as_sequence
from hanok.training.rollouts.source import Rollouts


def quick(**changes: Any) -> AlignConfig:
    settings: dict[str, Any] = {
        "max_steps": 2, "prompts_per_step": 4, "group_size": 4, "max_new_tokens": 8, "muon_lr": 3e-3, "adamw_lr": 3e-3,
        "warmup_steps": 0, "threads": 1, "max_seq_len": 64, "micro_batch_tokens": 512, "decay_fraction": 0.0,
        "validate_every": 100, "checkpoint_every": 100,
    }  # fmt: skip
    return AlignConfig(**{**settings, **changes})


def letters(prompt: Any, completion: str, columns: Any) -> float:
    """Share of plain letters."""
    return sum(c.isascii() and c.isalpha() for c in completion) / max(len(completion), 1)


def rows(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_the_engine_draws_by_the_learners_law(base: Path, prompts: Path) -> None:
    """After an update with adapters on: log-probabilities agree, and equal seeds give equal ids."""
    decoder, config = load_model(base), quick(max_new_tokens=20)
    add_adapter(decoder, LoraConfig(rank=4), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            if name.endswith("lora_B"):
                parameter.normal_(std=0.2, generator=torch.Generator().manual_seed(2))
    generator = Generator(base, config, threads=1)
    try:
        asked = read_prompts(prompts, Tokenizer.load(base), max_tokens=40)[:3]
        before = generator.sample(asked, draws=[0, 1, 2])
        generator.take(decoder)
        answers = generator.sample(asked, draws=[0, 1, 2])
        again = generator.sample(asked[::-1], draws=[2, 1, 0])[::-1]
        other = generator.sample(asked, draws=[3, 4, 5])
    finally:
        generator.close()
    assert answers == again
    assert answers not in (before, other)
    flat = [(prompt, answer) for prompt, group in zip(asked, answers, strict=True) for answer in group]
    sequences = [as_sequence(prompt.ids, answer.ids) for prompt, answer in flat]
    with torch.no_grad():
        found = answer_logprobs(decoder, sequences, dtype=torch.float32).logp_M
    drawn = torch.tensor([logp for _, answer in flat for logp in answer.logprobs])
    torch.testing.assert_close(found, drawn, atol=1e-4, rtol=0)
    names = set(plain_weights(decoder))
    assert names == {name for name, _ in load_model(base).named_parameters()}


def test_the_engine_follows_the_biases_of_routers(shards: Path, prompts: Path, tmp_path: Path) -> None:
    """They are no parameters, but the learner moves them."""
    moe = MoEConfig(experts=8, per_token=2, width=16, router="sigmoid")
    decoder = Decoder(tiny.tiny_model(vocab_size=266, moe=moe), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    save_model(decoder, tmp_path, tokenizer_dir=shards)
    with torch.no_grad():
        for router in decoder.routers():
            torch.nn.init.normal_(router.e_score_correction_bias, generator=torch.Generator().manual_seed(2))
    generator = Generator(tmp_path, quick(), threads=1)
    try:
        asked = read_prompts(prompts, Tokenizer.load(shards), max_tokens=40)[:2]
        generator.take(decoder)
        answers = generator.sample(asked, draws=[0, 1])
    finally:
        generator.close()
    flat = [(prompt, answer) for prompt, group in zip(asked, answers, strict=True) for answer in group]
    sequences = [as_sequence(prompt.ids, answer.ids) for prompt, answer in flat]
    with torch.no_grad():
        found = answer_logprobs(decoder.eval(), sequences, dtype=torch.float32).logp_M
    drawn = torch.tensor([logp for _, answer in flat for logp in answer.logprobs])
    torch.testing.assert_close(found, drawn, atol=1e-4, rtol=0)


def test_rewards_read_the_reasoning(base: Path, prompts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no token that ended the answer."""
    generator = Generator(base, quick(group_size=1), threads=1)
    tokenizer = Tokenizer.load(base)
    think, thought, end = (tokenizer.special[name] for name in ("<think>", "</think>", "<|im_end|>"))
    ids = (think, *tokenizer.encode("hm"), thought, *tokenizer.encode("<answer>7</answer>"))
    said = Completion(
        ids=ids, finish_reason="stop", usage=Usage(prompt_tokens=1, completion_tokens=9),
        logprobs=(0.0,) * len(ids), stop_id=end, stop_logprob=0.0,
    )  # fmt: skip
    monkeypatch.setattr(LocalEngine, "generate", lambda *_: [said])
    try:
        asked = read_prompts(prompts, tokenizer, max_tokens=40)[:1]
        answer = generator.sample(asked, draws=[0])[0][0]
    finally:
        generator.close()
    assert answer.text == "<think>hm</think><answer>7</answer>"
    parts = rewards_of(["format", "numeric"])
    assert score(parts, [Row("", answer.text, {"answer": 7})]).totals == [2.0]


def test_another_reward_under_the_same_name_is_another_run(base: Path, prompts: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def mine(prompt, completion, columns):\n    return float(len(completion))\n")

    def run() -> None:
        align_on_rewards(
            "grpo", quick(max_steps=1), model=base, prompts=prompts, rewards=[f"{file}:mine=2"], out=tmp_path / "out"
        )  # fmt: skip

    run()
    run()  # finished: nothing to do
    file.write_text(file.read_text().replace("len(completion)", "-len(completion)"))
    with pytest.raises(ConfigError):
        run()


@pytest.mark.parametrize("method", POLICY_METHODS)
def test_every_method_learns_something(method: str, base: Path, prompts: Path, tmp_path: Path) -> None:
    config = quick(kl_beta=0.05 if method in ("ppo", "rloo", "grpo") else 0.0)
    if method in ("star", "scalerl"):
        config = replace(config, pass_reward=0.2)
    artefact = align_on_rewards(
        method, config, model=base, prompts=prompts, rewards=mix({"letters": letters}), out=tmp_path
    )
    before, after = load_model(base).state_dict(), load_model(artefact.path).state_dict()
    assert all(not torch.equal(tensor, after[name]) for name, tensor in before.items())
    for row in rows(tmp_path):
        assert row["mismatch.absolute"] < 1e-4
        assert row["policy.entropy"] > 1
        assert 0 < row["reward"] < 1
        assert row["rollout.tokens"] <= 8
    assert (VALUE_HEAD in artefact.files) == (method == "ppo")
    if method in ("ppo", "rloo", "grpo"):
        name = "policy.reference_kl" if method == "grpo" else "rollout.reference_kl"
        assert rows(tmp_path)[0][name] == pytest.approx(0, abs=1e-5)
        assert rows(tmp_path)[1][name] != rows(tmp_path)[0][name]


def test_entropy_can_be_paid_for(base: Path, prompts: Path, tmp_path: Path) -> None:
    def last(bonus: float) -> float:
        config, out = quick(max_steps=4, entropy_bonus=bonus), tmp_path / str(bonus)
        align_on_rewards("grpo", config, model=base, prompts=prompts, rewards=mix({"l": letters}), out=out)
        return rows(out)[-1]["policy.entropy"]

    assert last(5.0) > last(0.0)


def test_the_weight_of_the_divergence_follows_its_target(base: Path, prompts: Path, tmp_path: Path) -> None:
    """Far above its target it rises by a fifth in `kl_horizon` answers; a resumed run goes on with it."""
    config = quick(max_steps=3, kl_beta=0.5, kl_target=1e-9, kl_horizon=32.0, checkpoint_every=1)
    align_on_rewards("ppo", config, model=base, prompts=prompts, rewards=mix({"l": letters}), out=tmp_path)
    found = rows(tmp_path)
    assert found[0]["rollout.kl_beta"] == 0.5
    for before, after in pairwise(found):
        move = 1.1 if before["rollout.answer_kl"] > 1e-9 else 0.9  # 16 of 32 answers, bounded by a fifth
        assert after["rollout.kl_beta"] == pytest.approx(before["rollout.kl_beta"] * move)
    state = json.loads((tmp_path / "checkpoints" / "step-000002" / "training" / "state.json").read_text())
    assert state["sampler"]["kl_beta"] == pytest.approx(found[2]["rollout.kl_beta"])
    assert all(row["value.explained_variance"] <= 1 for row in found)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["grpo", "rloo", "ppo"])
def test_the_reward_rises(method: str, base: Path, prompts: Path, tmp_path: Path) -> None:
    config = quick(max_steps=60, prompts_per_step=8, group_size=8)
    align_on_rewards(method, config, model=base, prompts=prompts, rewards=mix({"l": letters}), out=tmp_path)
    rewards = [row["reward"] for row in rows(tmp_path) if "reward" in row]
    assert sum(rewards[-5:]) / 5 > sum(rewards[:2]) / 2 + 0.3


def test_several_updates_of_one_rollout_move_away_from_it(base: Path, prompts: Path, tmp_path: Path) -> None:
    config = quick(updates_per_rollout=2, max_steps=4)
    align_on_rewards("grpo", config, model=base, prompts=prompts, rewards=mix({"l": letters}), out=tmp_path)
    found = rows(tmp_path)
    assert ["reward" in row for row in found] == [True, False, True, False]
    assert found[0]["policy.old_kl"] == pytest.approx(0, abs=1e-6)
    assert found[1]["policy.old_kl"] > 1e-6


def test_groups_that_all_fail_are_said_and_change_nothing(
    base: Path, prompts: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="hanok"):
        artefact = align_on_rewards(
            "grpo", quick(), model=base, prompts=prompts, rewards=mix({"never": lambda *_: 0.0}), out=tmp_path
        )
    assert "in none of 4 groups do the rewards differ" in caplog.text
    assert all(row["rollout.zero_variance"] == 1 and row["grad_norm"] == 0 for row in rows(tmp_path))
    before, after = load_model(base).state_dict(), load_model(artefact.path).state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_a_reward_that_fails_is_counted_and_never_a_zero(
    base: Path, prompts: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def moody(prompt: Any, completion: str, columns: Any) -> float:
        if columns["answer"] in "012":
            return float("nan")
        if columns["answer"] in "345":
            raise ValueError("no mood")
        return 1 + letters(prompt, completion, columns)

    with caplog.at_level(logging.WARNING, logger="hanok"):
        config = quick(prompts_per_step=10, samples_kept=10, max_steps=1)
        align_on_rewards("grpo", config, model=base, prompts=prompts, rewards=mix({"m": moody}), out=tmp_path)
    assert rows(tmp_path)[0]["reward.skipped"] == pytest.approx(0.6)
    assert rows(tmp_path)[0]["reward"] >= 1
    assert "12 of 40 rows (raised ValueError)" in caplog.text
    kept = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert len(kept) == 10
    assert sum(reward is None for group in kept for reward in group["rewards"]) == 24


def test_groups_stay_in_the_order_they_were_drawn_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether they teach or not; DAPO alone replaces those that do not."""
    config = quick(prompts_per_step=4, updates_per_rollout=2, group_size=2)
    known = [Prompt(str(i), (1, 2), [], {}) for i in range(64)]
    parts: list[list[str]] = []

    class Scripted:
        def take(self, decoder: Any) -> None: ...

        def sample(self, prompts: Any, *, draws: Any) -> list[list[Answer]]:
            return [[Answer((3,), (0.0,), text, truncated=False) for text in "ab"] for _ in prompts]

        def samples(self, groups: Any) -> Found:
            parts.extend([prompt.name for prompt, _, _ in part] for part in groups)
            return Found([[] for _ in groups], {})

    def odd(prompt: Any, completion: str, columns: Any) -> float:
        """Differs in every other prompt."""
        return float(completion == "b") if next(calls) // 2 % 2 else 0.0

    def parts_of(method: str) -> list[str]:
        nonlocal calls
        calls = count()
        parts.clear()
        scripted: Any = Scripted()
        source = Rollouts(
            method, config, decoder=scripted, prompts=known, generator=scripted, rewards=mix({"odd": odd}),
            learning=scripted, samples_file=tmp_path / f"{method}.jsonl",
        )  # fmt: skip
        source.draw_step()
        assert len(parts) == 2
        return parts[0] + parts[1]

    calls = count()
    order = Permutation(64, f"prompts/{config.seed}/0")(np.arange(64)).astype(str).tolist()
    assert parts_of("grpo") == order[:4]
    assert set(parts_of("dapo")) <= set(order[1:12:2])


@pytest.mark.parametrize("method", ["grpo", "ppo"])
def test_a_step_that_teaches_nothing_changes_nothing(
    method: str, base: Path, prompts: Path, tmp_path: Path
) -> None:
    """Momentum of the step before does not move the model, nor do made-up returns the value head."""

    def after(steps: int) -> tuple[dict[str, torch.Tensor], bytes]:
        calls = count()

        def half(prompt: Any, completion: str, columns: Any) -> float:
            return letters(prompt, completion, columns) if next(calls) < 8 else float("nan")

        out = tmp_path / str(steps)
        config = quick(updates_per_rollout=2, max_steps=steps)
        artefact = align_on_rewards(
            method, config, model=base, prompts=prompts, rewards=mix({"h": half}), out=out
        )
        head = artefact.path / VALUE_HEAD
        return load_model(artefact.path).state_dict(), head.read_bytes() if head.exists() else b""

    one, two = after(1), after(2)
    assert [row.get("event") for row in rows(tmp_path / "2")] == [None, "nothing to learn"]
    assert all(torch.equal(tensor, two[0][name]) for name, tensor in one[0].items())
    assert one[1] == two[1]


@pytest.mark.parametrize("method", ["grpo", "rloo", "ppo"])
def test_answers_of_no_words_are_judged_and_learnt_from(
    method: str, base: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that such an answer has is the token that ended it."""
    end = min(Tokenizer.load(base).stop_ids)
    drawn, judged = Generator.sample, list[str]()

    def sample(self: Generator, prompts: Any, *, draws: Any) -> list[list[Answer]]:
        return [
            [Answer((end,), (-5.0,), "", truncated=False), *group[1:]]
            for group in drawn(self, prompts, draws=draws)
        ]

    def spoken(prompt: Any, completion: str, columns: Any) -> float:
        judged.append(completion)
        return float(bool(completion))

    monkeypatch.setattr(Generator, "sample", sample)
    made = align_on_rewards(
        method, quick(max_steps=1), model=base, prompts=prompts, rewards=mix({"s": spoken}), out=tmp_path
    )
    (row,) = rows(tmp_path)
    assert (len(judged), judged[::4]) == (16, [""] * 4)
    assert row["reward.skipped"] == 0
    assert row["reward"] <= 0.75
    assert row["grad_norm"] > 0
    assert all(tensor.isfinite().all() for tensor in load_model(made.path).state_dict().values())


def test_a_reward_that_judges_nothing_ends_the_run(base: Path, prompts: Path, tmp_path: Path) -> None:
    def broken(prompt: Any, completion: str, columns: Any) -> float:
        raise KeyError("no such column")

    with pytest.raises(HanokError, match=r"could be judged \(b: raised KeyError\)"):
        align_on_rewards(
            "grpo", quick(), model=base, prompts=prompts, rewards=mix({"b": broken}), out=tmp_path
        )


def test_settings_that_do_not_go_together(base: Path, prompts: Path, tmp_path: Path) -> None:
    rewards = mix({"l": letters})
    for changes, message in (
        ({"group_size": 1}, "compares answers"),
        ({"clip_high": 0.3}, "both sides alike"),
        ({"max_steps": None}, "no end by itself"),
        ({"max_new_tokens": 64}, "leaves no room"),
        ({"kl_target": 2.0}, "kl_target = 2.0 of rloo"),
        ({"carry": 4, "chunks": 2}, "carry and chunks with think = plain"),
    ):
        with pytest.raises(ConfigError, match=message):
            align_on_rewards(
                "rloo", quick(**changes), model=base, prompts=prompts, rewards=rewards, out=tmp_path / message
            )
