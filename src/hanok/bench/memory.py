"""Claim: at the shape of Qwen3-0.6B (random weights) the engine takes at most 1.15 times its weights and the declared cache once
that is full, beside what Python and PyTorch take by themselves; and a further start takes less than 2 seconds.

A start is the making of an engine that can be asked, in a new process, with a tokeniser of 151,936 tokens; the model's file is
in the system's file cache. What Python takes to import PyTorch before that is told apart. The first start packs the weights;
further ones find them packed (`hanok.engine.images`), bfloat16 excepted, which is copied every time. Each round has a cache
folder of its own. The key-value cache is filled by prompts that share nothing.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hanok.bench.decode import SHAPE
from hanok.bench.outcome import Rows, command_line, compare, present
from hanok.bench.sides import OURS, Side
from hanok.bench.stopped import stoppable
from hanok.bench.words import make_chat_model
from hanok.errors import ConfigError
from hanok.models.config import ModelConfig
from hanok.reporting import log

KINDS = ("int4", "int8", "bf16")
MOST, FURTHER = 1.15, 2.0  # times weights and cache; seconds
_MIB = 1 << 20


def run(
    *, quick: bool = False, kinds: tuple[str, ...] = KINDS, rounds: int | None = None, folder: Path = Path("runs/bench"),
    shape: ModelConfig = SHAPE, name: str = "qwen3-0.6b-random", cache_mib: int | None = None,
) -> Rows:  # fmt: skip
    """Rows as `outcome.compare` makes them: `memory/<kind>/<when>` in MiB and `start/<kind>/<which>` in seconds.

    Args:
        shape, name: of the model, made if it is not in the folder. cache_mib: of keys and values.

    Raises:
        ConfigError: a system without /proc.
    """
    if not Path("/proc/self/status").is_file():
        raise ConfigError("this system tells no resident size in /proc", remedy="run this on Linux")
    directory = make_chat_model(folder, shape, name)
    rounds = rounds or (1 if quick else 3)
    cache = (cache_mib or (128 if quick else 512)) * _MIB
    rows: Rows = []
    for kind in kinds:
        first, further = [], []
        for number in range(rounds):
            log.info("%s, round %d of %d", kind, number + 1, rounds)
            with tempfile.TemporaryDirectory(dir=folder) as images:
                settings = {"kind": kind, "cache": cache}
                side = Side(OURS, "memory_side", directory, settings, {"HANOK_CACHE": images})
                first.append(side.measure(began=time.time(), fill=False))
                further.append(side.measure(began=time.time(), fill=True))
        rows += _rows(kind, first, further)
    present("Memory in MiB, and seconds to start", rows, folder / "memory")
    return rows


def _rows(kind: str, first: Sequence[dict[str, Any]], further: Sequence[dict[str, Any]]) -> Rows:
    bare = [one["bare"] / _MIB for one in further]

    def memory(when: str, declared: float) -> dict[str, Any]:
        own = [(one[when] - one["bare"]) / _MIB for one in further]
        return compare(
            f"memory/{kind}/{when}", "MiB beside Python and PyTorch", own, {f"{MOST} x declared": [MOST * declared]},
            smaller=True, times=round(max(own) / declared, 3), python_and_torch=round(max(bare), 1),
        )  # fmt: skip

    weights, cache = further[0]["weights"] / _MIB, further[0]["cache"] / _MIB
    starts = {
        "first": ([one["load"] for one in first], {}),
        "further": ([one["load"] for one in further], {"the aim": [FURTHER]}),
    }
    return [
        memory("loaded", weights),
        memory("full", weights + cache),
        *(
            compare(f"start/{kind}/{which}", "seconds to make an engine", seconds, aim, smaller=True, digits=2,
                    imports=_seconds(given, "imported"), from_process_start=_seconds(given, "ready"))
            for (which, (seconds, aim)), given in zip(starts.items(), (first, further), strict=True)
        ),
    ]  # fmt: skip


def _seconds(found: Sequence[dict[str, Any]], key: str) -> float:
    return round(sorted(one[key] for one in found)[len(found) // 2], 2)


@stoppable
def main() -> None:
    command_line(__doc__, run, rounds="3, or 1 with --quick", kinds=(KINDS, KINDS))


if __name__ == "__main__":
    main()
