"""Rewards by name, as the command line writes them: NAME, NAME:ARGUMENT, each perhaps with =WEIGHT behind.

exact               the final answer is the text of the column "answer"        exact:COLUMN another column
numeric             the last number of the final answer is the expected one    numeric:COLUMN
regex:PATTERN       the whole answer matches, its reasoning included
format              <think>...</think><answer>...</answer>                     format:a,b other tags
model:DIRECTORY     score of a reward model from `hanok align reward`
FILE.py:FUNCTION    your own (prompt, completion, columns) -> number or None
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from hanok.artefacts import open_artefact, sha256_file
from hanok.errors import ConfigError, did_you_mean
from hanok.training.align.reward_model import RewardModel
from hanok.training.packing import PackedSequence
from hanok.training.rewards import Mix, Prompt, Reward, mix
from hanok.training.rewards.answers import exact_answer, matches, numeric_answer
from hanok.training.rewards.models import reward_model
from hanok.training.rewards.shape import tags

NAMES = ("exact", "numeric", "regex", "format", "model")


def rewards_of(words: Sequence[str]) -> Mix:
    """Raises ConfigError: an unknown name, a weight that is no number, a file without that function."""
    parts: dict[str, Reward | tuple[Reward, float]] = {}
    for word in words:
        name, weight = _weight_of(word)
        if name in parts:
            raise ConfigError(f'reward "{name}" is named twice', remedy="give it once, with a weight")
        parts[name] = (_reward(name), weight)
    return mix(parts)


def sources_of(words: Sequence[str]) -> dict[str, str]:
    """Hashes of the files that rewards are made of: another content is another run."""
    found: dict[str, str] = {}
    for word in words:
        name, _, argument = _weight_of(word)[0].partition(":")
        if name.endswith(".py"):
            found[word] = sha256_file(Path(name))
        elif name == "model":
            found[word] = open_artefact(Path(argument)).hash
    return found


def _weight_of(word: str) -> tuple[str, float]:
    """A pattern may hold "=": only what is a number behind the last one is a weight."""
    name, sign, weight = word.rpartition("=")
    try:
        return (name, float(weight)) if sign else (word, 1.0)
    except ValueError:
        return word, 1.0


def _reward(word: str) -> Reward:
    name, _, argument = word.partition(":")
    if name.endswith(".py"):
        return _own(Path(name), argument)
    if name == "exact":
        return exact_answer(argument or "answer")
    if name == "numeric":
        return numeric_answer(argument or "answer")
    if name == "format":
        return tags(tuple(argument.split(","))) if argument else tags()
    if name == "regex" and argument:
        return matches(argument)
    if name == "model" and argument:
        return reward_model(_Scores(Path(argument)))
    if name in NAMES:
        raise ConfigError(f'reward "{word}" lacks what stands behind the colon', remedy=f"write {name}:...")
    raise ConfigError(f'no reward "{word}"', remedy=did_you_mean(name, [*NAMES, "FILE.py:FUNCTION"]))


def _own(file: Path, function: str) -> Reward:
    """The user's own code, run because the user named it."""
    if not file.is_file():
        raise ConfigError(f"no file {file}", remedy="name a Python file and a function: rewards.py:mine")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ConfigError(
            f"{file} does not run ({type(error).__name__}: {error})", remedy="mend it"
        ) from error
    found = getattr(module, function, None)
    if not callable(found):
        raise ConfigError(f'{file} has no function "{function}"', remedy="write it as FILE.py:FUNCTION")
    return found  # pyright: ignore[reportReturnType]


class _Scores:
    """A reward model's directory as what `rewards/models.py` asks for."""

    def __init__(self, directory: Path) -> None:
        self._model = RewardModel(directory)

    def scores(self, pairs: Sequence[tuple[Prompt, str]]) -> list[float]:
        return self._model.score([self._text(prompt, completion) for prompt, completion in pairs])

    def _text(self, prompt: Prompt, completion: str) -> PackedSequence:
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        content, calls = self._model.tokenizer.parse_assistant(completion)
        message: dict[str, object] = {"role": "assistant", "content": content}
        return self._model.text(messages, message | ({"tool_calls": calls} if calls else {}))
