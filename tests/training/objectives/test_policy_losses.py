"""Policy-gradient losses: numeric vectors, a padded reference, finite differences, steps that add up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch import Tensor

from hanok.errors import ConfigError
from hanok.training.objectives.cispo import cispo_loss, scalerl_loss
from hanok.training.objectives.grpo import dapo_loss, dr_grpo_loss, grpo_loss, gspo_loss
from hanok.training.objectives.importance import (
    off_policy_mask,
    sequence_masked_importance,
    truncated_importance,
)
from hanok.training.objectives.policy import (
    PolicyLoss,
    adapted_kl_weight,
    add_entropy_bonus,
    add_reference_kl,
    kl_estimate,
)
from hanok.training.objectives.ppo import explained_variance, ppo_loss, value_loss
from hanok.training.objectives.ragged import count_sequences
from hanok.training.objectives.reinforce import reinforce_loss, rloo_loss
from hanok.training.objectives.sapo import sapo_loss


def step_metrics(losses: list[PolicyLoss]) -> dict[str, float]:
    """Means over the counted tokens of all micro-batches of a step."""
    tokens = max(sum(int(loss.tokens) for loss in losses), 1)
    names = {name for loss in losses for name in loss.metrics}
    return {name: sum(float(loss.metrics[name]) for loss in losses) / tokens for name in names}


def numbers(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@dataclass
class Batch:
    """Sequences of 3, 1, 5 and 4 tokens, some of which the policy did not write."""

    logp_N: Tensor
    old_logp_N: Tensor
    advantage_N: Tensor
    mask_N: Tensor
    cu_seqlens: Tensor

    def sequence(self, i: int) -> Batch:
        part = slice(int(self.cu_seqlens[i]), int(self.cu_seqlens[i + 1]))
        length = part.stop - part.start
        tensors = (self.logp_N[part], self.old_logp_N[part], self.advantage_N[part], self.mask_N[part])
        return Batch(*tensors, torch.tensor([0, length]))

    def call(self, loss: Callable[..., PolicyLoss], **totals: object) -> PolicyLoss:
        return loss(self.logp_N, self.old_logp_N, self.advantage_N, self.mask_N, self.cu_seqlens, **totals)


def make_batch(seed: int = 0, spread: float = 0.4) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    cu_seqlens = torch.tensor([0, 3, 4, 9, 13])
    old = -torch.rand(13, generator=generator, dtype=torch.float64) * 3
    logp = old + spread * torch.randn(13, generator=generator, dtype=torch.float64)
    advantage = numbers(1.0, -0.7, 0.4, -1.2).repeat_interleave(cu_seqlens.diff())
    mask = torch.tensor([1, 1, 0, 1, 0, 1, 1, 0, 1, 1, 1, 1, 1], dtype=torch.bool)
    return Batch(logp, old, advantage, mask, cu_seqlens)


# name -> loss, its denominators for a step of the given sequences
def losses_of(batch: Batch) -> dict[str, Callable[..., PolicyLoss]]:
    tokens, sequences = int(batch.mask_N.sum()), len(batch.cu_seqlens) - 1
    return {
        "reinforce": partial(reinforce_loss, step_sequences=sequences),
        "rloo": partial(rloo_loss, step_sequences=sequences),
        "ppo": partial(ppo_loss, step_tokens=tokens),
        "ppo, capped": partial(ppo_loss, step_tokens=tokens, ratio_cap=1.5),
        "grpo": partial(grpo_loss, step_sequences=sequences),
        "dr_grpo": partial(dr_grpo_loss, step_sequences=sequences, max_tokens=6),
        "dapo": partial(dapo_loss, step_tokens=tokens),
        "gspo": partial(gspo_loss, step_sequences=sequences, clip_low=0.1, clip_high=0.1),
        "cispo": partial(cispo_loss, step_tokens=tokens, cap=1.4),
        "sapo": partial(sapo_loss, step_sequences=sequences),
    }


NAMES = list(losses_of(make_batch()))

# the vector of two sequences with log-ratios [.1, -.2, .05] and [.3, 0], advantages 1 and -.5
LOG_RATIO = numbers(0.1, -0.2, 0.05, 0.3, 0.0)
ADVANTAGE = numbers(1, 1, 1, -0.5, -0.5)
TWO = Batch(
    LOG_RATIO - 2, torch.full_like(LOG_RATIO, -2), ADVANTAGE, torch.ones(5, dtype=torch.bool),
    torch.tensor([0, 3, 5]),
)  # fmt: skip


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (partial(grpo_loss, step_sequences=2, clip_high=0.28), -0.2021298),
        (partial(dapo_loss, step_tokens=5), -0.3600487),
        (partial(dr_grpo_loss, step_sequences=2, max_tokens=4, clip_high=0.28), -0.2250304),
        (partial(gspo_loss, step_sequences=2), -0.2012772),
    ],
)
def test_vectors(loss: Callable[..., PolicyLoss], expected: float) -> None:
    assert TWO.call(loss).objective.item() == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (partial(dapo_loss, step_tokens=1), [-1.105171, -0.818731, -1.051271, 0.674929, 0.5]),
        (partial(gspo_loss, step_sequences=1), [-0.9834715 / 3] * 3 + [0.5809171 / 2] * 2),
    ],
)
def test_each_token_of_the_vector(loss: Callable[..., PolicyLoss], expected: list[float]) -> None:
    """A mask of one token at a time would change a sequence's ratio; the weights single tokens out instead."""
    for token, value in enumerate(expected):
        only = torch.zeros(5, dtype=torch.float64)
        only[token] = 1.0
        assert TWO.call(loss, importance_N=only).objective.item() == pytest.approx(value, abs=1e-6)


def padded(batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """[B, T] copies of the batch, for the reference below."""
    rows = [batch.sequence(i) for i in range(4)]

    def pad(name: str) -> Tensor:
        parts = [getattr(row, name) for row in rows]
        return torch.nn.utils.rnn.pad_sequence(parts, batch_first=True)

    return pad("logp_N"), pad("old_logp_N"), pad("advantage_N"), pad("mask_N").double()


def reference(name: str, batch: Batch) -> Tensor:
    """The papers' formulas over padded rows, written without the functions under test."""
    logp, old, advantage, mask = padded(batch)
    ratio, length = ((logp - old) * mask).exp(), mask.sum(1)

    def clip(r: Tensor, low: float, high: float) -> Tensor:
        return -torch.min(r * advantage, r.clamp(1 - low, 1 + high) * advantage)

    if name == "reinforce":
        return -(advantage * logp * mask).sum() / 4
    if name == "rloo":
        whole = ((logp - old) * mask).sum(1).exp()
        each = advantage[:, 0]
        return -torch.min(whole * each, whole.clamp(0.8, 1.2) * each).mean()
    if name == "ppo":
        return (clip(ratio, 0.2, 0.2) * mask).sum() / mask.sum()
    if name == "ppo, capped":
        capped = -torch.min(ratio.clamp(max=1.5) * advantage, ratio.clamp(0.8, 1.2) * advantage)
        return (capped * mask).sum() / mask.sum()
    if name == "grpo":
        return ((clip(ratio, 0.2, 0.2) * mask).sum(1) / length).mean()
    if name == "dr_grpo":
        return (clip(ratio, 0.2, 0.2) * mask).sum() / (4 * 6)
    if name == "dapo":
        return (clip(ratio, 0.2, 0.28) * mask).sum() / mask.sum()
    if name == "gspo":
        whole = (((logp - old) * mask).sum(1) / length).exp()[:, None]
        return ((clip(whole, 0.1, 0.1) * mask).sum(1) / length).mean()
    if name == "sapo":
        heat = torch.where(advantage > 0, 1.0, 1.05 * torch.ones_like(advantage))
        gate = 4 / heat * (heat * (ratio - 1)).sigmoid()
        return ((-gate * advantage * mask).sum(1) / length).mean()
    assert name == "cispo"
    return -(ratio.clamp(max=1.4).detach() * advantage * logp * mask).sum() / mask.sum()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_equals_the_padded_formula(name: str, seed: int) -> None:
    batch = make_batch(seed)
    batch.logp_N.requires_grad_()
    ours, theirs = batch.call(losses_of(batch)[name]).objective, reference(name, batch)
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-12)
    ours_grad, theirs_grad = (torch.autograd.grad(x, batch.logp_N)[0] for x in (ours, theirs))
    assert torch.allclose(ours_grad, theirs_grad, atol=1e-12)
    assert float(ours_grad.abs().max()) > 0


@pytest.mark.parametrize("name", [name for name in NAMES if name != "cispo"])
def test_gradients_are_finite_differences(name: str) -> None:
    """CISPO is left out: its ratio is held constant on purpose."""
    batch = make_batch(5)

    def objective(logp_N: Tensor) -> Tensor:
        moved = Batch(logp_N, batch.old_logp_N, batch.advantage_N, batch.mask_N, batch.cu_seqlens)
        return moved.call(losses_of(batch)[name]).objective

    assert torch.autograd.gradcheck(objective, [batch.logp_N.requires_grad_()])


@pytest.mark.parametrize("name", NAMES)
def test_micro_batches_add_up(name: str) -> None:
    batch = make_batch(2)
    loss = losses_of(batch)[name]
    logp_N = batch.logp_N.requires_grad_()
    whole = batch.call(loss)
    (gradient,) = torch.autograd.grad(whole.objective, logp_N)
    parts = [batch.sequence(i).call(loss) for i in range(4)]
    summed = torch.stack([part.objective for part in parts]).sum()
    assert summed.item() == pytest.approx(whole.objective.item(), abs=1e-12)
    assert torch.allclose(torch.autograd.grad(summed, logp_N)[0], gradient, atol=1e-12)
    assert step_metrics(parts) == pytest.approx(step_metrics([whole]), abs=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_masked_does_not_matter(name: str) -> None:
    batch = make_batch(4)
    loss = losses_of(batch)[name]
    clean = batch.call(loss).objective
    hidden = ~batch.mask_N
    for poison in (torch.nan, torch.inf, -torch.inf):
        logp_N = batch.logp_N.clone().masked_fill(hidden, poison).requires_grad_()
        old_logp_N, advantage_N = batch.old_logp_N.clone(), batch.advantage_N.clone()
        old_logp_N[hidden] = poison
        moved = Batch(logp_N, old_logp_N, advantage_N, batch.mask_N, batch.cu_seqlens).call(loss)
        assert moved.objective.item() == pytest.approx(clean.item(), abs=1e-12)
        (gradient,) = torch.autograd.grad(moved.objective, logp_N)
        assert torch.equal(gradient[hidden], torch.zeros_like(gradient[hidden]))
        assert gradient.isfinite().all()
        assert all(value == value for value in step_metrics([moved]).values())


@pytest.mark.parametrize("name", NAMES)
def test_no_advantage_no_gradient(name: str) -> None:
    batch = make_batch(6)
    batch.advantage_N.zero_()
    batch.logp_N.requires_grad_()
    (gradient,) = torch.autograd.grad(batch.call(losses_of(batch)[name]).objective, batch.logp_N)
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_value_zero_on_policy_is_no_lack_of_gradient() -> None:
    batch = make_batch(1, spread=0.0)
    batch.advantage_N[:3], batch.advantage_N[3] = 1.0, -1.0
    both = batch.sequence(0), batch.sequence(1)
    logp_N = torch.cat([part.logp_N for part in both]).requires_grad_()
    pair = Batch(
        logp_N,
        logp_N.detach(),
        numbers(1, 1, 1, -1),
        torch.ones(4, dtype=torch.bool),
        torch.tensor([0, 3, 4]),
    )
    loss = pair.call(grpo_loss, step_sequences=2)
    assert loss.objective.item() == pytest.approx(0.0)
    assert float(torch.autograd.grad(loss.objective, logp_N)[0].abs().min()) > 0.1


def test_scalerl_averages_over_prompts_and_delethink_over_traces() -> None:
    batch = make_batch(3)
    counts = count_sequences(batch.mask_N, batch.cu_seqlens)
    assert counts.tolist() == [2, 1, 3, 4]
    # two prompts with two answers each, of 3 and 7 tokens
    units = torch.tensor([3, 3, 7, 7])
    loss = batch.call(scalerl_loss, unit_tokens_B=units, step_units=2, cap=1.3)
    ratio = (batch.logp_N - batch.old_logp_N).exp().clamp(max=1.3)
    each = -ratio * batch.advantage_N * batch.logp_N * batch.mask_N
    assert loss.objective.item() == pytest.approx((each[:4].sum() / 3 + each[4:].sum() / 7).item() / 2)
    # one prompt: the same as the mean over tokens
    one = batch.call(scalerl_loss, unit_tokens_B=torch.full((4,), 10), step_units=1)
    assert one.objective.item() == pytest.approx(batch.call(cispo_loss, step_tokens=10).objective.item())
    # a trace of two chunks shares its advantage and is divided by its own length
    traces = batch.call(grpo_loss, step_sequences=2, unit_tokens_B=units)
    clipped = (batch.logp_N - batch.old_logp_N).exp()
    each = -torch.min(clipped * batch.advantage_N, clipped.clamp(0.8, 1.2) * batch.advantage_N) * batch.mask_N
    assert traces.objective.item() == pytest.approx((each[:4].sum() / 3 + each[4:].sum() / 7).item() / 2)


def test_cispo_keeps_the_gradient_of_capped_tokens_and_refuses_a_clip_range() -> None:
    logp_N = numbers(-1.0).requires_grad_()
    arguments = (numbers(-4.0), numbers(2.0), torch.tensor([True]), torch.tensor([0, 1]))
    loss = cispo_loss(logp_N, *arguments, step_tokens=1, cap=5.0)
    assert torch.autograd.grad(loss.objective, logp_N)[0].item() == pytest.approx(
        -10.0
    )  # ratio e^3, capped at 5
    with pytest.raises(ConfigError, match="at least 1"):
        cispo_loss(logp_N, *arguments, step_tokens=1, cap=0.2)


def test_kl_vectors_and_their_gradients() -> None:
    logp, ref = numbers(-1.0).requires_grad_(), numbers(-1.3)
    values = [kl_estimate(logp, ref, k).item() for k in ("k1", "k2", "k3")]
    assert values == pytest.approx([0.3, 0.045, 0.0408182], abs=1e-7)
    slopes = [torch.autograd.grad(kl_estimate(logp, ref, k), logp)[0].item() for k in ("k1", "k2", "k3")]
    assert slopes == pytest.approx([1.0, 0.3, 1 - torch.tensor(-0.3).exp().item()], abs=1e-6)


def test_estimators_are_unbiased_and_k2_has_the_gradient_of_the_divergence() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, reference = torch.randn(2, 6, generator=generator, dtype=torch.float64) * 0.5
    logits.requires_grad_()
    logp_V, ref_V = logits.log_softmax(0), reference.log_softmax(0)
    exact = (logp_V.exp() * (logp_V - ref_V)).sum()
    (exact_gradient,) = torch.autograd.grad(exact, logits, retain_graph=True)
    law = logp_V.exp().detach()
    for k in ("k1", "k3"):
        assert (law * kl_estimate(logp_V, ref_V, k)).sum().item() == pytest.approx(exact.item())
    sampled = (law * kl_estimate(logp_V, ref_V, "k2")).sum()
    assert torch.allclose(torch.autograd.grad(sampled, logits, retain_graph=True)[0], exact_gradient)
    nothing = (law * kl_estimate(logp_V, ref_V, "k1")).sum()
    assert torch.autograd.grad(nothing, logits)[0].abs().max() < 1e-12


def test_reference_and_entropy_terms_weigh_as_the_loss_does() -> None:
    batch = make_batch(8)
    ref_logp_N = batch.logp_N.detach() - 0.3
    entropy_N = torch.rand(13, dtype=torch.float64)
    loss = batch.call(grpo_loss, step_sequences=4)
    with_kl = add_reference_kl(loss, batch.logp_N, ref_logp_N, batch.mask_N, beta=0.5, estimator="k3")
    assert with_kl.objective.item() == pytest.approx(loss.objective.item() + 0.5 * 0.0408182, abs=1e-7)
    assert step_metrics([with_kl])["reference_kl"] == pytest.approx(0.0408182, abs=1e-7)
    with_bonus = add_entropy_bonus(loss, entropy_N, batch.mask_N, coefficient=0.1)
    means = [batch.sequence(i).mask_N for i in range(4)]
    expected = torch.stack(
        [part[mask].mean() for part, mask in zip(entropy_N.split([3, 1, 5, 4]), means, strict=True)]
    )
    assert with_bonus.objective.item() == pytest.approx((loss.objective - 0.1 * expected.mean()).item())
    assert step_metrics([with_bonus])["entropy"] == pytest.approx(entropy_N[batch.mask_N].mean().item())


def test_kl_weight_follows_its_target() -> None:
    settings = {"target": 6.0, "sequences": 64, "horizon": 10_000}
    assert adapted_kl_weight(0.2, 6.3, **settings) == pytest.approx(0.2 * (1 + 0.05 * 0.0064))
    assert adapted_kl_weight(0.2, 60.0, **settings) == pytest.approx(0.2 * (1 + 0.2 * 0.0064))
    assert adapted_kl_weight(0.2, 0.0, **settings) == pytest.approx(0.2 * (1 - 0.2 * 0.0064))


def test_clip_metrics_count_what_lost_its_gradient() -> None:
    ratios = numbers(1.5, 1.5, 0.5, 0.5, 1.0)
    advantage = numbers(1, -1, 1, -1, 1)
    batch = Batch(
        ratios.log().requires_grad_(), torch.zeros(5, dtype=torch.float64), advantage,
        torch.ones(5, dtype=torch.bool), torch.tensor([0, 5]),
    )  # fmt: skip
    loss = batch.call(ppo_loss, step_tokens=5)
    (gradient,) = torch.autograd.grad(loss.objective, batch.logp_N)
    assert (gradient == 0).tolist() == [True, False, False, True, False]
    metrics = step_metrics([loss])
    assert (metrics["clipped_high"], metrics["clipped_low"]) == pytest.approx((0.2, 0.2))
    assert metrics["ratio"] == pytest.approx(1.0)


def test_importance_weights() -> None:
    old, generator = numbers(-1, -1, -1, -1), numbers(-1, -3, -0.5, -2)
    mask = torch.tensor([True, True, True, False])
    assert truncated_importance(old, generator, mask, cap=2.0).tolist() == pytest.approx(
        [1, 2, 0.60653, 1], abs=1e-5
    )
    cu_seqlens = torch.tensor([0, 2, 4])
    masked = sequence_masked_importance(old, generator, mask, cu_seqlens, cap=3.0)
    assert masked.tolist() == pytest.approx([0, 0, 0.60653, 0.60653], abs=1e-5)
    moved, advantage = numbers(-3, -3, -3, -3), numbers(-1, -1, 1, 1)
    keep = off_policy_mask(moved, old, advantage, mask, cu_seqlens, threshold=1.0)
    assert keep.tolist() == [0, 0, 1, 1]
    assert off_policy_mask(moved, old, advantage, mask, cu_seqlens, threshold=2.5).tolist() == [1] * 4


def test_importance_corrects_the_expected_gradient() -> None:
    """Tokens drawn by another law, weighted by the ratio: the policy's own gradient."""
    generator = torch.Generator().manual_seed(0)
    logits, other = torch.randn(2, 5, generator=generator, dtype=torch.float64)
    logits.requires_grad_()
    reward = torch.randn(5, generator=generator, dtype=torch.float64)
    logp_V, other_V = logits.log_softmax(0), other.log_softmax(0)
    (exact,) = torch.autograd.grad(-(logp_V.exp() * reward).sum(), logits, retain_graph=True)
    everything, cu_seqlens = torch.ones(5, dtype=torch.bool), torch.arange(6)
    importance = truncated_importance(logp_V.detach(), other_V, everything, cap=1e9)
    # each of the five tokens once, weighted by how often the other law draws it
    loss = reinforce_loss(
        logp_V, logp_V.detach(), reward * other_V.exp(), everything, cu_seqlens, step_sequences=1,
        importance_N=importance,
    )  # fmt: skip
    assert torch.allclose(torch.autograd.grad(loss.objective, logits)[0], exact)


def test_value_loss_is_clipped_the_pessimistic_way() -> None:
    values, old, returns = numbers(0.0, 1.0, 0.3, torch.nan), numbers(0.0, 0.0, 0.0, 0), numbers(1, 1, -1, 0)
    mask = torch.tensor([True, True, True, False])
    loss = value_loss(values.requires_grad_(), old, returns, mask, step_tokens=3)
    # errors: 1; clipped at .2 -> .64 beats 0; 1.69 beats 1.44
    assert loss.objective.item() == pytest.approx(0.5 * (1 + 0.64 + 1.69) / 3)
    assert torch.autograd.grad(loss.objective, values)[0].isfinite().all()
    assert step_metrics([loss])["error2"] == pytest.approx((1 + 0 + 1.69) / 3)
    residual, total = (1 + 0 + 1.69) / 3, 1 - (1 / 3) ** 2
    assert explained_variance(values.detach(), returns, mask) == pytest.approx(1 - residual / total)
    assert (
        explained_variance(values.detach(), returns.abs(), mask) == 0.0
    )  # all returns alike: nothing to explain


def test_value_gradient_is_a_finite_difference() -> None:
    generator = torch.Generator().manual_seed(2)
    values, old, returns = torch.randn(3, 9, generator=generator, dtype=torch.float64)
    mask = torch.arange(9) % 4 > 0
    assert torch.autograd.gradcheck(
        lambda v: value_loss(v, old, returns, mask, step_tokens=20).objective, (values.requires_grad_(),)
    )
