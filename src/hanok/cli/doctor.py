"""`hanok doctor`: what this machine can do, and what that means for a model of one's own."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hanok.reporting import table


def doctor() -> dict[str, Any]:
    """Processor, precision, compiler, kernels, memory, bandwidth, disk and GPU, each with what it means."""
    findings = [*_python(), *_processor(), *_kernels(), *_speed(), *_memory(), *_gpu()]
    table("what this machine can do", ("what", "found", "what it means"), findings)
    print("next: hanok run quickstart", file=sys.stderr)
    return {name: {"found": found, "means": means} for name, found, means in findings}


Finding = tuple[str, Any, str]

_TRAINING_SHARE_OF_MATMUL = (
    0.35  # of a large matrix product's rate, what a training step of a small model reaches
)


def _python() -> list[Finding]:
    import torch

    return [
        ("Python", platform.python_version(), "3.11 to 3.13 are tested"),
        ("torch", torch.__version__, f"{torch.get_num_threads()} threads"),
    ]


def _processor() -> list[Finding]:
    from hanok.training.precision import choose_precision

    flags = _cpu_flags()
    wide = [name for name in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16") if name in flags]
    dtype, why = choose_precision("auto")
    return [
        ("cores", os.cpu_count(), "two are enough for the quickstart"),
        ("CPU features", " ".join(wide) or platform.machine(), "kernels choose the widest at run time"),
        ("training precision", str(dtype).removeprefix("torch."), why),
    ]


def _kernels() -> list[Finding]:
    from hanok.kernels.native import native_available, reason

    compiler = next((name for name in ("c++", "g++", "clang++") if shutil.which(name)), None)
    built = native_available()
    advice = "builds the native kernels at install" if compiler else "install g++ or clang++, then make setup"
    path = "fast path" if built else f"the PyTorch reference runs, several times slower: {reason()}"
    return [("C++ compiler", compiler or "none", advice), ("native kernels", "yes" if built else "no", path)]


def _speed() -> list[Finding]:
    import torch

    from hanok.kernels.native import memory_bandwidth, native_available
    from hanok.models.plan import matmul_gflops

    findings: list[Finding] = []
    for name in ("float32", "bfloat16"):
        rate = matmul_gflops(getattr(torch, name), 0.25)
        tokens = rate * 1e9 * _TRAINING_SHARE_OF_MATMUL / (6 * 3e6)
        means = f"about {tokens:,.0f} training tokens/s at 3 M parameters"
        findings.append((f"matrix product {name}", f"{rate:,.0f} GFLOP/s", means))
    if native_available():
        bandwidth = memory_bandwidth(0.5)
        means = f"a 1 GB model decodes at most {bandwidth:,.0f} tokens/s"
        findings.append(("memory read", f"{bandwidth:,.1f} GB/s", means))
    return findings


def _memory() -> list[Finding]:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    room = "a run of the quickstart takes about 0.2 GiB" if free > 1 else "too little: runs would stop"
    return [
        ("memory", f"{total:.0f} GiB", "the quickstart needs about 2 GiB"),
        ("free disk here", f"{free:.0f} GiB", room),
    ]


def _gpu() -> list[Finding]:
    import torch

    if not torch.cuda.is_available():
        return [("GPU", "none", "everything runs on the CPU")]
    findings: list[Finding] = []
    for number in range(torch.cuda.device_count()):
        what = torch.cuda.get_device_properties(number)
        means = (
            f"training and engines use it (--device cuda:{number})"
            if number
            else "training and engines use it by themselves"
        )
        findings.append((f"GPU {number}", f"{what.name}, {what.total_memory / 2**30:.0f} GiB", means))
    bf16 = torch.cuda.is_bf16_supported(False)
    fla = find_spec("fla") is not None
    findings.append(
        (
            "bfloat16 there",
            "yes" if bf16 else "no",
            "engines compute in it" if bf16 else "slow: take weights = float32",
        )
    )
    means = (
        "delta attention reads prompts by them"
        if fla
        else "delta attention runs in PyTorch: pip install 'hanok[gpu]'"
    )
    return [*findings, ("fla-core", "installed" if fla else "missing", means)]


def _cpu_flags() -> set[str]:
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return set()
    line = next(
        (line for line in info.read_text().splitlines() if line.startswith(("flags", "Features"))), ""
    )
    return set(line.partition(":")[2].split())
