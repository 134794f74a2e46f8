"""What a distillation run is told. Cheap to import: no torch here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from hanok.errors import ConfigError
from hanok.training.align.config import AlignConfig
from hanok.training.config import TrainConfig

DistilMethod = Literal["offline", "logits", "on-policy", "minillm"]
METHODS: tuple[str, ...] = get_args(DistilMethod)
_SAME = (
    "max_steps", "max_minutes", "mixture", "seed", "muon_lr", "adamw_lr", "warmup_steps", "decay_fraction", "final_lr",
    "grad_clip", "weight_decay", "precision", "threads", "max_seq_len", "tokens_per_step", "micro_batch_tokens",
    "validate_every", "validation_tokens", "checkpoint_every", "keep_checkpoints",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Shrink:
    """A student made from the teacher's shape, where none is given."""

    share: float = 0.25
    """Of the teacher's parameters."""
    start: Literal["fresh", "slices"] = "fresh"
    """fresh: new weights. slices: layers, channels and neurons of the teacher; heads stay as many and as wide."""

    def __post_init__(self) -> None:
        _require(0 < self.share <= 1, f"share = {self.share}", "it must lie in (0, 1]")


@dataclass(frozen=True, kw_only=True, slots=True)
class DistilConfig:
    """One run of `hanok align distill`."""

    max_steps: int | None = 300
    max_minutes: float | None = None
    mixture: Mapping[str, float] = field(default_factory=lambda: {"chat-train": 1.0})
    """Splits of the shards and their shares of the tokens: what is learnt from, or what prompts are cut from."""
    seed: int = 0
    muon_lr: float = 3e-3
    adamw_lr: float = 1e-3
    warmup_steps: int = 20
    decay_fraction: float = 0.5
    final_lr: float = 0.1
    grad_clip: float = 1.0
    weight_decay: float = 0.0
    precision: Literal["auto", "bfloat16", "float32"] = "float32"
    threads: int = 0
    max_seq_len: int = 1024
    tokens_per_step: int = 4096
    """Documents of so many tokens make a step; with the student's own answers, the documents that prompts are cut from."""
    micro_batch_tokens: int = 4096
    validate_every: int = 0
    """Steps; 0: four times a run."""
    validation_tokens: int = 32_768
    checkpoint_every: int = 0
    """Steps; 0: ten times a run."""
    keep_checkpoints: int = 2

    learn_from: Literal["samples", "corpus"] = "samples"
    """logits, on-policy: what is learnt from beside the student's own answers; offline always learns from samples."""
    answers: int = 8192
    """Answers that the teacher writes, to the first so many prompts."""
    top_k: int = 64
    """logits: tokens of the teacher's law that are kept for each position."""
    temperature: float = 1.0
    """Of both laws in the divergence."""
    beta: float = 0.5
    """on-policy: 0 forward KL, 1 reverse KL, between them GKD's divergence."""
    on_policy: float = 0.5
    """Share of the steps whose answers are the student's own (GKD's lambda)."""
    corpus_weight: float = 0.0
    """minillm: weight of next-token learning on the corpus in every step."""
    clip: float = 0.2
    """minillm: of the policy gradient's ratio."""

    prompts_per_step: int = 64
    """Where prompts come from a file."""
    text_prompt_tokens: int = 16
    """A text document becomes a prompt of so many tokens; a chat is cut where the assistant speaks."""
    group_size: int = 1
    """Answers to each prompt."""
    max_new_tokens: int = 128
    sampling_temperature: float = 1.0
    generator: Literal["float32", "bf16"] = "float32"
    """Weights that answers are drawn with."""
    samples_kept: int = 4
    """Answers of each step written to samples.jsonl."""

    def __post_init__(self) -> None:
        for name in ("answers", "top_k", "temperature", "text_prompt_tokens", "clip"):
            _require(getattr(self, name) > 0, f"{name} = {getattr(self, name)}", "it must be more than 0")
        for name in ("corpus_weight", "samples_kept"):
            _require(getattr(self, name) >= 0, f"{name} = {getattr(self, name)}", "it must not be negative")
        for name in ("beta", "on_policy"):
            _require(
                0 <= getattr(self, name) <= 1, f"{name} = {getattr(self, name)}", "it must lie in [0, 1]"
            )
        self.training()
        self.drawing()

    def training(self) -> TrainConfig:
        """What the loop needs to know."""
        values: dict[str, Any] = {name: getattr(self, name) for name in _SAME}
        return TrainConfig(**values, spike_ratio=0.0, device="cpu")  # the engine of roll-outs runs there

    def drawing(self) -> AlignConfig:
        """What the generator of answers needs to know."""
        return AlignConfig(
            seed=self.seed, prompts_per_step=self.prompts_per_step, group_size=self.group_size,
            max_new_tokens=self.max_new_tokens, temperature=self.sampling_temperature, generator=self.generator,
        )  # fmt: skip


def check(method: str, config: DistilConfig) -> None:
    """Raises ConfigError: settings that do not go with the method."""
    _require(method in METHODS, f'method = "{method}"', f"one of {', '.join(METHODS)}")
    _require(
        config.max_steps is not None or config.max_minutes is not None,
        "distillation has no end by itself",
        "set max_steps or max_minutes",
    )
    if method == "minillm":
        _require(
            config.sampling_temperature == 1.0 and config.temperature == 1.0,
            f"temperature = {config.temperature}, sampling_temperature = {config.sampling_temperature}",
            "minillm's gradient is that of answers drawn at temperature 1: leave both at 1",
        )
    if method == "on-policy":
        _require(config.on_policy > 0, "on_policy = 0", "give more than 0, or distil with logits")


def _require(condition: bool, message: str, remedy: str) -> None:
    if not condition:
        raise ConfigError(message, remedy=remedy)
