"""The objectives of RL for the loop: log-probabilities of answers into the losses of `objectives/`.

M answer tokens of a micro-batch, all of them the policy's own; D width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from hanok.models.decoder import Decoder
from hanok.training.align.config import AlignConfig
from hanok.training.align.reward_model import ScalarHead
from hanok.training.align.scoring import answer_logprobs, balanced
from hanok.training.objective import Loss
from hanok.training.objectives.cispo import cispo_loss, scalerl_loss
from hanok.training.objectives.grpo import dapo_loss, dr_grpo_loss, grpo_loss, gspo_loss
from hanok.training.objectives.importance import (
    off_policy_mask,
    sequence_masked_importance,
    truncated_importance,
)
from hanok.training.objectives.policy import PolicyLoss, add_entropy_bonus, add_reference_kl
from hanok.training.objectives.ppo import ppo_loss, value_loss
from hanok.training.objectives.reinforce import reinforce_loss, rloo_loss
from hanok.training.objectives.sapo import sapo_loss
from hanok.training.rollouts.generator import longest_answer
from hanok.training.rollouts.samples import Sample, column

KL_IN_REWARD = ("ppo", "rloo")
Validation = Callable[[Decoder, Callable[[], bool]], dict[str, float] | None]


@dataclass(kw_only=True, slots=True)
class PolicyObjective:
    """Args:
    dtype: of the products that give logits. values: PPO's head. validation: metrics on prompts that are not practised on.
    """

    method: str
    config: AlignConfig
    dtype: torch.dtype
    values: ScalarHead | None = None
    validation: Validation = lambda _, __: {}

    @property
    def heads(self) -> Mapping[str, nn.Module]:
        return {} if self.values is None else {"values": self.values}

    def begin_step(self, decoder: Decoder, examples: Sequence[Sample]) -> int:
        """1: the losses divide by the tokens or answers of the step themselves; 0 if none of them teaches anything."""
        return int(any(sample.teaches for sample in examples))

    def loss(self, decoder: Decoder, examples: Sequence[Sample], *, units: int) -> Loss:
        config = self.config
        found = answer_logprobs(
            decoder, [one.sequence for one in examples], dtype=self.dtype, temperature=config.temperature
        )
        logp_M, everything_M = found.logp_M, torch.ones_like(found.logp_M, dtype=torch.bool)
        old_M = column(examples, "old_logp")
        old_M = logp_M.detach() if old_M is None else old_M
        advantage_M, generator_M = _numbers(examples, "advantage"), _numbers(examples, "generator_logp")
        loss = self._loss_of(examples)(
            logp_M, old_M, advantage_M, everything_M, found.cu_answers,
            importance_N=self._importance(logp_M.detach(), old_M, generator_M, advantage_M, found.cu_answers),
        )  # fmt: skip
        if config.entropy_bonus:
            loss = add_entropy_bonus(loss, found.entropy_M, everything_M, coefficient=config.entropy_bonus)
        reference_M = column(examples, "reference_logp")
        if reference_M is not None and self.method not in KL_IN_REWARD:
            loss = add_reference_kl(loss, logp_M, reference_M, everything_M, beta=config.kl_beta)
        tokens = float(loss.tokens)
        metrics = {f"policy.{name}": (float(total), tokens) for name, total in loss.metrics.items()}
        metrics["policy.entropy"] = (float(found.entropy_M.detach().double().sum()), tokens)
        if config.temperature == 1.0:
            metrics |= _mismatch(old_M, generator_M)
        objective = loss.objective
        if self.values is not None:
            values = self._value_loss(self.values(found.hidden_MD), examples)
            objective = objective + config.value_weight * values.objective
            metrics |= {f"value.{name}": (float(total), tokens) for name, total in values.metrics.items()}
        total = objective.detach()
        objective = balanced(objective, decoder, share=len(logp_M) / examples[0].step_tokens)
        return Loss(objective, total, metrics)

    def validate(self, decoder: Decoder, *, stopped: Callable[[], bool]) -> dict[str, float] | None:
        return self.validation(decoder, stopped)

    def _importance(
        self, logp_M: Tensor, old_M: Tensor, generator_M: Tensor, advantage_M: Tensor, cu_answers: Tensor
    ) -> Tensor | None:
        """The engine reports its law at temperature 1, so only there can the two be compared."""
        config, everything_M = self.config, torch.ones_like(old_M, dtype=torch.bool)
        if config.temperature != 1.0 or self.method == "star":
            return None
        weight_M = None
        if config.importance_cap and config.importance == "token":
            weight_M = truncated_importance(old_M, generator_M, everything_M, cap=config.importance_cap)
        elif config.importance_cap:
            weight_M = sequence_masked_importance(
                old_M, generator_M, everything_M, cu_answers, cap=config.importance_cap
            )
        if config.off_policy_nats is None:
            return weight_M
        kept_M = off_policy_mask(
            logp_M, generator_M, advantage_M, everything_M, cu_answers, threshold=config.off_policy_nats
        )
        return kept_M if weight_M is None else weight_M * kept_M

    def _loss_of(self, examples: Sequence[Sample]) -> Callable[..., PolicyLoss]:
        low, high = self.config.clips_of(self.method)
        one = examples[0]
        if self.method == "ppo":
            return partial(ppo_loss, step_tokens=one.step_tokens, clip=low)
        if self.method == "rloo":
            return partial(rloo_loss, step_sequences=one.step_answers, clip=low)
        if self.method == "star":
            return partial(reinforce_loss, step_sequences=one.step_answers)
        if self.method == "dapo":
            return partial(dapo_loss, step_tokens=one.step_tokens, clip_low=low, clip_high=high)
        if self.method == "cispo":
            return partial(cispo_loss, step_tokens=one.step_tokens, cap=self.config.ratio_cap)
        if self.method == "sapo":
            return partial(sapo_loss, step_sequences=one.step_answers)
        if self.method == "scalerl":
            of_prompt_B = torch.tensor([sample.prompt_tokens for sample in examples])
            return partial(
                scalerl_loss,
                unit_tokens_B=of_prompt_B,
                step_units=one.step_prompts,
                cap=self.config.ratio_cap,
            )
        clips = {"step_sequences": one.step_answers, "clip_low": low, "clip_high": high}
        if self.method == "drgrpo":
            return partial(dr_grpo_loss, max_tokens=longest_answer(self.config), **clips)
        if self.method == "gspo":
            return partial(gspo_loss, **clips)
        of_answer_B = torch.tensor([sample.answer_tokens for sample in examples])
        return partial(grpo_loss, unit_tokens_B=of_answer_B, **clips)

    def _value_loss(self, values_M: Tensor, examples: Sequence[Sample]) -> PolicyLoss:
        old_M, returns_M = _numbers(examples, "old_values"), _numbers(examples, "returns")
        everything_M = torch.ones_like(values_M, dtype=torch.bool)
        return value_loss(values_M, old_M, returns_M, everything_M, step_tokens=examples[0].step_tokens)


def _numbers(examples: Sequence[Sample], name: str) -> Tensor:
    found_M = column(examples, name)
    assert found_M is not None, name
    return found_M


def _mismatch(learner_M: Tensor, generator_M: Tensor) -> dict[str, tuple[float, float]]:
    """How far the engine's law was from the learner's: mean |difference|, KL (k3), share of tokens more than 10 % off."""
    gap_M = (learner_M - generator_M).double()
    count, ratio_M = float(len(gap_M)), gap_M.exp()
    return {
        "mismatch.absolute": (float(gap_M.abs().sum()), count),
        "mismatch.kl": (float((gap_M.expm1() - gap_M).sum()), count),
        "mismatch.off": (float(((ratio_M < 0.9) | (ratio_M > 1.1)).sum()), count),
    }
