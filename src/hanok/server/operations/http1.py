"""HTTP/1.1 as this server reads it: uvicorn's protocol on llhttp, and what that leaves open.

What two readers of the same bytes may understand differently is refused, since a proxy in front of this server may be the other
reader: lengths that are said twice, codings that are not `chunked`, versions that are none, targets with odd bytes. What a client
may send before anything of it counts is bounded: bytes and lines of a head, of trailers and of chunks' extensions, requests ahead
of the one that is answered. Headers behind a body are dropped. Nobody is led to another protocol: a request that asks for one is
read as if it did not.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any, Literal
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from hanok.reporting import log

MOST_HEADER_BYTES = 32 << 10
MOST_HEADERS = 128
MOST_AHEAD = 32  # requests that were sent before the one in front of them was answered
INVALID = "Invalid HTTP request received."
_LINE = 4  # bytes of a header's line beside name and value
_TARGET = re.compile(rb"[\x21-\x7e]+")


class Reading(FlowControl):
    """Of a connection. While `held` it is not read, whoever waits for more of it."""

    held = False

    def resume_reading(self) -> None:
        if not self.held:
            super().resume_reading()


class Http1Protocol(HttpToolsProtocol):
    """Reads and answers one connection.

    Attributes:
        running: the request that is answered, or was answered last; `cycle` is the one that was read last.
        part: what of a request the next byte belongs to; "" between two of them.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.parser = httptools.HttpRequestParser(self)  # without the leniency that uvicorn's has
        self._application: Any = self.app
        self.running: RequestResponseCycle | None = None
        self.part: Literal["", "head", "body"] = ""
        self._found, self._barren = 0, 0  # things that were understood; bytes since the last of them
        self._upgrading = False
        self._refused: str | None = None  # what is said once all that is owed is answered

    @property
    def answering(self) -> bool:
        """Whether somebody works at an answer."""
        return self.running is not None and not self.running.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = self._reading = Reading(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        for cycle in (self.running, *(waiting for waiting, _ in self.pipeline)):
            if cycle is not None and not cycle.response_complete:
                tell_that_nobody_listens(cycle)
        self.pipeline.clear()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        if self._refused is not None:  # nothing behind that is read
            return
        found, size = self._found, len(data)
        try:
            while data:
                data = self._feed(data)
        except httptools.HttpParserError as error:
            why = error.__context__
            self._refuse(str(why) if isinstance(why, _RefusedError) else INVALID)
            return
        self._barren = self._barren + size if self._found == found else 0
        if self._barren > MOST_HEADER_BYTES:
            self._refuse("The head of the request is too large.")

    def _feed(self, data: bytes) -> bytes:
        """What is to be read still. Raises HttpParserError."""
        try:
            self.parser.feed_data(data)
            return b""
        except httptools.HttpParserUpgrade as upgrade:
            rest = data[upgrade.args[0] :]
        headers = [name + b": " + value for name, value in self.headers if name != b"upgrade"]
        version = self.parser.get_http_version().encode()
        first = self.parser.get_method() + b" " + self.url + b" HTTP/" + version
        self.parser, self._upgrading = httptools.HttpRequestParser(self), False
        return b"\r\n".join((first, *headers, b"", rest))

    # ---- what the parser finds: whatever is raised here ends as an HttpParserError ------------------------------------

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.part = "head"

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.part != "head":
            return
        if len(self.headers) == MOST_HEADERS:
            raise _RefusedError("The request has too many headers.")
        self.headers.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        self._found += 1
        method, version = self.parser.get_method(), self.parser.get_http_version()
        self._check(method, version)
        if self.parser.should_upgrade():
            self._upgrading = True
            return
        self.part = "body"
        target, _, query = self.url.partition(b"?")
        scope = self.scope
        scope["method"], scope["http_version"] = method.decode(), version
        scope["path"] = self.root_path + unquote(target.decode())
        scope["raw_path"], scope["query_string"] = self.root_path.encode() + target, query
        self.cycle = cycle = RequestResponseCycle(
            scope=scope, transport=self.transport, flow=self.flow, logger=self.logger, access_logger=self.access_logger,
            access_log=self.access_log, default_headers=self.server_state.default_headers, message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue, keep_alive=version == "1.1" and self._may_stay(),
            on_response=self.on_response_complete,
        )  # fmt: skip
        if not self.answering:
            self._begin(cycle)
        elif len(self.pipeline) < MOST_AHEAD:
            self._reading.held = True
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, self._application))
        else:
            raise _RefusedError("Too many requests before an answer.")

    def _may_stay(self) -> bool:
        """Behind an early answer to who waits to be told to go on, a body may come or not: two readers may differ about that."""
        return self.parser.should_keep_alive() and not self.expect_100_continue

    def _check(self, method: bytes, version: str) -> None:
        if version not in ("1.0", "1.1") or method == b"CONNECT" or not _TARGET.fullmatch(self.url):
            raise _RefusedError(INVALID)
        size, hosts, codings = len(self.url), 0, 0
        for name, value in self.headers:
            size += len(name) + len(value) + _LINE
            if name == b"host":
                hosts += 1
            elif name == b"transfer-encoding":
                codings += 1 if value.lower() == b"chunked" else 2
            elif name == b"expect":
                self.expect_100_continue = value.lower() == b"100-continue"
        if size > MOST_HEADER_BYTES:
            raise _RefusedError("The head of the request is too large.")
        if hosts > 1 or codings > 1 or (version == "1.1" and not hosts) or (version == "1.0" and codings):
            raise _RefusedError(INVALID)

    def on_chunk_header(self) -> None:
        self._found += 1

    def on_body(self, body: bytes) -> None:
        self._found += 1
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._found += 1
        if not self._upgrading:
            self.part = ""
            super().on_message_complete()
            if not self.answering:  # it was answered before its body had come
                self._wait_for_another()

    def _should_upgrade(self) -> bool:
        return False

    # ---- answers, in the order of the requests ------------------------------------------------------------------------

    def _begin(self, cycle: RequestResponseCycle) -> None:
        self.running = cycle
        self._unset_keepalive_if_required()
        self._start_asgi_task(cycle, self._application)

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self._unset_keepalive_if_required()
        if self.pipeline:
            self._begin(self.pipeline.pop()[0])
        elif self._refused is not None:
            self.send_400_response(self._refused)
            return
        else:
            self._wait_for_another()
        if not self.pipeline and self._refused is None:
            self._reading.held = False
            self.flow.resume_reading()

    def _wait_for_another(self) -> None:
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )

    def _refuse(self, why: str) -> None:
        """What came is no request, or no body of one. That is the last answer of this connection."""
        log.info("connection refused: %s", why)
        self._refused, self._reading.held = why, True
        self.flow.pause_reading()
        if self.part == "body" and self.pipeline and self.pipeline[0][0] is self.cycle:
            self.pipeline.popleft()  # nobody has begun with it
        elif self.part == "body" and self.cycle is self.running:
            self._cut_off(self.cycle)
            return
        if not self.answering:
            self.send_400_response(why)

    def _cut_off(self, cycle: RequestResponseCycle) -> None:
        """Of what cannot be read to its end: whoever works at its answer is told, and whoever has it gets no other."""
        tell_that_nobody_listens(cycle)
        if cycle.response_started:
            self.transport.close()
        else:
            self.send_400_response(self._refused or INVALID)


class _RefusedError(Exception):
    pass


def tell_that_nobody_listens(cycle: RequestResponseCycle) -> None:
    cycle.disconnected = True
    cycle.message_event.set()
