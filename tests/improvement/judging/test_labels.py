"""Labels: no order sways them, nothing that failed counts as a verdict, and they can be learnt from."""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import binomtest

from hanok.chat import Message, Reply, ScriptedChat
from hanok.errors import ArtefactError, ChatError, InputError
from hanok.improvement.judging.config import JudgeConfig
from hanok.improvement.judging.constitution import read_constitution
from hanok.improvement.judging.judge import ChatPairJudge, first_of
from hanok.improvement.judging.label import judge_pairs
from hanok.improvement.judging.work import work_directory
from hanok.tokens.tokenizer import Tokenizer
from hanok.training.align.preferences import read_pairs

RULES = read_constitution()
Function = Callable[..., Any]


def test_a_judge_that_prefers_the_first_labels_nothing_wrongly(
    rows_of: Function, both: Function, label: Function, tmp_path: Path, pairs: Path
) -> None:
    """Half of the time it says 1 whatever it reads, else what is true: one order is biased and often wrong, both are neither."""

    def leaning(messages: Sequence[Message]) -> str:
        first, _ = both(messages)
        lean = random.Random(str(messages[1]["content"])).random() < 0.5
        return f"Better: {1 if lean or first.startswith('good') else 2}"

    made = label(tmp_path, pairs, leaning)
    judged = rows_of(made.path / "judgements.jsonl")
    wanted = {row["id"]: row["label"] for row in rows_of(pairs)}

    single = [one["orders"][0] > 0.5 for one in judged]
    assert binomtest(sum(single), len(single)).pvalue < 1e-6  # one order alone prefers the first
    right = sum(first == (wanted[one["id"]] == 1) for first, one in zip(single, judged, strict=True))
    assert binomtest(right, len(single)).proportion_ci().high < 0.9

    decided = [one for one in judged if one["verdict"] != "tie"]
    firsts = sum(one["verdict"] == "first" for one in decided)
    assert binomtest(firsts, len(decided)).pvalue > 0.05  # both orders do not
    assert all(one["verdict"] == ("first" if wanted[one["id"]] == 1 else "second") for one in decided)
    metrics = made.metrics
    assert metrics["people.accuracy"] == 1.0
    assert metrics["position.first.low"] > 0.6
    assert metrics["position.p_value"] < 1e-6
    assert metrics["ties.contrary"] == metrics["ties"] == len(judged) - len(decided)
    assert 0.3 < metrics["ties"] / len(judged) < 0.7
    assert len(rows_of(made.path / "preferences.jsonl")) == len(decided)
    assert {one["id"] for one in rows_of(made.path / "ties.jsonl")} == {
        one["id"] for one in judged if one["verdict"] == "tie"
    }


def test_a_judge_that_always_says_one_prefers_nothing(label: Function, tmp_path: Path, pairs: Path) -> None:
    made = label(tmp_path, pairs, ["Better: 1"])
    assert (made.metrics["preferences"], made.metrics["ties"]) == (0, 160)
    assert made.metrics["position.first"] == 1.0
    assert made.metrics["consistent"] == 0.0
    assert (made.path / "preferences.jsonl").read_text() == ""


def test_probabilities_are_averaged_over_both_orders(
    rows_of: Function, both: Function, label: Function, tmp_path: Path, pairs: Path
) -> None:
    """A leaning of the logits is gone from the sign of the mean, however strong."""

    def leaning(messages: Sequence[Message]) -> Reply:
        first, _ = both(messages)
        logit = 1.5 + (1.0 if first.startswith("good") else -1.0)
        one = 1 / (1 + math.exp(-logit))
        return Reply(content="1", top_logprobs=({"1": math.log(one), " 2": math.log(1 - one), "x": -9.0},))

    made = label(tmp_path, pairs, leaning, verdict="probabilities")
    assert made.metrics["people.accuracy"] == 1.0
    assert made.metrics["ties"] == 0
    assert made.metrics["position.first"] == 1.0  # although its single verdicts all went to the first
    probability = {row["probability"] for row in rows_of(made.path / "preferences.jsonl")}
    one, other = (1 / (1 + math.exp(-logit)) for logit in (2.5, 0.5))
    assert all(p == pytest.approx((one + 1 - other) / 2) for p in probability)


def test_probability_that_lies_elsewhere_is_no_verdict() -> None:
    assert first_of({"1": math.log(0.3), " 1": math.log(0.3), "2": math.log(0.2)}) == pytest.approx(0.75)
    with pytest.raises(ChatError) as caught:
        first_of({"1": math.log(0.3), "2": math.log(0.1), "The": math.log(0.6)})
    assert caught.value.reason == "gave no verdict"


def test_nonsense_and_silence_are_counted_and_no_preference(
    rows_of: Function, both: Function, tmp_path: Path, pairs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Odd(ScriptedChat):
        async def chat(self, messages: Any, tools: Any = None, sampling: Any = None) -> Reply:
            first, _ = both(messages)
            number = int(first.split()[1])
            if number % 10 == 1:
                return Reply(content="Both are nice.")
            if number % 10 == 2:
                await asyncio.sleep(60)
            if number % 10 == 3:
                raise ChatError("refused", "it answered 400")
            return Reply(content=f"Better: {1 if first.startswith('good') else 2}")

    judge = ChatPairJudge(Odd([]), RULES, JudgeConfig(timeout=0.2, concurrency=40))
    with caplog.at_level(logging.WARNING, logger="hanok"):
        made = judge_pairs(judge.config, judge, [pairs], tmp_path / "out")
    assert made.metrics["failed"] == 48
    assert {name: made.metrics[f"failed.{name}"] for name in ("gave no verdict", "timed out", "refused")} == {
        "gave no verdict": 16, "timed out": 16, "refused": 16,
    }  # fmt: skip
    assert made.metrics["preferences"] == 112
    judged = {one["id"]: one for one in rows_of(made.path / "judgements.jsonl")}
    assert judged["11"]["verdict"] == "failed"
    assert "Both are nice" in judged["11"]["detail"]
    assert not {row["id"] for row in rows_of(made.path / "preferences.jsonl")} & {"1", "2", "3"}
    assert "16 of 160 rows failed: timed out" in caplog.text


def test_a_judge_is_reminded_of_its_verdict(judge_with: Function) -> None:
    judge = judge_with(["Hm, the first.", "Better: 1"])
    opinion = asyncio.run(judge.compare([{"role": "user", "content": "Q"}], "a", "b"))
    assert (opinion.first, opinion.reason) == (1.0, "Hm, the first.")
    model = judge.model
    assert isinstance(model, ScriptedChat)
    assert [message["role"] for message in model.asked[1]] == ["system", "user", "assistant", "user"]


def test_a_judge_that_fails_throughout_makes_nothing(label: Function, tmp_path: Path, pairs: Path) -> None:
    with pytest.raises(InputError, match="20 rows in a row failed"):
        label(tmp_path, pairs, ["what?"], give_up_after=20)
    with pytest.raises(InputError, match="all 160 rows failed"):
        label(tmp_path, pairs, ["what?"], give_up_after=1000)
    assert not (tmp_path / "out").exists()


def test_preferences_can_be_learnt_from_and_say_where_they_are_from(
    rows_of: Function, write: Function, both: Function, label: Function, tmp_path: Path, model: Path
) -> None:
    data = write(
        tmp_path / "pairs.jsonl",
        [
            {"prompt": f"ask {n}", "answers": ["good", "bad"], "licence": "CC0", "source": "ours"}
            for n in range(3)
        ],
    )

    def truthful(messages: Sequence[Message]) -> str:
        return f"Right.\nBetter: {1 if both(messages)[0] == 'good' else 2}"

    made = label(tmp_path, data, truthful)
    found = rows_of(made.path / "preferences.jsonl")
    assert found[0] == {
        "id": "pairs-1", "prompt": [{"role": "user", "content": "ask 0"}],
        "chosen": [{"role": "assistant", "content": "good"}], "rejected": [{"role": "assistant", "content": "bad"}],
        "source": "ours", "licence": "CC0", "annotator": "scripted", "reason": "Right.\nBetter: 1\nRight.\nBetter: 2",
        "probability": 1.0, "subset": "pairs",
    }  # fmt: skip
    assert len(read_pairs(made.path / "preferences.jsonl", Tokenizer.load(model), max_seq_len=256)) == 3
    assert made.kind == "preferences"
    assert made.step["data"].keys() == {"pairs.jsonl"}
    assert not work_directory(tmp_path / "out").exists()
    with pytest.raises(ArtefactError, match="already exists"):
        label(tmp_path, data, truthful)


def test_answers_that_are_drawn(write: Function, judge_with: Function, tmp_path: Path) -> None:
    prompts = write(tmp_path / "prompts.jsonl", [{"id": str(n), "prompt": f"ask {n}"} for n in range(6)])

    def answer(messages: Sequence[Message]) -> str:
        return "same" if messages[0]["content"] == "ask 3" else f"answer {len(sampler.asked)}"

    sampler = ScriptedChat(answer)
    judge = judge_with(["Better: tie"])
    made = judge_pairs(judge.config, judge, [prompts], tmp_path / "out", sampler=sampler)
    assert made.metrics["failed.gave no two different answers"] == 1
    assert made.metrics["ties"] == 5
    seeds = [sampling.seed for sampling in sampler.sampled]
    assert len(set(seeds)) == len(seeds) == 5 * 2 + 4
    again = ScriptedChat(answer)
    sampler = again
    judge_pairs(judge.config, judge, [prompts], tmp_path / "again", sampler=again)
    assert sorted(filter(None, (one.seed for one in again.sampled))) == sorted(filter(None, seeds))
