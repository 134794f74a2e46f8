"""The walls of docs/architecture.md: who may import whom, how long a file may be, how fast help appears."""

from __future__ import annotations

import ast
import subprocess
import sys
import time
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parent.parent / "src" / "hanok"
BELOW_ALL = {"errors", "artefacts", "reporting"}
# room -> rooms that it may import besides itself and those below all
MAY_IMPORT: dict[str, set[str]] = {
    "__main__": {"cli"},
    "errors": set(),
    "artefacts": set(),
    "reporting": set(),
    "tokens": set(),
    "chat": set(),
    "data": {"tokens"},
    "kernels": set(),
    "models": {"kernels", "tokens"},
    "sandbox": set(),
    "compression": {"kernels", "models", "tokens", "training"},
    "training": {"kernels", "models", "tokens", "sandbox", "chat"},
    "engine": {"kernels", "models", "tokens", "chat"},
    "evaluation": {"engine", "models", "kernels", "tokens", "data"},
    "store": set(),
    "documents": {"data", "tokens", "store"},
    "guard": {"store", "data"},
    "improvement": {
        "training", "evaluation", "data", "engine", "models", "kernels", "tokens", "store", "chat", "guard",
    },
    "server": {"engine", "tokens", "store", "documents", "guard", "evaluation"},
    "recipes": {"data", "models", "training", "evaluation", "improvement", "tokens", "kernels", "engine"},
    "bench": {
        "kernels", "models", "training", "engine", "evaluation", "data", "tokens", "recipes", "store", "documents",
        "compression",
    },
    "cli": {
        "recipes", "data", "models", "training", "evaluation", "engine", "server", "store", "improvement",
        "bench", "kernels", "tokens", "chat", "compression", "guard", "documents",
    },
}  # fmt: skip
# folder -> rooms that its files alone may import too
ALSO_MAY: dict[str, set[str]] = {"training/rollouts": {"engine"}}
FILES = sorted(SOURCE.rglob("*.py"))


def room_of(file: Path) -> str:
    return file.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported_rooms(file: Path) -> set[str]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("hanok."):
            names.add(node.module.split(".")[1])
        elif isinstance(node, ast.ImportFrom) and node.module == "hanok":
            names.update(alias.name for alias in node.names if (SOURCE / alias.name).is_dir())
        elif isinstance(node, ast.Import):
            names.update(alias.name.split(".")[1] for alias in node.names if alias.name.startswith("hanok."))
    return names


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_arrows_point_down(file: Path) -> None:
    room = room_of(file)
    if room == "__init__":
        assert imported_rooms(file) == set()
        return
    allowed = MAY_IMPORT[room] | {room} | ALSO_MAY.get(str(file.relative_to(SOURCE).parent), set())
    if room not in {"errors", "artefacts"}:
        allowed |= BELOW_ALL
    allowed |= {"errors"} | ({"artefacts"} if room == "reporting" else set())
    assert imported_rooms(file) <= allowed, f"{room} may import {sorted(allowed)}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_files_stay_small(file: Path) -> None:
    assert len(file.read_text(encoding="utf-8").splitlines()) <= 450


def test_no_unpickling() -> None:
    for file in FILES:
        text = file.read_text(encoding="utf-8")
        assert "import pickle" not in text, file
        assert "torch.load(" not in text, file


def test_help_imports_nothing_heavy() -> None:
    code = "import sys, hanok.cli; hanok.cli._run(['--help']); print(sorted(set(sys.modules) & set(sys.argv[1:])))"
    heavy = [
        "torch",
        "polars",
        "pyarrow",
        "numpy",
        "fastapi",
        "tokenizers",
        "transformers",
        "matplotlib",
        "tyro",
        "rich",
    ]
    done = subprocess.run([sys.executable, "-c", code, *heavy], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_help_is_quick() -> None:
    """Under half a second; the best of five, since the machine may be busy."""

    def seconds() -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "hanok.cli", "--help"], capture_output=True, check=True)
        return time.perf_counter() - start

    assert min(seconds() for _ in range(5)) < 0.5
