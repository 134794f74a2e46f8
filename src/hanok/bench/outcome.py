"""What the benchmarks of the engine hand over: rows of medians, a table, and a page with a plot and the same as JSON."""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hanok.reporting import Report, log, table

Rows = list[dict[str, Any]]
COLUMNS = {
    "case": "case",
    "ours": "ours",
    "peer": "peer",
    "theirs": "theirs",
    "ratio": "ratio",
    "spread": "spread",
}


def compare(
    case: str, metric: str, ours: Sequence[float], theirs: Mapping[str, Sequence[float]], *, smaller: bool = False,
    digits: int = 1, **more: Any,
) -> dict[str, Any]:  # fmt: skip
    """A row {case, metric, ours, peer, theirs, ratio, runs, spread, peers, ...}: medians, against the best of the peers.

    Args:
        ours, theirs: one number a round. smaller: whether less is better; `ratio` above 1 is always in our favour.
    """
    medians = {name: statistics.median(found) for name, found in theirs.items() if found}
    best = (min if smaller else max)(medians, key=medians.__getitem__, default=None)
    mine = statistics.median(ours)
    row: dict[str, Any] = {
        "case": case, "metric": metric, "ours": round(mine, digits), "peer": best or "none", "theirs": None, "ratio": None,
        "runs": len(ours), "spread": spread(ours),
    }  # fmt: skip
    if best is not None:
        peer = medians[best]
        row |= {"theirs": round(peer, digits), "ratio": round(peer / mine if smaller else mine / peer, 2)}
    row["peers"] = {
        name: {"median": round(medians[name], digits), "spread": spread(theirs[name])} for name in medians
    }
    return row | more


def spread(values: Sequence[float]) -> float:
    """Between the largest and the smallest, of the median."""
    middle = statistics.median(values)
    return round((max(values) - min(values)) / middle, 3) if middle else 0.0


def present(
    title: str, rows: Rows, folder: Path, *, absent: Mapping[str, str] | None = None, columns: Mapping[str, str] = COLUMNS,
) -> None:  # fmt: skip
    """Print the table and write `report.html` and `report.json` into the folder.

    Args:
        absent: peers that could not be measured, and why. columns: of a row to their headings.
    """
    cells = [[row.get(key) for key in columns] for row in rows]
    table(title, list(columns.values()), cells)
    report = Report(title)
    report.add_table("Results", list(columns.values()), cells)
    peers = [
        (row["case"], name, found["median"], found["spread"])
        for row in rows for name, found in row.get("peers", {}).items()
    ]  # fmt: skip
    if peers:
        report.add_table("Every peer", ("case", "peer", "median", "spread"), peers)
    for name, why in (absent or {}).items():
        log.warning("not measured: %s (%s)", name, why)
    if absent:
        report.add_table("Not measured", ("peer", "why"), list(absent.items()))
    report.add_plot("Ours and the best peer", _bars(rows))
    report.add_json({"rows": rows, "absent": dict(absent or {}), "machine": _machine()})
    folder.mkdir(parents=True, exist_ok=True)
    report.write(folder)
    log.info("page: %s", folder / "report.html")


def command_line(
    doc: str | None, run: Callable[..., Rows], *, rounds: str = "", folder: str = "runs/bench",
    quick: str = "a version of some minutes at most", **choices: tuple[Sequence[str], Sequence[str]],
) -> None:  # fmt: skip
    """What a file of `benchmarks/` does: --quick, --json, --folder, and the options that are named.

    Args:
        rounds: the default of --rounds, in words; "": `run` knows no rounds. quick: what --quick leaves out.
        choices: option to (all values, those by default).
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--json", action="store_true", help="print rows as JSON on standard output")
    if rounds:
        parser.add_argument("--rounds", type=int, help=f"default: {rounds}")
    parser.add_argument("--folder", type=Path, default=Path(folder), help="of models and reports")
    for name, (known, default) in choices.items():
        parser.add_argument(f"--{name}", nargs="+", choices=known, default=list(default))
    given = vars(parser.parse_args())
    as_json = given.pop("json")
    rows = run(**{name: tuple(value) if name in choices else value for name, value in given.items()})
    if as_json:
        print(json.dumps(rows))


def tell_steps() -> None:
    """What is logged on the way goes to standard error, as under `hanok bench`: for files of `benchmarks/` that run for long."""
    logging.basicConfig(format="%(message)s")
    log.setLevel(logging.INFO)


def shown(value: Any) -> Any:
    """As a cell of a table: numbers to three digits, nothing for None."""
    return "" if value is None else round(value, 3) if isinstance(value, float) else value


def _bars(rows: Rows) -> Any:
    """Each case's ratio; 1 is the peer."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    known = [row for row in rows if row["ratio"] is not None][::-1]
    figure, axis = plt.subplots(figsize=(8, 1.0 + 0.36 * max(1, len(known))), layout="constrained")
    axis.barh([row["case"] for row in known], [row["ratio"] for row in known], color="#2f6f5e")
    for place, row in enumerate(known):
        axis.annotate(f" {row['ratio']:g}  ({row['peer']})", (row["ratio"], place), va="center", fontsize=8)
    axis.axvline(1.0, color="#6a716c", linewidth=1)
    axis.set(xlabel="times the best peer (above 1: ours is better)", xlim=(0, None))
    axis.margins(x=0.45)
    plt.close(figure)
    return figure


def _machine() -> dict[str, Any]:
    import torch

    model = next(
        (line.split(":", 1)[1].strip() for line in _cpu_lines() if line.startswith("model name")), platform.machine()
    )  # fmt: skip
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def _cpu_lines() -> list[str]:
    file = Path("/proc/cpuinfo")
    return file.read_text().splitlines() if file.is_file() else []
