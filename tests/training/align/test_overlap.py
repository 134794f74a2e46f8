"""Generator and learner at the same time: bounded staleness, an exact ledger, weights that change within an answer."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from hanok.engine.api import Request, SamplingParams
from hanok.engine.fair import FairLock
from hanok.engine.generator import LocalEngine
from hanok.errors import ConfigError, HanokError
from hanok.models.checkpoint import load_model
from hanok.training.align.config import AlignConfig
from hanok.training.rewards import mix
from hanok.training.rollouts.ahead import Ahead, Begun
from hanok.training.rollouts.generator import Answer
from hanok.training.rollouts.judging import Judged, judged_from_json
from hanok.training.rollouts.prompts import Prompt
from hanok.training.rollouts.run import align_on_rewards


def quick(**changes: Any) -> AlignConfig:
    settings: dict[str, Any] = {
        "max_steps": 6, "prompts_per_step": 4, "group_size": 4, "max_new_tokens": 8, "muon_lr": 3e-3, "adamw_lr": 3e-3,
        "warmup_steps": 0, "threads": 1, "max_seq_len": 64, "micro_batch_tokens": 512, "decay_fraction": 0.0,
        "validate_every": 100, "checkpoint_every": 100, "overlap": 2,
    }  # fmt: skip
    return AlignConfig(**{**settings, **changes})


def letters(prompt: Any, completion: str, columns: Any) -> float:
    return sum(c.isascii() and c.isalpha() for c in completion) / max(len(completion), 1)


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("grpo", {"think": "delethink", "chunk": 6, "carry": 2, "chunks": 3}),
        ("ppo", {"updates_per_rollout": 2}),
        ("scalerl", {}),
    ],
)
def test_staleness_is_bounded_and_every_draw_is_learnt_once(
    method: str, changes: dict[str, Any], base: Path, prompts: Path, tmp_path: Path
) -> None:
    config = quick(**changes)
    updates = config.updates_per_rollout
    artefact = align_on_rewards(
        method, config, model=base, prompts=prompts, rewards=mix({"l": letters}), out=tmp_path
    )
    ledger, rollouts = lines(tmp_path / "ledger.jsonl"), 6 // updates
    assert [row["rollout"] for row in ledger] == list(range(rollouts))
    assert [draw for row in ledger for draw in row["draws"]] == list(range(4 * rollouts))
    rows = [row for row in lines(tmp_path / "metrics.jsonl") if "reward" in row]
    assert [row["rollout.staleness"] for row in rows] == [min(r, 2) * updates for r in range(rollouts)]
    assert all(0 <= row["rollout.staleness_end"] <= row["rollout.staleness"] for row in rows)
    assert all(0 <= row[f"time.{side}_idle"] <= 1 for row in rows for side in ("learner", "generator"))
    assert rows[0]["mismatch.absolute"] < 1e-4
    before, after = load_model(base).state_dict(), load_model(artefact.path).state_dict()
    assert all(not torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_stale_answers_differ_from_the_learners_law(base: Path, prompts: Path, tmp_path: Path) -> None:
    """And are weighed by it: the importance of their tokens is not 1 any more."""
    align_on_rewards("grpo", quick(), model=base, prompts=prompts, rewards=mix({"l": letters}), out=tmp_path)
    last = lines(tmp_path / "metrics.jsonl")[-1]
    assert last["mismatch.absolute"] > 1e-3
    assert abs(last["policy.importance"] - 1) > 1e-4


def test_whole_answers_may_be_weighed_or_left_out(base: Path, prompts: Path, tmp_path: Path) -> None:
    """Everything above its cap is left out: nothing is learnt from stale answers that became likelier."""
    config = quick(importance="answer", importance_cap=1e-9, off_policy_nats=5.0)
    align_on_rewards("sapo", config, model=base, prompts=prompts, rewards=mix({"l": letters}), out=tmp_path)
    rows = [row for row in lines(tmp_path / "metrics.jsonl") if "policy.importance" in row]
    assert rows
    assert all(row["policy.importance"] == 0 and row["grad_norm"] == 0 for row in rows)


def test_what_does_not_overlap_is_refused(base: Path, prompts: Path, tmp_path: Path) -> None:
    for method, changes, message in (
        ("dapo", {}, "dynamic_sampling"),
        ("grpo", {"temperature": 0.7}, "temperature = 0.7"),
        ("grpo", {"importance_cap": 0.0}, "importance_cap = 0.0"),
        ("grpo", {"overlap": 0, "generator_threads": 1}, "without overlap"),
    ):
        with pytest.raises(ConfigError, match=message):
            align_on_rewards(
                method, quick(**changes), model=base, prompts=prompts, rewards=mix({"l": letters}), out=tmp_path
            )  # fmt: skip
    with pytest.raises(ConfigError, match="must not be negative"):
        quick(overlap=-1)


def test_a_reward_that_fails_ahead_ends_the_run(base: Path, prompts: Path, tmp_path: Path) -> None:
    def broken(prompt: Any, completion: str, columns: Any) -> float:
        raise HanokError("no sandbox", remedy="install one")

    with pytest.raises(HanokError, match="no sandbox"):
        align_on_rewards(
            "grpo", quick(), model=base, prompts=prompts, rewards=mix({"b": broken}), out=tmp_path
        )


def test_rollouts_are_taken_in_order_and_the_unfinished_are_known() -> None:
    gates = {number: threading.Event() for number in range(3)}

    def work(draws: Sequence[int]) -> Judged:
        gates[draws[0]].wait(10)
        return Judged([], {"first": float(draws[0])}, "")

    ahead = Ahead(work, depth=2)
    try:
        for number in range(3):
            ahead.add(Begun(number, (number,)))
        ahead.begin()
        gates[1].set()
        for _ in range(1000):
            if ahead.pending()[1][1] is not None:
                break
            time.sleep(0.01)
        assert [ended is not None for _, ended in ahead.pending()] == [False, True, False]
        ahead.updates = 5
        gates[0].set()
        taken, idle = ahead.take()
        assert (taken.begun, taken.judged.metrics, taken.ended) == (Begun(0, (0,), 0), {"first": 0.0}, 5)
        assert 0 <= idle.generator <= 1
        assert ahead.take()[0].ended == 0
    finally:
        gates[2].set()
        ahead.close()


def test_judged_answers_outlive_a_checkpoint() -> None:
    prompt = Prompt("p", (1, 2), (), {})
    answers = [
        Answer((3, 4), (-0.1, -0.2), "ab", truncated=False), Answer((5,), (-1.0,), "c", True, (((1, 2), 1),))
    ]  # fmt: skip
    judged = Judged([(prompt, answers, [1.0, float("nan")])], {"reward": 1.0}, "r: scored")
    again = judged_from_json(json.loads(json.dumps(judged.to_json())), [prompt])
    assert again.groups[0][:2] == judged.groups[0][:2]
    assert repr(again.groups[0][2]) == repr(judged.groups[0][2])
    assert (again.metrics, again.outcomes) == (judged.metrics, judged.outcomes)


def test_whoever_waits_for_the_lock_gets_it() -> None:
    lock, taken, over = FairLock(), threading.Event(), threading.Event()

    def greedy() -> None:
        while not over.is_set():
            with lock:
                taken.set()
                time.sleep(0.002)

    thread = threading.Thread(target=greedy)
    thread.start()
    taken.wait(10)
    rounds = time.monotonic()
    for _ in range(20):
        with lock:
            pass
    waited = time.monotonic() - rounds
    over.set()
    thread.join()
    assert waited < 5


def test_weights_change_within_an_answer(base: Path) -> None:
    """An engine with work takes them between two steps, and drops nobody."""
    engine = LocalEngine(base, threads=1, weights="float32")
    params = SamplingParams(temperature=1.0, seed=1, max_tokens=60, ignore_eos=True, logprobs=0)
    request = Request(id="long", prompt_ids=[5, 6, 7], params=params)
    try:
        alone = engine.generate([request])[0]
        other = {name: tensor * 1.5 for name, tensor in load_model(base).state_dict().items()}
        found: list[Any] = []
        thread = threading.Thread(target=lambda: found.append(engine.generate([request])[0]))
        thread.start()
        while engine.metrics().requests_running == 0:
            time.sleep(0.0005)
        engine.update_weights(other)
        still_running = engine.metrics().requests_running
        thread.join(60)
    finally:
        engine.close()
    assert len(found[0].ids) == 60
    assert still_running == 1
    assert found[0].logprobs != alone.logprobs
