"""The one way to ask for an address that a model, a document or a user has given: safe against server-side request forgery.

The name is looked up once, and every address that it has must be public; the connection goes to one of those that were judged,
with the name kept in `Host` and in TLS, so a second answer of the name server changes nothing. Each redirect is judged anew.
Nothing of ours goes along: no cookies, credentials, proxies or settings of the environment. One clock runs over all of it, name
service, handshakes and redirects included, and bytes are counted before and behind decompression.

Whoever asked is told that it did not work, never why: the reason would be a map of the network. The log has it.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import io
import ipaddress
import queue
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, field

from hanok.errors import FetchError
from hanok.guard.targets import PORTS, IpAddress, Refused, Target, next_target, target_of, why_not_public
from hanok.reporting import log

NOT_FETCHED = "the address cannot be fetched"
Resolve = Callable[[str, int], Sequence[str]]
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_HEAD = 64 << 10  # bytes of status, headers and the framing of chunks, beside those of the body
_GZIP = 31  # zlib's window of 15 bits, and 16 for gzip's header
_HEADERS = {
    "Accept": "text/html, text/*;q=0.9, */*;q=0.5",
    "Accept-Encoding": "gzip",
    "User-Agent": "hanok",
    "Connection": "close",
}


@dataclass(frozen=True, slots=True)
class Fetched:
    """`url`: behind all redirects. `type`: as the other side has it, "text/html; charset=utf-8". `body`: decompressed, and as
    untrusted as where it comes from."""

    url: str
    status: int
    type: str
    body: bytes

    @property
    def text(self) -> str:
        """In the character set that the other side names, if it is one; what cannot be read becomes U+FFFD."""
        name = self.type.lower().partition("charset=")[2].split(";")[0].strip(" \"'") or "utf-8"
        try:
            return self.body.decode(name, "replace")
        except (LookupError, ValueError, TypeError):
            return self.body.decode("utf-8", "replace")


def look_up(host: str, port: int) -> list[str]:
    """By the system's own resolver."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


@dataclass(frozen=True, kw_only=True)
class Fetcher:
    """Args:
    hosts: that may be asked, "example.com" or "*.example.com"; any public one if there are none.
    ports: that may be asked.
    seconds: for everything. size: bytes of the body, as they come and as they are read.
    redirects: that are followed.
    resolve: names to addresses. why_not: why an address may not be connected to; empty if it may.
    tls: whose certificates are believed.
    """

    hosts: Sequence[str] = ()
    ports: Set[int] = field(default_factory=lambda: frozenset(PORTS.values()))
    seconds: float = 20.0
    size: int = 5 << 20
    redirects: int = 3
    resolve: Resolve = look_up
    why_not: Callable[[IpAddress], str] = why_not_public
    tls: ssl.SSLContext | None = None

    def fetch(self, url: str) -> Fetched:
        """Raises FetchError, which does not say why."""
        clock = _Clock(self.seconds)
        shown = "an address"
        try:
            target = target_of(url, hosts=self.hosts, ports=self.ports)
            for _ in range(self.redirects + 1):
                shown = f"{target.scheme}://{target.authority}"
                answer = self._ask(target, clock)
                if isinstance(answer, Fetched):
                    return answer
                target = next_target(target, answer, hosts=self.hosts, ports=self.ports)
            raise Refused(f"more than {self.redirects} redirects")
        except (Refused, OSError, http.client.HTTPException, zlib.error, ValueError) as error:
            log.warning("fetch of %s failed: %s", shown, str(error) or type(error).__name__)
            raise FetchError(NOT_FETCHED) from None

    async def fetch_async(self, url: str) -> Fetched:
        """The same in a thread. Raises FetchError."""
        return await asyncio.to_thread(self.fetch, url)

    def _ask(self, target: Target, clock: _Clock) -> Fetched | str:
        """An answer, or where it sends us."""
        with contextlib.closing(self._connected(target, clock)) as sock:
            connection = http.client.HTTPConnection(target.host, target.port)
            connection.sock = _Counted(sock, clock, self.size + _HEAD)  # type: ignore[assignment]
            connection.request("GET", target.path, headers={"Host": target.authority, **_HEADERS})
            with contextlib.closing(connection.getresponse()) as answer:
                location = answer.getheader("location")
                if answer.status in _REDIRECTS and location is not None:
                    return location
                return Fetched(
                    target.url, answer.status, answer.getheader("content-type", ""), self._body(answer)
                )

    def _connected(self, target: Target, clock: _Clock) -> socket.socket:
        """To the first that answers of addresses that were all judged."""
        found = [ipaddress.ip_address(one) for one in self._looked_up(target, clock)]
        for one in found:
            if reason := self.why_not(one):
                raise Refused(f"{one} is {reason}")
        failure: OSError = OSError("the name has no address")
        for one in found:
            try:
                sock = socket.create_connection((str(one), target.port), timeout=clock.left)
            except OSError as error:
                failure = error
                continue
            try:
                return self._within_tls(sock, target, clock)
            except BaseException:
                sock.close()
                raise
        raise failure

    def _within_tls(self, sock: socket.socket, target: Target, clock: _Clock) -> socket.socket:
        if target.scheme == "http":
            return sock
        sock.settimeout(clock.left)  # the handshake as a whole has so long
        return (self.tls or ssl.create_default_context()).wrap_socket(sock, server_hostname=target.host)

    def _looked_up(self, target: Target, clock: _Clock) -> Sequence[str]:
        """The system's resolver cannot be interrupted: it is left to itself when the time is up."""
        with contextlib.suppress(ValueError):
            return [str(ipaddress.ip_address(target.host))]
        answers: queue.SimpleQueue[Sequence[str] | Exception] = queue.SimpleQueue()

        def ask() -> None:
            try:
                answers.put(self.resolve(target.host, target.port))
            except Exception as error:  # told to whoever waits
                answers.put(error)

        threading.Thread(target=ask, name="hanok-resolve", daemon=True).start()
        try:
            answer = answers.get(timeout=clock.left)
        except queue.Empty:
            raise Refused("the name service does not answer") from None
        if isinstance(answer, Exception):
            raise OSError(f"the name cannot be looked up ({answer})") from answer
        return answer

    def _body(self, answer: http.client.HTTPResponse) -> bytes:
        coding = (answer.getheader("content-encoding") or "identity").strip().lower()
        if coding not in ("identity", "gzip"):
            raise Refused(f"content-encoding {coding[:40]!r}")
        unpack = zlib.decompressobj(_GZIP) if coding == "gzip" else None
        body = bytearray()
        while piece := answer.read1(1 << 16):
            body += piece if unpack is None else unpack.decompress(piece, self.size + 1 - len(body))
            if len(body) > self.size:
                raise Refused(f"more than {self.size} bytes")
        if answer.length or (unpack is not None and not unpack.eof):
            raise Refused("an answer that is cut short")
        return bytes(body)


class _Clock:
    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Raises Refused: none."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise Refused("out of time")
        return left


class _Counted:
    """As much of a socket as `http.client` uses; every read and write has the time that is left, and bytes are counted."""

    def __init__(self, sock: socket.socket, clock: _Clock, most: int) -> None:
        self._sock, self._clock, self._most = sock, clock, most

    def sendall(self, data: bytes) -> None:
        self._sock.settimeout(self._clock.left)
        self._sock.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        assert mode == "rb", mode
        return io.BufferedReader(_Raw(self._sock, self._clock, self._most))

    def close(self) -> None:
        """Who opened it closes it."""


class _Raw(io.RawIOBase):
    def __init__(self, sock: socket.socket, clock: _Clock, most: int) -> None:
        self._sock, self._clock, self._left = sock, clock, most

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        self._sock.settimeout(self._clock.left)
        count = self._sock.recv_into(buffer)
        self._left -= count
        if self._left < 0:
            raise Refused("too many bytes")
        return count
