"""A little HTTP server that plays a classifier of texts, and may be told to fail."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[str, dict[str, Any]], Any]
"""Path and body of a request to what is answered: an object as JSON, bytes as they are, a number for a status alone."""


@dataclass
class Classifier:
    """`answer` may be changed at any time. `asked`: the bodies. `headers`: of the last request. `at_once`: most at a time."""

    url: str
    answer: Answer
    seconds: float = 0.0  # before it answers
    trickle: float = 0.0  # between the bytes of its answer
    asked: list[dict[str, Any]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    connections: set[Any] = field(default_factory=set)
    running: int = 0
    at_once: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def texts(self) -> list[str]:
        return [str(body.get("text")) for body in self.asked]


@contextmanager
def classifier(answer: Answer) -> Iterator[Classifier]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with played.lock:
                played.asked.append(body)
                played.paths.append(self.path)
                played.headers = {name.lower(): value for name, value in self.headers.items()}
                played.connections.add(self.client_address)
                played.running += 1
                played.at_once = max(played.at_once, played.running)
            try:
                time.sleep(played.seconds)
                self._say(played.answer(self.path, body))
            except OSError:  # who asked went away
                self.close_connection = True
            finally:
                with played.lock:
                    played.running -= 1

        def _say(self, said: Any) -> None:
            status = said if isinstance(said, int) else 200
            raw = said if isinstance(said, bytes) else json.dumps(said).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(raw)))
            self.end_headers()
            for place in range(0, len(raw), 1 if played.trickle else len(raw) or 1):
                self.wfile.write(raw[place : place + (1 if played.trickle else len(raw))])
                self.wfile.flush()
                time.sleep(played.trickle)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    played = Classifier(f"http://127.0.0.1:{server.server_address[1]}", answer)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield played
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def minds(*words: str) -> Answer:
    """A webhook that scores a category by each word that a text has."""

    def answer(_path: str, body: dict[str, Any]) -> dict[str, Any]:
        return {"categories": {word: 0.9 if word in body["text"] else 0.1 for word in words}}

    return answer
