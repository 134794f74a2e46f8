"""Benchmarks that Ctrl-C stops: one line, 130, no child left; and every file of `benchmarks/` is one of them."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hanok.bench.stopped import end_children, stoppable
from hanok.errors import ConfigError

ROOT = Path(__file__).parents[2]
SCRIPT = """
import signal, subprocess, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests may have it ignored
from hanok.bench.stopped import stoppable

def start(code):
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)

def main():
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
    mild = "import time; print('up', flush=True); time.sleep(600)"
    mild, hard = map(start, (mild, stubborn))
    for child in (mild, hard):
        child.stdout.readline()
    print(mild.pid, hard.pid, flush=True)
    time.sleep(600)

import hanok.bench.stopped as stopped
stopped.end_children.__defaults__ = (0.3,)
(stoppable(main) if sys.argv[1] == "stoppable" else main)()
"""


def stopped(how: str) -> tuple[int, str, list[int]]:
    """Exit code, standard error and the children of a process that is interrupted."""
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, how], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    children = [int(one) for one in process.stdout.readline().split()]
    process.send_signal(signal.SIGINT)
    try:
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    return process.returncode, errors, children


def runs(child: int) -> bool:
    try:
        return Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds the processes in /proc")
def test_one_line_and_no_child_is_left() -> None:
    code, errors, children = stopped("stoppable")
    assert code == 130
    assert errors == "stopped: nothing is reported of this run\n"
    assert len(children) == 2
    end = time.monotonic() + 20
    while any(map(runs, children)) and time.monotonic() < end:
        time.sleep(0.02)
    assert not any(map(runs, children))


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds the processes in /proc")
def test_without_it_there_is_a_traceback_and_children_go_on() -> None:
    """The control."""
    _, errors, children = stopped("plain")
    left = [child for child in children if runs(child)]
    for child in left:
        os.kill(child, signal.SIGKILL)
    assert "Traceback" in errors
    assert len(left) == 2


def test_bad_input_is_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    @stoppable
    def main() -> None:
        raise ConfigError("rows of other data", remedy="give another --folder")

    monkeypatch.delenv("HANOK_DEBUG", raising=False)
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert capsys.readouterr().err == "rows of other data; give another --folder\n"
    monkeypatch.setenv("HANOK_DEBUG", "1")
    with pytest.raises(ConfigError):
        main()


@pytest.mark.parametrize("error", [FileNotFoundError, ProcessLookupError])
def test_a_thread_that_ends_meanwhile_is_no_error(
    error: type[OSError], monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(_file: Path) -> str:
        raise error

    monkeypatch.setattr(Path, "glob", lambda *_: [Path("/proc/self/task/1/children")])
    monkeypatch.setattr(Path, "read_text", gone)
    end_children(patience=0.0)


@pytest.mark.parametrize("file", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda file: file.stem)
def test_every_benchmark_is_one(file: Path) -> None:
    """Read, not imported: some want peers that are not here."""
    (module,) = [
        node.module
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.ImportFrom) and any(name.name == "main" for name in node.names)
    ]
    assert module is not None
    source = ROOT / "src" / Path(*module.split(".")).with_suffix(".py")
    (main,) = [
        node
        for node in ast.parse(source.read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name == "main"
    ]
    assert "stoppable" in [one.id for one in main.decorator_list if isinstance(one, ast.Name)]
