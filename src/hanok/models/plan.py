"""What a configuration costs: parameters, arithmetic, memory, and the time that it takes on a given machine.

Counts come from the layers' shapes themselves (on the meta device), so that they cannot drift from the model.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from hanok.kernels.native import memory_bandwidth, native_available
from hanok.models.config import ModelConfig
from hanok.models.decoder import Decoder

_TRAINING_SHARE = (
    0.35  # of a large product's rate: what training steps of small models reach here (docs/log.md)
)
_DECODE_SHARE = 0.5  # of the memory's rate: what one stream reaches
_OPTIMISER_BYTES = 4 + 4 + 8  # float32 weight, gradient and at most two moments, per parameter


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """Measured rates: dense products in GFLOP/s, memory reads in GB/s."""

    gflops: float
    bandwidth_gbs: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Bytes and FLOPs are exact; times are predictions.

    Args:
        active: parameters that one token goes through, without the input embedding.
        train_flops: per token, forward and backward, without what grows with the context.
        cache_bytes_per_token: keys, values and latents in bfloat16. state_bytes: of recurrent layers, per sequence.
    """

    parameters: int
    active: int
    by_part: dict[str, int]
    train_flops: int
    cache_bytes_per_token: int
    state_bytes: int
    training_memory_bytes: int
    training_seconds: float
    decode_tokens_per_second: float

    def rows(self) -> list[tuple[str, float, str]]:
        parts = [(f"  {name}", float(count), "") for name, count in self.by_part.items()]
        return [
            ("parameters", float(self.parameters), ""), *parts,
            ("active parameters a token", float(self.active), ""),
            ("training arithmetic a token", self.train_flops / 1e6, "MFLOP"),
            ("training time", self.training_seconds / 60, "minutes"),
            ("training memory without activations", self.training_memory_bytes / 2**20, "MiB"),
            ("cache a token", float(self.cache_bytes_per_token), "bytes"),
            ("recurrent state a sequence", self.state_bytes / 2**10, "KiB"),
            ("decode speed, one stream", self.decode_tokens_per_second, "tokens/s at most"),
        ]  # fmt: skip


def plan(config: ModelConfig, machine: Machine, *, training_tokens: int) -> Plan:
    """Predict; `config` needs a vocab_size."""
    with torch.device("meta"):
        model = Decoder(config)
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    parameters = sum(sizes.values())
    idle = 0
    if config.moe is not None:
        experts = sum(n for name, n in sizes.items() if ".experts." in name)
        idle = experts - experts * config.moe.per_token // config.moe.experts
    embedding = config.vocab_size * config.hidden_size
    active = parameters - idle - (0 if config.tie_embeddings else embedding)
    train_flops = 6 * active
    return Plan(
        parameters=parameters, active=active, by_part=_by_part(sizes), train_flops=train_flops,
        cache_bytes_per_token=sum(_cache_numbers(config, kind) for kind in config.layers) * 2,
        state_bytes=sum(_state_bytes(config, kind) for kind in config.layers),
        training_memory_bytes=parameters * _OPTIMISER_BYTES,
        training_seconds=training_tokens * train_flops / (machine.gflops * 1e9 * _TRAINING_SHARE),
        decode_tokens_per_second=machine.bandwidth_gbs * 1e9 * _DECODE_SHARE / (4 * active),
    )  # fmt: skip


def measure_machine(seconds: float = 0.5) -> Machine:
    """Rate of a 1024 x 1024 product in the faster of float32 and bfloat16, and of memory reads."""
    gflops = max(matmul_gflops(dtype, seconds / 4) for dtype in (torch.float32, torch.bfloat16))
    bandwidth = memory_bandwidth(seconds / 2) if native_available() else _copy_bandwidth(seconds / 2)
    return Machine(gflops=gflops, bandwidth_gbs=bandwidth)


def matmul_gflops(dtype: torch.dtype, seconds: float) -> float:
    """The best rate of a 1024 x 1024 matrix product within `seconds`."""
    n = 1024
    a, b = torch.randn(n, n).to(dtype), torch.randn(n, n).to(dtype)
    best, deadline = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        start = time.perf_counter()
        torch.mm(a, b)
        best = min(best, time.perf_counter() - start)
    return 2 * n**3 / best / 1e9


def _copy_bandwidth(seconds: float) -> float:
    source = torch.ones(32 << 20)
    target = torch.empty_like(source)
    best, deadline = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        start = time.perf_counter()
        target.copy_(source)
        best = min(best, time.perf_counter() - start)
    return 2 * source.numel() * 4 / best / 1e9


def _cache_numbers(config: ModelConfig, kind: str) -> int:
    if kind == "mla":
        return config.kv_lora_rank + config.qk_rope_head_dim
    return 0 if kind in ("kda", "gdn") else 2 * config.kv_heads * config.dim_of_head


def _state_bytes(config: ModelConfig, kind: str) -> int:
    """The float32 recurrent state, and the last inputs of the convolutions in bfloat16."""
    if kind == "kda":
        inner = config.num_heads * config.dim_of_head
        return 4 * inner * config.dim_of_head + 2 * 3 * inner * (config.conv_size - 1)
    if kind == "gdn":
        keys = config.linear_key_heads * config.linear_key_dim
        values = config.linear_value_heads * config.linear_value_dim
        return 4 * values * config.linear_key_dim + 2 * (2 * keys + values) * (config.conv_size - 1)
    return 0


def _by_part(sizes: dict[str, int]) -> dict[str, int]:
    parts = {"embedding": 0, "head": 0, "mixers": 0, "feed-forwards": 0, "norms": 0, "future heads": 0}
    for name, size in sizes.items():
        if name.startswith("mtp"):
            parts["future heads"] += size
        elif name.startswith("embed_tokens"):
            parts["embedding"] += size
        elif name.startswith("lm_head"):
            parts["head"] += size
        elif ".self_attn." in name:
            parts["mixers"] += size
        elif ".mlp." in name:
            parts["feed-forwards"] += size
        else:
            parts["norms"] += size
    return {name: size for name, size in parts.items() if size}
