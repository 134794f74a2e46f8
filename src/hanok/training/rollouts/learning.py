"""From judged answers to samples: advantages, and what the learner and the starting model thought of each token.

B answers, N = all their tokens, G groups.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hanok.models.decoder import Decoder
from hanok.training.align.config import AlignConfig
from hanok.training.align.reward_model import ScalarHead
from hanok.training.align.scoring import adapters_off, answer_logprobs, evaluating
from hanok.training.objectives.advantages import (
    Scale,
    gae,
    group_advantages,
    informative,
    leave_one_out,
    penalised_rewards,
    whiten,
)
from hanok.training.objectives.policy import adapted_kl_weight
from hanok.training.objectives.ppo import explained_variance
from hanok.training.objectives.ragged import spread
from hanok.training.packing import micro_batches
from hanok.training.rollouts.generator import Answer
from hanok.training.rollouts.policy import KL_IN_REWARD
from hanok.training.rollouts.prompts import Prompt
from hanok.training.rollouts.samples import Sample, as_sequence, name_of

SCALES: dict[str, Scale] = {"drgrpo": "none", "cispo": "batch", "scalerl": "batch"}
Groups = Sequence[tuple[Prompt, list[Answer], list[float]]]


@dataclass(frozen=True, slots=True)
class Found:
    parts: list[list[Sample]]
    metrics: dict[str, float]


@dataclass(frozen=True, slots=True)
class _Batch:
    """All answers of a roll-out."""

    answers: list[tuple[Prompt, int, Answer]]
    rewards_B: Tensor
    group_B: Tensor
    cu_answers: Tensor

    @property
    def everything_N(self) -> Tensor:
        return torch.ones(int(self.cu_answers[-1]), dtype=torch.bool)


class Learning:
    """Args:
    decoder: the learner. values: PPO's head.
    reference: the starting model, mapped from its files; None where adapters are switched off instead.
    """

    def __init__(
        self, method: str, config: AlignConfig, decoder: Decoder, *, dtype: torch.dtype,
        values: ScalarHead | None = None, reference: Decoder | None = None,
    ) -> None:  # fmt: skip
        self._method, self._config, self._decoder, self._dtype = method, config, decoder, dtype
        self._values, self._reference = values, reference
        self.beta = config.kl_beta
        """Weight of the divergence in the reward; with `kl_target` it moves, and belongs to the run's state."""

    def samples(self, parts: Sequence[Groups]) -> Found:
        """One list of samples an update, in the order of the parts; never an empty one.

        Answers that teach nothing (no reward, a group whose rewards are alike, without a divergence to watch) are left
        out but counted in the denominators.
        """
        batch = _batch([group for part in parts for group in part])
        learner = values = reference = None
        metrics: dict[str, float] = {}
        if self._config.updates_per_rollout > 1 or self._method in KL_IN_REWARD:
            learner, values = self._read(batch, self._decoder, values=self._values)
        if self._config.kl_beta:
            reference = self._reference_logp(batch)
        advantage_N, returns_N = self._advantages(batch, learner, values, reference)
        if reference is not None and learner is not None:
            metrics["rollout.reference_kl"] = float((learner - reference).double().mean())
            metrics |= self._follow_target(learner - reference, answers=len(batch.answers))
        if values is not None and returns_N is not None:
            known_N = spread(~batch.rewards_B.isnan(), batch.cu_answers)
            metrics["value.explained_variance"] = explained_variance(values, returns_N, known_N)
        columns = {
            "advantage": advantage_N, "old_logp": learner if self._config.updates_per_rollout > 1 else None,
            "reference_logp": reference, "old_values": values, "returns": returns_N,
        }  # fmt: skip
        useful_B = self._useful(batch)
        found, start = [], 0
        for part in parts:
            end = start + sum(len(answers) for _, answers, _ in part)
            found.append(_samples(batch, range(start, end), columns, useful_B))
            start = end
        return Found(found, metrics)

    def _follow_target(self, gap_N: Tensor, *, answers: int) -> dict[str, float]:
        """The weight for the next roll-out, by the mean divergence of this one's answers as wholes."""
        config = self._config
        if config.kl_target is None:
            return {}
        whole = float(gap_N.double().sum()) / answers
        found = {"rollout.kl_beta": self.beta, "rollout.answer_kl": whole}
        self.beta = adapted_kl_weight(
            self.beta, whole, target=config.kl_target, sequences=answers, horizon=config.kl_horizon
        )
        return found

    def _useful(self, batch: _Batch) -> Tensor:
        known_B = ~batch.rewards_B.isnan()
        if self._method == "star":
            return batch.rewards_B >= self._config.pass_reward  # never of a NaN
        if self._method == "ppo" or self._config.kl_beta:
            return known_B
        return informative(batch.rewards_B, batch.group_B)

    def _advantages(
        self, batch: _Batch, learner_N: Tensor | None, values_N: Tensor | None, reference_N: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        beta, rewards_B = self.beta, batch.rewards_B
        if self._method == "ppo":
            assert learner_N is not None
            assert values_N is not None
            reference_N = learner_N if reference_N is None else reference_N
            known_N = spread(~rewards_B.isnan(), batch.cu_answers)
            rewards_N = penalised_rewards(
                rewards_B.nan_to_num(),
                learner_N,
                reference_N,
                batch.everything_N,
                batch.cu_answers,
                beta=beta,
            )
            advantage_N, returns_N = gae(values_N, rewards_N, batch.cu_answers, lam=self._config.gae_lambda)
            return whiten(advantage_N, known_N), returns_N
        if self._method == "rloo":
            if reference_N is not None:
                assert learner_N is not None
                kl_N = beta * (learner_N - reference_N)
                rewards_B = rewards_B - torch.stack([part.sum() for part in kl_N.split(_lengths(batch))])
            return spread(leave_one_out(rewards_B, batch.group_B), batch.cu_answers), None
        if self._method == "star":  # right answers are learnt as text
            return spread(self._useful(batch).float(), batch.cu_answers), None
        scale = SCALES.get(self._method, "group")
        return spread(group_advantages(rewards_B, batch.group_B, scale=scale), batch.cu_answers), None

    def _reference_logp(self, batch: _Batch) -> Tensor:
        """Under the model as it was before the first step."""
        decoder = self._reference or self._decoder
        off: AbstractContextManager[None] = (
            adapters_off(decoder) if self._reference is None else nullcontext()
        )
        with off:
            return self._read(batch, decoder)[0]

    @torch.no_grad()
    def _read(
        self, batch: _Batch, decoder: Decoder, *, values: ScalarHead | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Log-probabilities of all answer tokens [N], and their values."""
        sequences = [
            as_sequence(context, answer.ids[ids.start : ids.stop])
            for prompt, _, answer in batch.answers
            for context, ids in answer.pieces(prompt)
        ]
        logp, worth = [], []
        with evaluating(decoder):
            for group in micro_batches(sequences, max_tokens=self._config.micro_batch_tokens):
                found = answer_logprobs(
                    decoder, group, dtype=self._dtype, temperature=self._config.temperature
                )
                logp.append(found.logp_M)
                if values is not None:
                    worth.append(values(found.hidden_MD))
        return torch.cat(logp), torch.cat(worth) if values is not None else None


def _batch(groups: Groups) -> _Batch:
    answers = [(prompt, i, answer) for prompt, group, _ in groups for i, answer in enumerate(group)]
    rewards = [reward for _, _, rewards in groups for reward in rewards]
    numbers = [number for number, (_, group, _) in enumerate(groups) for _ in group]
    lengths = [len(answer.ids) for _, _, answer in answers]
    cu_answers = torch.tensor([0, *lengths]).cumsum(0)
    return _Batch(answers, torch.tensor(rewards, dtype=torch.float32), torch.tensor(numbers), cu_answers)


def _samples(
    batch: _Batch, places: range, columns: dict[str, Tensor | None], useful_B: Tensor
) -> list[Sample]:
    """Of one update. If nothing is of use, one answer that teaches nothing, so that the step is a step."""
    lengths, prompts = _lengths(batch), batch.group_B.tolist()
    kept = [place for place in places if bool(useful_B[place])]
    of_prompt = Counter[int]()
    for place in places:
        of_prompt[prompts[place]] += lengths[place]
    step = {
        "step_answers": len(places), "step_tokens": sum(lengths[place] for place in places), "teaches": bool(kept),
        "step_prompts": max(len({prompts[place] for place in kept}), 1),
    }  # fmt: skip
    samples = []
    for place in kept or places[:1]:
        prompt, index, answer = batch.answers[place]
        for context, ids in answer.pieces(prompt):
            rows = slice(int(batch.cu_answers[place]) + ids.start, int(batch.cu_answers[place]) + ids.stop)
            numbers: dict[str, Any] = {
                name: None if column is None else column[rows].tolist() for name, column in columns.items()
            }
            written = answer.ids[ids.start : ids.stop]
            samples.append(
                Sample(
                    name=name_of(prompt.name, index, written), prompt=list(context), answer=list(written),
                    generator_logp=list(answer.logprobs[ids.start : ids.stop]), answer_tokens=lengths[place],
                    prompt_tokens=of_prompt[prompts[place]], **step, **numbers,
                )
            )  # fmt: skip
    return samples


def _lengths(batch: _Batch) -> list[int]:
    return batch.cu_answers.diff().tolist()
