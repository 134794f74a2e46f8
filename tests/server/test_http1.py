"""HTTP/1.1 byte by byte: what is refused, what is bounded, in what order answers come; beside it what uvicorn's own does."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from hanok.server.operations import http1, timeouts
from hanok.server.operations.timeouts import Guard, Patience

HOST = b"Host: a\r\n"
GET = b"GET /x?y=1 HTTP/1.1\r\n" + HOST + b"\r\n"
POST = b"POST /x HTTP/1.1\r\n" + HOST


class Wire(asyncio.Transport):
    """The other end of a connection: what was written, and whether it is open."""

    def __init__(self) -> None:
        super().__init__()
        self.out = b""
        self.closed = self.paused = False
        self.protocol: Any = None

    def write(self, data: Any) -> None:
        self.out += bytes(data)

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)

    abort = close

    def is_closing(self) -> bool:
        return self.closed

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"sockname": ("127.0.0.1", 1), "peername": ("127.0.0.1", 2)}.get(name, default)

    @property
    def statuses(self) -> list[int]:
        return [int(one) for one in re.findall(rb"HTTP/1.1 (\d+) ", self.out)]


class House:
    """An application that answers each request with its body, once it is let go on, and keeps what it was asked."""

    def __init__(self, protocol: type[Any] | None = None) -> None:
        self.seen: list[tuple[dict[str, Any], bytes]] = []
        self.left = 0
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.guard = Guard(Patience())
        kind = protocol or self.guard.protocol()
        self.config = uvicorn.Config(
            self.app,
            http=kind,
            interface="asgi3",
            ws="none",
            lifespan="off",
            proxy_headers=False,
            log_config=None,
        )
        self.config.load()
        self.wire = Wire()
        self.wire.protocol = kind(config=self.config, server_state=ServerState(), app_state={})
        self.wire.protocol.connection_made(self.wire)

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.left += 1
                return
            body, more = body + message["body"], message["more_body"]
        self.seen.append((scope, body))
        waits = [asyncio.ensure_future(self.go_on.wait()), asyncio.ensure_future(receive())]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for one in waits:
            one.cancel()
        self.left += not self.go_on.is_set()
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [(b"content-length", b"%d" % len(body))],
            }
        )
        await send({"type": "http.response.body", "body": body})

    async def send(self, *parts: bytes) -> None:
        for part in parts:
            if not (self.wire.closed or self.wire.paused):
                self.wire.protocol.data_received(part)
            await self.settle(20)
        await self.settle()

    async def settle(self, turns: int = 400) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)


def talk(*parts: bytes, protocol: type[Any] | None = None) -> House:
    async def run() -> House:
        house = House(protocol)
        await house.send(*parts)
        return house

    return asyncio.run(run())


def bytewise(data: bytes) -> list[bytes]:
    return [data[place : place + 1] for place in range(len(data))]


def body(coding: bytes, content: bytes) -> bytes:
    return POST + coding + b"\r\n" + content


TWICE = body(b"Content-Length: 3\r\nContent-Length: 4\r\n", b"abcd")
BOTH = body(b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n")
REFUSED = {
    "two lengths": TWICE,
    "one length twice": body(b"Content-Length: 3\r\nContent-Length: 3\r\n", b"abc"),
    "a list of lengths": body(b"Content-Length: 3, 3\r\n", b"abc"),
    "a length with a sign": body(b"Content-Length: +3\r\n", b"abc"),
    "a negative length": body(b"Content-Length: -3\r\n", b"abc"),
    "a length in hexadecimal": body(b"Content-Length: 0x3\r\n", b"abc"),
    "a length in underscores": body(b"Content-Length: 1_0\r\n", b"0123456789"),
    "a length without end": body(b"Content-Length: 99999999999999999999999\r\n", b"abc"),
    "an empty length": body(b"Content-Length:\r\n", b""),
    "length and chunks": BOTH,
    "chunks and length": body(b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", b"0\r\n\r\n"),
    "chunked twice": body(b"Transfer-Encoding: chunked, chunked\r\n", b"0\r\n\r\n"),
    "chunked in two headers": body(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n"),
    "another coding": body(b"Transfer-Encoding: gzip, chunked\r\n", b"0\r\n\r\n"),
    "a coding behind it": body(b"Transfer-Encoding: chunked, identity\r\n", b"0\r\n\r\n"),
    "identity": body(b"Transfer-Encoding: identity\r\n", b""),
    "a coding with a tab": body(b"Transfer-Encoding:\tchunke\x0bd\r\n", b"0\r\n\r\n"),
    "chunks of HTTP/1.0": b"POST /x HTTP/1.0\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "lines without CR": GET.replace(b"\r\n", b"\n"),
    "a head that ends without CR": b"GET /x HTTP/1.1\r\nHost: a\r\n\n",
    "CR alone": b"GET /x HTTP/1.1\rHost: a\r\r",
    "a folded line": b"GET /x HTTP/1.1\r\nHost: a\r\nX-A: b\r\n c\r\n\r\n",
    "a folded coding": body(b"Transfer-Encoding:\r\n chunked\r\n", b"0\r\n\r\n"),
    "a space before the colon": body(b"Content-Length : 3\r\n", b"abc"),
    "a space before a name": b"GET /x HTTP/1.1\r\n Host: a\r\n\r\n",
    "no name": b"GET /x HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n",
    "no colon": b"GET /x HTTP/1.1\r\nHost: a\r\nabc\r\n\r\n",
    "NUL in a name": b"GET /x HTTP/1.1\r\nHost: a\r\nX\0: b\r\n\r\n",
    "NUL in a value": b"GET /x HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n",
    "DEL in a value": b"GET /x HTTP/1.1\r\nHost: a\r\nX: \x7f\r\n\r\n",
    "no host": b"GET /x HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /x HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "a chunk without end": body(b"Transfer-Encoding: chunked\r\n", b"fffffffffffffffff\r\nabc"),
    "a chunk with a sign": body(b"Transfer-Encoding: chunked\r\n", b"-1\r\nabc"),
    "a chunk in 0x": body(b"Transfer-Encoding: chunked\r\n", b"0x3\r\nabc\r\n0\r\n\r\n"),
    "a chunk longer than it says": body(b"Transfer-Encoding: chunked\r\n", b"3\r\nabcd\r\n0\r\n\r\n"),
    "a chunk's line without CR": body(b"Transfer-Encoding: chunked\r\n", b"3\nabc\n0\n\n"),
    "version 0.9": b"GET /x HTTP/0.9\r\nHost: a\r\n\r\n",
    "version 2": b"GET /x HTTP/2.0\r\nHost: a\r\n\r\n",
    "the preface of version 2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "no version": b"GET /x\r\n\r\n",
    "a space in the target": b"GET /x y HTTP/1.1\r\nHost: a\r\n\r\n",
    "a target with high bytes": b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n",
    "a tunnel": b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n",
    "a greeting in another protocol": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("whole", [True, False], ids=["whole", "byte by byte"])
def test_what_may_be_read_in_two_ways_is_refused(name: str, whole: bool) -> None:
    """And nothing behind it is read: neither as a body nor as another request."""
    house = talk(*([REFUSED[name] + GET] if whole else bytewise(REFUSED[name] + GET)))
    assert house.seen == []
    assert house.wire.statuses == [400]
    assert house.wire.closed


ACCEPTED = {
    "plain": (GET, b""),
    "with an empty line before": (b"\r\n" + GET, b""),
    "a length": (body(b"Content-Length: 3\r\n", b"abc"), b"abc"),
    "a length with spaces": (body(b"Content-Length:   3  \r\n", b"abc"), b"abc"),
    "chunks": (body(b"Transfer-Encoding: chunked\r\n", b"3\r\nabc\r\n2;n=v\r\nde\r\n0\r\n\r\n"), b"abcde"),
    "chunks in capitals": (body(b"Transfer-Encoding: CHUNKED\r\n", b"A\r\n0123456789\r\n0\r\n\r\n"), b"0123456789"),
    "an empty header": (POST + b"X-A:\r\nContent-Length: 1\r\n\r\na", b"a"),
    "a space more in the first line, which leaves no doubt": (b"GET  /x HTTP/1.1\r\nHost: a\r\n\r\n", b""),
    "HTTP/1.0 without a host": (b"GET /x HTTP/1.0\r\n\r\n", b""),
}  # fmt: skip


@pytest.mark.parametrize("name", ACCEPTED)
@pytest.mark.parametrize("whole", [True, False], ids=["whole", "byte by byte"])
def test_what_is_plain_is_read(name: str, whole: bool) -> None:
    data, content = ACCEPTED[name]
    house = talk(*([data] if whole else bytewise(data)))
    assert [found for _, found in house.seen] == [content]
    assert house.wire.statuses == [200]
    assert house.wire.closed == (b"HTTP/1.0" in data)


def test_headers_and_target_as_they_came() -> None:
    house = talk(
        b"GET /a%20b/../%EA%B0%80?q=%20&r HTTP/1.1\r\nHOST: a:1\r\nX-Empty:\r\nx-Two:  b c \r\nX-Two: d\r\n\r\n"
    )
    ((scope, _),) = house.seen
    assert scope["path"] == "/a b/../가"
    assert scope["raw_path"] == b"/a%20b/../%EA%B0%80"
    assert scope["query_string"] == b"q=%20&r"
    assert scope["headers"] == [(b"host", b"a:1"), (b"x-empty", b""), (b"x-two", b"b c"), (b"x-two", b"d")]
    assert (scope["method"], scope["http_version"]) == ("GET", "1.1")


def test_a_whole_address_as_target_is_a_path_that_nobody_serves() -> None:
    """Its host would be another one than the header's, which says who may come in."""
    ((scope, _),) = talk(b"GET http://b/x HTTP/1.1\r\n" + HOST + b"\r\n").seen
    assert scope["path"] == "http://b/x"


TRAILED = body(b"Transfer-Encoding: chunked\r\n", b"1\r\na\r\n0\r\nAuthorization: Bearer x\r\n\r\n")


def test_headers_behind_a_body_are_dropped() -> None:
    ((scope, content),) = talk(TRAILED).seen
    assert (scope["headers"], content) == ([(b"host", b"a"), (b"transfer-encoding", b"chunked")], b"a")


# ---- what uvicorn's protocol on the same parser does ---------------------------------------------------------------


class Control(HttpToolsProtocol):
    pass


@pytest.mark.parametrize(
    "name", ["another coding", "two hosts", "no host", "version 2", "chunks of HTTP/1.0"]
)
def test_control_uvicorns_own_protocol_takes_some_of_them(name: str) -> None:
    assert talk(REFUSED[name], protocol=Control).wire.statuses == [200]


def test_control_uvicorns_own_protocol_takes_headers_behind_a_body() -> None:
    ((scope, _),) = talk(TRAILED, protocol=Control).seen
    assert (b"authorization", b"Bearer x") in scope["headers"]


# ---- another protocol ----------------------------------------------------------------------------------------------

UPGRADE = b"Connection: Upgrade\r\nUpgrade: h2c\r\n"


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "byte by byte"])
def test_whoever_asks_for_another_protocol_is_answered_in_this_one(whole: bool) -> None:
    """With its body, which is no request: as some clients ask for HTTP/2."""
    hidden = GET.replace(b"/x", b"/hidden")
    data = POST + UPGRADE + b"Content-Length: %d\r\n\r\n" % len(hidden) + hidden + GET
    house = talk(*([data] if whole else bytewise(data)))
    assert [(scope["path"], content) for scope, content in house.seen] == [("/x", hidden), ("/x", b"")]
    assert house.wire.statuses == [200, 200]
    assert not house.wire.closed


def test_control_uvicorns_own_protocol_drops_the_body() -> None:
    data = POST + UPGRADE + b"Content-Length: 3\r\n\r\nabc"
    assert [content for _, content in talk(data, protocol=Control).seen] == [b""]


def test_many_who_ask_for_another_protocol_at_once() -> None:
    house = talk(
        *[b"GET /x HTTP/1.1\r\n" + HOST + UPGRADE + b"\r\n"] * 3,
        (b"GET / HTTP/1.1\r\n" + HOST + UPGRADE + b"\r\n") * 30,
    )
    assert house.wire.statuses == [200] * 33


# ---- bounds --------------------------------------------------------------------------------------------------------


def headers(count: int, size: int) -> bytes:
    return (
        b"GET /x HTTP/1.1\r\n"
        + HOST
        + b"".join(b"X-%04d: %s\r\n" % (n, b"v" * size) for n in range(count))
        + b"\r\n"
    )


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (headers(http1.MOST_HEADERS - 1, 10), 200),
        (headers(http1.MOST_HEADERS, 10), 400),
        (headers(3, 10_000), 200),
        (headers(4, 10_000), 400),
        (headers(1, 200_000), 400),
        (b"GET /" + b"x" * 30_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 200),
        (b"GET /" + b"x" * 33_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 400),
        (b"GET /x HTTP/1.1\r\n" + HOST + b"X" * 33_000 + b": a\r\n\r\n", 400),
        (b"\r\n" * 20_000 + GET, 400),
        (body(b"Transfer-Encoding: chunked\r\n", b"1;" + b"x" * 70_000 + b"\r\na\r\n0\r\n\r\n"), 400),
        (body(b"Transfer-Encoding: chunked\r\n", b"0\r\n" + b"X: y\r\n" * 12_000 + b"\r\n"), 400),
    ],
    ids=["lines", "a line more", "bytes", "more bytes", "one line", "target", "longer target", "name", "empty lines",
         "a chunk's extension", "trailers"],
)  # fmt: skip
def test_bounds(data: bytes, status: int) -> None:
    house = talk(*(data[place : place + 4096] for place in range(0, len(data), 4096)))
    assert house.wire.statuses == [status]
    assert house.wire.closed == (status == 400)
    assert len(house.seen) == (status == 200)


def test_a_head_that_never_ends_holds_no_more_than_the_bound() -> None:
    async def run() -> int:
        house = House()
        sent = 0
        while not house.wire.closed and sent < 1 << 20:
            await house.send(b"GET /x HTTP/1.1\r\nX: " if not sent else b"v" * 1000)
            sent += 1000
        return sent

    assert asyncio.run(run()) <= http1.MOST_HEADER_BYTES + 4000


# ---- several requests at once --------------------------------------------------------------------------------------


def numbered(count: int) -> list[bytes]:
    return [body(b"Content-Length: 2\r\n", b"%02d" % number) for number in range(count)]


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "byte by byte"])
def test_requests_that_are_sent_ahead_are_answered_in_turn(whole: bool) -> None:
    data = b"".join(numbered(20))
    house = talk(*([data] if whole else bytewise(data)))
    assert [content for _, content in house.seen] == [b"%02d" % number for number in range(20)]
    assert re.findall(rb"\r\n\r\n(\d\d)", house.wire.out) == [content for _, content in house.seen]
    assert not house.wire.paused


def waiting(run: Callable[[House], Any]) -> Any:
    """With an application that does not answer yet."""

    async def begin() -> Any:
        house = House()
        house.go_on.clear()
        return await run(house)

    return asyncio.run(begin())


def test_nothing_is_read_while_somebody_waits_behind_another() -> None:
    async def run(house: House) -> None:
        first, second, third = numbered(3)
        await house.send(first)
        assert not house.wire.paused  # it may go away
        await house.send(second)
        assert house.wire.paused
        house.go_on.set()
        await house.settle()
        assert not house.wire.paused
        await house.send(third)
        assert house.wire.statuses == [200] * 3

    waiting(run)


def test_so_many_ahead_and_no_more() -> None:
    async def run(house: House) -> None:
        await house.send(b"".join(numbered(http1.MOST_AHEAD + 2)))
        assert house.wire.out == b""
        house.go_on.set()
        await house.settle()
        assert house.wire.statuses == [200] * (http1.MOST_AHEAD + 1) + [400]
        assert house.wire.closed

    waiting(run)


@pytest.mark.parametrize("bad", [b"junk\r\n\r\n", TWICE, body(b"Transfer-Encoding: chunked\r\n", b"x\r\n")])
def test_what_is_wrong_is_said_behind_the_answers_that_are_owed(bad: bytes) -> None:
    async def run(house: House) -> None:
        first, second = numbered(2)
        await house.send(first + second + bad)
        assert house.wire.out == b""
        house.go_on.set()
        await house.settle()
        assert house.wire.statuses == [200, 200, 400]
        assert house.wire.out.count(b"00") >= 1
        assert house.wire.closed

    waiting(run)


def test_a_body_that_breaks_off_ends_its_own_request() -> None:
    house = talk(body(b"Transfer-Encoding: chunked\r\n", b"3\r\nabc\r\n"), b"x\r\n")
    assert (house.seen, house.left, house.wire.statuses) == ([], 1, [400])
    assert house.wire.closed


def test_all_who_wait_hear_that_the_client_has_gone() -> None:
    async def run(house: House) -> None:
        await house.send(b"".join(numbered(3)))
        house.wire.close()
        await house.settle()
        assert (house.left, len(house.seen)) == (1, 1)  # the others were never begun
        assert house.wire.out == b""

    waiting(run)


def test_behind_a_request_that_closes_nothing_is_read() -> None:
    house = talk(GET.replace(HOST, HOST + b"Connection: close\r\n") + GET)
    assert (len(house.seen), house.wire.statuses) == (1, [200])
    assert house.wire.closed


def test_a_client_that_waits_to_be_told_to_go_on() -> None:
    head = POST + b"Content-Length: 3\r\nExpect: 100-continue\r\n\r\n"
    house = talk(head, b"abc")
    assert house.wire.statuses == [100, 200]


# ---- time ----------------------------------------------------------------------------------------------------------


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(timeouts.time, "monotonic", lambda: self.now)

    def overdue(self, house: House, seconds: float) -> str:
        self.now += seconds
        return house.wire.protocol.overdue(self.now, house.guard.patience)


def timed(monkeypatch: pytest.MonkeyPatch, steps: Sequence[tuple[bytes, float, str]]) -> House:
    """Each: bytes that come, seconds that pass, what is overdue then."""
    clock = Clock(monkeypatch)

    async def run() -> House:
        house = House()
        for data, seconds, why in steps:
            if data:
                await house.send(data)
            assert clock.overdue(house, seconds) == why
        return house

    return asyncio.run(run())


def test_time_for_a_head(monkeypatch: pytest.MonkeyPatch) -> None:
    timed(monkeypatch, [(b"", 9, ""), (GET[:9], 2, "no request")])  # from the connection's begin
    timed(monkeypatch, [(GET, 100, ""), (GET[:9], 9, ""), (b"", 2, "no request")])  # from its first byte
    timed(monkeypatch, [(GET, 100, ""), (b"\r\n", 11, "no request")])
    timed(monkeypatch, [(GET + GET[:9], 9, ""), (b"", 2, "no request")])
    timed(monkeypatch, [(GET[:9], 9, ""), (GET[9:], 100, "")])


def test_time_for_a_body(monkeypatch: pytest.MonkeyPatch) -> None:
    head = POST + b"Content-Length: 100000\r\n\r\n"
    timed(monkeypatch, [(head, 29, ""), (b"", 2, "its body does not come")])
    timed(monkeypatch, [(head, 29, ""), (b"x" * 32768, 4, ""), (b"", 2, "its body does not come")])
    whole = body(b"Content-Length: 3\r\n", b"ab")
    timed(monkeypatch, [(whole, 29, ""), (b"c", 100, "")])


def test_whoever_is_cut_is_told_why(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        for data, statuses in (
            (b"", [408]),
            (GET + GET[:9], [200, 408]),
            (POST + b"Content-Length: 3\r\n\r\n", [408]),
        ):
            house = House()
            if data:
                await house.send(data)
            house.wire.protocol.cut()
            await house.settle()
            assert house.wire.statuses == statuses
            assert house.wire.closed

    asyncio.run(run())
