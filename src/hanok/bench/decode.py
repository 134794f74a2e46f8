"""Claim: at the shape of Qwen3-0.6B (random weights) one stream decodes, at 512 and 4,096 tokens of context, at least 2.3 times
as fast as llama.cpp with weights of 8 and 4 bits and 1.25 times with bfloat16; at 64 tokens 1.4, 1.6 and 1.15 times.

The peer is llama.cpp through llama-cpp-python, built for this processor (`make peers`), timed around its own decode call, with
the better of Q4_0 and Q4_K_M and flash attention on or off, whichever is faster. Ours and the peer's processes take turns.

`--caches int8` keeps our keys and values in 8 bits, in cases of their own (`.../cache-int8`); the peer then has 16 or 8 bits
(Q8_0) for its own, whichever is faster. `--groups 128` decodes from a file of four bits whose layers have a scale for 128 inputs,
as GPTQ's and AWQ's files mostly do (`.../group-128`): 4.125 bits a weight there, 4.5 in the head.
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from hanok.artefacts import create_artefact
from hanok.bench.llama_peer import FILE_TYPES, quantise_gguf
from hanok.bench.outcome import command_line, compare, present
from hanok.bench.stopped import stoppable
from hanok.kernels.formats import quantise
from hanok.models.checkpoint import FileCodes, load_model, save_model, save_quantised
from hanok.models.checkpoint.gguf import save_gguf
from hanok.models.config import ModelConfig
from hanok.models.decoder import Decoder
from hanok.models.linear import Linear
from hanok.reporting import log

SHAPE = ModelConfig(
    vocab_size=151_936, hidden_size=1024, num_layers=28, pattern=("gqa",), num_heads=16, num_kv_heads=8, head_dim=128,
    intermediate_size=3072, max_context=40_960, rope_theta=1e6, qk_norm=True, norm_eps=1e-6, family="qwen3",
)  # fmt: skip
PEERS = {"bf16": ("BF16",), "int8": ("Q8_0",), "int4": ("Q4_0", "Q4_K_M")}


def run(
    *,
    quick: bool = False,
    kinds: tuple[str, ...] = ("int4", "int8", "bf16"),
    caches: tuple[str, ...] = ("bf16",),
    groups: tuple[str, ...] = ("32",),
    rounds: int | None = None,
    folder: Path = Path("runs/bench"),
) -> list[dict[str, Any]]:
    """Rows {case, metric, ours, peer, theirs, ratio, runs, spread}; tokens a second, medians; spread of the rounds."""
    directory = make_model(folder)
    files = make_gguf(directory, folder)
    rounds = rounds or (1 if quick else 3)
    settings = {
        "threads": torch.get_num_threads(), "contexts": [64, 512] if quick else [64, 512, 4096],
        "steps": 12 if quick else 24, "prompts": [], "repeats": 1,
        "streams": [8] if quick else [8, 16],
    }  # fmt: skip
    found: list[dict[str, Any]] = []
    for kind, cache, group in itertools.product(kinds, caches, groups):
        if group != "32" and kind != "int4":
            log.info("no file of %s in groups of %s: left out", kind, group)
            continue
        ours_from = directory if group == "32" else make_codes(directory, int(group))
        ours: list[dict[str, Any]] = []
        theirs: dict[str, list[dict[str, Any]]] = {}
        for number in range(rounds):
            log.info("%s, groups of %s, cache of %s, round %d of %d", kind, group, cache, number + 1, rounds)
            ours.append(process("native_side", ours_from, settings | {"kind": kind, "cache": cache}))
            for name in PEERS[kind] if files else ():
                for words, way in _ways(cache).items():
                    result = process("llama_peer", files[name], settings | way)
                    theirs.setdefault(f"llama.cpp {name}{words}", []).append(result)
        marks = ("" if cache == "bf16" else f"/cache-{cache}", "" if group == "32" else f"/group-{group}")
        found += _rows(kind, ours, theirs, "".join(marks))
    present("Decoding, tokens a second", found, folder / "decode")
    return found


def _ways(cache: str) -> dict[str, dict[str, Any]]:
    """Of the peer, with what is said of them."""
    plain = {"": {"flash": False, "cache": "f16"}, ", flash": {"flash": True, "cache": "f16"}}
    return plain if cache == "bf16" else {**plain, ", flash, cache Q8_0": {"flash": True, "cache": "q8_0"}}


def make_model(folder: Path, shape: ModelConfig = SHAPE, name: str = "qwen3-0.6b-random") -> Path:
    """A random model as a directory in bfloat16, made once."""
    directory = folder / name
    if not directory.is_dir():
        log.info("making a random model of %s", directory.name)
        with torch.device("meta"):
            empty = Decoder(shape)
        model = empty.to_empty(device="cpu").to(torch.bfloat16).requires_grad_(False)
        generator = torch.Generator().manual_seed(0)
        for parameter in model.parameters():
            parameter.fill_(1) if parameter.dim() == 1 else parameter.normal_(0, 0.02, generator=generator)
        with create_artefact(directory, kind="model", step={"seed": 0}) as draft:
            save_model(model, draft.path)
    return directory


def make_codes(directory: Path, group: int) -> Path:
    """The same model with its layers in four bits, rounded to the nearest, made once."""
    made = directory.with_name(f"{directory.name}-int4-{group}")
    if not made.is_dir():
        log.info("rounding %s in groups of %d", directory.name, group)
        model = load_model(directory, dtype="stored").requires_grad_(False)
        codes = {
            f"layers.{name}.weight": FileCodes.of(quantise(module.weight, 4, group))
            for name, module in model.layers.named_modules()
            if isinstance(module, Linear)
        }
        with create_artefact(made, kind="model", step={"group": group}) as draft:
            save_quantised(model, draft.path, bits=4, codes=codes)
    return made


def make_gguf(directory: Path, folder: Path, tokenizer: Mapping[str, str] | None = None) -> dict[str, Path]:
    """The same model in the peer's formats, by the peer's own quantiser; empty where it is not installed.

    Args:
        tokenizer: files of one to put in, for programs that want text.
    """
    if find_spec("llama_cpp") is None:
        log.warning("llama-cpp-python is not installed: no peer (make peers)")
        return {}
    plain = folder / f"{directory.name}-BF16.gguf"
    if not plain.is_file():
        save_gguf(load_model(directory, dtype="stored"), plain, kind="BF16", tokenizer=tokenizer)
    made = {name: quantise_gguf(plain, folder / f"{directory.name}-{name}.gguf", name) for name in FILE_TYPES}
    return {"BF16": plain, **made}


def process(
    side: str, model: Path, settings: Mapping[str, Any], environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """What a side measures, in a process of its own. `environment`: besides this one's."""
    command = [sys.executable, "-m", f"hanok.bench.{side}", str(model), json.dumps(settings)]
    around = {**os.environ, "OMP_NUM_THREADS": str(settings["threads"]), **(environment or {})}
    done = subprocess.run(command, capture_output=True, text=True, env=around, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[2:4])}: exit {done.returncode}: {done.stderr[-2000:]}")
    return json.loads(done.stdout)


def _rows(
    kind: str, ours: list[dict[str, Any]], theirs: Mapping[str, list[dict[str, Any]]], suffix: str
) -> list[dict[str, Any]]:
    def rates(results: list[dict[str, Any]], group: str, key: str, tokens: int) -> list[float]:
        return [tokens / statistics.median(result[group][key]) for result in results]

    cases = [
        ("decode", length, 1, f"decode/{kind}/ctx{length}/streams1") for length in ours[0]["decode"]
    ] + [
        ("streams", count, int(count), f"decode/{kind}/ctx30/streams{count}") for count in ours[0]["streams"]
    ]  # fmt: skip
    return [
        compare(
            case + suffix, "decode, tokens a second", rates(ours, group, key, tokens),
            {label: rates(results, group, key, tokens) for label, results in theirs.items()},
        )
        for group, key, tokens, case in cases
    ]  # fmt: skip


@stoppable
def main() -> None:
    command_line(
        __doc__,
        run,
        rounds="3, or 1 with --quick",
        kinds=(sorted(PEERS), ("int4", "int8", "bf16")),
        caches=(["bf16", "int8"], ("bf16",)),
        groups=(["32", "128"], ("32",)),
    )


if __name__ == "__main__":
    main()
