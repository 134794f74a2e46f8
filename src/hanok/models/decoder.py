"""The decoder: embedding, blocks of (norm, mixer, norm, feed-forward), norm, head.

N tokens of the ragged batch, B sequences, D model width, V vocabulary (in `logits_NV`).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hanok.models.config import ModelConfig
from hanok.models.gdn import GatedDeltaNet
from hanok.models.gqa import GroupedQueryAttention
from hanok.models.init import initialise
from hanok.models.kda import DeltaAttention
from hanok.models.linear import Linear, RMSNorm, new_norm
from hanok.models.mla import LatentAttention
from hanok.models.mlp import MixtureOfExperts, Router, dense_mlp
from hanok.models.ragged import Ragged
from hanok.models.state import DecoderState, LayerState

Role = Literal["matrix", "embedding", "head", "scalar", "frozen_decay"]


class Block(nn.Module):
    """x += mixer(norm x); x += feed-forward(norm x). Or with the norms behind each part, or around it."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.placement = config.norm_placement
        if self.placement != "post":
            self.input_layernorm = new_norm(config, config.hidden_size)
        self.self_attn = _mixer(config, config.layers[layer])
        self.post_attention_layernorm = new_norm(config, config.hidden_size)
        if self.placement == "both":
            self.pre_feedforward_layernorm = new_norm(config, config.hidden_size)
        if self.placement != "pre":
            self.post_feedforward_layernorm = new_norm(config, config.hidden_size)
        if config.moe is not None and config.is_sparse(layer):
            self.mlp: nn.Module = MixtureOfExperts(config.hidden_size, config.moe)
        else:
            self.mlp = dense_mlp(config)

    def forward(self, x_ND: Tensor, ragged: Ragged, state: LayerState | None) -> Tensor:
        if self.placement == "pre":
            x_ND = x_ND + self.self_attn(self.input_layernorm(x_ND), ragged, state)
            return x_ND + self.mlp(self.post_attention_layernorm(x_ND))
        if self.placement == "post":
            x_ND = x_ND + self.post_attention_layernorm(self.self_attn(x_ND, ragged, state))
            return x_ND + self.post_feedforward_layernorm(self.mlp(x_ND))
        y_ND = self.self_attn(self.input_layernorm(x_ND), ragged, state)
        x_ND = x_ND + self.post_attention_layernorm(y_ND)
        return x_ND + self.post_feedforward_layernorm(self.mlp(self.pre_feedforward_layernorm(x_ND)))


class FutureHead(nn.Module):
    """Predicts one token further (DeepSeek-V3, arXiv 2412.19437, section 2.2): the hidden vector and the embedding of
    the next token, joined, through one more block; the decoder's head is shared. To learn from, and to guess with
    (`engine/speculation/own.py`)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.hidden_norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.embedding_norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.join = Linear(2 * config.hidden_size, config.hidden_size)
        self.block = Block(config, config.num_layers - 1)
        self.norm = RMSNorm(config.hidden_size, config.norm_eps)

    def forward(self, hidden_ND: Tensor, next_ND: Tensor, ragged: Ragged) -> Tensor:
        joined = torch.cat([self.hidden_norm(hidden_ND), self.embedding_norm(next_ND)], dim=-1)
        return self.norm(self.block(self.join(joined), ragged, None))


class Decoder(nn.Module):
    """Args: config: with a vocab_size. generator: the only source of randomness of the initial weights."""

    def __init__(self, config: ModelConfig, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        assert config.vocab_size > 0, "the vocabulary comes from the tokeniser"
        self.config = config
        self.compute_dtype = torch.float32
        self.embed_tokens = _table(config.vocab_size, config.hidden_size)
        if config.learned_positions:
            self.embed_positions = _table(config.max_context, config.hidden_size)
        self.layers = nn.ModuleList(Block(config, i) for i in range(config.num_layers))
        self.norm = new_norm(config, config.hidden_size)
        self.lm_head = None if config.tie_embeddings else Linear(config.hidden_size, config.vocab_size)
        self.mtp = nn.ModuleList(FutureHead(config) for _ in range(config.mtp_layers))
        if self.embed_tokens.weight.device.type != "meta":
            initialise(self, config, generator or torch.Generator().manual_seed(0))

    def set_compute_dtype(self, dtype: torch.dtype) -> None:
        """The type of matrix products and of the residual stream; norms, gates, recurrence and logits stay float32."""
        self.compute_dtype = dtype

    def forward(
        self, ids_N: Tensor, cu_seqlens: Tensor, states: DecoderState | None = None
    ) -> tuple[Tensor, DecoderState | None]:
        """Hidden vectors [N, D] behind the final norm.

        Args:
            ids_N: int64 token ids of all sequences, one behind the other.
            cu_seqlens: int32 [B+1], their boundaries.
            states: what the sequences have seen; updated in place and returned. None in training.
        """
        ragged = Ragged(cu_seqlens, None if states is None else states.lengths_B)
        hidden_ND = self.through(ids_N, ragged, None if states is None else states.layers)
        if states is not None:
            states.lengths_B = states.lengths_B + torch.tensor(
                ragged.lengths, dtype=torch.long, device=ragged.device
            )
        return hidden_ND, states

    def through(self, ids_N: Tensor, ragged: Ragged, layers: Sequence[LayerState] | None) -> Tensor:
        """Hidden vectors [N, D] behind the final norm; what the layers keep of the past is updated in place."""
        x_ND = self._embed(ids_N, ragged)
        for i, block in enumerate(self.layers):
            x_ND = block(x_ND, ragged, None if layers is None else layers[i])
        return self.norm(x_ND)

    def future_hidden(self, hidden_ND: Tensor, ids_N: Tensor, cu_seqlens: Tensor, depth: int) -> Tensor:
        """Hidden vectors that predict `depth + 2` tokens ahead, given those that predict one less.

        The last positions of a sequence have no such target; the caller masks them.
        """
        ragged = Ragged(cu_seqlens)
        following_N = torch.roll(ids_N, -1 - depth)
        return self.mtp[depth](hidden_ND, self.embed_tokens(following_N).to(hidden_ND.dtype), ragged)

    def _embed(self, ids_N: Tensor, ragged: Ragged) -> Tensor:
        x_ND = self.embed_tokens(ids_N)
        if self.config.embedding_scale != 1.0:
            x_ND = x_ND * _rounded(
                self.config.embedding_scale, x_ND.dtype
            )  # to the type of the table, as Gemma does
        if self.config.learned_positions:
            x_ND = x_ND + self.embed_positions(ragged.positions_N)
        return x_ND.to(self.compute_dtype)

    @property
    def head_weight(self) -> Tensor:
        """[V, D], with the active adapters of the head in it."""
        return self.embed_tokens.weight if self.lm_head is None else self.lm_head.effective_weight()

    def logits(self, hidden_ND: Tensor) -> Tensor:
        """float32 logits_NV."""
        if self.lm_head is None:
            logits_NV = F.linear(hidden_ND, self.embed_tokens.weight.to(hidden_ND.dtype)).float()
        else:
            logits_NV = self.lm_head(hidden_ND).float()
        cap = self.config.logit_softcap
        return logits_NV if cap is None else cap * (logits_NV / cap).tanh()

    def new_state(self, batch: int) -> DecoderState:
        layers = [mixer.new_state(batch) for mixer in self._mixers()]
        lengths_B = torch.zeros(batch, dtype=torch.long, device=self.embed_tokens.weight.device)
        return DecoderState(lengths_B, layers)

    def aux_loss(self) -> Tensor | None:
        """The routers' balance loss of the last forward in training, mean over layers, times its coefficient."""
        moe = self.config.moe
        losses = [m.gate.balance for m in self._sparse() if m.gate.balance is not None]
        if moe is None or not losses:
            return None
        return moe.balance_loss * torch.stack(losses).mean()

    def after_step(self) -> None:
        """After an optimiser step: move the biases of sigmoid routers towards equal load."""
        for router in self.routers():
            router.balance_bias()

    def forget_step(self) -> None:
        """A step was left out: what its routers counted does not count."""
        for router in self.routers():
            router.load_E = None

    def routers(self) -> list[Router]:
        return [mixture.gate for mixture in self._sparse()]

    def parameter_groups_hint(self) -> dict[str, Role]:
        """What an optimiser should take each parameter for."""
        return {name: _role(name, parameter) for name, parameter in self.named_parameters()}

    def _mixers(self) -> list[Mixer]:
        blocks = [block for block in self.layers if isinstance(block, Block)]
        return [block.self_attn for block in blocks]

    def _sparse(self) -> list[MixtureOfExperts]:
        return [m for m in self.modules() if isinstance(m, MixtureOfExperts)]


@functools.lru_cache(maxsize=16)
def _rounded(value: float, dtype: torch.dtype) -> float:
    return torch.tensor(value, dtype=dtype, device="cpu").item()


def _table(rows: int, width: int) -> nn.Embedding:
    """Not yet filled: numbers of `nn.Embedding`'s own would be thrown away, and on "meta" cost a second of imports."""
    return nn.Embedding.from_pretrained(torch.empty(rows, width, dtype=torch.float32), freeze=False)


Mixer = DeltaAttention | LatentAttention | GroupedQueryAttention | GatedDeltaNet


def _mixer(config: ModelConfig, kind: str) -> Mixer:
    if kind == "kda":
        return DeltaAttention(config)
    if kind == "mla":
        return LatentAttention(config)
    return GatedDeltaNet(config) if kind == "gdn" else GroupedQueryAttention(config, kind)


def _role(name: str, parameter: Tensor) -> Role:
    if name.endswith(("A_log", "dt_bias", "conv1d.weight")):
        return "frozen_decay"
    if name.startswith(("embed_tokens", "embed_positions")):
        return "embedding"
    if name.startswith("lm_head"):
        return "head"
    if ".adapters." in name:
        return "scalar"
    if parameter.dim() < 2 or name.endswith(
        ("mlp.gate.weight", "b_proj.weight", ".a_proj.weight", "shared_gate.weight")
    ):
        return "scalar"
    return "matrix"
