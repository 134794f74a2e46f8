"""One connection of HTTP/1.1: in what order answers come, who hears that the client has gone, how long it may take."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from wire import GET, HOST, POST, House, body, bytewise, talk

from hanok.server.operations import http1, timeouts

TWICE = body(b"Content-Length: 3\r\nContent-Length: 4\r\n", b"abcd")


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


async def refuses(_scope: Any, _receive: Any, send: Any) -> None:
    """Answers before a body has come."""
    await send({"type": "http.response.start", "status": 401, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


async def refused(*parts: bytes) -> House:
    house = House()
    house.wire.protocol._application = refuses
    await house.send(*parts)
    return house


def test_a_body_that_breaks_off_behind_its_answer_gets_no_other() -> None:
    """Whoever reads one answer for one request would take the second for that of the next."""
    house = asyncio.run(refused(body(b"Transfer-Encoding: chunked\r\n", b"3\r\nabc\r\n"), b"x\r\n"))
    assert house.wire.statuses == [401]
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
    assert (
        house.wire.closed
    )  # had the answer come without the 100, the next bytes could be a body, or another request


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


def test_a_body_that_ends_behind_its_answer_leaves_nobody_without_a_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody who is refused holds a connection for ever."""
    clock = Clock(monkeypatch)
    half = body(b"Content-Length: 2\r\n", b"a")

    async def run() -> None:
        house = await refused(half, b"b")
        assert (house.wire.statuses, house.wire.protocol.part) == ([401], "")
        assert house.wire.protocol.timeout_keep_alive_task is not None
        await house.send(GET)
        assert (house.wire.statuses, clock.overdue(house, 100)) == ([401, 401], "")
        house = await refused(half, b"b" + GET[:9], GET[9:10])
        assert house.wire.protocol.timeout_keep_alive_task is None
        assert [clock.overdue(house, seconds) for seconds in (9, 2)] == ["", "no request"]
        house = await refused(half)
        house.wire.protocol._application = house.app
        house.go_on.clear()
        await house.send(b"b" + GET)  # nobody closes a connection that works
        assert house.wire.protocol.timeout_keep_alive_task is None
        house.go_on.set()
        await house.settle()
        assert house.wire.statuses == [401, 200]

    asyncio.run(run())


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
