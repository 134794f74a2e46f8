"""Published configurations at their full size, without weights: the counts that their authors give."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hanok.models.decoder import Decoder
from hanok.models.families import read_config
from hanok.models.plan import Machine, plan

KIMI_LINEAR_48B: dict[str, Any] = {
    "model_type": "kimi_linear", "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 27,
    "num_attention_heads": 32, "num_key_value_heads": 32, "head_dim": 72, "vocab_size": 163840, "rms_norm_eps": 1e-5,
    "hidden_act": "silu", "kv_lora_rank": 512, "q_lora_rank": None, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
    "v_head_dim": 128, "mla_use_nope": True, "rope_theta": 10000, "model_max_length": 1048576, "num_experts": 256,
    "num_experts_per_token": 8, "num_shared_experts": 1, "moe_intermediate_size": 1024, "first_k_dense_replace": 1,
    "moe_renormalize": True, "num_expert_group": 1, "topk_group": 1, "routed_scaling_factor": 2.446,
    "tie_word_embeddings": False, "bos_token_id": 163584, "eos_token_id": 163586, "pad_token_id": 163839,
    "linear_attn_config": {
        "full_attn_layers": [4, 8, 12, 16, 20, 24, 27], "head_dim": 128, "num_heads": 32, "short_conv_kernel_size": 4,
        "kda_layers": [i for i in range(1, 28) if i not in (4, 8, 12, 16, 20, 24, 27)],
    },
}  # fmt: skip
LLAMA = {
    "model_type": "llama", "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336, "rms_norm_eps": 1e-5,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "rope_theta": 500000.0,
}  # fmt: skip
MIXTRAL = {
    "model_type": "mixtral", "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "num_local_experts": 8,
    "num_experts_per_tok": 2, "rope_theta": 1e6,
}  # fmt: skip
QWEN3_06B = {
    "model_type": "qwen3", "vocab_size": 151936, "hidden_size": 1024, "intermediate_size": 3072, "head_dim": 128,
    "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8, "tie_word_embeddings": True,
}  # fmt: skip
DEEPSEEK_V3 = {
    "model_type": "deepseek_v3", "vocab_size": 129280, "hidden_size": 7168, "intermediate_size": 18432,
    "moe_intermediate_size": 2048, "num_hidden_layers": 61, "num_attention_heads": 128, "n_shared_experts": 1,
    "n_routed_experts": 256, "num_experts_per_tok": 8, "n_group": 8, "topk_group": 4, "first_k_dense_replace": 3,
    "kv_lora_rank": 512, "q_lora_rank": 1536, "qk_rope_head_dim": 64, "qk_nope_head_dim": 128, "v_head_dim": 128,
}  # fmt: skip
COUNTS = {  # (billions in all, billions that a token meets, without the input embedding)
    "Kimi-Linear-48B-A3B": (KIMI_LINEAR_48B, 49.12, 3.107), "Llama-3-8B": (LLAMA, 8.03, 7.50),
    "Mixtral-8x7B": (MIXTRAL, 46.70, 12.75), "Qwen3-0.6B": (QWEN3_06B, 0.596, 0.596),
    "DeepSeek-V3": (DEEPSEEK_V3, 671.03, 36.6),
}  # fmt: skip


@pytest.mark.parametrize("name", COUNTS)
def test_parameters(name: str) -> None:
    values, total, active = COUNTS[name]
    found = plan(read_config(values), Machine(gflops=400, bandwidth_gbs=50), training_tokens=1)
    assert found.parameters / 1e9 == pytest.approx(total, abs=0.01)
    assert found.active / 1e9 == pytest.approx(active, rel=0.01)


def test_kimi_linear_caches_seven_layers_of_latents_and_a_constant() -> None:
    config = read_config(KIMI_LINEAR_48B)
    found = plan(config, Machine(gflops=400, bandwidth_gbs=50), training_tokens=1)
    assert found.cache_bytes_per_token == 7 * 576 * 2
    assert found.state_bytes == 20 * (2 * 2**20 + 2 * 3 * 4096 * 3)
    with torch.device("meta"):
        state = Decoder(config).new_state(1)
    recurrent = sum(layer["recurrent"].numel() * 4 for layer in state.layers if "recurrent" in layer)
    assert recurrent == 20 * 2 * 2**20
