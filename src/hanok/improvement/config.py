"""How `improve` learns and what it demands of the result. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hanok.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class ImproveConfig:
    """One improvement: rounds of a few steps, each followed by an examination.

    Args:
        objective: of a round: sft learns the lessons as text; dpo prefers each lesson's answer to those that were disliked or
            corrected; sft+dpo does one after the other.
        replay: share of the tokens that come from the run's own training chats, so that other answers stay; dpo has none.
        rounds: at most so many; it ends earlier once every lesson is answered as taught.
        steps: updates a round.
        tokens_per_step: tokens of one update.
        muon_lr, adamw_lr: peak learning rates of a round; a fraction of fine-tuning's.
        pairs_per_step, beta, nll_weight: of dpo, as `hanok align dpo` takes them; the last holds the chosen answer's likelihood.
        preference_lr: dpo's learning rates as a share of the two above.
        max_seq_len: longer lessons are refused; 0 = the model's context.
        questions: of the village's examination asked before and after, evenly drawn; 0 = all.
        max_new_tokens: of an answer.
        bits_tokens: of each validation split, for bits per byte.
        review: required takes only feedback that a reviewer has accepted or corrected; optional takes what none has rejected.
        poisoning: stop refuses to learn while rows look planted and no reviewer has decided them; off looks at nothing.
        tolerance: other answers may lose this share at most (0.02: two of a hundred).
        bits_tolerance, bits_slack: bits per byte may rise by this share and this amount together.
        threads: 0 = as many as torch takes by itself.
    """

    objective: Literal["sft", "dpo", "sft+dpo"] = "sft"
    replay: float = 0.75
    rounds: int = 8
    steps: int = 10
    tokens_per_step: int = 4096
    muon_lr: float = 0.001
    adamw_lr: float = 0.0003
    pairs_per_step: int = 16
    beta: float = 0.1
    nll_weight: float = 1.0
    preference_lr: float = 0.5
    max_seq_len: int = 0
    questions: int = 600
    max_new_tokens: int = 160
    bits_tokens: int = 60_000
    review: Literal["optional", "required"] = "optional"
    poisoning: Literal["stop", "off"] = "stop"
    tolerance: float = 0.02
    bits_tolerance: float = 0.02
    bits_slack: float = 0.005
    seed: int = 1
    threads: int = 0

    def __post_init__(self) -> None:
        self._require("objective", self.objective in ("sft", "dpo", "sft+dpo"), "sft, dpo or sft+dpo")
        self._require("review", self.review in ("optional", "required"), "optional or required")
        self._require("poisoning", self.poisoning in ("stop", "off"), "stop or off")
        for name in ("beta", "preference_lr"):
            self._require(name, getattr(self, name) > 0, "above 0")
        self._require("nll_weight", self.nll_weight >= 0, "0 or more")
        for name in ("rounds", "steps", "tokens_per_step", "pairs_per_step", "max_new_tokens", "bits_tokens"):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        for name in ("max_seq_len", "questions", "threads"):
            self._require(name, getattr(self, name) >= 0, "0 or more")
        for name in ("muon_lr", "adamw_lr"):
            self._require(name, 0 < getattr(self, name) <= 1, "above 0 and at most 1")
        for name in ("tolerance", "bits_tolerance", "bits_slack"):
            self._require(name, 0 <= getattr(self, name) <= 1, "between 0 and 1")
        self._require("replay", 0 <= self.replay < 1, "at least 0 and below 1")

    def _require(self, name: str, holds: bool, rule: str) -> None:
        if not holds:
            raise ConfigError(f"{name} = {getattr(self, name)}", remedy=f"it must be {rule}")
