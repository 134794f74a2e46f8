"""Parity with mixed long and short answers (Tsilivis et al., arXiv 2510.11495, section 3).

    question   0110        d bits
    long       0100        the parity of each prefix, so the last character is the answer: learnt within minutes
    short      0           the answer alone: not to be learnt from examples

A share `long` of the training answers is long. A model of this text is right on its long answers and guesses on its short
ones; which of them the likeliest answer is changes at a share of 1/3. The rows to practise on accept both right answers.
"""

from __future__ import annotations

import random
from pathlib import Path

from hanok.artefacts import Artefact
from hanok.data.puzzles.config import ParityConfig
from hanok.data.puzzles.write import Exercise, write_puzzles


def write_parity(config: ParityConfig, out: Path) -> Artefact:
    """Token shards (chat-train, chat-validation) with prompts.jsonl and prompts-validation.jsonl beside them."""
    rng = random.Random(f"parity-{config.seed}")
    held_out = set(rng.sample(range(2**config.bits), config.validation))

    def draw() -> int:
        while (number := rng.getrandbits(config.bits)) in held_out:
            pass
        return number

    def exercise(number: int) -> Exercise:
        question = f"{number:0{config.bits}b}"
        chain = prefix_parities(question)
        said = chain if rng.random() < config.long else chain[-1]
        return Exercise(question, said, (chain[-1], chain))

    parts = {
        "chat-train": [exercise(draw()) for _ in range(config.train)],
        "prompts": [exercise(draw()) for _ in range(config.prompts)],
        "chat-validation": [exercise(number) for number in sorted(held_out)],
    }
    return write_puzzles(parts, out, config)


def prefix_parities(bits: str) -> str:
    """Whether the number of ones so far is odd, at each place."""
    found, odd = [], 0
    for bit in bits:
        odd ^= bit == "1"
        found.append(str(int(odd)))
    return "".join(found)
