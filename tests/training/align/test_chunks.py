"""RL whose answers are written in chunks, ScaleRL and STaR: losses by hand, prompts that are mastered, real runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from hanok.errors import ConfigError
from hanok.models.checkpoint import load_model
from hanok.tokens.tokenizer import Tokenizer
from hanok.training.align.config import AlignConfig
from hanok.training.align.methods import CHUNKED
from hanok.training.align.scoring import answer_logprobs
from hanok.training.rewards import mix
from hanok.training.rollouts.generator import Answer
from hanok.training.rollouts.learning import Learning
from hanok.training.rollouts.policy import PolicyObjective
from hanok.training.rollouts.prompts import Prompt, read_prompts
from hanok.training.rollouts.run import align_on_rewards
from hanok.training.rollouts.samples import as_sequence
from hanok.training.rollouts.source import Rollouts


def quick(**changes: Any) -> AlignConfig:
    settings: dict[str, Any] = {
        "max_steps": 2, "prompts_per_step": 4, "group_size": 4, "max_new_tokens": 8, "muon_lr": 3e-3, "adamw_lr": 3e-3,
        "warmup_steps": 0, "threads": 1, "max_seq_len": 64, "micro_batch_tokens": 512, "validate_every": 100,
        "checkpoint_every": 100,
    }  # fmt: skip
    return AlignConfig(**{**settings, **changes})


CHUNKS = {"think": "delethink", "chunk": 6, "carry": 2, "carry_head": 0, "chunks": 3}


def letters(prompt: Any, completion: str, columns: Any) -> float:
    return float(sum(c.isascii() and c.isalpha() for c in completion))


def rows(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def answer(*chunks: tuple[tuple[int, ...], tuple[int, ...]]) -> Answer:
    """Written in chunks: (from, ids)."""
    ids = tuple(i for _, written in chunks for i in written)
    return Answer(
        ids, (-1.0,) * len(ids), "", False, tuple((given, len(written)) for given, written in chunks)
    )


def test_the_loss_of_two_traces_by_hand(base: Path) -> None:
    """(1/G) sum_g A_g / l_g sum_l sum_t log pi(y_t | x_l, y_<t): delethink's of arXiv 2510.06557, at a ratio of 1."""
    decoder, prompt = load_model(base), Prompt("p", (20, 21), (), {})
    long = answer(((20, 21), (30, 31, 32)), ((20, 21, 32), (33, 34)), ((20, 21, 34), (35,)))
    short = answer(((20, 21), (40, 41)))
    config = quick()
    found = Learning("grpo", config, decoder, dtype=torch.float32).samples(
        [[(prompt, [long, short], [1.0, 0.0])]]
    )
    (part,) = found.parts
    assert [len(sample.answer) for sample in part] == [3, 2, 1, 2]
    objective = PolicyObjective(method="grpo", config=config, dtype=torch.float32)

    def gradient(value: torch.Tensor) -> torch.Tensor:
        decoder.zero_grad()
        value.backward()
        return torch.cat([p.grad.flatten() for p in decoder.parameters() if p.grad is not None])

    ours = gradient(objective.loss(decoder, part, units=1).objective)

    def logp(given: tuple[int, ...], written: tuple[int, ...]) -> torch.Tensor:
        return answer_logprobs(decoder, [as_sequence(given, written)], dtype=torch.float32).logp_M

    def ratio(logp_M: torch.Tensor) -> torch.Tensor:
        """1, and the truncated correction for an engine that drew by log-probabilities of -1."""
        return (logp_M - logp_M.detach()).exp() * (logp_M.detach() + 1.0).exp().clamp(max=2.0)

    deviation = torch.tensor([1.0, 0.0]).std()
    advantage = 0.5 / (deviation + 1e-4)
    pieces = [((20, 21), (30, 31, 32)), ((20, 21, 32), (33, 34)), ((20, 21, 34), (35,))]
    first = sum((ratio(logp(*piece)) * advantage / 6).sum() for piece in pieces)
    second = (ratio(logp((20, 21), (40, 41))) * -advantage / 2).sum()
    hand = gradient(-(first + second) / 2)
    torch.testing.assert_close(ours, hand, atol=1e-6, rtol=1e-5)


def test_scalerl_is_a_mean_over_the_prompts_that_teach(base: Path) -> None:
    """Tokens of a prompt alike, prompts alike; one whose answers are all right does not count."""
    decoder = load_model(base)
    one, two, three = (Prompt(name, (20 + n,), (), {}) for n, name in enumerate("abc"))
    groups: Any = [
        (one, [Answer((30, 31, 32), (-1.0,) * 3, "", False), Answer((33,), (-1.0,), "", False)], [1.0, 0.0]),
        (two, [Answer((40,), (-1.0,), "", False), Answer((41,), (-1.0,), "", False)], [0.0, 1.0]),
        (three, [Answer((50,), (-1.0,), "", False), Answer((51,), (-1.0,), "", False)], [1.0, 1.0]),
    ]
    config = quick(importance_cap=0.0)
    found = Learning("scalerl", config, decoder, dtype=torch.float32).samples([groups])
    (part,) = found.parts
    assert len(part) == 4
    assert {sample.step_prompts for sample in part} == {2}
    assert [sample.prompt_tokens for sample in part] == [4, 4, 2, 2]
    deviation = (torch.tensor([0.5, 0.5, 0.5, 0.5]).square().sum() / 5).sqrt()  # of 6 centred rewards
    advantage = float(0.5 / (deviation + 1e-4))
    assert [round(sample.advantage[0] / advantage, 5) for sample in part] == [1, -1, -1, 1]
    loss = PolicyObjective(method="scalerl", config=config, dtype=torch.float32).loss(decoder, part, units=1)
    hand = 0.0
    for sample, tokens in zip(part, (4, 4, 2, 2), strict=True):
        logp_M = answer_logprobs(decoder, [sample.sequence], dtype=torch.float32).logp_M
        hand -= sample.advantage[0] * float(logp_M.detach().sum()) / tokens / 2
    assert float(loss.objective.detach()) == pytest.approx(hand, abs=1e-6)


def test_star_learns_right_answers_alone(base: Path) -> None:
    decoder, prompt = load_model(base), Prompt("p", (20,), (), {})
    groups: Any = [
        (prompt, [Answer((30, 31), (-1.0,) * 2, "", False), Answer((33,), (-1.0,), "", False)], [1.0, 0.0])
    ]
    (part,) = Learning("star", quick(), decoder, dtype=torch.float32).samples([groups]).parts
    assert [(sample.answer, sample.advantage) for sample in part] == [([30, 31], [1.0, 1.0])]
    loss = PolicyObjective(method="star", config=quick(), dtype=torch.float32).loss(decoder, part, units=1)
    logp_M = answer_logprobs(decoder, [part[0].sequence], dtype=torch.float32).logp_M
    assert float(loss.objective.detach()) == pytest.approx(-float(logp_M.detach().sum()) / 2, abs=1e-6)


@pytest.mark.parametrize("method", CHUNKED)
def test_the_engine_and_the_learner_agree_on_every_chunk(
    method: str, base: Path, prompts: Path, tmp_path: Path
) -> None:
    own = {"grpo": {"kl_beta": 0.01}, "star": {"pass_reward": 3.0}, "scalerl": {"pass_reward": 3.0}}
    config = quick(**CHUNKS, max_steps=1, **own.get(method, {}))
    align_on_rewards(method, config, model=base, prompts=prompts, rewards=mix({"l": letters}), out=tmp_path)
    (first,) = [row for row in rows(tmp_path) if "loss" in row]
    assert first["mismatch.absolute"] < 1e-4
    assert first["rollout.chunks"] > 2
    assert 6 < first["rollout.tokens"] <= 14
    assert first["grad_norm"] > 0
    longest = max(len(p.ids) for p in read_prompts(prompts, Tokenizer.load(base), max_tokens=58))
    assert first["rollout.peak_context"] <= longest + 6 - 1


def test_validation_by_samples(base: Path, prompts: Path, tmp_path: Path) -> None:
    config = quick(**CHUNKS, max_steps=2, validate_every=1, validation_answers=3)
    align_on_rewards(
        "scalerl", config, model=base, prompts=prompts, rewards=mix({"l": letters}), out=tmp_path, validation=prompts
    )  # fmt: skip
    found = [row["validation.reward"] for row in rows(tmp_path) if "validation.reward" in row]
    assert len(found) == 2
    assert found[0] != found[1]


class _Scripted:
    """Gives answers whose text is the prompt's name; keeps what was drawn."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int]] = []

    def sample(self, prompts: Any, *, draws: Any) -> list[list[Answer]]:
        self.seen += [(prompt.name, draw) for prompt, draw in zip(prompts, draws, strict=True)]
        return [[Answer((n,), (-1.0,), prompt.name, False) for n in range(2)] for prompt in prompts]

    def take(self, decoder: Any) -> None: ...


class _Learning:
    def samples(self, parts: Any) -> Any:
        return type("Found", (), {"parts": [[] for _ in parts], "metrics": {}})


def test_mastered_prompts_are_not_drawn_again(tmp_path: Path) -> None:
    """Right in at least 9 of 10 answers so far; kept in the checkpoint; all come back when too few are left."""
    known = [Prompt(str(n), (n,), (), {}) for n in range(10)]

    def make(generator: _Scripted) -> Rollouts:
        reward = mix({"r": lambda prompt, text, columns: float(int(text) < 6)})
        config = quick(prompts_per_step=4, group_size=2)
        return Rollouts(
            "scalerl", config, decoder=None, prompts=known, generator=generator, rewards=reward,  # type: ignore[arg-type]
            learning=_Learning(), samples_file=tmp_path / "samples.jsonl",  # type: ignore[arg-type]
        )  # fmt: skip

    generator = _Scripted()
    source = make(generator)
    for _ in range(3):
        source.draw_step()
    state = json.loads(json.dumps(source.state()))
    for _ in range(3):
        source.draw_step()
    drawn = [name for name, _ in generator.seen]
    assert set(drawn[:12]) == {str(n) for n in range(10)}
    easy = [name for name in drawn if int(name) < 6]
    assert len(easy) == len(set(easy)) == 6
    assert source.metrics()["rollout.retired"] == 0.6
    numbers = [number for _, number in generator.seen]
    assert len(set(numbers)) == len(numbers)
    again = _Scripted()
    resumed = make(again)
    resumed.restore(state)
    for _ in range(3):
        resumed.draw_step()
    assert again.seen == generator.seen[12:]


def test_all_come_back_when_too_few_are_left(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    known = [Prompt(str(n), (n,), (), {}) for n in range(5)]
    generator = _Scripted()
    source = Rollouts(
        "scalerl", quick(prompts_per_step=4, group_size=2), decoder=None, prompts=known, generator=generator,  # type: ignore[arg-type]
        rewards=mix({"r": lambda *_: 1.0}), learning=_Learning(), samples_file=tmp_path / "samples.jsonl",  # type: ignore[arg-type]
    )  # fmt: skip
    source.draw_step()
    source.draw_step()
    assert "all come back" in caplog.text
    assert len(generator.seen) == 8


def test_what_cannot_be(base: Path, prompts: Path, tmp_path: Path) -> None:
    for method, changes in (
        ("gspo", CHUNKS),
        ("scalerl", {"generator": "bf16"}),
        ("grpo", {**CHUNKS, "chunk": 64}),
    ):
        with pytest.raises(ConfigError):
            align_on_rewards(
                method, quick(**changes), model=base, prompts=prompts, rewards=mix({"l": letters}), out=tmp_path / method
            )  # fmt: skip


def test_presets() -> None:
    assert quick().of_method("scalerl").decay_fraction == 0
    assert quick(decay_fraction=0.3).of_method("scalerl").decay_fraction == 0.3
    assert quick().of_method("grpo").training().decay_fraction == 0.5
