"""Nothing is lost: kills, full disks, flipped bits (F01 to F06). Every comparison is bit for bit."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_training as tiny
import torch

from hanok.artefacts import open_artefact
from hanok.errors import ArtefactError, CheckpointError, Interrupted
from hanok.training import checkpoint as checkpoint_module
from hanok.training import validation
from hanok.training.checkpoint import Checkpoints
from hanok.training.objectives import next_token
from hanok.training.run import train

WORKER = Path(tiny.__file__)
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def start(shards: Path, out: Path, **changes: Any) -> subprocess.Popen[str]:
    command = [sys.executable, str(WORKER), str(shards), str(out), json.dumps(changes)]
    return subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, errors = process.communicate(timeout=120)
    return process.returncode, errors


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.002)


def lines(out: Path) -> int:
    file = out / "metrics.jsonl"
    return len(file.read_bytes().splitlines()) if file.exists() else 0


def kill_and_resume(
    shards: Path, out: Path, straight: Path, *, kills: int, seed: int, **changes: Any
) -> None:
    moments = random.Random(seed)
    for kill in range(kills):
        process = start(shards, out, **changes)
        before = lines(out)
        target = before + moments.randint(0, max(1, 2 * changes["max_steps"] // (kills + 1)))
        end = time.monotonic() + 60
        while process.poll() is None and lines(out) < target and time.monotonic() < end:
            time.sleep(0.001)
        time.sleep(moments.random() * 0.03)
        process.kill()
        code, errors = finish(process)
        print(f"seed {seed}, kill {kill}: at line {lines(out)}, exit code {code}")
        assert code in (-signal.SIGKILL, 0), errors
    code, errors = finish(start(shards, out, **changes))
    assert code == 0, errors
    tiny.assert_equal_runs(out, straight)


@pytest.mark.parametrize("precision", ["float32", pytest.param("bfloat16", marks=pytest.mark.faults)])
def test_f01_f06_two_kills(precision: str, shards: Path, tmp_path: Path) -> None:
    changes = {"max_steps": 24, "precision": precision, "ema_decay": 0.9}
    assert finish(start(shards, tmp_path / "straight", **changes))[0] == 0
    kill_and_resume(shards, tmp_path / "killed", tmp_path / "straight", kills=2, seed=7, **changes)


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_f01_twenty_kills_of_two_hundred_steps(shards: Path, tmp_path: Path) -> None:
    changes = {"max_steps": 200, "checkpoint_every": 10, "validate_every": 25}
    assert finish(start(shards, tmp_path / "straight", **changes))[0] == 0
    kill_and_resume(shards, tmp_path / "killed", tmp_path / "straight", kills=20, seed=20, **changes)


def test_f01_the_comparison_can_fail(shards: Path, tmp_path: Path) -> None:
    """Negative control: another seed is another run."""
    for name, seed in (("a", 0), ("b", 1)):
        train(
            tiny.tiny_config(max_steps=4, seed=seed),
            shards=shards,
            out=tmp_path / name,
            model=tiny.tiny_model(),
        )
    with pytest.raises(AssertionError):
        tiny.assert_equal_runs(tmp_path / "a", tmp_path / "b")


# F02: a kill at every file operation of a save


class Killed(BaseException):
    """Stands for the end of the process: once it came, no file operation works any more, clean-up included."""


class Shim:
    """Counts file operations through the audit hook (open, rename, remove, mkdir), fsync and the tensor writer."""

    def __init__(self) -> None:
        self.fatal = 0  # which operation kills; 0: none
        self.count = 0
        self.active = False
        self.dead = False

    def touch(self) -> bool:
        """True if this operation is the fatal one."""
        if self.dead:
            raise Killed
        self.count += 1
        self.dead = self.count == self.fatal
        return self.dead

    def audit(self, event: str, _arguments: tuple[Any, ...]) -> None:
        watched = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "shutil.rmtree")
        if self.active and event in watched and self.touch():
            raise Killed


SHIM = Shim()
sys.addaudithook(SHIM.audit)


@pytest.fixture
def shim(monkeypatch: pytest.MonkeyPatch) -> Shim:
    real_fsync, real_save = os.fsync, checkpoint_module.save_file

    def fsync(descriptor: int) -> None:
        if SHIM.active and SHIM.touch():
            raise Killed
        real_fsync(descriptor)

    def save(tensors: dict[str, torch.Tensor], path: Path) -> None:
        SHIM.active, was = False, SHIM.active
        real_save(tensors, path)
        if was and SHIM.touch():
            os.truncate(path, path.stat().st_size // 2)
            SHIM.active = was
            raise Killed
        SHIM.active = was

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(checkpoint_module, "save_file", save)
    return SHIM


def save_step(checkpoints: Checkpoints, step: int) -> None:
    def write_model(path: Path) -> None:
        (path / "model.safetensors").write_bytes(bytes([step]) * 1000)
        (path / "config.json").write_text("{}")

    state = {"step": step, "regular": True}
    tensors = {"w": torch.full((10,), float(step))}
    checkpoints.save(step, write_model=write_model, tensors=tensors, state=state, parents={}, made_by={})


@pytest.mark.parametrize("same_step", [False, True])
def test_f02_a_kill_at_every_file_operation_of_a_save(same_step: bool, shim: Shim, tmp_path: Path) -> None:
    """`same_step`: a checkpoint of that step is there already and is replaced."""
    new = 2 if same_step else 3
    for fatal in range(1, 400):
        folder = tmp_path / str(fatal)
        folder.mkdir()
        checkpoints = Checkpoints(folder, keep=2, max_bytes=1e9)
        save_step(checkpoints, 1)
        save_step(checkpoints, 2)
        shim.fatal, shim.count, shim.dead, shim.active = fatal, 0, False, True
        try:
            save_step(checkpoints, new)
            survived = True
        except Killed:
            survived = False
        finally:
            shim.active = False
        again = Checkpoints(folder, keep=2, max_bytes=1e9)
        again.clean()
        found = again.newest()
        assert found is not None, f"operation {fatal}"
        assert found.step in (2, new), f"operation {fatal}"
        assert set(found.tensors()["w"].tolist()) == {float(found.step)}
        for path in folder.iterdir():
            assert path.name.startswith("step-"), f"operation {fatal} left {path.name}"
        save_step(again, 4)
        newest = again.newest()
        assert newest is not None
        assert newest.step == 4
        shutil.rmtree(folder)
        if survived:
            assert fatal > 25
            return
    pytest.fail("the save never ended")


# F03: damage


def flip_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def swap(folder: Path) -> None:
    a, b = folder / "training" / "state.json", folder / "config.json"
    first, second = a.read_bytes(), b.read_bytes()
    a.write_bytes(second)
    b.write_bytes(first)


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "a flipped bit in the weights": lambda p: flip_bit(p / "model.safetensors"),
    "a flipped bit in the optimiser": lambda p: flip_bit(p / "training" / "state.safetensors"),
    "a truncated file": lambda p: os.truncate(p / "model.safetensors", 100),
    "a missing file": lambda p: (p / "training" / "state.safetensors").unlink(),
    "two files swapped": swap,
    "a stale manifest": lambda p: shutil.copy(
        p.parent / "step-000008" / "artefact.json", p / "artefact.json"
    ),
    "no manifest": lambda p: (p / "artefact.json").unlink(),
    "a cut manifest": lambda p: os.truncate(p / "artefact.json", 50),
}


@pytest.fixture(scope="module")
def finished(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "run"
    train(tiny.tiny_config(), shards=shards, out=out, model=tiny.tiny_model())
    return out


@pytest.mark.parametrize("kind", DAMAGE)
def test_f03_damage_falls_back_one_checkpoint(
    kind: str,
    finished: Path,
    shards: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    shutil.rmtree(out / "model")
    DAMAGE[kind](out / "checkpoints" / "step-000012")
    with caplog.at_level("WARNING", logger="hanok"):
        train(tiny.tiny_config(), shards=shards, out=out, model=tiny.tiny_model())
    assert "damaged checkpoint" in caplog.text
    tiny.assert_equal_runs(out, finished)


def test_f03_no_intact_checkpoint_is_an_error(finished: Path, shards: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    shutil.rmtree(out / "model")
    for path in (out / "checkpoints").iterdir():
        flip_bit(path / "model.safetensors")
    with pytest.raises(CheckpointError, match="none of the 2 checkpoints"):
        train(tiny.tiny_config(), shards=shards, out=out, model=tiny.tiny_model())


def test_f03_a_damaged_result_or_shard_is_refused(finished: Path, shards: Path, tmp_path: Path) -> None:
    out, data = tmp_path / "run", tmp_path / "shards"
    shutil.copytree(finished, out)
    flip_bit(out / "model" / "model.safetensors")
    with pytest.raises(ArtefactError, match=r"model\.safetensors"):
        train(tiny.tiny_config(), shards=shards, out=out, model=tiny.tiny_model())
    shutil.copytree(shards, data)
    flip_bit(data / "text-train.tokens.bin")
    with pytest.raises(ArtefactError, match=r"text-train\.tokens\.bin"):
        train(tiny.tiny_config(), shards=data, out=tmp_path / "new", model=tiny.tiny_model())


# F04: no space left


def test_f04_a_file_that_cannot_grow_leaves_the_run_resumable(
    shards: Path, tmp_path: Path, finished: Path
) -> None:
    """The operating system refuses every file beyond 64 KiB; with the limit gone the run goes on to the same end."""
    out = tmp_path / "run"
    train(tiny.tiny_config(), shards=shards, out=tmp_path / "first", model=tiny.tiny_model())
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, hard))
    try:
        with pytest.raises(Interrupted, match="free some space"):
            train(tiny.tiny_config(), shards=shards, out=out, model=tiny.tiny_model())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    train(tiny.tiny_config(), shards=shards, out=out, model=tiny.tiny_model())
    tiny.assert_equal_runs(out, finished)


@pytest.mark.faults
def test_f04_a_full_disk(shards: Path, tmp_path: Path) -> None:
    """A real file system with room for two checkpoints and a bit."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if (
        os.geteuid() != 0
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1800k", "tmpfs", str(disk)], capture_output=True
        ).returncode
    ):
        pytest.skip("needs the right to mount a tmpfs")
    try:
        changes = {"keep_checkpoints": 8, "max_steps": 40}
        code, errors = finish(start(shards, disk / "run", **changes))
        assert code == 75, errors
        assert "free some space" in errors
        assert "Traceback" not in errors
        checkpoints = Checkpoints(disk / "run" / "checkpoints", keep=9, max_bytes=1e9)
        newest = checkpoints.newest()
        assert newest is not None
        for path in (disk / "run" / "checkpoints").glob("step-*"):
            open_artefact(path, kind="checkpoint")
        subprocess.run(["mount", "-o", "remount,size=20m", str(disk)], check=True)
        code, errors = finish(start(shards, disk / "run", **changes))
        assert code == 0, errors
        assert finish(start(shards, tmp_path / "straight", **changes))[0] == 0
        tiny.assert_equal_runs(disk / "run", tmp_path / "straight")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_f04_old_checkpoints_go_within_the_disk_budget(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=5, max_bytes=6000)
    for step in range(1, 9):
        save_step(checkpoints, step)
        assert checkpoints.newest() is not None
        size = sum(f.stat().st_size for f in tmp_path.rglob("*") if f.is_file())
        assert size <= 6000
    assert [p.name for p in sorted(tmp_path.iterdir())][-1] == "step-000008"


# F05: stop requests


@pytest.mark.parametrize("moment", ["next_token_loss", "validate", "save"])
def test_f05_sigterm_saves_and_resumes_equal(
    moment: str,
    finished: Path,
    shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place: Any = {"next_token_loss": next_token, "validate": validation, "save": Checkpoints}[moment]
    original = getattr(place, moment)
    calls = 0

    def stop_once(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == (1 if moment != "next_token_loss" else 9):
            os.kill(os.getpid(), signal.SIGTERM)
        return original(*arguments, **options)

    monkeypatch.setattr(place, moment, stop_once)
    begin = time.monotonic()
    with pytest.raises(Interrupted, match="SIGTERM"):
        train(tiny.tiny_config(), shards=shards, out=tmp_path / "run", model=tiny.tiny_model())
    assert time.monotonic() - begin < 30
    train(tiny.tiny_config(), shards=shards, out=tmp_path / "run", model=tiny.tiny_model())
    tiny.assert_equal_runs(tmp_path / "run", finished)


def test_f05_exit_codes(shards: Path, tmp_path: Path) -> None:
    """SIGTERM ends with 75; a second one, sent while the first is being honoured, ends at once."""
    out = tmp_path / "run"
    changes = {"max_steps": 100_000, "checkpoint_every": 50_000, "validate_every": 50_000}
    process = start(shards, out, **changes)
    wait_for(lambda: lines(out) > 3, process)
    process.send_signal(signal.SIGTERM)
    code, errors = finish(process)
    assert code == 75, errors
    assert "run the same command" in errors
    assert list((out / "checkpoints").glob("step-*"))
    slow = {**changes, "tokens_per_step": 400_000, "micro_batch_tokens": 400_000, "max_steps": 5}
    process = start(shards, tmp_path / "slow", **slow)
    wait_for(lambda: (tmp_path / "slow" / "plan.json").exists(), process)
    wait_for(lambda: '"total_steps": 5' in (tmp_path / "slow" / "plan.json").read_text(), process)
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    begin = time.monotonic()
    process.send_signal(signal.SIGTERM)
    code, _ = finish(process)
    assert code in (
        128 + signal.SIGTERM,
        -signal.SIGTERM,
    )  # the latter if it came while Python was shutting down
    assert time.monotonic() - begin < 1
