"""Claim: decoding heads cost at most 2 % of decoding at the shape of Qwen3-0.6B and 8 % at 5 million parameters.

Random weights, one stream, guessing ahead switched off. The heads are set to one law (temperature 0.1, top-p 0.5), and the peer
is the same engine drawing from that law without them: tokens are equal, so all that differs is what the heads compute.
Answers of both take turns, and each pair gives one ratio; the claim is of the medians. Processor time stands beside wall-clock
time: it says the same on one thread, whoever else is at work.
"""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from hanok.artefacts import create_artefact
from hanok.bench.decode import SHAPE
from hanok.bench.outcome import Rows, command_line, compare, present
from hanok.bench.small import KINDS, SMALL
from hanok.bench.stopped import stoppable
from hanok.bench.words import make_chat_model
from hanok.engine.api import Request, SamplingParams
from hanok.engine.backend import Weights
from hanok.engine.generator import LocalEngine
from hanok.models.checkpoint import load_config
from hanok.models.checkpoint.decoding import backbone_hash, save_heads
from hanok.models.config import ModelConfig
from hanok.models.decoding import DecodingHeads

SHAPES: Mapping[str, tuple[ModelConfig, str]] = {
    "0.6b": (SHAPE, "qwen3-0.6b-random"), "5m": (SMALL, "qwen3-5m-random")
}  # fmt: skip
AIMS = {"0.6b": 0.02, "5m": 0.08}  # of decoding, at most
TOKENS = {"0.6b": 48, "5m": 512}  # of an answer
CLOCKS = ("wall", "processor")
TEMPERATURE, TOP_P = 0.1, 0.5
_PROMPT = 16


def run(
    *, quick: bool = False, rounds: int | None = None, folder: Path = Path("runs/bench"), kinds: tuple[Weights, ...] = ("int4",),
    sizes: tuple[str, ...] = tuple(AIMS), shapes: Mapping[str, tuple[ModelConfig, str]] = SHAPES,
) -> Rows:  # fmt: skip
    """Rows as `outcome.compare` makes them, with `added`: the median share that the heads add to an answer's time.

    Args:
        rounds: pairs of answers. shapes: size to the shape and name of a model, made if it is not in the folder.
    """
    rounds = rounds or (8 if quick else 24)
    rows: Rows = []
    for size in sizes:
        directory = with_heads(make_chat_model(folder, *shapes[size]))
        tokens = TOKENS[size] // (4 if quick else 1)
        for kind in kinds:
            engine = LocalEngine(directory, weights=kind, max_running=1, speculation="off")
            found = _in_turns(engine, rounds, tokens)
            engine.close()
            rows += [_row(f"{size}/{kind}/{clock}", found, clock, AIMS[size]) for clock in CLOCKS]
    columns = {
        "case": "case", "ours": "with heads, ms a token", "theirs": "without", "added": "added (median of pairs)",
        "aim": "at most", "spread": "spread",
    }  # fmt: skip
    present("What decoding heads cost", rows, folder / "decoding-cost", columns=columns)
    return rows


def _row(case: str, found: Mapping[str, list[dict[str, float]]], clock: str, aim: float) -> dict[str, Any]:
    ours, theirs = ([one[clock] for one in found[way]] for way in ("heads", "fixed"))
    added = statistics.median(mine / other - 1 for mine, other in zip(ours, theirs, strict=True))
    return compare(
        case, "ms a token", ours, {"without": theirs}, smaller=True, digits=4, added=round(added, 4), aim=aim
    )


def with_heads(model: Path) -> Path:
    """The same files with heads beside them that say `TEMPERATURE` and `TOP_P` of every token, made once."""
    directory = model.with_name(f"{model.name}-heads")
    if not directory.is_dir():
        with create_artefact(directory, kind="model", step={"of": model.name}) as draft:
            for file in model.iterdir():
                if file.name != "artefact.json":
                    os.link(file, draft.path / file.name)
            save_heads(
                _constant(load_config(model).hidden_size), draft.path, backbone=backbone_hash(draft.path)
            )
    return directory


@torch.no_grad()
def _constant(width: int) -> DecodingHeads:
    """Their last layers are zero but for the bias."""
    heads = DecodingHeads(width, generator=torch.Generator().manual_seed(0))
    for head, share in ((heads.temp_head, TEMPERATURE / 2), (heads.top_p_head, TOP_P)):
        head.get_parameter("mlp.2.bias").fill_(math.log(share / (1 - share)))
    return heads


def _in_turns(engine: LocalEngine, rounds: int, tokens: int) -> dict[str, list[dict[str, float]]]:
    """Of each way, milliseconds a token of each answer by both clocks; a first pair is for the caches."""
    ways: dict[str, dict[str, Any]] = {
        "heads": {}, "fixed": {"temperature": TEMPERATURE, "top_p": TOP_P, "decoding": "fixed"},
    }  # fmt: skip
    found: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        answers = {}
        for name in list(ways)[:: 1 if number % 2 else -1]:
            request = Request(
                id=f"{name}-{number}", prompt_ids=[300 + number, *range(301, 300 + _PROMPT)],
                params=SamplingParams(max_tokens=tokens, ignore_eos=True, seed=number, **ways[name]),
            )  # fmt: skip
            wall, processor = time.perf_counter(), time.process_time()
            (answer,) = engine.generate([request])
            taken = {"wall": time.perf_counter() - wall, "processor": time.process_time() - processor}
            answers[name] = answer
            if number:
                found[name].append({clock: 1000 * seconds / tokens for clock, seconds in taken.items()})
        assert answers["heads"].decoding is not None, "the heads did not choose"
        assert answers["heads"].ids == answers["fixed"].ids, "the heads say another law"
    return found


@stoppable
def main() -> None:
    command_line(
        __doc__,
        run,
        rounds="24, or 8 with --quick",
        kinds=(KINDS, ("int4",)),
        sizes=(tuple(AIMS), tuple(AIMS)),
    )
