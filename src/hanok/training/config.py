"""What a training run is told: budget, data, optimiser, schedule, precision, and what to do when a step goes wrong.

Cheap to import: no torch here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from hanok.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """One run of the loop, pre-training and fine-tuning alike.

    Budget: the first of `max_steps`, `max_tokens` and `max_minutes` to be reached ends the run; with
    `mixture_unit="epochs"` the data themselves are a budget too. Under `max_minutes` the number of steps is set
    from the rate of the first steps, so that the learning rate has decayed when the time is up.
    """

    max_steps: int | None = None
    """End after so many steps."""
    max_tokens: int | None = None
    """End after so many tokens."""
    max_minutes: float | None = None
    """End after so much wall-clock time, validation and checkpoints included."""

    mixture: Mapping[str, float] = field(default_factory=lambda: {"text-train": 1.0})
    """Split name to its share of the tokens, or to the times that it is read ("epochs")."""
    mixture_unit: Literal["share", "epochs"] = "share"
    chat_loss: Literal["assistant", "all"] = "assistant"
    """Which tokens of chats are learnt: the assistant's (fine-tuning) or all (pre-training)."""
    max_seq_len: int = 1024
    """Longer documents are cut at fixed places; longer conversations are left out."""
    tokens_per_step: int = 8192
    """Whole documents up to so many tokens make one update."""
    micro_batch_tokens: int = 8192
    """Tokens in memory at once; a step of more is accumulated and gives the same update."""

    muon_lr: float = 0.01
    """For matrices, in AdamW's scale (the update is brought to AdamW's root mean square)."""
    adamw_lr: float = 0.004
    """For embeddings, head, norms and other vectors."""
    betas: tuple[float, float] = (0.9, 0.95)
    momentum: float = 0.95
    newton_schulz_steps: int = 5
    weight_decay: float = 0.05
    grad_clip: float = 1.0
    """Largest norm of the whole gradient; 0 switches clipping off."""
    warmup_steps: int = 20
    decay_fraction: float = 0.5
    """The last part of the run, over which the learning rate falls linearly to `final_lr` times its value."""
    final_lr: float = 0.0
    mtp_weight: float = 0.1
    """Weight of the multi-token-prediction loss, where the model has such a head."""
    ema_decay: float = 0.0
    """Keep a moving average of the weights and publish it as the result; 0 switches it off."""

    lora_rank: int = 0
    """Tune low-rank adapters of this rank and nothing else (from a model directory); 0 tunes the model itself."""
    lora_alpha: float = 0.0
    """Strength of the adapters; 0: twice the rank."""
    lora_targets: tuple[str, ...] = ()
    """Last parts of the names of the maps to adapt, for example q_proj; empty: every map in the layers."""
    lora_dropout: float = 0.0
    lora_dora: bool = False
    """Weight-decomposed adapters (DoRA): the length of each row of the weights is learnt by itself."""

    quantise: Literal["none", "int8", "int4"] = "none"
    """Learn weights that are good once they are rounded: loss and validation are of the rounded model, the result is plain."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: a GPU if PyTorch finds one for each process. A resumed run stays where it began."""
    precision: Literal["auto", "bfloat16", "float32"] = "auto"
    compile: bool = False
    threads: int = 0
    """0: as many as torch takes by itself. A resumed run keeps the number it began with."""
    seed: int = 0

    validate_every: int = 0
    """Steps; 0: four times a run."""
    validation_tokens: int = 32_768
    checkpoint_every: int = 0
    """Steps; 0: ten times a run."""
    keep_checkpoints: int = 2
    checkpoint_disk_gb: float = 10.0

    max_skips: int = 3
    """Bad steps in a row (not finite, or a spike) whose update is left out before rolling back."""
    max_rollbacks: int = 2
    """Returns to the last checkpoint's weights before the run gives up."""
    spike_ratio: float = 2.0
    """A loss this many times the median of the last `spike_window` good ones is a spike; 0 switches it off."""
    spike_window: int = 50

    def __post_init__(self) -> None:
        self._positive("max_steps", "max_tokens", "max_minutes")
        self._positive("max_seq_len", "tokens_per_step", "micro_batch_tokens", "newton_schulz_steps")
        self._positive("validation_tokens", "keep_checkpoints", "checkpoint_disk_gb", "spike_window")
        self._between("muon_lr", 0, 1)
        self._between("adamw_lr", 0, 1)
        self._between("decay_fraction", 0, 1)
        self._between("final_lr", 0, 1)
        for name in ("momentum", "ema_decay"):
            self._between(name, 0, 0.99999)
        for beta in self.betas:
            _require(0 <= beta < 1, f"betas = {self.betas}: each must be at least 0 and less than 1")
        for name in (
            "weight_decay", "grad_clip", "warmup_steps", "mtp_weight", "threads", "validate_every",
            "checkpoint_every", "max_skips", "max_rollbacks",
        ):  # fmt: skip
            _require(getattr(self, name) >= 0, f"{name} = {getattr(self, name)} must not be negative")
        _require(
            not self.lora_dora or self.lora_rank > 0, "lora_dora without adapters", "give lora_rank a number"
        )
        _require(bool(self.mixture), "mixture is empty", 'name a split, for example {"text-train" = 1.0}')
        for name, weight in self.mixture.items():
            _require(
                weight > 0, f"mixture.{name} = {weight} must be more than 0", "leave the split out instead"
            )
        _require(
            self.max_seq_len <= self.micro_batch_tokens <= self.tokens_per_step,
            f"max_seq_len = {self.max_seq_len}, micro_batch_tokens = {self.micro_batch_tokens}, "
            f"tokens_per_step = {self.tokens_per_step}: each must fit into the next",
            "raise tokens_per_step or lower the others",
        )
        _require(
            self.spike_ratio == 0 or self.spike_ratio > 1,
            f"spike_ratio = {self.spike_ratio} must be more than 1, or 0 for off",
        )

    def _positive(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            _require(value is None or value > 0, f"{name} = {value} must be more than 0")

    def _between(self, name: str, low: float, high: float) -> None:
        value = getattr(self, name)
        _require(low <= value <= high, f"{name} = {value} must lie between {low} and {high}")


def _require(condition: bool, message: str, remedy: str = "change the value") -> None:
    if not condition:
        raise ConfigError(message, remedy=remedy)
