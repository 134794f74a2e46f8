"""A server is to be made to ask for what its network alone can reach (F34). A canary listens where nobody may go: 127.0.0.2 and
::1 are the inside of the network here, and 127.0.0.1 plays the internet where a test needs one. Each attack has its control: the
check taken away, or a client without one, and the canary hears of it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import ipaddress
import logging
import socket
import time
import urllib.request
from collections.abc import Iterator, Sequence

import pytest
from odd_web import Web, page, says, sends_to, web

from hanok.errors import FetchError
from hanok.guard.fetch import NOT_FETCHED, Fetcher
from hanok.guard.targets import IpAddress, why_not_public

pytestmark = pytest.mark.faults
INTERNET, INSIDE = "127.0.0.1", "127.0.0.2"
SECRET = b"credentials of the machine"


def here_is_public(address: IpAddress) -> str:
    return "" if str(address) == INTERNET else why_not_public(address)


def unchecked(_address: IpAddress) -> str:
    """The negative control."""
    return ""


def names(**known: Sequence[str]) -> Fetcher:
    """A fetcher whose name service knows these; underscores are dots."""
    return Fetcher(resolve=lambda host, _port: known[host.replace(".", "_")], why_not=here_is_public)


def with_port(fetcher: Fetcher, port: int, **changes: object) -> Fetcher:
    return dataclasses.replace(fetcher, ports=frozenset({port}), **changes)  # type: ignore[arg-type]


@pytest.fixture
def canary() -> Iterator[Web]:
    with web(says(page(SECRET)), host="0.0.0.0") as listening:
        yield listening


def refused(fetcher: Fetcher, url: str) -> None:
    with pytest.raises(FetchError) as caught:
        fetcher.fetch(url)
    assert str(caught.value) == NOT_FETCHED  # whatever the reason is
    assert caught.value.__cause__ is None


def hosts_of_this_machine() -> list[str]:
    """Spellings under which some library finds 127.0.0.1, and names that lead there."""
    return [
        "127.0.0.1", "2130706433", "0x7f000001", "0x7f.0x0.0x0.0x1", "0177.0.0.1", "017700000001", "127.1", "127.0.1", "0",
        "0.0.0.0", "[::]", "[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[0:0:0:0:0:ffff:127.0.0.1]", "[::127.0.0.1]",
        "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "localhost", "LOCALHOST.", "①②⑦.⓪.⓪.①", "１２７.0.0.1", "127。0。0。1",
        "user@127.0.0.1", "example.com:80@127.0.0.1", "127.0.0.1%2f@example.com", "169.254.169.254", "metadata.google.internal",
        "%31%32%37.0.0.1",
    ]  # fmt: skip


@pytest.mark.parametrize("host", hosts_of_this_machine())
def test_f34_spellings(canary: Web, host: str) -> None:
    refused(with_port(Fetcher(seconds=5), canary.port), f"http://{host}:{canary.port}/latest/meta-data/")
    assert canary.connections == 0


def test_f34_spellings_do_reach_a_client_without_checks(canary: Web) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for host in ("127.0.0.1", "2130706433", "0x7f000001", "0177.0.0.1", "127.1", "0", "localhost"):
        before = canary.connections
        with opener.open(f"http://{host}:{canary.port}/", timeout=5) as answer:
            assert answer.read() == SECRET
        assert canary.connections > before, host


@pytest.mark.parametrize(
    "found",
    [
        [INSIDE],
        [INTERNET, INSIDE],
        ["::1"],
        ["::ffff:127.0.0.2"],
        ["169.254.169.254"],
        ["10.0.0.1", "8.8.8.8"],
        [],
    ],
    ids=str,
)
def test_f34_names_that_lead_inside(canary: Web, found: list[str]) -> None:
    """One address of many that is not public is enough."""
    refused(with_port(names(a_com=found), canary.port), canary.url(host="a.com"))
    assert canary.connections == 0


def test_f34_names_that_lead_inside_do_without_the_check(canary: Web) -> None:
    fetched = with_port(names(a_com=[INSIDE]), canary.port, why_not=unchecked).fetch(canary.url(host="a.com"))
    assert fetched.body == SECRET
    assert canary.connections == 1


def test_f34_rebinding() -> None:
    """A name that is public when it is judged and the inside when it is used."""
    with (
        web(says(page(b"public")), host=INTERNET) as site,
        web(says(page(SECRET)), host=INSIDE, port=site.port) as inside,
    ):
        asked: list[str] = []

        def rebinding(host: str, _port: int) -> list[str]:
            asked.append(host)
            return [INTERNET if len(asked) % 2 else INSIDE]

        fetcher = Fetcher(resolve=rebinding, why_not=here_is_public, ports=frozenset({site.port}))
        assert fetcher.fetch(site.url(host="a.com")).body == b"public"
        assert (asked, inside.connections) == (["a.com"], 0)
        # control: who judges one answer of the name service and connects to the next is led inside
        asked.clear()
        assert not here_is_public(ipaddress.ip_address(rebinding("a.com", 80)[0]))
        with socket.create_connection((rebinding("a.com", 80)[0], site.port), timeout=5):
            pass
        deadline = time.monotonic() + 10
        while not inside.connections and time.monotonic() < deadline:
            time.sleep(0.01)
        assert inside.connections == 1


@pytest.mark.parametrize(
    "where",
    ["http://{inside}:{port}/", "http://b.com:{port}/", "//{inside}:{port}/", "http://2130706434:{port}/"],
)
def test_f34_redirects(where: str) -> None:
    with web(says(page(SECRET)), host=INSIDE) as inside:
        location = where.format(inside=INSIDE, port=inside.port)
        with web(sends_to("/1", location), host=INTERNET, port=inside.port) as site:
            fetcher = with_port(names(a_com=[INTERNET], b_com=[INSIDE]), site.port)
            refused(fetcher, site.url("/0", host="a.com"))
            assert (site.connections, inside.connections) == (2, 0)
            if "2130" not in where:  # control; a number is refused by its form alone
                loose = with_port(fetcher, site.port, why_not=unchecked)
                assert loose.fetch(site.url("/0", host="a.com")).body == SECRET
                assert inside.connections == 1


@pytest.mark.parametrize(
    "location",
    ["file:///etc/passwd", "ftp://{host}/", "gopher://{host}/_x", "http://{host}:1/", "http://u:p@{host}/"],
)
def test_f34_redirects_to_other_schemes_and_ports(location: str) -> None:
    with web(sends_to(location.format(host="a.com")), host=INTERNET) as site:
        refused(with_port(names(a_com=[INTERNET]), site.port), site.url("/0", host="a.com"))
        assert site.connections == 1


def test_f34_a_chain_without_end() -> None:
    with web(
        lambda _head, sock: sock.sendall(page(b"", "Location: /", status="301 Moved")), host=INTERNET
    ) as site:
        refused(with_port(names(a_com=[INTERNET]), site.port), site.url(host="a.com"))
        assert site.connections == 4


def endless(_head: str, sock: socket.socket) -> None:
    sock.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    with contextlib.suppress(OSError):
        while True:
            sock.sendall(bytes(1 << 16))


def endless_head(_head: str, sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)


def drip(sock: socket.socket, answer: bytes, pause: float) -> None:
    with contextlib.suppress(OSError):
        for byte in answer:
            sock.sendall(bytes([byte]))
            time.sleep(pause)


BOMB = gzip.compress(bytes(40 << 20), 9)
HUGE = {
    "a body without end": endless,
    "a head without end": endless_head,
    "a body that is announced": says(
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n" + bytes(2 << 20)
    ),
    "a chunk that is announced": says(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffff\r\n" + bytes(2 << 20)
    ),
    "40 MiB in 40 KiB": says(page(BOMB, "Content-Encoding: gzip")),
    "two codings": says(page(gzip.compress(BOMB), "Content-Encoding: gzip, gzip")),
    "a coding that we do not have": says(page(b"x", "Content-Encoding: br")),
    "cut short": says(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab"),
    "no HTTP": says(b"220 mail.example.com ESMTP\r\n"),
    "drip by drip": lambda _head, sock: drip(sock, page(bytes(1000)), 0.1),
}


@pytest.mark.parametrize("what", HUGE)
def test_f34_size_and_time(what: str) -> None:
    with web(HUGE[what], host=INTERNET) as site:
        began = time.monotonic()
        refused(
            with_port(names(a_com=[INTERNET]), site.port, size=1 << 20, seconds=2.0), site.url(host="a.com")
        )
        assert time.monotonic() - began < 30  # two seconds, on a busy machine


def test_f34_size_and_time_with_room() -> None:
    """The control: what is refused above is an answer like any other, only large or slow."""
    with web(HUGE["40 MiB in 40 KiB"], host=INTERNET) as site:
        roomy = with_port(names(a_com=[INTERNET]), site.port, size=64 << 20, seconds=300.0)
        assert len(roomy.fetch(site.url(host="a.com")).body) == 40 << 20
    with web(lambda _head, sock: drip(sock, page(b"slow"), 0.05), host=INTERNET) as site:
        roomy = with_port(names(a_com=[INTERNET]), site.port, seconds=300.0)
        assert roomy.fetch(site.url(host="a.com")).body == b"slow"
        refused(with_port(roomy, site.port, seconds=0.5), site.url(host="a.com"))


def test_f34_a_name_service_that_hangs() -> None:
    def hangs(_host: str, _port: int) -> list[str]:
        time.sleep(5)
        return [INTERNET]

    began = time.monotonic()
    refused(Fetcher(resolve=hangs, seconds=0.3), "http://a.com/")
    assert time.monotonic() - began < 4.5


def test_f34_the_log_has_the_reason_and_the_client_has_not(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        refused(names(a_com=["10.1.2.3"]), "http://a.com/token?key=s3cret")
    assert "10.1.2.3 is not a public address" in caplog.text
    assert "http://a.com" in caplog.text
    assert "s3cret" not in caplog.text
