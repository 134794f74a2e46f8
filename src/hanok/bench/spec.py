"""Claim: at the shape of Qwen3-0.6B (random weights) guessing tokens from the text makes an answer that copies at least 2 times
as quick, and takes at most 3 % from one that does not.

A random model says nothing worth copying, so the answer is given: the model computes every row as ever, and of each row's
logits that of the token that the answer has there is raised. The texts are real ones (the topics of Python's own help), a
token a word. *Copy*: the prompt is a text, the answer the same text with every 25th word another. *Free*: the answer is how the
text goes on. With and without guesses take turns in one process.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import zlib
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import Tensor

from hanok.bench.decode import SHAPE, make_model
from hanok.bench.lone import Answer, ask, load_native
from hanok.bench.stopped import stoppable
from hanok.engine.native import NativeDecoder
from hanok.engine.paged import PagedScheduler
from hanok.engine.speculation.lookup import PromptLookup
from hanok.engine.speculation.pace import Pace
from hanok.engine.speculation.speculator import Speculator
from hanok.kernels.packed import KINDS, Kind
from hanok.reporting import log, table

PROMPT, EDIT_EVERY = 512, 25


class Scripted(NativeDecoder):
    """Computes as ever and says what it is told to."""

    script: Sequence[int] = ()

    def step(
        self, ids: Sequence[int], positions: Sequence[int], sequences: Sequence[int], tables: Sequence[Sequence[int]],
        wanted: Sequence[int], slots: Sequence[int] = (), saves: Mapping[int, int] = {}, adapters: Sequence[Any] = (),
    ) -> Tensor:  # fmt: skip
        logits = super().step(ids, positions, sequences, tables, wanted, slots, saves, adapters)
        for place, row in enumerate(wanted):
            after = positions[row] + 1
            logits[place, self.script[min(after, len(self.script) - 1)]] = 1e6
        return logits


def run(
    *, quick: bool = False, kinds: Sequence[Kind] = ("int4", "int8", "bf16"), rounds: int | None = None,
    folder: Path = Path("runs/bench"),
) -> list[dict[str, Any]]:  # fmt: skip
    """Rows {case, metric, ours, peer, theirs, ratio, runs, spread}; tokens a second, medians; spread of the rounds."""
    directory = make_model(folder)
    kinds, tokens = (kinds[:1], 160) if quick else (kinds, 384)
    rounds = rounds or (2 if quick else 5)
    found = []
    for kind in kinds:
        model = load_native(directory, kind, tokens=PROMPT + tokens + 64, kind_of=Scripted)
        assert isinstance(model, Scripted)
        for case, (prompt, answer) in texts(tokens).items():
            model.script = [*prompt, *answer]
            pairs = []
            for number in range(rounds):
                log.info("%s, %s, round %d of %d", kind, case, number + 1, rounds)
                pairs.append([_answer(model, prompt, tokens, guess=guess) for guess in (True, False)])
            assert all(list(one.ids) == answer for pair in pairs for one in pair)
            found.append(_row(f"speculation/{case}/{kind}", pairs))
    table(
        "tokens a second",
        ("case", "ours", "peer", "theirs", "ratio", "spread"),
        [(r["case"], r["ours"], r["peer"], r["theirs"], r["ratio"], r["spread"]) for r in found],
    )
    return found


def texts(tokens: int) -> dict[str, tuple[list[int], list[int]]]:
    """Prompt and answer of each case."""
    topics = import_module("pydoc_data.topics").topics
    whole = " ".join(topics[name] for name in sorted(topics, key=lambda name: (-len(topics[name]), name)))
    words = [_token(word) for word in re.findall(r"\w+|[^\w\s]|\n+", whole)]
    text = words[: PROMPT + tokens]
    copied = [
        _token(f"edit {place}") if place % EDIT_EVERY == EDIT_EVERY - 1 else token
        for place, token in enumerate(text[:tokens])
    ]
    return {"copy": (text[:PROMPT], copied), "free": (text[:PROMPT], text[PROMPT:])}


def _token(word: str) -> int:
    return zlib.crc32(word.encode()) % SHAPE.vocab_size


def _answer(model: NativeDecoder, prompt: list[int], tokens: int, *, guess: bool) -> Answer:
    model.pool.forget_all()
    speculator = None
    if guess:
        speculator = Speculator(lookup=PromptLookup(), draft=None, pace=Pace(recurrent=False))
    scheduler = PagedScheduler(model, max_running=1, vocabulary=SHAPE.vocab_size, speculator=speculator)
    answer = ask(scheduler, prompt, tokens)
    if guess:
        log.info(
            "%d of %d guesses held", scheduler.counters.accepted_tokens, scheduler.counters.drafted_tokens
        )
    return answer


def _row(case: str, pairs: Sequence[Sequence[Answer]]) -> dict[str, Any]:
    ours, theirs = ([pair[side].rate for pair in pairs] for side in (0, 1))
    mine, other = statistics.median(ours), statistics.median(theirs)
    return {
        "case": case, "metric": "decode, tokens a second", "ours": round(mine, 1), "peer": "without guesses",
        "theirs": round(other, 1), "ratio": round(mine / other, 3), "runs": len(pairs),
        "spread": round((max(ours) - min(ours)) / mine, 3),
    }  # fmt: skip


@stoppable
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--kinds", nargs="+", default=["int4", "int8", "bf16"], choices=KINDS)
    parser.add_argument("--rounds", type=int, help="default: 5, or 2 with --quick")
    parser.add_argument("--folder", type=Path, default=Path("runs/bench"))
    options = parser.parse_args()
    rows = run(quick=options.quick, kinds=options.kinds, rounds=options.rounds, folder=options.folder)
    if options.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
