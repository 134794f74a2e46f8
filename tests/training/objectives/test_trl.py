"""Our losses against those inside trl's trainers, on random numbers with masks.

The trainers' own methods are called with a stand-in for the trainer: everything that they read of it is named here.
"""

from __future__ import annotations

import importlib
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from hanok.training.objectives.advantages import group_advantages
from hanok.training.objectives.anchored import (
    apo_down_loss,
    apo_zero_loss,
    bco_loss,
    nca_loss,
    sppo_loss,
)
from hanok.training.objectives.cispo import cispo_loss
from hanok.training.objectives.cpo import cpo_loss
from hanok.training.objectives.distillation import generalised_jsd
from hanok.training.objectives.dpo import (
    dpo_loss,
    hinge_loss,
    length_normalised_dpo_loss,
    robust_dpo_loss,
)
from hanok.training.objectives.grpo import dapo_loss, dr_grpo_loss, grpo_loss, gspo_loss
from hanok.training.objectives.importance import off_policy_mask, truncated_importance
from hanok.training.objectives.ipo import ipo_loss
from hanok.training.objectives.kto import kto_loss, reference_point
from hanok.training.objectives.orpo import orpo_loss
from hanok.training.objectives.policy import PolicyLoss, add_entropy_bonus, add_reference_kl
from hanok.training.objectives.preference import PreferenceLoss
from hanok.training.objectives.reinforce import rloo_loss
from hanok.training.objectives.reward_model import bradley_terry_loss
from hanok.training.objectives.sapo import sapo_loss
from hanok.training.objectives.simpo import simpo_loss

for _package in ("trl", "accelerate", "datasets"):
    pytest.importorskip(_package, reason="trl and datasets: make peers")
pytestmark = pytest.mark.filterwarnings("ignore")

LENGTHS = [3, 6, 1, 5, 4, 2]  # completion tokens of the rows
WIDTH = max(LENGTHS)


def trainer(module: str, name: str) -> Any:
    return getattr(importlib.import_module(f"trl.{module}"), name)


def accelerator() -> SimpleNamespace:
    same = lambda x, **_: x  # noqa: E731
    return SimpleNamespace(
        device="cpu", num_processes=1, gather=same, gather_for_metrics=same, reduce=same, sync_gradients=True
    )


def stand_in(**attributes: Any) -> SimpleNamespace:
    common = {
        "accelerator": accelerator(),
        "model": SimpleNamespace(training=True),
        "_metrics": defaultdict(lambda: defaultdict(list)),
        "aux_loss_enabled": False,
        "_total_train_tokens": 0,
        "_tp_size": 1,
    }
    return SimpleNamespace(**(common | attributes))


def rows(seed: int) -> tuple[Tensor, Tensor]:
    """Log-probabilities [B, T] that are zero where masked, and the mask; holes in it, as tools leave them."""
    generator = torch.Generator().manual_seed(seed)
    mask = (torch.arange(WIDTH) < torch.tensor(LENGTHS)[:, None]).long()
    mask[1, 2] = mask[3, 1] = 0
    return -torch.rand(len(LENGTHS), WIDTH, generator=generator, dtype=torch.float64) * 2 * mask, mask


def flat(values: Tensor) -> Tensor:
    """[B, T] to the ragged [N], padding left out."""
    return torch.cat([row[:length] for row, length in zip(values, LENGTHS, strict=True)])


CU = torch.tensor([0, *LENGTHS]).cumsum(0)

# ---- pairs -------------------------------------------------------------------------------------------------------

DPO: dict[str, tuple[Callable[..., PreferenceLoss], bool]] = {
    "sigmoid": (dpo_loss, False),
    "hinge": (hinge_loss, False),
    "robust": (partial(robust_dpo_loss, label_smoothing=0.1), False),
    "ipo": (ipo_loss, True),
    "sigmoid_norm": (length_normalised_dpo_loss, True),
    "nca_pair": (nca_loss, False),
    "bco_pair": (bco_loss, False),
    "sppo_hard": (sppo_loss, False),
    "apo_zero": (apo_zero_loss, False),
    "apo_down": (apo_down_loss, False),
}


@pytest.mark.parametrize("name", DPO)
def test_dpo_family(name: str) -> None:
    loss, by_length = DPO[name]
    logps, mask = rows(1)
    logps.requires_grad_()
    reference = rows(2)[0].sum(1)
    zeros = torch.zeros(len(LENGTHS), 1, dtype=torch.int64)
    outputs = SimpleNamespace(log_probs=logps, entropy=logps, mean_logits=logps, is_top1=mask.bool())
    inputs = {
        "input_ids": torch.zeros(len(LENGTHS), WIDTH + 1, dtype=torch.int64),
        "attention_mask": torch.ones(len(LENGTHS), WIDTH + 1),
        "completion_mask": torch.cat([zeros, mask], 1),
        "ref_chosen_logps": reference[:3],
        "ref_rejected_logps": reference[3:],
    }
    fake = stand_in(
        ld_alpha=None, precompute_ref_logps=True, f_divergence_type="reverse_kl", loss_types=[name],
        loss_weights=[1.0], beta=0.3, label_smoothing=0.1, use_weighting=False,
    )  # fmt: skip
    theirs = trainer("trainer.dpo_trainer", "DPOTrainer")._compute_loss(
        fake, lambda **_: outputs, inputs, False
    )
    chosen, rejected = logps.sum(1).chunk(2)
    counts = mask.sum(1).chunk(2) if by_length else ()
    ours = loss(chosen, rejected, reference[:3], reference[3:], *counts, beta=0.3)
    assert ours.losses_P.mean().item() == pytest.approx(theirs.item(), abs=1e-6)
    (our_gradient,) = torch.autograd.grad(ours.losses_P.mean(), logps)
    (their_gradient,) = torch.autograd.grad(theirs, logps)
    assert torch.allclose(our_gradient, their_gradient, atol=1e-6)
    if not by_length:
        metrics = fake._metrics["train"]
        assert ours.metrics["margin"].mean().item() == pytest.approx(metrics["rewards/margins"][0], abs=1e-6)
        assert ours.metrics["accuracy"].mean().item() == pytest.approx(metrics["rewards/accuracies"][0])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_simpo_cpo_orpo(smoothing: float) -> None:
    logps, mask = rows(4)
    summed, mean = logps.sum(1).chunk(2), (logps.sum(1) / mask.sum(1)).chunk(2)
    cpo = trainer("experimental.cpo.cpo_trainer", "CPOTrainer").cpo_loss
    fake = stand_in(beta=1.7, alpha=0.0, label_smoothing=smoothing, simpo_gamma=0.4, loss_type="simpo")
    ours = simpo_loss(*mean, beta=1.7, gamma=0.4, label_smoothing=smoothing)
    assert torch.allclose(ours.losses_P, cpo(fake, *mean)[0], atol=1e-9)
    fake.loss_type = "sigmoid"
    plain = cpo_loss(*summed, mask.sum(1)[:3], beta=1.7, nll_weight=0.0, label_smoothing=smoothing)
    assert torch.allclose(plain.losses_P, cpo(fake, *summed)[0], atol=1e-9)
    odds = trainer("experimental.orpo.orpo_trainer", "ORPOTrainer").odds_ratio_loss
    theirs = odds(stand_in(beta=0.2), *mean)[0].double()
    assert torch.allclose(orpo_loss(*mean, beta=0.2).losses_P, -mean[0] - theirs, atol=1e-6)


def test_kto() -> None:
    logps, mask = rows(5)
    reference, other_reference, other = (rows(i)[0].sum(1) for i in (6, 7, 8))
    labels = torch.tensor([True, False, True, True, False, False])
    zeros = torch.zeros(len(LENGTHS), 1, dtype=torch.int64)
    batch = {
        "input_ids": torch.zeros(len(LENGTHS), WIDTH + 1, dtype=torch.int64),
        "attention_mask": torch.ones(len(LENGTHS), WIDTH + 1),
        "completion_mask": torch.cat([zeros, mask], 1),
        "label": labels,
        "ref_logps": reference,
        "ref_KL_logps": other_reference,
    }
    fake = stand_in(
        precompute_ref_logps=True, calculate_KL=True, loss_type="kto", beta=0.4, desirable_weight=1.2,
        undesirable_weight=0.8, _compute_kl_logps=lambda *_: other,
    )  # fmt: skip
    outputs = SimpleNamespace(log_probs=logps, entropy=logps, mean_logits=logps)
    theirs = trainer("trainer.kto_trainer", "KTOTrainer")._compute_loss(
        fake, lambda **_: outputs, batch, False
    )
    z = reference_point(other, other_reference)
    assert float(z) > 0
    ours = kto_loss(
        logps.sum(1), reference, labels, z, beta=0.4, desirable_weight=1.2, undesirable_weight=0.8
    )
    assert ours.losses_B.mean().item() == pytest.approx(theirs.item(), abs=1e-6)


def test_reward_model() -> None:
    scores = rows(9)[0].sum(1)
    margin = torch.tensor([0.1, 0.5, 0.0], dtype=torch.float64)
    fake = stand_in(args=SimpleNamespace(center_rewards_coefficient=0.02))
    model = lambda **_: SimpleNamespace(logits=scores[:, None])  # noqa: E731
    inputs = {"margin": margin, "attention_mask": torch.ones(6, 2)}
    theirs = trainer("trainer.reward_trainer", "RewardTrainer").compute_loss(fake, model, inputs)
    ours = bradley_terry_loss(scores[:3], scores[3:], margin_P=margin, centring=0.02)
    assert ours.losses_P.mean().item() == pytest.approx(theirs.item(), abs=1e-6)


# ---- policy gradients --------------------------------------------------------------------------------------------

POLICY: dict[str, tuple[str, str, float, float, Callable[..., PolicyLoss]]] = {
    "grpo": ("grpo", "token", 0.2, 0.2, grpo_loss),
    "dr_grpo": ("dr_grpo", "token", 0.2, 0.2, partial(dr_grpo_loss, max_tokens=9)),
    "dapo": ("dapo", "token", 0.2, 0.28, dapo_loss),
    "gspo": ("grpo", "sequence", 0.05, 0.06, partial(gspo_loss, clip_low=0.05, clip_high=0.06)),
    "cispo": ("cispo", "token", 0.2, 1.3, partial(cispo_loss, cap=1.3)),
    "sapo": ("sapo", "token", 0.2, 0.2, sapo_loss),
}


def totals(loss: Callable[..., PolicyLoss], mask: Tensor) -> dict[str, int]:
    function = loss.func if isinstance(loss, partial) else loss
    by_tokens = function in (dapo_loss, cispo_loss)
    return {"step_tokens": int(mask.sum())} if by_tokens else {"step_sequences": len(mask)}


EXTRAS = ["plain", "reference", "importance", "off-policy"]
# trl weighs the entropy bonus by tokens always, we as the loss weighs its tokens
CASES = [(name, extra) for name in POLICY for extra in EXTRAS] + [("dapo", "entropy"), ("cispo", "entropy")]


@pytest.mark.parametrize(("name", "extra"), CASES)
def test_grpo_family(name: str, extra: str) -> None:
    loss_type, level, low, high, loss = POLICY[name]
    (logps, mask), (old, _), (ref, _), (generator_logps, _), (entropies, _) = (rows(i) for i in range(10, 15))
    old = logps + (old - logps) * 0.4
    logps.requires_grad_()
    advantages = torch.tensor([1.0, -0.6, 0.3, -1.4, 0.0, 0.9], dtype=torch.float64)
    importance_N = truncated_importance(flat(old), flat(generator_logps), flat(mask).bool(), cap=1.5)
    importance = torch.zeros_like(logps)
    importance[torch.arange(WIDTH) < torch.tensor(LENGTHS)[:, None]] = importance_N
    inputs = {
        "prompt_ids": torch.zeros(6, 1), "prompt_mask": torch.ones(6, 1), "completion_ids": torch.zeros(6, WIDTH),
        "completion_mask": mask, "advantages": advantages, "old_per_token_logps": old, "ref_per_token_logps": ref,
        "importance_sampling_ratio": importance, "num_items_in_batch": mask.sum(),
    }  # fmt: skip
    grpo = trainer("trainer.grpo_trainer", "GRPOTrainer")
    fake = stand_in(
        _get_per_token_logps_and_entropies=lambda *_, **__: (logps, -entropies, None), top_entropy_quantile=1.0,
        off_policy_mask_threshold=0.1 if extra == "off-policy" else None, get_off_policy_mask=grpo.get_off_policy_mask,
        importance_sampling_level=level, beta=0.3 if extra == "reference" else 0.0, loss_type=loss_type,
        epsilon_low=low, epsilon_high=high, use_vllm=extra == "importance", vllm_importance_sampling_correction=True,
        current_gradient_accumulation_steps=1, max_completion_length=9, _entropy_bonus_enabled=extra == "entropy",
        use_adaptive_entropy=False, entropy_coef=0.02,
        args=SimpleNamespace(
            use_bias_correction_kl=False, delta=None, sapo_temperature_pos=1.0, sapo_temperature_neg=1.05,
            steps_per_generation=1,
        ),
    )  # fmt: skip
    theirs = grpo._compute_loss(fake, None, inputs)
    spread = advantages[:, None].expand(-1, WIDTH)
    kept = None
    if extra == "importance":
        kept = importance_N
    elif extra == "off-policy":
        kept = off_policy_mask(
            flat(logps.detach()), flat(old), flat(spread), flat(mask).bool(), CU, threshold=0.1
        )
        assert 0 < float(kept.mean()) < 1
    chosen = flat(mask).bool()
    ours = loss(flat(logps), flat(old), flat(spread), chosen, CU, importance_N=kept, **totals(loss, mask))
    if extra == "reference":
        ours = add_reference_kl(ours, flat(logps), flat(ref), chosen, beta=0.3)
    if extra == "entropy":
        ours = add_entropy_bonus(ours, flat(-entropies), chosen, coefficient=0.02)
    assert ours.objective.item() == pytest.approx(theirs.item(), abs=1e-6)
    (our_gradient,) = torch.autograd.grad(ours.objective, logps)
    (their_gradient,) = torch.autograd.grad(theirs, logps)
    assert torch.allclose(our_gradient, their_gradient, atol=1e-6)


def test_rloo() -> None:
    (logps, mask), (old, _) = rows(20), rows(21)
    old = logps + (old - logps) * 0.2
    logps.requires_grad_()
    advantages = torch.tensor([1.0, -0.6, 0.3, -1.4, 0.0, 0.9], dtype=torch.float64)
    inputs = {
        "prompt_ids": torch.zeros(6, 1), "prompt_mask": torch.ones(6, 1), "completion_ids": torch.zeros(6, WIDTH),
        "completion_mask": mask, "advantages": advantages, "old_logps": old.sum(1),
    }  # fmt: skip
    fake = stand_in(
        _get_per_token_logps_and_entropies=lambda *_, **__: (logps, logps.detach(), None), epsilon_low=0.2,
        epsilon_high=0.2,
    )  # fmt: skip
    theirs = trainer("trainer.rloo_trainer", "RLOOTrainer")._compute_loss(fake, None, inputs)
    spread = advantages[:, None].expand(-1, WIDTH)
    ours = rloo_loss(flat(logps), flat(old), flat(spread), flat(mask).bool(), CU, step_sequences=6)
    assert ours.objective.item() == pytest.approx(theirs.item(), abs=1e-9)
    for mine, other in zip(
        torch.autograd.grad(ours.objective, logps), torch.autograd.grad(theirs, logps), strict=True
    ):
        assert torch.allclose(mine, other, atol=1e-9)


def test_standard_deviation_of_groups() -> None:
    """Their statistics helper, their epsilon, the formula of their trainer."""
    nanstd = trainer("trainer.utils", "nanstd")
    rewards = torch.tensor([[1.0, 0.2, torch.nan, 0.4], [0.0, 1.0, 1.0, 1.0]], dtype=torch.float64)
    theirs = (rewards - rewards.nanmean(1, keepdim=True)) / (nanstd(rewards, dim=1)[:, None] + 1e-4)
    ours = group_advantages(rewards.flatten(), torch.arange(2).repeat_interleave(4))
    assert torch.allclose(ours, theirs.nan_to_num(0.0).flatten(), atol=1e-12)


@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_generalised_jsd(beta: float) -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 2, 5, 11, generator=generator, dtype=torch.float64) * 3
    student.requires_grad_()
    mask = torch.rand(2, 5, generator=generator) < 0.7
    labels = torch.where(mask, 0, -100)
    jsd = trainer("experimental.gkd.gkd_trainer", "GKDTrainer").generalized_jsd_loss
    theirs = jsd(student, teacher, labels=labels, beta=beta, temperature=0.9)
    each = generalised_jsd(student.flatten(0, 1), teacher.flatten(0, 1), beta=beta, temperature=0.9)
    ours = each.where(mask.flatten(), 0).sum() / mask.sum()
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-6)
    (mine,), (other,) = torch.autograd.grad(ours, student), torch.autograd.grad(theirs, student)
    assert torch.allclose(mine, other, atol=1e-6)
