"""Judges that score each answer alone, so that no order can sway them: two yardsticks that no judge should lose to, and models.

longer            the longer answer, in characters           overlap    the answer with more of the prompt's words
reward:DIR        a reward model's score
likelihood:DIR    mean log-probability of the answer's tokens after the prompt
pmi:DIR           the same minus that without the prompt: what the prompt adds
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hanok.artefacts import open_artefact
from hanok.chat import Message
from hanok.errors import ConfigError, did_you_mean
from hanok.improvement.judging.judge import Opinion
from hanok.improvement.judging.rows import shown

Score = Callable[[Sequence[Message], str], float]
RULES = ("longer", "overlap")
_REMEMBERED = 1000
MODELS = ("reward", "likelihood", "pmi")


@dataclass(frozen=True, slots=True)
class ScoreJudge:
    """The answer with the higher score is the better one; equal scores are a tie."""

    name: str
    score: Score
    _known: dict[tuple[str, str], float] = field(default_factory=dict, init=False, repr=False)

    async def compare(self, prompt: Sequence[Message], first: str, second: str) -> Opinion:
        one, other = await asyncio.to_thread(lambda: (self._of(prompt, first), self._of(prompt, second)))
        return Opinion((one > other) + 0.5 * (one == other), f"{one:.6g} against {other:.6g}")

    def _of(self, prompt: Sequence[Message], answer: str) -> float:
        """The other order asks for the same two scores."""
        key = (shown(prompt), answer)
        if key not in self._known:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[key] = self.score(prompt, answer)
        return self._known[key]


def score_judge(word: str) -> ScoreJudge:
    """Raises ConfigError: no such judge. ArtefactError, CheckpointError: no such model."""
    kind, _, place = word.partition(":")
    if word == "longer":
        return ScoreJudge(word, lambda prompt, answer: len(answer))
    if word == "overlap":
        return ScoreJudge(word, overlap)
    if kind in MODELS and place:
        make = _reward if kind == "reward" else _likelihood
        name = f"{kind} {Path(place).name} {open_artefact(Path(place)).hash[:12]}"
        return ScoreJudge(name, make(Path(place), kind))
    raise ConfigError(
        f'no judge "{word}"', remedy=did_you_mean(word, [*RULES, *(f"{kind}:DIR" for kind in MODELS)])
    )


def overlap(prompt: Sequence[Message], answer: str) -> float:
    """Share of the prompt's words that the answer has too."""
    asked, said = (set(re.findall(r"\w+", text.lower())) for text in (shown(prompt), answer))
    return len(asked & said) / len(asked) if asked else 0.0


def _reward(directory: Path, kind: str) -> Score:
    from hanok.training.align.reward_model import RewardModel

    model = RewardModel(directory)

    def score(prompt: Sequence[Message], answer: str) -> float:
        return model.score([model.text(prompt, {"role": "assistant", "content": answer})])[0]

    return score


def _likelihood(directory: Path, kind: str) -> Score:
    from hanok.engine.generator import LocalEngine

    engine = LocalEngine(directory)
    context = engine.max_context

    def mean(prompt: Sequence[Message], answer: str) -> float:
        ids, begin = _encoded(engine.tokenizer, prompt, answer, context)
        scores = engine.score(ids)[begin - 1 :]
        return sum(scores) / max(len(scores), 1)

    def score(prompt: Sequence[Message], answer: str) -> float:
        given = mean(prompt, answer)
        return given - mean([{"role": "user", "content": ""}], answer) if kind == "pmi" else given

    return score


def _encoded(tokenizer: Any, prompt: Sequence[Message], answer: str, context: int) -> tuple[list[int], int]:
    """Ids of prompt and answer, and where the answer begins. A prompt that leaves no room loses its beginning, the answer
    its end: more than half of the context is never the prompt's where both are too long.

    A model without a chat template reads the prompt as a paragraph before the answer.
    """
    from hanok.engine.text import chat_prompt

    if tokenizer.has_template:
        before = chat_prompt(tokenizer, prompt)
    else:
        before = [tokenizer.bos_id, *tokenizer.encode(shown(prompt) + "\n\n")]
    behind = tokenizer.encode(answer) or [tokenizer.eos_id]
    room = max(context - len(behind), context // 2)
    before = before[-room:]
    return [*before, *behind][:context], len(before)
