"""The shape of a model: sizes, the layer pattern, and what each kind of layer needs. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hanok.errors import ConfigError, did_you_mean

MIXERS = ("kda", "mla", "gqa", "swa")


@dataclass(frozen=True, kw_only=True, slots=True)
class MoEConfig:
    """Mixture of experts (Mixtral: softmax router with balance loss; DeepSeek-V3: sigmoid router with bias balancing).

    Args:
        experts: routed experts. per_token: experts chosen for each token. shared: always-on experts.
        width: hidden width of one expert. first_dense: leading layers that keep the dense MLP.
        groups, top_groups: choose within the best `top_groups` of `groups` expert groups (sigmoid router).
        scaling: factor on the routed output. renormalise: chosen weights sum to one.
        balance_loss: coefficient of the auxiliary loss (softmax). bias_rate: step of the bias rule (sigmoid).
    """

    experts: int = 8
    per_token: int = 2
    width: int = 256
    shared: int = 0
    first_dense: int = 0
    router: Literal["softmax", "sigmoid"] = "softmax"
    groups: int = 1
    top_groups: int = 1
    scaling: float = 1.0
    renormalise: bool = True
    balance_loss: float = 0.01
    bias_rate: float = 1e-3

    def __post_init__(self) -> None:
        _positive(self, "experts", "per_token", "width", "groups", "top_groups")
        if self.per_token > self.experts:
            raise ConfigError(
                f"per_token = {self.per_token} of {self.experts} experts", remedy="choose at most all"
            )
        if self.experts % self.groups or self.top_groups > self.groups:
            raise ConfigError(
                f"{self.experts} experts in {self.groups} groups, of which {self.top_groups} are kept",
                remedy="groups must divide experts, and top_groups be at most groups",
            )
        if self.per_token > self.experts // self.groups * self.top_groups:
            raise ConfigError(
                f"per_token = {self.per_token} exceeds the kept groups", remedy="raise top_groups"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """A decoder.

    Args:
        vocab_size: 0 = the tokeniser's, filled in when training starts.
        pattern: mixers repeated over the layers: "kda" delta attention, "mla" latent attention, "gqa" grouped-query
            attention, "swa" the same within `sliding_window` tokens.
        num_heads: heads of every mixer. num_kv_heads: key and value heads of gqa and swa (None = num_heads).
        head_dim: width of a head of gqa, swa and kda (None = hidden_size / num_heads).
        rope_theta: base of the rotary embedding of gqa and swa; None = no positional encoding.
        kv_lora_rank, qk_nope_head_dim, qk_rope_head_dim, v_head_dim: MLA; the shared key part is not rotated.
        kda_gate: "softplus" (Kimi-Linear) or "lower_bound" (gates in (gate_lower_bound, 0)).
        intermediate_size: of the gated MLP (None = 8/3 hidden, rounded up to a multiple of 64).
        mtp_layers: extra heads that predict the token after next (training only; their own file).
        max_context: tokens that the model was made for.
    """

    vocab_size: int = 0
    hidden_size: int = 256
    num_layers: int = 8
    pattern: tuple[str, ...] = ("kda", "kda", "kda", "mla")
    num_heads: int = 4
    num_kv_heads: int | None = None
    head_dim: int | None = None
    qk_norm: bool = False
    rope_theta: float | None = 10000.0
    sliding_window: int = 512
    kv_lora_rank: int = 64
    qk_nope_head_dim: int = 32
    qk_rope_head_dim: int = 16
    v_head_dim: int = 32
    conv_size: int = 4
    kda_gate: Literal["softplus", "lower_bound"] = "softplus"
    gate_lower_bound: float = -5.0
    intermediate_size: int | None = None
    moe: MoEConfig | None = None
    tie_embeddings: bool = True
    norm_eps: float = 1e-5
    mtp_layers: int = 0
    max_context: int = 2048
    initializer_range: float = 0.02

    def __post_init__(self) -> None:
        _positive(
            self, "hidden_size", "num_layers", "num_heads", "sliding_window", "kv_lora_rank", "qk_nope_head_dim",
            "qk_rope_head_dim", "v_head_dim", "conv_size", "max_context",
        )  # fmt: skip
        for mixer in self.pattern:
            if mixer not in MIXERS:
                raise ConfigError(f'pattern holds "{mixer}"', remedy=did_you_mean(mixer, MIXERS))
        if not self.pattern:
            raise ConfigError("pattern is empty", remedy=f"name mixers: {', '.join(MIXERS)}")
        if self.head_dim is None and self.hidden_size % self.num_heads:
            raise ConfigError(
                f"hidden_size {self.hidden_size} is not divisible by num_heads {self.num_heads}",
                remedy="set head_dim, or change one of them",
            )
        if self.num_heads % self.kv_heads:
            raise ConfigError(
                f"num_heads {self.num_heads} is not a multiple of num_kv_heads {self.kv_heads}",
                remedy="change one of them",
            )
        if self.rope_theta is not None and self.dim_of_head % 2:
            raise ConfigError(
                f"head_dim {self.dim_of_head} is odd", remedy="rotary embedding needs an even head_dim"
            )
        if not -5.0 <= self.gate_lower_bound < 0.0:
            raise ConfigError(f"gate_lower_bound = {self.gate_lower_bound}", remedy="it must lie in [-5, 0)")

    @property
    def layers(self) -> tuple[str, ...]:
        """The mixer of each layer."""
        return tuple(self.pattern[i % len(self.pattern)] for i in range(self.num_layers))

    @property
    def kv_heads(self) -> int:
        return self.num_kv_heads or self.num_heads

    @property
    def dim_of_head(self) -> int:
        return self.head_dim or self.hidden_size // self.num_heads

    @property
    def mlp_width(self) -> int:
        return self.intermediate_size or -(-8 * self.hidden_size // (3 * 64)) * 64

    def is_sparse(self, layer: int) -> bool:
        return self.moe is not None and layer >= self.moe.first_dense


def _positive(config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if value < 1:
            raise ConfigError(f"{name} = {value}", remedy="it must be at least 1")
