"""Resolve pyproject.toml into requirements/{base,dev,peers}.txt: pinned, hashed, for Python 3.11 to 3.13 on every platform.

torch stays apart (requirements/torch.txt says why), as does triton, which only GPU builds bring.
Run by `make lock`; needs `uv` on the path.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COMMON = [
    "--universal",
    "--python-version=3.11",
    "--generate-hashes",
    "--no-header",
    "--no-annotate",
    "--quiet",
]
APART = ["--no-emit-package=torch", "--no-emit-package=triton"]


def main() -> None:
    wheels = os.environ.get("PIP_FIND_LINKS")
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "torch.txt"
        cpu = wheels is not None and any(Path(wheels).glob("torch-*+cpu*"))
        constraints.write_text(f"torch==2.13.0{'+cpu' if cpu else ''}\n")
        common = [*COMMON, *APART, "--constraint", str(constraints)]
        if wheels:
            common += ["--find-links", wheels]
        lock("dev", [*common, "--extra", "dev", "--extra", "build"])
        lock("base", [*common, "--extra", "build", "--constraint", "requirements/dev.txt"])
        lock("peers", [*common, "--extra", "peers", "--constraint", "requirements/dev.txt"])


def lock(name: str, options: list[str]) -> None:
    command = [
        "uv",
        "pip",
        "compile",
        "pyproject.toml",
        *options,
        "--output-file",
        f"requirements/{name}.txt",
    ]
    subprocess.run(command, cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
