"""Claim: what a service adds to its engine costs little, at the shape of Qwen3-0.6B with random weights in 4 bits.

* The service (HTTP, a key, limits, accounting, a log line a request, metrics; without guard and audit) against the engine
  alone: 16 streams, each sending its next request when the last one is answered; prompts of 30 random tokens, 64 greedy tokens
  behind each. Wanted: at least 0.95 of the engine's tokens a second.
* The first token of 16 requests that come at once to an idle service, against the engine alone: streams that come and go take
  turns, in which a few milliseconds cannot be seen. Wanted: at most 5 ms more.
* What the service adds at the first token of each request, measured from both ends (`hanok.bench.added`), in the 16 streams and
  in the bursts: all of it, with HTTP, JSON, the chat template and the client's own time. And what of it are keys, limits,
  accounting and log lines: the same beside a server that has none of them. Wanted of those: at most 5 ms; the whole is
  told against the same number, which it does not reach.
* The same service with 2,000 idle connections beside the 16, against itself without them. Wanted: at least 0.9.

Sides take turns, each started anew. The load client shares the processor with the server and takes little of it (`light_client`);
the engine alone has no client beside it, so that the comparison is to the service's disadvantage.
"""

from __future__ import annotations

import contextlib
import json
import resource
import secrets
import socket
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch

from hanok.bench import added, timed_serve
from hanok.bench.decode import SHAPE, process
from hanok.bench.light_client import put_bursts, put_light_load
from hanok.bench.load_client import Api, Load, Prompt, chat_api
from hanok.bench.outcome import Rows, command_line, compare, present
from hanok.bench.servers import Server, running
from hanok.bench.stopped import stoppable
from hanok.bench.words import chat_ids, make_chat_model, random_prompts
from hanok.models.config import ModelConfig
from hanok.reporting import log
from hanok.tokens.tokenizer import Tokenizer

STREAMS, PROMPT, ANSWER = 16, 30, 64
BURSTS, SHORT = 12, 4  # a round, and tokens of their answers
IDLE = 2000
BARE = ("--guard", "off", "--no-audit")  # what these cost: hanok.bench.guard
SILENT = ("--log-level", "error")
_LIMITS = ("requests_per_minute=1000000", "completion_tokens_per_minute=1000000000", "concurrency=1000")


def run(
    *, quick: bool = False, rounds: int | None = None, folder: Path = Path("runs/bench"), shape: ModelConfig = SHAPE,
    name: str = "qwen3-0.6b-random", idle: int = IDLE, kind: str = "int4",
) -> Rows:  # fmt: skip
    """Rows `service/streams16`, `service/first-token`, `service/first-token/burst16`, `service/added` and
    `service/accounts` of both, `service/idle`.

    Args:
        shape, name: of the model, made if it is not in the folder. idle: connections that do nothing.
    """
    rounds = rounds or (1 if quick else 5)
    directory = make_chat_model(folder, shape, name)
    tokenizer = Tokenizer.load(directory)
    idle = _room_for(idle)
    alone: list[Load] = []
    busy: list[Load] = []
    crowded: list[Load] = []
    plain: list[Load] = []
    bursts: dict[str, list[float]] = {"service": [], "engine": []}
    extra: dict[str, list[list[float]]] = {f"streams{STREAMS}": [], f"burst{STREAMS}": []}
    without: dict[str, list[list[float]]] = {case: [] for case in extra}
    (folder / "service").mkdir(parents=True, exist_ok=True)
    store = folder / "service" / f"{secrets.token_hex(4)}.sqlite"
    key = make_key(store)
    for number in range(rounds):
        prompts, more, warm = (
            prompts_of(tokenizer, count, seed=1000 * number + seed)
            for seed, count in enumerate(
                (STREAMS * (1 if quick else 3), STREAMS * (1 if quick else 3), STREAMS)
            )
        )
        sudden = bursts_of(tokenizer, 2 if quick else BURSTS, seed=1000 * number + 3)
        log.info("round %d of %d: the engine alone", number + 1, rounds)
        load, firsts = _engine(directory, kind, prompts, warm, sudden)
        alone.append(load)
        bursts["engine"].append(middle(firsts))
        log.info("round %d of %d: the service", number + 1, rounds)
        times = folder / "service" / "moments.json"
        with running(server(directory, kind, store, key, BARE, times=times)) as started:
            api = with_key(chat_api(directory.name), key)
            put_light_load(started.base, api, warm, streams=STREAMS, tokens=ANSWER)
            busy.append(put_light_load(started.base, api, prompts, streams=STREAMS, tokens=ANSWER))
            burst_loads = put_bursts(started.base, api, sudden, tokens=SHORT)
            bursts["service"].append(middle([load.first for load in burst_loads]))
            with _idle(started.base, idle):
                crowded.append(put_light_load(started.base, api, more, streams=STREAMS, tokens=ANSWER))
        _note(extra, busy[-1:], burst_loads, times)
        log.info("round %d of %d: the service without keys, limits, accounts and log", number + 1, rounds)
        with running(server(directory, kind, store, None, (*BARE, *SILENT), times=times)) as started:
            api = chat_api(directory.name)
            put_light_load(started.base, api, warm, streams=STREAMS, tokens=ANSWER)
            plain.append(put_light_load(started.base, api, prompts, streams=STREAMS, tokens=ANSWER))
            plain_bursts = put_bursts(started.base, api, sudden, tokens=SHORT)
        _note(without, plain[-1:], plain_bursts, times)
    rows = _rows(alone, busy, crowded, idle, with_key=key is not None)
    rows.insert(2, first_token_row("service", bursts["service"], {"engine alone": bursts["engine"]}))
    rows[3:3] = [added.row(f"service/added/{case}", rounds) for case, rounds in extra.items()]
    rows[5:5] = [
        compare(
            f"service/accounts/streams{STREAMS}", "tokens a second in all", [load.rate for load in busy],
            {"without": [load.rate for load in plain]},
        ),
        *(
            added.row(f"service/accounts/added/{case}", rounds, {"without": without[case]})
            for case, rounds in extra.items()
        ),
    ]  # fmt: skip
    present("What the service costs", rows, folder / "service")
    return rows


def _note(
    found: Mapping[str, list[list[float]]], steady: Sequence[Load], bursts: Sequence[Load], times: Path
) -> None:
    """What was added at the first token of each request of this round."""
    moments = timed_serve.read(times)
    found[f"streams{STREAMS}"].append(added.milliseconds(steady, moments))
    found[f"burst{STREAMS}"].append(added.milliseconds(bursts, moments))


def _rows(
    alone: Sequence[Load], busy: Sequence[Load], crowded: Sequence[Load], idle: int, *, with_key: bool
) -> Rows:
    def firsts(loads: Sequence[Load]) -> list[float]:
        return [1e3 * load.first_token(0.5) for load in loads]

    paired = [mine - theirs for mine, theirs in zip(firsts(busy), firsts(alone), strict=True)]
    return [
        compare(
            f"service/streams{STREAMS}", "tokens a second in all", [load.rate for load in busy],
            {"engine alone": [load.rate for load in alone]}, with_key=with_key,
            cost_share=round(1 - sum(load.rate for load in busy) / sum(load.rate for load in alone), 4),
        ),
        compare(
            f"service/first-token/streams{STREAMS}", "milliseconds, median of the requests", firsts(busy),
            {"engine alone": firsts(alone)}, smaller=True, cost_ms=round(sorted(paired)[len(paired) // 2], 2),
        ),
        compare(
            f"service/idle{idle}/streams{STREAMS}", f"tokens a second beside {idle} idle connections",
            [load.rate for load in crowded], {"without them": [load.rate for load in busy]},
        ),
    ]  # fmt: skip


def first_token_row(
    name: str, ours: Sequence[float], theirs: Mapping[str, Sequence[float]]
) -> dict[str, Any]:
    """Args: ours, theirs: milliseconds, one number a round."""
    (peer,) = theirs.values()
    paired = [mine - other for mine, other in zip(ours, peer, strict=True)]
    return compare(
        f"{name}/first-token/burst{STREAMS}", "milliseconds, median of bursts of requests at once", ours, theirs, smaller=True,
        cost_ms=round(statistics.median(paired), 2), costs_ms=[round(one, 2) for one in paired],
    )  # fmt: skip


def middle(bursts: Sequence[Sequence[float]]) -> float:
    """Milliseconds: the median of the bursts' medians."""
    return 1e3 * statistics.median(statistics.median(burst) for burst in bursts)


def bursts_of(tokenizer: Tokenizer, count: int, *, seed: int) -> list[list[Prompt]]:
    prompts = prompts_of(tokenizer, STREAMS * count, seed=seed)
    return [prompts[start : start + STREAMS] for start in range(0, len(prompts), STREAMS)]


def prompts_of(tokenizer: Tokenizer, count: int, *, seed: int) -> list[Prompt]:
    texts = random_prompts(tokenizer, count, PROMPT, seed=seed)
    return [Prompt(text, chat_ids(tokenizer, text)) for text in texts]


def _engine(
    directory: Path, kind: str, prompts: Sequence[Prompt], warm: Sequence[Prompt], bursts: Sequence[Sequence[Prompt]]
) -> tuple[Load, list[list[float]]]:  # fmt: skip
    settings = {
        "kind": kind, "threads": torch.get_num_threads(), "streams": STREAMS, "tokens": ANSWER,
        "prompts": [list(one.ids) for one in prompts], "warm": [list(one.ids) for one in warm],
        "bursts": [[list(one.ids) for one in burst] for burst in bursts], "burst_tokens": SHORT,
    }  # fmt: skip
    found = process("engine_side", directory, settings)
    return Load(found["seconds"], ANSWER * len(prompts), tuple(found["first"])), found["bursts"]


def server(
    directory: Path, kind: str, store: Path, key: str | None, options: Sequence[str], *, times: Path | None = None
) -> Server:  # fmt: skip
    """Args: times: where the engine's moments of each request are written when it ends (`hanok.bench.timed_serve`)."""
    program = ["hanok"] if times is None else ["hanok.bench.timed_serve", str(times)]
    command = [sys.executable, "-m", *program, "serve", str(directory), "--port", "{port}", "--weights", kind,
               "--speculation", "off", "--log-format", "json", "--keep-alive-seconds", "3600", *options]  # fmt: skip
    if key is not None:
        command += ["--store", str(store)]
    return Server(
        "service",
        command,
        chat_api(directory.name),
        environment={"OMP_NUM_THREADS": str(torch.get_num_threads())},
    )


def make_key(store: Path) -> str | None:
    """Of a user with limits; None where this version has no keys."""
    limits = [word for limit in _LIMITS for word in ("--limit", limit)]
    command = [
        sys.executable,
        "-m",
        "hanok",
        "keys",
        "create",
        "bench",
        "--store",
        str(store),
        *limits,
        "--json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        log.warning("no key: %s", done.stderr.strip()[-200:])
        return None
    return json.loads(done.stdout[done.stdout.index("{") :])["secret"]


def with_key(api: Api, key: str | None) -> Api:
    return api if key is None else replace(api, headers={"Authorization": f"Bearer {key}"})


@contextlib.contextmanager
def _idle(base: str, count: int) -> Iterator[None]:
    """Connections that asked once and keep still."""
    address = urlsplit(base)
    with contextlib.ExitStack() as held:
        for _ in range(count):
            client = held.enter_context(
                socket.create_connection((address.hostname or "", address.port or 80))
            )
            client.sendall(f"GET /healthz HTTP/1.1\r\nHost: {address.netloc}\r\n\r\n".encode())
            if not client.recv(1 << 12).startswith(b"HTTP/1.1 200"):
                raise RuntimeError("a connection that was to be idle was refused")
        yield


def _room_for(connections: int) -> int:
    """So many, or as many as this process may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + 256
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))
    return min(connections, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 256)


@stoppable
def main() -> None:
    command_line(__doc__, run, rounds="5, or 1 with --quick")


if __name__ == "__main__":
    main()
