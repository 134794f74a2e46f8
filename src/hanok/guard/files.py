"""Files that rules of a policy name, each read once, with errors that say which policy and which rule."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from hanok.errors import ConfigError, InputError, did_you_mean
from hanok.guard.harm import HarmClassifier
from hanok.guard.linear import LinearDetector
from hanok.guard.policy import Rule

T = TypeVar("T")


@dataclass
class Files:
    """Args: source: of the policy, for messages."""

    source: str
    _detectors: dict[Path, LinearDetector] = field(default_factory=dict)
    _harm: dict[Path, HarmClassifier] = field(default_factory=dict)

    def detector(self, rule: Rule, file: Path) -> LinearDetector:
        """Raises ConfigError: it is none."""
        return self._loaded(rule, file, self._detectors, LinearDetector.load)

    def harm(self, rule: Rule, file: Path) -> HarmClassifier:
        """Raises ConfigError: it is none."""
        return self._loaded(rule, file, self._harm, HarmClassifier.load)

    def known(self, rule: Rule, key: str, names: Iterable[str], categories: tuple[str, ...]) -> None:
        """Raises ConfigError: one of the names is no category of the file."""
        for name in names:
            if name not in categories:
                raise ConfigError(
                    f'{self.source}: {rule.name}.{key}: the file has no category "{name}"',
                    remedy=did_you_mean(name, categories),
                )

    def _loaded(self, rule: Rule, file: Path, known: dict[Path, T], load: Callable[[Path], T]) -> T:
        try:
            if file not in known:
                known[file] = load(file)
        except InputError as error:
            raise ConfigError(
                f"{self.source}: {rule.name}.file: {error.message}", remedy=error.remedy
            ) from error
        return known[file]
