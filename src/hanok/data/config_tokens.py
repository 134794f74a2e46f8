"""Settings of split, tokeniser and shards. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass

from hanok.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitConfig:
    """How documents part into train, validation and test, and what train may not contain.

    Args:
        validation, test: share of the groups, by a hash of the group's name (adding documents moves no other).
        seed: another seed, another split.
        decontaminate: take out of train what overlaps with validation, test or an evaluation set.
        evaluation: JSONL, JSON, Parquet or text files (or folders of them) that train must not contain.
        words, characters: an overlap is this many words (eojeol) in a row, or this many characters.
        scaffold_groups: what stands in more than this many groups is shared scaffold (a template), not a leak.
    """

    validation: float = 0.02
    test: float = 0.02
    seed: int = 1
    decontaminate: bool = True
    evaluation: tuple[str, ...] = ()
    words: int = 13
    characters: int = 50
    scaffold_groups: int = 8

    def __post_init__(self) -> None:
        for name in ("validation", "test"):
            share = getattr(self, name)
            if not 0 <= share < 1:
                raise ConfigError(
                    f"{name} = {share}: must be at least 0 and below 1", remedy=f"e.g. {name} = 0.02"
                )
        if self.validation + self.test >= 1:
            raise ConfigError(
                f"validation + test = {self.validation + self.test}: nothing is left for train",
                remedy="lower one of them",
            )
        if self.words < 2 or self.characters < 10:
            raise ConfigError(
                f"words = {self.words}, characters = {self.characters}: at least 2 and 10",
                remedy="shorter overlaps occur by chance everywhere; 13 and 50 are customary",
            )
        if self.scaffold_groups < 2:
            raise ConfigError(
                f"scaffold_groups = {self.scaffold_groups}: at least 2 (a leak itself stands in two groups)",
                remedy="8 is the default",
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerConfig:
    """How the byte-level BPE tokeniser is trained.

    Args:
        vocab_size: all ids: control tokens, 256 bytes, Hangul syllables and what BPE learns.
        syllable_count: a Hangul syllable seen this often in the train split is one token.
        min_frequency: a pair must occur this often to be merged.
        sample_bytes: BPE learns from at most this much text, spread evenly over the train split.
        split_particles: a Korean particle or copula at the end of a word of three syllables or more is a token border,
            so that a name is the same token whatever follows it ("찻집은", "찻집의"). Costs more tokens a text.
    """

    vocab_size: int = 4096
    syllable_count: int = 5
    min_frequency: int = 2
    sample_bytes: int = 16_000_000
    split_particles: bool = False

    def __post_init__(self) -> None:
        if self.vocab_size < 300:
            raise ConfigError(
                f"vocab_size = {self.vocab_size}: at least 300 (256 bytes and the control tokens)",
                remedy="2048 to 8192 suit models of a few million parameters",
            )
        if self.vocab_size > 1_000_000:
            raise ConfigError(f"vocab_size = {self.vocab_size}: at most 1,000,000", remedy="lower it")
        for name in ("syllable_count", "min_frequency", "sample_bytes"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} = {getattr(self, name)}: at least 1", remedy="use the default")


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardsConfig:
    """How a split is encoded.

    Args:
        batch_bytes: text encoded at a time; bounds memory.
    """

    batch_bytes: int = 4_000_000

    def __post_init__(self) -> None:
        if self.batch_bytes < 1000:
            raise ConfigError(
                f"batch_bytes = {self.batch_bytes}: at least 1000", remedy="4000000 is the default"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class ExtendConfig:
    """Args:
    tokens: new tokens at most.
    min_frequency: a pair must occur so often in the sample to become a token.
    sample_bytes: of the train part to learn from.
    """

    tokens: int = 2000
    min_frequency: int = 20
    sample_bytes: int = 16_000_000

    def __post_init__(self) -> None:
        if self.tokens < 1 or self.min_frequency < 2:
            raise ConfigError(
                f"tokens = {self.tokens}, min_frequency = {self.min_frequency}", remedy="at least 1 and 2"
            )
