"""Claim: with a threshold that training sets, four of five Korean attacks are found, and neither a register of honest Korean nor
honest talk of attacks pays for it; in every disguise nine tenths as many, and orders in documents likewise, where a share of the
benign rows at hand sets the threshold.

Public rows (`safety-dev`), five folds over groups, by `hanok guard test`, whose command is printed; its tables are by set,
language, register and disguise, with milliseconds, personal data, and what somebody who sees scores gets by. The detector of
documents is taught ordinary text too: news and encyclopaedia in both languages, and answers of assistants, which advise people
and give no model orders. Trained whole, it then reads honest documents of kinds that are new to it: tables and Korean articles.
"""

from __future__ import annotations

import gzip
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hanok.artefacts.files import write_jsonl
from hanok.bench.documents_data import korquad
from hanok.bench.outcome import Rows, command_line, tell_steps
from hanok.bench.stopped import stoppable
from hanok.errors import InputError
from hanok.evaluation.statistics import wilson
from hanok.guard.linear import LinearDetector
from hanok.reporting import log, table

_PROSE = (
    "ntrex-128/newstest2019-src.eng.txt", "ntrex-128/newstest2019-ref.kor.txt",
    "korean-parallel-corpora/korean-english-park.dev.en", "korean-parallel-corpora/korean-english-park.dev.ko",
    "korean-parallel-corpora/jhe-koen-dev.en", "korean-parallel-corpora/jhe-koen-dev.ko",
)  # fmt: skip
_USERS = ("ko_registers", "harmless_instr", "ko_square_q")


def run(*, quick: bool = False, folder: Path = Path("runs/bench")) -> Rows:
    """Rows of the trained detectors on honest documents; the tables of `hanok guard test` go to standard error."""
    data = Path(os.environ.get("HANOK_DATA", "../shared/data"))
    rows = data / "safety-dev" / "rows.jsonl"
    if not rows.is_file():
        raise InputError(f"no file {rows}", remedy="set HANOK_DATA to the folder of public data sets")
    place = folder / "orders"
    place.mkdir(parents=True, exist_ok=True)
    ordinary = place / "ordinary.jsonl"
    write_jsonl(ordinary, ({"text": text} for text in ordinary_texts(data)))
    asked = ["--rows", str(rows), "--task", "inj", "--documents", "bipia_email", "--ordinary", str(ordinary)]
    more = ["--no-disguises"] if quick else ["--attackers", "60"]
    tested = _hanok("test", *asked, "--sets", *_USERS, "notinject", "bipia_email", "--untrained", "notinject",
                    "--on", "ko_registers", "--personal", str(data / "safety-dev" / "ko_pii.json"), *more)  # fmt: skip
    (place / "test.json").write_text(json.dumps(tested, ensure_ascii=False, indent=1), encoding="utf-8")
    trained = _hanok("train", *asked, "--sets", *_USERS, "bipia_email", "--name", "documents", "--out", str(place),
                     "--false-alarms", "0.05")  # fmt: skip
    found = list(_honest(LinearDetector.load(Path(trained["detector"])), data))
    table("honest documents of other kinds", _COLUMNS, [[row[key] for key in _COLUMNS] for row in found])
    return found


_COLUMNS = ("documents", "number", "flagged", "low", "high")


def ordinary_texts(data: Path) -> Iterator[str]:
    for name in _PROSE:
        yield from _some((data / name).read_text(encoding="utf-8", errors="replace").splitlines(), 400)
    with gzip.open(data / "wikitext-2" / "valid.txt.gz", "rt", encoding="utf-8") as stream:
        yield from _some([line for line in stream if line.strip()], 400)
    answers = [line for answer in _answers(data / "llamafactory-demos") for line in answer.splitlines()]
    yield from _some([line for line in answers if line.strip()], 1200)


def _some(lines: Sequence[str], most: int) -> Sequence[str]:
    """Evenly spread."""
    return lines[:: max(1, len(lines) // most)][:most]


def _answers(folder: Path) -> Iterator[str]:
    with gzip.open(folder / "dpo_en_demo.json.gz", "rt", encoding="utf-8") as stream:
        for row in json.load(stream):
            yield from (row["chosen"]["value"], row["rejected"]["value"])
    for row in json.loads((folder / "glaive_toolcall_en_demo.json").read_text(encoding="utf-8")):
        yield from (turn["value"] for turn in row["conversations"] if turn["from"] in ("gpt", "observation"))


def _honest(detector: LinearDetector, data: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(data / "bipia-train" / "table_train.jsonl.gz", "rt", encoding="utf-8") as stream:
        tables = [json.loads(line)["context"] for line in stream]
    for case, texts in (("tables (en)", tables), ("articles (ko)", korquad()[0])):
        flagged = sum(detector.judge(text).score > detector.threshold for text in texts)
        share = wilson(flagged, len(texts))
        yield {
            "documents": case, "number": len(texts), "flagged": f"{share.value:.1%}", "low": f"{share.low:.1%}",
            "high": f"{share.high:.1%}",
        }  # fmt: skip


def _hanok(*words: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "hanok", "guard", *words]
    log.info("hanok guard %s", shlex.join(words))
    wide = {**os.environ, "COLUMNS": os.environ.get("COLUMNS", "140")}
    done = subprocess.run([*command, "--json"], stdout=subprocess.PIPE, text=True, check=True, env=wide)
    return json.loads(done.stdout)


@stoppable
def main() -> None:
    tell_steps()
    command_line(__doc__, run, quick="no disguises, nothing reworded")
