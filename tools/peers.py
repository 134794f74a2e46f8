"""Build what `hanok bench serve` compares with and no environment can share: `python tools/peers.py [FOLDER]` (.peers).

* `llama.cpp/llama-server`, from the llama.cpp that the source of llama-cpp-python carries, for this processor
* `openvino/`, OpenVINO GenAI's packages in a folder of their own

What is there already stays as it is. Needs pip, cmake and a C++ compiler; llama-server takes some ten minutes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

LLAMA = "llama-cpp-python==0.3.36"
OPENVINO = (
    "openvino==2026.4.1",
    "openvino-genai==2026.4.1.0",
    "openvino-tokenizers==2026.4.1.0",
    "openvino-telemetry==2025.2.0",
)
_OFF = ("BUILD_SHARED_LIBS", "LLAMA_BUILD_APP", "LLAMA_BUILD_EXAMPLES", "LLAMA_BUILD_TESTS", "LLAMA_BUILD_UI", "LLAMA_OPENSSL",
        "LLAMA_USE_PREBUILT_UI")  # fmt: skip


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".peers").absolute()
    server, packages = folder / "llama.cpp" / "llama-server", folder / "openvino"
    if not server.is_file():
        build_llama_server(server)
    if not packages.is_dir():
        pip("install", "--no-deps", "--target", str(packages), *OPENVINO)
    print(server, packages, sep="\n")


def build_llama_server(target: Path) -> None:
    with tempfile.TemporaryDirectory() as work:
        pip("download", "--no-deps", "--no-binary", LLAMA.partition("==")[0], "--dest", work, LLAMA)
        (source,) = Path(work).glob("*.tar.gz")
        with tarfile.open(source) as archive:
            archive.extractall(work, filter="data")
        (tree,) = Path(work).glob("*/vendor/llama.cpp")
        build = Path(work) / "build"
        settings = [f"-D{name}=OFF" for name in _OFF]
        run(
            "cmake",
            "-S",
            str(tree),
            "-B",
            str(build),
            "-DCMAKE_BUILD_TYPE=Release",
            "-DGGML_NATIVE=ON",
            *settings,
        )
        run(
            "cmake", "--build", str(build), "--target", "llama-server", "--parallel", str(os.cpu_count() or 1)
        )
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(build / "bin" / "llama-server", target)


def pip(*arguments: str) -> None:
    run(sys.executable, "-m", "pip", "--disable-pip-version-check", arguments[0], "--quiet", *arguments[1:])


def run(*command: str) -> None:
    subprocess.run(command, check=True, stdout=sys.stderr)


if __name__ == "__main__":
    main()
