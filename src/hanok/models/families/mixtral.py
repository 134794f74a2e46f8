"""Mixtral: Mistral with experts, chosen by a softmax over all and weighed among the chosen."""

from __future__ import annotations

from typing import Any

from hanok.models.config import ModelConfig, MoEConfig
from hanok.models.families.family import ExpertList, Family, Prefix, Rename, Values
from hanok.models.families.mistral import read_window, write_window
from hanok.models.families.values import read_common, read_experts, write_common


def read(values: Values) -> ModelConfig:
    moe = MoEConfig(
        experts=read_experts(values), per_token=values["num_experts_per_tok"], width=values["intermediate_size"],
        balance_loss=values.get("router_aux_loss_coef", 0.001),
    )  # fmt: skip
    return ModelConfig(**read_common(values, norm_eps=1e-5, theta=1e6) | read_window(values), moe=moe)


def write(config: ModelConfig) -> dict[str, Any]:
    assert config.moe is not None
    return write_common(config) | write_window(config) | {
        "intermediate_size": config.moe.width, "num_local_experts": config.moe.experts,
        "num_experts_per_tok": config.moe.per_token, "router_aux_loss_coef": config.moe.balance_loss,
    }  # fmt: skip


FAMILY = Family(
    model_type="mixtral", architecture="MixtralForCausalLM", read=read, write=write,
    layouts=(Prefix(), Rename("block_sparse_moe", "mlp"), ExpertList("w1", "w3", "w2")),
    examples="Mixtral 8x7B, 8x22B",
)  # fmt: skip
