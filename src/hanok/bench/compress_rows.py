"""What each method of `hanok compress` costs on one trained model: perplexity on held-out text and KL to the original, for
several seeds of calibration windows where there are some.

A row is kept in a file as soon as it is measured, so that the same command goes on where it was stopped. Of what a row means, see
`compress_cases.py`; the tables are in docs/methods/compression.md.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from statistics import mean
from typing import Any

from hanok.artefacts import create_artefact, open_artefact, write_json
from hanok.bench.compress_cases import BASE, CASES, Bench, Case
from hanok.bench.outcome import Rows, tell_steps
from hanok.bench.stopped import stoppable
from hanok.compression.compress import texts_of
from hanok.errors import ConfigError
from hanok.models.checkpoint import load_model, save_model
from hanok.recipes.runs import servable_model
from hanok.reporting import log, table


def run(
    *, model: Path, shards: Path, folder: Path = Path("runs/bench/compress-rows"), only: Sequence[str] = ("*",),
    seeds: int = 3,
) -> Rows:  # fmt: skip
    """Rows {case, seeds, perplexity, kl, flipped: each the mean, the least and the largest}; those of `only` are measured, those
    that lie in the folder are all shown.

    Raises:
        ConfigError: rows of another model, or of other shards, lie in the folder.
    """
    bench = Bench(_in_bfloat16(model, folder), shards, folder)
    data = texts_of(BASE, bench.model, shards).hash
    _same_job({"model": open_artefact(bench.model).hash, "data": data}, folder)
    for seed in range(1, seeds + 1):
        for case in CASES:
            wanted = any(fnmatch(case.name, pattern) for pattern in only) and (seed == 1 or case.seeded)
            if wanted and not all(_file(folder, name, seed).is_file() for name in case.names):
                log.info("%s, seed %d", case.name, seed)
                _measured(case, bench, seed)
    names = [name for case in CASES for name in case.names]
    rows = [row for name in names if (row := _row(name, folder)) is not None]
    table(
        "perplexity against the original's, KL in nats a token, likeliest tokens that differ",
        ("case", "bits", "seeds", "perplexity, %", "KL", "differ, %"),
        [(r["case"], r["bits"], r["seeds"], _told(r["perplexity"], "+.2f"), _told(r["kl"], ".4f"), _told(r["flipped"], ".1f"))
         for r in rows],
    )  # fmt: skip
    return rows


def _measured(case: Case, bench: Bench, seed: int) -> None:
    shutil.rmtree(bench.work, ignore_errors=True)
    bench.work.mkdir(parents=True)
    for name, found in zip(case.names, case.measure(bench, seed), strict=True):
        file = _file(bench.folder, name, seed)
        file.parent.mkdir(exist_ok=True)
        write_json(file, dict(found))
        after, before = found["perplexity_after"], found["perplexity_before"]
        log.info("%s: perplexity %+.2f %%, KL %.4f", name, 100 * (after / before - 1), found["kl"])
    shutil.rmtree(bench.work)


def _file(folder: Path, name: str, seed: int) -> Path:
    return folder / "rows" / f"{name}-seed{seed}.json"


def _row(name: str, folder: Path) -> dict[str, Any] | None:
    files = sorted((folder / "rows").glob(f"{name}-seed*.json"))
    found = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    if not found:
        return None
    values = {
        "perplexity": [100 * (one["perplexity_after"] / one["perplexity_before"] - 1) for one in found],
        "kl": [one["kl"] for one in found],
        "flipped": [100 * one["likeliest_token_differs"] for one in found],
    }
    bits = found[0].get("bits")
    return {"case": name, "bits": None if bits is None else round(bits, 2), "seeds": len(found)} | {
        key: {"mean": mean(several), "least": min(several), "largest": max(several)}
        for key, several in values.items()
    }


def _told(value: Mapping[str, float], form: str) -> str:
    if value["least"] == value["largest"]:
        return f"{value['mean']:{form}}"
    return f"{value['mean']:{form}} ({value['least']:{form}} to {value['largest']:{form}})"


def _in_bfloat16(model: Path, folder: Path) -> Path:
    """What everything is compared with. Made anew where it is another model's."""
    source, stored = open_artefact(model), folder / "original"
    if stored.is_dir() and open_artefact(stored).parents != {"source": source.hash}:
        raise ConfigError(
            f"{folder} holds rows of another model", remedy="give another --folder, or delete that one"
        )
    if not stored.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        with create_artefact(stored, kind="model", parents={"source": source}) as draft:
            save_model(load_model(model).bfloat16(), draft.path, tokenizer_dir=model)
    return stored


def _same_job(job: Mapping[str, str], folder: Path) -> None:
    file = folder / "job.json"
    if not file.is_file():
        write_json(file, dict(job))
    elif json.loads(file.read_text(encoding="utf-8")) != job:
        raise ConfigError(
            f"{folder} holds rows of other data", remedy="give another --folder, or delete that one"
        )


@stoppable
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", type=Path, required=True, help="a trained model directory of the Llama kind, or a run"
    )
    parser.add_argument("--shards", type=Path, required=True)
    parser.add_argument("--folder", type=Path, default=Path("runs/bench/compress-rows"))
    parser.add_argument("--only", nargs="+", default=["*"], help="names of rows, with * and ?")
    parser.add_argument("--seeds", type=int, default=3, help="of calibration windows")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    tell_steps()
    rows = run(
        model=servable_model(given.model),
        shards=given.shards,
        folder=given.folder,
        only=given.only,
        seeds=given.seeds,
    )
    if given.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
