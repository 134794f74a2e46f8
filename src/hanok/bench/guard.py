"""Claim: guard and audit cost the service little, at the shape of Qwen3-0.6B with random weights in 4 bits.

The service with the shipped policy and its audit against the same service without them: 16 streams, each sending its next request
when the last one is answered; prompts of 30 random tokens, 64 greedy tokens behind each. Wanted: at least 0.95 of the tokens a
second, and at most 10 ms more until the first text, in steady streams and of 16 requests that come at once.

The first text is told twice: as clients wait for it, in which some milliseconds of hundreds cannot be seen, and as what either
service adds to its engine's own time, measured from both ends (`hanok.bench.added`). Text waits in the filter for the end of its
word, but for the first letters of an answer; a random model often begins with none, so that it is worse than with a trained one.

Sides take turns, each started anew; the first prompts of each are not counted.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

from hanok.bench import added, timed_serve
from hanok.bench.decode import SHAPE
from hanok.bench.light_client import put_bursts, put_light_load
from hanok.bench.load_client import Load, Prompt, chat_api
from hanok.bench.outcome import Rows, command_line, compare, present
from hanok.bench.servers import running
from hanok.bench.service import (
    ANSWER,
    BARE,
    BURSTS,
    SHORT,
    STREAMS,
    bursts_of,
    first_token_row,
    make_key,
    middle,
    prompts_of,
    server,
    with_key,
)  # fmt: skip
from hanok.bench.stopped import stoppable
from hanok.bench.words import make_chat_model
from hanok.models.config import ModelConfig
from hanok.reporting import log
from hanok.tokens.tokenizer import Tokenizer

Moments = Mapping[str, tuple[float, float]]
SIDES = {"guarded": ("--guard", "default", "--audit"), "bare": BARE}


def run(
    *, quick: bool = False, rounds: int | None = None, folder: Path = Path("runs/bench"), shape: ModelConfig = SHAPE,
    name: str = "qwen3-0.6b-random", kind: str = "int4",
) -> Rows:  # fmt: skip
    """Rows `guard/streams16`, `guard/first-token` and `guard/added` of streams and bursts.

    Args: shape, name: of the model, made if it is not in the folder.
    """
    rounds = rounds or (1 if quick else 5)
    directory = make_chat_model(folder, shape, name)
    tokenizer = Tokenizer.load(directory)
    (folder / "guard").mkdir(parents=True, exist_ok=True)
    loads: dict[str, list[Load]] = {side: [] for side in SIDES}
    firsts: dict[str, list[float]] = {side: [] for side in SIDES}
    extra: dict[str, dict[str, list[list[float]]]] = {
        case: {side: [] for side in SIDES} for case in (f"streams{STREAMS}", f"burst{STREAMS}")
    }
    for number in range(rounds):
        prompts = prompts_of(tokenizer, STREAMS * (1 if quick else 3), seed=1000 * number)
        warm = prompts_of(tokenizer, STREAMS, seed=1000 * number + 1)
        sudden = bursts_of(tokenizer, 2 if quick else BURSTS, seed=1000 * number + 3)
        for side in list(SIDES) if number % 2 else reversed(SIDES):
            log.info("round %d of %d: %s", number + 1, rounds, side)
            load, bursts, moments = _load(
                directory, kind, folder / "guard", SIDES[side], warm, prompts, sudden
            )
            loads[side].append(load)
            firsts[side].append(middle([one.first for one in bursts]))
            for case, sent in ((f"streams{STREAMS}", [load]), (f"burst{STREAMS}", bursts)):
                extra[case][side].append(added.milliseconds(sent, moments))
    rows = _rows(loads["guarded"], loads["bare"])
    rows.append(first_token_row("guard", firsts["guarded"], {"without them": firsts["bare"]}))
    for case, sides in extra.items():
        rows.append(added.row(f"guard/added/{case}", sides["guarded"], {"without them": sides["bare"]}))
    present("What guard and audit cost", rows, folder / "guard")
    return rows


def _load(
    directory: Path, kind: str, folder: Path, options: Sequence[str], warm: Sequence[Prompt], prompts: Sequence[Prompt],
    sudden: Sequence[Sequence[Prompt]],
) -> tuple[Load, list[Load], Moments]:  # fmt: skip
    """Of streams, of requests at once, and when the engine had each of them and gave its first token."""
    times = folder / "moments.json"
    store = folder / f"{secrets.token_hex(4)}.sqlite"
    key = make_key(store)
    api = with_key(chat_api(directory.name), key)
    with running(server(directory, kind, store, key, options, times=times)) as started:
        put_light_load(started.base, api, warm, streams=STREAMS, tokens=ANSWER)
        load = put_light_load(started.base, api, prompts, streams=STREAMS, tokens=ANSWER)
        bursts = put_bursts(started.base, api, sudden, tokens=SHORT)
    return load, bursts, timed_serve.read(times)


def _rows(guarded: Sequence[Load], bare: Sequence[Load]) -> Rows:
    def firsts(loads: Sequence[Load]) -> list[float]:
        return [1e3 * load.first_token(0.5) for load in loads]

    paired = sorted(mine - theirs for mine, theirs in zip(firsts(guarded), firsts(bare), strict=True))
    return [
        compare(
            f"guard/streams{STREAMS}", "tokens a second in all", [load.rate for load in guarded],
            {"without them": [load.rate for load in bare]},
        ),
        compare(
            f"guard/first-token/streams{STREAMS}", "milliseconds to the first text, median of the requests", firsts(guarded),
            {"without them": firsts(bare)}, smaller=True, cost_ms=round(paired[len(paired) // 2], 2),
        ),
    ]  # fmt: skip


@stoppable
def main() -> None:
    command_line(__doc__, run, rounds="5, or 1 with --quick")


if __name__ == "__main__":
    main()
