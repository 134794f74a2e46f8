"""One model in two processes says what it says in one, and none of them outlives the others."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import ModuleType, SimpleNamespace

import httpx
import pytest
import torch
from safetensors.torch import load_file

from hanok.artefacts.signing import load_private, make_key, sign
from hanok.engine.parallel import follower
from hanok.engine.parallel.orders import Kind, pack, unpack
from hanok.engine.terminal import chat_terminal
from hanok.errors import SignatureError
from hanok.models.checkpoint import load_model, save_quantised
from hanok.models.config import MoEConfig

WORKER = Path(__file__).with_name("team_worker.py")
MODELS = {
    "hybrid": {},
    "qwen3": {"pattern": ("gqa",), "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "qk_norm": True,
              "vocab_size": 267, "intermediate_size": 65},
    "one-key-head": {"pattern": ("gqa", "swa"), "num_layers": 2, "num_heads": 4, "num_kv_heads": 1},
    "experts": {"pattern": ("kda", "mla"), "num_layers": 3,
                "moe": MoEConfig(experts=5, per_token=2, width=17, shared=1, first_dense=1, router="sigmoid")},
}  # fmt: skip


@pytest.fixture(scope="module")
def models(tiny: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("models")
    made = [tiny.save_tiny_model(folder / name, **changes) for name, changes in MODELS.items()]
    quantised = folder / "quantised"
    save_quantised(load_model(made[1]), quantised, bits=8, tokenizer_dir=made[1])
    return [*made, quantised]


@pytest.fixture(scope="module")
def results(models: list[Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """What one process said, and what two said."""
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    processes = [
        start([str(WORKER), str(out), *map(str, models)], processes=count)
        for out, count in ((one, 1), (two, 2))
    ]
    for process in processes:
        _, errors = process.communicate(timeout=200)
        assert process.returncode == 0, errors
    return one, two


def start(command: Sequence[str], *, processes: int, stdin: int | None = None) -> subprocess.Popen[str]:
    launcher = []
    if processes > 1:
        launcher = ["-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--master-addr=127.0.0.1",
                    f"--master-port={free_port()}"]  # fmt: skip
    return subprocess.Popen(
        [sys.executable, *launcher, *command], stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize("name", [*MODELS, "quantised"])
def test_two_say_what_one_says(name: str, results: tuple[Path, Path]) -> None:
    one, two = (json.loads((folder / f"{name}.json").read_text()) for folder in results)
    first, second = (load_file(folder / f"{name}.safetensors")["logits"] for folder in results)
    torch.testing.assert_close(second, first, atol=1e-4, rtol=0)
    assert two["score"] == pytest.approx(one["score"], abs=1e-4)
    assert two["hidden"] == pytest.approx(one["hidden"], abs=1e-4)
    assert two["answers"] == one["answers"]  # five of them greedy, in one batch, at most three at a time
    assert two["alone"] == two["answers"][0]
    assert two["cancelled"] == one["cancelled"] == 4
    assert two["parameters"] < 0.57 * one["parameters"]


def test_a_helper_checks_before_it_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    team = SimpleNamespace(
        hear=lambda: pack([(Kind.LOAD, ()), (Kind.STOP, ())]),
        together=nullcontext,
        meet=lambda: done.append("met"),
    )
    monkeypatch.setattr(follower, "load_sharded", lambda *_: done.append("read"))

    def check(directory: Path) -> None:
        done.append("checked")
        if directory != tmp_path:
            raise SignatureError(directory, "is not signed")

    follower.follow(tmp_path, team, check=check)  # type: ignore[arg-type]
    assert done == ["checked", "read", "met"]
    done.clear()
    with pytest.raises(SignatureError):
        follower.follow(tmp_path / "other", team, check=check)  # type: ignore[arg-type]
    assert done == ["checked"]


@pytest.mark.slow
def test_a_helper_with_other_files_ends_the_server(models: list[Path], tmp_path: Path) -> None:
    """As on another machine: each process has a directory of its own under the same name."""
    make_key(tmp_path / "maker")
    for rank in ("0", "1"):
        shutil.copytree(models[0], tmp_path / rank / "model")
        sign(tmp_path / rank / "model", load_private(tmp_path / "maker"))
    with (tmp_path / "1" / "model" / "config.json").open("a") as file:
        file.write(" ")
    script = tmp_path / "serve.py"
    script.write_text(
        "import os, sys\n"
        "from hanok.cli import _run\n"
        f"os.chdir(os.path.join({str(tmp_path)!r}, os.environ['RANK']))\n"
        "sys.exit(_run(['serve', 'model', '--port', '0', '--no-audit', '--require-signature', '../maker.pub']))\n"
    )
    process = start([str(script)], processes=2)
    _, errors = process.communicate(timeout=100)
    assert process.returncode != 0
    assert "process 1 of the team: model is not what key" in errors
    assert "config.json" in errors


def test_orders_are_read_as_they_were_written() -> None:
    orders = [(Kind.NEW, (3, 2)), (Kind.FORGET, (1,)), (Kind.RUN, (3, 2, 4, 1, *range(5))), (Kind.STOP, ())]
    assert list(unpack(pack(orders))) == orders


def test_chat_through_a_pipe(models: list[Path]) -> None:
    lines = "hi\nand you?\n"
    command = ["-m", "hanok", "chat", str(models[0]), "--max-tokens", "5"]
    process = start(command, processes=2, stdin=subprocess.PIPE)
    answer, errors = process.communicate(lines, timeout=100)
    assert process.returncode == 0, errors
    alone = io.StringIO()
    chat_terminal(models[0], max_tokens=5, weights="float32", source=io.StringIO(lines), target=alone)
    assert answer == alone.getvalue() != ""


@pytest.mark.slow
def test_a_model_that_cannot_be_shared_ends_with_one_message(models: list[Path]) -> None:
    process = start(["-m", "hanok", "serve", str(models[0]), "--port", "0"], processes=3)
    _, errors = process.communicate(timeout=100)
    assert process.returncode != 0
    assert errors.count("2 heads cannot be dealt out evenly to 3 processes; start 1 or 2 processes") == 1
    assert "Error: " not in errors.replace("ChildFailedError: ", "")


@contextmanager
def server(model: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    port = free_port()
    process = start(["-m", "hanok", "serve", str(model), "--port", str(port)], processes=2)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: answers(url))
        yield process, url
    finally:
        process.kill()
        process.communicate()


def wait_until(holds: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health").status_code == 200
    except httpx.TransportError:
        return False


def workers_of(process: subprocess.Popen[str]) -> dict[str, int]:
    """Their numbers by rank."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    ranks = {}
    for child in children:
        variables = Path(f"/proc/{child}/environ").read_text().split("\0")
        ranks |= {v.removeprefix("RANK="): int(child) for v in variables if v.startswith("RANK=")}
    return ranks


def ask(url: str, **changes: object) -> httpx.Response:
    body = {"model": "hybrid", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1500, **changes}
    return httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60)


needs_proc = pytest.mark.skipif(
    not Path("/proc/self/environ").exists(), reason="finds the processes in /proc"
)


@needs_proc
def test_a_request_under_way_ends_with_an_error_when_a_process_dies(models: list[Path]) -> None:
    with server(models[0]) as (process, url):
        body = {
            "model": "hybrid",
            "messages": [{"role": "user", "content": "hi"}],
            "stream": True,
            "ignore_eos": True,
        }
        lines = []
        with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=60) as response:
            for number, line in enumerate(response.iter_lines()):
                if number == 6:
                    os.kill(workers_of(process)["1"], signal.SIGKILL)
                lines.append(line)
        assert any("another process of the team has ended" in line for line in lines[-4:])
        _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert errors.count("hanok: another process of the team has ended, so this one did too") == 1
    assert "Traceback" not in errors.split("torch/distributed/elastic/multiprocessing/api.py")[0]


@needs_proc
@pytest.mark.slow
def test_the_others_end_when_the_first_dies(models: list[Path]) -> None:
    with server(models[0]) as (process, url):
        assert ask(url, max_tokens=3).status_code == 200
        workers = workers_of(process)
        os.kill(workers["0"], signal.SIGKILL)
        _, errors = process.communicate(timeout=60)
    assert "process 1 of the team: another one has ended, so this one does too" in errors
    assert not Path(f"/proc/{workers['1']}").exists()


@needs_proc
def test_a_request_to_stop_lets_answers_finish(models: list[Path]) -> None:
    with server(models[0]) as (process, url):
        body = {"model": "hybrid", "messages": [{"role": "user", "content": "hi"}], "stream": True, "ignore_eos": True,
                "max_tokens": 150}  # fmt: skip
        with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=60) as response:
            lines = []
            for line in response.iter_lines():
                lines.append(line)
                if len(lines) == 6:
                    process.send_signal(signal.SIGTERM)
        reasons = [
            json.loads(line[6:])["choices"][0]["finish_reason"]
            for line in lines
            if line.startswith("data: {")
        ]
        assert "length" in reasons
        _, errors = process.communicate(timeout=60)
    assert "stopped" in errors
    assert "has ended" not in errors
