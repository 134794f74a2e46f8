"""HTTP/1.1 byte by byte: what is refused, and what is bounded; beside it what uvicorn's own protocol on this parser does."""

from __future__ import annotations

import asyncio

import pytest
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from wire import GET, HOST, POST, House, body, bytewise, talk

from hanok.server.operations import http1

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
