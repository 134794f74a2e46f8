"""Programs in the sandbox: what comes out, how a run ends, and what happens where isolation is not permitted."""

from __future__ import annotations

import logging
import subprocess
import sys
import time

import pytest

from hanok.errors import ConfigError
from hanok.sandbox import Limits, SandboxReport, probe, run_code
from hanok.sandbox import run as module
from hanok.sandbox.run import SandboxError

needs_isolation = pytest.mark.skipif(not probe().isolated, reason=f"no isolation here: {probe().reason}")
QUICK = Limits(seconds=5.0)


def test_a_program_with_input() -> None:
    outcome = run_code("print('안녕', input()[::-1])", "dlrow\n", QUICK, allow_unisolated=True)
    assert (outcome.status, outcome.stdout, outcome.stderr, outcome.exit_code) == (
        "ok",
        "안녕 world\n",
        "",
        0,
    )
    assert outcome.ok
    assert outcome.report == probe()


def test_a_failing_program() -> None:
    outcome = run_code("import sys; print('before'); sys.exit(3)", limits=QUICK, allow_unisolated=True)
    assert (outcome.status, outcome.stdout, outcome.exit_code) == ("error", "before\n", 3)
    raised = run_code("1 / 0", limits=QUICK, allow_unisolated=True)
    assert (raised.status, raised.exit_code) == ("error", 1)
    assert raised.stderr.endswith("ZeroDivisionError: division by zero\n")


def test_a_killed_program() -> None:
    outcome = run_code("import os; os.kill(os.getpid(), 11)", limits=QUICK, allow_unisolated=True)
    assert (outcome.status, outcome.exit_code) == ("killed", None)


def test_time_runs_out() -> None:
    outcome = run_code(
        "print('a', flush=True)\nwhile True: pass", limits=Limits(seconds=0.7), allow_unisolated=True
    )
    assert (outcome.status, outcome.stdout) == ("timeout", "a\n")
    assert 0.7 <= outcome.seconds < 5.0
    busy = run_code("while True: pass", limits=Limits(seconds=30.0, cpu_seconds=1), allow_unisolated=True)
    assert busy.status == "timeout"
    assert busy.seconds < 25.0


def test_closing_its_output_does_not_stop_the_clock() -> None:
    source = "import os, time; os.close(1); os.close(2); time.sleep(60)"
    outcome = run_code(source, limits=Limits(seconds=0.7), allow_unisolated=True)
    assert outcome.status == "timeout"
    assert outcome.seconds < 10.0


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_output_is_capped(stream: str) -> None:
    source = f"import sys\nwhile True: sys.{stream}.write('x' * 4096)"
    outcome = run_code(source, limits=Limits(seconds=20.0, output=10_000), allow_unisolated=True)
    assert outcome.status == "output"
    assert len(getattr(outcome, stream)) == 10_000


def test_output_that_is_no_text() -> None:
    source = r"import sys; sys.stdout.buffer.write(b'\xff\xfe ok')"
    assert run_code(source, limits=QUICK, allow_unisolated=True).stdout == "\ufffd\ufffd ok"


def test_the_environment_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANOK_SECRET", "s3cret")
    source = "import os, sys; print(sorted(os.environ), sys.argv[1:], sys.flags.isolated)"
    outcome = run_code(source, limits=QUICK, allow_unisolated=True)
    assert "SECRET" not in outcome.stdout
    assert outcome.stdout.endswith("[] 1\n")


def test_memory_of_one_process() -> None:
    outcome = run_code("x = bytearray(10**10)", limits=QUICK, allow_unisolated=True)
    assert outcome.status == "error"
    assert outcome.stderr.endswith("MemoryError\n")


def test_an_interrupted_run_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    popen = subprocess.Popen

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_watch", interrupted)
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: started.append(popen(*a, **k)) or started[-1])
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        module._run("import time; time.sleep(60)", "", QUICK, SandboxReport(False))
    assert started[0].returncode == -9
    assert time.monotonic() - began < 20


@needs_isolation
def test_runs_do_not_see_each_other() -> None:
    for _ in range(2):
        outcome = run_code("import os; print(os.listdir()); open('left', 'w').write('x')", limits=QUICK)
        assert (outcome.status, outcome.stdout) == ("ok", "['main.py']\n")


def test_without_isolation_it_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "probe", lambda: SandboxReport(False, "unshare: Operation not permitted"))
    with pytest.raises(SandboxError, match="Operation not permitted") as caught:
        run_code("print(1)")
    assert "allow_unisolated" in caught.value.remedy


def test_without_isolation_it_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "probe", lambda: SandboxReport(False, "unshare: Operation not permitted"))
    with caplog.at_level(logging.WARNING, logger="hanok"):
        outcome = run_code("print(1)", limits=QUICK, allow_unisolated=True)
    assert (outcome.status, outcome.stdout) == ("ok", "1\n")
    assert outcome.report == SandboxReport(False, "unshare: Operation not permitted")
    assert "without isolation: unshare" in caplog.text


def test_the_reason_is_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a wall cannot be built, nothing is run."""
    monkeypatch.setattr(sys, "base_prefix", "/no/such/interpreter")
    monkeypatch.setattr(sys, "_base_executable", "/no/such/interpreter/python")
    with pytest.raises(SandboxError, match=r"cannot be started|not permitted|No such file"):
        module._run("print(1)", "", QUICK, SandboxReport(True))


@pytest.mark.parametrize(
    ("name", "value"), [("seconds", 0), ("memory", 1024), ("output", 0), ("processes", 0)]
)
def test_limits_have_rules(name: str, value: int) -> None:
    with pytest.raises(ConfigError, match=name):
        Limits(**{name: value})
