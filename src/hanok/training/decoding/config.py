"""What the training of decoding heads is told. Cheap to import: no torch here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from hanok.errors import ConfigError
from hanok.training.config import TrainConfig

_SAME = (
    "max_steps", "max_tokens", "max_minutes", "mixture", "seed", "warmup_steps", "decay_fraction", "final_lr", "grad_clip",
    "weight_decay", "precision", "threads", "max_seq_len", "tokens_per_step", "micro_batch_tokens", "validate_every",
    "validation_tokens", "checkpoint_every", "keep_checkpoints",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodingConfig:
    """One run of `hanok align autodeco`: only the heads learn, the model stays as it is, bit for bit."""

    max_steps: int | None = 300
    max_tokens: int | None = None
    max_minutes: float | None = None
    mixture: Mapping[str, float] = field(default_factory=lambda: {"chat-train": 1.0})
    """Splits of the shards and their shares of the tokens; of chats the assistant's tokens count."""
    seed: int = 0
    lr: float = 1e-3
    """AdamW's; the paper's 5e-6 is for models of billions of parameters and 400 steps of large batches."""
    warmup_steps: int = 10
    decay_fraction: float = 0.5
    final_lr: float = 0.1
    grad_clip: float = 1.0
    weight_decay: float = 0.0
    precision: Literal["auto", "bfloat16", "float32"] = "float32"
    threads: int = 0
    max_seq_len: int = 1024
    tokens_per_step: int = 8192
    micro_batch_tokens: int = 8192
    validate_every: int = 0
    """Steps; 0: four times a run."""
    validation_tokens: int = 32_768
    checkpoint_every: int = 0
    """Steps; 0: ten times a run."""
    keep_checkpoints: int = 2

    alpha: float = 30.0
    """How steeply the soft nucleus ends."""
    easy_drop: float = 0.6
    """Share of the tokens that the model would have chosen anyway that the temperature does not learn from."""
    weigh_by_confidence: bool = True
    """Count a token as much as the model believes in it, as the released trainer does: cautious, temperatures below 1 even
    where the text is free. False counts all alike: the temperatures of the text itself."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.easy_drop < 1.0:
            raise ConfigError(f"easy_drop = {self.easy_drop}", remedy="it must lie in [0, 1)")
        if self.alpha <= 0.0:
            raise ConfigError(f"alpha = {self.alpha}", remedy="it must be more than 0")
        self.training()

    def training(self) -> TrainConfig:
        """What the loop needs to know."""
        values: dict[str, Any] = {name: getattr(self, name) for name in _SAME}
        return TrainConfig(**values, muon_lr=self.lr, adamw_lr=self.lr, spike_ratio=0.0, device="cpu")


@dataclass(frozen=True, kw_only=True, slots=True)
class ControlConfig:
    """One run of `hanok align autodeco-control`: heads that exist learn to follow words in the prompt."""

    low: tuple[str, ...] = ("Be certain.", "확실하게 답해 주세요.")
    """Appended to the user's last message, in turn, where predictions are to fall."""
    high: tuple[str, ...] = ("Be inventive.", "창의적으로 답해 주세요.")
    """The same where they are to rise; as many as `low`."""
    margin: float = 0.1
    """Between the mean temperatures of an answer with, without, and with the opposite words; top-p has half of it."""
    anchor: float = 3.0
    """Weight of the loss of `hanok align autodeco` on the prompts without such words, which keeps them where they were."""
    prompts_per_step: int = 32
    epochs: float = 8.0
    max_steps: int | None = None
    seed: int = 0
    lr: float = 1e-3
    warmup_steps: int = 5
    decay_fraction: float = 0.5
    final_lr: float = 0.1
    grad_clip: float = 1.0
    precision: Literal["auto", "bfloat16", "float32"] = "float32"
    threads: int = 0
    max_seq_len: int = 1024
    micro_batch_tokens: int = 8192
    checkpoint_every: int = 0
    """Steps; 0: ten times a run."""
    keep_checkpoints: int = 2
    alpha: float = 30.0

    def __post_init__(self) -> None:
        if not self.low or len(self.low) != len(self.high):
            raise ConfigError(
                f"{len(self.low)} wordings of low, {len(self.high)} of high",
                remedy="give as many of each, at least one",
            )
        for name in ("margin", "prompts_per_step", "epochs", "alpha"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} = {getattr(self, name)}", remedy="it must be more than 0")
        if self.anchor < 0:
            raise ConfigError(f"anchor = {self.anchor}", remedy="it must not be negative")
        self.training()

    def training(self) -> TrainConfig:
        """What the loop needs to know."""
        values: dict[str, Any] = {
            name: getattr(self, name) for name in _SAME if name in ControlConfig.__dataclass_fields__
        }
        return TrainConfig(
            **values, muon_lr=self.lr, adamw_lr=self.lr, spike_ratio=0.0, tokens_per_step=self.micro_batch_tokens,
            mixture={"prompts": 1.0}, device="cpu",
        )  # fmt: skip
