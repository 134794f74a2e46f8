"""Claim: many streams over HTTP get more tokens a second in all from Hanok's server than from any other that runs on this
processor, at the shape of Qwen3-0.6B with random weights.

One load client for all servers: 8 and 16 streams, each sending its next request when the last one is answered; prompts of 30
random tokens that share nothing, 64 greedy tokens behind each, the end token ignored; the reading of prompts counts. Hanok is
asked in messages that make exactly those prompts, the others with their ids. Nobody guesses ahead. llama.cpp is its own
`llama-server` (on PATH, or built by `make peers`) with the better format and flash attention on or off. The server that comes
with llama-cpp-python answers one request at a time and is no peer here. OpenVINO GenAI's continuous batching runs without HTTP,
which spares it the server's work; vLLM is asked where a `vllm` is on PATH. Servers take turns, each started anew.
"""

from __future__ import annotations

import os
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch

from hanok.bench.decode import PEERS, SHAPE, make_gguf, process
from hanok.bench.load_client import Load, Prompt, chat_api, ids_api, put_load
from hanok.bench.outcome import Rows, command_line, compare, present
from hanok.bench.servers import Server, executable, running
from hanok.bench.stopped import stoppable
from hanok.bench.words import chat_ids, make_chat_model, random_prompts, tokenizer_settings
from hanok.models.config import ModelConfig
from hanok.reporting import log
from hanok.tokens.tokenizer import Tokenizer

KINDS = ("int4", "int8", "bf16")
PROMPT, ANSWER = 30, 64
FOLDER = Path(".peers")  # where `make peers` puts programs
_SLOT = 256  # tokens of context a stream
Loads = Mapping[int, Sequence[Prompt]]  # streams to prompts


@dataclass(frozen=True, slots=True)
class Peer:
    """Somebody who takes loads, and answers each."""

    label: str
    take: Callable[[Loads], Mapping[int, Load]]


def run(
    *, quick: bool = False, kinds: tuple[str, ...] | None = None, rounds: int | None = None,
    folder: Path = Path("runs/bench"), shape: ModelConfig = SHAPE, name: str = "qwen3-0.6b-random",
    streams: tuple[int, ...] = (8, 16), peers: bool = True,
) -> Rows:  # fmt: skip
    """Rows as `outcome.compare` makes them, `serve/<kind>/streams<n>` and `first-token/<kind>/streams<n>`.

    Args:
        kinds: of our weights; default: int4 and int8, and bf16 unless it is to be quick.
        shape, name: of the model, made if it is not in the folder. peers: whether to run them.
    """
    kinds = kinds or (KINDS[:2] if quick else KINDS)
    rounds = rounds or (1 if quick else 3)
    directory = make_chat_model(folder, shape, name)
    tokenizer = Tokenizer.load(directory)
    files = make_gguf(directory, folder, tokenizer_settings(directory)) if peers else {}
    absent = _absent(files) if peers else {}
    rows: Rows = []
    for kind in kinds:
        sides = [_hanok(directory, kind, max(streams))]
        if peers:
            sides += _others(directory, kind, files, max(streams), quick=quick)
        found: dict[str, list[Mapping[int, Load]]] = {side.label: [] for side in sides}
        for number in range(rounds):
            for side in sides:
                log.info("%s, round %d of %d: %s", kind, number + 1, rounds, side.label)
                loads = {
                    count: _prompts(tokenizer, count * (1 if quick else 2), seed=1000 * number + count)
                    for count in streams
                }
                found[side.label].append(side.take(loads))
        mine = found.pop("ours")
        for count in streams:
            rows += _rows(f"{kind}/streams{count}", count, mine, found)
    present(
        "Many streams, tokens a second in all; milliseconds to the first",
        rows,
        folder / "serve",
        absent=absent,
    )
    return rows


def _prompts(tokenizer: Tokenizer, count: int, *, seed: int) -> list[Prompt]:
    texts = random_prompts(tokenizer, count, PROMPT, seed=seed)
    return [Prompt(text, chat_ids(tokenizer, text)) for text in texts]


def _hanok(directory: Path, kind: str, streams: int) -> Peer:
    command = [sys.executable, "-m", "hanok", "serve", str(directory), "--port", "{port}", "--weights", kind,
               "--speculation", "off"]  # fmt: skip
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    name = directory.name  # what `hanok serve` calls a model that belongs to no run
    return _served(Server("ours", command, chat_api(name), environment=threads))


def _others(
    directory: Path, kind: str, files: Mapping[str, Path], streams: int, *, quick: bool
) -> list[Peer]:
    peers = []
    program, threads = executable("llama-server", FOLDER / "llama.cpp"), str(torch.get_num_threads())
    if program is not None:
        for name in PEERS[kind] if files else ():
            for flash in ("auto",) if quick else ("off", "on"):
                command = [str(program), "-m", str(files[name]), "--host", "127.0.0.1", "--port", "{port}", "-np", str(streams),
                           "-c", str(_SLOT * streams), "-t", threads, "-tb", threads, "-fa", flash, "--cache-ram", "0",
                           "--no-webui"]  # fmt: skip
                peers.append(_served(Server(f"llama-server {name}, flash {flash}", command, ids_api("m"))))
    if _openvino() is not None:
        peers += [
            _openvino_peer(name, files[name]) for name in PEERS[kind][:1] if name in files and kind != "bf16"
        ]
    vllm = executable("vllm", FOLDER / "vllm")
    if vllm is not None and kind == "bf16":
        command = [str(vllm), "serve", str(directory), "--port", "{port}", "--dtype", "bfloat16", "--max-model-len", "512",
                   "--max-num-seqs", str(streams), "--no-enable-prefix-caching"]  # fmt: skip
        space = {"VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": threads}
        server = Server("vLLM", command, ids_api(str(directory)), patience=300.0, environment=space)
        peers.append(_served(server))
    return peers


def _served(server: Server) -> Peer:
    def take(loads: Loads) -> Mapping[int, Load]:
        with running(server) as started:
            put_load(started.base, server.api, next(iter(loads.values()))[:1], streams=1, tokens=ANSWER)
            return {
                count: put_load(started.base, server.api, prompts, streams=count, tokens=ANSWER)
                for count, prompts in loads.items()
            }

    return Peer(server.label, take)


def _openvino_peer(name: str, file: Path) -> Peer:
    def take(loads: Loads) -> Mapping[int, Load]:
        settings = {
            "threads": torch.get_num_threads(), "tokens": ANSWER,
            "loads": [{"streams": n, "prompts": [list(p.ids) for p in prompts]} for n, prompts in loads.items()],
        }  # fmt: skip
        paths = [str(_openvino()), os.environ.get("PYTHONPATH", "")]
        environment = {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
        found = process("openvino_peer", file.absolute(), settings, environment)["loads"]
        return {
            count: Load(load["seconds"], ANSWER * len(loads[count]), tuple(load["first"]))
            for count, load in zip(loads, found, strict=True)
        }

    return Peer(f"OpenVINO GenAI from {name}, no HTTP", take)


def _openvino() -> str | None:
    """A folder to look for it in; empty where it is installed beside us."""
    if find_spec("openvino_genai"):
        return ""
    folder = (FOLDER / "openvino").absolute()
    return str(folder) if (folder / "openvino_genai").is_dir() else None


def _absent(files: Mapping[str, Path]) -> dict[str, str]:
    absent = {"llama_cpp.server": "answers one request at a time"}
    if not files:
        absent["GGUF files"] = "llama-cpp-python, which makes them, is not installed: make peers"
    if executable("llama-server", FOLDER / "llama.cpp") is None:
        absent["llama-server"] = "not on PATH: make peers builds it"
    if _openvino() is None:
        absent["OpenVINO GenAI"] = "not installed: make peers"
    if executable("vllm", FOLDER / "vllm") is None:
        absent["vLLM"] = "no vllm on PATH"
    return absent


def _rows(
    case: str, count: int, mine: Sequence[Mapping[int, Load]], others: Mapping[str, Sequence[Mapping[int, Load]]]
) -> Rows:  # fmt: skip
    def first(found: Sequence[Mapping[int, Load]], share: float) -> list[float]:
        return [1e3 * load[count].first_token(share) for load in found]

    late = {label: round(statistics.median(first(found, 0.95)), 1) for label, found in others.items()}
    return [
        compare(
            f"serve/{case}", "tokens a second in all", [load[count].rate for load in mine],
            {label: [load[count].rate for load in found] for label, found in others.items()},
        ),
        compare(
            f"first-token/{case}", "milliseconds, median of the requests", first(mine, 0.5),
            {label: first(found, 0.5) for label, found in others.items()}, smaller=True,
            p95=round(statistics.median(first(mine, 0.95)), 1), peers_p95=late,
        ),
    ]  # fmt: skip


@stoppable
def main() -> None:
    command_line(__doc__, run, rounds="3, or 1 with --quick", kinds=(KINDS, ()))


if __name__ == "__main__":
    main()
