"""What a run in the sandbox is allowed, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hanok.errors import ConfigError

Status = Literal["ok", "error", "timeout", "memory", "output", "killed"]
MIB = 1024 * 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Bounds of one run.

    Args:
        seconds: wall clock, after which everything is killed.
        cpu_seconds: processor time of each process.
        memory: bytes of address space of each process, and of resident memory of all together.
        processes: processes and threads at one time.
        files: open files of each process.
        disk: bytes that may be written to the working folder, in all and in one file.
        output: bytes kept of standard output and of standard error, each; more ends the run.
    """

    seconds: float = 10.0
    cpu_seconds: int = 10
    memory: int = 512 * MIB
    processes: int = 16
    files: int = 64
    disk: int = 16 * MIB
    output: int = 64 * 1024

    def __post_init__(self) -> None:
        for name, least in (
            ("seconds", 0.01), ("cpu_seconds", 1), ("memory", 64 * MIB), ("processes", 1), ("files", 8),
            ("disk", 4096), ("output", 1),
        ):  # fmt: skip
            if not getattr(self, name) >= least:
                raise ConfigError(f"{name} = {getattr(self, name)!r}", remedy=f"it must be at least {least}")


@dataclass(frozen=True, slots=True)
class SandboxReport:
    """`isolated`: no network and no files but its own and the interpreter's. If not, `reason` says why not.

    Limits of time, memory and output hold either way; without isolation a run can read and write what its user can,
    reach the network, and leave behind processes that detach themselves.
    """

    isolated: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run did. Its output is the work of untrusted code, and stays untrusted text.

    Args:
        status: "ok" (exit code 0), "error" (another exit code), "timeout" (wall clock or processor time),
            "memory", "output" (more than was allowed), "killed" (by a signal).
        exit_code: None where a signal or a limit ended it.
        stdout: at most `Limits.output` bytes, decoded; bytes that are no UTF-8 are replaced. So is `stderr`.
    """

    status: Status
    stdout: str
    stderr: str
    seconds: float
    exit_code: int | None
    report: SandboxReport

    @property
    def ok(self) -> bool:
        return self.status == "ok"
