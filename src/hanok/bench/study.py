"""The command line that studies on a finished run over the village share: ways compared by seed, chosen on questions apart."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path


def study_parser(
    description: str | None, folder: Path, choices: Iterable[str], *, choose: str, seeds: Sequence[int] = (1, 2, 3)
) -> argparse.ArgumentParser:  # fmt: skip
    """Args: folder: what is kept between runs of it, by default. choices: names of ways. choose: what `--choose` does."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--run", type=Path, default=Path("runs/quickstart"), help="a finished run over the village"
    )
    parser.add_argument("--folder", type=Path, default=folder)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(seeds))
    parser.add_argument("--choose", action="store_true", help=choose)
    parser.add_argument("--ways", nargs="+", choices=list(choices), default=None)
    parser.add_argument("--json", action="store_true")
    return parser
