"""gpt-oss: attention sinks, YaRN, windows on every other layer, experts with biases and a clamped gate.

Its expert matrices are [in, out] with gate and up columns in turn; in the released files they are MXFP4 (blocks of 32
4-bit floats with one power of two), which is dequantised on reading. Written back, they are plain.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hanok.models.config import ModelConfig, MoEConfig
from hanok.models.families.family import Family, Prefix, Rename, Tensors, Values
from hanok.models.families.values import (
    read_common,
    read_experts,
    read_layer_types,
    write_common,
    write_layer_types,
)

_FP4 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def read(values: Values) -> ModelConfig:
    bias = values.get("attention_bias", True)
    moe = MoEConfig(
        experts=read_experts(values), per_token=values["num_experts_per_tok"], width=values["intermediate_size"],
        router="top_softmax", biases=True, swiglu_limit=values.get("swiglu_limit", 7.0),
        swiglu_alpha=values.get("swiglu_alpha", 1.702), balance_loss=values.get("router_aux_loss_coef", 0.001),
    )  # fmt: skip
    fields = read_common(values, norm_eps=1e-5, theta=150_000.0)
    fields["pattern"] = read_layer_types(values, default=("swa", "gqa"))
    return ModelConfig(
        **fields, moe=moe, attention_sinks=True, qkv_bias=bias, o_bias=bias,
        sliding_window=values.get("sliding_window") or 128,
    )  # fmt: skip


def write(config: ModelConfig) -> dict[str, Any]:
    moe = config.moe
    assert moe is not None
    return write_common(config) | {
        "intermediate_size": moe.width, "num_local_experts": moe.experts, "num_experts_per_tok": moe.per_token,
        "swiglu_limit": moe.swiglu_limit, "swiglu_alpha": moe.swiglu_alpha, "router_aux_loss_coef": moe.balance_loss,
        "sliding_window": config.sliding_window, "layer_types": write_layer_types(config),
        "attention_bias": config.qkv_bias,
    }  # fmt: skip


class _Experts:
    """Between [E, in, out] with columns in turn and our [E, out, in] with gate above up."""

    def incoming(self, tensors: Tensors, config: ModelConfig) -> Tensors:
        found: Tensors = {}
        for name, tensor in tensors.items():
            if name.endswith("_scales"):
                continue
            if name.endswith("_blocks"):
                name, tensor = name.removesuffix("_blocks"), dequantise_mxfp4(
                    tensor, tensors[name.replace("_blocks", "_scales")]
                )  # fmt: skip
            elif name.endswith(("experts.gate_up_proj", "experts.down_proj")):
                tensor = tensor.transpose(1, 2)
            if "experts.gate_up_proj" in name:
                tensor = torch.cat([tensor[:, 0::2], tensor[:, 1::2]], dim=1)
            found[name] = tensor
        return found

    def outgoing(self, tensors: Tensors, config: ModelConfig) -> Tensors:
        found: Tensors = {}
        for name, tensor in tensors.items():
            if "experts.gate_up_proj" in name:
                tensor = torch.stack(tensor.chunk(2, dim=1), dim=2).flatten(1, 2)
            if name.endswith(("experts.gate_up_proj", "experts.down_proj")):
                tensor = tensor.transpose(1, 2)
            found[name] = tensor
        return found


def dequantise_mxfp4(blocks: Tensor, scales: Tensor) -> Tensor:
    """Open Compute MX 1.0: [..., G, 16] bytes of two 4-bit floats (low half first) and [..., G] exponents biased by
    127, to bfloat16 [..., 32 G], without loss."""
    table = torch.tensor([*_FP4, *(-x for x in _FP4)])
    pairs = torch.stack([table[(blocks & 15).long()], table[(blocks >> 4).long()]], dim=-1).flatten(-2)
    return torch.ldexp(pairs, scales.int()[..., None] - 127).flatten(-2).to(torch.bfloat16)


FAMILY = Family(
    model_type="gpt_oss", architecture="GptOssForCausalLM", read=read, write=write,
    layouts=(Prefix(), Rename("mlp.router", "mlp.gate"), _Experts()), examples="gpt-oss 20B, 120B",
)  # fmt: skip
