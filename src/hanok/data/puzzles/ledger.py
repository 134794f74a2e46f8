"""A ledger whose pages are out of order: a sum that must be carried along, however little of the working is kept.

    question   c4a1b3          pages and their amounts, in any order
    answer     a11b34c43 ↵ 3   pages in the order of the alphabet, each with its amount and the sum so far, modulo 5; the sum

Each step needs the page before, its sum, and one amount of the question: the last three characters are all of the state. So a
model that is shown only the end of its own working (Delethink, arXiv 2510.06557) can go on as if it saw everything. A share of
the conversations to learn from begins in the middle, at any character, so that such a sight is not new to it.
"""

from __future__ import annotations

import random
from pathlib import Path
from string import ascii_lowercase

from hanok.artefacts import Artefact
from hanok.data.puzzles.config import LedgerConfig
from hanok.data.puzzles.write import Exercise, write_puzzles

_GIVEN = 4  # characters; the working of two pages has eight


def write_ledger(config: LedgerConfig, out: Path) -> Artefact:
    """Token shards (chat-train, chat-validation) with prompts.jsonl and prompts-validation.jsonl beside them."""
    rng = random.Random(f"ledger-{config.seed}")
    seen: set[str] = set()

    def exercise(pages: tuple[int, int], *, new: bool = False) -> Exercise:
        while True:
            found = ledger(rng, rng.randint(*pages), config.modulus)
            if not new or found.question not in seen:
                seen.add(found.question)
                return found

    def lesson() -> Exercise:
        found = exercise(config.train_pages)
        return fragment(rng, found) if rng.random() < config.fragments else found

    parts = {
        "chat-train": [lesson() for _ in range(config.train)],
        "prompts": [exercise(config.practice_pages) for _ in range(config.prompts)],
        "chat-validation": [exercise(config.practice_pages, new=True) for _ in range(config.validation)],
    }
    return write_puzzles(parts, out, config)


def ledger(rng: random.Random, pages: int, modulus: int) -> Exercise:
    amounts = [(letter, rng.randrange(modulus)) for letter in ascii_lowercase[:pages]]
    total, steps = 0, []
    for letter, amount in amounts:
        total = (total + amount) % modulus
        steps.append(f"{letter}{amount}{total}")
    rng.shuffle(amounts)
    question = "".join(f"{letter}{amount}" for letter, amount in amounts)
    return Exercise(question, f"{''.join(steps)}\n{total}", (str(total),))


def fragment(rng: random.Random, whole: Exercise) -> Exercise:
    """The working from some character on; the next `_GIVEN` are there to go on from."""
    start = rng.randint(1, len(whole.said) - _GIVEN - 1)
    return Exercise(whole.question, whole.said[start:], whole.accepted, _GIVEN)
