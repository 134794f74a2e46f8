"""The objectives on preferences, for the loop: log-probabilities of answers into the losses of `objectives/`.

A micro-batch holds chosen and rejected answers side by side in one ragged batch: c0 r0 c1 r1 ... P pairs, B = 2P.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from hanok.models.decoder import Decoder
from hanok.training.align.config import AlignConfig
from hanok.training.align.examples import Judged, Pair
from hanok.training.align.scoring import (
    AnswerLogprobs,
    adapters_off,
    answer_logprobs,
    balanced,
    evaluating,
    summed_logprobs,
)
from hanok.training.objective import Loss
from hanok.training.objectives.cpo import cpo_loss
from hanok.training.objectives.dpo import dpo_loss, hinge_loss, length_normalised_dpo_loss, robust_dpo_loss
from hanok.training.objectives.ipo import ipo_loss
from hanok.training.objectives.kto import kto_loss, reference_point
from hanok.training.objectives.orpo import orpo_loss
from hanok.training.objectives.preference import PreferenceLoss
from hanok.training.objectives.simpo import simpo_loss
from hanok.training.packing import PackedSequence, micro_batches

WITH_REFERENCE = ("dpo", "ipo", "kto")


@dataclass(kw_only=True, slots=True)
class PairObjective:
    """dpo, ipo, orpo, simpo, cpo.

    Args:
        held_out: pairs to validate on.
        reference_by_adapters: the reference is the model with its adapters off; else each pair carries its own.
    """

    method: str
    config: AlignConfig
    dtype: torch.dtype
    held_out: Sequence[Pair] = ()
    reference_by_adapters: bool = False
    heads: Mapping[str, nn.Module] = field(default_factory=dict)

    def begin_step(self, decoder: Decoder, examples: Sequence[Pair]) -> int:
        return len(examples)

    def loss(self, decoder: Decoder, examples: Sequence[Pair], *, units: int) -> Loss:
        found = answer_logprobs(decoder, _sides(examples), dtype=self.dtype)
        result = self._losses(found, self._reference(decoder, examples))
        total = result.losses_P.sum()
        metrics = _sums(result.metrics, "preference.")
        metrics |= _lengths(found.tokens_B) | _sums(
            {"logp_chosen": (found.summed_B / found.tokens_B)[::2]}, "preference."
        )
        objective = balanced(total / units, decoder, share=len(examples) / units)
        return Loss(objective, total.detach(), metrics)

    def validate(self, decoder: Decoder, *, stopped: Callable[[], bool]) -> dict[str, float] | None:
        """Loss, share of pairs ordered right, and margin, on pairs that are not trained on."""
        return validate_pairs(self.held_out, self._validation_loss, decoder, self.config, stopped=stopped)

    def _validation_loss(self, decoder: Decoder, pairs: Sequence[Pair]) -> PreferenceLoss:
        found = answer_logprobs(decoder, _sides(pairs), dtype=self.dtype)
        return self._losses(found, self._reference(decoder, pairs))

    def _reference(self, decoder: Decoder, examples: Sequence[Pair]) -> Tensor | None:
        """Summed log-probabilities [2P] under the starting model."""
        if self.method not in WITH_REFERENCE:
            return None
        if not self.reference_by_adapters:
            return torch.tensor([side for pair in examples for side in _known(pair)])
        with adapters_off(decoder), evaluating(decoder), torch.no_grad():
            return answer_logprobs(decoder, _sides(examples), dtype=self.dtype).summed_B

    def _losses(self, found: AnswerLogprobs, reference_B: Tensor | None) -> PreferenceLoss:
        config, beta = self.config, self.config.beta_of(self.method)
        summed_B, tokens_B = found.summed_B, found.tokens_B
        chosen_P, rejected_P = summed_B[::2], summed_B[1::2]
        many_chosen_P, many_rejected_P = tokens_B[::2], tokens_B[1::2]
        smoothing, nll = config.label_smoothing, config.nll_weight
        if self.method == "orpo":
            return orpo_loss(chosen_P / many_chosen_P, rejected_P / many_rejected_P, beta=beta)
        if self.method == "simpo":
            return simpo_loss(
                chosen_P / many_chosen_P, rejected_P / many_rejected_P, beta=beta, gamma=config.gamma,
                label_smoothing=smoothing,
            )  # fmt: skip
        if self.method == "cpo":
            return cpo_loss(
                chosen_P, rejected_P, many_chosen_P, beta=beta, nll_weight=1.0 if nll is None else nll, label_smoothing=smoothing
            )  # fmt: skip
        assert reference_B is not None
        reference = (reference_B[::2], reference_B[1::2])
        if self.method == "ipo":
            result = ipo_loss(chosen_P, rejected_P, *reference, many_chosen_P, many_rejected_P, beta=beta)
        else:
            assert self.method == "dpo", self.method
            result = self._dpo((chosen_P, rejected_P, *reference), (many_chosen_P, many_rejected_P))
        if not nll:
            return result
        return replace(
            result, losses_P=result.losses_P - nll * chosen_P / many_chosen_P
        )  # arXiv 2404.19733, eq. 1

    def _dpo(
        self, logp: tuple[Tensor, Tensor, Tensor, Tensor], tokens: tuple[Tensor, Tensor]
    ) -> PreferenceLoss:
        """Args: logp: of chosen and rejected by the policy, then by the reference. tokens: of chosen and rejected."""
        form, beta, smoothing = (
            self.config.dpo_loss, self.config.beta_of(self.method), self.config.label_smoothing
        )  # fmt: skip
        if form == "hinge":
            return hinge_loss(*logp, beta=beta)
        if form == "robust":
            return robust_dpo_loss(*logp, beta=beta, label_smoothing=smoothing)
        if form == "per-token":
            return length_normalised_dpo_loss(*logp, *tokens, beta=beta, label_smoothing=smoothing)
        return dpo_loss(*logp, beta=beta, label_smoothing=smoothing)


@dataclass(kw_only=True, slots=True)
class KTOObjective:
    """Single answers with verdicts; the reference point is measured once a step, on mismatched answers."""

    config: AlignConfig
    dtype: torch.dtype
    held_out: Sequence[Judged] = ()
    reference_by_adapters: bool = False
    heads: Mapping[str, nn.Module] = field(default_factory=dict)
    point: Tensor = field(default_factory=lambda: torch.zeros(()))

    def begin_step(self, decoder: Decoder, examples: Sequence[Judged]) -> int:
        mismatched = [one.mismatched for one in examples]
        logp = self._frozen(decoder, mismatched)
        if self.reference_by_adapters:
            with adapters_off(decoder):
                reference = self._frozen(decoder, mismatched)
        else:
            reference = [_known(one)[1] for one in examples]
        self.point = reference_point(torch.tensor(logp), torch.tensor(reference))
        return len(examples)

    def loss(self, decoder: Decoder, examples: Sequence[Judged], *, units: int) -> Loss:
        answers = [one.answer for one in examples]
        found = answer_logprobs(decoder, answers, dtype=self.dtype)
        if self.reference_by_adapters:
            with adapters_off(decoder):
                reference = self._frozen(decoder, answers)
        else:
            reference = [_known(one)[0] for one in examples]
        desirable_B = torch.tensor([one.desirable for one in examples])
        result = kto_loss(
            found.summed_B, torch.tensor(reference), desirable_B, self.point, beta=self.config.beta_of("kto")
        )
        reward_B = result.metrics["reward"]
        metrics = _sums(
            {"reward_chosen": reward_B[desirable_B], "reward_rejected": reward_B[~desirable_B]}, "preference."
        )
        metrics["preference.reference_point"] = (float(self.point), 1.0)
        total = result.losses_B.sum()
        objective = balanced(total / units, decoder, share=len(examples) / units)
        return Loss(objective, total.detach(), metrics)

    def validate(self, decoder: Decoder, *, stopped: Callable[[], bool]) -> dict[str, float] | None:
        """Mean reward of good and of bad answers that are not trained on."""
        sums: dict[str, tuple[float, float]] = {}
        for group in micro_batches(self.held_out, max_tokens=self.config.micro_batch_tokens):
            if stopped():
                return None
            self.begin_step(decoder, group)
            with torch.no_grad(), evaluating(decoder):
                metrics = self.loss(decoder, group, units=1).metrics
            for name, (total, count) in metrics.items():
                before = sums.get(name, (0.0, 0.0))
                sums[name] = before[0] + total, before[1] + count
        return {f"validation.{name}": total / count for name, (total, count) in sums.items() if count}

    def _frozen(self, decoder: Decoder, sequences: Sequence[PackedSequence]) -> list[float]:
        return summed_logprobs(
            decoder, sequences, dtype=self.dtype, max_tokens=self.config.micro_batch_tokens
        )


@torch.no_grad()
def validate_pairs(
    pairs: Sequence[Pair], losses: Callable[[Decoder, Sequence[Pair]], PreferenceLoss], decoder: Decoder,
    config: AlignConfig, *, stopped: Callable[[], bool],
) -> dict[str, float] | None:  # fmt: skip
    """Means over the pairs; empty without pairs, None if stopped."""
    sums: dict[str, float] = {}
    with evaluating(decoder):
        for group in micro_batches(pairs, max_tokens=config.micro_batch_tokens):
            if stopped():
                return None
            result = losses(decoder, group)
            for name, values_P in {"loss": result.losses_P, **result.metrics}.items():
                sums[name] = sums.get(name, 0.0) + float(values_P.double().sum())
    return {f"validation.preference.{name}": total / len(pairs) for name, total in sums.items()}


def _sides(pairs: Sequence[Pair]) -> list[PackedSequence]:
    return [side for pair in pairs for side in pair.sequences]


def _known(one: Pair | Judged) -> tuple[float, float]:
    assert one.reference is not None, "the reference is measured before the first step"
    return one.reference


def _sums(values: Mapping[str, Tensor], prefix: str) -> dict[str, tuple[float, float]]:
    return {
        f"{prefix}{name}": (float(v.detach().double().sum()), float(len(v))) for name, v in values.items()
    }


def _lengths(tokens_B: Tensor) -> dict[str, tuple[float, float]]:
    return _sums({"tokens_chosen": tokens_B[::2], "tokens_rejected": tokens_B[1::2]}, "preference.")
