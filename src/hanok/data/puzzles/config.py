"""How large the puzzles are. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from math import factorial

from hanok.errors import ConfigError

MOST_PAGES = 26  # one letter each


@dataclass(frozen=True, kw_only=True, slots=True)
class ParityConfig:
    """Args:
    bits: of each input. long: share of the training answers that write out the chain of prefix parities.
    train: conversations to learn from. prompts: inputs to practise on. validation: inputs that occur in neither.
    seed: equal seeds give byte-identical files.
    """

    bits: int = 14
    long: float = 0.25
    train: int = 40_000
    prompts: int = 4000
    validation: int = 256
    seed: int = 1

    def __post_init__(self) -> None:
        _between("bits", self.bits, 2, 60)
        _between("long", self.long, 0.0, 1.0)
        _counts(self)
        if 2 * self.validation > 2**self.bits:
            raise ConfigError(
                f"validation = {self.validation} with {self.bits} bits",
                remedy=f"there are {2**self.bits} inputs: keep at most half of them back",
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class LedgerConfig:
    """Args:
    modulus: the running sum is kept modulo this.
    train_pages: fewest and most pages of the conversations to learn from. practice_pages: of the prompts.
    fragments: share of those conversations that show only an end of the working, whose first characters are not learnt.
    train: conversations. prompts: to practise on. validation: prompts that occur in neither.
    seed: equal seeds give byte-identical files.
    """

    modulus: int = 5
    train_pages: tuple[int, int] = (3, 6)
    practice_pages: tuple[int, int] = (5, 6)
    fragments: float = 0.3
    train: int = 40_000
    prompts: int = 4000
    validation: int = 256
    seed: int = 1

    def __post_init__(self) -> None:
        _between("modulus", self.modulus, 2, 10)
        _between("fragments", self.fragments, 0.0, 1.0)
        for name in ("train_pages", "practice_pages"):
            low, high = getattr(self, name)
            if not 1 <= low <= high <= MOST_PAGES:
                raise ConfigError(
                    f"{name} = {low} to {high}", remedy=f"from 1 to {MOST_PAGES}, the smaller number first"
                )
        if self.fragments and self.train_pages[0] < 2:
            raise ConfigError(
                f"train_pages = {self.train_pages} with fragments = {self.fragments}",
                remedy="one page has no end to show alone: begin at 2",
            )
        _counts(self)
        most = self.practice_pages[1]
        known, drawn = self.modulus**most * factorial(most), self.train + self.prompts + self.validation
        if known < 2 * drawn:
            raise ConfigError(
                f"{drawn} ledgers of up to {most} pages with modulus = {self.modulus}",
                remedy=f"there are {known} of that length: draw at most half as many, or practise more pages",
            )


def _counts(config: ParityConfig | LedgerConfig) -> None:
    for name in ("train", "prompts", "validation"):
        if getattr(config, name) < 1:
            raise ConfigError(f"{name} = {getattr(config, name)}", remedy="it must be at least 1")


def _between(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ConfigError(f"{name} = {value}", remedy=f"it must lie between {low} and {high}")
