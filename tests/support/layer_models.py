"""Small decoders of every kind of layer that public families have, with large random numbers, and what the plain layers say."""

from __future__ import annotations

import torch
from torch import Tensor

from hanok.engine.blocks import BLOCK
from hanok.engine.paged_model import PagedModel
from hanok.models.config import ModelConfig, MoEConfig, RopeScaling
from hanok.models.decoder import Decoder

SHAPE = {
    "vocab_size": 101, "hidden_size": 96, "num_layers": 3, "pattern": ("gqa",), "num_heads": 6, "num_kv_heads": 2,
    "head_dim": 32, "intermediate_size": 200, "max_context": 4096,
}  # fmt: skip
YARN = RopeScaling(
    kind="yarn", factor=4.0, original_context=32, mscale=0.707, mscale_all_dim=0.9, beta_fast=16.0
)
LATENT = {
    "pattern": ("mla",), "num_heads": 4, "num_kv_heads": None, "kv_lora_rank": 32, "qk_nope_head_dim": 12,
    "qk_rope_head_dim": 8, "v_head_dim": 10, "mla_rope": True,
}  # fmt: skip
MODELS = {
    "llama": {"rope_scaling": RopeScaling(
        kind="llama3", factor=8.0, original_context=64, low_freq_factor=1.0, high_freq_factor=4.0
    )},
    "qwen2": {"qkv_bias": True, "tie_embeddings": False},
    "qwen3": {"qk_norm": True, "num_heads": 12, "num_kv_heads": 1, "head_dim": 16},
    "hybrid": {"pattern": ("kda", "kda", "mla"), "num_heads": 2, "head_dim": 48, "kv_lora_rank": 32, "num_kv_heads": None,
               "qk_nope_head_dim": 24, "qk_rope_head_dim": 16, "v_head_dim": 16},
    "bounded gates": {"pattern": ("kda", "gqa"), "kda_gate": "lower_bound", "conv_size": 3, "num_heads": 2, "head_dim": 32},
    "partial": {"rope_fraction": 0.5, "num_kv_heads": 6},
    "mistral": {"pattern": ("swa",), "sliding_window": 37},
    "gemma2": {"pattern": ("swa", "gqa"), "sliding_window": 37, "norm": "rms_plus_one", "norm_placement": "both",
               "attention_softcap": 6.0, "logit_softcap": 5.0, "embedding_scale": 96**0.5, "activation": "gelu_tanh",
               "attention_scale": 20**-0.5},
    "gemma3": {"pattern": ("swa", "swa", "gqa"), "sliding_window": 70, "norm": "rms_plus_one", "norm_placement": "both",
               "rope_theta": 1e6, "rope_local_theta": 100.0, "rope_scaling": RopeScaling(kind="linear", factor=8.0),
               "qk_norm": True, "activation": "gelu_tanh"},
    "olmo2": {"norm_placement": "post", "qk_norm": True, "qk_norm_whole": True},
    "gpt2": {"norm": "layer", "learned_positions": True, "rope_theta": None, "gated_mlp": False, "activation": "gelu",
             "qkv_bias": True, "o_bias": True, "mlp_bias": True, "num_kv_heads": None, "intermediate_size": 100},
    "gated": {"attention_gate": True, "qk_norm": True, "qkv_bias": True, "mlp_bias": True, "num_heads": 3, "num_kv_heads": 3,
              "head_dim": 16},
    "mixtral": {"moe": MoEConfig(experts=5, per_token=2, width=40)},
    "qwen3 moe": {"qk_norm": True, "moe": MoEConfig(experts=12, per_token=3, width=50, layers=(0, 2))},
    "qwen2 moe": {"moe": MoEConfig(experts=6, per_token=2, width=64, shared=1, shared_width=72, shared_gate=True,
                                   renormalise=False)},
    "gpt-oss": {"pattern": ("swa", "gqa"), "sliding_window": 20, "attention_sinks": True, "qkv_bias": True, "o_bias": True,
                "rope_scaling": RopeScaling(kind="yarn", factor=4.0, original_context=32, truncate=False, beta_fast=8.0),
                "moe": MoEConfig(experts=5, per_token=2, width=40, router="top_softmax", biases=True, swiglu_limit=2.0)},
    "deepseek v2": LATENT | {"moe": MoEConfig(experts=12, per_token=3, width=40, shared=2, first_dense=1, groups=4,
                                              top_groups=2, renormalise=False, scaling=1.5)},
    "deepseek v3": LATENT | {"q_lora_rank": 40, "qkv_bias": True, "num_heads": 10, "rope_scaling": YARN,
                             "moe": MoEConfig(experts=12, per_token=3, width=40, shared=1, first_dense=1, groups=4, top_groups=2,
                                              router="sigmoid", scaling=2.5)},
    "kimi": {"pattern": ("kda", "kda", "mla"), "num_heads": 2, "head_dim": 48, "kv_lora_rank": 32, "num_kv_heads": None,
             "qk_nope_head_dim": 24, "qk_rope_head_dim": 16, "v_head_dim": 18,
             "moe": MoEConfig(experts=8, per_token=2, width=48, shared=1, first_dense=1, router="sigmoid", scaling=2.4)},
}  # fmt: skip


def decoder_of(name: str) -> Decoder:
    return filled(ModelConfig(**SHAPE | MODELS[name]))


def filled(config: ModelConfig) -> Decoder:
    model = Decoder(config, generator=torch.Generator().manual_seed(0)).eval()
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        scale = 0.1 if parameter.dim() == 1 else 0.7 * parameter.shape[-1] ** -0.5
        parameter.data += scale * torch.randn(parameter.shape, generator=generator)
    for buffer in model.buffers():  # corrections of routers
        buffer += 0.3 * torch.randn(buffer.shape, generator=generator)
    return model.requires_grad_(False)


def ids(count: int, seed: int = 3) -> list[int]:
    return torch.randint(101, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def reference(model: Decoder, tokens: list[int]) -> Tensor:
    hidden, _ = model(torch.tensor(tokens), torch.tensor([0, len(tokens)], dtype=torch.int32))
    return model.logits(hidden)


def read(model: PagedModel, tokens: list[int], pieces: list[int]) -> Tensor:
    """Logits behind every token, fed piece by piece."""
    table, found, at = model.pool.take(-(-len(tokens) // BLOCK)), [], 0
    for piece in pieces:
        places = list(range(at, at + piece))
        found.append(model.step(tokens[at : at + piece], places, [0] * piece, [table], list(range(piece))))
        at += piece
    model.pool.give_back(table)
    return torch.cat(found)
