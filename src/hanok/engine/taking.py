"""Giving an answer its tokens: those behind guesses that were verified, or those of several steps in one call."""

from __future__ import annotations

from collections.abc import Sequence

from hanok.engine.native import Drawn
from hanok.engine.running import Part
from hanok.engine.sampler import Choice, found_choice
from hanok.errors import HanokError


def take_guessed(part: Part, choices: Sequence[Choice | HanokError]) -> tuple[int, int]:
    """Tokens up to the first that was not guessed: how many, and how many guesses became part of the answer."""
    generation, accepted = part.running.generation, 0
    for place, choice in enumerate(choices):
        before = len(generation.ids)
        over = generation.take(choice)
        held = place < len(part.draft) and isinstance(choice, Choice) and choice.token == part.draft[place]
        accepted += held and len(generation.ids) > before
        if over or not held:
            return place + 1, accepted
    raise AssertionError("behind the last guess nothing can hold")


def take_drawn(part: Part, drawn: Sequence[Drawn]) -> int:
    """Tokens up to the one that ends the answer: how many."""
    generation = part.running.generation
    for count, (token, logprob, top, law) in enumerate(drawn, 1):
        if generation.learned:
            generation.law = law
        if generation.take(found_choice(token, logprob, top)):
            return count
    return len(drawn)
