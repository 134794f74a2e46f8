"""What an audit of privacy is told. Cheap to import: no torch here."""

from __future__ import annotations

from dataclasses import dataclass

from hanok.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class PrivacyConfig:
    """How much is looked at, and what passes."""

    members: str = "text-train"
    """Split of the shards that the model was trained on."""
    others: tuple[str, ...] = ("text-validation", "text-test")
    """Splits of the same documents that it was not."""
    texts: int = 500
    """Of each side, at most."""
    length: int = 256
    """Tokens of a text; longer ones are cut."""
    least: int = 32
    """Tokens that a text must have."""
    alternatives: int = 10_000
    """Other secrets that a canary's is compared with."""
    most_auc: float = 0.6
    """Bar: the upper end of every attack's interval."""
    most_exposure: float = 3.0
    """Bar: bits that canaries put in once may be exposed beyond those never put in."""
    confidence: float = 0.95
    """Of the intervals."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name, low in (("texts", 20), ("length", 8), ("least", 8), ("alternatives", 1000)):
            if getattr(self, name) < low:
                raise ConfigError(f"{name} = {getattr(self, name)}", remedy=f"it must be {low} or more")
        if not 0.5 < self.confidence < 1:
            raise ConfigError(f"confidence = {self.confidence}", remedy="it must be between 0.5 and 1")
