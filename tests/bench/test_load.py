"""The word tokeniser and the load client, against a server of a few lines that answers what it is told to."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from hanok.bench.load_client import Load, Prompt, ids_api, put_load
from hanok.bench.servers import Server, running
from hanok.bench.words import chat_ids, random_prompts, tokenizer_settings, word_tokenizer
from hanok.errors import HanokError

PROMPTS = [Prompt("", [number, number + 1, number + 2]) for number in range(7)]


class Answers(BaseHTTPRequestHandler):
    """Streams as many tokens as were asked for, or one fewer where a prompt begins with 6."""

    most_at_once = at_once = 0
    asked: ClassVar[list[list[int]]] = []
    lock = threading.Lock()

    def do_POST(self) -> None:
        kind, body = type(self), json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with kind.lock:
            kind.at_once += 1
            kind.most_at_once = max(kind.most_at_once, kind.at_once)
            kind.asked.append(body["prompt"])
        tokens = body["max_tokens"] - (body["prompt"][0] == 6)
        usage = {"prompt_tokens": len(body["prompt"]), "completion_tokens": tokens}
        chunks = [
            {"choices": [{"text": ""}]},
            *[{"choices": [{"text": "x"}]}] * tokens,
            {"choices": [], "usage": usage},
        ]
        self.send_response(200)
        self.end_headers()
        for chunk in chunks:
            self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
        self.wfile.write(b"data: [DONE]\n\n")
        with kind.lock:
            kind.at_once -= 1

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def base() -> Iterator[str]:
    Answers.most_at_once, Answers.asked = 0, []
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_each_prompt_is_asked_once(base: str) -> None:
    load = put_load(base, ids_api("m"), PROMPTS[:6], streams=3, tokens=5)
    assert sorted(Answers.asked) == [list(prompt.ids) for prompt in PROMPTS[:6]]
    assert 1 <= Answers.most_at_once <= 3
    assert load.tokens == 30
    assert len(load.first) == 6
    assert all(0 < first <= load.seconds for first in load.first)


def test_an_answer_of_another_length_is_an_error(base: str) -> None:
    with pytest.raises(RuntimeError, match=r"\(3, 4\) tokens .* \(3, 5\)"):
        put_load(base, ids_api("m"), PROMPTS, streams=2, tokens=5)


def test_percentiles() -> None:
    load = Load(2.0, 100, tuple(float(n) for n in range(20, 0, -1)))
    assert (load.rate, load.first_token(0.5), load.first_token(0.95), load.first_token(1.0)) == (
        50.0,
        11.0,
        20.0,
        20.0,
    )


def test_a_server_that_ends_says_why() -> None:
    server = Server(
        "broken", [sys.executable, "-c", "raise SystemExit('port {port}: no model')"], ids_api("m")
    )
    with pytest.raises(HanokError, match=r"broken ended with 1: port \d+: no model"), running(server):
        pass


def test_words_are_tokens() -> None:
    tokenizer = word_tokenizer(1024)
    assert tokenizer.vocab_size == 1024
    prompts = random_prompts(tokenizer, 20, 30, seed=3)
    assert len(set(prompts)) == 20
    assert {len(chat_ids(tokenizer, text)) for text in prompts} == {30}
    assert prompts == random_prompts(tokenizer, 20, 30, seed=3)


def test_settings_without_a_template(tmp_path: Path) -> None:
    word_tokenizer(1024).save(tmp_path)
    files = tokenizer_settings(tmp_path)
    assert "chat_template" not in json.loads(files["tokenizer_config.json"])
    assert len(json.loads(files["tokenizer.json"])["model"]["vocab"]) == 1024
