"""Clients that take their time: HTTP/1.1 with limits on how long a connection may do nothing useful.

* The head of a request must be there within so many seconds of the connection's beginning, or of its first byte on a kept
  connection.
* Its body must arrive at some least pace.
* An answer must be taken: where the buffer stays full, or what is left of an answer does not go away, the connection is cut. That
  ends the request as if the client had gone, so its place in the model's batch and its cache are free again.

One look a second at all connections costs the idle ones no timers. On this side of a connection at most `BUFFER` bytes wait in
the process and about twice `SEND_BYTES` in the kernel, whatever the client does.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from hanok.reporting import log
from hanok.server.operations.coalescing import CoalescingTransport
from hanok.server.operations.http1 import Http1Protocol, tell_that_nobody_listens

BUFFER = 64 << 10
SEND_BYTES = 128 << 10  # of the socket; the kernel takes twice as much
_BODY_PACE = 8 << 10  # bytes a second that earn a body more time
_TAKEN = 4 << 10  # bytes of a finished answer that must go within the time for writing
_BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 5\r\nconnection: close\r\ncontent-type: application/json\r\n"
    b"content-length: 105\r\n\r\n"
    b'{"error": {"message": "too many connections", "type": "server_error", "param": null, "code": "too_many"}}'
)
_TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


@dataclass(frozen=True, kw_only=True, slots=True)
class Patience:
    """Seconds for a request's head, for its body (beside what its pace earns), for the client to take an answer."""

    connections: int = 4096
    header: float = 10.0
    body: float = 30.0
    write: float = 30.0


class Guard:
    """The limits of all connections; they may be replaced while the server runs. `cut`: connections that broke one."""

    def __init__(self, patience: Patience) -> None:
        self.patience = patience
        self.cut = 0

    def protocol(self) -> type[GuardedProtocol]:
        """For `uvicorn.Config(http=...)`."""
        return type("Guarded", (GuardedProtocol,), {"guard": self})

    def look(self, connections: Iterable[Any]) -> None:
        """Once a second."""
        now = time.monotonic()
        for connection in [one for one in connections if isinstance(one, GuardedProtocol)]:
            why = connection.overdue(now, self.patience)
            if why:
                self.cut += 1
                log.info("connection cut: %s", why)
                connection.cut()


class GuardedProtocol(Http1Protocol):
    """Knows since when it waits for what."""

    guard: Guard

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_since: float | None = None
        self._body_since: float | None = None
        self._body_bytes = 0
        self._full_since: float | None = None
        self._left: tuple[float, int] | None = None  # of a finished answer: since when, bytes

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._head_since = time.monotonic()
        transport.set_write_buffer_limits(high=BUFFER)
        self.transport = CoalescingTransport(transport, self.loop)
        if len(self.connections) > self.guard.patience.connections:
            self.guard.cut += 1
            self.transport.write(_BUSY)
            self.transport.close()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        if self._head_since is None and not self.part and not self.answering:
            self._head_since = time.monotonic()
        super().data_received(data)
        if self.part == "body" or self.answering:
            self._head_since = None
        elif self.part == "head":  # behind a body that was answered before it ended, too
            self._head_since = self._head_since or time.monotonic()
        if self.part == "body":
            self._body_since = self._body_since or time.monotonic()
            self._body_bytes += len(data)
        else:
            self._body_since, self._body_bytes = None, 0

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.part == "head" and not self.answering:  # its beginning came meanwhile
            self._head_since = time.monotonic()

    def pause_writing(self) -> None:
        self._full_since = self._full_since or time.monotonic()
        super().pause_writing()

    def resume_writing(self) -> None:
        self._full_since = None
        super().resume_writing()

    def overdue(self, now: float, patience: Patience) -> str:
        """What it waited for too long; "" if it did not."""
        if self._head_since is not None and now - self._head_since > patience.header:
            return "no request"
        if self._body_since is not None:
            if self.flow.read_paused:  # it is we who do not read
                self._body_since = now
            elif now - self._body_since > patience.body + self._body_bytes / _BODY_PACE:
                return "its body does not come"
        if self._full_since is not None and now - self._full_since > patience.write:
            return "it does not read"
        return self._not_taken(now, patience)

    def _not_taken(self, now: float, patience: Patience) -> str:
        left = self.transport.get_write_buffer_size()
        if not left or (self.answering and not self.transport.is_closing()):
            self._left = None
        elif self._left is None or left <= self._left[1] - _TAKEN:
            self._left = (now, left)
        elif now - self._left[0] > patience.write:
            return "it does not take its answer"
        return ""

    def cut(self) -> None:
        """With a word to whoever has not been answered."""
        answered = self.running is not None and self.running.response_started
        if self._head_since is not None or (self._body_since is not None and not answered):
            self.transport.write(_TOO_SLOW)
            self.transport.close()
            if self.answering:  # the route that reads the body shall not wait for the socket's last bytes
                assert self.running is not None
                tell_that_nobody_listens(self.running)
            self._head_since = self._body_since = None
        else:
            self.transport.abort()
