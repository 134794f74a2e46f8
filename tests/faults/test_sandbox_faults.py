"""Untrusted code that means harm stays where it is (F35). Every attack has its negative control beside it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from hanok.sandbox import Limits, Outcome, SandboxReport, probe, run_code
from hanok.sandbox.run import _run

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(not probe().isolated, reason=f"no isolation here: {probe().reason}"),
]
LIMITS = Limits(seconds=4.0, cpu_seconds=3, memory=256 * 1024 * 1024)


def unisolated(source: str) -> Outcome:
    """The negative control: the same code with limits alone."""
    return _run(source, "", LIMITS, SandboxReport(False, "on purpose"))


def processes_with(mark: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and mark in (entry / "cmdline").read_bytes().decode("utf-8", "replace"):
                found.append(int(entry.name))
        except OSError:
            continue
    return [pid for pid in found if pid != os.getpid()]


def test_fork_bomb() -> None:
    source = """
import os, time
born = 0
try:
    while True:
        if os.fork() == 0:
            time.sleep(60); os._exit(0)
        born += 1
except OSError as error:
    print(born, error.errno)
"""
    outcome = run_code(source, limits=LIMITS)
    born, _ = map(int, outcome.stdout.split())
    assert 0 < born < LIMITS.processes
    roomier = run_code(
        source, limits=Limits(seconds=4.0, processes=40)
    )  # control: it is the limit that bounds it
    assert born < int(roomier.stdout.split()[0]) < 40


def test_memory_of_many_processes() -> None:
    source = """
import os, time
for _ in range(6):
    if os.fork() == 0:
        block = bytearray(100 * 1024 * 1024)
        for i in range(0, len(block), 4096): block[i] = 1
        time.sleep(60)
time.sleep(60)
"""
    outcome = run_code(source, limits=LIMITS)
    assert outcome.status == "memory"
    roomy = run_code(source, limits=Limits(seconds=2.5, memory=2048 * 1024 * 1024))
    assert roomy.status == "timeout"  # control: with room nobody interferes


def test_processor_time() -> None:
    outcome = run_code("while True: pass", limits=Limits(seconds=60.0, cpu_seconds=1))
    assert outcome.status == "timeout"
    assert outcome.seconds < 50


@pytest.mark.parametrize("pieces", ["one file", "many files", "empty files"])
def test_disk_bomb(pieces: str) -> None:
    source = {
        "one file": "f = open('a', 'wb', 0)\nwhile True: f.write(bytes(65536))",
        "many files": "i = 0\nwhile True: open(str(i), 'wb').write(bytes(1_000_000)); i += 1",
        "empty files": "i = 0\nwhile True: open(str(i), 'wb').close(); i += 1",
    }[pieces]
    before = os.statvfs("/tmp").f_bavail
    outcome = run_code(source, limits=Limits(seconds=20.0, disk=4 * 1024 * 1024))
    assert outcome.status in ("error", "killed")
    assert pieces == "one file" or "No space left on device" in outcome.stderr
    assert abs(os.statvfs("/tmp").f_bavail - before) * os.statvfs("/tmp").f_bsize < 512 * 1024 * 1024


def test_network() -> None:
    with socket.create_server(("127.0.0.1", 0)) as canary:
        canary.settimeout(0.5)
        port = canary.getsockname()[1]
        source = f"import socket; socket.create_connection(('127.0.0.1', {port}), 2).send(b'x'); print('out')"
        outcome = run_code(source, limits=LIMITS)
        assert outcome.status == "error"
        assert "Network is unreachable" in outcome.stderr
        with pytest.raises(TimeoutError):
            canary.accept()
        assert unisolated(source).stdout == "out\n"  # control: the canary hears who gets out
        canary.accept()[0].close()
    datagram = "import socket; socket.socket(2, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9))"
    assert "Network is unreachable" in run_code(datagram, limits=LIMITS).stderr
    assert unisolated(datagram).ok


def test_files_outside(tmp_path: Path) -> None:
    secret, target = tmp_path / "secret", tmp_path / "target"
    secret.write_text("s3cret")
    write = f"open({str(target)!r}, 'w').write('x')"
    read = f"print(open({str(secret)!r}).read())"
    link = f"import os; os.symlink({str(secret)!r}, 'l'); print(open('l').read())"
    for source in (
        write,
        read,
        link,
        "open('/etc/hanok', 'w')",
        "open('/usr/hanok', 'w')",
        "open('/hanok', 'w')",
    ):
        outcome = run_code(source, limits=LIMITS)
        assert outcome.status == "error", source
        assert "s3cret" not in outcome.stdout + outcome.stderr
    assert not target.exists()
    assert unisolated(read).stdout == "s3cret\n"  # control
    assert unisolated(write).ok
    assert target.exists()


def test_processes_outside() -> None:
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        source = f"""
import os
for pid in (os.getppid(), {bystander.pid}, -1):
    try:
        os.kill(pid, 9); print(pid, 'sent')
    except OSError as error:
        print(pid, 'refused')
print([name for name in os.listdir('/proc') if name.isdigit()] == [str(os.getpid())])
print(os.path.exists('/proc/1/environ'), os.path.exists('/proc/sys'))
"""
        outcome = run_code(source, limits=LIMITS)
        assert outcome.ok
        assert outcome.stdout.splitlines()[1:] == [
            f"{bystander.pid} refused", "-1 refused", "True", "False False"
        ]  # fmt: skip
        assert bystander.poll() is None
        control = unisolated(f"import os; os.kill({bystander.pid}, 9)")
        assert control.ok
        assert bystander.wait(10) == -9
    finally:
        bystander.kill()
        bystander.wait()


def test_namespaces_of_its_own() -> None:
    source = "import ctypes; print(ctypes.CDLL(None).unshare(0x10000000 | 0x00020000))"
    assert run_code(source, limits=LIMITS).stdout == "-1\n"
    assert unisolated(source).stdout == "0\n"  # control: this machine permits them


def test_memory_that_belongs_to_no_process() -> None:
    """Segments and anonymous files outlive what fills them, and no limit on a process counts them."""
    segment = "import ctypes; print(ctypes.CDLL(None).shmget(0, 4096, 0o1600) >= 0)"
    file = "import os; os.memfd_create('x'); print(True)"
    assert run_code(segment, limits=LIMITS).stdout == "False\n"
    assert "Operation not permitted" in run_code(file, limits=LIMITS).stderr
    release = "; import ctypes; [ctypes.CDLL(None).shmctl(i, 0, None) for i in [ctypes.CDLL(None).shmget(7, 4096, 0o1600)]]"
    control = segment.replace("shmget(0", "shmget(7") + release
    assert unisolated(control).stdout == "True\n"
    assert unisolated(file).stdout == "True\n"


def test_sleeping_children_that_detach() -> None:
    mark = f"hanok-{uuid.uuid4().hex}"
    source = f"""
import os, sys
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execv(sys.executable, [sys.executable, '-c', 'import time; time.sleep(300)', '{mark}'])
    os._exit(0)
import time; time.sleep(0.5); print('bye')
"""
    outcome = run_code(source, limits=LIMITS)
    assert (outcome.status, outcome.stdout) == ("ok", "bye\n")
    time.sleep(0.2)
    assert processes_with(mark) == []
    assert unisolated(source).stdout == "bye\n"
    left = processes_with(mark)
    for pid in left:
        os.kill(pid, 9)
    assert len(left) == 1  # control: without isolation it stays


def test_endless_output() -> None:
    started = time.monotonic()
    outcome = run_code("while True: print('x' * 65536)", limits=LIMITS)
    assert outcome.status == "output"
    assert len(outcome.stdout) == LIMITS.output
    assert time.monotonic() - started < 4.0
    roomy = run_code("print('x' * 200_000)", limits=Limits(output=300_000))
    assert len(roomy.stdout) == 200_001  # control


def test_nothing_is_left_behind() -> None:
    before = set(Path("/tmp").glob("hanok-sandbox-*"))
    for source in ("print(1)", "while True: pass", "import os; os.kill(os.getpid(), 9)"):
        run_code(source, limits=Limits(seconds=1.0))
    assert set(Path("/tmp").glob("hanok-sandbox-*")) <= before
    mounts = Path("/proc/self/mounts").read_text()
    assert "hanok-sandbox-" not in mounts
