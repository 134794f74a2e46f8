"""The shape of a model: sizes, the layer pattern, and what each kind of layer needs. Imports nothing heavy.

What a family of public checkpoints needs and ours do not stands in groups of its own at the end of `ModelConfig`; the
adapters in `families/` set it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hanok.errors import ConfigError, did_you_mean

Activation = Literal["silu", "gelu", "gelu_tanh"]
MIXERS = ("kda", "mla", "gqa", "swa", "gdn")


@dataclass(frozen=True, kw_only=True, slots=True)
class MoEConfig:
    """Mixture of experts (Mixtral: softmax router with balance loss; DeepSeek-V3: sigmoid router with bias balancing).

    Args:
        experts: routed experts. per_token: experts chosen for each token. shared: always-on experts.
        width: hidden width of one expert. first_dense: leading layers that keep the dense MLP.
        groups, top_groups: choose within the best `top_groups` of `groups` expert groups (sigmoid router).
        scaling: factor on the routed output. renormalise: chosen weights sum to one.
        balance_loss: coefficient of the auxiliary loss (softmax). bias_rate: step of the bias rule (sigmoid).
        router: "top_softmax" takes the softmax over the chosen logits alone (gpt-oss). In groups, a group's score is
            its largest (softmax: DeepSeek-V2) or the sum of its two largest (sigmoid: DeepSeek-V3).
        layers: the sparse layers by number, where they are not all from `first_dense` on.
        shared_width: hidden width of the shared expert (None = shared * width). shared_gate: weighed by a sigmoid (Qwen).
        biases: on router and experts. swiglu_limit: clamp of gate and up, with (up + 1) (gpt-oss).
    """

    experts: int = 8
    per_token: int = 2
    width: int = 256
    shared: int = 0
    first_dense: int = 0
    router: Literal["softmax", "sigmoid", "top_softmax"] = "softmax"
    groups: int = 1
    top_groups: int = 1
    scaling: float = 1.0
    renormalise: bool = True
    balance_loss: float = 0.01
    bias_rate: float = 1e-3
    layers: tuple[int, ...] | None = None
    shared_width: int | None = None
    shared_gate: bool = False
    biases: bool = False
    swiglu_limit: float | None = None
    swiglu_alpha: float = 1.702

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
class RopeScaling:
    """How rotary frequencies are stretched beyond the context that a model was first trained on (`rope.py`).

    Args:
        kind: "linear" (arXiv 2306.15595), "dynamic" (NTK), "llama3", "yarn" (arXiv 2309.00071), "longrope" (arXiv 2402.13753).
        factor: of the stretch. original_context: tokens of the first training.
        low_freq_factor, high_freq_factor: llama3. beta_fast, beta_slow, truncate: yarn.
        mscale, mscale_all_dim: yarn as in DeepSeek; the latter scales the attention too.
        attention_factor: on cosine and sine (yarn, longrope); None = the paper's.
        short_factor, long_factor: longrope, one number a frequency.
    """

    kind: Literal["linear", "dynamic", "llama3", "yarn", "longrope"]
    factor: float = 1.0
    original_context: int = 0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    mscale: float | None = None
    mscale_all_dim: float | None = None
    attention_factor: float | None = None
    short_factor: tuple[float, ...] = ()
    long_factor: tuple[float, ...] = ()


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
        mtp_layers: heads that predict tokens further ahead (in their own file), to learn from and to guess with.
        max_context: tokens that the model was made for.

        family: the public layout to save in ("" = the one that expresses this configuration).
        bos_id, eos_ids, pad_id: special tokens as the family's `config.json` has them; ours are the tokeniser's.
        norm: "rms", "rms_plus_one" (weights around zero: Gemma, Qwen3-Next) or "layer" (with bias: GPT-2).
        norm_placement: before each part ("pre"), behind it ("post": OLMo 2), or both (Gemma).
        qk_norm_whole: query and key norms over all heads together (OLMo 2).
        qkv_bias, o_bias, mlp_bias: biases. activation, gated_mlp: of the dense feed-forward.
        attention_scale: None = head_dim ** -0.5. attention_softcap, logit_softcap: cap * tanh(x / cap) (Gemma 2).
        attention_sinks: a learnt logit a head that takes weight and gives nothing (gpt-oss).
        attention_gate: sigmoid gate on the attention's output, made by q_proj (Qwen3-Next).
        embedding_scale: factor on the embedding. learned_positions: a table instead of rotation (GPT-2).
        rope_scaling, rope_fraction: stretch, and the part of each head that rotates.
        rope_local_theta: base for sliding-window layers, unstretched (Gemma 3).
        q_lora_rank: low-rank queries of MLA. mla_rope: rotate its shared key part (DeepSeek; interleaved pairs).
        linear_*: heads and widths of "gdn" layers, the gated delta rule (Qwen3-Next).
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

    family: str = ""
    bos_id: int | None = None
    eos_ids: tuple[int, ...] = ()
    pad_id: int | None = None
    norm: Literal["rms", "rms_plus_one", "layer"] = "rms"
    norm_placement: Literal["pre", "post", "both"] = "pre"
    qk_norm_whole: bool = False
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    activation: Activation = "silu"
    gated_mlp: bool = True
    attention_scale: float | None = None
    attention_softcap: float | None = None
    logit_softcap: float | None = None
    attention_sinks: bool = False
    attention_gate: bool = False
    embedding_scale: float = 1.0
    learned_positions: bool = False
    rope_scaling: RopeScaling | None = None
    rope_fraction: float = 1.0
    rope_local_theta: float | None = None
    q_lora_rank: int | None = None
    mla_rope: bool = False
    linear_key_heads: int = 1
    linear_value_heads: int = 1
    linear_key_dim: int = 64
    linear_value_dim: int = 64

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
        if self.rope_theta is not None and self.rope_width % 2:
            raise ConfigError(
                f"{self.rope_width} of {self.dim_of_head} channels of a head rotate, an odd number",
                remedy="rotary embedding needs pairs: choose an even head_dim",
            )
        if self.linear_value_heads % self.linear_key_heads:
            raise ConfigError(
                f"linear_value_heads {self.linear_value_heads} is not a multiple of linear_key_heads "
                f"{self.linear_key_heads}", remedy="change one of them",
            )  # fmt: skip
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

    @property
    def rope_width(self) -> int:
        """Channels of a head that rotate."""
        return int(self.dim_of_head * self.rope_fraction)

    def is_sparse(self, layer: int) -> bool:
        if self.moe is None:
            return False
        return layer >= self.moe.first_dense if self.moe.layers is None else layer in self.moe.layers


def _positive(config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if value < 1:
            raise ConfigError(f"{name} = {value}", remedy="it must be at least 1")
