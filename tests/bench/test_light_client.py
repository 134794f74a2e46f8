"""The light load client, against answers that are cut at the worst places."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator

import pytest

from hanok.bench.light_client import put_light_load
from hanok.bench.load_client import Prompt, chat_api

PROMPTS = [Prompt(f"prompt {number}", [number]) for number in range(7)]


def events(tokens: int) -> bytes:
    chunks = [
        {"choices": [{"delta": {"content": ""}}]},
        *[{"choices": [{"delta": {"content": "x"}}]}] * tokens,
    ]
    usage = {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": tokens}}
    return b"".join(f"data: {json.dumps(one)}\n\n".encode() for one in [*chunks, usage]) + b"data: [DONE]\n\n"


class Cutter:
    """A server: an event is a chunk, as uvicorn writes them, but what it sends is cut into pieces of `piece` bytes.
    Where `short`, an answer has a token fewer than was asked for."""

    def __init__(self, piece: int, *, short: bool = False) -> None:
        self.piece, self.short, self.asked = piece, short, 0
        self.loop = asyncio.new_event_loop()
        self.server = self.loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = self.server.sockets[0].getsockname()[1]
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = int(head.lower().split("content-length: ")[1].split()[0])
                body = json.loads(await reader.readexactly(length))
                assert "x-key: 1" in head
                self.asked += 1
                parts = events(body["max_completion_tokens"] - self.short).split(b"\n\n")[:-1]
                chunks = [f"{len(part) + 2:x}\r\n".encode() + part + b"\n\n\r\n" for part in parts]
                answer = (
                    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + b"".join(chunks) + b"0\r\n\r\n"
                )
                for start in range(0, len(answer), self.piece):
                    writer.write(answer[start : start + self.piece])
                    await asyncio.sleep(0)
        except asyncio.IncompleteReadError:
            writer.close()

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.server.close()
        self.loop.run_until_complete(asyncio.sleep(0.05))
        self.loop.close()


@pytest.fixture(params=[7, 1000])
def cutter(request: pytest.FixtureRequest) -> Iterator[Cutter]:
    made = Cutter(request.param)
    yield made
    made.close()


def api() -> object:
    from dataclasses import replace

    return replace(chat_api("m"), headers={"x-key": "1"})


def test_every_prompt_once_over_kept_connections(cutter: Cutter) -> None:
    load = put_light_load(f"http://127.0.0.1:{cutter.port}", api(), PROMPTS, streams=3, tokens=5)  # type: ignore[arg-type]
    assert cutter.asked == 7
    assert load.tokens == 35
    assert len(load.first) == 7
    assert all(0 < first <= load.seconds for first in load.first)


def test_an_answer_of_another_length_is_an_error() -> None:
    made = Cutter(1000, short=True)
    try:
        with pytest.raises(RuntimeError, match="not 5 tokens"):
            put_light_load(f"http://127.0.0.1:{made.port}", api(), PROMPTS[:1], streams=1, tokens=5)  # type: ignore[arg-type]
    finally:
        made.close()
