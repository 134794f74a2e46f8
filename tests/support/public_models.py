"""Small models of every public family, in the family's own `transformers` class, with all that makes it special.

Each entry: configuration class, its settings. Sizes are odd on purpose: heads do not divide the width, the vocabulary is
no round number, sequences are longer than windows.
"""

from __future__ import annotations

from typing import Any

import torch

SIZES = {
    "vocab_size": 101, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 64, "initializer_range": 0.2,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 100.0, "factor": 4.0, "original_max_position_embeddings": 32}
MSCALE = {"mscale": 0.707, "mscale_all_dim": 0.9, "beta_fast": 16.0}
LONGROPE = {
    "rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0, 1.1, 1.3, 1.5, 1.6, 1.8],
    "long_factor": [1.0, 2.0, 3.0, 5.0, 7.0, 9.0],
}  # fmt: skip
LATENT = {
    "num_attention_heads": 4, "num_key_value_heads": 4, "kv_lora_rank": 24, "q_lora_rank": 20, "qk_nope_head_dim": 12,
    "qk_rope_head_dim": 8, "v_head_dim": 10, "head_dim": 8, "num_hidden_layers": 3, "first_k_dense_replace": 1,
    "n_routed_experts": 12, "num_experts_per_tok": 3, "n_shared_experts": 2, "moe_intermediate_size": 20,
}  # fmt: skip
KIMI = {
    "num_hidden_layers": 4, "num_key_value_heads": 4, "kv_lora_rank": 24, "q_lora_rank": None, "qk_nope_head_dim": 12,
    "qk_rope_head_dim": 8, "v_head_dim": 10, "mla_use_nope": True, "num_experts": 8, "num_experts_per_token": 2,
    "num_shared_experts": 1, "moe_intermediate_size": 20, "first_k_dense_replace": 1, "moe_renormalize": True,
    "moe_router_activation_func": "sigmoid", "num_expert_group": 2, "topk_group": 1, "routed_scaling_factor": 2.4,
    "linear_attn_config": {
        "full_attn_layers": [4], "kda_layers": [1, 2, 3], "head_dim": 16, "num_heads": 4, "short_conv_kernel_size": 4,
    },
}  # fmt: skip
EXPERTS = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
DELTA = {
    "num_hidden_layers": 4, "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 12,
    "linear_value_head_dim": 10, "linear_conv_kernel_dim": 4, "shared_expert_intermediate_size": 28,
    "norm_topk_prob": True, "head_dim": 32,
}  # fmt: skip

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {}),
    "llama, biases, tied": ("LlamaConfig", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
    "llama, linear RoPE": ("LlamaConfig", {"rope_scaling": {"rope_type": "linear", "factor": 4.0}}),
    "llama, dynamic RoPE": ("LlamaConfig", {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}),
    "llama, Llama-3 RoPE": ("LlamaConfig", {"rope_parameters": LLAMA3}),
    "llama, YaRN": ("LlamaConfig", {"rope_parameters": YARN}),
    "mistral": ("MistralConfig", {"sliding_window": None}),
    "mistral, windows": ("MistralConfig", {"sliding_window": 9}),
    "qwen2": ("Qwen2Config", {}),
    "qwen2, windows": ("Qwen2Config", {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1}),
    "qwen3": ("Qwen3Config", {"tie_word_embeddings": True}),
    "gemma2": ("Gemma2Config", {"sliding_window": 9, "query_pre_attn_scalar": 20, "num_hidden_layers": 3}),
    "gemma3": ("Gemma3TextConfig", {
        "sliding_window": 9, "query_pre_attn_scalar": 20, "num_hidden_layers": 7,
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
    }),
    "phi3": ("Phi3Config", {"num_key_value_heads": 4, "head_dim": None, "sliding_window": 20}),
    "phi3, partial LongRoPE": ("Phi3Config", {
        "head_dim": None, "hidden_size": 64, "partial_rotary_factor": 0.75, "rope_parameters": LONGROPE,
        "original_max_position_embeddings": 32, "sliding_window": None,
    }),
    "olmo2": ("Olmo2Config", {"head_dim": None}),
    "gpt2": ("GPT2Config", {
        "n_embd": 48, "n_layer": 2, "n_head": 4, "n_positions": 128, "n_inner": 100, "vocab_size": 101,
        "initializer_range": 0.2,
    }),
    "mixtral": ("MixtralConfig", {"num_local_experts": 5, "num_experts_per_tok": 2, "sliding_window": 11}),
    "qwen3_moe": ("Qwen3MoeConfig", {**EXPERTS, "norm_topk_prob": True, "num_hidden_layers": 4, "mlp_only_layers": [1],
                                     "decoder_sparse_step": 2}),
    "gpt_oss": ("GptOssConfig", {
        "num_local_experts": 5, "num_experts_per_tok": 2, "sliding_window": 9,
        "rope_parameters": {**YARN, "truncate": False, "beta_fast": 8.0},
    }),
    "deepseek_v2": ("DeepseekV2Config", {**LATENT, "topk_method": "greedy", "routed_scaling_factor": 1.5}),
    "deepseek_v2, groups, YaRN": ("DeepseekV2Config", {
        **LATENT, "topk_method": "group_limited_greedy", "n_group": 4, "topk_group": 2, "q_lora_rank": None,
        "rope_parameters": {**YARN, **MSCALE},
    }),
    "deepseek_v3": ("DeepseekV3Config", {**LATENT, "n_group": 4, "topk_group": 2, "rope_parameters": {**YARN, **MSCALE}}),
    "kimi_linear": ("KimiLinearConfig", KIMI),
    "qwen3_next": ("Qwen3NextConfig", {**EXPERTS, **DELTA}),
}  # fmt: skip


def make(name: str, **changes: Any) -> Any:
    """The `transformers` model with random weights, norms and biases included."""
    import transformers

    kind, settings = MODELS[name]
    values = (settings if kind == "GPT2Config" else SIZES | settings) | changes
    config = getattr(transformers, kind)(
        **{k: v for k, v in values.items() if k != "head_dim" or v is not None}
    )
    config._experts_implementation = "eager"
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    generator = torch.Generator().manual_seed(1)
    for key, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not key.endswith(("A_log", "dt_bias", "inv_freq")):
            tensor += 0.1 * torch.randn(tensor.shape, generator=generator)
    return model
