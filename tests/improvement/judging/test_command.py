"""`hanok data judge`: what was acknowledged survives a kill, other work is not gone on with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from hanok.artefacts import open_artefact
from hanok.cli import _run
from hanok.errors import ConfigError, InputError
from hanok.improvement.judging.work import work_directory

Function = Callable[..., Any]


class Bench:
    """A judge as an OpenAI-compatible service in this process: counts what it is asked, takes its time."""

    def __init__(self, both: Function) -> None:
        self.asked: list[str] = []
        self.delay = 0.02
        bench = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                bench.asked.append(body["messages"][1]["content"])
                time.sleep(bench.delay)
                first, _ = both(body["messages"])
                content = f"Better: {1 if first.startswith('good') else 2}"
                reply = json.dumps(
                    {"choices": [{"message": {"role": "assistant", "content": content}}]}
                ).encode()
                self.send_response(200)
                self.send_header("content-length", str(len(reply)))
                self.end_headers()
                self.wfile.write(reply)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def bench(both: Function) -> Iterator[Bench]:
    made = Bench(both)
    yield made
    made.server.shutdown()
    made.server.server_close()


def test_killed_and_gone_on_with(tmp_path: Path, pairs: Path, bench: Bench) -> None:
    def words(out: str) -> list[str]:
        return [
            "data", "judge", "--judge", bench.url, "--judge-model", "m", "--pairs", str(pairs), "--out",
            str(tmp_path / out), "--concurrency", "4",
        ]  # fmt: skip

    killed = subprocess.Popen(
        [sys.executable, "-m", "hanok", *words("out")], stderr=subprocess.DEVNULL, env=dict(os.environ)
    )
    journal = work_directory(tmp_path / "out") / "journal.jsonl"
    until = time.monotonic() + 120
    while time.monotonic() < until and (not journal.is_file() or journal.read_bytes().count(b"\n") < 30):
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not (tmp_path / "out").exists()
    with journal.open("ab") as file:
        file.write(b'{"id": "159", "orde')  # what a kill in the middle of a write leaves
    kept = {row["id"] for row in rows_of_whole(journal)[1:]}
    assert 30 <= len(kept) + 1 < 160
    bench.delay, before = 0.0, len(bench.asked)
    assert _run(words("out")) == 0
    later = bench.asked[before:]
    assert not [text for text in later if text.split("ask ")[1].split()[0] in kept]  # nothing is asked twice
    assert len(later) == 2 * (160 - len(kept))
    assert _run(words("whole")) == 0
    for name in ("preferences.jsonl", "judgements.jsonl"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert open_artefact(tmp_path / "out").metrics["people.accuracy"] == 1.0


def rows_of_whole(journal: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in journal.read_text(encoding="utf-8").split("\n")[:-1]]


def test_other_work_is_not_gone_on_with(label: Function, tmp_path: Path, pairs: Path) -> None:
    with pytest.raises(InputError):
        label(tmp_path, pairs, ["what?"], give_up_after=5)
    with pytest.raises(ConfigError, match="of other data, settings or another model"):
        label(tmp_path, pairs, ["Better: 1"], give_up_after=5, seed=2)
    made = label(
        tmp_path, pairs, ["Better: 1"], give_up_after=5
    )  # the same work: failed rows are asked again
    assert made.metrics["failed"] == 0


def test_the_command_with_input_at_fault(
    rows_of: Function,
    write: Function,
    tmp_path: Path,
    pairs: Path,
    model: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = str(tmp_path / "out")
    assert _run(["data", "judge", "--judge", "longer", "--out", out]) == 2
    assert "give --pairs, or --prompts with --model" in capsys.readouterr().err
    few = write(tmp_path / "few.jsonl", rows_of(pairs)[:3])
    command = [
        "data",
        "judge",
        "--judge",
        str(model),
        "--pairs",
        str(few),
        "--out",
        out,
        "--max-tokens",
        "8",
    ]
    assert _run(command) == 2  # an untrained model has no verdict
    assert "all 3 rows failed" in capsys.readouterr().err
    assert _run(["data", "judge", "--judge", "http://a.test/v1", "--pairs", str(few), "--out", out]) == 2
    assert "serves models by name" in capsys.readouterr().err
    assert (
        _run(["data", "judge", "--judge", "longer", "--pairs", str(few), "--out", out, "--judge-model", "m"])
        == 2
    )
    assert "m is for a service, and none is named" in capsys.readouterr().err
    revise = [
        "data",
        "revise",
        "--model",
        str(model),
        "--prompts",
        str(few),
        "--max-tokens",
        "8",
        "--rounds",
        "1",
    ]
    assert _run([*revise, "--out", out, "--key-variable", "KEY"]) == 2
    assert "KEY is for a service" in capsys.readouterr().err
    code = _run(
        [*revise, "--out", out]
    )  # random letters revise nothing well, but they are a text, or a counted failure
    assert (code == 0) is (tmp_path / "out" / "transcripts.jsonl").is_file()
    assert _run([*revise, "--constitution", str(tmp_path / "none.md"), "--out", out + "2"]) == 2
