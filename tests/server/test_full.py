"""A server whose queue is full says so, and when to come back."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.testclient import TestClient

from hanok.errors import QueueFullError
from hanok.server.errors import install_handlers


def test_full_queue() -> None:
    app = FastAPI()
    install_handlers(app)

    @app.get("/ask")
    async def ask() -> None:
        raise QueueFullError(waiting=7, limit=7, retry_after=5)

    answer = TestClient(app).get("/ask")
    assert answer.status_code == 503
    assert answer.headers["Retry-After"] == "5"
    assert answer.json()["error"]["code"] == "queue_full"
    assert answer.json()["error"]["type"] == "server_error"
