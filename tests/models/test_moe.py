"""Routers and mixtures against those of transformers, with the same weights."""

from __future__ import annotations

import sys

import pytest
import torch

from hanok.models.config import MoEConfig
from hanok.models.mlp import Experts, MixtureOfExperts, Router


@pytest.fixture(autouse=True)
def _no_gpu_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fla", None)  # its kernels need a GPU and are taken when importable
    pytest.importorskip("transformers")


def filled(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    return module


def tokens(count: int, width: int) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(9))


@pytest.mark.parametrize("count", [1, 7, 50])
def test_mixtral_block_and_gradients(count: int) -> None:
    from transformers import MixtralConfig
    from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock

    ours = filled(MixtureOfExperts(20, MoEConfig(experts=5, per_token=2, width=12)))
    config = MixtralConfig(hidden_size=20, intermediate_size=12, num_local_experts=5, num_experts_per_tok=2)
    config._experts_implementation = "eager"
    theirs = MixtralSparseMoeBlock(config)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    a, b = tokens(count, 20).requires_grad_(True), tokens(count, 20).requires_grad_(True)
    y, expected = ours(a), theirs(b[None])[0]
    torch.testing.assert_close(y, expected, atol=1e-5, rtol=1e-5)
    y.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(a.grad, b.grad, atol=1e-5, rtol=1e-4)
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, atol=1e-5, rtol=1e-4, msg=name)


def test_balance_loss_is_mixtrals_and_a_uniform_router_costs_per_token() -> None:
    from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

    router = filled(Router(20, MoEConfig(experts=5, per_token=2))).train()
    x = tokens(64, 20)
    router(x)
    expected = load_balancing_loss_func((x @ router.weight.T,), num_experts=5, top_k=2)
    assert router.balance is not None
    torch.testing.assert_close(router.balance, expected)
    router.weight.data.zero_()
    router(x)
    assert router.balance is not None
    assert router.balance.item() == pytest.approx(2.0)


@pytest.mark.parametrize(("groups", "top_groups"), [(1, 1), (4, 2), (4, 1)])
@pytest.mark.parametrize("renormalise", [True, False])
def test_deepseek_mixture(groups: int, top_groups: int, renormalise: bool) -> None:
    from transformers import DeepseekV3Config
    from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3MoE

    moe = MoEConfig(
        experts=12, per_token=3, width=8, shared=2, router="sigmoid", groups=groups, top_groups=top_groups, scaling=2.5,
        renormalise=renormalise,
    )  # fmt: skip
    ours = filled(MixtureOfExperts(20, moe))
    bias = torch.randn(12, generator=torch.Generator().manual_seed(3))
    ours.gate.e_score_correction_bias.copy_(bias)
    config = DeepseekV3Config(
        hidden_size=20, moe_intermediate_size=8, n_routed_experts=12, num_experts_per_tok=3, n_shared_experts=2,
        n_group=groups, topk_group=top_groups, routed_scaling_factor=2.5, norm_topk_prob=renormalise,
    )  # fmt: skip
    config._experts_implementation = "eager"
    theirs = DeepseekV3MoE(config)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    x = tokens(40, 20)
    torch.testing.assert_close(ours(x), theirs(x[None])[0], atol=1e-5, rtol=1e-5)


def test_the_bias_selects_but_does_not_weigh() -> None:
    config = MoEConfig(experts=6, per_token=2, router="sigmoid", renormalise=False)
    router, x = filled(Router(16, config)), tokens(30, 16)
    router.e_score_correction_bias.copy_(torch.tensor([9.0, 0, 0, 9.0, 0, 0]))
    chosen, weights = router(x)
    assert set(chosen.flatten().tolist()) == {0, 3}
    scores = (x @ router.weight.T).sigmoid()
    torch.testing.assert_close(weights, scores.gather(1, chosen))


def test_the_bias_rule_evens_a_skewed_router() -> None:
    router = filled(Router(16, MoEConfig(experts=8, per_token=2, router="sigmoid", bias_rate=1e-2))).train()
    x = tokens(512, 16) + 0.5
    router(x)
    assert router.load_E is not None
    before = (router.load_E.max() / router.load_E.mean()).item()
    for _ in range(400):
        router(x)
        router.balance_bias()
    router(x)
    assert router.load_E is not None
    after = (router.load_E.max() / router.load_E.mean()).item()
    assert before > 1.5
    assert after < 1.2
    assert router.e_score_correction_bias.sum().abs() < 1e-4


def test_experts_without_tokens_get_zero_gradients() -> None:
    experts, x = filled(Experts(10, MoEConfig(experts=4, per_token=1, width=6))), tokens(9, 10)
    experts(x, torch.full((9, 1), 2), torch.ones(9, 1)).square().sum().backward()
    assert experts.down_proj.grad is not None
    assert experts.down_proj.grad[[0, 1, 3]].abs().max() == 0
    assert experts.down_proj.grad[2].abs().max() > 0


def test_the_bias_rule_counts_all_micro_batches_of_a_step() -> None:
    config = MoEConfig(experts=6, per_token=2, width=8, router="sigmoid", bias_rate=0.1)
    at_once, in_parts = Router(16, config), Router(16, config)
    weight = torch.randn(6, 16, generator=torch.Generator().manual_seed(1))
    x_ND = torch.randn(40, 16, generator=torch.Generator().manual_seed(2))
    for router, parts in ((at_once, [x_ND]), (in_parts, list(x_ND.split(7)))):
        router.weight.data.copy_(weight)
        for part in parts:
            router(part)
        router.balance_bias()
    assert at_once.e_score_correction_bias.abs().max() > 0
    torch.testing.assert_close(in_parts.e_score_correction_bias, at_once.e_score_correction_bias)
